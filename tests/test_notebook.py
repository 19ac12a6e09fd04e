"""The player and films of a notebook, and the tour."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from films import read_film
from gymnasium.error import ResetNeeded
from PIL import Image

import worldplay_env
from worldplay_env.worlds.testcard import frame_number

pytest.importorskip("ipywidgets", reason="the extra notebook is not installed")

from worldplay_env import notebook

TOUR = Path(__file__).parents[1] / "examples" / "tour.ipynb"
FAST = 1e6


def on_screen(player: notebook.Player) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(player.children[0].value)))


def button(player: notebook.Player, name: str):
    (found,) = (one for row in player.children[1].children for one in _flat(row) if one.description == name)
    return found


def _flat(widget) -> list:
    return [one for child in getattr(widget, "children", [widget]) for one in (child,)]


def test_keys_that_are_held_lead_the_next_chunk_and_back_undoes_it() -> None:
    player = notebook.player("testcard", image="snow", fps=FAST)
    start = on_screen(player)
    assert button(player, "Back").disabled
    button(player, "W").value = True
    button(player, "▶").value = True
    assert player.held == ["w", "right"]
    button(player, "Go").click()
    assert player.children[2].value == "forward + yaw right; 1 chunks so far"
    pose = player.rollout.pose
    assert pose[2, 3] > 0
    assert (on_screen(player) != start).any()
    button(player, "Back").click()
    np.testing.assert_array_equal(on_screen(player), start)
    assert player.rollout.chunks == 0
    assert not player.back()


def test_a_step_returns_the_frames_that_were_played() -> None:
    player = notebook.player(worldplay_env.load("testcard"), fps=FAST)
    first, second = player.step(["w"]), player.step()
    assert [frame_number(frame) for frame in np.concatenate([first, second])] == list(range(13 + 16))
    with pytest.raises(ValueError, match="unknown key 'q'"):
        player.step(["q"])
    assert player.rollout.chunks == 2


def test_an_env_s_player_goes_on_from_its_episode_and_leaves_it_alone() -> None:
    env = gymnasium.make("WorldPlay/Testcard-v0", observation="last")
    with pytest.raises(ResetNeeded):
        notebook.player(env)
    env.reset(seed=0)
    env.step(9)
    player = notebook.player(env, fps=FAST)
    assert frame_number(player.step(["w"])[0]) == 13
    assert (player.rollout.chunks, env.unwrapped.rollout.chunks) == (2, 1)


@pytest.mark.parametrize("what", [None, 3, object()])
def test_what_cannot_be_played_is_refused(what: object) -> None:
    with pytest.raises(TypeError, match="expected an env, a world or the name of one"):
        notebook.player(what)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_film_is_embedded(tmp_path: Path, as_tensor: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 1, 1, 3), np.uint8).repeat(32, 1).repeat(48, 2)
    html = notebook.video(torch.from_numpy(frames) if as_tensor else frames, fps=8)._repr_html_()
    (film,) = re.findall('src="data:video/mp4;base64,([^"]+)"', html)
    (tmp_path / "film.mp4").write_bytes(base64.b64decode(film))
    assert read_film(tmp_path / "film.mp4").frames.shape == (5, 128, 192, 3)
    assert read_film(tmp_path / "film.mp4").fps == 8


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3))]
)
def test_what_is_no_film_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="frames are uint8"):
        notebook.video(frames)


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    tour = nbformat.read(TOUR, as_version=4)
    assert all(not cell.get("outputs") for cell in tour.cells)
    nbclient.NotebookClient(tour, timeout=120, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    shown = [output.data for cell in tour.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("text/html" in data and "video/mp4" in data["text/html"] for data in shown) >= 3
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)
