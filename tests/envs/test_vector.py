"""WorldPlayVectorEnv is a Gymnasium vector env that gives what single envs of the same seeds give."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from vectors import MODES, NEAR, batched, play, single, small_dream, synchronous

import worldplay_env
from worldplay_env.envs.vector import WorldPlayVectorEnv
from worldplay_env.worlds.testcard import Testcard

VIEWS: dict[str, dict[str, Any]] = {
    "chunk": {},
    "some of a chunk, small, channels first": {"every": 4, "size": (24, 40), "channel_first": True},
    "last": {"observation": "last"},
    "latent": {"observation": "latent"},
    "actions of latent frames": {"actions": "latent", "observation": "last"},
    "task": {**NEAR, "observation": "last"},
    "task in latents": {**NEAR, "observation": "latent"},
    "reward": {"reward": worldplay_env.cover_ground(cell=0.2), "observation": "last"},
}

# Beside Gymnasium's own


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", VIEWS)
def test_it_equals_gymnasiums_vector_of_single_envs(view: str, mode: str) -> None:
    arguments = {**VIEWS[view], "world": Testcard((32, 48)), "max_episode_steps": 4, "autoreset_mode": mode}
    ours, theirs = batched(**arguments), synchronous(**arguments)
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    results, expected = play(ours, 10), play(theirs, 10)
    for result, other in zip(results, expected, strict=True):
        assert data_equivalence(result, other, exact=True)
        assert result[0] in ours.observation_space
    if "task" in view:
        assert any(result[2].any() for result in results if len(result) == 5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("observation", ["last", "latent"])
def test_a_row_of_a_dream_equals_a_single_env_of_its_seed_to_float_tolerance(observation: str, mode: str) -> None:
    world = small_dream()
    arguments = {"world": world, "observation": observation, "max_episode_steps": 3, "autoreset_mode": mode}
    ours, theirs = play(batched(**arguments), 7), play(synchronous(**arguments), 7)
    tolerance = 1 if observation == "last" else 1e-4
    for (observations, *others), (expected, *rest) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(observations.astype(float), expected.astype(float), atol=tolerance)
        for info in (others[-1], rest[-1]):
            info.pop("final_obs", None)
        assert data_equivalence(others, rest, exact=True)


def test_rows_of_any_age_step_together_and_do_not_depend_on_the_others() -> None:
    world = small_dream()
    many = batched(4, world=world, observation="latent", autoreset_mode="disabled")
    many.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 81, (9, 4))
    for step in range(6):  # row i is i steps younger than row 0
        if 0 < step < 4:
            many.reset(seed=[0, 1, 2, 3], options={"reset_mask": np.arange(4) >= step})
        observations, *_, infos = many.step(actions[step])
    assert infos["step"].tolist() == [6, 5, 4, 3]
    for row in range(4):
        env = single(world=world, observation="latent")
        env.reset(seed=row)
        for step in range(row, 6):
            alone, *_ = env.step(actions[step, row])
        np.testing.assert_allclose(observations[row], alone, atol=1e-4)


# The three kinds of autoreset, in words


def test_next_step_begins_an_ended_row_anew_without_stepping_it() -> None:
    env = batched(2, world=Testcard((32, 48)), max_episode_steps=2, reward=lambda step: step.step * 1.0)
    env.reset(seed=0)
    env.step([9, 9])
    env.reset(options={"reset_mask": np.array([False, True])})  # row 1 is a step behind
    _, rewards, terminations, truncations, _ = env.step([9, 9])
    assert (rewards.tolist(), terminations.any(), truncations.tolist()) == ([2, 1], False, [True, False])
    observations, rewards, _, truncations, infos = env.step([80, 9])
    assert (rewards.tolist(), truncations.tolist()) == ([0, 2], [False, True])
    assert infos["step"].tolist() == [0, 2]
    assert infos["labels"].tolist() == [[0] * 4, [9] * 4]
    np.testing.assert_array_equal(observations[0], np.broadcast_to(observations[0][:1], observations[0].shape))


def test_same_step_keeps_the_end_of_the_old_episode_beside_the_beginning_of_the_new() -> None:
    env = batched(2, world=Testcard((32, 48)), max_episode_steps=2, autoreset_mode="same_step")
    play(env, 1)
    observations, _, _, truncations, infos = env.step([9, 9])
    assert truncations.all()
    assert infos["step"].tolist() == [0, 0]
    assert infos["final_info"]["step"].tolist() == [2, 2]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, True]
    assert infos["final_obs"].dtype == object
    for row in range(2):
        assert infos["final_obs"][row] in env.single_observation_space
        assert (infos["final_obs"][row] != observations[row]).any()
    assert "final_obs" not in env.step([9, 9])[-1]


def test_disabled_waits_for_the_masked_reset_of_ended_rows() -> None:
    env = batched(2, world=Testcard((32, 48)), max_episode_steps=2, autoreset_mode="disabled")
    env.reset(seed=0)
    env.step([9, 9])
    env.reset(options={"reset_mask": np.array([False, True])})
    _, _, _, truncations, _ = env.step([9, 9])
    assert truncations.tolist() == [True, False]
    with pytest.raises(ResetNeeded, match=r"envs \[0\] have ended"):
        env.step([9, 9])
    env.reset(options={"reset_mask": truncations})
    assert env.step([9, 9])[-1]["step"].tolist() == [1, 2]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_mode_is_given_by_gymnasiums_names_as_well(mode: AutoresetMode) -> None:
    assert batched(autoreset_mode=mode).metadata["autoreset_mode"] is mode
    assert batched(autoreset_mode=mode.value).metadata["autoreset_mode"] is mode


@pytest.mark.parametrize("limit", [None, -1])
def test_an_episode_without_a_limit_goes_on(limit: int | None) -> None:
    env = batched(1, world=Testcard((16, 16)), max_episode_steps=limit)
    assert not any(result[3].any() for result in play(env, 70)[1:])


# Beside steps and resets


def test_rendering_shows_the_newest_frame_of_every_row() -> None:
    env = batched(2, render_mode="rgb_array", size=(24, 40), max_episode_steps=2, autoreset_mode="same_step")
    observations, _ = env.reset(seed=0)
    for _ in range(4):
        frames = env.render()
        assert isinstance(frames, tuple)
        np.testing.assert_array_equal(np.stack(frames), observations[:, -1])
        observations, *_ = env.step([9, 1])
    frames[0][:] = 0
    assert env.render()[0].any()  # type: ignore[index]
    assert (env.metadata["render_fps"], env.fps) == (1, 16)  # a picture of a step's end, for a second of video


def test_render_without_a_mode_warns() -> None:
    env = batched()
    env.reset()
    with pytest.warns(UserWarning, match="without a render mode: make the env with one of rgb_array"):
        assert env.render() is None


@pytest.mark.parametrize("arguments", [{}, {"task": "reach"}, {"render_mode": "rgb_array", "observation": "latent"}])
def test_restored_episodes_go_on_as_they_did_any_number_of_times(arguments: dict[str, Any]) -> None:
    world = Testcard((32, 48))
    env, other = (batched(world=world, max_episode_steps=5, **arguments) for _ in range(2))
    play(env, 2)
    snapshot = env.snapshot()
    random = [copy.deepcopy(generator.bit_generator.state) for generator in env.np_random]

    def go_on(it: WorldPlayVectorEnv) -> list[Any]:
        for generator, state in zip(it.np_random, random, strict=True):
            generator.bit_generator.state = state
        results = [it.step([9, 1, 3]) for _ in range(4)]  # past the end of the episodes
        return [*results, it.render() if arguments.get("render_mode") else None]

    expected = go_on(env)
    for it in (env, other, env):
        it.restore(snapshot)
        assert data_equivalence(go_on(it), expected, exact=True)
    env.restore(snapshot)
    masked, _ = env.reset(options={"reset_mask": np.array([True, False, False])})
    other.restore(snapshot)
    again, _ = other.reset(options={"reset_mask": np.array([False, True, False])})
    for one, other_one in zip(_leaves(masked), _leaves(again), strict=True):
        np.testing.assert_array_equal(one[2], other_one[2])


def _leaves(observation: Any) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def test_a_closed_env_lets_go_of_its_world_closes_again_and_can_be_reset() -> None:
    env = batched()
    played = play(env, 2)
    env.close()
    env.close()
    assert env.closed
    with pytest.raises(ResetNeeded):
        env.step([9, 9, 9])
    assert data_equivalence(play(env, 2), played, exact=True)
    assert not env.closed


def test_an_env_that_a_snapshot_opened_again_can_be_closed_again() -> None:
    env = batched(world=Testcard((16, 16)))
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.close()
    env.restore(snapshot)
    assert env.step([9, 9, 9])[-1]["step"].tolist() == [1, 1, 1]
    env.close()
    with pytest.raises(ResetNeeded):
        env.step([9, 9, 9])


@pytest.mark.parametrize("copied", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
def test_a_pickled_or_copied_env_is_a_fresh_one_that_replays(copied: Any) -> None:
    env = batched(observation="last", max_episode_steps=2, autoreset_mode="same_step", task="reach")
    played = play(env, 3)
    twin = copied(env)
    with pytest.raises(ResetNeeded):
        twin.step([9, 9, 9])
    assert data_equivalence(play(twin, 3), played, exact=True)


def test_weights_load_at_the_first_reset_and_never_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **others: Any) -> Any:
        raise AssertionError("loaded")

    monkeypatch.setattr(worldplay_env.worlds.registry, "load", load)
    env = WorldPlayVectorEnv(2, "wan-5b", observation="last")
    assert env.observation_space.shape == (2, 704, 1280, 3)
    with pytest.raises(AssertionError, match="loaded"):
        env.reset()


def test_timings_have_the_parts_of_a_single_env_s() -> None:
    envs, env = batched(), single().unwrapped
    assert isinstance(env, worldplay_env.WorldPlayEnv)
    envs.reset(seed=0)
    env.reset(seed=0)
    assert envs.timings == env.timings == {}
    envs.step(np.full(envs.num_envs, 9))
    env.step(9)
    assert envs.timings.keys() == env.timings.keys() >= {"render", "world", "host", "total"}
    for timings in (envs.timings, env.timings):
        assert timings["total"] == pytest.approx(timings["world"] + timings["host"])


# Made by Gymnasium


@pytest.mark.parametrize("id", ["Tiny", "Wan5B", "Testcard", "Scene", "Reach", "Collect"])
def test_make_vec_makes_one_of_every_registered_id(id: str) -> None:
    # Warnings are errors in these tests. Not the default observation: the bounds of Wan5B's take seconds to fill.
    env = gymnasium.make_vec(f"WorldPlay/{id}-v0", num_envs=2, observation="last", size=(16, 16))
    assert isinstance(env, WorldPlayVectorEnv)
    assert env.spec is not None
    assert str(env) == f"WorldPlayVectorEnv(WorldPlay/{id}-v0, num_envs=2)"


def test_make_vec_passes_arguments_on_and_the_registered_limit() -> None:
    env = gymnasium.make_vec("WorldPlay/Testcard-v0", num_envs=2, autoreset_mode="same_step", size=(16, 16))
    truncated = [result[3].any() for result in play(env, 60)[1:]]
    assert truncated == [False] * 59 + [True]
    short = gymnasium.make_vec("WorldPlay/Testcard-v0", num_envs=1, max_episode_steps=1, size=(16, 16))
    assert play(short, 1)[1][3].all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"wrappers": [lambda env: env], "vectorization_mode": "vector_entry_point"},
        {"vector_kwargs": {"autoreset_mode": "same_step"}, "vectorization_mode": "vector_entry_point"},
    ],
)
def test_make_vec_refuses_wrappers_and_vector_kwargs(arguments: dict[str, Any]) -> None:
    with pytest.raises(gymnasium.error.Error, match=r"wrappers|vector_kwargs"):
        gymnasium.make_vec("WorldPlay/Testcard-v0", num_envs=2, **arguments)


def test_gymnasiums_episode_statistics_add_up_rewards_and_lengths() -> None:
    env = batched(2, world=Testcard((16, 16)), max_episode_steps=3, reward=lambda step: step.step * 1.0)
    infos = play(RecordEpisodeStatistics(env), 3)[-1][-1]
    assert infos["episode"]["r"].tolist() == [6, 6]
    assert infos["episode"]["l"].tolist() == [3, 3]
