"""Other libraries' loops on the embedded world, briefly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from libraries import MINARI_ADVICE, MINARI_FOLDERS, counted

from worldplay_env.envs.wrappers.frame_by_frame import FrameByFrame


@pytest.mark.slow
class TestTheDream:
    """The same loops, briefly, on the embedded world."""

    def reach(self) -> gymnasium.Env[Any, Any]:
        return gymnasium.make("WorldPlay/Reach-v0", size=(48, 80))

    def test_stable_baselines3_checks_the_task_and_learns_it(self) -> None:
        sb3 = pytest.importorskip("stable_baselines3")
        checker = pytest.importorskip("stable_baselines3.common.env_checker")
        checker.check_env(self.reach(), skip_render_check=False)
        model = sb3.PPO("MultiInputPolicy", self.reach(), n_steps=8, batch_size=4, n_epochs=1, device="cpu")
        before = [parameter.detach().clone() for parameter in model.policy.parameters()]
        model.learn(8)
        assert any(not old.equal(new) for old, new in zip(before, model.policy.parameters(), strict=True))

    def test_torchrl_checks_it(self) -> None:
        envs = pytest.importorskip("torchrl.envs")
        for name, observation in (("Tiny", "latent"), ("Reach", "last")):
            env = envs.GymEnv(
                f"WorldPlay/{name}-v0", observation=observation, categorical_action_encoding=True, device="cpu"
            )
            envs.check_env_specs(env)
            assert env.rollout(2, break_when_any_done=False).batch_size == (2,)

    def test_gymnasiums_wrappers_stack_and_count(self) -> None:
        inner = FrameByFrame(gymnasium.make("WorldPlay/Tiny-v0", size=(48, 80), max_episode_steps=1))
        env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.FrameStackObservation(inner, 4))
        env.reset(seed=0)
        for _ in range(13):
            observation, _, _, truncated, info = env.step(9)
        assert observation in env.observation_space
        assert len({frame.tobytes() for frame in observation}) == 4
        assert truncated
        assert info["episode"]["l"] == 13

    def test_vector_wrappers_count(self) -> None:
        envs = gymnasium.make_vec("WorldPlay/Reach-v0", num_envs=2, size=(48, 80), max_episode_steps=2)
        infos = counted(envs, np.array([0, 0]))
        assert [info["episode"]["l"] for info in infos] == [2] * 2

    @pytest.mark.filterwarnings(MINARI_ADVICE, MINARI_FOLDERS)
    def test_minari_reads_back_what_was_dreamt(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        minari = pytest.importorskip("minari")
        pytest.importorskip("h5py")
        pytest.importorskip("jax")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        tiny = gymnasium.make("WorldPlay/Tiny-v0", observation="latent", max_episode_steps=2)
        env = minari.DataCollector(tiny, record_infos=True)
        shown = [env.reset(seed=3)[0], *(env.step(action)[0] for action in (9, 1))]
        env.create_dataset("worldplay/dream-v0", algorithm_name="test", author="test", author_email="test")
        env.close()
        [episode] = minari.load_dataset("worldplay/dream-v0").iterate_episodes()
        np.testing.assert_array_equal(episode.observations, np.stack(shown))
        np.testing.assert_array_equal(episode.actions, [9, 1])
