"""Virtual environments with a part of what is installed here, by links: nothing is downloaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def run(*command: str, cwd: Path) -> str:
    """Run a program outside the tree and return what it prints; its errors are the test's."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_venv(folder: Path) -> tuple[str, Path]:
    """Make an empty virtual environment without pip; return its interpreter and its site-packages."""
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=folder.parent)
    (site,) = folder.glob("lib/python*/site-packages")
    return str(folder / "bin" / "python"), site


def link(site: Path, requirements: Iterable[str]) -> None:
    """Link what is installed here of some requirements, and of all that they require, into a site-packages."""
    wanted, seen = [Requirement(text) for text in requirements], set()
    while wanted:
        requirement = wanted.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        found = metadata.distribution(requirement.name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
        extras = ("", *requirement.extras)
        for text in found.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
