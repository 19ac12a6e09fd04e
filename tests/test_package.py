"""The wheel holds what it must; the pinned versions fit the ranges."""

from __future__ import annotations

import re
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from venvs import run

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the hatchling that is installed: nothing is downloaded."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    in_tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "worldplay_env").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if not re.match(r"worldplay_env-[^/]*\.dist-info/", name)}
        metadata = read_metadata(archive)
        licence = next(name for name in archive.namelist() if name.endswith("dist-info/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert in_wheel == in_tree
    assert {"worldplay_env/py.typed", "worldplay_env/weights/tiny/starts/starts.json"} <= in_wheel
    assert metadata["License-Expression"] == "Apache-2.0"
    links = re.findall(r"\]\(([^)]*)\)", str(metadata.get_payload()))  # of the description
    assert links
    assert all(link.startswith("https:") for link in links)  # a package index has none of the repository's files
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert ranges(required) == ranges(Requirement(text) for text in PROJECT["dependencies"])


def ranges(requirements: Iterable[Requirement]) -> dict[str, SpecifierSet]:
    """Return what versions of each package are wanted; builders spell names their own way."""
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements}


def read_metadata(archive: zipfile.ZipFile) -> Message:
    """Read the wheel's METADATA file."""
    return message_from_bytes(archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))))


def test_every_requirement_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin), f"{requirement} does not admit the pinned {pin}"
