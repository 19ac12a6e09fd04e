"""The single environment: `WorldPlayEnv`, and its snapshots."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from worldplay_env.envs.action_space import action_space, check_action
from worldplay_env.envs.construction import WorldEnvBase, arguments_of
from worldplay_env.envs.episode import Episode, split, stack
from worldplay_env.envs.reset_options import NOT_GIVEN, START_OPTIONS, check_options, draw_start, warn_of_prompt
from worldplay_env.envs.starts import References, Starts, find_starts
from worldplay_env.envs.tasks.base import Task
from worldplay_env.envs.transition import Goal, Reward
from worldplay_env.envs.window import Window
from worldplay_env.media.image import ImageSource
from worldplay_env.worlds.base import Rollout, World, check_prompt

RENDER_MODES = ("rgb_array", "rgb_array_list", "human")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A moment of an episode, for any number of calls of `WorldPlayEnv.restore`; it copies no tensor."""

    episode: Episode
    world: World


class WorldPlayEnv(WorldEnvBase, gymnasium.Env[Any, Any]):
    """A streaming video world: an action moves the camera, an observation is the next second of video.

    `WorldPlay/Tiny-v0`, `Wan5B-v0`, `ABot5B-v0`, `Scene-v0` and `Testcard-v0` are this class with another `world`;
    `WorldPlay/Reach-v0` and `Collect-v0` have a `task`.

    ## Description
    A world (a model, a renderer or a test picture, see `World`) starts from a picture and a prompt. Each step moves
    the camera and generates the next chunk of video: four latent frames, 16 images, one second. A chunk of
    `ABot5B-v0` is three latent frames and 12 images, one second too; the sizes below are those of the other worlds.

    ## Action Space
    `Discrete(81)`: `translation * 9 + rotation`, held for the whole chunk. Per latent frame the camera moves 0.08
    units and turns 3 degrees along each axis of the action.

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

    `actions="latent"`: `MultiDiscrete([81] * 4)`, an action for each latent frame. An episode's first step ignores
    the first of them, since its first latent frame is the start.

    `actions="keys"`: `MultiBinary(8)`, the keys W A S D, up, left, down and right that are held for the chunk. In
    poses and labels opposite keys cancel each other; `ABot5B-v0`, whose model is told keys, is given both.

    ## Observation Space
    - `observation="chunk"`: `Box(0, 255, (16, H, W, 3), uint8)`, the chunk's frames in playing order. `reset` repeats
      the start picture 16 times. The first step shows it 3 times before 13 new frames, later steps 16 new frames.
    - `observation="last"`: `Box(0, 255, (H, W, 3), uint8)`, the newest frame.
    - `observation="latent"`: `Box((channels, 4, rows, columns), float32)`, the chunk's latents; `reset` repeats the
      start's. The decoder does not run, unless a render mode needs frames.

    `every=4` keeps every fourth frame of a chunk, counted back from the newest: `(4, H, W, 3)`. `size` scales frames,
    `channel_first=True` gives `(3, H, W)`; both on the device. A task can turn the space into a `Dict` with the above
    as "observation": "reach" adds "goal", one more frame or a latent frame `(channels, 1, rows, columns)`; "collect"
    adds "cells", float32 `(3, 4)`.

    ## Rewards
    0, unless `reward`, `task` or a wrapper gives one. `task="reach"`: the progress in world units plus radians, and 1
    at the goal; with `{"reward": "sparse"}` the 1 alone. `task="collect"`: 1 for each cell.

    ## Starting State
    `reset` draws one of `starts`, and the seed of the world's noise, from `np_random`. `reset(options={"image": ...,
    "prompt": ...})` sets both for one episode. An image alone has an empty prompt, a bundled picture its own; image
    None starts from the prompt alone; a prompt alone replaces the drawn start's. A world with pictures of its own
    (`World.uses_picture` is False) refuses an image, and a prompt without effect causes a warning. A task draws its
    state from `np_random` too: "reach" a goal two to four held actions away, "collect" three cells along a walk.

    ## Episode End
    Termination: by the task alone. "reach" terminates a step that ends within 0.25 units and 10 degrees of the goal's
    true pose, "collect" when no cell is left. Truncation: after 60 steps, for `Reach-v0` 12 and for `Collect-v0` 18
    (`gymnasium.make`'s time limit).

    ## Information
    The same keys at `reset` and `step`, equal in two equal runs. Timings are in `env.unwrapped.timings`.

    - `poses`: float64 (4, 4, 4), true camera-to-world matrices of the chunk's latent frames (at reset the start's).
      Behind a wall they differ from what the action asked for. Those of `ABot5B-v0`, whose model is told keys, not
      cameras, are what the keys would do at the nominal speeds: the model promises no metric scale.
    - `labels`: int64 (4,), the actions by latent frame; 0 for the start.
    - `memory`: int64 (16,), indices of the past latent frames the chunk was generated from, padded with -1.
    - `step`, `frame`: steps and frames of the episode so far.
    - `new_frames`: new frames at the end of a chunk observation: 16, in the first step 13; fewer with `every`.
    - `start`: the start picture's name: a bundled one's ("snow"), a path, "picture" for an array, "none" without one.
    - `prompt`: the current prompt. (A vector env has both as properties, `start_names` and `prompts`.)
    - `success`, `is_success`: bool, with a task. "reach" adds `goal_pose`, float64 (4, 4), "collect" `cells_left`.

    ## Rendering
    `"rgb_array"`: the newest frame. `"rgb_array_list"`: all frames since the last `render` or `reset`. `"human"`: a
    window that plays each chunk, with a task beside its picture and above its caption; key events stay in pygame's
    queue. `metadata["render_fps"]` is the real-time rate of what `render` returns, 1 for `"rgb_array"`; `fps` that of
    the video. Gymnasium's `RecordVideo` records one frame a step; over `FrameByFrame` it records all.

    ## Arguments
    Pickle and deepcopy give a fresh env with the same arguments, which needs a reset. Copies share a `World` that was
    given as an object; a spec with one cannot be written as JSON.

    Args:
        world: "tiny", "wan-5b", "abot-5b", "scene", "testcard", a folder of weights, or a `World`.
        starts: A bundled picture's name such as "snow", or "all" for these; a picture, a folder of pictures, or a
            list of pictures or (picture, prompt) pairs (see `starts.find_starts`). By default the bundled pictures.
        device: A torch device; by default "cuda" where available, else "cpu". Not touched before the first reset.
        dtype: "float32", "bfloat16" or "float16"; by default bfloat16 on a GPU and float32 on a CPU.
        observation: "chunk", "last" or "latent".
        actions: "chunk", "latent" or "keys".
        size: Height and width of frames in observations and renderings; by default the world's.
        every: Keep every so many frames of a chunk: 1, 2, 4, 8 or 16.
        channel_first: Whether observed frames are (3, H, W).
        render_mode: None, "rgb_array", "rgb_array_list" or "human".
        accept_license: Agree to the licence of weights that are downloaded.
        revision: The hub's commit or tag of weights that are downloaded.
        weights: "random" for seeded random parameters; by default the world's own.
        reward: A function of a `Transition`, in place of the task's reward. Where it raises, or returns anything but
            one finite number, the step has not happened.
        task: None, "reach", "collect", a `Task`, or a mapping of a task's fields, with its name under "name" ("reach"
            without one); see `Reach` and `Collect` for the fields.

    Raises:
        ValueError: An unknown world, observation, kind of actions, render mode or task; the message lists the known
            ones.

    ## Version History
    - v0: first release. `Collect-v0` was added after 0.1.0.
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
        every: int = 1,
        channel_first: bool = False,
        render_mode: str | None = None,
        accept_license: bool = False,
        revision: str | None = None,
        weights: str | None = None,
        reward: Reward | None = None,
        task: str | Mapping[str, Any] | Task[Any] | None = None,
    ) -> None:
        given = arguments_of(locals())
        self._construct(
            given, pictures=None if render_mode is None else "newest" if render_mode == "rgb_array" else "all"
        )
        self.observation_space = self._core.space
        self.action_space = action_space(actions, self._promised.layout.latents)
        self._window = Window(f"WorldPlay: {self._promised.name}", self.fps)
        self._episode: Episode | None = None
        self._unrendered: list[np.ndarray] = []
        self.time_limit: int | None = None
        """The time limit of a wrapper, set by the program: the window then shows the steps that are left."""

    @property
    def rollout(self) -> Rollout:
        """The running episode's rollout, which a step replaces; ResetNeeded without an episode."""
        return self._running().rollout

    @property
    def goal(self) -> Goal | None:
        """The running episode's goal; None without one, as in tasks that have no place to reach."""
        return None if self._episode is None else self._core.goal(self._episode)

    def reset(  # Gymnasium's two arguments, and the start in front of them
        self,
        image: ImageSource | None = NOT_GIVEN,
        prompt: str = NOT_GIVEN,
        references: References = NOT_GIVEN,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see "Starting State" above.

        Args:
            image: A picture (see `read_image`), a bundled one's name, or None to start from the prompt alone.
            prompt: A description of the world.
            references: For `ABot5B-v0`, pictures of the character: head, left, right, front and back, in this order,
                or a folder of pictures with these names. By default none.
            seed: Seeds `np_random`, which draws the start and the rollout's own seed.
            options: {"image": ..., "prompt": ..., "references": ...}, all optional: the same arguments, for an env
                inside wrappers.

        Returns:
            The first observation and info.

        Raises:
            ValueError: Unknown options, an argument given both ways, a picture that cannot be read (`ImageError`).
            TypeError: A prompt that is no string.
            WorldError: The task found no aim for the start, or memory ran out.
            RuntimeError: The process was forked after CUDA was used, or `render_mode="human"` has no display
                (`NoDisplay`). After an error the env is unchanged.
        """
        given = _merge_options({"image": image, "prompt": prompt, "references": references}, options)
        if self.render_mode == "human":
            self._window.check()
        if self._starts is None:
            self._starts = find_starts()
        generator = copy.deepcopy((self._np_random, self._np_random_seed))
        try:
            super().reset(seed=seed)
            drawn = draw_start(given, self._starts, self.np_random, self._promised)
            [(episode, info)] = self._core.reset([drawn], [self.np_random])
        except BaseException:
            self._np_random, self._np_random_seed = generator
            raise
        self._episode, self.timings = episode, {}
        self._unrendered.clear()
        self._show()
        return _copy(episode.observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Generate the next chunk.

        Args:
            action: A whole number 0..80; with `actions="latent"`, four of them; with `actions="keys"`, 8 of 0 and 1.

        Returns:
            Observation, reward, whether the task terminates the episode, False (a time limit truncates) and info.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: An action of another type, shape or range.
            WorldError: The world could not generate the chunk.
            RewardError: The reward function failed. After an error the env is unchanged.
        """
        with self._core.timed() as timings:
            episode, labels = self._running(), check_action(action, self.action_space)
            stepped = self._core.step([episode], labels[None])
        [self._episode], [info] = stepped.episodes, stepped.infos
        self.timings = {**stepped.timings, **timings}
        terminated = bool(stepped.terminations[0])
        self._show(terminated, bool(stepped.successes[0]))
        return _copy(self._episode.observation), float(stepped.rewards[0]), terminated, False, info

    def render(self) -> np.ndarray | list[np.ndarray] | None:  # type: ignore[override]
        """Return the newest frame, all frames since the last call, or None, by the render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                f"render() does nothing without a render mode: make the env with one of {', '.join(RENDER_MODES)}"
            )
            return None
        pictures = self._running().pictures
        if self.render_mode == "rgb_array" and pictures is not None:
            return pictures[-1].copy()
        if self.render_mode == "rgb_array_list":
            frames, self._unrendered = self._unrendered, []
            return frames
        return None

    def snapshot(self) -> Snapshot:
        """Return this moment of the episode; it stays valid after further steps or resets.

        It copies nothing, but keeps the decoder's state in memory (4 MB for tiny, 3.2 GB for wan-5b), and of abot-5b
        the keys and values that it was generated from (up to 7.3 GB). `np_random` and the state of wrappers, such as
        a time limit's count, are not part of it.
        """
        return Snapshot(self._running().fork(), self.world)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a moment of any episode of the same world; equal steps then give equal frames.

        Raises:
            TypeError: It is no snapshot.
            ValueError: It is of another world, or of an env with another task or goals that this env cannot show.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"restore takes what snapshot() returned, got {type(snapshot).__name__}")
        if snapshot.world is not self.world:
            raise ValueError(f"the snapshot is of another world ({snapshot.world.name}) than this env's")
        self._episode, self.timings = self._core.adopt(snapshot.episode), {}
        self._unrendered.clear()

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt of the following chunks within the episode.

        Raises:
            ResetNeeded: No episode is running.
            TypeError: The prompt is no string.
        """
        rollout = self.rollout
        warn_of_prompt(self._promised, check_prompt(prompt))
        rollout.set_prompt(prompt)

    def close(self) -> None:
        """Release the episode, the window and the world, which other envs may still use; can be called twice."""
        self._window.close()
        self._episode = None
        self._core.release()
        self._unrendered.clear()

    def _running(self) -> Episode:
        if self._episode is None:
            raise ResetNeeded("no episode is running: call reset() first")
        return self._episode

    def _show(self, terminated: bool = False, success: bool = False) -> None:
        """Keep or play the new frames, as the render mode asks."""
        pictures = self._running().pictures
        if pictures is not None and self.render_mode == "rgb_array_list":
            self._unrendered.extend(picture.copy() for picture in pictures)
        elif pictures is not None and self.render_mode == "human":
            self._play(pictures, terminated, success)

    def _play(self, pictures: np.ndarray, terminated: bool, success: bool) -> None:
        """Play new frames in the window: with a task beside its picture, above its line."""
        episode, task = self._running(), self.task
        if task is None:
            self._window.play(pictures)
            return
        picture = task.picture(episode.state)
        beside = None if picture is None else self._core.view.fit(picture)
        left = None if self.time_limit is None else max(0, self.time_limit - episode.step)
        stands = f"{episode.step} so far" if left is None else f"{left} left"
        running = task.caption(episode.state, ended=False, success=False)
        self._window.play(pictures, beside, f"{running}; steps: {stands}")
        if terminated or left == 0:
            said = f"{task.caption(episode.state, ended=True, success=success)}; steps: {episode.step}"
            self._window.play([pictures[-1]] * self.fps, beside, said)  # for a second


def _copy(observation: Any) -> Any:
    """Return an observation of one's own."""
    return split(stack([observation]))[0]


def _merge_options(given: Mapping[str, Any], options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return each of `START_OPTIONS` of a reset, `NOT_GIVEN` where neither way gives it."""
    options = check_options(options, START_OPTIONS)
    if twice := [name for name in START_OPTIONS if name in options and given[name] is not NOT_GIVEN]:
        raise ValueError(f"reset was given the {twice[0]} twice, as an argument and in its options")
    merged = {**given, **options}
    if merged["prompt"] is not NOT_GIVEN:
        check_prompt(merged["prompt"])
    return merged
