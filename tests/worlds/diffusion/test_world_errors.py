"""A failed step, stream or start leaves every rollout of the diffusion world as it was."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_world import PATH, begin, roll, small_world
from torch import Tensor

from worldplay_env.worlds.base import Start, WorldError
from worldplay_env.worlds.diffusion.rollout import DiffusionRollout
from worldplay_env.worlds.diffusion.world import DiffusionWorld


@pytest.fixture(scope="module")
def world() -> DiffusionWorld:
    return small_world()


def _relative(one: Tensor | None, other: Tensor | None) -> float:
    assert one is not None
    assert other is not None
    return float((one - other).norm() / other.norm())


@contextlib.contextmanager
def _failing(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: Exception, call: int
) -> Iterator[None]:
    calls, original = Counter[str](), getattr(owner, name)

    def fail(*arguments: object, **options: object) -> object:
        calls["made"] += 1
        if calls["made"] == call:
            raise error
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield


def _fingerprint(rollout: DiffusionRollout) -> tuple[object, ...]:
    return (rollout.chunks, rollout.decoded, id(rollout.decoder_state), rollout.seed, rollout.prompt)


@pytest.mark.parametrize(
    ("part", "error", "raised"),
    [
        ("transformer", torch.OutOfMemoryError("CUDA out of memory"), WorldError),
        ("codec", torch.OutOfMemoryError("CUDA out of memory"), WorldError),
        ("codec", RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), WorldError),
        ("codec", RuntimeError("a kernel failed"), RuntimeError),
        ("transformer", KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("mixed_ages", [False, True])
def test_an_error_in_any_group_leaves_every_rollout_as_it_was(
    monkeypatch: pytest.MonkeyPatch, part: str, error: Exception, raised: type[BaseException], mixed_ages: bool
) -> None:
    world = small_world(mixed_ages=mixed_ages)
    rollouts = [begin(world, 0), begin(world, 1)]
    roll(world, rollouts[0], 2)
    before = [_fingerprint(rollout) for rollout in rollouts]
    expected = [world.step([rollout.fork()], [PATH[rollout.chunks]])[0] for rollout in rollouts]
    owner, name, call = (
        (world.transformer, "forward", 3 if mixed_ages else 6)
        if part == "transformer"
        else (world.codec, "decode", 2)
    )
    with _failing(monkeypatch, owner, name, error, call), pytest.raises(raised):
        world.step(rollouts, [PATH[2], PATH[0]])
    assert [_fingerprint(rollout) for rollout in rollouts] == before
    after = world.step(rollouts, [PATH[2], PATH[0]])
    assert all(_relative(a.latents, b.latents) < 1e-4 for a, b in zip(after, expected, strict=True))


@pytest.mark.parametrize("decode", [True, False])
def test_a_model_that_makes_nan_is_an_error_and_changes_nothing(decode: bool) -> None:
    world = small_world()
    rollout = begin(world, 0)
    roll(world, rollout, 1)
    before = _fingerprint(rollout)
    bias = world.transformer.output_projection.bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias[0] = float("nan")
    with pytest.raises(WorldError, match="not finite"):
        world.step([rollout], [PATH[1]], decode=decode)
    assert _fingerprint(rollout) == before
    with torch.no_grad():
        bias.copy_(kept)
    assert world.step([rollout], [PATH[1]])[0].frames is not None


def test_a_path_that_does_not_begin_at_the_start_is_refused(world: DiffusionWorld) -> None:
    rollout = begin(world, 0)
    with pytest.raises(ValueError, match=r"must be the start's own.*Start\(pose=...\)"):
        world.step([rollout], [PATH[1]])
    assert rollout.chunks == 0


def test_a_stream_that_was_overtaken_commits_nothing(world: DiffusionWorld) -> None:
    rollout = begin(world, 1)
    frames = world.stream(rollout, PATH[0])
    next(frames)
    world.step([rollout], [PATH[0]])
    with pytest.raises(WorldError, match="stepped while its frames were streamed"):
        list(frames)
    assert rollout.chunks == 1


def test_wrong_arguments_are_refused_before_anything_runs(world: DiffusionWorld) -> None:
    rollout, stranger = begin(world, 0), begin(small_world(), 0)
    with pytest.raises(ValueError, match="one control"):
        world.step([rollout], [])
    with pytest.raises(ValueError, match="twice"):
        world.step([rollout, rollout], PATH[:2])
    with pytest.raises(ValueError, match="not a rollout of this world"):
        world.step([stranger], PATH[:1])
    with pytest.raises(ValueError, match="noise must be a tensor of shape"):
        world.step([rollout], PATH[:1], noise=torch.zeros(1, 6, 3, 4, 6))
    with pytest.raises(ValueError, match=r"noise must be a tensor of shape.*got ndarray"):
        world.step([rollout], PATH[:1], noise=np.zeros((1, 6, 4, 4, 6)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a control is a Control, got NoneType"):
        world.step([rollout], [None])  # type: ignore[list-item]
    for seed in (-1, 1.5, True):
        with pytest.raises(ValueError, match="seed"):
            world.start(Start(), seed, prompt_embedding=torch.zeros(5, 10))  # type: ignore[arg-type]
    assert rollout.chunks == 0
