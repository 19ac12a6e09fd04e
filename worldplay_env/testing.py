"""A check of worlds against the contract of `worldplay_env.World`, after Gymnasium's `check_env`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldplay_env.control.actions import NUM_ACTIONS
from worldplay_env.worlds.base import Chunk, Control, Rollout, Start, World
from worldplay_env.worlds.follow import next_control

TOLERANCE = 3
"""Grey levels by which a batch or a stream may differ from a single step."""


def check_world(world: World, start: Start | None = None, seed: int = 0) -> None:
    """Make a few chunks in a world, and check that it holds what `World` and `Rollout` ask of it.

    Checked are shapes and dtypes by the world's spec, equal seeds, forks, other prompts, decoding a part, streams,
    batches of rollouts of different ages, refused arguments, and saved rollouts.

    Args:
        world: Any world; its rollouts are begun here.
        start: By default a picture of noise and a short prompt.
        seed: Of the rollouts and their paths.

    Raises:
        AssertionError: Something does not hold; the message says what.
    """
    assert isinstance(world, World), f"a world is a subclass of worldplay_env.World, got {type(world).__name__}"
    generator = np.random.default_rng(seed)
    if start is None:
        picture = generator.integers(0, 256, (*world.image_size, 3), dtype=np.uint8)
        start = Start(picture, "a place")
    paths = generator.integers(0, NUM_ACTIONS, (3, world.layout.latents))
    assert copy.deepcopy(world) is world, "a copy of a world is the world itself"
    _check_spec(world)
    rollout = world.start(start, seed)
    _check_begun(world, rollout, start, seed)
    chunks = [_check_step(world, rollout, labels) for labels in paths]
    again = world.start(start, seed)
    for labels, chunk in zip(paths, chunks, strict=True):
        _equal(world.step([again], [next_control(again, labels)])[0], chunk, 0, "a rollout of equal seed and actions")
    _check_forks(world, rollout, paths[0])
    _check_streams(world, start, seed, paths, chunks)
    _check_batches(world, start, seed, paths, chunks)
    _check_refusals(world, rollout, paths[0])
    _check_saved(world, rollout, paths[0])


def _check_spec(world: World) -> None:
    height, width = world.image_size
    assert height > 0 and width > 0, f"image_size is a height and a width, got {world.image_size}"  # noqa: PT018
    assert world.fps > 0, f"fps is a positive number, got {world.fps}"
    assert world.spec.layout == world.layout, "the spec has the world's layout"
    if world.latent_shape is not None:
        assert world.latent_shape[1] == world.layout.latents, "latent_shape has the layout's number of latent frames"
    assert world.has_model or world.weights == "none", "a world without a model has no weights"


def _check_begun(world: World, rollout: Rollout, start: Start, seed: int) -> None:
    assert isinstance(rollout, Rollout), f"start() returns a Rollout, got {type(rollout).__name__}"
    assert rollout.world is world, "rollout.world is the world that began it"
    assert (rollout.seed, rollout.prompt, rollout.chunks) == (seed, start.prompt, 0), (
        "a rollout begins as it was asked"
    )
    assert np.array_equal(rollout.pose, start.pose), "a rollout begins at the start's pose"
    assert rollout.picture.shape == (*world.image_size, 3), "picture is [height, width, 3] of the world's size"
    assert rollout.picture.dtype == np.uint8, "picture is uint8"
    latent = rollout.start_latent
    assert (latent is None) == (world.latent_shape is None), "start_latent is None in worlds without latents alone"
    if latent is not None and world.latent_shape is not None:
        channels, _, *grid = world.latent_shape
        assert tuple(latent.shape) == (channels, 1, *grid), "start_latent is one latent frame"


def _check_step(world: World, rollout: Rollout, labels: np.ndarray) -> Chunk:
    """Step a rollout, check its chunk, and return it."""
    number, layout = rollout.chunks, world.layout
    [chunk] = world.step([rollout], [next_control(rollout, labels)])
    assert rollout.chunks == number + 1, "a step adds a chunk"
    assert chunk.frames is not None, "a step decodes unless it is told not to"
    assert tuple(chunk.frames.shape) == (layout.images_of(number), *world.image_size, 3), (
        f"chunk {number} has {layout.images_of(number)} frames of the world's size, got {tuple(chunk.frames.shape)}"
    )
    assert chunk.frames.dtype == torch.uint8, "frames are uint8"
    shape = None if chunk.latents is None else tuple(chunk.latents.shape)
    assert shape == world.latent_shape, f"latents have the shape {world.latent_shape}, got {shape}"
    assert chunk.poses.shape == (layout.latents, 4, 4), "a chunk has a pose for each latent frame"
    assert np.array_equal(chunk.poses[-1], rollout.pose), "rollout.pose is the chunk's last pose"
    past = number * layout.latents
    assert len(chunk.memory) <= min(past, layout.memory), "memory is no longer than the past and the layout allow"
    assert all(0 <= index < past for index in chunk.memory), "memory holds past latent frames alone"
    return chunk


def _check_forks(world: World, rollout: Rollout, labels: np.ndarray) -> None:
    chunks, pose = rollout.chunks, rollout.pose
    first, second, newest = rollout.fork(), rollout.fork(), rollout.fork()
    whole = _check_step(world, first, labels)
    assert rollout.chunks == chunks, "stepping a fork leaves the original"
    assert np.array_equal(rollout.pose, pose), "stepping a fork leaves the original"
    [without] = world.step([second], [next_control(second, labels)], decode=False)
    assert without.frames is None, "decode=False makes no frames"
    _equal(_check_step(world, second, labels), _check_step(world, first, labels), TOLERANCE, "a skipped decoding")
    [last] = world.step([newest], [next_control(newest, labels)], decode="newest")
    assert last.frames is not None, 'decode="newest" makes a frame'
    assert len(last.frames) == 1, 'decode="newest" makes one frame'
    assert whole.frames is not None
    _near(last.frames, whole.frames[-1:], TOLERANCE, 'decode="newest"')
    assert rollout.fork(seed=rollout.seed + 1).seed == rollout.seed + 1, "fork(seed) has the seed"
    other = rollout.fork()
    other.set_prompt("another place")
    assert (other.prompt, rollout.prompt != "another place") == ("another place", True), "set_prompt changes one fork"


def _check_streams(world: World, start: Start, seed: int, paths: np.ndarray, chunks: Sequence[Chunk]) -> None:
    rollout = world.start(start, seed)
    for number, (labels, chunk) in enumerate(zip(paths, chunks, strict=True)):
        broken_off = world.stream(rollout, next_control(rollout, labels))
        next(broken_off)
        broken_off.close()
        assert rollout.chunks == number, "a stream that is broken off leaves the rollout"
        stream, parts = world.stream(rollout, next_control(rollout, labels)), []
        while True:
            try:
                parts.append(next(stream))
            except StopIteration as end:
                made = end.value
                break
        sizes = [len(part) for part in parts]
        assert sizes == world.layout.images_by_latent(number), f"a stream yields latent frames' images, got {sizes}"
        assert isinstance(made, Chunk), "a stream returns its chunk"
        _equal(made, chunk, TOLERANCE, "a stream")
        assert rollout.chunks == number + 1, "a finished stream adds a chunk"


def _check_batches(world: World, start: Start, seed: int, paths: np.ndarray, chunks: Sequence[Chunk]) -> None:
    """Step rollouts of different ages together."""
    rollouts = [world.start(start, seed) for _ in paths]
    for age, rollout in enumerate(rollouts):
        for labels in paths[:age]:
            world.step([rollout], [next_control(rollout, labels)])
    controls = [next_control(rollout, labels) for rollout, labels in zip(rollouts, paths, strict=True)]
    for made, chunk in zip(world.step(rollouts, controls), chunks, strict=True):
        _equal(made, chunk, TOLERANCE, "a batch of different ages")
    assert world.step([], []) == [], "a step of no rollouts makes no chunks"


def _check_refusals(world: World, rollout: Rollout, labels: np.ndarray) -> None:
    control, chunks = next_control(rollout, labels), rollout.chunks
    count = world.layout.latents + 1
    longer = Control(np.repeat(control.poses[-1:], count, axis=0), np.zeros(count, np.int64))
    wrong: dict[str, tuple[list[Any], list[Any]]] = {
        "a rollout that is given twice": ([rollout, rollout], [control, control]),
        "a rollout without a control": ([rollout], []),
        "a control of another length": ([rollout], [longer]),
        "a rollout of another world": ([object()], [control]),
    }
    for what, (rollouts, controls) in wrong.items():
        try:
            world.step(rollouts, controls)
        except ValueError:
            assert rollout.chunks == chunks, f"{what} leaves the rollout"
        else:
            raise AssertionError(f"{what} must raise ValueError: call worldplay_env.worlds.base.check_step in step()")


def _check_saved(world: World, rollout: Rollout, labels: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollout.safetensors"
        rollout.save(path)
        loaded = world.load_rollout(path)
    kept = (rollout.seed, rollout.prompt, rollout.chunks)
    assert (loaded.seed, loaded.prompt, loaded.chunks) == kept, "a saved rollout has its seed, prompt and chunks"
    _equal(_check_step(world, loaded, labels), _check_step(world, rollout.fork(), labels), 0, "a saved rollout")


def _equal(made: Chunk, expected: Chunk, levels: int, what: str) -> None:
    assert np.array_equal(made.poses, expected.poses), f"{what} has other poses"
    assert np.array_equal(made.memory, expected.memory), f"{what} has another memory"
    assert made.frames is not None
    assert expected.frames is not None
    _near(made.frames, expected.frames, levels, what)


def _near(made: torch.Tensor, expected: torch.Tensor, levels: int, what: str) -> None:
    assert made.shape == expected.shape, f"{what} has frames of shape {tuple(made.shape)}"
    worst = int((made.int() - expected.int()).abs().max())
    assert worst <= levels, f"{what} differs by {worst} grey levels, at most {levels} are allowed"
