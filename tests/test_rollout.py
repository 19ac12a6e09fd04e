"""Rolling a trajectory out: any length becomes chunks, the film is streamed, and nothing is left half done."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import read_film
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import worldplay_env
from worldplay_env.control.camera import DEFAULT_INTRINSICS, Motion, integrate
from worldplay_env.control.layout import LAYOUT
from worldplay_env.control.trajectory import Trajectory, parse_pose_string, trajectory_of_poses
from worldplay_env.envs.starts import choose_start
from worldplay_env.media.video import FilmWriter, _Encoder
from worldplay_env.rollout import chunk_controls, frame_count, main, roll_out
from worldplay_env.worlds.base import Start, WorldError
from worldplay_env.worlds.testcard import Testcard

TESTCARD = ("--world", "testcard", "--image", "none")


def circle(poses: int) -> Trajectory:
    """Return a walk in a circle that begins away from the origin."""
    start = integrate(np.eye(4), [Motion(forward=1.0, right=2.0, yaw=0.3)])[-1]
    zoom = np.linspace(1.0, 1.5, poses)[:, None, None] * np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]])
    intrinsics = np.where(np.eye(3, dtype=bool) & (zoom > 0), zoom * DEFAULT_INTRINSICS, DEFAULT_INTRINSICS)
    return trajectory_of_poses(integrate(start, [Motion(forward=0.08, yaw=0.05)] * (poses - 1)), intrinsics)


def frames_of(pose_string: str) -> np.ndarray:
    chunks = list(roll_out(Testcard((24, 40)), Start(), parse_pose_string(pose_string), seed=3))
    return np.concatenate([chunk.frames for chunk in chunks if chunk.frames is not None])


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Return a function that makes the test picture raise an error in its second chunk."""

    def fail(error: BaseException) -> None:
        step = Testcard.step

        def step_or_fail(self: Testcard, rollouts: Any, controls: Any, **options: Any) -> Any:
            if rollouts[0].chunks == 1:
                raise error
            return step(self, rollouts, controls, **options)

        monkeypatch.setattr(Testcard, "step", step_or_fail)

    return fail


@given(st.integers(1, 40))
def test_chunks_hold_the_trajectory_and_then_stand_still(poses: int) -> None:
    trajectory = circle(poses)
    controls = chunk_controls(trajectory, LAYOUT.latents)

    assert len(controls) == -(-poses // 4)
    for name in ("poses", "labels", "intrinsics"):
        joined, given_values = np.concatenate([getattr(one, name) for one in controls]), getattr(trajectory, name)
        np.testing.assert_array_equal(joined[:poses], given_values)
        still = np.zeros(1) if name == "labels" else given_values[-1]
        np.testing.assert_array_equal(joined[poses:], np.broadcast_to(still, joined[poses:].shape))


@pytest.mark.parametrize("motions", [0, 1, 3, 4, 7, 9])
def test_the_film_of_a_path_ends_where_the_path_ends(motions: int) -> None:
    assert frame_count(parse_pose_string(f"w-{motions}"), LAYOUT) == 1 + 4 * motions
    np.testing.assert_array_equal(frames_of(f"w-{motions}"), frames_of("w-11")[: 1 + 4 * motions])


def test_motions_that_change_inside_a_chunk_are_followed() -> None:
    turning, straight = frames_of("w-1, right-1, w-1"), frames_of("w-3")
    np.testing.assert_array_equal(turning[:5], straight[:5])
    assert (turning[5:] != straight[5:]).any(axis=(1, 2, 3)).all()


def test_the_first_pose_of_a_trajectory_is_the_start() -> None:
    trajectory = circle(6)
    began = []

    class Watched(Testcard):
        def start(self, start: Start, seed: int) -> Any:
            began.append(start.pose)
            return super().start(start, seed)

    list(roll_out(Watched((24, 40)), Start(), trajectory, seed=0))
    np.testing.assert_array_equal(began, trajectory.poses[:1])


def test_chunks_are_made_when_they_are_asked_for_and_written_as_they_come(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    step, write = Testcard.step, FilmWriter.write
    monkeypatch.setattr(Testcard, "step", lambda *a, **k: events.append("step") or step(*a, **k))
    monkeypatch.setattr(FilmWriter, "write", lambda *a: events.append("write") or write(*a))

    assert main([*TESTCARD, "--pose", "w-10"]) == 0
    assert events == ["step", "write"] * 3


def test_a_run_writes_film_sheet_and_record_and_names_them(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = in_folder / "picture.png"
    Image.new("RGB", (30, 20), (200, 30, 30)).save(picture)
    arguments = ["--world", "testcard", "--image", str(picture), "--pose", "w-2, right-3", "--seed", "7"]

    assert main([*arguments, "--prompt", "red", "--fps", "10", "--out", "here/walk.mp4"]) == 0

    printed = capsys.readouterr().out
    paths = {suffix: Path("here/walk").with_suffix(suffix) for suffix in (".mp4", ".png", ".json")}
    assert set(Path("here").iterdir()) == set(paths.values())
    assert all(str(path) in printed for path in paths.values())
    film = read_film(paths[".mp4"])
    assert (film.frames.shape, film.fps) == ((21, 384, 640, 3), 10)
    with Image.open(paths[".png"]) as sheet:
        assert sheet.width > 3 * 320
    record = json.loads(paths[".json"].read_text())
    assert record["settings"]["pose"] == "w-2, right-3"
    assert record["settings"]["seed"] == 7
    assert record["prompt"] == "red"
    assert record["start"] == str(picture)
    assert (record["frames"], record["latent_frames"], record["fps"]) == (21, 6, 10)
    assert (record["scale"], record["resample"]) == (4, "lanczos")
    assert [(chunk["frames"], chunk["memory"]) for chunk in record["chunks"]] == [(13, []), (8, [0, 1, 2, 3])]
    assert all(chunk["timings"]["render"] <= chunk["seconds"] for chunk in record["chunks"])
    assert record["versions"]["worldplay_env"] == worldplay_env.__version__
    assert record["world"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("out", "film"),
    [((), "outputs/testcard.mp4"), (("--out", "walk"), "walk.mp4"), (("--out", "a/b.mp4"), "a/b.mp4")],
)
def test_the_film_goes_where_it_should(out: tuple[str, ...], film: str, in_folder: Path) -> None:
    assert main([*TESTCARD, "--pose", "w-1", *out]) == 0
    assert len(read_film(Path(film)).frames) == 5


def test_the_record_says_how_a_film_was_enlarged_or_that_it_was_not(in_folder: Path) -> None:
    for scale, resample, said in ((2, "nearest", (2, "nearest")), (1, "nearest", (1, None))):
        options = ("--scale", str(scale), "--resample", resample, "--out", "a")
        assert main([*TESTCARD, "--pose", "w-1", *options]) == 0
        record = json.loads(Path("a.json").read_text())
        assert (record["scale"], record["resample"]) == said
        assert read_film(Path("a.mp4")).frames.shape[1:3] == (96 * scale, 160 * scale)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_the_suffix_chooses_the_format(suffix: str, in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TESTCARD, "--pose", "w-2", "--out", f"a{suffix}"]) == 0
    assert f"a{suffix}  (film" in capsys.readouterr().out
    assert {path.name for path in in_folder.iterdir()} == {f"a{suffix}", "a.png", "a.json"}
    with Image.open(f"a{suffix}") as film:
        assert (film.size, getattr(film, "n_frames", 1)) == ((640, 384), 9)


def test_a_trajectory_file_is_rolled_out(in_folder: Path) -> None:
    poses = circle(5).poses
    K = [[900, 0, 960], [0, 900, 540], [0, 0, 1]]
    entries = {str(index): {"extrinsic": pose.tolist(), "K": K} for index, pose in enumerate(poses)}
    Path("path.json").write_text(json.dumps(entries))

    assert main([*TESTCARD, "--pose", "path.json", "--out", "a"]) == 0
    assert len(read_film(Path("a.mp4")).frames) == 17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pose", "w-x"], "w-x"),
        (["--pose", ""], "no motion"),
        (["--pose", "w-0"], "no motion"),
        (["--pose", "still.json"], "no motion"),
        (["--world", "scene", "--image", "picture.png"], "cannot begin from 'picture.png'"),
        (["--out", "taken.mp4"], "taken.json is a folder"),
        (["--pose", "missing.json"], "missing.json"),
        (["--image", "missing.png"], "missing.png"),
        (["--image", "text.txt"], "text.txt"),
        (["--out", "text.txt/a.mp4"], "text.txt"),
        (["--out", "a.avi"], ".mp4, .gif, .webp"),
        (["--scale", "0"], "1 to 16, got 0"),
        (["--scale", "17"], "1 to 16, got 17"),
        (["--out", "folder.mp4"], "folder.mp4"),
        (["--fps", "0"], "positive"),
        (["--seed", "-1"], "-1"),
        (["--world", "nowhere"], "testcard"),
        (["--device", "toaster"], "toaster"),
        (["--dtype", "float8"], "float16"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], message: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.txt").write_text("no picture")
    Path("folder.mp4").mkdir()
    Path("taken.json").mkdir()
    Image.new("RGB", (30, 20)).save("picture.png")
    still = {"0": {"extrinsic": np.eye(4).tolist(), "K": [[900, 0, 960], [0, 900, 540], [0, 0, 1]]}}
    Path("still.json").write_text(json.dumps(still))
    before = set(in_folder.iterdir())
    settings = {"--world": "testcard", "--image": "none", "--out": "a.mp4"}
    settings.update(zip(arguments[::2], arguments[1::2], strict=True))

    assert main([word for pair in settings.items() for word in pair]) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert set(in_folder.iterdir()) == before


def test_a_prompt_that_changes_nothing_is_told_and_the_film_made(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TESTCARD, "--pose", "w-1", "--prompt", "a hill"]) == 0
    assert "testcard takes no prompt: 'a hill'" in capsys.readouterr().err


def test_errors_of_several_lines_keep_them(
    in_folder: Path, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(WorldError("not finite:\n  nan\n  inf"))
    assert main([*TESTCARD, "--pose", "w-9", "--out", "a"]) == 1
    assert capsys.readouterr().err.endswith("error: not finite:\n  nan\n  inf\n")


def test_what_an_encoder_wrote_before_it_failed_is_named(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish = _Encoder.finish
    monkeypatch.setattr(_Encoder, "finish", lambda self: finish(self) or "no space left")
    assert main([*TESTCARD, "--pose", "w-1", "--out", "a"]) == 1
    [partial] = in_folder.iterdir()
    assert f"no space left; the 5 frames so far are in {partial.name}" in capsys.readouterr().err
    assert len(read_film(partial).frames) == 5


def test_a_film_that_cannot_take_its_name_is_named_as_it_is(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish = _Encoder.finish
    # Something else takes the name while the film is made.
    monkeypatch.setattr(_Encoder, "finish", lambda self: Path("a.mp4").mkdir() or finish(self))  # type: ignore[func-returns-value]
    assert main([*TESTCARD, "--pose", "w-1", "--out", "a"]) == 1
    [partial] = in_folder.glob("*partial*")
    assert f"the 5 frames so far are in {partial.name}" in capsys.readouterr().err
    assert len(read_film(partial).frames) == 5


def test_an_encoder_that_never_began_leaves_nothing(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TESTCARD, "--pose", "w-1", "--out", "a", "--fps", "1e30"]) == 1
    assert "error: writing a.mp4 failed" in capsys.readouterr().err
    assert not list(in_folder.iterdir())


def test_a_failing_world_leaves_the_older_film(
    in_folder: Path, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TESTCARD, "--pose", "w-3", "--out", "a"]) == 0
    before = {path: path.read_bytes() for path in in_folder.iterdir()}
    failing(WorldError("not finite"))

    assert main([*TESTCARD, "--pose", "w-9", "--out", "a"]) == 1
    assert "error: not finite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in in_folder.iterdir()} == before


def test_an_interruption_keeps_what_was_made_beside_the_older_film(
    in_folder: Path, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TESTCARD, "--pose", "w-1", "--out", "a"]) == 0
    failing(KeyboardInterrupt())

    assert main([*TESTCARD, "--pose", "w-9", "--out", "a"]) == 130
    (partial,) = Path().glob("a.*.partial.mp4")
    assert partial.name in capsys.readouterr().err
    assert len(read_film(partial).frames) == 13
    assert len(read_film(Path("a.mp4")).frames) == 5


@pytest.fixture
def long_run(in_folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "worldplay_env.rollout", *TESTCARD, "--pose", "w-90000", "--out", "a"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit: ignore it
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        signal.signal(signal.SIGINT, before)
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="process groups are those of POSIX")
def test_ctrl_c_reaches_the_program_and_not_its_encoder(long_run: subprocess.Popen[bytes]) -> None:
    assert long_run.stderr is not None
    seen = b""
    while b"3/22501" not in seen:  # the third chunk is done
        byte = long_run.stderr.read(1)
        assert byte, f"the program ended: {seen.decode()}"
        seen += byte
    os.killpg(long_run.pid, signal.SIGINT)  # as a terminal does: to the whole group

    began = time.monotonic()
    assert long_run.wait(timeout=60) == 130
    assert time.monotonic() - began < 60
    (partial,) = Path().glob("a.*.partial.mp4")
    said = re.search(rb"the (\d+) frames so far", long_run.stderr.read())
    assert said is not None
    assert int(said[1]) >= 13 + 16
    # The interruption may come between a frame and its count.
    assert len(read_film(partial).frames) - int(said[1]) in (0, 1)


@pytest.mark.parametrize(
    ("image", "prompt", "pictured", "said"),
    [("none", None, False, ""), ("none", "a hill", False, "a hill"), ("picture.png", None, True, "")],
)
def test_the_start_is_what_was_asked_for(
    image: str, prompt: str | None, pictured: bool, said: str, in_folder: Path
) -> None:
    Image.new("RGB", (30, 20)).save("picture.png")
    start = choose_start(image, prompt)
    assert (start.image is not None, start.prompt) == (pictured, said)


def test_the_default_start_is_a_bundled_picture_with_its_own_prompt_unless_another_is_given() -> None:
    own, other = choose_start(None, None), choose_start(None, "a hill")
    assert own.image is not None
    assert own.prompt
    np.testing.assert_array_equal(own.image, other.image)
    assert other.prompt == "a hill"


def test_a_world_of_another_layout_is_filmed_with_its_character(tmp_path: Path) -> None:
    for shade, name in enumerate(("head", "left", "right", "front", "back")):
        Image.fromarray(np.full((8, 8, 3), 40 * shade, np.uint8)).save(tmp_path / f"{name}.png")
    world = ["--world", "abot-small", "--weights", "random", "--device", "cpu", "--pose", "w-4"]
    films = []
    for name, more in (("without", []), ("with", ["--references", str(tmp_path)])):
        path = tmp_path / f"{name}.mp4"
        assert main([*world, *more, "--out", str(path), "--scale", "1"]) == 0
        films.append(read_film(path))
    assert [(len(film.frames), film.fps) for film in films] == [(17, 12.0)] * 2
    assert not np.array_equal(films[0].frames, films[1].frames)
