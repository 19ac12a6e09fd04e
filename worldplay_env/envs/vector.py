"""The vector environment: `WorldPlayVectorEnv`, and its snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldplay_env.envs.action_space import action_space, check_action
from worldplay_env.envs.construction import WorldEnvBase, arguments_of
from worldplay_env.envs.core import OUTPUTS
from worldplay_env.envs.episode import Episode, split, stack
from worldplay_env.envs.reset_options import Randomness, ResetRequest, seeds_of
from worldplay_env.envs.starts import Starts, find_starts
from worldplay_env.envs.tasks.base import Task
from worldplay_env.envs.transition import Goal, Reward
from worldplay_env.worlds.base import Rollout, World

RENDER_MODES = ("rgb_array",)
AUTORESET_MODES = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}


@dataclass(frozen=True, eq=False)
class VectorSnapshot:
    """A moment of every episode, for any number of calls of `WorldPlayVectorEnv.restore`."""

    episodes: tuple[Episode, ...]
    world: World
    shown: tuple[Any, ...]
    """The space of observations, the kind of output and the size of rendered frames."""


class WorldPlayVectorEnv(WorldEnvBase, VectorEnv[Any, Any, Any]):
    """A batch of N worlds; row i equals a `WorldPlayEnv` with seed `seed + i`.

    `gymnasium.make_vec("WorldPlay/Tiny-v0", num_envs=16)` makes one. `make_vec` refuses wrappers and `vector_kwargs`,
    so that each setting is a plain argument.

    ## Description
    One `World.step` generates the chunks of all rows, which may be of any age. A row's results do not depend on the
    other rows, to float tolerance.

    ## Action Space
    That of `WorldPlayEnv`, batched by Gymnasium: `MultiDiscrete([81] * N)`.

    ## Observation Space
    That of `WorldPlayEnv`, batched. `output="numpy"` returns observations as in `observation_space`, rewards float64
    [N], terminations and truncations bool [N]. `output="torch"` returns tensors on the world's device, rewards in
    float32, and copies no observation to the host. Returned arrays are never written again. Wrappers that compute in
    numpy, such as Gymnasium's `RecordEpisodeStatistics`, need `output="numpy"`.

    ## Rewards
    Those of `WorldPlayEnv`. `reward` gets the `Transition` of the rows that stepped.

    ## Starting State
    That of `WorldPlayEnv`. Each row has its own `np_random`, which draws a start at every reset, automatic or not.

    ## Episode End
    The task terminates a row, `max_episode_steps` truncates it. `autoreset_mode` says what follows (see
    https://farama.org/Vector-Autoreset-Mode):

    - `"next_step"`: the next step resets the row. It ignores the row's action, which must be valid; the reward is 0,
      observation and info are those of a reset. The other rows step.
    - `"same_step"`: the row is reset at once. `info["final_obs"]` (an array of objects, None for other rows) and
      `info["final_info"]` have the old episode's last observation and info.
    - `"disabled"`: a further step raises ResetNeeded until `reset(options={"reset_mask": ended})`.

    ## Information
    The keys of `WorldPlayEnv`: numpy values [N, ...], and under `_key` a mask, bool [N], of the rows that have the
    key. `start` and `prompt` are the properties `start_names` and `prompts`, since TorchRL reads only numbers.

    ## Arguments
    All arguments of `WorldPlayEnv`, and those below. Pickle and deepcopy give a fresh env with the same arguments.

    Args:
        num_envs: N, 1 or more.
        reward: A function of a `Transition`. Where it raises, no row has stepped.
        render_mode: None, or "rgb_array": `render` returns a tuple of every row's newest frame.
        max_episode_steps: Steps after which a row is truncated; None or -1 for no limit.
        autoreset_mode: "next_step", "same_step", "disabled", or Gymnasium's `AutoresetMode`.
        output: "numpy" or "torch".
        max_batch: The most rows in one call of the world, which bounds its memory; by default all.

    Raises:
        ValueError: An argument that is refused; the message lists what is known.

    ## Version History
    As `WorldPlayEnv`.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 16}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self,
        num_envs: int = 1,
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
        max_episode_steps: int | None = 60,
        autoreset_mode: str | AutoresetMode = "next_step",
        output: str = "numpy",
        max_batch: int | None = None,
    ) -> None:
        given = arguments_of(locals())
        self._episodes: list[Episode | None] = []  # for `close`, where the arguments are refused
        self.num_envs = _count("num_envs", num_envs)
        self._limit = None if max_episode_steps in (None, -1) else _count("max_episode_steps", max_episode_steps)
        self._mode = _autoreset_mode(autoreset_mode)
        if output not in OUTPUTS:
            raise ValueError(f"unknown output {output!r}: known are {', '.join(OUTPUTS)}")
        self._construct(
            given,
            pictures=None if render_mode is None else "newest",
            output=output,
            words=False,
            max_batch=None if max_batch is None else _count("max_batch", max_batch),
        )
        self.metadata["autoreset_mode"] = self._mode
        self.autoreset_mode = self._mode  # where TorchRL looks for it
        self.single_observation_space = self._core.space
        self.single_action_space = action_space(actions, self._promised.layout.latents)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._episodes = [None] * self.num_envs
        self._random: list[Randomness | None] = [None] * self.num_envs

    # ---- the state of the episodes

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        """The rollout of every row, which a step replaces: fork them. ResetNeeded before the first reset."""
        return tuple(episode.rollout for episode in self._running())

    @property
    def start_names(self) -> tuple[str, ...]:
        """The name of each row's start picture, as `info["start"]` of a single env."""
        return tuple(episode.start for episode in self._running())

    @property
    def prompts(self) -> tuple[str, ...]:
        """The current prompt of each row, as `info["prompt"]` of a single env."""
        return tuple(episode.rollout.prompt for episode in self._running())

    @property
    def goals(self) -> tuple[Goal | None, ...]:
        """The goal of every row's episode, None without one; ResetNeeded before the first reset."""
        return tuple(self._core.goal(episode) for episode in self._running())

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random number generator of each row."""
        return tuple(one.generator for one in self._randomness())

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row's random number generator."""
        return tuple(one.seed for one in self._randomness())

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes in all rows, or in those of a mask.

        Args:
            seed: Row i's `np_random` is seeded with `seed + i`, or with item i of a list; None lets it go on.
            options: "reset_mask": a bool array or tensor [N]; rows where it is False stay as they are, and their last
                observations are returned again, bit for bit. "image", "prompt" and "references", as in
                `WorldPlayEnv.reset`: one for all rows, or a list with one for each.

        Returns:
            Observations of all rows, and infos of those that began.

        Raises:
            ValueError, TypeError: Options or seeds that are refused; a picture that cannot be read (`ImageError`).
            ResetNeeded: Rows outside the mask were never reset. After an error the env is unchanged.
        """
        request, seeds = ResetRequest.of(options, self.num_envs), seeds_of(seed, self.num_envs)
        episodes: list[Episode | None] = list(self._episodes)
        if idle := [row for row, one in enumerate(episodes) if one is None and not request.mask[row]]:
            raise ResetNeeded(
                f"envs {idle} were never reset, and the mask leaves them out: reset() all of them first"
            )
        infos: dict[str, Any] = {}
        began, random = self._begin(request, seeds)
        for row, (episode, info) in began.items():
            episodes[row] = episode
            infos = self._add_info(infos, info, row)
        observations = stack([episode.observation for episode in episodes if episode is not None])
        self._commit(episodes, random)
        self.timings, self.closed = {}, False
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Generate the next chunk of every row that has not ended; see "Episode End" for the others.

        Args:
            actions: Whole numbers 0..80, [N] or with `actions="latent"` [N, 4], or with `actions="keys"` 0 and 1,
                [N, 8]: an array, a list or a tensor.

        Returns:
            Observations, rewards, terminations, truncations, infos.

        Raises:
            ResetNeeded: Before the first reset, or with `autoreset_mode="disabled"` after an episode's end.
            InvalidAction: Actions of another type, shape or range.
            RewardError: The reward function raised, or did not return a finite number for each row that stepped.
            WorldError: The world could not generate the chunks. After an error the env is unchanged.
        """
        with self._core.timed() as timings:
            results, parts = self._step(actions)
        self.timings = {**parts, **timings}
        return results

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return the newest frame of every row, uint8 [height, width, 3]; without a render mode warn, return None."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                f"render() does nothing without a render mode: make the env with one of {', '.join(RENDER_MODES)}"
            )
            return None
        return tuple(episode.pictures[-1].copy() for episode in self._running() if episode.pictures is not None)

    def close_extras(self, **kwargs: Any) -> None:
        """Release the episodes and the world, which others may still use; `reset` or `restore` opens it again."""
        if self._episodes:  # not so where the constructor failed
            self._episodes = [None] * self.num_envs
            self._core.release()

    # ---- beyond Gymnasium

    def snapshot(self) -> VectorSnapshot:
        """Return this moment of all episodes; it stays valid after further steps or resets, and copies no tensor.

        `np_random` is not part of it.
        """
        episodes = tuple(episode.fork() for episode in self._running())
        return VectorSnapshot(episodes, self.world, self._shown)

    def restore(self, snapshot: VectorSnapshot) -> None:
        """Go back to a moment of these episodes, or of another vector env with the same arguments.

        Raises:
            TypeError: It is no snapshot of a vector env.
            ValueError: It is of another world, number of envs, or kind of observation.
        """
        if not isinstance(snapshot, VectorSnapshot):
            raise TypeError(f"restore takes what snapshot() returned, got {type(snapshot).__name__}")
        if snapshot.world is not self.world:
            raise ValueError(f"the snapshot is of another world ({snapshot.world.name}) than this env's")
        if len(snapshot.episodes) != self.num_envs:
            raise ValueError(f"the snapshot is of {len(snapshot.episodes)} envs, this vector env has {self.num_envs}")
        if snapshot.shown != self._shown:
            raise ValueError(f"the snapshot is of an env that shows {snapshot.shown}; this one shows {self._shown}")
        self._episodes = [episode.fork() for episode in snapshot.episodes]
        self.timings, self.closed = {}, False

    # ---- a reset and a step, before they are committed

    def _step(self, actions: Any) -> tuple[Any, dict[str, float]]:
        """Step every row and commit the result; return the five results and the world's seconds by part."""
        episodes = self._running()
        ended = np.array([episode.ended for episode in episodes])
        if self._mode is AutoresetMode.DISABLED and ended.any():
            raise ResetNeeded(
                f"the episodes of envs {np.flatnonzero(ended).tolist()} have ended: begin them anew with "
                'reset(options={"reset_mask": a bool array that is True for them})'
            )
        checked = self._checked(actions)
        rewards, infos, parts = np.zeros(self.num_envs), dict[str, Any](), dict[str, float]()
        terminations, truncations, anew = np.zeros_like(ended), np.zeros_like(ended), ended.copy()
        if going := np.flatnonzero(~ended).tolist():
            stepped = self._core.step([episodes[row] for row in going], checked[going])
            rewards[going], terminations[going], parts = stepped.rewards, stepped.terminations, stepped.timings
            for row, episode, info in zip(going, stepped.episodes, stepped.infos, strict=True):
                truncations[row] = self._limit is not None and episode.step >= self._limit
                done = bool(terminations[row] or truncations[row])
                episodes[row] = replace(episode, ended=done)
                anew[row] = done and self._mode is AutoresetMode.SAME_STEP
                if anew[row]:
                    info = {"final_obs": split(stack([episode.observation]))[0], "final_info": info}
                infos = self._add_info(infos, info, row)
        began, random = self._begin(ResetRequest.plain(anew), [None] * self.num_envs) if anew.any() else ({}, {})
        for row, (episode, info) in began.items():
            episodes[row] = episode
            infos = self._add_info(infos, info, row)
        observations = stack([episode.observation for episode in episodes])
        results = self._results(rewards, terminations, truncations)
        self._commit(episodes, random)
        return (observations, *results, infos), parts

    def _begin(
        self, request: ResetRequest, seeds: Sequence[int | None]
    ) -> tuple[dict[int, tuple[Episode, dict[str, Any]]], dict[int, Randomness]]:
        """Begin the episodes of a request's rows; return each row's episode and info, and its random numbers."""
        if self._starts is None:
            self._starts = find_starts()
        random: dict[int, Randomness] = {}
        for row in np.flatnonzero(request.mask).tolist():
            old, seed = self._random[row], seeds[row]
            random[row] = Randomness.of(seed) if old is None or seed is not None else old.copy()
        generators = [one.generator for one in random.values()]
        drawn = [
            request.draw(row, self._starts, generator, self._promised)
            for row, generator in zip(random, generators, strict=True)
        ]
        return dict(zip(random, self._core.reset(drawn, generators), strict=True)), random

    def _commit(self, episodes: Sequence[Episode | None], random: Mapping[int, Randomness]) -> None:
        self._episodes = list(episodes)
        for row, one in random.items():
            self._random[row] = one

    # ---- small parts

    @property
    def _shown(self) -> tuple[Any, ...]:
        return self.single_observation_space, self._core.output, self.render_mode and self._core.view.size

    def _running(self) -> list[Episode]:
        running = [episode for episode in self._episodes if episode is not None]
        if len(running) < self.num_envs:
            raise ResetNeeded("no episodes are running: call reset() first")
        return running

    def _randomness(self) -> list[Randomness]:
        """Return every row's random numbers, seeded by the system where no reset has seeded them."""
        self._random = [Randomness.of(None) if one is None else one for one in self._random]
        return [one for one in self._random if one is not None]

    def _results(self, rewards: np.ndarray, *ends: np.ndarray) -> tuple[Any, ...]:
        """Return rewards, terminations and truncations in the env's kind of output."""
        if self._core.output == "numpy":
            return rewards, *ends
        import torch

        tensors = [torch.from_numpy(rewards).float(), *map(torch.from_numpy, ends)]
        return tuple(tensor.to(self.world.device) for tensor in tensors)

    def _checked(self, actions: Any) -> np.ndarray:
        """Return the actions of all rows, int64 [N, ...]; a row that is reset needs a valid action too."""
        if hasattr(actions, "detach"):  # a tensor, which numpy takes from the host alone
            actions = actions.detach().cpu().numpy()
        return check_action(actions, self.action_space)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")
    return int(value)


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    known = AUTORESET_MODES | {one.value: one for one in AutoresetMode}  # Gymnasium's own names too
    if isinstance(mode, AutoresetMode):
        return mode
    if not isinstance(mode, str) or mode not in known:
        raise ValueError(f"unknown autoreset_mode {mode!r}: known are {', '.join(AUTORESET_MODES)}")
    return known[mode]
