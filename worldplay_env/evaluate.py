"""How good a world is, against the true scenes: `python -m worldplay_env.evaluate`.

It rolls a world out along fixed paths through scenes that were never trained on, and writes a table (printed, and as
JSON), strips of truth and dream, and the quality against time. How everything is measured: `evaluation/scene.py`.
With `--workers` the scenes are spread over processes or machines.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import tyro
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from worldplay_env.distributed import WorkerLost, Workers, open_workers
from worldplay_env.distributed.workers import OneProcess
from worldplay_env.dream.world import DreamWorld
from worldplay_env.evaluation.films import Stepped, chunk_seconds, ignore
from worldplay_env.evaluation.pictures import curves, strip
from worldplay_env.evaluation.scene import TURN, evaluate_scenes, most_chunks
from worldplay_env.evaluation.table import Row, as_text, course_of, rows_of
from worldplay_env.evaluation.truth import Truth
from worldplay_env.failures import fail
from worldplay_env.record import versions, world_facts, write_json
from worldplay_env.scenes.build import HELD_OUT_SEED
from worldplay_env.video import save_picture
from worldplay_env.world import WORLDS, World, WorldError, load

ALL_ACTIONS_SCENES = 8
"""Scenes that all 81 actions are told apart in."""
QUICK_SCENES = 3
"""Scenes of a quick run; all 81 actions and the minute of wandering in the first of them."""
_NAMES = {
    "world": "world",
    "latest": "16 latest as memory",
    "repeat": "repeat the starting picture",
    "autoencoder": "autoencoder",
}


@dataclass(frozen=True)
class Args:
    """Measure a world against the true scenes, and write a table, strips and a curve."""

    world: str = "tiny"
    """"tiny", "wan-5b", "testcard", "scene" (the truth itself), or a folder of weights."""
    seeds: str = f"{HELD_OUT_SEED}:{HELD_OUT_SEED + 64}"
    """The scenes, A:B for A, A+1, ..., B-1; 900000 or more, which are never trained on."""
    quick: bool = False
    """The first 3 scenes alone, one of them for all actions and drift: a few minutes on a CPU."""
    out: Path | None = None
    """The folder to write to. By default outputs/evaluation-NAME-OF-THE-WORLD."""
    batch: int = 8
    """Rollouts that are stepped together, and scenes that are evaluated together."""
    device: str | None = None
    """A torch device. By default "cuda" where there is one, else "cpu"."""
    dtype: str | None = None
    """float32, bfloat16 or float16. By default bfloat16 on a GPU and float32 on a CPU."""
    weights: str | None = None
    """"random" for seeded random parameters, without a download. By default the world's own."""
    accept_license: bool = False
    """Agree to the licence of weights that have to be downloaded."""
    workers: int | None = None
    """Processes, each with a world of its own, that groups of --batch scenes are spread over by Ray; without Ray this
    process does it all. No figure depends on how many they are, but for the time of a chunk. By default this process
    alone."""
    threads: int | None = None
    """CPU threads of each worker: 1 by default. Without --workers, as many as torch likes."""
    address: str | None = None
    """A running Ray cluster for the workers, such as "auto" or HOST:6379. By default they are on this machine."""


@dataclass(frozen=True)
class Group:
    """Scenes that are evaluated together, by one worker.

    Who shares a batch changes figures in the last bits, so groups are the same for any number of workers.
    """

    seeds: tuple[int, ...]
    all_actions: bool
    drift: bool


@dataclass(frozen=True)
class Facts:
    """What a table says of the world, and of where it ran."""

    world: dict[str, Any]
    fps: int
    versions: dict[str, str]
    is_model: bool


def facts_of(workers: Workers[World]) -> Facts:
    """Return what is known of the world that workers hold, which is loaded now.

    Raises:
        Exception: Whatever loading the world raised.
    """
    [(_, facts)] = workers.stream(_facts, [0])
    return facts


def evaluate(
    workers: Workers[World],
    seeds: Sequence[int],
    out: Path,
    *,
    batch: int = 8,
    all_actions: int = ALL_ACTIONS_SCENES,
    drift: int | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """Measure a world in scenes and write its pictures.

    Args:
        workers: Hold the world, of any kind (`distributed.open_workers`).
        seeds: Of the scenes.
        out: The folder for `curve.png` and `strips/SEED-short.png` and `SEED-long.png`.
        batch: Rollouts stepped together, and scenes evaluated together.
        all_actions: How many scenes, the first ones, all 81 actions are told apart in.
        drift: How many scenes, the first ones, are wandered in for a minute; by default all.

    Returns:
        The table, and the same with every scene's figures as plain values.
    """
    began = time.perf_counter()
    facts = facts_of(workers)
    wandered = len(seeds) if drift is None else drift
    groups = [
        Group(tuple(seeds[index] for index in group), group[0] < all_actions, group[0] < wandered)
        for group in _groups(len(seeds), batch, all_actions, wandered)
    ]
    found: dict[Group, list[dict[str, Any]]] = {}
    chunks = {
        group: len(group.seeds) * most_chunks(facts.is_model, group.all_actions, group.drift) for group in groups
    }
    with tqdm(total=sum(chunks.values()), desc="evaluating", unit="chunk") as progress:
        here = isinstance(workers, OneProcess)  # elsewhere a group is done when it comes back
        work = functools.partial(_measure, batch=batch, stepped=progress.update if here else ignore)
        for group, (figures, strips) in workers.stream(work, groups):
            found[group] = figures
            for name, picture in strips.items():
                save_picture(picture, out / "strips" / f"{name}.png")
            progress.update(sum(chunks[one] for one in found) - progress.n)
    results = [result for group in groups for result in found[group]]
    [(_, seconds)] = workers.stream(_time, seeds[:1])  # by itself: nothing else runs by now
    rows = rows_of(results, seconds, facts.world["device"] == "cpu")
    courses = {measure: course_of(results, measure) for measure in ("psnr", "ssim")}
    save_picture(_chart(courses, facts.fps), out / "curve.png")
    for result in results:
        del result["long"]["curve"]
    record = {
        "world": facts.world,
        "seconds": time.perf_counter() - began,
        "rows": [asdict(row) for row in rows],
        "curve": courses,
        "scenes": results,
        "versions": facts.versions,
    }
    return rows, record


def _facts(world: World, _: int) -> Facts:
    return Facts(world_facts(world), world.fps, versions(world.device), isinstance(world, DreamWorld))


def _measure(
    world: World, group: Group, batch: int, stepped: Stepped
) -> tuple[list[dict[str, Any]], dict[str, Image.Image]]:
    """Return the figures of each scene of a group, and strips of truth and dream by name."""
    strips: dict[str, Image.Image] = {}

    def show(seed: int, part: str, truth: Tensor, film: Tensor) -> None:
        strips[f"{seed}-{part}"] = strip(truth, film, world.fps)

    options = {"all_actions": group.all_actions, "drift": group.drift}
    return evaluate_scenes(world, group.seeds, batch=batch, show=show, stepped=stepped, **options), strips


def _time(world: World, seed: int) -> float:
    return chunk_seconds(world, Truth(seed, world.image_size, world.device))


def _chart(courses: dict[str, dict[str, list[float | None]]], fps: float) -> Image.Image:
    """Draw the mean quality of each series, by measure, against time."""
    # The start shows its own pose perfectly; that peak would flatten all the rest.
    titles = {"psnr": ("PSNR of what the start shows (dB, 40 at most)", 40.0), "ssim": ("SSIM of the same", 1.0)}
    panels = {
        title: {
            _NAMES[name]: [None if value is None else min(value, most) for value in line]
            for name, line in courses[measure].items()
        }
        for measure, (title, most) in titles.items()
    }
    return curves(panels, fps, (TURN, "turn"))


def _groups(count: int, size: int, *bounds: int) -> list[range]:
    """Split 0..count-1 into ranges of at most `size` that cross none of the bounds."""
    cuts = sorted({0, count, *(min(bound, count) for bound in bounds)})
    return [
        range(first, min(first + size, end)) for begin, end in pairwise(cuts) for first in range(begin, end, size)
    ]


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
    """Run the program; return its exit code: 0, 2 for what was asked for wrongly, 1 for what went wrong."""
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
    folder = args.world not in WORLDS and Path(args.world).is_dir()
    name = str(Path(args.world).resolve()) if folder else args.world  # workers may have another working directory
    settings = {"device": args.device, "dtype": args.dtype, "weights": args.weights}
    make = functools.partial(load, name, accept_license=args.accept_license, **settings)
    return open_workers(make, args.workers, device=args.device, threads=args.threads, address=args.address)


if __name__ == "__main__":
    sys.exit(main())
