"""The floors of the package: what may import what, as pyproject.toml says it."""

from __future__ import annotations

import subprocess
import sys

from scripts import ROOT

# In a process of its own: the linter turns off every logger that is there.
PROGRAM = "import importlinter.cli; importlinter.cli.lint_imports_command()"


def test_no_import_runs_up() -> None:
    options = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
