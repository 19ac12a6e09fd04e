"""A chunk played frame by frame, for whatever expects one picture a step, and films that keep every frame."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper

from worldplay_env.control.actions import KEYS, label_of_keys
from worldplay_env.episode_films import EpisodeFilms, EpisodeTrigger, channel_last
from worldplay_env.world import CHUNK_FRAMES


@dataclass
class _Playback:
    """Where a `FrameByFrame` is in its episode."""

    coming: list[np.ndarray] = field(default_factory=list)
    """Frames of the newest chunk that are not shown yet, as they are observed."""
    result: tuple[Any, Any, bool, bool, dict[str, Any]] | None = None
    """What the env's step returned for that chunk, until its last frame is shown."""
    info: dict[str, Any] = field(default_factory=dict)
    """Of the newest chunk that was shown to its end, or of the reset."""
    shown: int = 0
    """Frames of the episode that were shown."""
    picture: np.ndarray | None = None
    """The frame that is shown now."""
    unrendered: list[np.ndarray] = field(default_factory=list)
    """The frames shown since the last render, for a render mode that lists them."""


class FrameByFrame(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Plays each chunk as single-frame steps: 13 of them for an episode's first chunk, 16 for every other.

    What looks at one picture a step (Gymnasium's `RecordVideo`, `FrameStackObservation` and `utils.play`, a policy
    for images) then works unchanged and misses no frame. Over an env made with `every=4` a chunk is four steps, the
    last of which shows its newest frame.

    Actions:
        The step that shows a chunk's first frame makes the chunk, from the action given to it: the newest there is.
        Actions given while the chunk plays on change nothing and are not looked at; one that is held until the chunk
        has ended counts for the next. `frames_left` is 0 where the next action counts.

    Observation:
        One frame, uint8 `(height, width, 3)`, or `(3, height, width)` with `channel_first`. In an env with a task, a
        dict in which `observation` is that frame. `reset` shows the start picture.

    Reward, end of an episode, info:
        All come with the chunk's last frame, so that none is lost: before it the reward is 0, nothing has ended, and
        info is that of the chunk before (in the first chunk, of `reset`), so that it tells nothing of frames that are
        not shown yet. A time limit of the env goes on counting chunks. Two entries of info are the wrapper's own:
        `frame` counts the frames shown in the episode, and `new_frames` is 1.

    Rendering:
        `"rgb_array"`: the frame shown; `"rgb_array_list"`: those shown since the last `render` or `reset`; `"human"`:
        the env's own window, which plays a chunk when it is made.

    A `reset` in mid-chunk drops the frames that are not shown yet. `env.unwrapped.restore` does not: call it where
    `frames_left` is 0. Pickle and deepcopy give a wrapper that must be reset, as they do of the env.

    Args:
        env: Makes chunks, with `observation="chunk"`.

    Raises:
        ValueError: The env's observations are no chunks of frames.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        chunk = _chunk_space(env.observation_space)
        if chunk is None or _chunk_space(env.unwrapped.observation_space) is None:
            raise ValueError(
                "FrameByFrame plays the frames of a chunk observation, and this env observes "
                f'{env.observation_space}: make it with observation="chunk" ("last" shows one frame of each chunk, '
                '"latent" none)'
            )
        frame, whole = spaces.Box(0, 255, chunk.shape[1:], np.uint8), env.observation_space
        self.observation_space = (
            spaces.Dict({**whole.spaces, "observation": frame}) if isinstance(whole, spaces.Dict) else frame
        )
        frames_a_second = _rate(env) * chunk.shape[0] // CHUNK_FRAMES
        self.metadata = {**env.metadata, "render_fps": frames_a_second}
        self._playback = _Playback()

    @property
    def fps(self) -> int:
        """Frames shown for a second of video: the env's rate, or with `every` a part of it."""
        return int(self.metadata["render_fps"])

    @property
    def frames_left(self) -> int:
        """Frames of the newest chunk that are not shown yet; 0 where the next step makes a chunk."""
        return len(self._playback.coming)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and show its start."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._playback = _Playback(info=info)
        self._let_go()
        return self._show(_frames(observation)[-1], observation), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Show the next frame, of a chunk made from `action` if none is playing.

        Raises:
            Exception: Whatever the env's `step` raises where a chunk is to be made; nothing has changed then.
        """
        playback = self._playback
        if playback.result is None:
            playback.result = observation, _, _, _, info = self.env.step(action)
            playback.coming = list(_frames(observation)[-info["new_frames"] :])
            self._let_go()
        assert playback.result is not None
        observation, reward, terminated, truncated, info = playback.result
        frame = self._show(playback.coming.pop(0), observation)
        playback.shown += 1
        if playback.coming:
            return frame, 0.0, False, False, self._info()
        playback.result, playback.info = None, info
        return frame, float(reward), terminated, truncated, self._info()

    def render(self) -> Any:
        """Return the frame shown, those since the last call, or what the env renders, by the render mode."""
        playback = self._playback
        if playback.picture is None or self.render_mode not in ("rgb_array", "rgb_array_list"):
            return self.env.render()
        if self.render_mode == "rgb_array":
            return playback.picture.copy()
        frames, playback.unrendered = playback.unrendered, []
        return frames

    def close(self) -> None:
        """Drop the frames that are not shown yet and close the env."""
        self._playback = _Playback()
        super().close()

    def get_keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Return which keys held together give which action, as `gymnasium.utils.play` asks for them.

        W, A, S and D move, the arrow keys look, opposite keys cancel.
        """
        import pygame

        codes = {key: getattr(pygame, f"K_{key}" if len(key) == 1 else f"K_{key.upper()}") for key in KEYS}
        every = (held for count in range(1, len(KEYS) + 1) for held in itertools.combinations(KEYS, count))
        shape = self.action_space.shape
        labels = {tuple(codes[key] for key in held): label_of_keys(held) for held in every}
        return labels if shape == () else {held: np.full(shape, label) for held, label in labels.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the episode behind, as the env does."""
        return {**self.__dict__, "_playback": _Playback()}

    def _let_go(self) -> None:
        """Make the env forget the frames that it keeps for `render`, which are rendered here."""
        if self.render_mode == "rgb_array_list":
            self.env.render()

    def _show(self, frame: np.ndarray, observation: Any) -> Any:
        """Return an observation with a frame in place of its chunk: new arrays, which nothing else holds."""
        if self.render_mode in ("rgb_array", "rgb_array_list"):
            self._playback.picture = channel_last(frame).copy()
        if self.render_mode == "rgb_array_list":
            self._playback.unrendered.append(self._playback.picture)  # type: ignore[arg-type]
        if not isinstance(observation, Mapping):
            return frame.copy()
        return {name: frame.copy() if name == "observation" else np.copy(part) for name, part in observation.items()}

    def _info(self) -> dict[str, Any]:
        return {**copy.deepcopy(self._playback.info), "frame": self._playback.shown, "new_frames": 1}


class RecordChunks(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Films episodes with every frame of each chunk, where Gymnasium's `RecordVideo` would keep one of sixteen.

    `FOLDER/PREFIX-episode-N.mp4` is encoded as the frames are made, and gets its name when it is complete: when its
    episode ends, at the next `reset`, at `close`, or, if that is never called, when the wrapper is let go of or the
    program ends. A step that raises leaves the film as it was. Older films of the same names are replaced.

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
        self._observed = _shows_every_frame(env.unwrapped.observation_space, env.observation_space)
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
    """Films rows of a vector env as `RecordChunks` films an env, whatever its autoreset mode; no frame is lost.

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
        if not _shows_every_frame(env.unwrapped.single_observation_space, env.single_observation_space):
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


def _chunk_space(space: spaces.Space[Any]) -> spaces.Box | None:
    """Return the space of a chunk observation's frames, (frames, H, W, 3) or (frames, 3, H, W); None of any other."""
    part = space.spaces.get("observation") if isinstance(space, spaces.Dict) else space
    if not isinstance(part, spaces.Box) or part.dtype != np.uint8 or len(part.shape) != 4:
        return None
    return part if 3 in (part.shape[1], part.shape[3]) else None


def _shows_every_frame(*observation_spaces: spaces.Space[Any]) -> bool:
    """Return whether all of the spaces, the bare env's and what wrappers make of it, are of whole chunks."""
    chunks = [_chunk_space(space) for space in observation_spaces]
    return all(chunk is not None and chunk.shape[0] == CHUNK_FRAMES for chunk in chunks)
