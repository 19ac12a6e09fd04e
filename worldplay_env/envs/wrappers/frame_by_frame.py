"""A wrapper that shows a chunk's frames one at a time."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from worldplay_env.control.actions import KEYS, label_of_keys
from worldplay_env.envs.wrappers.chunk_space import chunk_space
from worldplay_env.envs.wrappers.episode_films import channel_last
from worldplay_env.envs.wrappers.record import _frames, _rate


@dataclass
class _Playback:
    """The state of a `FrameByFrame` in its episode."""

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

    Code for one picture a step (Gymnasium's `RecordVideo`, `FrameStackObservation` and `utils.play`, a policy for
    images) then works unchanged and misses no frame. Over an env with `every=4` a chunk is four steps, the last of
    which shows its newest frame.

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
        chunk = chunk_space(env.observation_space)
        if chunk is None or chunk_space(env.unwrapped.observation_space) is None:
            raise ValueError(
                "FrameByFrame plays the frames of a chunk observation, and this env observes "
                f'{env.observation_space}: make it with observation="chunk" ("last" shows one frame of each chunk, '
                '"latent" none)'
            )
        frame, whole = spaces.Box(0, 255, chunk.shape[1:], np.uint8), env.observation_space
        self.observation_space = (
            spaces.Dict({**whole.spaces, "observation": frame}) if isinstance(whole, spaces.Dict) else frame
        )
        frames_a_second = _rate(env) * chunk.shape[0] // env.get_wrapper_attr("layout").chunk_images
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
        """Return the action of each combination of keys, for `gymnasium.utils.play`.

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
