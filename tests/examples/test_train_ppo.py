"""The PPO example: its arguments, and that it trains, evaluates, reports and resumes."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro
from PIL import Image
from scripts import load_script

ppo = load_script("agents/ppo.py")
train_ppo = load_script("examples/train_ppo.py")


def test_budgets_are_what_the_readme_says() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert train_ppo.Args().steps == ppo.Args().steps == ppo.BUDGET
    assert train_ppo.Args().planner_episodes == train_ppo.PLANNER_EPISODES
    assert f"The budget was {ppo.BUDGET:,} steps" in readme
    assert f"the planner has {train_ppo.PLANNER_EPISODES} episodes" in readme
    # What is asked for in the true scenes is what the table tells of.
    for text in (readme, train_ppo.__doc__):
        [asked] = re.findall(r"train_ppo\.py .*--steps ([\d_]+)", text)
        assert f"learned in the true scenes, {int(asked):,} steps" in readme


def test_the_flags_of_version_0_1_set_the_settings_of_the_same_meaning() -> None:
    old = [
        "--settings.horizon",
        "4",
        "--settings.clip=0.1",
        "--settings.trace",
        "0.5",
        "--settings.width",
        "8",
        "--steps",
        "16",
    ]
    args = tyro.cli(train_ppo.Args, args=train_ppo.rename_old_flags(old))
    assert args.settings == replace(ppo.Settings(), num_steps=4, clip_coef=0.1, gae_lambda=0.5, width=8)
    assert args.steps == 16


@pytest.mark.slow
def test_the_example_trains_evaluates_reports_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "--world testcard --size 12 20 --num-envs 2 --seeds 2 --scenes 2 --episodes 3 --planner-episodes 2"
    settings = "--settings.num-steps 4 --settings.width 8"
    search = "--search.plans 2 --search.depth 1 --search.rounds 1 --search.elite 1"

    def run(steps: int) -> dict[str, Any]:
        command = [
            *sizes.split(),
            *settings.split(),
            *search.split(),
            "--steps",
            str(steps),
            "--folder",
            str(tmp_path),
        ]
        monkeypatch.setattr(sys, "argv", ["train_ppo.py", *command])
        train_ppo.main()
        return json.loads((tmp_path / "results.json").read_text())

    first, second = run(8), run(16)

    assert [len(history) for history in first["histories"]] == [1, 1]
    assert [len(history) for history in second["histories"]] == [2, 2]
    assert [history[:1] for history in second["histories"]] == first["histories"]
    assert len(second["success"]) == 7
    for rates in second["success"].values():
        assert list(rates) == ["testcard"]
        assert len(rates["testcard"]) == 2
        assert all(0 <= rate <= 1 and math.isfinite(rate) for rate in rates["testcard"])
    assert second["success"]["scripted toward the goal's pose"] == {"testcard": [1.0, 1.0]}
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.width > 600
