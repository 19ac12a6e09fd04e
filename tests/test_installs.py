"""What is declared is enough: the wheel with its base requirements alone, and the oldest versions asked for."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from venvs import link, make_venv, run

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

USE = """
import contextlib, importlib.util, io, sys
from pathlib import Path
import gymnasium as gym
import worldplay_env
from worldplay_env import *
from worldplay_env.__main__ import COMMANDS, main

for name in ("moviepy", "tensorboard", "ray", "diffusers", "scipy", "pytest"):
    assert importlib.util.find_spec(name) is None, name
for name in worldplay_env.__all__:
    assert globals()[name] is getattr(worldplay_env, name)
with RecordChunks(FrameByFrame(gym.make("WorldPlay/Testcard-v0", render_mode="rgb_array_list")), "films") as env:
    env.reset(seed=0)
    for _ in range(13):
        assert env.observation_space.contains(env.step(9)[0])
envs = RecordVectorChunks(gym.make_vec("WorldPlay/Testcard-v0", num_envs=2), "films")
envs.reset(seed=0)
envs.step(envs.action_space.sample())
envs.close()
for name in COMMANDS:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([name, "--help"])
    assert "--help" in said.getvalue() and name in said.getvalue(), name
print(worldplay_env.__file__)
"""


@pytest.mark.slow
def test_the_wheel_and_its_base_requirements_are_enough(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", ".", str(ROOT), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    python, site = make_venv(tmp_path / "venv")
    link(site, PROJECT["dependencies"])
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    assert "No broken requirements" in run(*pip, "check", cwd=tmp_path)

    used = run(python, "-I", "-c", USE, cwd=tmp_path)
    assert Path(used.splitlines()[-1]).is_relative_to(site)
    films = {path.name for path in (tmp_path / "films").iterdir()}
    assert films == {"rl-video-episode-0.mp4", "rl-video-env-0-episode-0.mp4"}
    worldplay = str(Path(python).with_name("worldplay"))
    assert "rollout" in run(worldplay, cwd=tmp_path)
    run(worldplay, "rollout", "--pose", "w-3", "--out", "walk", cwd=tmp_path)  # the bundled weights
    assert {"walk.mp4", "walk.png", "walk.json"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_environments_work_with_the_oldest_versions_asked_for(tmp_path: Path) -> None:
    python, site = make_venv(tmp_path / "venv")
    # Torch is the one that is here, which is too large to fetch for a test.
    link(site, ["torch", "pytest", "hypothesis", "pip"])
    (site / "package.pth").write_text(f"{ROOT}\n")  # for the programs that tests start, too
    oldest = [
        f"{requirement.name}=={re.search('>=([0-9.]+)', str(requirement.specifier))[1]}"  # type: ignore[index]
        for requirement in map(Requirement, PROJECT["dependencies"])
        if requirement.name != "torch"
    ]
    try:
        run(python, "-m", "pip", "install", "--retries", "0", *oldest, cwd=tmp_path)
    except AssertionError as error:
        if re.search("connection|timed out|resolve host|name resolution|proxy", str(error), re.IGNORECASE):
            pytest.skip("the package index cannot be reached")
        raise
    tests = [str(ROOT / "tests" / name) for name in ("test_import.py", "envs/wrappers", "envs/test_env.py")]
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    program = f"import sys, pytest; sys.exit(pytest.main({[*options, *tests]}))"
    assert "passed" in run(python, "-c", program, cwd=ROOT)
