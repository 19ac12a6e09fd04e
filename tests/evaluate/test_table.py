"""What is printed and drawn of an evaluation: the table, its notes, strips and curves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up import made_up
from pictures import pictures

from worldplay_env.evaluate.measures import Scores
from worldplay_env.evaluate.metrics import MOST_PSNR
from worldplay_env.evaluate.plots import curves, strip
from worldplay_env.evaluate.table import as_text, course_of, rows_of


def test_frames_that_show_too_little_of_the_start_do_not_enter() -> None:
    truth = pictures(0, count=5, size=(10, 10))
    film = truth.clone()
    film[3] = 255 - film[3]
    counts = torch.zeros(5, 10, 10, dtype=torch.bool)
    counts[:, :, :3] = True
    counts[3, 0, 0] = False  # 29 %
    scores = Scores.of(film, truth, counts)
    assert scores.enters.tolist() == [True, True, True, False, True]
    assert scores.summary() == pytest.approx(
        {"psnr": MOST_PSNR, "ssim": 1, "whole_psnr": MOST_PSNR, "whole_ssim": 1, "frames": 3, "left_out": 1}
    )
    assert scores.course("psnr") == [MOST_PSNR, MOST_PSNR, MOST_PSNR, None, MOST_PSNR]
    nothing = Scores.of(film, truth, torch.zeros_like(counts)).summary()
    assert nothing["psnr"] is None
    assert (nothing["frames"], nothing["left_out"]) == (0, 4)


def test_every_row_is_met_just_where_it_reaches_its_least() -> None:
    good = made_up(24.0, 0.75, latest_psnr=22.5, right=19, tone_ratio=1.149)
    rows = rows_of([good], 1.0, True)
    assert [row.what for row in rows if not row.least] == ["the picture moved by true depth, 0-3"]
    assert all(row.met for row in rows if row.least)
    assert len(rows) == 12
    bad = made_up(14.9, 0.59, latest_psnr=14.0, right=13, tone_ratio=0.84)
    met = {row.what: row.met for row in rows_of([bad], 1.01, True)}
    assert [what for what, reached in met.items() if reached] == [
        "autoencoder, unseen clips",
        "repeat-the-last-frame, chunks 0-3",
    ]
    text = as_text(rows_of([bad], 1.01, True))
    assert text.count("missed") == 9
    assert "14.90 0.590" in text


def test_the_table_fits_a_terminal_and_says_below_what_is_asked() -> None:
    wide = made_up(-14.99, 0.599, latest_psnr=-24.0, right=0, tone_ratio=3.0)
    for result in (wide, {"short": wide["short"], "long": wide["long"], "actions": wide["actions"]}):
        for on_cpu in (True, False):
            rows = rows_of([result] * 64, 100.0, on_cpu)
            table, notes = as_text(rows).split("\n\n")
            assert max(map(len, f"{table}\n{notes}".splitlines())) <= 100
            assert len(table.splitlines()) == len(rows) + 2
            plain = " ".join(notes.split())
            for row in rows:
                assert f"{row.what} " in table
                assert not row.least or f"target {row.least}" in plain
                assert not row.note or row.note in plain
    assert "576 counted, 64 left out" in plain


def test_means_are_over_scenes_and_drifts_do_not_cancel() -> None:
    options = {"latest_psnr": 20.0, "right": 20}
    scenes = [made_up(20.0, 0.5, tone_ratio=0.8, **options), made_up(30.0, 0.7, tone_ratio=1.2, **options)]
    rows = {row.what: row for row in rows_of(scenes, 0.5, False)}
    assert rows["short term, chunks 0-3"].values["psnr"] == 25.0
    assert rows["short term, chunks 0-3"].values["psnr_standard_error"] == pytest.approx(5.0)
    assert rows["long term, 16 latest frames as memory"].values["loss"] == 5.0
    drift = rows["drift after 60 chunks, mean"]
    assert (drift.values["world"], drift.met) == (pytest.approx(0.2), False)
    assert drift.values["signed"] == pytest.approx(0.0)
    assert rows["one chunk (16 frames) on the GPU"].met is None
    assert course_of(scenes, "psnr") == {"world": [None, 25.0]}


def test_a_strip_shows_truth_above_dream() -> None:
    truth, dream = (torch.full((33, 24, 40, 3), value, dtype=torch.uint8) for value in (200, 60))
    sheet = np.asarray(strip(truth, dream, 16))
    assert (sheet[4 + 12, 4 + 20 :: 44][:9] == 200).all()
    assert (sheet[4 + 24 + 4 + 12, 4 + 20 :: 44][:9] == 60).all()


GAPS = ((0, 29), (31, 58), (62, 79))
"""Frames before, in and after a gap of the line below, up to the mark."""


def test_a_curve_leaves_gaps_where_nothing_is_known() -> None:
    line: list[float | None] = [20.0] * 30 + [None] * 30 + [20.0] * 31
    chart = np.asarray(curves({"PSNR": {"world": line}, "SSIM": {"world": [0.5] * 91}}, 16, (80, "turn")))
    assert chart.shape == (680, 960, 3)
    blue = (chart == (31, 119, 180)).all(2)  # matplotlib's first colour
    for panel, gap in ((blue[:320], True), (blue[320:620], False)):  # the legend is below them
        drawn = panel.any(0)
        first, last = np.flatnonzero(drawn)[[0, -1]]
        line_of = drawn[first : last + 1]  # of frames 0 to 90
        before, between, after = (line_of[len(line_of) * a // 90 : len(line_of) * b // 90] for a, b in GAPS)
        assert before.mean() > 0.9
        assert after.mean() > 0.9
        assert between.any() != gap


@pytest.mark.parametrize("line", [[20.0], [None, 20.0], [None] * 91])
def test_a_curve_of_little_is_drawn_too(line: list[float | None]) -> None:
    assert curves({"PSNR": {"world": line}}, 16, (128, "turn")).size == (960, 340)
