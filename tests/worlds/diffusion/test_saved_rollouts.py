"""A saved rollout is read only if all that it holds is of this world and fits together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_world import begin, small_world
from torch import Tensor

from worldplay_env.worlds.base import Control, Start, World
from worldplay_env.worlds.diffusion.world import DiffusionWorld
from worldplay_env.worlds.scene.world import SceneWorld
from worldplay_env.worlds.testcard import Testcard

Facts = dict[str, Any]
Change = Callable[[Facts, dict[str, Tensor]], None]


@pytest.fixture(scope="module")
def world() -> DiffusionWorld:
    return small_world()


@pytest.fixture(scope="module")
def saved(world: DiffusionWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a rollout of two chunks, the first of which was decoded."""
    path = tmp_path_factory.mktemp("saved") / "rollout.safetensors"
    rollout = begin(world, 3)
    control = Control(np.tile(np.eye(4), (4, 1, 1)), np.zeros(4, np.int64))
    world.step([rollout], [control])
    world.step([rollout], [control], decode=False)
    rollout.save(path)
    return path


def changed(saved: Path, out: Path, change: Change) -> Path:
    """Write a copy of a saved rollout with other facts or tensors."""
    with safe_open(saved, framework="pt") as file:
        facts = json.loads(file.metadata()["rollout"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    change(facts, tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out, {"rollout": json.dumps(facts)})
    return out


def fact(name: str, value: object) -> Change:
    return lambda facts, tensors: facts.update({name: value})


def tensor(name: str, value: Callable[[Tensor], Tensor] | None) -> Change:
    def change(facts: Facts, tensors: dict[str, Tensor]) -> None:
        old = tensors.pop(name)
        if value is not None:
            tensors[name] = value(old)

    return change


def without_decoder(facts: Facts, tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("decoder.")]:
        del tensors[name]


def without_past(facts: Facts, tensors: dict[str, Tensor]) -> None:
    for name in ("latents", "poses", "labels", "intrinsics"):
        del tensors[name]


def broken(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = torch.nan
    return tensor


def test_what_was_saved_is_read(world: DiffusionWorld, saved: Path, tmp_path: Path) -> None:
    loaded = world.load_rollout(changed(saved, tmp_path / "a", lambda facts, tensors: None))
    assert (loaded.chunks, loaded.decoded, loaded.seed) == (2, 1, 3)
    earlier = world.load_rollout(changed(saved, tmp_path / "b", lambda facts, tensors: facts.pop("weights_hash")))
    assert earlier.chunks == 2


@pytest.mark.parametrize(("change", "complaint"), [
    (fact("seed", None), "a seed is a whole number"),
    (fact("seed", True), "a seed is a whole number"),
    (fact("seed", -1), "a seed is a whole number"),
    (fact("prompt", 3), "the prompt must be a string"),
    (fact("has_image", 1), "has_image is 1"),
    (fact("decoded", 3), "decoded is 3, not a number of its 2 chunks"),
    (fact("decoded", -1), "decoded is -1"),
    (fact("decoded", 10**9), "decoded is 1000000000"),
    (fact("decoded", True), "decoded is True"),
    (fact("decoded", 2), "its decoder has seen"),
    (fact("decoded", 0), "0 of its chunks were decoded, and it holds a decoder state"),
    (fact("weights_hash", "0" * 64), "hash 000000.*not of small"),
    (without_decoder, "1 of its chunks were decoded, and it holds no decoder state"),
    (without_past, "decoded is 1, not a number of its 0 chunks"),
    (tensor("latents", None), "it holds intrinsics, labels, poses"),
    (tensor("latents", broken), "latents holds numbers that are not finite"),
    (tensor("latents", lambda old: old[:1]), r"poses is .*\(2, 4, 4, 4\), not .*\(1, 4, 4, 4\)"),
    (tensor("latents", lambda old: old.half()), "latents is torch.float16"),
    (tensor("latents", lambda old: old[:0]), "its past has no chunk"),
    (tensor("poses", broken), "poses holds numbers that are not finite"),
    (tensor("poses", lambda old: 2 * old), "must end in the row"),
    (tensor("labels", lambda old: old + 81), "action labels are 0..80"),
    (tensor("picture", lambda old: old[1:]), "picture is torch.uint8"),
    (tensor("start_latent", broken), "start_latent holds"),
    (tensor("start_pose", lambda old: torch.zeros_like(old)), "the start's pose must end"),
    (tensor("prompt_embedding", lambda old: old[:, 1:]), "prompt_embedding is"),
    (tensor("decoder.history.0", None), "not a decoder state"),
    (tensor("decoder.history.0", lambda old: old[..., 1:]), "one of another decoder"),
    (lambda facts, tensors: tensors.update(more=torch.zeros(1)), "it holds .*more"),
])  # fmt: skip
def test_parts_that_do_not_fit_are_refused(
    world: DiffusionWorld, saved: Path, tmp_path: Path, change: Change, complaint: str
) -> None:
    path = changed(saved, tmp_path / "changed.safetensors", change)
    with pytest.raises(ValueError, match=rf"(?s)no rollout saved in this world: .*{complaint}"):
        world.load_rollout(path)


def test_a_rollout_of_another_model_of_the_same_sizes_is_refused(world: DiffusionWorld, saved: Path) -> None:
    other = small_world()
    assert other.weights_hash == world.weights_hash
    with torch.no_grad():
        other.transformer.output_projection.bias += 1
    with pytest.raises(ValueError, match="no rollout saved in this world: it is of small"):
        other.load_rollout(saved)


@pytest.mark.parametrize(
    "world_of", [small_world, lambda: Testcard(image_size=(48, 64)), lambda: SceneWorld((24, 40), device="cpu")]
)
def test_a_pipe_and_a_deep_header_are_refused(world_of: Callable[[], World], tmp_path: Path) -> None:
    world = world_of()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        world.load_rollout(tmp_path / "pipe")


@pytest.mark.parametrize(("change", "complaint"), [
    ({"seed": "-1"}, "lacks a prompt"),
    ({"seed": "True"}, "lacks a prompt"),
    ({"chunks": "many"}, "lacks a prompt"),
    ({"pose": np.full((4, 4), np.nan)}, "not finite: pose"),
    ({"pose": np.zeros((4, 4))}, "must end in the row"),
    ({"pose": np.eye(4, dtype=np.float32)}, "'pose': 'float32'"),
    ({"card": np.zeros((4, 4, 3), np.uint8)}, "a card of shape"),
    ({"picture": np.zeros((48, 64, 4), np.uint8)}, "holds no picture"),
    ({"more": np.zeros(1)}, "'more'"),
])  # fmt: skip
def test_a_test_pictures_rollout_is_checked_too(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    world = Testcard(image_size=(48, 64))
    world.start(Start(), 5).save(tmp_path / "a")
    with safe_open(tmp_path / "a", framework="numpy") as file:
        metadata = file.metadata()
    arrays = load_file(tmp_path / "a")
    for name, value in change.items():
        (metadata if isinstance(value, str) else arrays)[name] = value
    save_file(arrays, tmp_path / "b", metadata)
    with pytest.raises(ValueError, match=complaint):
        world.load_rollout(tmp_path / "b")
