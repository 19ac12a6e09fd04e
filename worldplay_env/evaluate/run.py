"""The measurement of a world in scenes, spread over workers."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from worldplay_env.control.layout import ChunkLayout
from worldplay_env.evaluate.camera_paths import turn_frame
from worldplay_env.evaluate.ground_truth import Truth
from worldplay_env.evaluate.measures import evaluate_scenes, most_chunks
from worldplay_env.evaluate.plots import curves, strip
from worldplay_env.evaluate.rollouts import Stepped, chunk_seconds, ignore
from worldplay_env.evaluate.table import Row, course_of, rows_of
from worldplay_env.media.contact_sheet import save_picture
from worldplay_env.provenance import versions, world_facts
from worldplay_env.workers import Workers
from worldplay_env.workers.base import OneProcess
from worldplay_env.worlds.base import World

ALL_ACTIONS_SCENES = 8
"""Scenes that all 81 actions are told apart in."""
_NAMES = {
    "world": "world",
    "latest": "latest frames as memory",
    "repeat": "repeat the starting picture",
    "autoencoder": "autoencoder",
}


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
    layout: ChunkLayout
    versions: dict[str, str]
    has_codec: bool
    has_selection: bool


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
    made = functools.partial(most_chunks, facts.has_codec, facts.has_selection)
    chunks = {group: len(group.seeds) * made(group.all_actions, group.drift) for group in groups}
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
    rows = rows_of(results, seconds, facts.world["device"] == "cpu", facts.layout)
    courses = {measure: course_of(results, measure) for measure in ("psnr", "ssim")}
    save_picture(_chart(courses, facts), out / "curve.png")
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
    has_selection = world.without_selection() is not None
    return Facts(
        world_facts(world),
        world.fps,
        world.layout,
        versions(world.device),
        world.codec is not None,
        has_selection,
    )


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
    return chunk_seconds(world, Truth.beside(world, seed))


def _chart(courses: dict[str, dict[str, list[float | None]]], facts: Facts) -> Image.Image:
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
    return curves(panels, facts.fps, (turn_frame(facts.layout), "turn"))


def _groups(count: int, size: int, *bounds: int) -> list[range]:
    """Split 0..count-1 into ranges of at most `size` that cross none of the bounds."""
    cuts = sorted({0, count, *(min(bound, count) for bound in bounds)})
    return [
        range(first, min(first + size, end)) for begin, end in pairwise(cuts) for first in range(begin, end, size)
    ]
