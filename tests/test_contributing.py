"""The examples of CONTRIBUTING.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import check_env

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
YAW_RIGHT = 1


def run(mark: str) -> dict[str, Any]:
    """Return the names that the example defines in which a word stands."""
    [example] = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if mark in block]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    return names


def test_the_reward_is_the_height() -> None:
    env = run("def altitude")["env"]
    env.reset(seed=0)
    _, reward, *_, info = env.step(9 + 3)  # forward and up
    assert reward == -info["poses"][-1][1, 3] > 0


def test_the_task_is_an_env_s_and_a_vector_env_s() -> None:
    names = run("class TurnAway")
    env, envs = names["env"], names["envs"]
    check_env(env.unwrapped, skip_render_check=True)
    observation, _ = env.reset(seed=3)
    steps = [env.step(YAW_RIGHT) for _ in range(9)]  # 9 degrees, then 12 a step
    needed = int(np.ceil((observation["angle"][0] - 9) / 12))
    assert [step[2] for step in steps][: needed + 1] == [False] * needed + [True]
    assert [step[-1]["success"] for step in steps][needed]
    observations, _ = envs.reset(seed=3)
    assert observations["angle"].shape == (4, 1)
    np.testing.assert_array_equal(observations["angle"][0], observation["angle"])
