"""How good a world is, against the true scenes: `python -m worldplay_env.evaluate`.

It rolls a world out along fixed paths through scenes that were never trained on, and writes a table (printed, and as
JSON), strips of truth and dream, and the quality against time. How everything is measured: `measures.py`.
With `--workers` the scenes are spread over processes or machines.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import tyro

from worldplay_env.cli import WorldArgs, fail
from worldplay_env.evaluate.run import evaluate, facts_of
from worldplay_env.evaluate.table import as_text
from worldplay_env.media.files import write_json
from worldplay_env.workers import WorkerLost, Workers, open_workers
from worldplay_env.worlds.base import World, WorldError
from worldplay_env.worlds.registry import load, resolve
from worldplay_env.worlds.scene.build import HELD_OUT_SEED

QUICK_SCENES = 3
"""Scenes of a quick run; all 81 actions and the minute of wandering in the first of them."""


@dataclass(frozen=True)
class Args(WorldArgs):
    """Measure a world against the true scenes, and write a table, strips and a curve."""

    world: str = "tiny"
    """"tiny", "wan-5b", "abot-5b", "testcard", "scene" (the truth itself), or a folder of weights."""
    seeds: str = f"{HELD_OUT_SEED}:{HELD_OUT_SEED + 64}"
    """The scenes, A:B for A, A+1, ..., B-1; held-out ones, 900000 or more."""
    quick: bool = False
    """The first 3 scenes alone, one of them for all actions and drift: a few minutes on a CPU."""
    out: Path | None = None
    """The folder to write to. By default outputs/evaluation-NAME-OF-THE-WORLD."""
    batch: int = 8
    """Rollouts that are stepped together, and scenes that are evaluated together."""
    workers: int | None = None
    """Processes, each with a world of its own, that groups of --batch scenes are spread over by Ray; without Ray this
    process does it all. No figure depends on how many they are, but for the time of a chunk. By default this process
    alone."""
    threads: int | None = None
    """CPU threads of each worker: 1 by default. Without --workers, as many as torch likes."""
    address: str | None = None
    """A running Ray cluster for the workers, such as "auto" or HOST:6379. By default they are on this machine."""


def read_seeds(text: str) -> range:
    """Return the seeds that "A:B" stands for.

    Raises:
        ValueError: It is no such range, an empty one, or one of scenes that may have been trained on.
    """
    first, _, end = text.partition(":")
    try:
        seeds = range(int(first), int(end))
    except ValueError as error:
        raise ValueError(f"--seeds must be A:B, such as 900000:900064, got {text!r}") from error
    if not seeds:
        raise ValueError(f"--seeds {text} is an empty range: B must be greater than A")
    if seeds[0] < HELD_OUT_SEED:
        raise ValueError(f"--seeds {text}: scenes below {HELD_OUT_SEED} are trained on; held-out ones begin there")
    return seeds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, 2 for wrong arguments, 1 for other errors."""
    args = tyro.cli(Args, prog="python -m worldplay_env.evaluate", args=arguments)
    with ExitStack() as stack:
        try:
            seeds = read_seeds(args.seeds)
            if args.batch < 1:
                raise ValueError(f"--batch must be 1 or more, got {args.batch}")
            workers = stack.enter_context(_open(args))
            facts = facts_of(workers)
        except (ValueError, OSError, RuntimeError) as error:
            return fail(error, 2)
        name = facts.world["name"]
        out = args.out or Path("outputs") / f"evaluation-{name}"
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return fail(error, 2)
        some = seeds[:QUICK_SCENES] if args.quick else seeds
        scenes = {"all_actions": 1, "drift": 1} if args.quick else {}
        try:
            rows, record = evaluate(workers, some, out, batch=args.batch, **scenes)
            write_json(out / "evaluation.json", {"settings": asdict(args), **record})
        except (WorldError, WorkerLost, OSError) as error:
            return fail(error, 1)
    print(
        f"{name} ({facts.world['weights']} weights), {len(record['scenes'])} scenes from {seeds[0]}, "
        f"{record['seconds']:.0f} s on {facts.versions['device']} ({facts.world['device']}), "
        f"torch {facts.versions['torch']}\n"
    )
    print(as_text(rows))
    print("", *(out / name for name in ("evaluation.json", "curve.png", "strips")), sep="\n")
    return 0


def _open(args: Args) -> AbstractContextManager[Workers[World]]:
    """Return the workers that are asked for."""
    # Workers may have another working directory.
    make = functools.partial(load, resolve(args.world), **args.load_options())
    return open_workers(make, args.workers, device=args.device, threads=args.threads, address=args.address)


if __name__ == "__main__":
    sys.exit(main())
