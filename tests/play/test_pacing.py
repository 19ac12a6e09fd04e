"""Pacing: a steady beat, no frame left out, and chunks begun in time but not much earlier."""

from __future__ import annotations

import numpy as np
import pytest

from worldplay_env.play.pacing import MARGIN, Lead, Playback

PERIOD = 1 / 16


def shown(playback: Playback[int], times: np.ndarray) -> list[tuple[float, int]]:
    """Return what is shown when, if looked at these times."""
    looked = [(now, playback.advance(now)) for now in times.tolist()]
    return [(now, frame) for now, frame in looked if frame is not None]


def full(count: int = 100) -> Playback[int]:
    playback: Playback[int] = Playback(16)
    playback.put(range(count))
    return playback


@pytest.mark.parametrize("jitter", [0.0, 0.004, 0.01])
def test_the_beat_stays_however_unevenly_the_clock_is_looked_at(jitter: float) -> None:
    rng = np.random.default_rng(0)
    times = np.sort(np.arange(0, 5, 0.002) + rng.uniform(0, jitter, 2500))
    moments = np.array([now for now, _ in shown(full(), times)])
    # Each frame is late by what lies between two looks at most, and lateness does not add up.
    assert np.abs(moments - moments[0] - np.arange(len(moments)) * PERIOD).max() < 0.002 + jitter
    assert len(moments) == 80


def test_the_first_frame_is_shown_as_soon_as_there_is_one() -> None:
    playback: Playback[int] = Playback(16)
    assert playback.advance(7.0) is None
    playback.put([1])
    assert playback.until_due(7.01) == 0
    assert playback.advance(7.01) == 1


def test_after_a_wait_frames_go_on_one_by_one_at_the_old_rate() -> None:
    playback = full(3)
    shown(playback, np.arange(0, 1, 0.001))
    playback.put(range(3, 9))
    later = shown(playback, np.arange(5, 6, 0.001))
    assert [frame for _, frame in later] == [3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(np.diff([now for now, _ in later]), PERIOD, atol=0.0011)


def test_a_frame_shown_late_does_not_hurry_the_next() -> None:
    playback = full()
    playback.advance(0.0)
    assert playback.advance(0.1) == 1  # due at 0.0625
    assert playback.advance(0.15) is None
    assert playback.advance(0.1 + PERIOD) == 2


def test_a_pause_holds_the_picture_and_is_no_wait() -> None:
    playback = full()
    playback.advance(0.0)
    playback.paused = True
    assert shown(playback, np.arange(0, 2, 0.01)) == []
    assert playback.until_due(1.0) is None
    assert playback.waiting(1.0) == 0
    assert playback.seconds_left(1.0) == float("inf")
    playback.paused = False
    assert playback.advance(2.0) == 1


def test_waiting_is_counted_from_when_a_frame_was_due() -> None:
    playback = full(1)
    playback.advance(1.0)
    assert playback.waiting(1.0 + PERIOD / 2) == 0
    assert playback.waiting(3.0) == pytest.approx(2.0 - PERIOD)
    playback.clear(3.0)
    assert playback.waiting(3.5) == 0.5


def test_the_rate_is_that_of_the_last_seconds_and_falls_while_the_picture_waits() -> None:
    playback = full()
    shown(playback, np.arange(0, 4, PERIOD / 8))
    assert playback.rate(4.0) == pytest.approx(16, rel=0.02)
    playback.clear(4.0)
    assert playback.rate(5.0) == pytest.approx(8, rel=0.1)
    assert playback.rate(9.0) == 0


def test_a_chunk_is_begun_so_early_that_none_of_its_parts_comes_late() -> None:
    lead = Lead(PERIOD)
    assert lead.seconds == float("inf")
    for _ in range(2):
        lead.observe([(0.1, 4), (0.2, 4), (0.3, 4), (0.9, 4)])
    # The last part is what counts: 12 frames are shown while it is made.
    needed = 0.9 - 12 * PERIOD
    assert needed < lead.seconds < 1.5 * needed + MARGIN + PERIOD
    lead.observe([(2.0, 4), (2.1, 4), (2.2, 4), (2.3, 4)])
    assert lead.seconds > 2.0


def test_the_very_first_chunk_is_not_taken_for_the_usual() -> None:
    lead = Lead(PERIOD)
    lead.observe([(9.0, 16)])
    lead.observe([(0.1, 16)])
    assert lead.seconds < 0.3
