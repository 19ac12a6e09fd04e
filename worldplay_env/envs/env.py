"""A world as a Gymnasium environment."""

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
from worldplay_env.envs.starts import Starts, find_starts
from worldplay_env.envs.tasks.base import Task
from worldplay_env.envs.transition import Goal, Reward
from worldplay_env.envs.window import Window
from worldplay_env.media.image import ImageSource
from worldplay_env.worlds.base import Rollout, World, check_prompt

RENDER_MODES = ("rgb_array", "rgb_array_list", "human")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A moment of an episode, to come back to with `WorldPlayEnv.restore`, any number of times; copies no tensor."""

    episode: Episode
    world: World


class WorldPlayEnv(WorldEnvBase, gymnasium.Env[Any, Any]):
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

        `every=4` shows every fourth frame of a chunk, counted back from the newest: `(4, H, W, 3)`. `size` scales
        frames, `channel_first=True` makes them `(3, H, W)`; both on the device.

    Info:
        The same keys at `reset` and `step`; nothing in it differs between two equal runs (timings of the newest step,
        in seconds by part, are in `env.unwrapped.timings`).

        - `poses`: float64 (4, 4, 4), true camera-to-world matrices of the chunk's latent frames (the start's, at
          reset): in a world with walls, where the camera went and not where it was sent.
        - `labels`: int64 (4,), the actions asked for; 0 for the start.
        - `memory`: int64 (16,), the past latent frames that the chunk was made from, -1 where there is none.
        - `step`: steps of the episode so far.
        - `frame`: frames made in the episode so far.
        - `new_frames`: how many frames at the end of a chunk observation are new: 16, or 13 in the first step; with
          `every`, of those shown.
        - `start`: what the picture that the episode began from is called: a bundled one's name ("snow"), a path,
          "picture" for one given as an array or image, "none" without one.
        - `prompt`: the prompt in force. (A vector env has these two as properties, `start_names` and `prompts`.)

    Reward and end of an episode:
        The reward is 0 unless `reward`, `task` or a wrapper gives one. Without a task the env never terminates; the
        registered ids truncate after 60 steps.

    Task:
        With `task="reach"` each episode has a goal: where 2 to 4 held actions, drawn with `np_random`, lead to from
        its start. The observation is then `Dict(observation=..., goal=...)`, the goal shown as one more frame, or as
        a latent frame `(channels, 1, rows, columns)`; where the goal is, is not in it. A step that ends within 0.25
        units and 10 degrees of the goal's true pose is a success: it terminates the episode. The reward is the
        progress made, in world units and radians, and 1 for success; with `task={"reward": "sparse"}` the 1 alone.
        `reach.Reach` lists what else can be set. `info` has more keys: `success` and the same as `is_success`,
        a bool, and `goal_pose`, float64 (4, 4). `WorldPlay/Reach-v0` truncates after 12 steps.

    Starts:
        A bare `reset` draws one of `starts` and the rollout's seed with `np_random`. `reset(options={"image": ...,
        "prompt": ...})`, or `env.unwrapped.reset(image, prompt)`, gives one for that episode: with an image alone the
        prompt is empty, but a bundled picture's name brings its own; an image of None starts from the prompt alone,
        and a prompt alone replaces that of the start that is drawn. A picture for a world that has
        its own (`World.uses_picture`) is an error, and of a prompt that changes nothing a warning is given.

    Rendering:
        `"rgb_array"`: the newest frame; `"rgb_array_list"`: all frames since the last `render` or `reset`; `"human"`:
        a window that plays each chunk as it is made, with a task beside the goal; the keys pressed in it stay in
        pygame's queue of events. `env.unwrapped.fps` is the rate of the video's frames. `metadata["render_fps"]` is
        the rate at which what `render` returns plays in real time: with `"rgb_array"` 1, one picture a step, else
        `fps`. Gymnasium's `RecordVideo` takes one picture a step and so keeps one frame in sixteen; over
        `wrappers.FrameByFrame` it keeps them all.

    Pickle and deepcopy give a fresh env with the same arguments, which must be reset. A world given as an object is
    shared by the copies, never copied; a spec that holds one cannot be written as JSON.

    Args:
        world: "tiny", "wan-5b", "scene", "testcard", a folder of weights, or a `World`.
        starts: A bundled picture's name such as "snow", or "all" for these; a picture, a folder of pictures, or a
            list of pictures or (picture, prompt) pairs (see `starts.find_starts`). By default the bundled pictures.
        device: A torch device; by default "cuda" where there is one, else "cpu". Not touched before the first reset.
        dtype: "float32", "bfloat16" or "float16"; by default bfloat16 on a GPU and float32 on a CPU.
        observation: "chunk", "last" or "latent".
        actions: "chunk" or "latent".
        size: Height and width of frames in observations and renderings, scaled on the device; by default the world's.
        every: A chunk is shown by every so many of its frames: 1, 2, 4, 8 or 16.
        channel_first: Whether observed frames are (3, H, W).
        render_mode: None, "rgb_array", "rgb_array_list" or "human".
        accept_license: Agree to the licence of weights that are downloaded.
        revision: The hub's commit or tag of weights that are downloaded.
        weights: "random" for seeded random parameters; by default the world's own.
        reward: Gives a step's reward from a `rewards.Transition`, in place of the task's if there is one. Where it
            raises, or gives something else than one finite number, the step has not happened.
        task: None, "reach", a mapping of the fields of `reach.Reach`, or a `Reach`.

    Raises:
        ValueError: An unknown world, observation, kind of actions, render mode or task; the message lists the known
            ones.
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
        self.action_space = action_space(actions)
        self._window = Window(f"WorldPlay: {getattr(world, 'name', world)}", self.fps)
        self._episode: Episode | None = None
        self._unrendered: list[np.ndarray] = []
        self.time_limit: int | None = None
        """Steps of an episode, if a program says what its wrapper counts: the window then tells how many are left."""

    @property
    def rollout(self) -> Rollout:
        """The running episode's rollout; raises ResetNeeded if there is none. A step replaces it."""
        return self._running().rollout

    @property
    def goal(self) -> Goal | None:
        """The running episode's goal; None without one, as in tasks that have no place to reach."""
        return None if self._episode is None else self._core.goal(self._episode)

    def reset(  # Gymnasium's two arguments, and the start in front of them
        self,
        image: ImageSource | None = NOT_GIVEN,
        prompt: str = NOT_GIVEN,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see "Starts" above.

        Args:
            image: A picture (see `image.read_image`), a bundled one's name, or None to start from the prompt alone.
            prompt: What the world looks like.
            seed: Of `np_random`, which draws the start and the rollout's own seed.
            options: {"image": ..., "prompt": ...}, both optional: the same in a way that passes through wrappers.

        Raises:
            ValueError: Unknown options, an argument given both ways, a picture that cannot be read (`ImageError`).
            TypeError: A prompt that is no string.
            RuntimeError: The process was forked after CUDA was used, or there is no display for the window of
                `render_mode="human"` (`NoDisplay`). Whatever is raised, the env is as it was.
        """
        image, prompt = _merge_options(image, prompt, options)
        if self.render_mode == "human":
            self._window.check()
        if self._starts is None:
            self._starts = find_starts()
        generator = copy.deepcopy((self._np_random, self._np_random_seed))
        try:
            super().reset(seed=seed)
            drawn = draw_start(image, prompt, self._starts, self.np_random, self._promised)
            [(episode, info)] = self._core.reset([drawn], [self.np_random])
        except BaseException:
            self._np_random, self._np_random_seed = generator
            raise
        self._episode, self.timings = episode, {}
        self._unrendered.clear()
        self._show()
        return _copy(episode.observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Make the next chunk.

        Args:
            action: A whole number 0..80; with `actions="latent"`, four of them.

        Returns:
            Observation, reward, whether the task's goal is reached, False (truncated by a time limit alone) and info.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: An action of another type, shape or range.
            WorldError: The world could not make the chunk.
            RewardError: The reward function could not judge it. Whatever is raised, the env is as it was.
        """
        with self._core.timed() as timings:
            episode, labels = self._running(), check_action(action, self.action_space.shape or ())
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
        """Return this moment of the episode; it stays good when the episode goes on or ends.

        It copies nothing, but keeps the decoder's state of this moment in memory (of tiny 4 MB, of wan-5b 3.2 GB).

        It holds neither `np_random` nor what wrappers count (a time limit goes on).
        """
        return Snapshot(self._running().fork(), self.world)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a moment of this episode or another of the same world; the same steps give the same frames.

        Raises:
            TypeError: It is no snapshot.
            ValueError: It was taken in another world, or in an env whose goals this one cannot show.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"restore takes what snapshot() returned, got {type(snapshot).__name__}")
        if snapshot.world is not self.world:
            raise ValueError(f"the snapshot is of another world ({snapshot.world.name}) than this env's")
        self._episode, self.timings = self._core.adopt(snapshot.episode), {}
        self._unrendered.clear()

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt for the chunks to come, without a new episode.

        Raises:
            ResetNeeded: No episode is running.
            TypeError: The prompt is no string.
        """
        rollout = self.rollout
        warn_of_prompt(self._promised, check_prompt(prompt))
        rollout.set_prompt(prompt)

    def close(self) -> None:
        """Let go of the episode, the window and the world, which other envs may go on using; twice is no error."""
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


def _merge_options(image: Any, prompt: Any, options: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Return the image and the prompt of a reset, `NOT_GIVEN` where neither way gives one."""
    options = check_options(options, START_OPTIONS)
    given = {"image": image, "prompt": prompt}
    if twice := [name for name in START_OPTIONS if name in options and given[name] is not NOT_GIVEN]:
        raise ValueError(f"reset was given the {twice[0]} twice, as an argument and in its options")
    merged = {**given, **options}
    if merged["prompt"] is not NOT_GIVEN:
        check_prompt(merged["prompt"])
    return merged["image"], merged["prompt"]
