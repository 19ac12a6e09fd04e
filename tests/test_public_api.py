"""The public interface of the last release is there: `public_api.json`, recorded by `support/public_api.py`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import public_api

RECORDED = json.loads((Path(__file__).parent / "public_api.json").read_text(encoding="utf-8"))


def missing(recorded: Any, current: Any, where: str = "") -> list[str]:
    """Return what is recorded and not there, or of another value or order; additions are no loss."""
    if isinstance(recorded, dict):
        return [
            line
            for key, value in recorded.items()
            for line in (missing(value, current[key], f"{where}/{key}") if key in current else [f"{where}/{key}"])
        ]
    if isinstance(recorded, list):
        gone = [f"{where}/{item}" for item in recorded if item not in current]
        return gone or ([] if [item for item in current if item in recorded] == recorded else [f"{where}: order"])
    return [] if recorded == current else [f"{where}: {recorded!r} became {current!r}"]


def test_nothing_of_the_last_release_has_disappeared() -> None:
    script = str(public_api.__file__)
    result = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=True)
    assert missing(RECORDED, json.loads(result.stdout)) == []


def test_a_loss_is_named() -> None:
    current = copy.deepcopy(RECORDED)
    del current["names"]["Goal"]
    current["names"]["WorldPlayEnv"]["parameters"].remove("starts")
    current["commands"]["play"].remove("--seed")
    current["ids"]["WorldPlay/Tiny-v0"]["max_episode_steps"] = 61
    current["names"]["action_label"]["parameters"].reverse()
    current["names"]["New"] = {}
    assert sorted(missing(RECORDED, current)) == [
        "/commands/play/--seed",
        "/ids/WorldPlay/Tiny-v0/max_episode_steps: 60 became 61",
        "/names/Goal",
        "/names/WorldPlayEnv/parameters/starts",
        "/names/action_label/parameters: order",
    ]
