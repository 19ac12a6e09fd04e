"""Programs bound how long torch's threads spin, before torch is there, and leave what a user has chosen alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worldplay_env.spinning import CHOICES, SPINS, bound_spinning

ROOT = Path(__file__).parent.parent
COMMANDS = [f"worldplay_env.{name}" for name in ("rollout", "bench", "evaluate", "play", "training")]
SCRIPTS = ["agents/ppo.py", "examples/branch.py"]
"""One that imports torch, and one that leaves that to the env."""
WATCH = """
import os, runpy, sys

class Watch:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print("torch", os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Watch)
program = sys.argv.pop(1)
sys.argv[1:] = ["--help"]
try:
    if program.endswith(".py"):
        sys.path[0] = os.path.dirname(program)  # as Python does for a script
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
finally:
    print("end", os.environ.get("GOMP_SPINCOUNT"))
"""


def undecided() -> dict[str, str]:
    """Return this process's environment without what decides how threads wait."""
    return {name: value for name, value in os.environ.items() if name not in CHOICES}


@pytest.mark.parametrize("program", COMMANDS + SCRIPTS)
def test_programs_bound_it_before_torch_is_imported(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCH, program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=undecided(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("torch ", "end "))]
    assert set(lines) | {f"torch {SPINS}"} == {f"torch {SPINS}", f"end {SPINS}"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"GOMP_SPINCOUNT": str(SPINS)}),
        ({"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": str(SPINS)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"GOMP_SPINCOUNT": "infinite"}, {"GOMP_SPINCOUNT": "infinite"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_what_a_user_has_chosen_stays(before: dict[str, str], after: dict[str, str]) -> None:
    bound_spinning(before)
    assert before == after


def test_importing_a_program_changes_nothing() -> None:
    program = "import os, worldplay_env.evaluate, worldplay_env.rollout; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=undecided()
    )
    assert done.stdout.strip() == "None"
