"""A world as a Gymnasium environment."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle

from worldplay_env.control.actions import NUM_ACTIONS
from worldplay_env.image import ImageSource
from worldplay_env.observation import View, chunk_info, start_info
from worldplay_env.starts import Starts, StartSource, find_starts, read_start
from worldplay_env.window import Window
from worldplay_env.world import (
    CHUNK_FRAMES,
    CHUNK_LATENTS,
    FIRST_CHUNK_FRAMES,
    Control,
    Rollout,
    Start,
    World,
    WorldSpec,
    check_fork,
    check_prompt,
    describe,
    load,
)

Reward = Callable[[np.ndarray, Any, dict[str, Any]], float]
"""A reward function: (observation, action, info) of a step -> its reward."""

RENDER_MODES = ("rgb_array", "rgb_array_list", "human")
ACTIONS = ("chunk", "latent")
"""One action for a chunk, or one for each of its latent frames."""
RESET_OPTIONS = ("image", "prompt")
_NOT_GIVEN: Any = object()


class InvalidAction(gymnasium.error.InvalidAction, ValueError):  # noqa: N818 (Gymnasium's name)
    """An action that is not in the action space; nothing was changed."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A moment of an episode, to come back to with `WorldPlayEnv.restore`, any number of times; copies no tensor."""

    rollout: Rollout
    world: World
    frame: int
    last_frame: np.ndarray | None


class WorldPlayEnv(gymnasium.Env[np.ndarray, Any], EzPickle):
    """A video world that goes on from a picture as the camera in it is moved.

    Description:
        A world model (or renderer, or test picture: any `World`) is given a start picture and a prompt. Every step
        moves the camera and makes the next chunk of video, seen from it: four latent frames, 16 images, one second.

    Actions:
        `Discrete(81)`: `translation * 9 + rotation`, held for the whole chunk. A latent frame moves by 0.08 units and
        turns by 3 degrees along each axis named.

        |   | translation     | rotation                |
        | - | --------------- | ----------------------- |
        | 0 | none            | none                    |
        | 1 | forward         | yaw right               |
        | 2 | back            | yaw left                |
        | 3 | right           | pitch up                |
        | 4 | left            | pitch down              |
        | 5 | forward + right | yaw right + pitch up    |
        | 6 | forward + left  | yaw right + pitch down  |
        | 7 | back + right    | yaw left + pitch up     |
        | 8 | back + left     | yaw left + pitch down   |

        With `actions="latent"`, `MultiDiscrete([81] * 4)`: one such action for each latent frame of the chunk. In an
        episode's first step the first one is ignored, since that latent frame is the start.

    Observation:
        `observation="chunk"`: `Box(0, 255, (16, H, W, 3), uint8)`, the chunk's frames in playing order. `reset`
        shows the start picture (mid-grey without one) 16 times, the first step shows it 3 times and then 13 new
        frames, each later step 16 new ones. `"last"`: the newest frame, `(H, W, 3)`. `"latent"`: the chunk's latents,
        float32 `(channels, 4, rows, columns)`, without running the decoder (unless a render mode needs it); `reset`
        repeats the start's.

    Info:
        The same keys at `reset` and `step`; nothing in it differs between two equal runs (timings of the newest step,
        in seconds by part, are in `env.unwrapped.timings`).

        - `poses`: float64 (4, 4, 4), camera-to-world matrices of the chunk's latent frames (the start's, at reset).
        - `labels`: int64 (4,), their actions; 0 for the start.
        - `memory`: int64 (16,), the past latent frames that the chunk was made from, -1 where there is none.
        - `step`: steps of the episode so far.
        - `frame`: frames made in the episode so far.
        - `new_frames`: how many frames at the end of a chunk observation are new: 16, or 13 in the first step.

    Reward and end of an episode:
        The reward is 0 unless `reward` or a wrapper gives one. The env never terminates; the registered ids truncate
        after 60 steps.

    Starts:
        A bare `reset` draws one of `starts` and the rollout's seed with `np_random`. `reset(options={"image": ...,
        "prompt": ...})`, or `env.unwrapped.reset(image, prompt)`, gives one for that episode: with an image alone the
        prompt is empty, an image of None starts from the prompt alone, and a prompt alone replaces that of the start
        that is drawn.

    Rendering:
        `"rgb_array"`: the newest frame; `"rgb_array_list"`: all frames since the last `render` or `reset`; `"human"`:
        a window that plays each chunk as it is made.

    Pickle and deepcopy give a fresh env with the same arguments, which must be reset. A world given as an object is
    shared by the copies, never copied; a spec that holds one cannot be written as JSON.

    Args:
        world: "tiny", "wan-5b", "scene", "testcard", a folder of weights, or a `World`.
        starts: A picture, a folder of pictures or (picture, prompt) pairs (see `starts.find_starts`); by default the
            bundled pictures.
        device: A torch device; by default "cuda" where there is one, else "cpu". Not touched before the first reset.
        dtype: "float32", "bfloat16" or "float16"; by default bfloat16 on a GPU and float32 on a CPU.
        observation: "chunk", "last" or "latent".
        actions: "chunk" or "latent".
        size: Height and width of frames in observations and renderings, scaled on the device; by default the world's.
        render_mode: None, "rgb_array", "rgb_array_list" or "human".
        accept_license: Agree to the licence of weights that are downloaded.
        revision: The hub's commit or tag of weights that are downloaded.
        weights: "random" for seeded random parameters; by default the world's own.
        reward: Gives a step's reward from (observation, action, info); where it raises, the step has not happened.

    Raises:
        ValueError: An unknown world, observation, kind of actions or render mode; the message lists the known ones.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 16}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        world: str | Path | World = "tiny",
        starts: Starts | None = None,
        device: str | None = None,
        dtype: str | None = None,
        observation: str = "chunk",
        actions: str = "chunk",
        size: Sequence[int] | None = None,
        render_mode: str | None = None,
        accept_license: bool = False,
        revision: str | None = None,
        weights: str | None = None,
        reward: Reward | None = None,
    ) -> None:
        EzPickle.__init__(
            self,
            world,
            starts,
            device,
            dtype,
            observation,
            actions,
            size,
            render_mode,
            accept_license,
            revision,
            weights,
            reward,
        )
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"unknown render mode {render_mode!r}: known are {', '.join(RENDER_MODES)}, or None")
        if actions not in ACTIONS:
            raise ValueError(f"unknown actions {actions!r}: known are {', '.join(ACTIONS)}")
        spec: WorldSpec | World
        if isinstance(world, str | Path):
            spec = describe(world)
            settings = {"device": device, "dtype": dtype, "weights": weights, "revision": revision}
            self._load: Callable[[], World] = functools.partial(
                load, world, accept_license=accept_license, **settings
            )
        else:
            spec = _check_world(world, device=device, dtype=dtype, weights=weights, revision=revision)
            self._load = lambda: world
        self._world: World | None = None
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": spec.fps}
        self._view = View.of(observation, spec, size, all_frames=render_mode in ("rgb_array_list", "human"))
        self._decode = observation != "latent" or render_mode is not None
        self._starts: Sequence[StartSource] | None = None if starts is None else find_starts(starts)
        self._reward = reward
        self.observation_space = self._view.space
        self.action_space = (
            spaces.Discrete(NUM_ACTIONS)
            if actions == "chunk"
            else spaces.MultiDiscrete([NUM_ACTIONS] * CHUNK_LATENTS)
        )
        self._window = Window(f"WorldPlay: {getattr(world, 'name', world)}", spec.fps)
        self._rollout: Rollout | None = None
        self._frame = 0
        self._last_frame: np.ndarray | None = None
        self._unrendered: list[np.ndarray] = []
        self.timings: dict[str, float] = {}
        """Seconds by part of the newest step ("host": fetching and arranging the frames); empty after a reset."""

    @property
    def world(self) -> World:
        """The world, which is loaded when it is first asked for: by `reset`, or by this."""
        if self._world is None:
            self._world = self._load()
        return self._world

    @property
    def weights(self) -> str:
        """Where the world's parameters came from ("random", "trained", a revision, "none"); loads it if need be."""
        return self.world.weights

    @property
    def rollout(self) -> Rollout:
        """The running episode's rollout; raises ResetNeeded if there is none. A step replaces it."""
        if self._rollout is None:
            raise ResetNeeded("no episode is running: call reset() first")
        return self._rollout

    def reset(  # Gymnasium's two arguments, and the start in front of them
        self,
        image: ImageSource | None = _NOT_GIVEN,
        prompt: str = _NOT_GIVEN,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; see "Starts" above.

        Args:
            image: A picture (see `image.read_image`), or None to start from the prompt alone.
            prompt: What the world looks like.
            seed: Of `np_random`, which draws the start and the rollout's own seed.
            options: {"image": ..., "prompt": ...}, both optional: the same in a way that passes through wrappers.

        Raises:
            ValueError: Unknown options, an argument given both ways, a picture that cannot be read (`ImageError`).
            TypeError: A prompt that is no string.
            RuntimeError: The process was forked after CUDA was used. Whatever is raised, the env is as it was.
        """
        image, prompt = _merge_options(image, prompt, options)
        start = None if image is _NOT_GIVEN else read_start(image, "" if prompt is _NOT_GIVEN else prompt)
        world = self.world
        check_fork(world.device)
        generator = copy.deepcopy((self._np_random, self._np_random_seed))
        try:
            super().reset(seed=seed)
            rollout_seed = int(self.np_random.integers(2**63))
            rollout = world.start(start or self._draw_start(prompt), rollout_seed)
            observation, info = self._view.of_start(rollout), start_info(rollout)
            picture = self._view.picture(rollout) if self.render_mode else None
        except BaseException:
            self._np_random, self._np_random_seed = generator
            raise
        self._rollout, self._frame = rollout, 0
        self.timings = {}
        self._unrendered.clear()
        if picture is not None:
            self._show(picture[None])
        return observation, info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Make the next chunk.

        Args:
            action: A whole number 0..80; with `actions="latent"`, four of them.

        Returns:
            Observation, reward, False (never terminated), False (truncated by a time limit alone) and info.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: An action of another type, shape or range.
            WorldError: The world could not make the chunk. Whatever is raised, the env is as it was.
        """
        rollout = self.rollout.fork()  # shares every tensor; what goes wrong below leaves the episode's own untouched
        first = rollout.chunks == 0
        control = Control.of_labels(rollout.pose, self._labels(action), first=first)
        [chunk] = self.world.step([rollout], [control], decode=self._decode)

        began = time.perf_counter()
        frames = self._view.frames(chunk) if self._decode else None
        observation = self._view.of_chunk(rollout, chunk, frames)
        new_frames = FIRST_CHUNK_FRAMES if first else CHUNK_FRAMES
        info = chunk_info(control, chunk, rollout.chunks, new_frames, self._frame + new_frames)
        timings = {**chunk.timings, "host": time.perf_counter() - began}
        reward = 0.0 if self._reward is None else float(self._reward(observation, action, info))

        self._rollout, self._frame, self.timings = rollout, self._frame + new_frames, timings
        if self.render_mode is not None and frames is not None:
            self._show(frames)
        return observation, reward, False, False, info

    def render(self) -> np.ndarray | list[np.ndarray] | None:  # type: ignore[override]
        """Return the newest frame, all frames since the last call, or None, by the render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                f"render() does nothing without a render mode: make the env with one of {', '.join(RENDER_MODES)}"
            )
            return None
        if self._last_frame is None:
            raise ResetNeeded("there is nothing to render yet: call reset() first")
        if self.render_mode == "rgb_array":
            return self._last_frame.copy()
        if self.render_mode == "rgb_array_list":
            frames, self._unrendered = self._unrendered, []
            return frames
        return None

    def snapshot(self) -> Snapshot:
        """Return this moment of the episode; it stays good when the episode goes on or ends.

        It copies nothing, but keeps the decoder's state of this moment in memory (of tiny 4 MB, of wan-5b 3.2 GB).

        It holds neither `np_random` nor what wrappers count (a time limit goes on).
        """
        return Snapshot(self.rollout.fork(), self.world, self._frame, self._last_frame)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a moment of this episode or another of the same world; the same steps give the same frames.

        Raises:
            TypeError: It is no snapshot.
            ValueError: It was taken in another world.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"restore takes what snapshot() returned, got {type(snapshot).__name__}")
        if snapshot.world is not self.world:
            raise ValueError(f"the snapshot is of another world ({snapshot.world.name}) than this env's")
        self._rollout, self._frame = snapshot.rollout.fork(), snapshot.frame
        self._last_frame = snapshot.last_frame
        if self.render_mode is not None:
            # An env that shows nothing keeps no frame: then the start is the newest picture that there is.
            newest = self._rollout.picture if self._last_frame is None else self._last_frame
            self._last_frame = self._view.fit(newest)
        self._unrendered.clear()
        self.timings = {}

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt for the chunks to come, without a new episode.

        Raises:
            ResetNeeded: No episode is running.
            TypeError: The prompt is no string.
        """
        self.rollout.set_prompt(check_prompt(prompt))

    def close(self) -> None:
        """Let go of the episode, the window and the world, which other envs may go on using; twice is no error."""
        self._window.close()
        self._rollout = self._last_frame = self._world = None
        self._unrendered.clear()

    def _draw_start(self, prompt: str) -> Start:
        if self._starts is None:
            self._starts = find_starts()
        image, own_prompt = self._starts[int(self.np_random.integers(len(self._starts)))]
        return read_start(image, own_prompt if prompt is _NOT_GIVEN else prompt)

    def _labels(self, action: Any) -> np.ndarray:
        """Return the four labels of an action, int64 [4]."""
        shape = self.action_space.shape
        expected = "a whole number" if shape == () else f"{CHUNK_LATENTS} whole numbers"
        error = InvalidAction(f"an action is {expected} 0..{NUM_ACTIONS - 1}, got {action!r}")
        try:
            labels = np.asarray(action)
        except (TypeError, ValueError) as ragged:
            raise error from ragged
        if labels.dtype.kind not in "iu" or labels.shape != shape or labels.min() < 0 or labels.max() >= NUM_ACTIONS:
            raise error
        return np.broadcast_to(labels, CHUNK_LATENTS).astype(np.int64)

    def _show(self, frames: np.ndarray) -> None:
        """Keep or play new frames, uint8 [N, height, width, 3], as the render mode asks."""
        self._last_frame = frames[-1].copy()
        if self.render_mode == "rgb_array_list":
            self._unrendered.extend(frame.copy() for frame in frames)
        elif self.render_mode == "human":
            self._window.play(frames)


def _check_world(world: Any, **settings: str | None) -> World:
    if not (callable(getattr(world, "start", None)) and callable(getattr(world, "step", None))):
        raise TypeError(f"world must be a name, a folder or a World, got {type(world).__name__}: {world!r}")
    if given := [name for name, value in settings.items() if value is not None]:
        raise ValueError(f"{', '.join(given)} cannot be set for a world that is loaded already: give it to load()")
    return world


def _merge_options(image: Any, prompt: Any, options: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Return the image and the prompt of a reset, `_NOT_GIVEN` where neither way gives one."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"reset's options must be a dict, got {type(options).__name__}: {options!r}")
    options = options or {}
    if unknown := [name for name in options if name not in RESET_OPTIONS]:
        raise ValueError(f"unknown reset option {unknown[0]!r}: known are {', '.join(RESET_OPTIONS)}")
    given = {"image": image, "prompt": prompt}
    if twice := [name for name in RESET_OPTIONS if name in options and given[name] is not _NOT_GIVEN]:
        raise ValueError(f"reset was given the {twice[0]} twice, as an argument and in its options")
    merged = {**given, **options}
    if merged["prompt"] is not _NOT_GIVEN:
        check_prompt(merged["prompt"])
    return merged["image"], merged["prompt"]
