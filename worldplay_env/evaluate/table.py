"""The figures of many scenes as one table: measured value, target, met or missed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from worldplay_env.control.layout import LAYOUT, ChunkLayout

Result = dict[str, Any]

DRIFT_TOLERANCE = 0.15
MISSED, MET = "missed", "met"
WIDTH = 100
"""Columns of a terminal that the table fits."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: Was measured.
        figure: As printed.
        least: What it must reach, in words; empty if nothing.
        met: Whether it does; None if nothing is asked or nothing could be measured.
        whole: The same over whole frames.
        repeat: The same of the starting picture, shown all along.
        ceiling: The same of the autoencoder's reconstruction of the truth.
        frames: How many frames entered; rollouts for actions, scenes for drift.
        left_out: Frames of which too little is visible in the starting picture.
        note: What else is to be said of the figure.
        values: Every figure, in numbers.
    """

    what: str
    figure: str
    least: str = ""
    met: bool | None = None
    whole: str = ""
    repeat: str = ""
    ceiling: str = ""
    frames: int | None = None
    left_out: int | None = None
    note: str = ""
    values: Result = field(default_factory=dict)


def rows_of(results: Sequence[Result], chunk_seconds: float, on_cpu: bool, layout: ChunkLayout = LAYOUT) -> list[Row]:
    """Return the table of scenes that were evaluated (`scene.evaluate_scenes`).

    Figures are means over scenes, each scene counting the same, of those in which any frame enters.

    Args:
        results: One for each scene.
        chunk_seconds: What one chunk of one rollout takes.
        on_cpu: Whether it was timed on a CPU; only that can meet or miss its row.
        layout: Of the world's chunks.
    """
    rows = [_reconstruction(results), _short(results), _plainness(results), _geometry(results)]
    rows += [_long(results), _outbound(results), _latest(results, layout.memory)]
    rows.append(_actions(results, "actions", "action following, 9 single moves", 0.95))
    rows.append(_actions(results, "all_actions", "action following, all 81 actions", 0.70))
    rows += [_drift(results, measure) for measure in ("mean", "contrast")]
    where = "on the CPU" if on_cpu else "on the GPU"
    seconds = Row(
        f"one chunk ({layout.chunk_images} frames) {where}",
        f"{chunk_seconds:.2f} s",
        "1.0 s on 2 CPU cores",
        chunk_seconds <= 1.0 if on_cpu else None,
        values={"seconds": chunk_seconds},
    )
    return [*rows, seconds]


def _reconstruction(results: Sequence[Result]) -> Row:
    what = "autoencoder, unseen clips"
    clips = [result["short"]["clip"] for result in results if "clip" in result["short"]]
    if not clips:
        return Row(what, "-", "30 dB")
    values = {name: _mean(clip[name] for clip in clips) for name in ("whole_psnr", "whole_ssim")}
    figure = _pair(values["whole_psnr"], values["whole_ssim"])
    shorts = [result["short"] for result in results]
    repeat = _pair(*(_mean(_figures(shorts, "repeat", name)) for name in ("whole_psnr", "whole_ssim")))
    return Row(
        what, figure, "30 dB", _reaches(values["whole_psnr"], 30.0), whole=figure, repeat=repeat, values=values
    )


def _short(results: Sequence[Result]) -> Row:
    row = _comparison([result["short"] for result in results], "short term, chunks 0-3", "world", "repeat")
    psnr, ssim, repeat = row.values["psnr"], row.values["ssim"], row.values["repeat_psnr"]
    met = psnr is not None and psnr >= 24 and ssim >= 0.75 and psnr >= repeat + 3
    least = "24 dB, 0.75, 3 dB over repeat"
    return Row(**{**vars(row), "least": least, "met": None if psnr is None else met})


def _plainness(results: Sequence[Result]) -> Row:
    row = _comparison([result["short"] for result in results], "repeat-the-last-frame, chunks 0-3", "repeat")
    psnr = row.values["psnr"]
    return Row(**{**vars(row), "least": "under 18 dB", "met": None if psnr is None else psnr < 18})


def _geometry(results: Sequence[Result]) -> Row:
    return _comparison([result["short"] for result in results], "the picture moved by true depth, 0-3", "moved")


def _long(results: Sequence[Result]) -> Row:
    row = _comparison([result["long"] for result in results], "long term, after the turn")
    return _with_target(row, 20.0, 0.60)


def _outbound(results: Sequence[Result]) -> Row:
    what = "the same against its own way out"
    series = ("outbound", "outbound_repeat", "outbound_autoencoder")
    row = _comparison([result["long"] for result in results], what, *series)
    return _with_target(row, 20.0, 0.60)


def _latest(results: Sequence[Result], memory: int) -> Row:
    what, least = f"long term, {memory} latest frames as memory", "1.5 dB worse than with selection"
    if not all("latest" in result["long"] for result in results):
        return Row(what, "-", least)
    row = _comparison([result["long"] for result in results], what, "latest")
    selected = _mean(_figures([result["long"] for result in results], "world", "psnr"))
    if selected is None:
        return Row(**{**vars(row), "least": least})
    loss = selected - row.values["psnr"]
    changed = {"least": least, "met": loss >= 1.5, "note": f"{loss:+.2f} dB worse"}
    return Row(**{**vars(row), **changed, "values": {**row.values, "loss": loss}})


def _actions(results: Sequence[Result], part: str, what: str, least: float) -> Row:
    counted = [result[part] for result in results if part in result]
    total = sum(result["actions"] for result in counted)
    if not total:
        return Row(what, "-", f"{least:.0%} right")
    shares = {
        name: sum(result[name] for result in counted) / total
        for name in ("world", "repeat", "autoencoder")
        if name in counted[0]
    }
    return Row(
        what,
        _percent(shares["world"]),
        f"{least:.0%} right",
        shares["world"] >= least,
        repeat=_percent(shares["repeat"]),
        ceiling=_percent(shares.get("autoencoder")),
        frames=total,
        values={**shares, "rollouts": total, "scenes": len(counted)},
    )


def _drift(results: Sequence[Result], measure: str) -> Row:
    """Return the drift of the last frames of a minute: the mean over scenes of |ratio to the scene's own - 1|."""
    what = f"drift after 60 chunks, {measure}"
    least = f"within {DRIFT_TOLERANCE:.0%}"
    drifts = [result["drift"] for result in results if "drift" in result]
    if not drifts:
        return Row(what, "-", least)
    names = [name for name in ("world", "repeat", "autoencoder") if name in drifts[0]]
    ratios = {
        name: [drift[name][measure] / max(drift["truth"][measure], 1e-6) - 1 for drift in drifts] for name in names
    }
    off = {name: sum(map(abs, values)) / len(values) for name, values in ratios.items()}
    signed = sum(ratios["world"]) / len(drifts)
    return Row(
        what,
        f"{off['world']:.1%}",
        least,
        off["world"] <= DRIFT_TOLERANCE,
        repeat=_percent(off["repeat"]),
        ceiling=_percent(off.get("autoencoder")),
        frames=len(drifts),
        note=f"on average {signed:+.1%}",
        values={**off, "signed": signed, "scenes": len(drifts)},
    )


def _comparison(
    parts: Sequence[Result],
    what: str,
    series: str = "world",
    repeat: str = "repeat",
    ceiling: str = "autoencoder",
) -> Row:
    """Return a row of picture comparisons, without a target."""
    names = ("psnr", "ssim", "whole_psnr", "whole_ssim")
    values: Result = {name: _mean(_figures(parts, series, name)) for name in names}
    shown = {}
    for key, other in (("repeat", repeat), ("autoencoder", ceiling)):
        if all(other in part for part in parts):
            values |= {f"{key}_{name}": _mean(_figures(parts, other, name)) for name in names}
            shown[key] = _pair(values[f"{key}_psnr"], values[f"{key}_ssim"])
    psnrs = _figures(parts, series, "psnr")
    values["psnr_standard_error"] = _standard_error(psnrs)
    return Row(
        what,
        _pair(values["psnr"], values["ssim"]),
        whole=_pair(values["whole_psnr"], values["whole_ssim"]),
        repeat=shown.get("repeat", ""),
        ceiling=shown.get("autoencoder", ""),
        frames=sum(part[series]["frames"] for part in parts),
        left_out=sum(part[series]["left_out"] for part in parts),
        values=values,
    )


def _with_target(row: Row, psnr: float, ssim: float) -> Row:
    reached = row.values["psnr"]
    met = None if reached is None else reached >= psnr and row.values["ssim"] >= ssim
    return Row(**{**vars(row), "least": f"{psnr:.0f} dB, {ssim:.2f}", "met": met})


def _figures(parts: Sequence[Result], series: str, name: str) -> list[float]:
    return [part[series][name] for part in parts if part[series][name] is not None]


def _mean(values: Any) -> Any:
    """Return the mean, or None of no values."""
    values = list(values)
    return sum(values) / len(values) if values else None


def _standard_error(values: list[float]) -> float | None:
    """Return the standard error of the mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _reaches(value: float | None, least: float) -> bool | None:
    return None if value is None else value >= least


def _pair(psnr: float | None, ssim: float | None) -> str:
    return "-" if psnr is None or ssim is None else f"{psnr:.2f} dB {ssim:.3f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def course_of(results: Sequence[Result], measure: str) -> dict[str, list[float | None]]:
    """Return the mean over scenes of "psnr" or "ssim", frame by frame of the long path, by series.

    None where no frame enters in any scene.
    """
    curves = [result["long"]["curve"] for result in results]
    return {
        name: [
            _mean(value for value in values if value is not None)
            for values in zip(*(curve[name][measure] for curve in curves), strict=True)
        ]
        for name in curves[0]
    }


def as_text(rows: Sequence[Row]) -> str:
    """Return the table to print: the numbers, and below them the targets and the counts."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("", lambda row: row.what),
        ("figure", lambda row: row.figure),
        ("", lambda row: "" if row.met is None else MET if row.met else MISSED),
        ("whole frame", lambda row: row.whole),
        ("repeat", lambda row: row.repeat),
        ("autoencoder", lambda row: row.ceiling),
    ]
    cells = [
        [name for name, _ in columns],
        *([cell(row).replace(" dB ", " ") for _, cell in columns] for row in rows),
    ]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
    ]
    notes = ["Pairs are PSNR in dB and SSIM.", *(_notes(row) for row in rows)]
    wrapped = [textwrap.fill(note, WIDTH, subsequent_indent="    ") for note in notes if note]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", *wrapped])


def _notes(row: Row) -> str:
    """Return a row's remark, or ""."""
    counted = "" if row.frames is None else f"{row.frames} counted"
    parts = [
        row.note,
        f"target {row.least}" if row.least else "",
        "not measured" if row.least and row.met is None else "",
        counted + (f", {row.left_out} left out" if row.left_out is not None else ""),
    ]
    said = "; ".join(part for part in parts if part)
    return f"{row.what}: {said}" if said else ""
