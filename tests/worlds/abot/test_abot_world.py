"""ABot-World as a world: its layout, batches, forks, references, errors and saved rollouts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldplay_env
from worldplay_env.control.layout import ChunkLayout
from worldplay_env.models.abot.config import ABOT_5B, ABOT_SMALL, REFERENCES
from worldplay_env.models.abot.footprint import footprint
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.transforms import CompileNetworks
from worldplay_env.testing import check_world
from worldplay_env.weights.checkpoint import on_meta
from worldplay_env.worlds import registry
from worldplay_env.worlds.abot.rollout import AbotRollout
from worldplay_env.worlds.abot.world import AbotWorld
from worldplay_env.worlds.base import Chunk, Control, Start, WorldError
from worldplay_env.worlds.diffusion import room
from worldplay_env.worlds.diffusion.room import OutOfMemoryError
from worldplay_env.worlds.follow import next_control

W, W_RIGHT, LEFT = 9, 10, 2
GENERATOR = np.random.default_rng(0)
PICTURE = GENERATOR.integers(0, 256, (40, 50, 3), dtype=np.uint8)
PICTURES = tuple(GENERATOR.integers(0, 256, (30 + slot, 20, 3), dtype=np.uint8) for slot in range(5))


@pytest.fixture(scope="module")
def world() -> AbotWorld:
    world = worldplay_env.load("abot-small", weights="random", device="cpu")
    assert isinstance(world, AbotWorld)
    return world


def begin(world: AbotWorld, seed: int = 0, *, chunks: int = 0, references: bool = False) -> AbotRollout:
    """Return a rollout with some chunks of one path behind it."""
    rollout = world.start(Start(PICTURE, "a place", references=PICTURES if references else ()), seed)
    assert isinstance(rollout, AbotRollout)
    for number in range(chunks):
        step(world, rollout, (W, W_RIGHT, LEFT)[number % 3])
    return rollout


def step(world: AbotWorld, rollout: AbotRollout, label: int | list[int] = W) -> Chunk:
    [chunk] = world.step([rollout], [next_control(rollout, label)])
    return chunk


def error(made: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    """Return the relative L2 distance of two tensors."""
    assert made is not None
    assert expected is not None
    return float(torch.linalg.norm(made - expected) / torch.linalg.norm(expected))


def test_it_holds_the_contract_of_worlds(world: AbotWorld) -> None:
    check_world(world)
    check_world(world, Start(PICTURE, "a place", references=PICTURES), seed=1)
    check_world(world, Start(None, "no picture"), seed=2)


def test_it_holds_with_the_full_decoder_too() -> None:
    check_world(worldplay_env.load("abot-small", weights="random", device="cpu", decoder="full"))


def test_a_chunk_is_three_latent_frames_and_twelve_images(world: AbotWorld) -> None:
    assert world.layout == ChunkLayout(latents=3, images=4, first_images=9, memory=6)
    assert world.fps == 12
    spec = registry.describe("abot-5b")
    assert (spec.layout, spec.fps) == (ChunkLayout(latents=3, images=4, first_images=9, memory=18), 12)
    assert (spec.latent_shape, spec.references) == ((48, 3, 44, 80), REFERENCES)


def test_the_memory_is_the_window(world: AbotWorld) -> None:
    rollout = begin(world)
    seen = [step(world, rollout).memory.tolist() for _ in range(4)]
    assert seen == [[], [0, 1, 2], [0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]


@pytest.mark.parametrize("references", [False, True])
def test_a_batch_of_mixed_ages_is_what_each_is_alone(world: AbotWorld, references: bool) -> None:
    ages = (0, 1, 2, 3, 5, 0)
    rollouts = [begin(world, age, chunks=age, references=references and age % 2 == 0) for age in ages]
    alone = [rollout.fork() for rollout in rollouts]
    for label in (W_RIGHT, LEFT):
        chunks = world.step(rollouts, [next_control(rollout, label) for rollout in rollouts])
        for chunk, rollout in zip(chunks, alone, strict=True):
            expected = step(world, rollout, label)
            assert error(chunk.latents, expected.latents) < 1e-4
            assert error(chunk.frames.float(), expected.frames.float()) < 1e-3


def test_ages_go_through_in_two_passes(world: AbotWorld) -> None:
    rollouts = [begin(world, age, chunks=age) for age in (0, 1, 3, 0)]
    calls: list[int] = []
    hook = world.transformer.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        world.step(rollouts, [next_control(rollout, W) for rollout in rollouts], decode=False)
    finally:
        hook.remove()
    assert calls == [2] * 10  # four steps and the call that is kept, for each of two groups of two


def test_a_fork_shares_every_page_until_it_is_stepped(world: AbotWorld) -> None:
    rollout = begin(world, chunks=3)
    fork, before = rollout.fork(seed=5), rollout.window
    assert fork.window is before
    made, expected = step(world, fork), step(world, rollout.fork())
    assert not torch.equal(made.latents, expected.latents)  # other noise
    assert rollout.window is before
    assert fork.window.pages[:6] == before.pages[3:]
    assert fork.window.references is before.references


def test_keys_change_the_video_and_hold_for_the_start_too(world: AbotWorld) -> None:
    rollout = begin(world)
    still, moved = (step(world, rollout.fork(), label) for label in (0, W))
    assert error(moved.latents, still.latents) > 0.01
    control = next_control(rollout, W)
    assert control.labels.tolist() == [0, W, W]
    keys = np.repeat([[1, 0, 0, 0, 0, 0, 0, 0]], 3, axis=0)
    [told] = world.step([rollout.fork()], [Control(control.poses, control.labels, keys=keys)])
    assert torch.equal(told.latents, moved.latents)


def test_keys_may_change_within_a_chunk(world: AbotWorld) -> None:
    rollout = begin(world, chunks=1)
    held, changed = (step(world, rollout.fork(), labels) for labels in ([W, W, W], [W, W, LEFT]))
    assert error(changed.latents, held.latents) > 1e-3


def test_references_are_seen_from_the_first_chunk_on(world: AbotWorld) -> None:
    with_them, without = begin(world, references=True), begin(world)
    assert with_them.references.shape == (5, 6, 4, 4)
    assert without.references is None
    for _ in range(4):  # the first chunk leaves the window
        assert error(step(world, with_them).latents, step(world, without).latents) > 1e-3


def test_references_are_five_or_none(world: AbotWorld) -> None:
    with pytest.raises(ValueError, match="got 2 reference pictures, and this world takes 5: head, left, right"):
        world.start(Start(PICTURE, references=PICTURES[:2]), 0)
    with pytest.raises(ValueError, match="a reference picture must be a uint8 array"):
        Start(PICTURE, references=(PICTURE.astype(np.float32),))


def test_a_new_prompt_counts_from_the_next_chunk_on(world: AbotWorld) -> None:
    rollout = begin(world, chunks=1)
    changed = rollout.fork()
    changed.set_prompt("night falls")
    window = changed.window
    assert error(step(world, changed).latents, step(world, rollout.fork()).latents) > 1e-3
    assert changed.window.pages[:3] == window.pages  # old frames keep the keys of the old prompt


def test_what_goes_wrong_leaves_every_rollout_as_it_was(world: AbotWorld) -> None:
    rollouts = [begin(world, age, chunks=age) for age in (0, 2)]
    expected = [step(world, rollout.fork()) for rollout in rollouts]
    windows = [rollout.window for rollout in rollouts]
    noise = torch.zeros(2, *world.latent_shape)
    noise[1, 0, 0, 0, 0] = float("nan")
    controls = [next_control(rollout, W) for rollout in rollouts]
    with pytest.raises(WorldError, match="not finite"):
        world.step(rollouts, controls, noise=noise)
    with exhausted(world), pytest.raises(OutOfMemoryError, match="no rollout was changed"):
        world.step(rollouts, controls)
    assert [rollout.window for rollout in rollouts] == windows
    for rollout, chunk in zip(rollouts, expected, strict=True):
        assert torch.equal(step(world, rollout).latents, chunk.latents)


class exhausted:  # noqa: N801 (a context manager)
    """Calls of the transformer find no memory, from the last one of a step of two passes on."""

    def __init__(self, world: AbotWorld) -> None:
        self._transformer, self._calls = world.transformer, 0

    def _call(self, *_: object) -> None:
        self._calls += 1
        if self._calls >= 10:
            raise torch.OutOfMemoryError("no memory")

    def __enter__(self) -> None:
        self._hook = self._transformer.register_forward_pre_hook(self._call)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.mark.parametrize("chunks", [0, 1, 5])
@pytest.mark.parametrize("references", [False, True])
def test_a_saved_rollout_goes_on_bit_for_bit(world: AbotWorld, tmp_path: Path, chunks: int, references: bool) -> None:
    rollout = begin(world, 3, chunks=chunks, references=references)
    if chunks:
        world.step([rollout], [next_control(rollout, LEFT)], decode=False)
    rollout.save(tmp_path / "rollout.safetensors")
    loaded = world.load_rollout(tmp_path / "rollout.safetensors")
    assert (loaded.chunks, loaded.decoded, len(loaded.undecoded)) == (rollout.chunks, chunks, bool(chunks))
    for label in (W, LEFT):
        made, expected = step(world, loaded, label), step(world, rollout, label)
        assert torch.equal(made.frames, expected.frames)
        assert torch.equal(made.latents, expected.latents)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("page.0.keys", lambda keys: keys[:, :, 1:], "page.0.keys is torch.float32"),
        ("page.1.values", lambda values: values / 0, "page.1.values holds numbers that are not finite"),
        ("page.references.keys", None, "page.references.keys"),
        ("pose", lambda pose: pose * 2, "pose"),
        ("undecoded", lambda latents: latents[:0], "0 chunks that were not decoded"),
        ("page.9.keys", lambda _: torch.zeros(1), "it holds page.9.keys"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(
    world: AbotWorld, tmp_path: Path, name: str, change: object, message: str
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    rollout = begin(world, chunks=2)
    world.step([rollout], [next_control(rollout, W)], decode=False)
    path = tmp_path / "rollout.safetensors"
    rollout.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name)).contiguous()  # type: ignore[operator]
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=f"is no rollout saved in this world: .*{re.escape(message)}"):
        world.load_rollout(path)


def test_what_will_not_fit_is_refused_before_anything_is_made(
    world: AbotWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = [begin(world, age, chunks=age) for age in (0, 1, 2)]
    windows = [rollout.window for rollout in rollouts]
    controls = [next_control(rollout, W) for rollout in rollouts]
    world.release()  # so that there are no buffers yet
    certain = world.needed(2, 0, 3).certain
    calls: list[object] = []
    hook = world.transformer.register_forward_pre_hook(lambda *_: calls.append(_))
    try:
        monkeypatch.setattr(room, "free_bytes", lambda _: certain - 1)
        with pytest.raises(OutOfMemoryError, match=r"the next chunk of 3 rollouts takes 0\.0 GB"):
            world.step(rollouts, controls)
        assert not calls
        monkeypatch.setattr(room, "free_bytes", lambda _: certain)
        world.step([rollout.fork() for rollout in rollouts], controls)
    finally:
        hook.remove()
    assert [rollout.window for rollout in rollouts] == windows


def test_the_bytes_are_those_of_the_pages(world: AbotWorld) -> None:
    counted = world.footprint
    rollout = begin(world, chunks=3)
    assert rollout.window.nbytes == counted.window
    assert sum(page.nbytes for page in rollout.window.pages[-3:]) == counted.block
    needed = world.needed(2, 1, 3)
    assert needed.certain == 3 * counted.block + counted.buffer
    codec = on_meta(lambda: Autoencoder(ABOT_5B.autoencoder))
    real = footprint(ABOT_5B, codec, 3, 2)
    assert (round(real.window / 1e9, 1), round(real.block / 1e9, 1)) == (7.3, 1.0)  # as the docstring says


@pytest.mark.parametrize(
    ("options", "limit"), [({"transforms": (CompileNetworks("eager"),)}, 1e-5), ({"quantize": "fp8"}, 0.2)]
)
def test_compiled_or_in_8_bits_it_makes_nearly_the_same(
    world: AbotWorld, options: dict[str, Any], limit: float
) -> None:
    other = worldplay_env.load("abot-small", weights="random", device="cpu", **options)
    assert isinstance(other, AbotWorld)
    made, expected = (step(one, begin(one, chunks=1)) for one in (other, world))
    assert error(made.latents, expected.latents) < limit


def test_without_reference_slots_it_is_a_third_kind_of_world(world: AbotWorld) -> None:
    config = replace(world.config, window=replace(world.config.window, reference_slots=0))
    bare = AbotWorld(config, world.transformer, world.codec, world.text_encoder)
    assert bare.references == ()
    check_world(bare)
    rollout = begin(bare, chunks=2)
    assert rollout.window.references is None
    assert rollout.window.nbytes == 2 * bare.footprint.block
    assert error(step(bare, rollout).latents, step(world, begin(world, chunks=2)).latents) > 1e-3
    with pytest.raises(ValueError, match="this world takes none"):
        begin(bare, references=True)


def test_release_gives_back_buffers_and_the_rollout_goes_on(world: AbotWorld) -> None:
    rollout = begin(world, chunks=2)
    expected = step(world, rollout.fork())
    world.release()
    assert torch.equal(step(world, rollout).latents, expected.latents)


def test_without_weights_of_its_own_random_ones_must_be_asked_for() -> None:
    with pytest.raises(ValueError, match='weights="random"'):
        worldplay_env.load("abot-small", device="cpu")
    assert ABOT_SMALL.name in registry.world_names()
