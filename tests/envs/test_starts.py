"""Which starts worlds can use, and what is said of those they cannot."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

from worldplay_env import WorldPlayEnv
from worldplay_env.envs.starts import bundled_starts, check_usable, choose_start, find_starts, name_of, unused_prompt
from worldplay_env.media.image import ImageError, ImageSource, read_image
from worldplay_env.worlds.registry import WORLDS, describe, load
from worldplay_env.worlds.scene.starts import BUNDLED_SCENES
from worldplay_env.worlds.testcard import Testcard

BUNDLED, CAPTION = find_starts()[3]
PICTURE = np.zeros((4, 4, 3), np.uint8)


def test_worlds_say_before_and_after_loading_what_of_a_start_they_use() -> None:
    specs = {name: describe(name) for name in WORLDS}
    assert [name for name, spec in specs.items() if not spec.uses_picture] == ["scene"]
    assert [name for name, spec in specs.items() if not spec.uses_prompt] == ["testcard", "scene"]
    for name in ("testcard", "scene"):
        world = load(name, device="cpu")
        assert (world.uses_picture, world.uses_prompt) == (specs[name].uses_picture, specs[name].uses_prompt)


@pytest.mark.parametrize(("image", "prompt"), [(PICTURE, ""), (PICTURE, "scene 900012"), ("mine.png", CAPTION)])
def test_a_picture_of_no_place_in_it_is_refused_by_a_world_with_its_own(image: ImageSource, prompt: str) -> None:
    with pytest.raises(ValueError, match=r'cannot begin from .*, such as "scene 900012"; leave the picture out'):
        check_usable(describe("scene"), image, prompt)
    for world in (describe("tiny"), describe("testcard"), Testcard()):
        check_usable(world, image, prompt)


def test_a_bundled_picture_leads_to_its_place_by_its_own_prompt_alone() -> None:
    with pytest.raises(ValueError, match="the place of the picture 'snow' by its own prompt, not by 'a hill'"):
        check_usable(describe("scene"), BUNDLED, "a hill")
    check_usable(describe("tiny"), BUNDLED, "a hill")


def test_a_world_with_pictures_of_its_own_takes_the_bundled_ones_and_none() -> None:
    for image, prompt in (*find_starts(), (None, ""), (None, "a hill")):
        check_usable(describe("scene"), image, prompt)


def test_the_options_of_a_command_are_checked_for_the_world_that_is_named() -> None:
    scene = describe("scene")
    with pytest.raises(ValueError, match="by its own prompt"):
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
    assert unused_prompt(describe("tiny"), "a hill") == ""
    assert unused_prompt(Testcard(), "a hill") == "testcard takes no prompt: 'a hill' changes nothing in it"
    for prompt in (None, "", "scene 900012", CAPTION):
        assert unused_prompt(describe("scene"), prompt) == ""
    said = unused_prompt(describe("scene"), "a hill")
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


# ---- by name


def test_bundled_starts_are_found_by_name() -> None:
    names = ["courtyard", "room", "street", "snow", "dusk", "night"]
    assert list(bundled_starts()) == names == list(BUNDLED_SCENES)
    everything = [bundled_starts()[name] for name in names]
    assert find_starts("all") == find_starts() == everything
    assert find_starts("snow") == [(BUNDLED, CAPTION)]
    assert find_starts(["snow", "dusk"]) == [everything[3], everything[4]]
    assert find_starts([("snow", "a hill")]) == [(BUNDLED, "a hill")]
    assert [name_of(image) for image, _ in everything] == names


def test_a_name_goes_before_a_file_and_a_path_can_still_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "snow"
    folder.mkdir()
    Image.fromarray(PICTURE).save(folder / "mine.png")
    monkeypatch.chdir(tmp_path)
    assert find_starts("snow") == [(BUNDLED, CAPTION)]
    assert find_starts("./snow") == [(folder.relative_to(tmp_path) / "mine.png", "")]
    assert find_starts(folder) == [(folder / "mine.png", "")]


def test_a_list_of_pictures_is_taken_without_prompts(tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    Image.fromarray(PICTURE).save(path)
    picture = Image.fromarray(PICTURE)
    found = find_starts([PICTURE, picture, path, str(path), (str(path), "a hill"), "room"])
    assert [prompt for _, prompt in found] == ["", "", "", "", "a hill", bundled_starts()["room"][1]]
    assert [name_of(image) for image, _ in found] == ["picture", "picture", *[str(path)] * 3, "room"]
    env = WorldPlayEnv("testcard", starts=[PICTURE, PICTURE])
    assert env.reset(seed=0)[1]["start"] == "picture"


@pytest.mark.parametrize("starts", ["sno", ["snow", "sno"], [("sno", "a hill")]])
def test_a_name_that_none_has_is_told_with_those_there_are(starts: Any) -> None:
    with pytest.raises(ImageError, match=r"no picture at 'sno'.*courtyard, room, street, snow, dusk, night"):
        find_starts(starts)
    with pytest.raises(ValueError, match="at least one"):
        find_starts([])


def test_a_command_takes_a_name_for_any_world() -> None:
    for world in ("tiny", "scene", "testcard"):
        start = choose_start("snow", None, describe(world))
        assert (start.name, start.prompt) == ("snow", CAPTION)
        np.testing.assert_array_equal(start.image, read_image(BUNDLED))
    assert choose_start("snow", "a hill").prompt == "a hill"
    assert choose_start("none", "a hill").name == "none"
    assert choose_start(None, None).name == "courtyard"


def test_infos_say_which_start_was_drawn_and_the_prompt_in_force() -> None:
    env = gymnasium.make("WorldPlay/Testcard-v0", starts=["snow", "dusk"])
    drawn = {env.reset(seed=seed)[1]["start"] for seed in range(8)}
    assert drawn == {"snow", "dusk"}
    _, info = env.reset(options={"image": "night"})
    assert (info["start"], info["prompt"]) == ("night", bundled_starts()["night"][1])
    with pytest.warns(UserWarning, match="changes nothing"):
        env.unwrapped.set_prompt("it snows")
    info = env.step(0)[-1]
    assert (info["start"], info["prompt"]) == ("night", "it snows")
    assert env.reset(options={"image": None})[1]["start"] == "none"
    assert env.reset(options={"image": PICTURE})[1]["start"] == "picture"


def test_vector_envs_say_it_for_each_row() -> None:
    names = ["snow", "dusk", "night"]
    envs = gymnasium.make_vec(
        "WorldPlay/Testcard-v0", num_envs=3, starts=["room"], max_episode_steps=1, autoreset_mode="same_step"
    )
    _, infos = envs.reset(seed=0, options={"image": names})
    vector = envs.unwrapped
    assert vector.start_names == tuple(names)
    assert vector.prompts == tuple(bundled_starts()[name][1] for name in names)
    *_, later = envs.step(np.zeros(3, dtype=np.int64))
    assert vector.start_names == ("room",) * 3
    for info in (infos, later, later["final_info"]):
        assert not {"start", "prompt"} & set(info)  # TorchRL reads only numbers


def test_the_true_scenes_begin_where_a_name_says() -> None:
    env = gymnasium.make("WorldPlay/Scene-v0", starts="snow")
    _, info = env.reset(seed=0)
    assert (info["start"], env.unwrapped.rollout.scene.seed) == ("snow", BUNDLED_SCENES["snow"])
    env.reset(options={"image": "dusk"})
    assert env.unwrapped.rollout.scene.seed == BUNDLED_SCENES["dusk"]
