"""Other people's worlds by their own names: in this process, and as installed packages."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from scripts import ROOT

import worldplay_env
from worldplay_env.worlds.registry import _registered, describe, lazy_world, resolve, world_names
from worldplay_env.worlds.testcard import Testcard

SIZE = (16, 32)


def small_testcard(device: Any = None, *, wide: int = 1) -> Testcard:
    """Make a world as a third party's factory would."""
    return Testcard((SIZE[0], SIZE[1] * wide), device=device)


@pytest.fixture
def mine() -> Iterator[str]:
    """The name of a world that is registered for one test."""
    worldplay_env.register_world("mine", small_testcard)
    yield "mine"
    del _registered["mine"]


def test_a_registered_name_makes_envs_and_is_shared_pickled_and_listed(mine: str) -> None:
    world = worldplay_env.load(mine)
    assert (world.image_size, describe(mine)) == (SIZE, world.spec)
    assert worldplay_env.load(mine) is world
    assert pickle.loads(pickle.dumps(world)) is world
    assert mine in world_names()
    assert resolve(mine) == mine
    with gymnasium.make("WorldPlay/Testcard-v0", world=mine) as env:
        obs, _ = env.reset(seed=0)
        assert obs.shape[1:3] == SIZE


def test_options_of_a_factory_are_its_own_keyword_arguments(mine: str) -> None:
    assert worldplay_env.load(mine, wide=2).image_size == (16, 64)
    with pytest.raises(ValueError, match="unknown option 'tall': 'mine' knows wide"):
        worldplay_env.load(mine, tall=2)


def test_a_world_that_was_loaded_to_describe_it_is_not_loaded_again(mine: str) -> None:
    loaded: list[Testcard] = []

    def factory() -> Testcard:
        loaded.append(Testcard(SIZE))
        return loaded[-1]

    worldplay_env.register_world(mine, factory)
    assert describe(mine).image_size == SIZE
    assert describe(mine).image_size == SIZE
    assert worldplay_env.load(mine) is loaded[0]
    assert len(loaded) == 1


def test_a_spec_that_was_given_keeps_an_env_from_loading_the_world_at_once(mine: str) -> None:
    loaded: list[Testcard] = []

    def factory() -> Testcard:
        loaded.append(Testcard(SIZE))
        return loaded[0]

    worldplay_env.register_world(mine, factory, spec=Testcard(SIZE).spec)
    spec, load = lazy_world(mine)
    assert (spec.image_size, loaded) == (SIZE, [])
    assert [load()] == loaded


@pytest.mark.parametrize(
    ("name", "factory", "error", "message"),
    [
        ("tiny", small_testcard, ValueError, "'tiny' is a world of worldplay_env"),
        ("my world", small_testcard, ValueError, "name has letters, digits"),
        ("../mine", small_testcard, ValueError, "name has letters, digits"),
        ("mine", Testcard(), TypeError, "a factory is a function that returns a World"),
    ],
)
def test_names_and_factories_that_cannot_be_are_refused(
    name: str, factory: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        worldplay_env.register_world(name, factory)
    assert "mine" not in world_names()


def test_a_factory_that_returns_no_world_is_told(mine: str) -> None:
    worldplay_env.register_world(mine, lambda: "a picture")  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="the factory of 'mine' must return a World, got str"):
        worldplay_env.load(mine)


def test_commands_find_the_world_of_an_installed_package(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        "from worldplay_env.worlds.testcard import Testcard\n\ndef make():\n    return Testcard((16, 32))\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[worldplay_env.worlds]\ntheirs-world = theirs:make\n")
    arguments = ["--world", "theirs-world", "--pose", "w-3", "--out", str(tmp_path / "film.gif")]
    done = subprocess.run(
        [sys.executable, "-m", "worldplay_env.rollout", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "film.gif").is_file()
