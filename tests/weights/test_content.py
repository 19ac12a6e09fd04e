"""What tells weights from others is what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import small_world
from weight_folders import change_a_value, write_compact

import worldplay_env
from worldplay_env.weights import checkpoint
from worldplay_env.weights.checkpoint import CheckpointError


@pytest.mark.parametrize("part", ["transformer", "autoencoder", "text_encoder"])
def test_a_folder_whose_weights_changed_is_loaded_anew(tmp_path: Path, part: str) -> None:
    write_compact(tmp_path)
    before = worldplay_env.load(tmp_path)
    change_a_value(tmp_path / f"{part}.safetensors")
    after = worldplay_env.load(tmp_path)
    assert after is not before
    assert after.weights_hash != before.weights_hash
    assert after.weights != before.weights
    change_a_value(tmp_path / f"{part}.safetensors")
    assert worldplay_env.load(tmp_path) is before


def test_a_folder_whose_sizes_changed_is_another_world_with_random_weights_too(tmp_path: Path) -> None:
    write_compact(tmp_path)
    before = worldplay_env.load(tmp_path, weights="random")
    change_a_value(tmp_path / "transformer.safetensors")
    assert worldplay_env.load(tmp_path, weights="random") is before
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"image_size": [64, 64]}))
    assert worldplay_env.load(tmp_path, weights="random").image_size == (64, 64)


def test_weights_are_known_by_their_content_not_by_names_or_dtype(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_compact(tmp_path / name)
    known_as = worldplay_env.load(tmp_path / "one").weights_hash
    assert known_as is not None
    assert len(known_as) == 64
    assert worldplay_env.load(tmp_path / "other", dtype="bfloat16").weights_hash == known_as
    assert worldplay_env.load("testcard").weights_hash is worldplay_env.load("scene").weights_hash is None


def test_worlds_made_of_networks_are_known_by_their_parameters() -> None:
    world, low = small_world(), small_world(torch.bfloat16)
    known_as = world.weights_hash
    assert known_as == low.weights_hash == small_world().weights_hash
    with torch.no_grad():
        world.transformer.output_projection.bias.add_(1)
    assert world.weights_hash != known_as


def test_weights_that_change_while_they_are_read_are_no_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_compact(tmp_path)
    load_autoencoder = checkpoint.load_autoencoder

    def slowly(*arguments: Any, **options: Any) -> Any:
        change_a_value(tmp_path / "transformer.safetensors")
        return load_autoencoder(*arguments, **options)

    monkeypatch.setattr(checkpoint, "load_autoencoder", slowly)
    with pytest.raises(CheckpointError, match="changed while they were read"):
        worldplay_env.load(tmp_path)


def test_a_text_encoder_that_changed_since_is_not_read_into_the_old_world(tmp_path: Path) -> None:
    write_compact(tmp_path)
    world = worldplay_env.load(tmp_path)
    rollout = world.start(worldplay_env.Start(prompt="a place"), 0)
    world.release()  # type: ignore[attr-defined]
    change_a_value(tmp_path / "text_encoder.safetensors")
    rollout.set_prompt("a place")  # which is known
    with pytest.raises(CheckpointError, match=r"text_encoder\.safetensors: changed since the world was loaded"):
        rollout.set_prompt("another")
    change_a_value(tmp_path / "text_encoder.safetensors")
    rollout.set_prompt("another")
