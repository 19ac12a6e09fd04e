"""The report of the PPO example: success rates, the table of them, and the curve of learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripts import load_script

import worldplay_env

reach_report = load_script("examples/reach_report.py")


class Ends:
    """A vector env whose row i ends its first episode after i + 1 steps, at the goal if i is even."""

    num_envs = 4

    def reset(self, seed: int) -> tuple[None, dict[str, Any]]:
        self.steps = 0
        return None, {}

    def step(self, actions: Sequence[int]) -> tuple[Any, ...]:
        self.steps += 1
        due = np.arange(1, 5) == self.steps
        again = np.arange(1, 5) < self.steps  # second episodes, all at the goal: they do not count
        even = np.arange(4) % 2 == 0
        return None, None, (due & even) | again, due & ~even, {}

    def close(self) -> None:
        pass


def test_a_success_rate_counts_every_rows_first_episode_alone() -> None:
    class Still:
        def act(self, obs: Any, info: dict[str, Any]) -> list[int]:
            return [0] * 4

    assert reach_report.success_rate(lambda env: Still(), Ends, seed=0) == 0.5


def test_a_rate_that_was_measured_is_kept_for_the_next_run(tmp_path: Path) -> None:
    def never() -> float:
        raise AssertionError("measured again")

    path = tmp_path / "runs" / "rates.json"
    assert reach_report.Rates(path).of("PPO", lambda: 0.25) == 0.25
    again = reach_report.Rates(path)
    assert again.of("PPO", never) == 0.25
    assert again.of("planner", lambda: 0.5) == 0.5
    assert reach_report.Rates(path).of("planner", never) == 0.5


def test_the_curve_counts_the_episodes_of_neighbouring_updates_together() -> None:
    lines = [{"steps": 10.0 * n, "success": float(n == 1), "episodes": 1.0 if n == 1 else 9.0} for n in range(1, 11)]
    steps, rates = reach_report.learning_curve(lines)
    assert steps == [10.0 * n for n in range(1, 11)]
    # One lucky episode at the outset, and nine updates on none.
    assert rates == pytest.approx([1 / (1 + 9 * others) for others in range(9)] + [0])


def test_the_curve_of_a_short_run_begins_at_the_first_update_that_ended_an_episode() -> None:
    lines = [
        {"steps": 8.0, "success": 0.0, "episodes": 0.0},
        {"steps": 16.0, "success": 0.5, "episodes": 4.0},
    ]
    assert reach_report.learning_curve(lines[:1]) == ([], [])
    assert reach_report.learning_curve(lines) == ([16.0], [0.5])


def test_table_and_curve_are_made_once_more_from_the_results(tmp_path: Path) -> None:
    results = {"random": {"scene": [0.25]}, "PPO": {"scene": [0.5]}}
    table = reach_report.write_report(
        tmp_path, results, [[{"steps": 8, "success": 0.5, "episodes": 4}]], {"seeds": 1}
    )
    for name in ("table.md", "curve.png"):
        (tmp_path / name).unlink()
    reach_report.main(tmp_path)
    assert (tmp_path / "table.md").read_text() == table
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.width > 600


def test_the_table_gives_mean_and_spread_and_leaves_open_what_was_not_run() -> None:
    results = {"random": {"tiny": [0.1, 0.2, 0.3], "scene": [0.25]}, "planner": {"scene": [0.5, 0.5]}}
    assert reach_report.markdown_table(results).splitlines() == [
        "| agent | tiny | scene |",
        "| --- | --- | --- |",
        "| random | 20 ± 10 % | 25 % |",
        "| planner |  | 50 ± 0 % |",
    ]


def test_starts_are_the_same_places_for_every_world() -> None:
    scene = worldplay_env.load("scene", image_size=(12, 20))
    for (picture, prompt), (none, name) in zip(
        reach_report.scene_starts("testcard", [3, 900_001]),
        reach_report.scene_starts("scene", [3, 900_001]),
        strict=True,
    ):
        assert none is None
        assert prompt
        assert picture is not None
        shown = scene.start(worldplay_env.Start(None, name), 0).picture.astype(float)
        blurred = np.asarray(Image.fromarray(picture).resize((20, 12), Image.Resampling.BOX), dtype=float)
        assert np.abs(shown - blurred).mean() < 8
