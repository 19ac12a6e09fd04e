"""The bundled start pictures are held-out scenes, and can be made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from worldplay_env.envs.starts import BUNDLED, find_starts
from worldplay_env.media.image import read_image
from worldplay_env.scenes import main
from worldplay_env.worlds.scene.build import HELD_OUT_SEED, build
from worldplay_env.worlds.scene.starts import BUNDLED_PROMPTS, BUNDLED_SCENES, PICTURE_SIZE, first_picture


def test_they_are_of_held_out_scenes_with_prompts_of_their_own() -> None:
    assert min(BUNDLED_SCENES.values()) >= HELD_OUT_SEED
    listed = [(str(image), prompt) for image, prompt in find_starts()]
    assert listed == [(str(BUNDLED / f"{name}.png"), BUNDLED_PROMPTS[name]) for name in BUNDLED_SCENES]


@pytest.mark.parametrize(
    ("name", "hidden", "shown"),
    [
        ("courtyard", "red steps", "a pink arch"),
        ("room", "orange walls", "olive walls"),
        ("street", "a wine ball", "a yellow crate"),
        ("snow", "brown ground", "a lamp"),
        ("snow", "a green ball", "a red arch"),
    ],
)
def test_their_prompts_name_what_is_in_view_and_not_what_is_behind_the_camera(
    name: str, hidden: str, shown: str
) -> None:
    named = BUNDLED_PROMPTS[name].split(", ")
    assert hidden in build(BUNDLED_SCENES[name]).caption
    assert hidden not in named
    assert shown in named


@pytest.mark.parametrize("name", ["courtyard", "snow"])
def test_they_are_what_the_renderer_draws(name: str) -> None:
    shipped = read_image(BUNDLED / f"{name}.png")
    assert shipped.shape == (*PICTURE_SIZE, 3)
    drawn = first_picture(build(BUNDLED_SCENES[name]))
    # Another processor may round a ray to the other side of an edge.
    assert (np.abs(shipped.astype(int) - drawn) > 2).mean() < 1e-3


def test_the_program_writes_a_folder_that_an_env_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a" / "starts"
    assert main([str(folder), "--seeds", "900001", "7", "--size", "24", "40"]) == 0
    assert capsys.readouterr().out.split() == [
        str(folder / name) for name in ("scene-900001.png", "scene-7.png", "starts.json")
    ]
    assert [Path(str(image)).name for image, _ in find_starts(folder)] == ["scene-900001.png", "scene-7.png"]
    assert [entry["prompt"] for entry in json.loads((folder / "starts.json").read_text())] == [
        build(900_001).caption,
        build(7).caption,
    ]
    assert read_image(folder / "scene-7.png").shape == (24, 40, 3)


@pytest.mark.parametrize(("arguments", "message"), [(["--size", "0", "4"], "--size"), (["--seeds", "-1"], "seed")])
def test_what_cannot_be_drawn_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
