"""Envs in other processes, and snapshots that pass between envs of one process."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from worldplay_env import WorldPlayEnv
from worldplay_env.worlds.testcard import Testcard

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)

FORKED = """
import gymnasium
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
import worldplay_env

def make():
    return gymnasium.make("WorldPlay/Tiny-v0", observation="last", weights="random")

if __name__ == "__main__":
    parent = make()
    parent.reset(seed=0)
    parent.step(9)  # torch's threads are running now, and are not in the children
    observations = []
    for vector in (SyncVectorEnv([make] * 2), AsyncVectorEnv([make] * 2, context="fork")):
        vector.reset(seed=0)
        observations.append(vector.step([9, 1])[0])
        vector.close()
    assert abs(observations[0].astype(int) - observations[1]).max() <= 1
"""


@pytest.mark.slow
def test_forked_envs_work_after_their_parent_used_torchs_threads() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=240, env=environment)


@pytest.mark.parametrize("render_mode", ["rgb_array", "rgb_array_list"])
@pytest.mark.parametrize("size", [None, (48, 80)], ids=["own size", "another size"])
def test_a_snapshot_of_an_env_that_shows_nothing_can_be_shown(render_mode: str, size: tuple[int, int] | None) -> None:
    world = Testcard((32, 48))
    silent = WorldPlayEnv(world, starts=PICTURE)
    shown = WorldPlayEnv(world, starts=PICTURE, size=size, render_mode=render_mode)
    silent.reset(seed=0)
    silent.step(9)
    shown.restore(silent.snapshot())
    shown.step(1)
    frame = shown.render()
    assert (frame if render_mode == "rgb_array" else frame[-1]).shape == (*(size or (32, 48)), 3)  # type: ignore[index, union-attr]


def test_a_restored_snapshot_is_shown_in_the_size_of_the_env() -> None:
    world = Testcard((32, 48))
    large, small = (
        WorldPlayEnv(world, starts=PICTURE, size=size, render_mode="rgb_array") for size in ((64, 96), (16, 24))
    )
    large.reset(seed=0)
    large.step(9)
    small.restore(large.snapshot())
    assert np.shape(small.render()) == (16, 24, 3)
