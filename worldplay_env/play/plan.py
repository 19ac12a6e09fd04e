"""What `python -m worldplay_env.play` is asked for: its options, and what they come to when they are checked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np

from worldplay_env.cli import LoadArgs
from worldplay_env.envs.starts import NO_PICTURE, check_usable, choose_start, read_references, unused_prompt
from worldplay_env.envs.tasks.reach import Reach
from worldplay_env.media.image import fit_image
from worldplay_env.media.video import check_scale
from worldplay_env.play.goals import Goals
from worldplay_env.play.replay import Replay, read_replay
from worldplay_env.worlds.base import MID_GREY, Start, WorldSpec
from worldplay_env.worlds.registry import describe, resolve

SMALLEST, LARGEST = (320, 200), (7680, 4320)
"""Of windows, in pixels."""
MOST_WATCHERS = 64


@dataclass(frozen=True)
class Args(LoadArgs):
    """Walk through a world: W S A D move, the arrow keys look, and the window says the rest."""

    world: str | None = None
    """"tiny", "scene", "wan-5b", "abot-5b", "testcard", or a folder of weights. By default the script's, else
    "tiny"."""
    compare: str | None = None
    """A second world beside it under the same keys: a name or a folder, or a number for another seed."""
    task: str | None = None
    """"reach" to look for the place that a goal picture shows: in 12 steps of a second each, which wait for your
    keys; Enter goes on to the next. By default the script's, else none: walk as you like."""
    image: str | None = None
    """The picture to start from: the path of one, or the name of a bundled one (courtyard, room, street, snow, dusk,
    night); "none" starts from the prompt alone. By default the courtyard."""
    prompt: str | None = None
    """What the world looks like. By default the bundled picture's own prompt; empty for a picture of yours."""
    references: Path | None = None
    """Pictures of the character of "abot-5b": a folder of head.png, left.png, right.png, front.png and back.png. A
    recording does not name them: give the folder again to replay it."""
    seed: int | None = None
    """Of the rollout's noise; the same seed and keys give the same film. By default the script's, else 0."""
    fps: float | None = None
    """Frames per second of playback. By default the world's, 16."""
    size: str = "960x600"
    """Width and height of the window in pixels."""
    out: Path = Path("outputs")
    """The folder for films (F) and pictures (C)."""
    scale: int | None = None
    """Pixels of a film for each of the world's, down and across. By default 4 for a world of under 256 rows, else
    1."""
    record: Path | None = None
    """Write the session's keys to this file, for --script."""
    script: Path | None = None
    """Replay the keys that --record wrote, with the world, picture, prompt and seed they were played in unless others
    are given here; then the keyboard takes over."""
    web: bool = False
    """Play in a browser instead of a window: serve a page and print its address, which holds a secret token."""
    port: int = 8080
    """With --web, the port to listen on; 0 for any that is free."""
    host: str = "127.0.0.1"
    """With --web, the address to listen on: this machine alone, unless another is given."""
    watch: int = 0
    """With --web, how many others may watch beside the one who plays."""
    idle: float = 15.0
    """With --web, minutes after which a player who does nothing is disconnected; the world waits."""


@dataclass(frozen=True)
class Plan:
    """What was asked for, checked, before any window is opened."""

    worlds: tuple[str, ...]
    seeds: tuple[int, ...]
    specs: tuple[WorldSpec, ...]
    starts: tuple[Start, ...]
    fps: float
    size: tuple[int, int]
    first_pictures: tuple[np.ndarray, ...]
    script: Replay | None
    settings: dict[str, str | int | None]
    goals: Goals | None = None
    notes: tuple[str, ...] = ()
    """What of it changes nothing."""

    @property
    def start(self) -> Start:
        """Where the first world begins."""
        return self.starts[0]

    @property
    def title(self) -> str:
        """What the window's bar says."""
        return " | ".join(lane_names(self.worlds, self.seeds))


def make_plan(args: Args) -> Plan:
    """Check what was asked for and read what it names.

    Raises:
        ValueError: A world, size, rate, seed, picture or script that cannot be used.
        OSError: A file that cannot be read or written.
    """
    script = None if args.script is None else read_replay(args.script)
    settings: dict[str, str | int | None] = {
        "world": "tiny",
        "seed": 0,
        "image": None,
        "prompt": None,
        "compare": None,
        "task": None,
    }
    settings |= script.settings if script else {}
    settings |= {name: getattr(args, name) for name in settings if getattr(args, name) is not None}
    world, seed, compare = str(settings["world"]), int(settings["seed"] or 0), settings["compare"]
    if seed < 0:
        raise ValueError(f"--seed is a whole number of 0 or more, got {seed}")
    worlds, seeds = [world], [seed]
    if compare is not None:
        another_seed = str(compare).isascii() and str(compare).isdigit()
        worlds.append(world if another_seed else str(compare))
        seeds.append(int(compare) if another_seed else seed)
    specs = [describe(name) for name in worlds]
    if any((spec.layout, spec.motion) != (specs[0].layout, specs[0].motion) for spec in specs):
        raise ValueError(
            f"{' and '.join(worlds)} have chunks or motions of different lengths: they cannot be compared"
        )
    if script is not None:
        script.check(specs[0].layout.latents)
    goals = make_goals(settings["task"], seed, len(worlds))
    fps = specs[0].fps if args.fps is None else args.fps
    if not 0 < fps <= 1000:
        raise ValueError(f"--fps is a number over 0, at most 1000, got {fps}")
    check_served(args)
    check_folder(args.out)
    check_scale(args.scale)
    source, prompt = (None if settings[name] is None else str(settings[name]) for name in ("image", "prompt"))
    starts, notes = choose_starts(worlds, specs, source, prompt)
    if args.references is not None:
        starts = tuple(
            replace(start, references=read_references(args.references, spec))
            for start, spec in zip(starts, specs, strict=True)
        )
    first_pictures = tuple(
        first_picture(start, spec, prompt is not None) for start, spec in zip(starts, specs, strict=True)
    )
    return Plan(
        worlds=tuple(worlds),
        seeds=tuple(seeds),
        specs=tuple(specs),
        starts=starts,
        fps=fps,
        size=parse_size(args.size),
        first_pictures=first_pictures,
        script=script,
        settings=settings,
        goals=goals,
        notes=notes,
    )


def make_goals(task: str | int | None, seed: int, worlds: int) -> Goals | None:
    """Return the goals of the option `--task`, for a session of so many worlds.

    Raises:
        ValueError: An unknown task, or one for two worlds.
    """
    wanted = Reach.of(None if task is None else str(task))
    if wanted is None:
        return None
    if worlds > 1:
        raise ValueError("--task is for one world, since each has goals of its own: leave out --compare")
    limit = gymnasium.spec("WorldPlay/Reach-v0").max_episode_steps
    assert limit is not None
    return Goals(wanted, limit, seed)


def choose_starts(
    worlds: Sequence[str], specs: Sequence[WorldSpec], image: str | None, prompt: str | None
) -> tuple[tuple[Start, ...], tuple[str, ...]]:
    """Return where each of the worlds begins, and what is to be said of a prompt that changes nothing there.

    Args:
        worlds: Their names.
        specs: What is known of them. One that has pictures of its own, beside one that begins from a picture, begins
            in the place that this shows.
        image: The option `--image`.
        prompt: The option `--prompt`.

    Raises:
        ValueError: A picture of no place that such a world has, or none at all, or one that cannot be read.
    """
    starts, notes = [], []
    for name, spec in zip(worlds, specs, strict=True):
        compared = not spec.uses_picture and any(other.uses_picture for other in specs)
        if compared and image == NO_PICTURE:
            raise ValueError(f"{name} shows the places of pictures: without one there is nothing to compare it with")
        if compared and prompt is not None:
            notes.append(f"{name} begins in the place that the picture shows: {prompt!r} changes nothing in it")
        elif said := unused_prompt(spec, prompt):
            notes.append(said)
        starts.append(choose_start(image, None if compared else prompt, spec))
    return tuple(starts), tuple(notes)


def first_picture(start: Start, spec: WorldSpec, prompted: bool) -> np.ndarray:
    """Return what is shown while a world loads, uint8 [height, width, 3]: its start; grey where that is unknown."""
    unknown = start.image is None or (prompted and not spec.uses_picture)
    grey = np.full((1, 1, 3), MID_GREY, dtype=np.uint8)
    return fit_image(grey if unknown or start.image is None else start.image, spec.image_size)


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of "960x600"."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX×]\s*(\d{1,5})\s*", text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(least <= side <= most for least, side, most in zip(SMALLEST, size, LARGEST, strict=True)):
        least, most = ("x".join(map(str, sides)) for sides in (SMALLEST, LARGEST))
        raise ValueError(f"--size is a width and height in pixels such as 960x600, {least} to {most}, got {text!r}")
    return size


def check_served(args: Args) -> None:
    """Raise ValueError for a port, number of watchers or idle time that a page cannot be served with."""
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port is a whole number from 0 to 65535, got {args.port}")
    if not 0 <= args.watch <= MOST_WATCHERS:
        raise ValueError(f"--watch is a whole number from 0 to {MOST_WATCHERS}, got {args.watch}")
    if not 0 < args.idle <= 24 * 60:
        raise ValueError(f"--idle is a number of minutes over 0, at most 1440, got {args.idle}")


def check_folder(folder: Path) -> None:
    """Raise OSError if films and pictures cannot be put into a folder, or the folder not be made."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OSError(f"--out {folder}: films and pictures cannot be written there ({nearest} is no writable folder)")


def lane_names(worlds: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Return what the worlds are called on the screen: with the seed, if only that tells them apart."""
    names = [Path(resolve(name)).name for name in worlds]
    if len(set(names)) == len(names):
        return names
    return [f"{name}, seed {seed}" for name, seed in zip(names, seeds, strict=True)]


def begin_elsewhere(plan: Plan, picture: str | np.ndarray, prompt: str = "") -> Plan:
    """Return the plan of the same worlds, and characters, that begin from another picture.

    Args:
        plan: Of the worlds.
        picture: The name of a bundled one, which brings its prompt, or uint8 [height, width, 3].
        prompt: Of a picture that is not bundled.

    Raises:
        ValueError: A world that does not begin from pictures.
    """
    if isinstance(picture, str):
        starts, _ = choose_starts(plan.worlds, plan.specs, picture, None)
    else:
        for spec in plan.specs:
            check_usable(spec, picture, prompt)
        starts = (Start(picture, prompt, name="picture"),) * len(plan.specs)
    starts = tuple(
        replace(start, references=before.references) for start, before in zip(starts, plan.starts, strict=True)
    )
    pictures = tuple(first_picture(start, spec, False) for start, spec in zip(starts, plan.specs, strict=True))
    return replace(plan, starts=starts, first_pictures=pictures, script=None, notes=())
