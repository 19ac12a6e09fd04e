"""Every example runs as it stands, and leaves the film that it promises."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from films import read_film
from PIL import Image
from scripts import ROOT, run_script

import worldplay_env

SCRIPTS = sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("agents/*.py")])


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    result = run_script("examples/quickstart.py", folder=tmp_path)

    assert result.returncode == 0, result.stderr
    assert read_film(tmp_path / "outputs" / "quickstart.mp4").frames.shape == (13 + 3 * 16, 96, 160, 3)


@pytest.mark.slow
def test_image_to_world_starts_from_the_picture_given(tmp_path: Path) -> None:
    Image.new("RGB", (200, 300), (30, 160, 90)).save(tmp_path / "mine.png")
    arguments = ["mine.png", "--world", "testcard", "--pose", "w-2, right-3"]
    result = run_script("examples/image_to_world.py", *arguments, folder=tmp_path)

    assert result.returncode == 0, result.stderr
    frames = read_film(tmp_path / "outputs" / "image_to_world.mp4").frames
    assert len(frames) == 21
    np.testing.assert_allclose(np.median(frames[0], axis=(0, 1)), (30, 160, 90), atol=12)


@pytest.mark.slow
def test_branch_shows_one_past_and_three_futures_side_by_side(tmp_path: Path) -> None:
    result = run_script("examples/branch.py", "--env", "WorldPlay/Testcard-v0", "--steps", "1", folder=tmp_path)

    assert result.returncode == 0, result.stderr
    frames = read_film(tmp_path / "outputs" / "branch.mp4").frames
    assert frames.shape == (32, 96, 480, 3)
    apart = [
        [
            np.abs(
                frames[index, :, 160 * a : 160 * a + 160].astype(int) - frames[index, :, 160 * b : 160 * b + 160]
            ).mean()
            for a, b in ((0, 1), (1, 2), (0, 2))
        ]
        for index in (8, 31)
    ]
    assert max(apart[0]) < 3  # the compression's own difference
    assert min(apart[1]) > 10
    with Image.open(tmp_path / "outputs" / "branch.png") as sheet:
        assert sheet.width > 3 * 320


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_agents_and_examples_use_nothing_private(script: Path) -> None:
    tree = ast.parse(script.read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "worldplay_env"
    }
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("worldplay_env")
        for name in node.names
    }
    assert used <= set(worldplay_env.__all__)
    assert not any(name.startswith("_") for name in imported)
