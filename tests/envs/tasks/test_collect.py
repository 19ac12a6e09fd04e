"""The task of collecting cells: within reach in every world, judged by the true path, alike for one env and many."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from envs import PAIRS, PLACES, bare, episode, make
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from small_world import small_world

import worldplay_env
from worldplay_env import Collect, Start, WorldError, WorldPlayEnv
from worldplay_env.envs.tasks.collect import MarkedCells

ID = "WorldPlay/Collect-v0"
FORWARD, YAW_RIGHT, BACK = 9, 1, 18
STRAIGHT = {"name": "collect", "actions": [FORWARD], "chunks": 3, "count": 2}
"""0.88 units ahead: with cells of 0.4 units, the two in front of the start's."""


def collect(**arguments: Any) -> WorldPlayEnv:
    env = make(ID, **{"world": "testcard", "size": (24, 40), "starts": PAIRS, **arguments}).unwrapped
    assert isinstance(env, WorldPlayEnv)
    return env


def scene() -> worldplay_env.World:
    return worldplay_env.load("scene", image_size=(24, 40), samples=1)


@pytest.mark.parametrize("arguments", [{}, {"observation": "chunk", "every": 4}])
def test_the_checker_of_gymnasium_passes(arguments: dict[str, Any]) -> None:
    check_env(collect(**arguments))


def test_the_checker_passes_in_the_scenes() -> None:
    check_env(collect(world=scene(), starts=PLACES), skip_render_check=True)


def test_the_registered_id_is_in_the_scenes_and_ends_after_18_steps() -> None:
    spec = gymnasium.spec(ID)
    assert spec.kwargs == {"world": "scene", "task": "collect", "observation": "last"}
    env = make(ID, world="testcard", starts=PAIRS)
    assert [step[3] for step in episode(env, [0] * 18)[1:]] == [False] * 17 + [True]


def test_a_spec_with_fields_makes_the_same_env_from_json() -> None:
    env = gymnasium.make(ID, world="testcard", task=STRAIGHT)
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["kwargs"]["task"] == STRAIGHT
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.get_wrapper_attr("task") == Collect(actions=(FORWARD,), chunks=3, count=2)
    assert data_equivalence(episode(env, [9]), episode(again, [9]), exact=True)


def test_cells_are_shown_in_the_camera_s_axes_and_vanish_when_they_are_entered() -> None:
    env = collect(task=STRAIGHT)
    obs, info = env.reset(seed=0)
    assert sorted(obs["cells"][:, 2].tolist()) == pytest.approx([0.4, 0.8])
    np.testing.assert_allclose(obs["cells"][:, [0, 1]], 0)
    assert info["cells_left"] == 2
    obs, reward, terminated, _, info = env.step(FORWARD)  # to 0.24, in the cell from 0.2 to 0.6
    assert (reward, terminated, info["cells_left"]) == (1.0, False, 1)
    assert np.abs(obs["cells"]).sum(axis=1).min() == 0
    assert obs["cells"][:, 2].max() == pytest.approx(0.56)
    obs, reward, *_ = env.step(YAW_RIGHT)  # by 12 degrees: the cell comes to lie at the left
    assert reward == 0
    turned = np.radians(12)
    left = obs["cells"][obs["cells"][:, 3] == 1]
    np.testing.assert_allclose(left, [[-0.56 * np.sin(turned), 0, 0.56 * np.cos(turned), 1]], atol=1e-6)
    assert obs in env.observation_space


def test_rewards_add_up_to_the_cells_and_the_last_one_ends_the_episode() -> None:
    env = collect(task=STRAIGHT)
    steps = episode(env, [FORWARD, BACK, FORWARD, FORWARD, FORWARD])[1:]
    assert [step[1] for step in steps] == [1, 0, 0, 0, 1]  # a cell counts once
    assert [step[2] for step in steps] == [False] * 4 + [True]
    assert [step[-1]["success"] for step in steps] == [False] * 4 + [True]
    assert steps[-1][-1]["is_success"] is True
    kinds = [{key: (type(value), np.shape(value)) for key, value in step[-1].items()} for step in steps]
    assert all(kind == kinds[0] for kind in kinds)


def test_another_reward_sees_the_state_before_the_step_and_the_new_observation() -> None:
    seen = []

    def reward(transition: worldplay_env.Transition) -> np.ndarray:
        assert transition.states is not None
        seen.append((int(transition.states[0].collected.sum()), transition.observation["cells"][0, :, 3].sum()))
        return transition.step / 2

    steps = episode(collect(task=STRAIGHT, reward=reward), [FORWARD])[1:]
    assert seen == [(0, 1)]
    assert steps[0][1] == 0.5


@pytest.mark.parametrize("world", ["testcard", "scene", "dream"])
def test_the_drawn_walk_collects_every_cell_in_every_world(world: str) -> None:
    made = {"testcard": lambda: worldplay_env.load("testcard", image_size=(32, 48)), "scene": scene}
    place = made[world]() if world in made else small_world()
    starts = PLACES if world == "scene" else PAIRS
    task = Collect(actions=(FORWARD,), chunks=6)
    rollout = dream_rollout(place) if world == "dream" else place.start(Start(*starts[0]), 4)
    [state] = task.begin(place, [rollout], [np.random.default_rng(0)], pictures=False)
    assert rollout.chunks == 0
    assert len(np.unique(state.cells, axis=0)) == 3
    entered = set()
    for _ in range(6):
        [chunk] = place.step(
            [rollout],
            [worldplay_env.Control.of_labels(rollout.pose, [FORWARD] * 4, first=rollout.chunks == 0)],
            decode=False,
        )
        entered |= {(round(x / 0.4), round(z / 0.4)) for x, z in chunk.poses[:, [0, 2], 3]}
    assert {tuple(cell) for cell in state.cells.tolist()} <= entered


def dream_rollout(world: Any) -> worldplay_env.Rollout:
    import torch

    prompt = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    return world.start(Start(PAIRS[0][0]), 4, prompt_embedding=prompt)


def test_cells_behind_a_wall_are_never_marked() -> None:
    env = collect(world=scene(), starts=[(None, "scene 900011")], task={**STRAIGHT, "chunks": 15})
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        assert obs["cells"][:, 2].max() < 0.08 * 59 - 0.5  # 15 chunks would lead 4.72 units ahead


def test_cells_follow_from_the_seed_alone_and_differ() -> None:
    env = collect()
    drawn = [env.reset(seed=seed)[0]["cells"] for seed in (5, 1, 3, 5)]
    np.testing.assert_array_equal(drawn[0], drawn[3])
    assert len({cells.tobytes() for cells in drawn}) == 3


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_a_vector_env_s_rows_are_the_single_envs_of_their_seeds(output: str) -> None:
    shared = {"world": "testcard", "size": (24, 40), "starts": PAIRS, "task": STRAIGHT}
    envs = gymnasium.make_vec(
        ID, num_envs=3, autoreset_mode="disabled", output=output, max_batch=2, max_episode_steps=18, **shared
    )
    singles = [collect(**shared) for _ in range(3)]
    observations, _ = envs.reset(seed=7)
    firsts = [env.reset(seed=7 + row) for row, env in enumerate(singles)]
    actions = np.array([FORWARD, YAW_RIGHT, BACK])
    batches = [observations]
    observations, rewards, terminations, _, infos = envs.step(actions)
    batches.append(observations)
    steps = [env.step(int(action)) for env, action in zip(singles, actions, strict=True)]
    for row in range(3):
        for batch, single in zip(batches, (firsts[row][0], steps[row][0]), strict=True):
            for name in ("observation", "cells"):
                np.testing.assert_array_equal(np.asarray(batch[name][row]), single[name])
        assert float(rewards[row]) == steps[row][1]
        assert bool(terminations[row]) == steps[row][2]
        assert infos["cells_left"][row] == steps[row][-1]["cells_left"]


def test_a_snapshot_keeps_the_cells_that_were_left() -> None:
    env = collect(task=STRAIGHT)
    episode(env, [FORWARD])
    moment = env.snapshot()
    expected = [env.step(action) for action in (YAW_RIGHT, FORWARD)]
    env.reset(seed=2)
    env.restore(moment)
    assert data_equivalence([env.step(action) for action in (YAW_RIGHT, FORWARD)], expected, exact=True)


def test_a_snapshot_of_another_task_or_none_is_refused() -> None:
    for source in (bare(), bare(task="reach")):
        source.reset(seed=0)
        with pytest.raises(ValueError, match="the snapshot has no MarkedCells"):
            collect().restore(source.snapshot())
    source = collect()
    source.reset(seed=0)
    with pytest.raises(ValueError, match="the snapshot's goal has no picture"):
        bare(task="reach").restore(source.snapshot())


def test_without_enough_cells_the_reset_fails() -> None:
    with pytest.raises(WorldError, match="no cells were found: 16 walks of 1 actions"):
        collect(task={"name": "collect", "chunks": 1}).reset(seed=0)


def test_it_has_no_goal_and_says_where_the_nearest_cell_lies() -> None:
    env, task = collect(task=STRAIGHT), Collect()
    env.reset(seed=0)
    assert env.goal is None
    state = MarkedCells(np.array([[0, 2], [1, 1]]), np.zeros(2, dtype=np.bool_), np.eye(4))
    assert task.caption(state, ended=False, success=False) == "cells left: 2, the nearest +0.4 forward, +0.4 right"
    done = replace(state, collected=np.ones(2, dtype=np.bool_))
    assert task.caption(done, ended=True, success=True) == "all cells collected"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "count must be a whole number of 1 or more, got 0"),
        ({"chunks": 1.5}, "chunks must be a whole number of 1 or more, got 1.5"),
        ({"cell": -1}, "cell must be a positive number of world units, got -1"),
        ({"actions": [0]}, "must hold one that moves"),
        ({"speed": 3}, "unknown field 'speed' of a task: known are count, cell, chunks, actions"),
    ],
)
def test_fields_that_cannot_be_are_refused_when_the_env_is_made(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldPlayEnv("testcard", task={"name": "collect", **fields})
