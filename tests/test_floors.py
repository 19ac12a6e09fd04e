"""The floors of the package: what may import what, as pyproject.toml says it."""

from __future__ import annotations

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports
from scripts import ROOT


def test_no_import_runs_up() -> None:
    assert (
        lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == EXIT_STATUS_SUCCESS
    )
