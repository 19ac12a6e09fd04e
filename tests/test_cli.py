"""What the commands share: how a world is loaded, and how a failure is told."""

from __future__ import annotations

import importlib

import pytest
import tyro

from worldplay_env.cli import LoadArgs, fail, in_words

OPTIONS = ["--weights", "random", "--device", "cpu", "--dtype", "float16", "--revision", "v2", "--decoder", "small"]
OPTIONS += ["--accept-license"]


@pytest.mark.parametrize("command", ["play.__main__", "rollout", "evaluate.__main__", "bench"])
def test_every_command_loads_its_world_by_the_same_options(command: str) -> None:
    module = importlib.import_module(f"worldplay_env.{command}")
    args = tyro.cli(module.Args, args=["--world", "mine", *OPTIONS])
    assert isinstance(args, LoadArgs)
    assert args.world == "mine"
    assert args.load_options() == {
        "weights": "random",
        "device": "cpu",
        "dtype": "float16",
        "revision": "v2",
        "decoder": "small",
        "accept_license": True,
    }


@pytest.mark.parametrize("command", ["play.__main__", "rollout", "evaluate.__main__", "bench"])
def test_an_option_that_load_refuses_is_one_line_and_code_2(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    module = importlib.import_module(f"worldplay_env.{command}")
    assert module.main(["--dtype", "float8"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: unknown dtype 'float8': known are float32")


def test_an_error_of_the_operating_system_names_the_file_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(FileNotFoundError(2, "No such file or directory", "film.mp4"), 2) == 2
    assert capsys.readouterr().err == "error: film.mp4: No such file or directory\n"
    assert in_words(KeyError()) == "KeyError"
