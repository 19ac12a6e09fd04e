"""The command line: a script makes its film again, bit for bit, and what cannot be done is one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pygame
import pytest
from films import read_film
from PIL import Image

from worldplay_env.envs.starts import find_starts
from worldplay_env.play.__main__ import Args, lane_names, main, make_plan
from worldplay_env.play.plan import begin_elsewhere
from worldplay_env.play.screen import Screen
from worldplay_env.play.screen_state import ScreenState
from worldplay_env.play.session import Session
from worldplay_env.worlds.base import WorldError

FAST = ("--world", "testcard", "--fps", "250", "--size", "320x200")
SCRIPT = [
    {"frame": 0, "press": "f"},
    {"keys": [[], ["w"], ["w"], ["w", "right"]]},
    {"keys": ["w", "right"]},
    {"frame": 20, "press": "b"},
    {"keys": ["d"], "prompt": "it snows"},
    {"frame": 38, "press": "n"},
    {"keys": ["up"]},
    {"frame": 50, "press": "enter"},
    {"keys": ["s"]},
    {"frame": 58, "press": "c"},
    {"frame": 60, "press": "escape"},
]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worldplay")]


def write_script(lines: list[dict[str, Any]], name: str = "script.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return name


def test_the_same_seed_and_keys_give_the_same_film(capsys: pytest.CaptureFixture[str]) -> None:
    script = write_script(SCRIPT)
    assert main([*FAST, "--script", script, "--record", "again.jsonl", "--out", "first", "--seed", "4"]) == 0
    assert capsys.readouterr().out.splitlines() == ["first/picture-001.png", "first/film-001.mp4"]
    # A recording of the replay makes the same film once more, at another pace.
    assert main(["--script", "again.jsonl", "--out", "second", "--fps", "400", "--size", "400x300"]) == 0
    assert main([*FAST, "--script", script, "--out", "third", "--seed", "5"]) == 0

    films = [read_film(Path(folder) / "film-001.mp4").frames for folder in ("first", "second", "third")]
    assert [len(film) for film in films] == [60, 60, 60]
    np.testing.assert_array_equal(films[0], films[1])
    assert (films[0] != films[2]).any()
    pictures = [Path(folder, "picture-001.png").read_bytes() for folder in ("first", "second")]
    assert pictures[0] == pictures[1]


def test_a_recording_tells_what_it_was_played_in(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((20, 30, 3), 90, np.uint8))
    image.save("mine.png")
    script = write_script([{"keys": ["w"]}, {"frame": 5, "press": "escape"}])
    settings = ["--image", "mine.png", "--prompt", "fog", "--seed", "7", "--compare", "9"]
    assert main([*FAST, *settings, "--script", script, "--record", "session.jsonl"]) == 0
    plan = make_plan(Args(script=Path("session.jsonl")))
    assert (plan.worlds, plan.seeds, plan.start.prompt) == (("testcard", "testcard"), (7, 9), "fog")
    assert (plan.first_pictures[0] == 90).all()
    assert make_plan(Args(script=Path("session.jsonl"), seed=1, compare="testcard")).seeds == (1, 1)


def test_two_worlds_are_filmed_side_by_side() -> None:
    script = write_script(SCRIPT)
    assert main([*FAST, "--compare", "8", "--script", script]) == 0
    left, right = np.split(read_film(Path("outputs/film-001.mp4")).frames, 2, axis=2)
    assert left.shape == right.shape == (60, 384, 640, 3)  # four times as large as the worlds'
    assert (left != right).any()


def test_films_are_as_large_as_asked_for() -> None:
    script = write_script(SCRIPT)
    assert main([*FAST, "--scale", "1", "--script", script]) == 0
    assert read_film(Path("outputs/film-001.mp4")).frames.shape == (60, 96, 160, 3)


def test_a_recorded_session_goes_on_under_the_keyboard_where_it_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, shown = Screen.draw, []

    def leave_after(count: int) -> None:
        def draw_or_leave(screen: Screen, view: ScreenState) -> None:
            draw(screen, view)
            shown.append(view)
            if "age" in "".join(view.figures) and len(shown) >= count:
                pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE))

        monkeypatch.setattr(Screen, "draw", draw_or_leave)

    leave_after(40)
    assert main([*FAST, "--record", "session.jsonl"]) == 0
    lines = Path("session.jsonl").read_text().splitlines()
    assert len(lines) > 1
    assert not [line for line in lines if "escape" in line]
    shown.clear()
    leave_after(300)
    assert main(["--fps", "250", "--size", "320x200", "--script", "session.jsonl"]) == 0
    assert len(shown) >= 300
    assert "the script is over: the keys are yours" in {view.notice for view in shown}


def test_a_bundled_picture_is_given_by_its_name() -> None:
    plan = make_plan(Args(image="snow", compare="scene"))
    assert [start.name for start in plan.starts] == ["snow", "snow"]
    assert {start.prompt for start in plan.starts} == {find_starts("snow")[0][1]}
    assert make_plan(Args(image="dusk", prompt="fog")).start.prompt == "fog"
    with pytest.raises(ValueError, match=r"no picture at 'sno'.*courtyard"):
        make_plan(Args(image="sno"))


def test_references_are_a_folder_of_pictures(tmp_path: Path) -> None:
    for shade, name in enumerate(("head", "left", "right", "front", "back")):
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(tmp_path / f"{name}.png")
    references = make_plan(Args(world="abot-small", references=tmp_path)).start.references
    assert [int(picture[0, 0, 0]) for picture in references] == [0, 1, 2, 3, 4]
    plan = make_plan(Args(world="abot-small", references=tmp_path))
    assert len(begin_elsewhere(plan, "snow").start.references) == 5
    with pytest.raises(ValueError, match="this world takes none"):
        make_plan(Args(world="testcard", references=tmp_path))


def test_a_world_of_another_layout_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    write_script([{"frame": 0, "press": "f"}, {"keys": ["w"]}, {"keys": ["right"]}, {"frame": 20, "press": "escape"}])
    arguments = ["--world", "abot-small", "--weights", "random", "--device", "cpu", "--fps", "250"]
    assert main([*arguments, "--size", "320x200", "--script", "script.jsonl"]) == 0
    [film] = Path("outputs").glob("*.mp4")
    assert len(read_film(film).frames) >= 20


def test_a_scene_beside_another_world_is_the_place_of_its_picture(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(Args(world="testcard", compare="scene", prompt="fog"))
    assert [start.prompt for start in plan.starts] == ["fog", find_starts()[0][1]]
    assert plan.notes == (
        "testcard takes no prompt: 'fog' changes nothing in it",
        "scene begins in the place that the picture shows: 'fog' changes nothing in it",
    )
    assert make_plan(Args(world="scene", prompt="scene 900012")).starts[0].prompt == "scene 900012"
    assert make_plan(Args(world="scene", compare="3", image="none", prompt="scene 900012")).notes == ()
    script = write_script([{"frame": 2, "press": "escape"}])
    assert main([*FAST, "--prompt", "fog", "--script", script]) == 0
    assert capsys.readouterr().err == "testcard takes no prompt: 'fog' changes nothing in it\n"


def test_a_task_is_recorded_and_has_the_steps_of_the_registered_env() -> None:
    script = write_script([{"keys": ["w"]}, {"frame": 5, "press": "escape"}])
    assert main([*FAST, "--task", "reach", "--seed", "3", "--script", script, "--record", "session.jsonl"]) == 0
    plan = make_plan(Args(script=Path("session.jsonl")))
    assert plan.goals is not None
    assert plan.goals.limit == 12
    assert make_plan(Args()).goals is None


def test_worlds_are_told_apart_by_name_or_by_seed() -> None:
    assert lane_names(["tiny", "scene"], [0, 0]) == ["tiny", "scene"]
    assert lane_names(["tiny", "tiny"], [0, 3]) == ["tiny, seed 0", "tiny, seed 3"]
    assert lane_names(["/weights/mine/"], [0]) == ["mine"]


def test_sound_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_AUDIODRIVER", "no-such-driver")
    assert main([*FAST, "--script", write_script([{"frame": 2, "press": "escape"}])]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--world", "nowhere"], "unknown world 'nowhere': known are tiny"),
        (["--compare", "nowhere"], "unknown world 'nowhere'"),
        (["--image", "missing.png"], "no picture at 'missing.png'"),
        (["--world", "scene", "--image", "mine.png"], "this world cannot begin from 'mine.png'"),
        (["--compare", "scene", "--image", "mine.png"], "this world cannot begin from 'mine.png'"),
        (["--compare", "scene", "--image", "none"], "scene shows the places of pictures"),
        (["--task", "fetch"], "unknown task 'fetch': known are reach"),
        (["--task", "reach", "--compare", "9"], "--task is for one world"),
        (["--image", "text.png"], "'text.png' is not a picture"),
        (["--script", "missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["--script", "text.png"], "text.png, line 1: not JSON"),
        (["--script", "keys.jsonl"], "keys.jsonl, line 2: unknown key 'q'"),
        (["--record", "text.png/session.jsonl"], "text.png: "),
        (["--out", "text.png"], "films and pictures cannot be written there"),
        (["--out", "text.png/films"], "films and pictures cannot be written there"),
        (["--size", "large"], "width and height in pixels such as 960x600"),
        (["--size", "10x10"], "320x200 to 7680x4320"),
        (["--fps", "0"], "--fps is a number over 0"),
        (["--fps", "nan"], "--fps is a number over 0"),
        (["--seed", "-1"], "--seed is a whole number"),
        (["--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("no picture")
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save("mine.png")
    write_script([{"keys": ["w"]}, {"keys": ["q"]}], "keys.jsonl")
    assert main([*FAST, *arguments]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1


def test_without_a_display_it_says_so_and_leaves_an_older_recording_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    Path("session.jsonl").write_text("mine")
    assert main([*FAST, "--record", "session.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "there is no display to open a window on" in said
    assert len(said.splitlines()) == 1
    assert Path("session.jsonl").read_text() == "mine"


def test_ctrl_c_keeps_the_film_and_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Session.advance

    def advance_or_stop(session: Session) -> Any:
        if session.frames_shown == 30:
            raise KeyboardInterrupt
        return advance(session)

    monkeypatch.setattr(Session, "advance", advance_or_stop)
    assert main([*FAST, "--script", write_script(SCRIPT), "--record", "session.jsonl"]) == 130
    assert len(read_film(Path("outputs/film-001.mp4")).frames) == 30
    assert len(Path("session.jsonl").read_text().splitlines()) > 3


def test_a_world_that_fails_keeps_the_film(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldplay_env.worlds.testcard import Testcard

    stream = Testcard.stream

    def stream_or_fail(self: Testcard, rollout: Any, control: Any) -> Any:
        if rollout.chunks == 2:
            raise WorldError("out of memory")
        return stream(self, rollout, control)

    advance = Session.advance

    def advance_until_failure(session: Session) -> Any:
        update = advance(session)
        if session.error is not None and update.frame is None and session.until_due() is None:
            raise KeyboardInterrupt
        return update

    monkeypatch.setattr(Testcard, "stream", stream_or_fail)
    monkeypatch.setattr(Session, "advance", advance_until_failure)
    script = write_script([SCRIPT[0], *[{"keys": ["w"]}] * 3, {"frame": 40, "press": "escape"}])
    assert main([*FAST, "--script", script]) == 1
    assert capsys.readouterr().err == "error: out of memory\n"
    assert len(read_film(Path("outputs/film-001.mp4")).frames) == 29


@pytest.mark.slow
def test_it_runs_as_a_command_and_leaves_nothing_behind() -> None:
    script = write_script(SCRIPT)
    command = [sys.executable, "-W", "error", "-m", "worldplay_env.play", *FAST, "--script", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["outputs/picture-001.png", "outputs/film-001.mp4"]
