"""ABot-World in the environments: its chunks, held keys, references, snapshots and vector envs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from worldplay_env.media.image import ImageError
from worldplay_env.models.abot.config import REFERENCES

PICTURES = [np.full((20, 30, 3), 40 * slot, np.uint8) for slot in range(5)]


def make(**arguments: Any) -> gymnasium.Env:
    settings = {"world": "abot-small", "weights": "random", "device": "cpu", "disable_env_checker": True}
    return gymnasium.make("WorldPlay/ABot5B-v0", **settings | arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, picture in zip(REFERENCES, PICTURES, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("actions", ["chunk", "latent", "keys"])
@pytest.mark.parametrize("observation", ["chunk", "latent"])
def test_the_checker_of_gymnasium_passes(actions: str, observation: str) -> None:
    check_env(make(actions=actions, observation=observation).unwrapped, skip_render_check=True)


def test_a_chunk_is_twelve_images_and_three_poses() -> None:
    env = make()
    observation, info = env.reset(seed=0)
    assert observation.shape == (12, 64, 96, 3)
    assert info["poses"].shape == (3, 4, 4)
    new = [env.step(9)[4]["new_frames"] for _ in range(2)]
    assert new == [9, 12]
    assert env.unwrapped.fps == 12


def test_a_snapshot_goes_on_as_the_episode_does() -> None:
    env = make()
    env.reset(seed=0)
    for _ in range(4):
        env.step(9)
    moment = env.unwrapped.snapshot()
    window = env.unwrapped.rollout.window
    expected = env.step(10)[0]
    env.unwrapped.restore(moment)
    assert env.unwrapped.rollout.window is window
    assert np.array_equal(env.step(10)[0], expected)


def test_opposite_keys_reach_the_model() -> None:
    stay, both = (
        run.step(np.array(keys, np.int8))[0]
        for run, keys in ((make(actions="keys"), [0] * 8), (make(actions="keys"), [1, 0, 1, 0, 0, 0, 0, 0]))
        if run.reset(seed=0)
    )
    assert not np.array_equal(stay, both)


def test_references_are_pictures_or_a_folder_of_them(folder: Path) -> None:
    def first(env: gymnasium.Env, **given: Any) -> np.ndarray:
        env.reset(seed=0, **given)
        return env.step(9)[0]

    env = make()
    without, listed = first(env), first(env, options={"references": PICTURES})
    assert not np.array_equal(without, listed)
    assert np.array_equal(first(env, options={"references": str(folder)}), listed)
    assert np.array_equal(first(env.unwrapped, references=folder), listed)
    assert np.array_equal(first(env, options={"references": None}), without)


def test_references_that_cannot_be_are_refused(folder: Path) -> None:
    env = make()
    env.reset(seed=0)
    before = env.unwrapped.rollout
    with pytest.raises(ValueError, match="got 1 reference pictures, and this world takes 5"):
        env.reset(options={"references": PICTURES[:1]})
    (folder / "left.png").unlink()
    with pytest.raises(ImageError, match="no reference picture 'left'"):
        env.reset(options={"references": folder})
    with pytest.raises(TypeError, match="a list of pictures or a folder"):
        env.reset(options={"references": 5})
    with pytest.raises(ValueError, match="the references twice"):
        env.unwrapped.reset(references=PICTURES, options={"references": PICTURES})
    assert env.unwrapped.rollout is before
    other = gymnasium.make("WorldPlay/Testcard-v0", disable_env_checker=True)
    with pytest.raises(ValueError, match="this world takes none"):
        other.reset(options={"references": PICTURES})
    with pytest.raises(ValueError, match="this world takes none"):
        other.reset(options={"references": folder})


def test_rows_of_a_vector_env_have_references_of_their_own() -> None:
    settings = {"world": "abot-small", "weights": "random", "device": "cpu", "num_envs": 3}
    envs = gymnasium.make_vec("WorldPlay/ABot5B-v0", **settings)
    for references in (PICTURES, [PICTURES, None, PICTURES]):
        envs.reset(seed=[0, 0, 0], options={"references": references})
        rows = envs.step(np.array([9, 9, 9]))[0].astype(int)
        assert abs(rows[0] - rows[2]).max() <= 3
        assert (abs(rows[0] - rows[1]).max() <= 3) == (references is PICTURES)


def test_rows_at_different_ages_are_single_envs() -> None:
    settings = {"world": "abot-small", "weights": "random", "device": "cpu", "num_envs": 2}
    envs = gymnasium.make_vec("WorldPlay/ABot5B-v0", **settings)
    envs.reset(seed=[0, 1])
    envs.step(np.array([9, 9]))
    envs.reset(seed=[5, None], options={"reset_mask": np.array([True, False])})
    rows = envs.step(np.array([10, 10]))[0].astype(int)
    young, old = make(), make()
    young.reset(seed=5)
    old.reset(seed=1)
    old.step(9)
    for row, env in zip(rows, (young, old), strict=True):
        assert abs(row - env.step(10)[0].astype(int)).max() <= 3


def test_a_new_prompt_counts_from_the_next_step_on() -> None:
    env = make()
    env.reset(seed=0)
    env.step(9)
    moment = env.unwrapped.snapshot()
    same = env.step(9)[0]
    env.unwrapped.restore(moment)
    env.unwrapped.set_prompt("night falls")
    assert not np.array_equal(env.step(9)[0], same)
