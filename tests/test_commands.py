"""The commands are listed, found by their names, and say what they can be told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import ROOT

from worldplay_env.__main__ import COMMANDS, main

PACKAGE = ROOT / "worldplay_env"
MAIN = 'if __name__ == "__main__":'
SCRIPTS = [
    path
    for folder in ("agents", "examples")
    for path in sorted(ROOT.glob(f"{folder}/*.py"))
    if MAIN in path.read_text()
]


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    runnable = {
        (path.parent if path.name == "__main__.py" else path.with_suffix("")).relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if MAIN in path.read_text() and path != PACKAGE / "__main__.py"
    }
    assert set(COMMANDS) == runnable
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        listed = re.findall(r"^  (\w+)  +(.+)$", capsys.readouterr().out, re.MULTILINE)
        assert dict(listed) == COMMANDS


def test_a_command_gets_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["worldplay"])
    monkeypatch.delitem(sys.modules, "worldplay_env.scenes", raising=False)  # as in a new process
    with pytest.raises(SystemExit) as ended:
        main(["scenes", str(tmp_path), "--seeds", "3", "--size", "32", "48"])
    assert ended.value.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene-3.png", "starts.json"]


def test_an_unknown_command_is_an_error_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rolout"]) == 2
    said = capsys.readouterr().err
    assert "'rolout'" in said
    assert "did you mean rollout?" in said
    assert all(name in said for name in COMMANDS)


HELP = """
import contextlib, io, json, os, re, runpy, sys
from worldplay_env.__main__ import COMMANDS, main

def help_of(call, *arguments):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            call(*arguments)
        except SystemExit as ended:
            assert not ended.code, (arguments, ended.code)
    return said.getvalue()

def script(path):
    sys.argv = [path, "--help"]
    sys.path[0] = os.path.dirname(path)  # as Python does for a script
    runpy.run_path(path, run_name="__main__")

scripts, helps = sys.argv[1:], {}
for name in COMMANDS:
    helps[name] = help_of(main, [name, "--help"])
    if stages := re.search(r"\\{([a-z,]+)\\}", helps[name].splitlines()[0]):
        for stage in stages[1].split(","):
            helps[f"{name} {stage}"] = help_of(main, [name, stage, "--help"])
for path in scripts:
    helps[path] = help_of(script, path)
print(json.dumps(helps))
"""


@pytest.mark.slow
def test_every_help_names_the_program_says_what_it_does_and_does_nothing(tmp_path: Path) -> None:
    scripts = [str(path) for path in SCRIPTS]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *scripts], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    helps = json.loads(done.stdout.splitlines()[-1])
    assert {*COMMANDS, "training autoencoder", "weights convert"} <= helps.keys()
    for name, said in helps.items():
        usage, described = said.split("\n\n", 1)
        program = Path(name).name if name in scripts else f"python -m worldplay_env.{name}"
        begin = r"usage: (\S+/)?" if name in scripts else "usage: "
        assert re.match(rf"{begin}{re.escape(program)} ", re.sub(r"\s+", " ", usage)), name
        assert re.match(r"\s*[`A-Z][^╭]{10,}", described), f"{name} does not say what it does"
        assert "(default: )" not in said, name
    assert list(tmp_path.iterdir()) == []
