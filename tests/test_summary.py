"""What objects look like in a line."""

import numpy as np
import pytest

import worldplay_env
from worldplay_env import Control, Start
from worldplay_env.envs.transition import Goal
from worldplay_env.summary import one_line


@pytest.mark.parametrize(("name", "shown"), [("testcard", "testcard"), ("scene", "scene 900012"), ("tiny", "tiny")])
def test_rollouts_chunks_and_goals_are_one_line(name: str, shown: str) -> None:
    world = worldplay_env.load(name, device="cpu", weights="random" if name == "tiny" else None)
    rollout = world.start(Start(prompt="scene 900012"), 7)
    assert repr(rollout) == (
        f"{type(rollout).__name__}({shown}, chunks=0, seed=7, prompt='scene 900012', position=(0.00, 0.00, 0.00))"
    )
    control = Control.of_labels(rollout.pose, [9] * 4, first=True)
    [chunk] = world.step([rollout], [control], decode="newest")
    assert repr(control) == "Control(poses=float64 [4, 4, 4], labels=int64 [4], intrinsics=float64 [4, 3, 3])"
    assert repr(chunk).startswith("Chunk(frames=uint8 [1, 96, 160, 3], latents=")
    assert "chunks=1" in repr(rollout)
    for line in map(repr, (rollout, control, chunk)):
        assert "\n" not in line
        assert len(line) < 300


def test_goals_and_starts_are_one_line() -> None:
    goal = Goal(np.eye(4), np.zeros((96, 160, 3), np.uint8), None)
    assert repr(goal) == "Goal(pose=float64 [4, 4], picture=uint8 [96, 160, 3], latent=None)"
    start = Start(np.zeros((2, 3, 3), np.uint8), "a" * 100)
    shown = "a" * 57 + "..."
    assert repr(start) == f"Start(image=uint8 [2, 3, 3], prompt={shown!r}, pose=float64 [4, 4], name='')"
    path = worldplay_env.load_trajectory("w-8")
    assert (
        one_line(path)
        == repr(path)
        == ("Trajectory(poses=float64 [9, 4, 4], labels=int64 [9], intrinsics=float64 [9, 3, 3])")
    )
