"""Wrappers that write episodes as films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper

from worldplay_env.envs.wrappers.chunk_space import shows_every_frame
from worldplay_env.envs.wrappers.episode_films import EpisodeFilms, EpisodeTrigger


class RecordChunks(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Records episodes with every frame of each chunk; Gymnasium's `RecordVideo` keeps one in sixteen.

    `FOLDER/PREFIX-episode-N.mp4` is encoded chunk by chunk and gets its name once it is complete: at the end of the
    episode, at the next `reset`, at `close`, or else when the wrapper is deleted or the program ends. A step that
    raises leaves the film unchanged. Films replace older ones of the same name.

    Args:
        env: With `observation="chunk"`, whose frames are filmed as they are observed; any other is filmed with
            `render_mode="rgb_array_list"`.
        video_folder: Where films go; made if it is missing.
        episode_trigger: Which episodes are filmed, by their numbers from 0; by default, as in `RecordVideo`, the
            cubic ones (0, 1, 8, 27, ...) and from 1000 on every thousandth.
        name_prefix: What the films' names begin with.
        fps: Frames per second of playback; by default the env's `fps`.

    Raises:
        ValueError: An env that does not show all of its frames.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        video_folder: str | Path,
        episode_trigger: EpisodeTrigger | None = None,
        name_prefix: str = "rl-video",
        fps: float | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, video_folder=str(video_folder), episode_trigger=episode_trigger, name_prefix=name_prefix, fps=fps
        )
        super().__init__(env)
        self._observed = shows_every_frame(_images(env), env.unwrapped.observation_space, env.observation_space)
        # A list that a wrapper collects has one frame a step; the env's own has them all.
        if not self._observed and not env.render_mode == env.unwrapped.render_mode == "rgb_array_list":
            raise ValueError(
                f"this env does not show all of its frames: it observes {env.observation_space} with render_mode="
                f'{env.render_mode!r}; make it with observation="chunk" and every=1, or with '
                'render_mode="rgb_array_list"'
            )
        self._films = EpisodeFilms(video_folder, name_prefix, episode_trigger, fps or _rate(env))
        self._taken: list[np.ndarray] = []
        """Frames that were taken from the env's `render`, for whoever calls this one's."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; completes the film of the one before."""
        result = self.env.reset(seed=seed, options=options)
        self._films.begin()
        self._taken = [] if self._observed else self._render()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env, and film what it made.

        Raises:
            FilmError: The film could not be written; the episode has gone on, and is filmed no further.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._observed:
            self._films.add(_frames(observation)[-info["new_frames"] :])
        elif self._films.filming:
            frames = self._render()
            self._taken += frames
            self._films.add(np.stack(frames))
        if terminated or truncated:
            self._films.finish()
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """Return what the env renders."""
        if self._observed:
            return self.env.render()
        frames, self._taken = [*self._taken, *self._render()], []
        return frames

    def close(self) -> None:
        """Complete the film and close the env."""
        try:
            self._films.finish()
        finally:
            super().close()

    def _render(self) -> list[np.ndarray]:
        return list(self.env.render())  # type: ignore[arg-type]


class RecordVectorChunks(VectorWrapper[Any, Any, Any, Any, Any], RecordConstructorArgs):
    """Records rows of a vector env, with every frame, in any autoreset mode; see `RecordChunks`.

    Films are `FOLDER/PREFIX-env-ROW-episode-N.mp4`; N counts the row's own episodes.

    Args:
        env: A `WorldPlayVectorEnv` with `observation="chunk"`.
        video_folder: As in `RecordChunks`.
        rows: Which envs are filmed, each by an encoder process of its own.
        episode_trigger: As in `RecordChunks`.
        name_prefix: As in `RecordChunks`.
        fps: As in `RecordChunks`.

    Raises:
        ValueError: An env that does not show all of its frames, or a row that it does not have.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        video_folder: str | Path,
        rows: Sequence[int] = (0,),
        episode_trigger: EpisodeTrigger | None = None,
        name_prefix: str = "rl-video",
        fps: float | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            video_folder=str(video_folder),
            rows=list(rows),
            episode_trigger=episode_trigger,
            name_prefix=name_prefix,
            fps=fps,
        )
        super().__init__(env)
        if not shows_every_frame(_images(env), env.unwrapped.single_observation_space, env.single_observation_space):
            raise ValueError(
                f"this vector env does not show all of its frames: its envs observe {env.single_observation_space}; "
                'make it with observation="chunk" and every=1'
            )
        if wrong := [row for row in rows if row not in range(env.num_envs)]:
            raise ValueError(f"there is no row {wrong[0]!r}: this vector env has {env.num_envs}, counted from 0")
        fps = fps or _rate(env)
        self._films = {
            int(row): EpisodeFilms(video_folder, f"{name_prefix}-env-{row}", episode_trigger, fps) for row in rows
        }

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; completes the films of the ones before."""
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        for row, films in self._films.items():
            if "_step" in infos and infos["_step"][row]:
                films.begin()
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the envs, and film what they made.

        Raises:
            FilmError: A film could not be written; the episodes have gone on, and that one is filmed no further.
        """
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        for row, films in self._films.items():
            begun = infos["_step"][row] and infos["step"][row] == 0  # anew, in this step
            if not begun:
                films.add(_frames(observations)[row][-infos["new_frames"][row] :])
            elif "_final_obs" in infos and infos["_final_obs"][row]:
                films.add(_frames(infos["final_obs"][row])[-infos["final_info"]["new_frames"][row] :])
            if terminations[row] or truncations[row]:
                films.finish()
            if begun:
                films.begin()
        return observations, rewards, terminations, truncations, infos

    def close(self, **kwargs: Any) -> None:
        """Complete the films and close the vector env."""
        try:
            for films in self._films.values():
                films.finish()
        finally:
            super().close(**kwargs)


def _rate(env: Any) -> int:
    """Return the rate of the frames that an env shows: its `fps`, or `render_fps` where there is none."""
    if isinstance(env, gymnasium.Env) and env.has_wrapper_attr("fps"):
        return int(env.get_wrapper_attr("fps"))
    return int(getattr(env.unwrapped, "fps", env.metadata["render_fps"]))


def _frames(observation: Any) -> Any:
    """Return the frames of an observation, which with a task is a dict of them and the goal."""
    return observation["observation"] if isinstance(observation, Mapping) else observation


def _images(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> int:
    """Return the images of a chunk."""
    inner: Any = env.unwrapped
    return inner.layout.chunk_images
