"""Held keys as vectors: of keys, of labels, of two opposite keys, and of files at another rate."""

from __future__ import annotations

import pytest

from worldplay_env.control.actions import NUM_ACTIONS, label_of_keys
from worldplay_env.control.held_keys import HELD_KEYS, held_keys, sampled, vector_of_keys, vector_of_label


def test_every_label_holds_keys_that_give_it_back() -> None:
    for label in range(NUM_ACTIONS):
        held = [key for key, down in zip(HELD_KEYS, vector_of_label(label), strict=True) if down]
        assert label_of_keys(held) == label


def test_vectors_are_in_the_order_of_the_keys_and_may_hold_all() -> None:
    assert vector_of_keys(["w", "left"]) == (1, 0, 0, 0, 0, 1, 0, 0)
    assert vector_of_keys(HELD_KEYS) == (1,) * 8
    with pytest.raises(ValueError, match="unknown key 'x'"):
        vector_of_keys(["x"])


def test_of_two_opposite_keys_the_activated_one_wins() -> None:
    assert held_keys(["w", "s"], ["s"]) == ("s",)
    assert held_keys(["w", "s"], []) == ("w", "s")
    assert held_keys(["up", "down"], ["up", "down"]) == ("up", "down")


def test_files_are_sampled_at_the_start_of_each_block() -> None:
    assert sampled(list(range(100)), rate=16, fps=12, images=12) == [0, 16, 32, 48, 64, 80]
    assert sampled([5, 6], rate=16, fps=12, images=12) == [5]
