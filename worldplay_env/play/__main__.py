"""The command: `python -m worldplay_env.play`."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium
import numpy as np
import tyro

from worldplay_env.cli import LoadArgs, fail, in_words
from worldplay_env.envs.starts import NO_PICTURE, choose_start, unused_prompt
from worldplay_env.envs.tasks.reach import Reach
from worldplay_env.media.image import fit_image
from worldplay_env.media.video import check_scale
from worldplay_env.play.goals import Goals
from worldplay_env.play.presenter import Presenter
from worldplay_env.play.recorder import Recorder
from worldplay_env.play.replay import Recording, Replay, read_replay
from worldplay_env.play.session import Panel, Session
from worldplay_env.worlds.base import MID_GREY, Start, World, WorldSpec
from worldplay_env.worlds.registry import describe, load, resolve

if TYPE_CHECKING:
    from worldplay_env.play.screen import Screen

SMALLEST, LARGEST = (320, 200), (7680, 4320)
"""Of windows, in pixels."""
CLOSING_SECONDS = 1.0
"""How long to wait for the piece of work at hand when the window is closed."""


@dataclass(frozen=True)
class Args(LoadArgs):
    """Walk through a world: W S A D move, the arrow keys look, and the window says the rest."""

    world: str | None = None
    """"tiny", "scene", "wan-5b", "testcard", or a folder of weights. By default the script's, else "tiny"."""
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
    goals = make_goals(settings["task"], seed, len(worlds))
    fps = specs[0].fps if args.fps is None else args.fps
    if not 0 < fps <= 1000:
        raise ValueError(f"--fps is a number over 0, at most 1000, got {fps}")
    check_folder(args.out)
    check_scale(args.scale)
    source, prompt = (None if settings[name] is None else str(settings[name]) for name in ("image", "prompt"))
    starts, notes = choose_starts(worlds, specs, source, prompt)
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
        elif said := unused_prompt(name, spec, prompt):
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


def open_world(name: str, args: Args) -> World:
    """Load a world; called in the session's thread."""
    return load(name, **args.load_options())


def play(args: Args, plan: Plan, screen: Screen, recording: Recording | None) -> int:
    """Play in a window, and close everything; return the exit code."""
    from worldplay_env.play.window_player import WindowPlayer

    panels = [
        Panel(title, lambda name=name: open_world(name, args), seed, start, spec.uses_prompt)  # type: ignore[misc]
        for title, name, seed, start, spec in zip(
            lane_names(plan.worlds, plan.seeds), plan.worlds, plan.seeds, plan.starts, plan.specs, strict=True
        )
    ]
    recorder = Recorder(args.out, plan.fps, args.scale)
    session = Session(panels, plan.start, plan.fps, script=plan.script, recording=recording, goals=plan.goals)
    code = 0
    try:
        presenter = Presenter(session, recorder, plan.worlds, plan.first_pictures)
        if plan.notes:
            presenter.say("; ".join(plan.notes))
        WindowPlayer(presenter, screen).run()
    except KeyboardInterrupt:
        code = 130
    finally:
        # The window first: it should be gone at once, whatever the world is in the middle of.
        screen.close()
        recorder.close()
        session.close(timeout=CLOSING_SECONDS)
    for path in recorder.written:
        print(path)
    failures = [*recorder.failures]
    if recording is not None and recording.error is not None:
        failures.append(f"writing {recording.path} failed: {in_words(recording.error)}")
    if session.error is not None:
        failures.append(in_words(session.error))
        code = 1 if session.loaded else 2
    return max([code, *(fail(failure, 1) for failure in failures)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, 2 for what was asked for, 1 for what went wrong, 130 for Ctrl-C."""
    args = tyro.cli(Args, prog="python -m worldplay_env.play", args=arguments)
    # pygame greets on stdout when it is imported, unless told not to.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from worldplay_env.media.display import NoDisplay
    from worldplay_env.play.screen import Screen

    screen = None
    try:
        plan = make_plan(args)
        screen = Screen(f"WorldPlay: {plan.title}", plan.size)
        recording = None if args.record is None else Recording(args.record, plan.settings)
    except (ValueError, OSError, NoDisplay) as error:
        if screen is not None:
            screen.close()
        return fail(error, 2)
    for note in plan.notes:
        print(note, file=sys.stderr)
    try:
        return play(args, plan, screen, recording)
    finally:
        if recording is not None:
            recording.close()


if __name__ == "__main__":
    exit_code = main()
    if any(thread.name == "worldplay-session" for thread in threading.enumerate()):
        # A chunk or a download that cannot be broken off: everything is written, so the process need not wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
