"""Chunks played frame by frame, against an env without the wrapper."""

from __future__ import annotations

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from envs import episode
from filmed import ACTIONS, bare, frames_of, make, play
from gymnasium.error import ResetNeeded

from worldplay_env.envs.action_space import InvalidAction
from worldplay_env.envs.wrappers.frame_by_frame import FrameByFrame
from worldplay_env.worlds.testcard import frame_number


class TestFrameByFrame:
    def test_every_frame_is_shown_once_and_in_order(self) -> None:
        results = play(FrameByFrame(bare()))
        np.testing.assert_array_equal([frame_number(result[0]) for result in results], np.arange(13 + 2 * 16))
        np.testing.assert_array_equal(np.stack([result[0] for result in results]), frames_of())

    def test_reset_shows_the_start(self) -> None:
        env = FrameByFrame(bare())
        first, info = env.reset(seed=3)
        np.testing.assert_array_equal(first, bare().reset(seed=3)[0][-1])
        assert (info["frame"], info["new_frames"], info["step"], env.frames_left) == (0, 1, 0, 0)

    def test_the_action_that_counts_is_that_of_the_step_that_begins_a_chunk(self) -> None:
        env = FrameByFrame(bare())
        env.reset(seed=0)
        frames = []
        for action in (9, 1):
            frames.append(env.step(action)[0])
            while env.frames_left:
                frames.append(env.step(40)[0])  # given in mid-chunk, and not held until its end
        np.testing.assert_array_equal(np.stack(frames), frames_of(actions=[9, 1]))

    @pytest.mark.parametrize("observation", ["last", "latent"])
    def test_an_env_without_chunk_observations_is_refused_and_told_why(self, observation: str) -> None:
        with pytest.raises(ValueError, match=r'this env observes Box.*: make it with observation="chunk"'):
            FrameByFrame(bare(observation=observation))

    def test_stacked_single_frames_are_not_taken_for_a_chunk(self) -> None:
        stacked = gymnasium.wrappers.FrameStackObservation(bare(observation="last"), 16)
        with pytest.raises(ValueError, match="plays the frames of a chunk observation"):
            FrameByFrame(stacked)

    def test_reward_and_end_come_with_the_last_frame(self) -> None:
        env = FrameByFrame(make(reward=lambda transition: transition.step * 10.0, max_episode_steps=2))
        results = play(env, ACTIONS[:2])
        rewards = np.array([result[1] for result in results])
        np.testing.assert_array_equal(np.flatnonzero(rewards), [12, 28])
        np.testing.assert_array_equal(rewards[[12, 28]], [10.0, 20.0])
        assert [index for index, result in enumerate(results) if result[3]] == [28]  # two chunks, not two frames
        assert not any(result[2] for result in results)
        assert all(type(result[1]) is float for result in results)

    def test_info_is_that_of_what_has_been_shown(self) -> None:
        (_, start), one, two = episode(bare(), ACTIONS[:2])
        infos = [result[-1] for result in play(FrameByFrame(bare()), ACTIONS[:2])]
        np.testing.assert_array_equal([info["frame"] for info in infos], np.arange(1, 30))
        assert {info["new_frames"] for info in infos} == {1}
        expected = [start] * 12 + [one[-1]] * 16 + [two[-1]]
        for info, known in zip(infos, expected, strict=True):
            assert info.keys() == known.keys()
            for key in ("poses", "labels", "memory", "step"):
                np.testing.assert_array_equal(info[key], known[key])
        assert infos[12]["frame"] == one[-1]["frame"]

    def test_what_is_returned_is_never_written_again(self) -> None:
        clean, env = play(FrameByFrame(bare())), FrameByFrame(bare(render_mode="rgb_array"))
        _, info = env.reset(seed=0)
        info["poses"][:] = 0
        for index, expected in enumerate(clean):
            observation, _, _, _, info = env.step(
                ACTIONS[0] if index < 13 else ACTIONS[1] if index < 29 else ACTIONS[2]
            )
            np.testing.assert_array_equal(observation, expected[0])
            np.testing.assert_array_equal(info["poses"], expected[-1]["poses"])
            assert observation.flags.owndata  # whoever keeps one frame does not keep the chunk
            for array in (observation, env.render(), info["poses"]):
                array[:] = 0

    def test_a_task_s_goal_stays_beside_the_frame_and_success_waits_for_the_last_one(self) -> None:
        task = {"chunks": (1, 1), "actions": (9,), "distance": 0.1}
        env = FrameByFrame(make(task=task))
        first, info = env.reset(seed=0)
        assert first in env.observation_space
        assert info["success"] is False
        goal, steps = first["goal"].copy(), []
        for _ in range(13):
            steps.append(env.step(9))
            assert steps[-1][0] in env.observation_space
            np.testing.assert_array_equal(steps[-1][0]["goal"], goal)
            steps[-1][0]["goal"][:] = 0  # which is the caller's own
        assert [info["success"] for *_, info in steps] == [terminated for _, _, terminated, *_ in steps]
        assert [terminated for _, _, terminated, *_ in steps] == [False] * 12 + [True]
        shown = np.stack([observation["observation"] for observation, *_ in steps])
        np.testing.assert_array_equal(shown, frames_of(actions=[9], task=task))

    def test_an_env_that_shows_every_fourth_frame_plays_those_at_a_quarter_of_the_rate(self) -> None:
        env = FrameByFrame(bare(every=4))
        assert env.fps == env.metadata["render_fps"] == 4
        results = play(env)
        assert [frame_number(result[0]) for result in results] == [0, 4, 8, 12, *range(16, 45, 4)]

    def test_frames_may_have_their_channels_first_and_are_rendered_with_them_last(self) -> None:
        env = FrameByFrame(bare(channel_first=True, size=(32, 48), render_mode="rgb_array"))
        observation, _ = env.reset(seed=0)
        assert observation.shape == (3, 32, 48)
        for _ in range(15):
            observation, *_ = env.step(9)
            np.testing.assert_array_equal(env.render(), observation.transpose(1, 2, 0))

    def test_four_actions_a_chunk_pass_through(self) -> None:
        env = FrameByFrame(bare(actions="latent"))
        env.reset(seed=0)
        frames = np.stack([env.step([0, 9, 1, 1])[0] for _ in range(13)])
        np.testing.assert_array_equal(frames, episode(bare(actions="latent"), [[0, 9, 1, 1]])[1][0][-13:])

    def test_rgb_array_list_is_the_start_and_every_frame_since(self) -> None:
        env = FrameByFrame(bare(render_mode="rgb_array_list"))
        env.reset(seed=0)
        for _ in range(5):
            env.step(9)
        rendered = env.render()
        np.testing.assert_array_equal(rendered[0], bare().reset(seed=0)[0][-1])
        np.testing.assert_array_equal(np.stack(rendered[1:]), frames_of()[:5])
        assert env.render() == []
        assert env.unwrapped.render() == []  # nothing piles up in the env

    def test_a_window_plays_the_chunk_when_it_is_made(self) -> None:
        import pygame

        env = FrameByFrame(bare(render_mode="human"))
        env.reset(seed=0)
        env.step(9)
        assert env.render() is None
        assert pygame.display.get_init()
        env.close()
        assert not pygame.display.get_init()

    def test_a_reset_in_mid_chunk_begins_anew(self) -> None:
        env = FrameByFrame(bare())
        env.reset(seed=5)
        for _ in range(7):
            env.step(40)
        np.testing.assert_array_equal(np.stack([result[0] for result in play(env)]), frames_of())

    def test_an_action_that_cannot_be_changes_nothing(self) -> None:
        env = FrameByFrame(bare())
        env.reset(seed=0)
        with pytest.raises(InvalidAction, match="81"):
            env.step(81)
        assert env.frames_left == 0
        frames = np.stack([env.step(9)[0] for _ in range(13)])
        np.testing.assert_array_equal(frames, frames_of()[:13])

    def test_a_reset_that_fails_leaves_the_chunk_playing(self) -> None:
        env = FrameByFrame(bare())
        env.reset(seed=0)
        env.step(9)
        with pytest.raises(ValueError, match="unknown reset option"):
            env.reset(options={"pictures": 3})
        np.testing.assert_array_equal(env.step(9)[0], frames_of()[1])

    def test_step_needs_a_reset_first_and_after_close_and_in_a_copy(self) -> None:
        env = FrameByFrame(bare())
        with pytest.raises(ResetNeeded):
            env.step(0)
        env.reset(seed=0)
        env.step(9)
        copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
        np.testing.assert_array_equal(env.step(9)[0], frames_of()[1])  # the original goes on
        env.close()
        for one in (env, *copies):
            with pytest.raises(ResetNeeded):
                one.step(0)
        np.testing.assert_array_equal(np.stack([result[0] for result in play(copies[0])]), frames_of())

    def test_it_is_made_again_from_its_spec(self) -> None:
        spec = FrameByFrame(make(max_episode_steps=2)).spec
        assert spec is not None
        results = play(gymnasium.make(spec), ACTIONS[:2])
        assert len(results) == 29
        assert results[-1][3]

    def test_gymnasium_s_checker_finds_nothing(self) -> None:
        from gymnasium.utils.env_checker import check_env

        with pytest.warns(UserWarning, match="has a wrapper applied"):  # as it has; any other warning is an error
            check_env(FrameByFrame(make()))

    def test_the_keys_are_those_of_the_player(self) -> None:
        import pygame

        keys = FrameByFrame(bare()).get_keys_to_action()
        assert keys[(pygame.K_w,)] == 9
        assert keys[(pygame.K_w, pygame.K_RIGHT)] == 10
        assert keys[(pygame.K_w, pygame.K_s)] == 0
        assert set(keys.values()) == set(range(81))
        assert len({tuple(sorted(held)) for held in keys}) == 2**8 - 1
        latent = FrameByFrame(bare(actions="latent"))
        assert all(action in latent.action_space for action in latent.get_keys_to_action().values())
