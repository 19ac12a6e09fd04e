"""Which starts worlds can use, and what is said of those they cannot."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from worldplay_env import WorldPlayEnv
from worldplay_env.image import ImageSource
from worldplay_env.scenes.starts import BUNDLED_SCENES
from worldplay_env.starts import check_usable, choose_start, find_starts, unused_prompt
from worldplay_env.testcard import Testcard
from worldplay_env.world import WORLDS, describe, load

BUNDLED, CAPTION = find_starts()[3]
PICTURE = np.zeros((4, 4, 3), np.uint8)


def test_worlds_say_before_and_after_loading_what_of_a_start_they_use() -> None:
    specs = {name: describe(name) for name in WORLDS}
    assert [name for name, spec in specs.items() if not spec.uses_picture] == ["scene"]
    assert [name for name, spec in specs.items() if not spec.uses_prompt] == ["testcard", "scene"]
    for name in ("testcard", "scene"):
        world = load(name, device="cpu")
        assert (world.uses_picture, world.uses_prompt) == (specs[name].uses_picture, specs[name].uses_prompt)


@pytest.mark.parametrize(
    ("image", "prompt"), [(PICTURE, ""), (PICTURE, "scene 900012"), ("mine.png", CAPTION), (BUNDLED, "a hill")]
)
def test_a_picture_of_no_place_in_it_is_refused_by_a_world_with_its_own(image: ImageSource, prompt: str) -> None:
    with pytest.raises(ValueError, match=r'cannot begin from .*, such as "scene 900012"; leave the picture out'):
        check_usable(describe("scene"), image, prompt)
    for world in (describe("tiny"), describe("testcard"), Testcard()):
        check_usable(world, image, prompt)


def test_a_world_with_pictures_of_its_own_takes_the_bundled_ones_and_none() -> None:
    for image, prompt in (*find_starts(), (None, ""), (None, "a hill")):
        check_usable(describe("scene"), image, prompt)


def test_the_options_of_a_command_are_checked_for_the_world_that_is_named() -> None:
    scene = describe("scene")
    with pytest.raises(ValueError, match="cannot begin from"):
        choose_start(str(BUNDLED), "a hill", scene)
    assert choose_start(str(BUNDLED), CAPTION, scene).prompt == CAPTION
    assert choose_start("none", "a hill", scene).image is None
    assert choose_start(None, "a hill", scene).image is not None
    assert choose_start(str(BUNDLED), "a hill", describe("testcard")).prompt == "a hill"


def test_the_env_of_the_test_picture_warns_of_prompts_too() -> None:
    env = WorldPlayEnv("testcard")
    with pytest.warns(UserWarning, match="takes no prompt: 'a hill' changes nothing in it"):
        env.reset(options={"prompt": "a hill"})
    with pytest.warns(UserWarning, match="takes no prompt: 'it snows' changes nothing in it"):
        env.set_prompt("it snows")


def test_a_word_is_said_of_a_prompt_that_changes_nothing() -> None:
    assert unused_prompt("tiny", describe("tiny"), "a hill") == ""
    assert (
        unused_prompt("testcard", Testcard(), "a hill") == "testcard takes no prompt: 'a hill' changes nothing in it"
    )
    for prompt in (None, "", "scene 900012", CAPTION):
        assert unused_prompt("scene", describe("scene"), prompt) == ""
    said = unused_prompt("scene", describe("scene"), "a hill")
    assert said == "scene takes no prompt but the name of a place (\"scene 900012\"): 'a hill' changes nothing in it"


@pytest.mark.parametrize("options", [{"image": PICTURE}, {"image": PICTURE, "prompt": "scene 900012"}])
def test_a_picture_that_no_scene_shows_is_refused(options: dict[str, Any]) -> None:
    env = gymnasium.make("WorldPlay/Scene-v0")
    env.reset(seed=1)
    before = env.unwrapped.rollout
    vector = gymnasium.make_vec("WorldPlay/Scene-v0", num_envs=2)
    for reset in (env.reset, vector.reset):
        with pytest.raises(ValueError, match="cannot begin from this picture"):
            reset(seed=2, options=options)
    assert env.unwrapped.rollout is before
    for starts in (PICTURE, [(None, ""), (PICTURE, "")]):
        with pytest.raises(ValueError, match="cannot begin from this picture"):
            gymnasium.make("WorldPlay/Scene-v0", starts=starts)
        with pytest.raises(ValueError, match="cannot begin from this picture"):
            gymnasium.make_vec("WorldPlay/Scene-v0", starts=starts)


def test_the_bundled_pictures_begin_in_the_scenes_that_they_show() -> None:
    pictures = [gymnasium.make("WorldPlay/Scene-v0", starts=[start]) for start in find_starts()]
    for one in pictures:
        one.reset(seed=0)
    assert [one.unwrapped.rollout.scene.seed for one in pictures] == list(BUNDLED_SCENES.values())
    env = gymnasium.make("WorldPlay/Scene-v0")
    env.reset(options={"image": BUNDLED, "prompt": CAPTION})
    assert env.unwrapped.rollout.scene.seed == BUNDLED_SCENES["snow"]


def test_a_prompt_that_names_no_scene_gets_a_warning() -> None:
    env = gymnasium.make("WorldPlay/Scene-v0")
    with pytest.warns(UserWarning, match="'a street' changes nothing in it"):
        env.reset(seed=1, options={"prompt": "a street"})
    with pytest.warns(UserWarning, match="'it snows' changes nothing in it"):
        env.unwrapped.set_prompt("it snows")
    vector = gymnasium.make_vec("WorldPlay/Scene-v0", num_envs=2)
    with pytest.warns(UserWarning, match="'a street' changes nothing in it"):
        vector.reset(seed=1, options={"prompt": ["scene 900012", "a street"]})
