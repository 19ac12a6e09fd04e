"""Other libraries' loops on the real env: their checkers pass, and they get the env's observations."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from envs import bare
from films import read_film
from libraries import CLOSED_AFTER, MINARI_FOLDERS, counted, run

from worldplay_env.envs.vector import WorldPlayVectorEnv
from worldplay_env.envs.wrappers.frame_by_frame import FrameByFrame
from worldplay_env.worlds.testcard import frame_number


def make(**arguments: Any) -> gymnasium.Env[Any, Any]:
    """Return an env with the bundled starts, which its spec can hold as JSON."""
    return gymnasium.make("WorldPlay/Testcard-v0", **arguments)


def make_vec(num_envs: int = 3, **arguments: Any) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    return gymnasium.make_vec("WorldPlay/Testcard-v0", num_envs=num_envs, **arguments)


class TestGymnasium:
    def test_record_video_keeps_every_frame(self, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        env = FrameByFrame(make(render_mode="rgb_array", max_episode_steps=3))
        env = gymnasium.wrappers.RecordVideo(env, str(tmp_path / "videos"))
        start, _ = env.reset(seed=0)
        while not env.step(9)[3]:
            pass
        env.close()
        film = read_film(tmp_path / "videos" / "rl-video-episode-0.mp4")
        assert np.abs(film.frames[0].astype(int) - start).mean() < 6
        assert [frame_number(frame) for frame in film.frames[1:]] == list(range(13 + 2 * 16))
        assert film.fps == 16

    def test_record_video_of_the_env_itself_has_a_picture_a_step_and_plays_in_real_time(self, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        env = gymnasium.wrappers.RecordVideo(make(render_mode="rgb_array"), str(tmp_path / "videos"))
        env.reset(seed=0)
        for _ in range(3):
            env.step(9)
        env.close()
        film = read_film(tmp_path / "videos" / "rl-video-episode-0.mp4")
        assert [frame_number(frame) for frame in film.frames[1:]] == [12, 28, 44]
        assert film.fps == 1

    @pytest.mark.slow
    def test_record_video_keeps_every_frame_of_the_dream(self, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        env = FrameByFrame(gymnasium.make("WorldPlay/Tiny-v0", render_mode="rgb_array"))
        env = gymnasium.wrappers.RecordVideo(env, str(tmp_path / "videos"))
        env.reset(seed=0)
        frames = [env.step(9)[0] for _ in range(13)]
        env.close()
        film = read_film(tmp_path / "videos" / "rl-video-episode-0.mp4").frames
        assert len(film) == 1 + 13
        nearest = [np.abs(film[1:].astype(int) - frame).mean(axis=(1, 2, 3)).argmin() for frame in frames]
        assert np.abs(np.array(nearest) - np.arange(13)).max() <= 1  # neighbours may be nearly the same picture

    def test_frames_are_stacked(self) -> None:
        env = gymnasium.wrappers.FrameStackObservation(FrameByFrame(make()), 4)
        env.reset(seed=0)
        for _ in range(15):
            observation, *_ = env.step(9)
        assert observation in env.observation_space
        assert [frame_number(frame) for frame in observation] == [11, 12, 13, 14]

    def test_episode_statistics_count_the_steps_that_they_see(self) -> None:
        arguments: dict[str, Any] = {"reward": lambda transition: transition.step * 1.0, "max_episode_steps": 2}
        for env, length in ((make(**arguments), 2), (FrameByFrame(make(**arguments)), 29)):
            counted = gymnasium.wrappers.RecordEpisodeStatistics(env)
            counted.reset(seed=0)
            for _ in range(length):
                *_, truncated, info = counted.step(9)
            assert truncated
            assert info["episode"]["l"] == length
            assert info["episode"]["r"] == 3.0
        inner = FrameByFrame(gymnasium.wrappers.RecordEpisodeStatistics(make(**arguments)))
        inner.reset(seed=0)
        assert ["episode" in inner.step(9)[-1] for _ in range(29)] == [False] * 28 + [True]

    def test_pictures_are_added_to_latents(self) -> None:
        env = make(observation="latent", render_mode="rgb_array")
        env = gymnasium.wrappers.AddRenderObservation(env, render_only=False, obs_key="latent", render_key="picture")
        env.reset(seed=0)
        observation, *_ = env.step(9)
        assert observation in env.observation_space
        assert frame_number(observation["picture"]) == 12

    @pytest.mark.slow
    def test_play_shows_every_frame_and_the_key_held_at_a_chunk_s_first_frame_makes_it(self, tmp_path: Path) -> None:
        program = CLOSED_AFTER.format(frames=31) + (
            "import gymnasium, numpy as np\n"
            "from gymnasium.utils.play import play\n"
            "from worldplay_env.worlds.testcard import frame_number\n"
            "from worldplay_env.envs.wrappers.frame_by_frame import FrameByFrame\n"
            "def see(before, after, action, reward, terminated, truncated, info):\n"
            "    if info['frame'] == 5:\n"
            "        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_w))\n"
            "    print(frame_number(after), action, *info['labels'])\n"
            "env = FrameByFrame(gymnasium.make('WorldPlay/Testcard-v0', render_mode='rgb_array'))\n"
            "play(env, callback=see, seed=0, fps=1000)\n"
        )
        seen = np.array(
            [line.split() for line in run(program, tmp_path).splitlines() if line[0].isdigit()], dtype=int
        )
        np.testing.assert_array_equal(seen[:, 0], np.arange(31))
        np.testing.assert_array_equal(seen[:, 1], [0] * 5 + [9] * 26)
        np.testing.assert_array_equal(seen[12:28, 2:], 0)  # the first chunk was made before the key was held
        np.testing.assert_array_equal(seen[28:, 2:], 9)

    def test_vector_statistics_and_infos(self) -> None:
        envs = make_vec(reward=lambda transition: transition.step * 1.0, max_episode_steps=2)
        infos = counted(envs, np.array([9, 1, 0]))
        assert [info["episode"]["r"] for info in infos] == [3.0] * 3
        assert [info["episode"]["l"] for info in infos] == [2] * 3
        assert [info["new_frames"] for info in infos] == [16] * 3

    def test_vector_observations_are_turned_to_grey(self) -> None:
        envs = gymnasium.wrappers.vector.GrayscaleObservation(make_vec(observation="last"))
        first, _ = envs.reset(seed=0)
        shown, *_ = envs.step(np.array([9, 1, 0]))
        assert first in envs.observation_space
        assert shown in envs.observation_space
        colours = bare(starts=None, observation="last").reset(seed=0)[0].astype(float)
        np.testing.assert_allclose(first[0], colours @ np.array([0.2125, 0.7154, 0.0721]), atol=1)

    def test_vector_record_video_keeps_the_newest_frame_of_each_chunk(self, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        envs = make_vec(render_mode="rgb_array", max_episode_steps=2)
        envs = gymnasium.wrappers.vector.RecordVideo(envs, str(tmp_path / "videos"), record_first_only=True)
        envs.reset(seed=0)
        for _ in range(2):
            envs.step(np.array([9, 1, 0]))
        envs.close()
        film = read_film(tmp_path / "videos" / "rl-video-episode-0.mp4").frames
        assert [frame_number(frame) for frame in film[1:]] == [12, 28]  # after the start


def _seen_by_stable_baselines3(kind: str) -> gymnasium.Env[Any, Any]:
    size = {"size": (48, 80)}
    if kind == "frame by frame":
        return FrameByFrame(make(**size))
    if kind == "task":
        return make(observation="last", task="reach", **size)
    return make(observation="last", channel_first=kind == "channels first", **size)


class TestStableBaselines3:
    KINDS = ("last", "channels first", "frame by frame", "task")

    @pytest.mark.parametrize("kind", KINDS)
    def test_its_checker_finds_nothing(self, kind: str) -> None:
        checker = pytest.importorskip("stable_baselines3.common.env_checker")
        checker.check_env(_seen_by_stable_baselines3(kind), skip_render_check=False)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [*KINDS, "latent"])
    def test_ppo_learns(self, kind: str) -> None:
        sb3 = pytest.importorskip("stable_baselines3")
        from stable_baselines3.common.vec_env import VecTransposeImage

        env = make(observation="latent") if kind == "latent" else _seen_by_stable_baselines3(kind)
        policy = {"task": "MultiInputPolicy", "latent": "MlpPolicy"}.get(kind, "CnnPolicy")
        model = sb3.PPO(policy, env, n_steps=16, batch_size=8, n_epochs=1, device="cpu")
        # Networks want channels first: it turns pictures round on the way, unless they come that way.
        assert isinstance(model.env, VecTransposeImage) == (kind not in ("channels first", "latent"))
        before = [parameter.detach().clone() for parameter in model.policy.parameters()]
        model.learn(32)
        assert model.num_timesteps == 32
        assert any(not old.equal(new) for old, new in zip(before, model.policy.parameters(), strict=True))
        action, _ = model.predict(env.reset(seed=0)[0])
        assert env.action_space.contains(action)

    def test_its_success_rate_is_that_of_the_task(self) -> None:
        sb3 = pytest.importorskip("stable_baselines3")
        env = make(observation="last", task="reach", size=(48, 80), max_episode_steps=2)
        model = sb3.PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu", seed=0)
        model.learn(8)
        assert len(model.ep_success_buffer) >= 4
        assert set(model.ep_success_buffer) <= {True, False}

    def test_a_policy_sees_the_same_with_channels_first_or_last(self) -> None:
        pytest.importorskip("stable_baselines3")
        from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

        turned = VecTransposeImage(DummyVecEnv([lambda: _seen_by_stable_baselines3("last")]))
        first = DummyVecEnv([lambda: _seen_by_stable_baselines3("channels first")])
        for env in (turned, first):
            env.seed(0)
        np.testing.assert_array_equal(turned.reset(), first.reset())
        np.testing.assert_array_equal(turned.step(np.array([9]))[0], first.step(np.array([9]))[0])


class TestTorchRL:
    @pytest.mark.parametrize("observation", ["chunk", "last", "latent"])
    def test_its_checker_finds_nothing_and_rollouts_are_the_env_s(self, observation: str) -> None:
        envs = pytest.importorskip("torchrl.envs")
        env = envs.GymEnv(
            "WorldPlay/Testcard-v0", observation=observation, categorical_action_encoding=True, device="cpu"
        )
        envs.check_env_specs(env)
        env.set_seed(5)
        rollout = env.rollout(3)
        alone = bare(starts=None, observation=observation)
        alone.reset(seed=5)  # when the seed was set
        shown = [alone.reset()[0], *(alone.step(int(action))[0] for action in rollout["action"])]
        key = "pixels" if observation == "last" else "observation"
        np.testing.assert_array_equal(rollout[key].numpy(), np.stack(shown[:3]))
        np.testing.assert_array_equal(rollout["next", key].numpy(), np.stack(shown[1:]))

    def test_it_takes_wrapped_envs_and_tasks(self) -> None:
        envs = pytest.importorskip("torchrl.envs")
        for env in (FrameByFrame(make(size=(48, 80))), make(observation="last", task="reach", size=(48, 80))):
            envs.check_env_specs(envs.GymWrapper(env, device="cpu"))

    @pytest.mark.parametrize("mode", ["disabled", "same_step"])
    def test_it_resets_a_vector_env_row_by_row(self, mode: str) -> None:
        envs = pytest.importorskip("torchrl.envs")
        vector = WorldPlayVectorEnv(
            3, "testcard", observation="last", size=(48, 80), max_episode_steps=2, autoreset_mode=mode
        )
        env = envs.GymWrapper(vector, device="cpu")
        envs.check_env_specs(env)
        rollout = env.rollout(5, break_when_any_done=False)
        # The check has left the episodes somewhere: what holds is that each row ends in every other step.
        truncated = rollout["next", "truncated"][..., 0]
        assert (truncated[:, 1:] != truncated[:, :-1]).all()


class TestMinari:
    @pytest.mark.filterwarnings(MINARI_FOLDERS)
    def test_episodes_are_read_back_as_they_were(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        minari = pytest.importorskip("minari")
        pytest.importorskip("h5py")
        pytest.importorskip("jax")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        arguments: dict[str, Any] = {"observation": "last", "size": (48, 80), "max_episode_steps": 3}
        env = minari.DataCollector(make(**arguments), record_infos=True, jpeg_encoding=False)
        walks = [(3, [9, 1, 40]), (4, [0, 18, 80])]
        for seed, actions in walks:
            env.reset(seed=seed)
            for action in actions:
                env.step(action)
        facts = ("author", "author_email", "code_permalink", "algorithm_name", "description")
        env.create_dataset("worldplay/walk-v0", eval_env="WorldPlay/Testcard-v0", **dict.fromkeys(facts, "test"))
        env.close()

        dataset = minari.load_dataset("worldplay/walk-v0")
        assert dataset.total_episodes == 2
        assert dataset.total_steps == 6
        for recorded, (seed, actions) in zip(dataset.iterate_episodes(), walks, strict=True):
            alone = make(**arguments)
            results = [alone.reset(seed=seed), *(alone.step(action) for action in actions)]
            np.testing.assert_array_equal(recorded.observations, np.stack([result[0] for result in results]))
            np.testing.assert_array_equal(recorded.actions, actions)
            np.testing.assert_array_equal(recorded.truncations, [False, False, True])
            np.testing.assert_array_equal(recorded.infos["poses"], [result[-1]["poses"] for result in results])
        again = dataset.recover_environment()
        np.testing.assert_array_equal(again.reset(seed=3)[0], dataset[0].observations[0])
        del env
        gc.collect()
