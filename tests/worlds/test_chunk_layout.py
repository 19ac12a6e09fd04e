"""Chunks of another length, from a world of another package: env, vector env, wrappers, player, films."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from played import FakeClock, begin, show
from scripts import load_script
from three_latents import LAYOUT, MOTION, SIZE, Stripes, make_stripes

import worldplay_env
from worldplay_env.control.camera import MotionScale
from worldplay_env.control.layout import ChunkLayout
from worldplay_env.control.trajectory import load_trajectory
from worldplay_env.evaluate.camera_paths import SINGLE_MOVES, short_path
from worldplay_env.evaluate.ground_truth import Truth
from worldplay_env.evaluate.measures import follow_actions
from worldplay_env.evaluate.rollouts import RolloutSpec, make_rollouts
from worldplay_env.evaluate.run import evaluate
from worldplay_env.testing import check_world
from worldplay_env.workers.base import OneProcess
from worldplay_env.worlds.base import Control, Start
from worldplay_env.worlds.registry import _registered
from worldplay_env.worlds.scene.world import SceneWorld

SCENE = 900_000
FORWARD = worldplay_env.label_of_keys(["w"])


@pytest.fixture
def stripes() -> Iterator[str]:
    worldplay_env.register_world("stripes", make_stripes)
    yield "stripes"
    del _registered["stripes"]


def test_a_layout_counts_latent_frames_and_images() -> None:
    assert (LAYOUT.chunk_images, LAYOUT.full_memory) == (12, 2)
    assert [LAYOUT.images_of(chunk) for chunk in (0, 1, 2)] == [9, 12, 12]
    assert [LAYOUT.images_before(chunk) for chunk in (0, 1, 2)] == [0, 9, 21]
    assert [LAYOUT.images_by_latent(chunk) for chunk in (0, 1)] == [[1, 4, 4], [4, 4, 4]]
    for wrong in ({"latents": 0}, {"first_images": 12}, {"memory": -1}):
        with pytest.raises(ValueError, match="latent frame"):
            ChunkLayout(**wrong)


@pytest.mark.parametrize("actions", ["chunk", "latent"])
def test_an_env_shows_chunks_of_twelve_images(stripes: str, actions: str) -> None:
    with gymnasium.make("WorldPlay/Testcard-v0", world=stripes, actions=actions) as env:
        obs, info = env.reset(seed=0)
        assert obs.shape == (12, *SIZE, 3)
        assert info["poses"].shape == (3, 4, 4)
        action = FORWARD if actions == "chunk" else [FORWARD] * 3
        _, _, _, _, info = env.step(action)
        assert (info["new_frames"], info["frame"], info["memory"].tolist()) == (9, 9, [-1] * 6)
        assert info["poses"][-1, 2, 3] == pytest.approx(2 * MOTION.units)
        _, _, _, _, info = env.step(action)
        assert (info["new_frames"], info["frame"], info["memory"].tolist()) == (12, 21, [0, 1, 2, -1, -1, -1])
        assert info["poses"][-1, 2, 3] == pytest.approx(5 * MOTION.units)


def test_a_vector_env_rewards_and_wrappers_follow(stripes: str) -> None:
    envs = gymnasium.make_vec(
        "WorldPlay/Testcard-v0",
        num_envs=2,
        world=stripes,
        observation="latent",
        reward=worldplay_env.cover_ground(0.5),
    )
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, 2, 3, 4, 6)
    _, rewards, *_ = envs.step([FORWARD, 0])
    assert rewards.tolist() == [2.0, 0.0]
    envs.close()
    with worldplay_env.FrameByFrame(gymnasium.make("WorldPlay/Testcard-v0", world=stripes)) as env:
        assert env.reset(seed=0)[0].shape == (*SIZE, 3)
        assert env.metadata["render_fps"] == 12


def test_agents_act_by_the_worlds_chunks_and_motions(stripes: str) -> None:
    with gymnasium.make("WorldPlay/Testcard-v0", world=stripes, actions="latent") as env:
        agent = load_script("agents/scripted.py").ScriptedAgent(env, "w-2, right-3")
        obs, info = env.reset(seed=0)
        labels = []
        for _ in range(len(agent)):
            obs, _, _, _, info = env.step(agent.act(obs, info))
            labels += info["labels"].tolist()
        assert labels == [0, FORWARD, FORWARD, 1, 1, 1]
        keyboard = load_script("agents/keyboard.py").KeyboardAgent(env)
        assert env.action_space.contains(keyboard.act(obs, info))
        keyboard.close()
    with gymnasium.make("WorldPlay/Reach-v0", world=stripes) as env:
        obs, info = env.reset(seed=0)
        agent = load_script("agents/toward_goal.py").TowardGoalAgent(env)
        for first in (True, False):
            before, action = info["poses"][-1], agent.act(obs, info)
            obs, _, _, _, info = env.step(action)
            np.testing.assert_allclose(info["poses"][-1], before @ agent.moves[first][action], atol=1e-9)


def test_the_evaluation_follows_paths_of_the_worlds_chunks(tmp_path: Path) -> None:
    rows, record = evaluate(OneProcess(make_stripes), [SCENE], tmp_path, all_actions=0, drift=0)
    assert [row.what for row in rows if row.what.startswith("one chunk")] == ["one chunk (12 frames) on the CPU"]
    assert len(record["curve"]["psnr"]["world"]) == 9 + 15 * 12
    # Standing still is all that can be told of what shows nothing of a scene.
    assert record["scenes"][0]["actions"]["world"] < record["scenes"][0]["actions"]["actions"]


@pytest.mark.parametrize("layout", [LAYOUT, ChunkLayout(2, 3, 6, 4)])
def test_scenes_are_the_truth_of_any_chunks(layout: ChunkLayout) -> None:
    world = SceneWorld((24, 40), device="cpu", layout=layout, motion=MotionScale(0.1, 8.0))
    truth = Truth.beside(world, SCENE)
    path = short_path(truth.scene, world.layout, world.motion)
    [film] = make_rollouts(world, [RolloutSpec(truth, path)], batch=1)
    expected = truth.film(path.poses)
    assert film.shape == expected.shape
    assert int((film.int() - expected.int()).abs().max()) <= 1
    [result] = follow_actions(world, [truth], SINGLE_MOVES, batch=9)
    assert result["world"] == result["actions"]
    check_world(world)


def test_a_film_has_the_images_of_its_latent_frames() -> None:
    chunks = list(worldplay_env.roll_out(Stripes(), Start(), load_trajectory("w-6"), seed=0))
    assert [len(chunk.frames) for chunk in chunks if chunk.frames is not None] == [9, 12, 4]


def test_the_player_shows_every_image() -> None:
    clock = FakeClock()
    session = begin(clock, Stripes)
    frames = show(session, clock, 21)
    assert [frame.number for frame in frames] == list(range(21))
    assert [frame.latent for frame in frames[:9]] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    session.close()


def test_controls_of_another_length_are_refused() -> None:
    world = Stripes()
    rollout = world.start(Start(), 0)
    with pytest.raises(ValueError, match="a chunk of this world has 3 latent frames, the control 4"):
        world.step([rollout], [Control(np.broadcast_to(np.eye(4), (4, 4, 4)), np.zeros(4, dtype=np.int64))])
