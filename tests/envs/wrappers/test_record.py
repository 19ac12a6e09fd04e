"""Films of every frame, against an env without the wrapper."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from envs import episode
from filmed import ACTIONS, PAIRS, bare, frames_of, make, play, same_film
from films import read_film

from worldplay_env.envs.action_space import InvalidAction
from worldplay_env.envs.vector import WorldPlayVectorEnv
from worldplay_env.envs.wrappers.frame_by_frame import FrameByFrame
from worldplay_env.envs.wrappers.record import RecordChunks, RecordVectorChunks


class TestRecordChunks:
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"observation": "last", "render_mode": "rgb_array_list"},
            {"observation": "latent", "render_mode": "rgb_array_list"},
            {"channel_first": True},
            {"every": 4, "render_mode": "rgb_array_list"},
            {"task": {"chunks": (3, 3), "actions": (18,)}},  # behind, and so never reached
        ],
        ids=["chunk", "last", "latent", "channels first", "every fourth", "task"],
    )
    def test_a_film_has_every_frame(self, tmp_path: Path, arguments: dict[str, Any]) -> None:
        env = RecordChunks(bare(**arguments), tmp_path / "films")
        episode(env, ACTIONS)
        env.close()
        path = tmp_path / "films" / "rl-video-episode-0.mp4"
        task = {"task": arguments["task"]} if "task" in arguments else {}
        assert same_film(path, frames_of(**task))
        assert read_film(path).fps == 16

    def test_an_env_that_does_not_show_every_frame_is_refused(self, tmp_path: Path) -> None:
        for arguments in (
            {"observation": "last"},
            {"every": 2},
            {"observation": "latent", "render_mode": "rgb_array"},
        ):
            with pytest.raises(ValueError, match="does not show all of its frames"):
                RecordChunks(bare(**arguments), tmp_path)
        with pytest.raises(ValueError, match="does not show all of its frames"):
            RecordChunks(FrameByFrame(bare()), tmp_path)
        collected = gymnasium.wrappers.RenderCollection(bare(observation="last", render_mode="rgb_array"))
        with pytest.raises(ValueError, match="does not show all of its frames"):
            RecordChunks(collected, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_the_trigger_says_which_episodes_are_filmed(self, tmp_path: Path) -> None:
        env = RecordChunks(make(max_episode_steps=1), tmp_path, lambda number: number % 2 == 1, "walk", fps=8)
        for seed in range(4):
            episode(env, [9], seed)
        env.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["walk-episode-1.mp4", "walk-episode-3.mp4"]
        assert same_film(tmp_path / "walk-episode-3.mp4", frames_of(3, [9]))
        assert read_film(tmp_path / "walk-episode-3.mp4").fps == 8

    def test_by_default_the_cubic_episodes_are_filmed(self, tmp_path: Path) -> None:
        env = RecordChunks(bare(), tmp_path)
        for _ in range(10):
            episode(env, [9])
        env.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"rl-video-episode-{n}.mp4" for n in (0, 1, 8)]

    def test_a_film_is_complete_when_its_episode_ends_and_at_the_next_reset(self, tmp_path: Path) -> None:
        env = RecordChunks(make(max_episode_steps=2), tmp_path)
        episode(env, ACTIONS[:2])
        assert same_film(tmp_path / "rl-video-episode-0.mp4", frames_of(actions=ACTIONS[:2]))
        episode(env, ACTIONS[:1])
        assert not (tmp_path / "rl-video-episode-1.mp4").exists()
        env.reset()
        assert same_film(tmp_path / "rl-video-episode-1.mp4", frames_of(actions=ACTIONS[:1]))
        env.close()
        assert len(list(tmp_path.iterdir())) == 2  # an episode without a step leaves no film

    def test_steps_and_resets_that_fail_leave_the_film_as_it_was(self, tmp_path: Path) -> None:
        env = RecordChunks(bare(), tmp_path)
        env.reset(seed=0)
        env.step(ACTIONS[0])
        with pytest.raises(InvalidAction):
            env.step(81)
        with pytest.raises(ValueError, match="unknown reset option"):
            env.reset(options={"pictures": 3})
        for action in ACTIONS[1:]:
            env.step(action)
        env.close()
        assert same_film(tmp_path / "rl-video-episode-0.mp4", frames_of())

    def test_render_still_gives_every_frame(self, tmp_path: Path) -> None:
        arguments = {"observation": "last", "render_mode": "rgb_array_list"}
        env, plain = RecordChunks(bare(**arguments), tmp_path, lambda number: number == 0), bare(**arguments)
        for _ in range(2):  # filmed, and not
            for one in (env, plain):
                episode(one, ACTIONS)
            np.testing.assert_array_equal(np.stack(env.render()), np.stack(plain.render()))  # type: ignore[arg-type]
            assert env.render() == []
        shown = RecordChunks(bare(render_mode="rgb_array"), tmp_path)
        np.testing.assert_array_equal(episode(shown, ACTIONS)[-1][0][-1], shown.render())
        shown.close()
        env.close()

    def test_a_recorder_that_is_let_go_of_leaves_a_complete_film(self, tmp_path: Path) -> None:
        env = RecordChunks(bare(), tmp_path)
        episode(env, ACTIONS)
        del env
        gc.collect()
        assert same_film(tmp_path / "rl-video-episode-0.mp4", frames_of())

    def test_a_program_that_fails_leaves_a_complete_film(self, tmp_path: Path) -> None:
        program = (
            "import gymnasium\nfrom worldplay_env.envs.wrappers.record import RecordChunks\n"
            "env = RecordChunks(gymnasium.make('WorldPlay/Testcard-v0'), 'films')\n"
            "env.reset(seed=0)\nenv.step(9)\nraise RuntimeError('the loop failed')"
        )
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=120)
        assert [path.name for path in (tmp_path / "films").iterdir()] == ["rl-video-episode-0.mp4"]
        assert len(read_film(tmp_path / "films" / "rl-video-episode-0.mp4").frames) == 13

    def test_frame_by_frame_goes_on_top(self, tmp_path: Path) -> None:
        env = FrameByFrame(RecordChunks(bare(), tmp_path))
        play(env)
        env.close()
        assert same_film(tmp_path / "rl-video-episode-0.mp4", frames_of())

    def test_it_is_made_again_from_its_spec(self, tmp_path: Path) -> None:
        spec = RecordChunks(make(), tmp_path, name_prefix="again").spec
        assert spec is not None
        with gymnasium.make(spec) as env:
            episode(env, [9])
        assert (tmp_path / "again-episode-0.mp4").exists()


class TestRecordVectorChunks:
    @pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
    def test_films_have_every_frame_of_their_rows_whatever_the_autoreset(self, tmp_path: Path, mode: str) -> None:
        vector = WorldPlayVectorEnv(3, "testcard", starts=PAIRS, max_episode_steps=2, autoreset_mode=mode)
        env = RecordVectorChunks(vector, tmp_path, rows=(0, 2))
        shown: dict[int, list[np.ndarray]] = {0: [], 2: []}  # of the first episode
        observations, _ = env.reset(seed=4)
        for step in range(2):
            observations, _, _, truncations, infos = env.step(np.array([9, 1, 20]))
            for row, frames in shown.items():
                last = infos["final_obs"][row] if mode == "same_step" and step == 1 else observations[row]
                frames.append(last[-13 if step == 0 else 0 :])
        assert truncations.all()
        if mode == "disabled":
            env.reset(options={"reset_mask": np.array([True, False, True])})
            env.reset(options={"reset_mask": np.array([False, True, False])})
        if mode == "next_step":
            env.step(np.zeros(3, dtype=np.int64))
        observations, *_ = env.step(np.array([9, 1, 20]))
        env.close()

        assert sorted(path.name for path in tmp_path.iterdir()) == [
            f"rl-video-env-{row}-episode-{number}.mp4" for row in (0, 2) for number in (0, 1)
        ]
        for row, frames in shown.items():
            assert same_film(tmp_path / f"rl-video-env-{row}-episode-0.mp4", np.concatenate(frames))
            assert same_film(tmp_path / f"rl-video-env-{row}-episode-1.mp4", observations[row][-13:])

    def test_tensors_are_filmed_too(self, tmp_path: Path) -> None:
        vector = WorldPlayVectorEnv(2, "testcard", starts=PAIRS, output="torch", channel_first=True)
        env = RecordVectorChunks(vector, tmp_path)
        env.reset(seed=0)
        for action in ACTIONS:
            env.step(np.array([action, 0]))
        env.close()
        assert same_film(tmp_path / "rl-video-env-0-episode-0.mp4", frames_of())

    def test_what_cannot_be_filmed_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="does not show all of its frames"):
            RecordVectorChunks(WorldPlayVectorEnv(2, "testcard", observation="last"), tmp_path)
        with pytest.raises(ValueError, match="there is no row 2: this vector env has 2"):
            RecordVectorChunks(WorldPlayVectorEnv(2, "testcard"), tmp_path, rows=(0, 2))
