"""Where the episodes of an env begin: drawn, given, and by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from envs import PAIRS, PICTURES, bare, make
from PIL import Image

import worldplay_env
from worldplay_env import WorldPlayEnv
from worldplay_env.envs import starts
from worldplay_env.media.image import fit_image


def test_a_bare_reset_draws_any_of_the_starts_by_the_seed(env: WorldPlayEnv) -> None:
    prompts = []
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        prompts.append(env.rollout.prompt)
        np.testing.assert_array_equal(observation[0], fit_image(PICTURES[int(prompts[-1][-1])], (96, 160)))
    assert set(prompts) == {prompt for _, prompt in PAIRS}
    env.reset(seed=3)
    later = [env.reset() and env.rollout.prompt for _ in range(10)]
    env.reset(seed=3)
    assert [env.reset() and env.rollout.prompt for _ in range(10)] == later
    assert len(set(later)) > 1


def test_the_default_starts_are_the_bundled_ones() -> None:
    bundled = starts.find_starts()
    env = WorldPlayEnv("testcard")
    observation, _ = env.reset(seed=0)
    assert env.rollout.prompt in {prompt for _, prompt in bundled}
    pictures = [fit_image(worldplay_env.read_image(image), (96, 160)) for image, _ in bundled if image is not None]
    assert any((observation[0] == picture).all() for picture in pictures)


def test_starts_are_a_picture_a_folder_or_pairs(tmp_path: Path) -> None:
    for index, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    for given in (PICTURES[1], str(tmp_path / "1.png"), Image.fromarray(PICTURES[1]), [[tmp_path / "1.png", ""]]):
        assert (bare(starts=given).reset()[0][0] == fit_image(PICTURES[1], (96, 160))).all()
    assert starts.find_starts(tmp_path) == [(tmp_path / f"{index}.png", "") for index in range(3)]
    listed = [{"image": "2.png", "prompt": "the third"}]
    (tmp_path / "starts.json").write_text(json.dumps(listed))
    assert starts.find_starts(str(tmp_path)) == [(tmp_path / "2.png", "the third")]


@pytest.mark.parametrize("through_options", [True, False])
def test_a_start_can_be_given_for_an_episode(env: WorldPlayEnv, through_options: bool) -> None:
    def reset(**start: Any) -> np.ndarray:
        observation, _ = env.reset(seed=0, options=start) if through_options else env.reset(seed=0, **start)
        return observation[0]

    np.testing.assert_array_equal(reset(image=PICTURES[2]), fit_image(PICTURES[2], (96, 160)))
    assert env.rollout.prompt == ""
    np.testing.assert_array_equal(reset(image=PICTURES[2], prompt="a field")[:], fit_image(PICTURES[2], (96, 160)))
    assert env.rollout.prompt == "a field"
    assert (reset(image=None, prompt="a field") == 128).all()
    drawn = reset()
    own = env.rollout.prompt
    np.testing.assert_array_equal(reset(prompt="a field"), drawn)
    assert (env.rollout.prompt, own[:-1]) == ("a field", "picture ")


def test_options_pass_through_wrappers_and_are_not_written_to() -> None:
    env, options = make(), {"image": PICTURES[1], "prompt": "a field"}
    env.reset(seed=0, options=options)
    assert env.unwrapped.rollout.prompt == "a field"
    assert set(options) == {"image", "prompt"}
    env.reset(seed=0, options={})


def test_the_noise_of_an_episode_does_not_depend_on_how_its_start_was_given(env: WorldPlayEnv) -> None:
    env.reset(seed=5)
    seed = env.rollout.seed
    env.reset(PICTURES[0], "a field", seed=5)
    assert env.rollout.seed == seed
