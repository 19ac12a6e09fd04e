"""How good a world is, against the true scenes: `python -m worldplay_env.evaluate`.

It rolls a world out along fixed paths through scenes that were never trained on, and writes a table (printed, and as
JSON), strips of truth and dream, and the quality against time. How everything is measured: `evaluation/scene.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from worldplay_env.evaluation.films import chunk_seconds
from worldplay_env.evaluation.pictures import curves, strip
from worldplay_env.evaluation.scene import TURN, evaluate_scenes
from worldplay_env.evaluation.table import Row, as_text, course_of, rows_of
from worldplay_env.evaluation.truth import Truth
from worldplay_env.record import versions, write_json
from worldplay_env.scenes.build import HELD_OUT_SEED
from worldplay_env.video import save_picture
from worldplay_env.world import World, WorldError, load

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


def evaluate(
    world: World,
    seeds: Sequence[int],
    out: Path,
    *,
    batch: int = 8,
    all_actions: int = ALL_ACTIONS_SCENES,
    drift: int | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """Measure a world in scenes and write its pictures.

    Args:
        world: Of any kind.
        seeds: Of the scenes.
        out: The folder for `curve.png` and `strips/SEED-short.png` and `SEED-long.png`.
        batch: Rollouts stepped together, and scenes evaluated together.
        all_actions: How many scenes, the first ones, all 81 actions are told apart in.
        drift: How many scenes, the first ones, are wandered in for a minute; by default all.

    Returns:
        The table, and the same with every scene's figures as plain values.
    """
    began = time.perf_counter()

    def show(seed: int, part: str, truth: Tensor, film: Tensor) -> None:
        save_picture(strip(truth, film, world.fps), out / "strips" / f"{seed}-{part}.png")

    results: list[dict[str, Any]] = []
    with tqdm(total=len(seeds), desc="evaluating", unit="scene") as progress:
        for group in _groups(len(seeds), batch, all_actions, len(seeds) if drift is None else drift):
            some = [seeds[index] for index in group]
            first = group[0]
            results += evaluate_scenes(
                world,
                some,
                batch=batch,
                all_actions=first < all_actions,
                drift=drift is None or first < drift,
                show=show,
            )
            progress.update(len(some))
    seconds = chunk_seconds(world, Truth(seeds[0], world.image_size, world.device))
    rows = rows_of(results, seconds, world.device.type == "cpu")
    courses = {measure: course_of(results, measure) for measure in ("psnr", "ssim")}
    save_picture(_chart(courses, world.fps), out / "curve.png")
    for result in results:
        del result["long"]["curve"]
    record = {
        "world": {"name": world.name, "weights": world.weights, "image_size": world.image_size},
        "seconds": time.perf_counter() - began,
        "rows": [asdict(row) for row in rows],
        "curve": courses,
        "scenes": results,
        "versions": versions(world.device),
    }
    return rows, record


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
    try:
        seeds = read_seeds(args.seeds)
        if args.batch < 1:
            raise ValueError(f"--batch must be 1 or more, got {args.batch}")
        world = load(
            args.world,
            device=args.device,
            dtype=args.dtype,
            weights=args.weights,
            accept_license=args.accept_license,
        )
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    out = args.out or Path("outputs") / f"evaluation-{world.name}"
    scenes = {"all_actions": 1, "drift": 1} if args.quick else {}
    try:
        rows, record = evaluate(world, seeds[:QUICK_SCENES] if args.quick else seeds, out, batch=args.batch, **scenes)
    except WorldError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    write_json(out / "evaluation.json", {"settings": asdict(args), **record})
    version = record["versions"]
    print(
        f"{world.name} ({world.weights} weights), {len(record['scenes'])} scenes from {seeds[0]}, "
        f"{record['seconds']:.0f} s on {version['device']} ({world.device}), torch {version['torch']}\n"
    )
    print(as_text(rows))
    print(f"\n{out / 'evaluation.json'}, {out / 'curve.png'}, {out / 'strips'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
