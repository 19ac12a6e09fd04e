"""The contract of worlds: those of this package and of others hold it, and what does not is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from three_latents import Stripes

import worldplay_env
from worldplay_env.testing import check_world
from worldplay_env.worlds.base import Chunk, Control, World

WORLDS: dict[str, Callable[[], World]] = {
    "testcard": lambda: worldplay_env.load("testcard", image_size=(32, 48)),
    "scene": lambda: worldplay_env.load("scene", image_size=(24, 40), samples=1, device="cpu"),
    "tiny": lambda: worldplay_env.load("tiny", device="cpu"),
    "three latents": Stripes,
}


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_holds_the_contract(name: str) -> None:
    check_world(WORLDS[name]())


class Drifting(Stripes):
    """Equal seeds give other pictures."""

    steps = 0

    def step(self, rollouts: Sequence[Any], controls: Sequence[Control], **options: Any) -> list[Chunk]:
        chunks = super().step(rollouts, controls, **options)
        Drifting.steps += 1
        for chunk in chunks:
            if chunk.frames is not None:
                chunk.frames.add_(Drifting.steps)
        return chunks


class Permissive(Stripes):
    """Nothing is refused."""

    def step(self, rollouts: Sequence[Any], controls: Sequence[Control], **options: Any) -> list[Chunk]:
        known = [pair for pair in zip(rollouts, controls, strict=False) if hasattr(pair[0], "pose")]
        try:
            return super().step([one for one, _ in known], [one for _, one in known], **options)
        except ValueError:
            return []


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (Drifting(), "equal seed and actions differs by"),
        (Permissive(), "must raise ValueError"),
        ("a picture", "subclass of worldplay_env.World, got str"),
    ],
)
def test_what_does_not_hold_is_named(world: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_world(world)
