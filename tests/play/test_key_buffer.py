"""The key timeline: what is held counts throughout, and no tap is lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldplay_env.control.actions import KEYS, label_of_keys
from worldplay_env.play.key_buffer import AXES, KeyBuffer

LATENT = 0.25


def timeline(*events: tuple[float, str, str]) -> KeyBuffer:
    """Return a timeline after (time, "down" or "up", key) events."""
    keys = KeyBuffer(LATENT)
    for now, what, key in events:
        (keys.press if what == "down" else keys.release)(key, now)
    return keys


def test_a_held_key_counts_for_every_latent_frame_of_every_chunk() -> None:
    keys = timeline((0.0, "down", "w"))
    assert [keys.take(4).keys for _ in range(3)] == [[("w",)] * 4] * 3


def test_a_key_let_go_after_it_was_answered_is_not_a_tap() -> None:
    keys = timeline((0.0, "down", "w"))
    keys.take(4)
    keys.release("w", 0.1)
    assert keys.take(4).keys == [()] * 4


@pytest.mark.parametrize(("seconds", "latents"), [(0.01, 1), (0.25, 1), (0.3, 2), (0.6, 3), (0.9, 4), (30.0, 4)])
def test_a_tap_counts_for_as_long_as_it_lasted(seconds: float, latents: int) -> None:
    keys = timeline((0.0, "down", "a"), (seconds, "up", "a"))
    assert keys.take(4).keys == [("a",)] * latents + [()] * (4 - latents)
    assert keys.take(4).keys == [()] * 4


def test_a_tap_while_its_opposite_is_held_comes_first() -> None:
    keys = timeline((0.0, "down", "d"), (0.1, "down", "a"), (0.2, "up", "a"))
    assert keys.take(4).keys == [("a",), ("d",), ("d",), ("d",)]


def test_taps_of_opposite_keys_follow_one_another_in_the_order_they_were_pressed() -> None:
    keys = timeline((0, "down", "left"), (0.1, "up", "left"), (0.2, "down", "right"), (0.3, "up", "right"))
    assert keys.take(4).keys == [("left",), ("right",), (), ()]


def test_keys_of_different_axes_go_together() -> None:
    keys = timeline((0, "down", "w"), (0.1, "down", "left"), (0.2, "up", "left"))
    assert keys.take(4).keys == [("w", "left"), ("w",), ("w",), ("w",)]


def test_opposite_keys_held_together_cancel() -> None:
    keys = timeline((0, "down", "w"), (0, "down", "s"), (0, "down", "up"))
    assert {label_of_keys(latent) for latent in keys.take(4).keys} == {label_of_keys(["up"])}


def test_the_first_chunk_has_three_latent_frames_to_move_in() -> None:
    assert timeline((0.0, "down", "w")).take(3).keys == [("w",)] * 3


def test_what_does_not_fit_waits_for_the_next_chunk() -> None:
    events = []
    for tap in range(6):
        key = "ad"[tap % 2]
        events += [(tap / 10, "down", key), (tap / 10 + 0.05, "up", key)]
    keys = timeline(*events)
    assert keys.take(4).keys == [("a",), ("d",), ("a",), ("d",)]
    assert keys.take(4).keys == [("a",), ("d",), (), ()]


def test_a_lost_keyboard_lets_go_of_everything() -> None:
    keys = timeline((0.0, "down", "w"), (0.0, "down", "left"))
    keys.take(4)
    keys.release_all(0.5)
    assert keys.held == frozenset()
    assert keys.take(4).keys == [()] * 4


def test_repeated_and_unmatched_events_change_nothing() -> None:
    keys = timeline((0.0, "up", "w"), (0.0, "down", "s"), (0.2, "down", "s"), (0.2, "up", "s"), (0.3, "up", "s"))
    assert keys.take(4).keys == [("s",), (), (), ()]


def test_the_answer_knows_when_its_oldest_new_key_was_pressed() -> None:
    keys = timeline((1.0, "down", "w"), (1.5, "down", "a"), (1.6, "up", "a"))
    assert keys.take(4).pressed_at == 1.0
    assert keys.take(4).pressed_at is None


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown key 'q': known are w, s"):
        KeyBuffer(LATENT).press("q", 0.0)


@given(st.lists(st.one_of(st.sampled_from(KEYS), st.none()), max_size=40))
def test_every_tap_moves_once_at_least_or_shares_its_latent_frame_with_taps_of_its_own_key(
    events: list[str | None],
) -> None:
    """Taps of random keys, with a chunk begun at every None; then chunks until nothing is left."""
    keys, now, chunks = KeyBuffer(LATENT), 0.0, []
    for key in events:
        now += 0.1
        if key is None:
            chunks.append(keys.take(4).keys)
        else:
            keys.press(key, now)
            keys.release(key, now + 0.05)
    chunks += [keys.take(4).keys for _ in range(len(events) + 1)]
    assert chunks[-1] == [()] * 4

    for axis in AXES:
        # Runs of one key need not be longer than a latent frame, but their order is kept.
        pressed = [key for key in events if key in axis]
        moved = [key for chunk in chunks for latent in chunk for key in latent if key in axis]
        assert _runs(moved) == _runs(pressed)
        assert all(moved_count <= Counter(pressed)[key] for key, moved_count in Counter(moved).items())


def _runs(keys: list[str | None]) -> list[str | None]:
    return [key for place, key in enumerate(keys) if place == 0 or keys[place - 1] != key]
