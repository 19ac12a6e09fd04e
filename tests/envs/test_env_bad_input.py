"""Whatever an env is given that it cannot use: a clear error, and an env that goes on as if nothing had been."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from bad_images import BAD_SOURCES
from gymnasium.error import Error as GymnasiumError
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from PIL import Image

from worldplay_env import ImageError, InvalidAction, WorldPlayEnv
from worldplay_env.worlds.testcard import Testcard

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


class Case(NamedTuple):
    """What is done to an env, with a folder for files, and what it says to that."""

    name: str
    attempt: Callable[[WorldPlayEnv, Path], object]
    error: type[Exception]
    message: str
    actions: str = "chunk"


def step(action: Any) -> Callable[[WorldPlayEnv, Path], object]:
    return lambda env, _: env.step(action)


def reset(*arguments: Any, **others: Any) -> Callable[[WorldPlayEnv, Path], object]:
    return lambda env, _: env.reset(*arguments, **others)


ONE, FOUR = "an action is a whole number 0..80, got ", "an action is 4 whole numbers 0..80, got "
CASES = [
    Case("action too large", step(81), InvalidAction, ONE + "81"),
    Case("action negative", step(-1), InvalidAction, ONE + "-1"),
    Case("action huge", step(10**30), InvalidAction, ONE + "1000"),
    Case("action wraps", step(np.uint64(2**63)), InvalidAction, ONE),
    Case("action a fraction", step(3.5), InvalidAction, ONE + "3.5"),
    Case("action a float", step(np.float32(3)), InvalidAction, ONE),
    Case("action a bool", step(True), InvalidAction, ONE + "True"),
    Case("action none", step(None), InvalidAction, ONE + "None"),
    Case("action a string", step("w"), InvalidAction, ONE + "'w'"),
    Case("action a list", step([9]), InvalidAction, ONE + "[9]"),
    Case("action an array", step(np.array([9, 9, 9, 9])), InvalidAction, ONE),
    Case("action ragged", step([1, [2]]), InvalidAction, ONE + "[1, [2]]"),
    Case("actions too few", step([9, 9, 9]), InvalidAction, FOUR + "[9, 9, 9]", "latent"),
    Case("actions one", step(9), InvalidAction, FOUR + "9", "latent"),
    Case("actions out of range", step([9, 9, 9, 81]), InvalidAction, FOUR, "latent"),
    Case("actions floats", step(np.zeros(4)), InvalidAction, FOUR, "latent"),
    Case("actions with a bool", step([9, True, 9, 9]), InvalidAction, FOUR + "[9, True, 9, 9]", "latent"),
    Case("actions empty", step([]), InvalidAction, FOUR + "[]", "latent"),
    Case("prompt a number", reset(prompt=3), TypeError, "the prompt must be a string, got int: 3"),
    Case("prompt none", reset(PICTURE, None), TypeError, "the prompt must be a string, got NoneType"),
    Case("prompt bytes", reset(options={"prompt": b"x"}), TypeError, "the prompt must be a string, got bytes"),
    Case("prompt set", lambda env, _: env.set_prompt(3), TypeError, "the prompt must be a string"),  # type: ignore[arg-type]
    Case("option unknown", reset(options={"picture": 1}), ValueError, "option 'picture': known are image, prompt"),
    Case("options a list", reset(options=["image"]), TypeError, "options must be a dict, got list"),
    Case("image twice", reset(PICTURE, options={"image": PICTURE}), ValueError, "the image twice"),
    Case("none twice", reset(None, options={"image": PICTURE}), ValueError, "the image twice"),
    Case("prompt twice", reset(prompt="a", options={"prompt": "a"}), ValueError, "the prompt twice"),
    Case("seed negative", reset(seed=-1), GymnasiumError, "-1"),
    Case("snapshot none", lambda env, _: env.restore(None), TypeError, "what snapshot() returned"),  # type: ignore[arg-type]
    Case("snapshot of another world", lambda env, _: env.restore(elsewhere()), ValueError, "another world"),
]


def elsewhere() -> Any:
    env = WorldPlayEnv(Testcard(), starts=PICTURE)
    env.reset()
    return env.snapshot()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_error_tells_what_was_wrong_and_the_episode_goes_on(case: Case, tmp_path: Path) -> None:
    env, twin = running(case.actions), running(case.actions)
    with pytest.raises(case.error, match=re.escape(case.message)):
        case.attempt(env, tmp_path)
    assert_goes_on(env, twin)


@pytest.mark.parametrize("name", BAD_SOURCES)
@pytest.mark.parametrize("through_options", [True, False], ids=["option", "argument"])
def test_a_picture_that_cannot_be_used_is_told_and_the_episode_goes_on(
    name: str, through_options: bool, tmp_path: Path
) -> None:
    make, error, message = BAD_SOURCES[name]
    env, twin = running(), running()
    image = make(tmp_path)
    with pytest.raises(error, match=message):
        env.reset(seed=5, **({"options": {"image": image}} if through_options else {"image": image}))  # type: ignore[arg-type]
    assert_goes_on(env, twin)


def running(actions: str = "chunk") -> WorldPlayEnv:
    """Return an env in the middle of an episode."""
    env = WorldPlayEnv(Testcard((32, 48)), starts=PICTURE, actions=actions)
    env.reset(seed=1)
    env.step(9 if actions == "chunk" else [9] * 4)
    return env


def assert_goes_on(env: WorldPlayEnv, twin: WorldPlayEnv) -> None:
    """Assert that an env steps and resets as one to which nothing happened."""
    action = 10 if env.action_space.shape == () else [10, 1, 2, 3]
    assert data_equivalence(env.step(action), twin.step(action), exact=True)
    assert data_equivalence(env.reset(), twin.reset(), exact=True)
    assert data_equivalence(env.step(action), twin.step(action), exact=True)


@pytest.mark.parametrize(
    "attempt", [lambda env: env.step(9), lambda env: env.snapshot(), lambda env: env.set_prompt("a")]
)
def test_before_the_first_reset_only_reset_works(attempt: Callable[[WorldPlayEnv], object]) -> None:
    env = WorldPlayEnv("testcard", starts=PICTURE)
    with pytest.raises(ResetNeeded, match="call reset"):
        attempt(env)
    env.reset()
    env.step(9)


def test_rendering_needs_a_reset_too() -> None:
    env = WorldPlayEnv("testcard", starts=PICTURE, render_mode="rgb_array")
    with pytest.raises(ResetNeeded, match="call reset"):
        env.render()


def folder_without_pictures(folder: Path) -> dict[str, Any]:
    return {"starts": str(folder)}


def folder_with_a_bad_list(folder: Path) -> dict[str, Any]:
    (folder / "starts.json").write_text('[{"picture": "a.png"}]')
    return {"starts": folder}


def folder_whose_list_names_nothing(folder: Path) -> dict[str, Any]:
    (folder / "starts.json").write_text('[{"image": "a.png", "prompt": ""}]')
    return {"starts": folder}


def loaded_and_dtype(_: Path) -> dict[str, Any]:
    return {"world": Testcard(), "dtype": "float32"}


def without_latents(_: Path) -> dict[str, Any]:
    world = Testcard()
    world.latent_shape = None  # type: ignore[assignment]
    return {"world": world, "observation": "latent"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"world": "atlantis"}, ValueError, "unknown world 'atlantis': known are tiny, wan-5b, abot-5b"),
        ({"world": 3}, TypeError, "a name, a folder or a World, got int: 3"),
        ({"observation": "all"}, ValueError, "unknown observation 'all': known are chunk, last, latent"),
        (without_latents, ValueError, 'this world has none: use "chunk" or "last"'),
        ({"actions": "words"}, ValueError, "unknown actions 'words': known are chunk, latent, keys"),
        ({"render_mode": "ansi"}, ValueError, "render mode 'ansi': known are rgb_array, rgb_array_list, human"),
        ({"size": (0, 10)}, ValueError, "two positive whole numbers (height, width), got (0, 10)"),
        ({"size": 10}, ValueError, "two positive whole numbers (height, width), got 10"),
        ({"size": (10.0, 20)}, ValueError, "got (10.0, 20)"),
        ({"size": (1, 2, 3)}, ValueError, "got (1, 2, 3)"),
        ({"every": 3}, ValueError, "every must be a whole number that divides 16, got 3"),
        ({"every": 0}, ValueError, "divides 16, got 0"),
        ({"every": True}, ValueError, "divides 16, got True"),
        ({"every": 2.0}, ValueError, "divides 16, got 2.0"),
        (
            {"every": 4, "observation": "last"},
            ValueError,
            'every=4 picks frames of a chunk: it goes with observation="',
        ),
        ({"channel_first": "yes"}, ValueError, "channel_first must be True or False, got 'yes'"),
        ({"task": "fly"}, ValueError, "unknown task 'fly': known are reach"),
        (loaded_and_dtype, ValueError, "dtype cannot be set for a world that is loaded already"),
        ({"starts": []}, ValueError, "starts is empty"),
        ({"starts": 3}, TypeError, "a picture, a folder, or a list of pictures and pairs, got 3"),
        ({"starts": ["a.png", "b.png"]}, ImageError, "no picture at 'a.png'"),
        ({"starts": [None]}, ValueError, "(picture, prompt) pairs, prompt a string; got None"),
        ({"starts": [(PICTURE[0], 3)]}, ValueError, "prompt a string; got ("),
        ({"starts": "missing.png"}, ImageError, "no picture at 'missing.png'"),
        ({"starts": [("missing.png", "")]}, ImageError, "no picture at 'missing.png'"),
        (folder_without_pictures, ImageError, "no pictures in "),
        (folder_with_a_bad_list, ValueError, 'must hold a list of {"image": file, "prompt": text}'),
        (folder_whose_list_names_nothing, ImageError, "a.png"),
    ],
)
def test_an_env_cannot_be_made_of_what_is_not_known(
    arguments: dict[str, Any] | Callable[[Path], dict[str, Any]],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    given = arguments if isinstance(arguments, dict) else arguments(tmp_path)
    with pytest.raises(error, match=re.escape(message)):
        WorldPlayEnv(**{"world": "testcard", **given})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8': known are float32, bfloat16, float16"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
    ],
)
def test_what_only_loading_can_tell_is_told_at_reset(arguments: dict[str, Any], message: str) -> None:
    env = WorldPlayEnv("testcard", starts=PICTURE, **arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        env.reset()


def test_a_start_that_cannot_be_read_is_told_at_the_reset_that_draws_it(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    env = WorldPlayEnv("testcard", starts=tmp_path)
    with pytest.raises(ImageError, match=re.escape("broken.png")):
        env.reset()
    env.reset(PICTURE)
    env.step(9)


def test_pictures_of_every_ordinary_kind_simply_work(tmp_path: Path) -> None:
    env = WorldPlayEnv("testcard", starts=PICTURE)
    image = Image.fromarray(PICTURE)
    for source in (
        image.convert("L"),
        image.convert("RGBA"),
        image.convert("P"),
        PICTURE[:, :, :1],
        PICTURE[:, :, 0],
    ):
        observation, _ = env.reset(source)
        assert observation[0].std() > 10
