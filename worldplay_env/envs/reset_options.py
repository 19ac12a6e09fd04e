"""The arguments of resets, of a single env or row by row of a vector env: random numbers, seeds, mask, starts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from worldplay_env.envs.starts import (
    StartSource,
    check_usable,
    read_references,
    read_start,
    unused_prompt,
    with_own_prompt,
)
from worldplay_env.worlds.base import Start, World, WorldSpec, check_prompt

START_OPTIONS = ("image", "prompt", "references")
"""The options of `reset` for a start."""
NOT_GIVEN: Any = object()


@dataclass(frozen=True)
class Randomness:
    """A row's random numbers: Gymnasium's `np_random` and its seed."""

    generator: np.random.Generator
    seed: int

    @classmethod
    def of(cls, seed: int | None) -> Self:
        """Return the random numbers of a seed, None for the system's; Gymnasium's error for a negative one."""
        return cls(*seeding.np_random(seed))

    def copy(self) -> Self:
        """Return an independent copy with the same future draws."""
        return copy.deepcopy(self)


@dataclass(frozen=True, eq=False)
class ResetRequest:
    """The request of a `reset`.

    Attributes:
        mask: bool [N], the rows to reset.
        starts: Of each row, each of `START_OPTIONS`, `NOT_GIVEN` where the row draws its own or has none.
    """

    mask: np.ndarray
    starts: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, options: Mapping[str, Any] | None, rows: int) -> Self:
        """Return the request of the options of `WorldPlayVectorEnv.reset`, which stay unchanged.

        Raises:
            ValueError: An unknown option, a mask of another length or without a True, another number of images.
            TypeError: Options that are no dict, a mask that is no array of booleans, a prompt that is no string.
        """
        options = check_options(options, ("reset_mask", *START_OPTIONS))
        mask = np.ones(rows, dtype=np.bool_) if "reset_mask" not in options else _mask(options["reset_mask"], rows)
        columns = [_one_a_row(name, options.get(name, NOT_GIVEN), rows) for name in START_OPTIONS]
        starts = [dict(zip(START_OPTIONS, row, strict=True)) for row in zip(*columns, strict=True)]
        for start in starts:
            if start["prompt"] is not NOT_GIVEN:
                check_prompt(start["prompt"])
        return cls(mask, starts)

    @classmethod
    def plain(cls, mask: np.ndarray) -> Self:
        """Return the request of an automatic reset: each row draws its start."""
        return cls(mask, [dict.fromkeys(START_OPTIONS, NOT_GIVEN)] * len(mask))

    def draw(
        self, row: int, sources: Sequence[StartSource], generator: np.random.Generator, world: WorldSpec | World
    ) -> tuple[int, Start]:
        """Return a row's rollout seed and start; see `draw_start`."""
        return draw_start(self.starts[row], sources, generator, world)


def draw_start(
    given: Mapping[str, Any], sources: Sequence[StartSource], generator: np.random.Generator, world: WorldSpec | World
) -> tuple[int, Start]:
    """Return a rollout's seed and its start, drawn from `sources` unless a picture was given.

    Args:
        given: Each of `START_OPTIONS`: "image", a picture or the name of a bundled one, None to start from the prompt
            alone, or `NOT_GIVEN`; "prompt", a description of the world, or `NOT_GIVEN` for the prompt of the start;
            "references", pictures or a folder of them, None or `NOT_GIVEN` for none.
        sources: The starts to draw from.
        generator: Random numbers.
        world: The world or its spec; a prompt without effect in it causes a warning.

    Raises:
        ValueError: A picture that cannot be read (`ImageError`), or one that the world does not take.
    """
    image, prompt, references = (given[name] for name in START_OPTIONS)
    if prompt is not NOT_GIVEN:
        warn_of_prompt(world, prompt)
    seed = int(generator.integers(2**63))  # first, so that it does not depend on how the start was given
    if image is not NOT_GIVEN:
        image, own_prompt = with_own_prompt(image)
        prompt = own_prompt if prompt is NOT_GIVEN else prompt
        check_usable(world, image, prompt)
    else:
        image, own_prompt = sources[int(generator.integers(len(sources)))]
        prompt = own_prompt if prompt is NOT_GIVEN else prompt
    start = read_start(image, prompt)
    if references is NOT_GIVEN:
        return seed, start
    return seed, replace(start, references=read_references(references, world))


def warn_of_prompt(world: WorldSpec | World, prompt: str) -> None:
    """Warn of a prompt without effect in a world."""
    if said := unused_prompt(world, prompt):
        gymnasium.logger.warn(said)


def check_options(options: Mapping[str, Any] | None, known: Sequence[str]) -> Mapping[str, Any]:
    """Return reset's options, an empty mapping for None.

    Raises:
        ValueError: One that is not known.
        TypeError: They are no dict.
    """
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"reset's options must be a dict, got {type(options).__name__}: {options!r}")
    options = options or {}
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"unknown reset option {unknown[0]!r}: known are {', '.join(known)}")
    return options


def _mask(mask: Any, rows: int) -> np.ndarray:
    if hasattr(mask, "detach"):  # a tensor, as the ends of episodes are with output="torch"
        mask = mask.detach().cpu().numpy()
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        what = f"an array of {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f'options["reset_mask"] must be an array of booleans, one an env, got {what}')
    if mask.shape != (rows,):
        raise ValueError(f'options["reset_mask"] must have shape ({rows},), one boolean an env, got {mask.shape}')
    if not mask.any():
        raise ValueError('options["reset_mask"] has no True: it says which envs begin anew, and none would')
    return mask.copy()


def _one_a_row(name: str, given: Any, rows: int) -> Sequence[Any]:
    """Return an option for each row, from a list with one for each or from one for all."""
    one_for_all = not isinstance(given, list | tuple)
    if name == "references" and not one_for_all:  # one is a list by itself
        one_for_all = not all(one is None or isinstance(one, list | tuple) for one in given)
    if one_for_all:
        return [given] * rows
    if len(given) != rows:
        raise ValueError(f'options["{name}"] is a list of {len(given)}: give one {name} for each of {rows} envs')
    return given


def seeds_of(seed: Any, rows: int) -> list[int | None]:
    """Return a seed for each row: `seed`, `seed + 1`, ... for a number, a list's items, or None.

    Raises:
        ValueError: A list of another length.
        TypeError: A seed that is no whole number.
    """
    seeds: list[Any]
    if seed is None or (isinstance(seed, int | np.integer) and not isinstance(seed, bool)):
        seeds = [None if seed is None else int(seed) + row for row in range(rows)]
    elif (
        isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes) and getattr(seed, "ndim", 1) > 0
    ):
        seeds = list(seed)
    else:
        raise TypeError(f"reset's seed must be a whole number, a list of them or None, got {seed!r}")
    if len(seeds) != rows:
        raise ValueError(f"reset got {len(seeds)} seeds for {rows} envs: give one for each, or a single one")
    for one in seeds:
        if one is not None and (isinstance(one, bool) or not isinstance(one, int | np.integer)):
            raise TypeError(f"a seed is a whole number or None, got {one!r}")
    return [None if one is None else int(one) for one in seeds]
