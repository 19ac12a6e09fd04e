"""The scripted agent of the cells: it collects them where there is no wall, in one env and in a batch."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from envs import PAIRS
from scripts import load_script

TowardCellsAgent = load_script("agents/toward_cells.py").TowardCellsAgent
ID = "WorldPlay/Collect-v0"
SMALL = {"world": "testcard", "size": (24, 40), "starts": PAIRS}


def test_it_collects_all_cells_in_nearly_every_episode() -> None:
    envs = gym.make_vec(ID, num_envs=16, autoreset_mode="disabled", max_episode_steps=None, **SMALL)
    agent = TowardCellsAgent(envs)
    obs, infos = envs.reset(seed=0)
    done = np.zeros(16, dtype=np.bool_)
    for _ in range(18):
        obs, _, terminations, _, infos = envs.step(agent.act(obs, infos))
        done |= terminations
        if terminations.any():
            obs, infos = envs.reset(options={"reset_mask": terminations})
    assert done.sum() >= 15


def test_a_row_of_a_batch_gets_the_action_of_a_single_env() -> None:
    envs, env = gym.make_vec(ID, num_envs=2, **SMALL), gym.make(ID, **SMALL)
    actions = TowardCellsAgent(envs).act(*envs.reset(seed=3))
    assert actions.shape == (2,)
    assert [TowardCellsAgent(env).act(*env.reset(seed=seed)) for seed in (3, 4)] == actions.tolist()


@pytest.mark.parametrize("arguments", [{"task": None}, {"task": "reach"}, {"actions": "latent"}])
def test_other_envs_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match='the env needs task="collect" and one action a chunk'):
        TowardCellsAgent(gym.make(ID, **{**SMALL, **arguments}))
