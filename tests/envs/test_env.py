"""WorldPlayEnv is an ordinary Gymnasium environment that keeps what its docstring says."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from envs import PICTURES, bare, episode, make
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from PIL import Image

import worldplay_env
from worldplay_env import Start, World, WorldPlayEnv
from worldplay_env.control.actions import motion_of
from worldplay_env.control.camera import integrate
from worldplay_env.media.image import fit_image
from worldplay_env.worlds.base import Decode
from worldplay_env.worlds.testcard import frame_number

REGISTERED = sorted(id for id in gymnasium.registry if id.startswith("WorldPlay/"))
TASK_IDS = ("WorldPlay/Reach-v0", "WorldPlay/Collect-v0")
"""They have tests of their own."""
# Without a download. The model takes seconds in some of these tests.
LOCAL = [
    pytest.param(id, marks=[] if "Testcard" in id else pytest.mark.slow)
    for id in REGISTERED
    if id not in ("WorldPlay/Wan5B-v0", "WorldPlay/ABot5B-v0", *TASK_IDS)
]


# Gymnasium's own requirements


def test_the_registered_ids_truncate_after_60_steps() -> None:
    assert set(REGISTERED) >= {"WorldPlay/Testcard-v0", "WorldPlay/Tiny-v0", "WorldPlay/Wan5B-v0"}
    assert all(gymnasium.spec(id).max_episode_steps == 60 for id in REGISTERED if id not in TASK_IDS)
    env = make(max_episode_steps=2)
    assert [step[2:4] for step in episode(env, [9, 9])[1:]] == [(False, False), (False, True)]


@pytest.mark.parametrize("id", LOCAL)
def test_the_checker_of_gymnasium_passes_without_a_warning(id: str) -> None:
    check_env(make(id).unwrapped)  # warnings are errors in these tests


@pytest.mark.parametrize("observation", ["chunk", "last", "latent"])
@pytest.mark.parametrize("actions", ["chunk", "latent", "keys"])
def test_the_checker_passes_for_every_observation_and_kind_of_action(observation: str, actions: str) -> None:
    # Not through the render modes, which are those of the test above; "human" plays at the speed of the video.
    check_env(make(observation=observation, actions=actions, size=(24, 32)).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("id", LOCAL)
def test_the_passive_checker_of_make_has_nothing_to_say(id: str) -> None:
    env = make(id, disable_env_checker=False, render_mode="rgb_array")
    episode(env, [9])
    env.render()
    env.reset()
    env.close()


@pytest.mark.parametrize("id", REGISTERED)
def test_a_spec_goes_through_json(id: str) -> None:
    spec = gymnasium.spec(id)
    assert EnvSpec.from_json(spec.to_json()) == spec


def test_a_spec_with_arguments_makes_the_same_env_from_json(tmp_path: Path) -> None:
    Image.fromarray(PICTURES[0]).save(tmp_path / "picture.png")
    env = make(starts=[(str(tmp_path / "picture.png"), "a street")], size=(24, 32), observation="last")
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["kwargs"]["size"] == [24, 32]
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert data_equivalence(episode(env, [9]), episode(again, [9]), exact=True)


@pytest.mark.parametrize("id", LOCAL)
def test_two_envs_of_one_seed_and_the_same_actions_agree_bit_for_bit(id: str) -> None:
    first = episode(make(id), [9, 10])
    other = make(id)
    before = episode(other, [9], seed=7)
    assert not data_equivalence(first[:2], before, exact=True)
    assert data_equivalence(first, episode(other, [9, 10]), exact=True)


def test_global_random_state_is_neither_read_nor_touched(env: WorldPlayEnv) -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # type: ignore[index]

    before = states()
    first = episode(env, [9])
    assert states() == before
    torch.manual_seed(1)
    np.random.seed(1)
    assert data_equivalence(first, episode(env, [9]), exact=True)


@pytest.mark.parametrize("copied", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
@pytest.mark.parametrize("id", LOCAL)
def test_a_pickled_or_copied_env_is_a_fresh_one_that_replays(id: str, copied: Any) -> None:
    env = make(id, observation="last", size=(24, 32))
    played = episode(env, [9])
    twin = copied(env)
    with pytest.raises(ResetNeeded):
        twin.step(9)
    assert data_equivalence(episode(twin, [9]), played, exact=True)


def test_a_world_given_as_an_object_is_shared_by_specs_and_copies() -> None:
    world = worldplay_env.load("testcard", image_size=(32, 48))
    env = make(world=world)
    assert env.observation_space.shape == (16, 32, 48, 3)
    assert env.spec is not None
    assert env.spec.kwargs["world"] is world
    for other in (gymnasium.make(env.spec), copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert other.unwrapped.world is world
    assert env.unwrapped.world is world


# What steps show


def test_the_new_frames_of_an_episode_are_its_video(env: WorldPlayEnv) -> None:
    (first, info), *steps = episode(env, [9, 1, 3])
    picture = fit_image(PICTURES[int(env.rollout.prompt[-1])], (96, 160))
    np.testing.assert_array_equal(first, np.broadcast_to(picture, first.shape))
    assert (info["step"], info["frame"], info["new_frames"]) == (0, 0, 16)
    np.testing.assert_array_equal(steps[0][0][:3], first[:3])
    video = np.concatenate([observation[-info["new_frames"] :] for observation, *_, info in steps])
    assert [frame_number(frame) for frame in video] == list(range(13 + 16 + 16))
    assert [info["new_frames"] for *_, info in steps] == [13, 16, 16]
    assert [info["frame"] for *_, info in steps] == [13, 29, 45]
    assert [info["step"] for *_, info in steps] == [1, 2, 3]


def test_last_shows_the_newest_frame_and_latent_the_latents() -> None:
    chunks, lasts, latents = (episode(bare(observation=kind), [9, 1]) for kind in ("chunk", "last", "latent"))
    for chunk, last in zip(chunks, lasts, strict=True):
        np.testing.assert_array_equal(last[0], chunk[0][-1])
    world = worldplay_env.load("testcard")
    rollout = world.start(Start(PICTURES[0]), 0)
    assert rollout.start_latent is not None
    np.testing.assert_array_equal(latents[0][0], rollout.start_latent.expand(-1, 4, -1, -1))
    np.testing.assert_allclose(latents[2][0].mean(axis=(2, 3))[2], np.radians(3) * np.arange(1, 5), atol=0.05)


@pytest.mark.parametrize(("render_mode", "decoded"), [(None, False), ("rgb_array", "newest")])
def test_latents_are_decoded_only_to_be_rendered(
    monkeypatch: pytest.MonkeyPatch, render_mode: str | None, decoded: Decode
) -> None:
    env = bare(observation="latent", render_mode=render_mode)
    asked = []
    step = env.world.step

    def spy(*arguments: Any, decode: Decode, **others: Any) -> Any:
        asked.append(decode)
        return step(*arguments, decode=decode, **others)

    monkeypatch.setattr(env.world, "step", spy)
    episode(env, [9])
    assert asked == [decoded]


def test_size_scales_observations_and_renderings() -> None:
    full, small = bare(observation="last"), bare(observation="last", size=(24, 40), render_mode="rgb_array")
    for one, other in zip(episode(full, [9]), episode(small, [9]), strict=True):
        scaled = np.asarray(Image.fromarray(one[0]).resize((40, 24), Image.Resampling.BILINEAR))
        assert np.abs(other[0].astype(int) - scaled).max() <= 1
    np.testing.assert_array_equal(small.render(), other[0])


def test_an_action_is_held_for_the_chunk_and_poses_go_on_from_it(env: WorldPlayEnv) -> None:
    infos = [result[-1] for result in episode(env, [9, 40, 1])]
    poses = np.concatenate([info["poses"] for info in infos[1:]])
    motions = [motion_of(label) for label in [9] * 3 + [40] * 4 + [1] * 4]
    np.testing.assert_allclose(poses, integrate(np.eye(4), motions), atol=1e-12)
    np.testing.assert_array_equal(infos[0]["poses"], np.broadcast_to(np.eye(4), (4, 4, 4)))
    assert [info["labels"].tolist() for info in infos] == [[0] * 4, [0, 9, 9, 9], [40] * 4, [1] * 4]


def test_with_one_action_a_latent_frame_the_very_first_is_ignored() -> None:
    env = bare(actions="latent")
    assert env.action_space == gymnasium.spaces.MultiDiscrete([81] * 4)
    one, other = ([result[-1] for result in episode(env, [[a, 9, 1, 2], [a, 9, 1, 2]])] for a in (5, 80))
    assert data_equivalence(one[1], other[1], exact=True)
    assert [info["labels"].tolist() for info in one[1:]] == [[0, 9, 1, 2], [5, 9, 1, 2]]
    assert other[2]["labels"].tolist() == [80, 9, 1, 2]
    poses = np.concatenate([info["poses"] for info in one[1:]])
    motions = [motion_of(label) for label in (9, 1, 2, 5, 9, 1, 2)]
    np.testing.assert_allclose(poses, integrate(np.eye(4), motions), atol=1e-12)


@pytest.mark.parametrize("action", [9, np.int64(9), np.uint8(9), np.array(9), np.array(9, dtype=np.int32)])
def test_every_kind_of_whole_number_is_an_action(env: WorldPlayEnv, action: Any) -> None:
    assert data_equivalence(episode(env, [action]), episode(env, [9]), exact=True)


def test_info_has_the_same_keys_and_types_at_reset_and_every_step(env: WorldPlayEnv) -> None:
    infos = [result[-1] for result in episode(env, [9] * 6)]
    kinds = [
        {key: (type(value), getattr(value, "dtype", None), np.shape(value)) for key, value in info.items()}
        for info in infos
    ]
    assert all(kind == kinds[0] for kind in kinds)
    assert kinds[0]["poses"] == (np.ndarray, np.float64, (4, 4, 4))
    assert kinds[0]["memory"] == (np.ndarray, np.int64, (16,))
    used = [info["memory"].tolist() for info in infos]
    assert used[:3] == [[-1] * 16, [-1] * 16, [0, 1, 2, 3] + [-1] * 12]
    assert used[6] == list(range(4, 20))


def test_timings_are_kept_beside_info(env: WorldPlayEnv) -> None:
    assert env.timings == {}
    episode(env, [9])
    assert {"host", "render"} <= set(env.timings)
    assert all(seconds >= 0 for seconds in env.timings.values())


def test_arrays_once_handed_out_do_not_change(env: WorldPlayEnv) -> None:
    results = episode(env, [9])
    kept = copy.deepcopy(results)
    results[0][0][:] = 7  # what a user does to one has no part in the next
    observation, *_ = env.step(1)
    assert not (observation == 7).all(axis=(1, 2, 3)).any()
    assert data_equivalence(results[1], kept[1], exact=True)


def test_rewards_come_from_a_batched_function_of_the_transition() -> None:
    env = bare(reward=lambda transition: transition.observation.ndim + transition.action + transition.step / 2)
    results = episode(env, [9, 1])
    assert [result[1] for result in results[1:]] == [5 + 9 + 0.5, 5 + 1 + 1.0]
    assert all(type(result[1]) is float for result in results[1:])
    assert [result[1] for result in episode(bare(), [9])[1:]] == [0.0]


# Loading and closing


def test_weights_load_at_the_first_reset_and_never_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **others: Any) -> World:
        raise AssertionError("loaded")

    monkeypatch.setattr(worldplay_env.worlds.registry, "load", load)
    envs = [make(id, observation="chunk", task=None) for id in REGISTERED]
    specs = [worldplay_env.worlds.registry.describe(env.spec.kwargs["world"]) for env in envs if env.spec]
    assert [env.observation_space.shape for env in envs] == [
        (spec.layout.chunk_images, *spec.image_size, 3) for spec in specs
    ]
    for env in envs:
        with pytest.raises(AssertionError, match="loaded"):
            env.reset()


def test_envs_share_the_world_and_say_where_its_weights_are_from() -> None:
    one, other = make().unwrapped, make().unwrapped
    assert isinstance(one, WorldPlayEnv)
    assert isinstance(other, WorldPlayEnv)
    assert one.weights == "none"
    assert one.world is other.world


def test_the_tiny_world_says_that_its_weights_are_random_if_they_are() -> None:
    assert bare(world="tiny", weights="random", device="cpu").weights == "random"


def test_a_closed_env_lets_go_of_its_world_closes_again_and_can_be_reset(env: WorldPlayEnv) -> None:
    played = episode(env, [9])
    env.close()
    env.close()
    with pytest.raises(ResetNeeded):
        env.step(9)
    assert data_equivalence(episode(env, [9]), played, exact=True)


def test_an_env_that_was_never_reset_closes() -> None:
    bare(world="wan-5b", render_mode="human").close()


# Beyond Gymnasium


def test_a_restored_episode_goes_on_as_it_did_any_number_of_times(env: WorldPlayEnv) -> None:
    episode(env, [9])
    snapshot = env.snapshot()
    expected = [env.step(action) for action in (1, 40)]
    for _ in range(2):
        env.step(80)
        env.restore(snapshot)
        assert data_equivalence([env.step(action) for action in (1, 40)], expected, exact=True)
    env.reset(seed=9)  # another episode, another env
    env.restore(snapshot)
    other = bare()
    other.restore(snapshot)
    for one in (env, other):
        assert data_equivalence([one.step(action) for action in (1, 40)], expected, exact=True)


def test_a_restored_episode_renders_its_own_frame() -> None:
    env = bare(render_mode="rgb_array")
    episode(env, [9])
    frame, snapshot = env.render(), env.snapshot()
    env.step(1)
    assert (env.render() != frame).any()
    env.restore(snapshot)
    np.testing.assert_array_equal(env.render(), frame)


def test_a_prompt_can_be_changed_within_an_episode_and_a_snapshot_keeps_its_own(env: WorldPlayEnv) -> None:
    env.reset(prompt="a street")
    snapshot = env.snapshot()
    env.set_prompt("a field")
    env.step(9)
    assert env.rollout.prompt == "a field"
    env.restore(snapshot)
    assert env.rollout.prompt == "a street"
