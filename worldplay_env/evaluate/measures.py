"""Everything that is measured of a world in a scene.

Results are plain values. A comparison's figures ("psnr", "ssim", "whole_psnr", "whole_ssim") are means over its
frames that enter: those of which at least `LEAST_SHARE` is visible in the starting picture. The first two are over
those pixels, the "whole" ones over all pixels of the same frames; "frames" and "left_out" count the frames that enter
and those that do not. The starting picture's own frame is given, so it is never scored.

Each comparison with the truth has these series: "world"; "repeat", the starting picture (the last true frame that a
world is given) shown all along; and of world models "autoencoder", what their autoencoder makes of the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldplay_env.control.actions import NUM_ACTIONS
from worldplay_env.evaluate.camera_paths import (
    DRIFT_CHUNKS,
    LONG_CHUNKS,
    SHORT_CHUNKS,
    SINGLE_MOVES,
    held_path,
    mirrored_frames,
    out_and_back,
    short_path,
    turn_frame,
    wandering_path,
)
from worldplay_env.evaluate.ground_truth import Truth
from worldplay_env.evaluate.metrics import psnr, ssim, tone
from worldplay_env.evaluate.rollouts import (
    RolloutSpec,
    Stepped,
    ignore,
    make_rollouts,
    reconstruct,
)
from worldplay_env.worlds.base import World
from worldplay_env.worlds.scene.walk import between

LEAST_SHARE = 0.3
"""Share of a frame that must be visible in the starting picture for the frame to enter."""
DRIFT_JUDGED = DRIFT_CHUNKS // 4
"""Chunks, the last ones, that drift is judged by."""

Show = Callable[[int, str, Tensor, Tensor], None]
"""Takes a scene's seed, a part's name, and the true and the world's film."""
Figures = dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """The measures of each frame of a film, float64 [F] in a dictionary, and which frames enter, bool [F]."""

    measures: dict[str, Tensor]
    enters: Tensor

    @classmethod
    def of(cls, frames: Tensor, truth: Tensor, counts: Tensor) -> Scores:
        """Compare two films, uint8 [F, H, W, 3], over the pixels of `counts`, bool [F, H, W]."""
        rows = []
        for mine, true, mask in zip(*(part.split(32) for part in (frames, truth, counts)), strict=True):
            mine = mine.to(true.device)
            rows.append(
                torch.stack([psnr(mine, true, mask), ssim(mine, true, mask), psnr(mine, true), ssim(mine, true)])
            )
        names = ("psnr", "ssim", "whole_psnr", "whole_ssim")
        measures = dict(zip(names, torch.cat(rows, 1).double().cpu(), strict=True))
        return cls(measures, (counts.float().mean((1, 2)) >= LEAST_SHARE).cpu())

    def summary(self, first: int = 1) -> Figures:
        """Return the means from frame `first` on; None where no frame enters."""
        enters = self.enters[first:]
        count = int(enters.sum())
        means = {
            name: float(values[first:][enters].mean()) if count else None for name, values in self.measures.items()
        }
        return {**means, "frames": count, "left_out": len(enters) - count}

    def course(self, name: str) -> list[float | None]:
        """Return one measure frame by frame, rounded; None where the frame does not enter."""
        pairs = zip(self.measures[name].tolist(), self.enters.tolist(), strict=True)
        return [round(value, 3) if enters else None for value, enters in pairs]


def evaluate_scenes(
    world: World,
    seeds: Sequence[int],
    *,
    batch: int = 8,
    all_actions: bool = False,
    drift: bool = True,
    show: Show | None = None,
    stepped: Stepped = ignore,
) -> list[dict[str, Any]]:
    """Measure a world in a few scenes at once.

    Args:
        world: Of any kind.
        seeds: Of the scenes.
        batch: Rollouts in one `World.step`.
        all_actions: Whether to tell all 81 actions apart, not the nine single ones alone.
        drift: Whether to wander for a minute.
        show: Is given films to make pictures of.
        stepped: Is told of every chunk that is made or rebuilt; see `most_chunks`.

    Returns:
        For each scene "seed", "caption", "short", "long" and "curve", "actions", and if asked for "all_actions" and
        "drift": what the functions below return.
    """
    truths = [Truth.beside(world, seed) for seed in seeds]
    results: list[dict[str, Any]] = [
        {"seed": truth.scene.seed, "caption": truth.scene.caption, "actions": result}
        for truth, result in zip(truths, follow_actions(world, truths, SINGLE_MOVES, batch, stepped), strict=True)
    ]
    parts = {
        "short": short_term(world, truths, batch, show, stepped),
        "long": long_term(world, truths, batch, show, stepped),
    }
    if all_actions:
        parts["all_actions"] = follow_actions(world, truths, range(NUM_ACTIONS), batch, stepped)
    if drift:
        parts["drift"] = drift_of(world, truths, batch, stepped)
    for name, rows in parts.items():
        for result, row in zip(results, rows, strict=True):
            result[name] = row
    return results


def most_chunks(has_codec: bool, has_selection: bool, all_actions: bool, drift: bool) -> int:
    """Return how many chunks `evaluate_scenes` makes and rebuilds in a scene in which nothing stops any action."""
    actions = len(SINGLE_MOVES) + (NUM_ACTIONS if all_actions else 0)
    made = actions + SHORT_CHUNKS + LONG_CHUNKS + (DRIFT_CHUNKS if drift else 0)
    if has_selection:
        made += LONG_CHUNKS  # once more with the newest frames as memory
    if has_codec:  # what it makes of the truth, and of the way out
        made += actions + SHORT_CHUNKS + 2 * LONG_CHUNKS + (DRIFT_JUDGED if drift else 0)
    return made


def short_term(
    world: World, truths: Sequence[Truth], batch: int, show: Show | None = None, stepped: Stepped = ignore
) -> list[Figures]:
    """Compare chunks 0-3 with the truth.

    Returns:
        Figures by series; "moved" is the starting picture moved by the true depth: what can be known, but for what
        its pixels are too coarse to tell. "clip" is the autoencoder's on all of every frame.
    """
    takes = [RolloutSpec(truth, short_path(truth.scene, world.layout, world.motion)) for truth in truths]
    results = []
    for take, film in zip(takes, make_rollouts(world, takes, batch, stepped=stepped), strict=True):
        truth, counts = take.truth.film(take.path.poses), take.truth.visible(take.path.poses)
        if show is not None:
            show(take.truth.scene.seed, "short", truth, film)
        scores = _against_truth(world, film, take.truth, truth, counts, stepped)
        scores["moved"] = Scores.of(take.truth.moved(take.path.poses), truth, counts)
        result: Figures = {name: score.summary() for name, score in scores.items()}
        if "autoencoder" in scores:
            measures = scores["autoencoder"].measures
            result["clip"] = {name: float(measures[name].mean()) for name in ("whole_psnr", "whole_ssim")}
        results.append(result)
    return results


def long_term(
    world: World, truths: Sequence[Truth], batch: int, show: Show | None = None, stepped: Stepped = ignore
) -> list[Figures]:
    """Go out and back, and compare the frames after the turn with the truth and with the way out.

    Returns:
        Figures by series against the truth; "latest", of world models, those of the world whose memory is the
        latest latent frames; "outbound", the world's frames against its own at the same pose on the way out, and
        "outbound_repeat", the starting picture against them; "outbound_autoencoder", of world models, what their
        autoencoder makes of that way out; "curve", PSNR and SSIM frame by frame of each series.
    """
    takes = [RolloutSpec(truth, out_and_back(truth.scene, world.layout, world.motion)) for truth in truths]
    films = {"world": make_rollouts(world, takes, batch, stepped=stepped)}
    if (without_selection := world.without_selection()) is not None:
        films["latest"] = make_rollouts(without_selection, takes, batch, stepped=stepped)
    outbound, back = torch.from_numpy(mirrored_frames(world.layout)), turn_frame(world.layout) + 1
    results = []
    for index, take in enumerate(takes):
        out = take.path.poses[: len(take.path.poses) // 2]
        truth, counts = (part[outbound.to(part.device)] for part in (take.truth.film(out), take.truth.visible(out)))
        film = films["world"][index].to(truth.device)
        scores = _against_truth(world, film, take.truth, truth, counts, stepped)
        if "latest" in films:
            scores["latest"] = Scores.of(films["latest"][index], truth, counts)
        if show is not None:
            show(take.truth.scene.seed, "long", truth, film)
        own = film[outbound]
        repeated = take.truth.picture.expand_as(own)
        result: Figures = {name: score.summary(back) for name, score in scores.items()}
        result["outbound"] = Scores.of(film[back:], own[back:], counts[back:]).summary(0)
        result["outbound_repeat"] = Scores.of(repeated[back:], own[back:], counts[back:]).summary(0)
        if world.codec is not None:
            coded = reconstruct(world.codec, film, stepped)[outbound]
            result["outbound_autoencoder"] = Scores.of(coded[back:], own[back:], counts[back:]).summary(0)
        result["curve"] = {
            name: {measure: score.course(measure) for measure in ("psnr", "ssim")} for name, score in scores.items()
        }
        results.append(result)
    return results


def follow_actions(
    world: World, truths: Sequence[Truth], actions: Sequence[int], batch: int, stepped: Stepped = ignore
) -> list[Figures]:
    """Hold each action for the first chunk, and tell from its last frame which it was.

    It is told by the nearest, in mean squared error over the frame, of the true last frames of all those actions.
    Actions that something in the scene stops are neither taken nor candidates.

    Returns:
        How many were told right, by series, of how many ("actions"); "mistaken", pairs of what was taken by the
        world's rollout and what it was taken for.
    """
    paths = [
        {action: held_path(truth.scene, action, world.layout, world.motion) for action in actions} for truth in truths
    ]
    possible = [{action: path for action, path in held.items() if path is not None} for held in paths]
    takes = [RolloutSpec(truth, path) for truth, held in zip(truths, possible, strict=True) for path in held.values()]
    films = iter(make_rollouts(world, takes, batch, stepped=stepped))
    results = []
    for truth, held in zip(truths, possible, strict=True):
        last = truth.frames(torch.stack([torch.from_numpy(path.poses[-1]) for path in held.values()]).numpy())
        told = _nearest(torch.stack([next(films)[-1] for _ in held]), last)
        taken = list(held)
        right = torch.arange(len(taken))
        result: Figures = {
            "actions": len(taken),
            "world": int((told == right).sum()),
            "repeat": int((_nearest(truth.picture.expand_as(last), last) == right).sum()),
            "mistaken": [(taken[i], taken[guess]) for i, guess in enumerate(told.tolist()) if guess != i],
        }
        if world.codec is not None:
            coded = [reconstruct(world.codec, truth.film(path.poses), stepped)[-1] for path in held.values()]
            result["autoencoder"] = int((_nearest(torch.stack(coded), last) == right).sum())
        results.append(result)
    return results


def drift_of(world: World, truths: Sequence[Truth], batch: int, stepped: Stepped = ignore) -> list[Figures]:
    """Wander for 60 chunks, and compare the last 15 with the scene's own pictures along that path.

    Returns:
        "truth" and each series: {"mean", "contrast"} of the luminance of those frames (`metrics.tone`).
    """
    takes = [RolloutSpec(truth, wandering_path(truth.scene, world.layout, world.motion)) for truth in truths]
    films = make_rollouts(world, takes, batch, last_chunks=DRIFT_JUDGED, stepped=stepped)
    results = []
    for take, film in zip(takes, films, strict=True):
        # With the image before the first judged chunk: the autoencoder rebuilds a film's first image by itself.
        poses = take.path.poses[-DRIFT_JUDGED * world.layout.latents - 1 :]
        truth = take.truth.frames(between(poses, world.layout.images))
        shown = {"truth": truth[1:], "world": film, "repeat": take.truth.picture[None]}
        if world.codec is not None:
            shown["autoencoder"] = reconstruct(world.codec, truth, stepped)[1:]
        results.append(
            {name: dict(zip(("mean", "contrast"), tone(frames), strict=True)) for name, frames in shown.items()}
        )
    return results


def _against_truth(
    world: World, film: Tensor, scene: Truth, truth: Tensor, counts: Tensor, stepped: Stepped
) -> dict[str, Scores]:
    """Score a world's film and the baselines, by series."""
    scores = {
        "world": Scores.of(film, truth, counts),
        "repeat": Scores.of(scene.picture.expand_as(truth), truth, counts),
    }
    if world.codec is not None:
        scores["autoencoder"] = Scores.of(reconstruct(world.codec, truth, stepped), truth, counts)
    return scores


def _nearest(frames: Tensor, candidates: Tensor) -> Tensor:
    """Return the index of the candidate [M, H, W, 3] nearest each frame [N, H, W, 3] in squared error: int64 [N]."""
    candidates = candidates.float()
    errors = [(candidates - frame.to(candidates.device).float()).square().mean((1, 2, 3)) for frame in frames]
    return torch.stack(errors).argmin(1).cpu()
