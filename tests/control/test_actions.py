"""Labels, keys and names, and the labels that trajectories have."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from worldplay_env.control.actions import (
    ACTION_TABLE,
    KEYS,
    NUM_ACTIONS,
    action_label,
    action_name,
    keys_of,
    label_of_keys,
    labels_of,
    motion_of,
    opposite_labels,
    split_label,
)
from worldplay_env.control.camera import Motion, MotionScale, integrate

GOLDEN = Path(__file__).parents[1] / "golden"
ITEMS = {item["name"]: item for item in json.loads((GOLDEN / "poses.json").read_text())["items"]}
OPPOSITES = (("w", "s"), ("a", "d"), ("up", "down"), ("left", "right"))

labels = st.integers(0, NUM_ACTIONS - 1)
angles = st.floats(-math.pi, math.pi)


@st.composite
def poses(draw: st.DrawFn) -> np.ndarray:
    """Any rigid pose [4, 4] within 400 units."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", [draw(angles) for _ in range(3)]).as_matrix()
    pose[:3, 3] = [draw(st.floats(-400, 400)) for _ in range(3)]
    return pose


def measured(previous: np.ndarray, current: np.ndarray) -> tuple[float, ...]:
    """Length of one step, its angles to z and x, and the turns about x and y, in units and degrees, by scipy."""
    relative = np.linalg.inv(previous) @ current
    step = relative[:3, 3]
    length = float(np.linalg.norm(step))
    to_forward, to_right = np.degrees(np.arccos(np.clip(step[[2, 0]] / (length or 1), -1, 1)))
    about_x, about_y, _ = Rotation.from_matrix(relative[:3, :3]).as_euler("xyz", degrees=True)
    return length, to_forward, to_right, about_x, about_y


def specified_label(previous: np.ndarray, current: np.ndarray) -> int:
    """Section 3 of the specification, word for word, for one step."""
    length, to_forward, to_right, about_x, about_y = measured(previous, current)
    forward = right = 0
    if length > 1e-4:
        forward = 1 if to_forward < 60 else -1 if to_forward > 120 else 0
        right = 1 if to_right < 60 else -1 if to_right > 120 else 0
    yaw = 1 if about_y > 0.05 else -1 if about_y < -0.05 else 0
    pitch = 1 if about_x > 0.05 else -1 if about_x < -0.05 else 0
    classes = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    return classes.index((forward, right)) * 9 + classes.index((yaw, pitch))


def is_clear_cut(previous: np.ndarray, current: np.ndarray) -> bool:
    """Whether rounding cannot change the label: nothing at a threshold, at half a turn or at a locked quarter."""
    length, to_forward, to_right, about_x, about_y = measured(previous, current)
    thresholds = [
        *((angle, limit) for angle in (to_forward, to_right) for limit in (60, 120)),
        *((angle, limit) for angle in (abs(about_x), abs(about_y)) for limit in (0.05, 180)),
        (abs(about_y), 90),
    ]
    return abs(length - 1e-4) > 1e-9 and all(abs(angle - limit) > 1e-5 for angle, limit in thresholds)


@pytest.mark.parametrize("name", ITEMS)
def test_labels_of_the_recorded_poses_are_the_recorded_ones(name: str) -> None:
    recorded = load_file(GOLDEN / "poses.safetensors")
    found = labels_of(recorded[f"{name}/c2w"])
    assert found.dtype == np.int64
    assert found.tolist() == recorded[f"{name}/action"].tolist() == ITEMS[name]["action"]


@given(st.lists(labels, max_size=8), poses())
def test_labels_come_back_from_the_motions_they_stand_for(path: list[int], start: np.ndarray) -> None:
    assert labels_of(integrate(start, map(motion_of, path))).tolist() == [0, *path]


@pytest.mark.parametrize("label", range(NUM_ACTIONS))
def test_both_directions_agree_on_every_label(label: int) -> None:
    tilted = integrate(np.eye(4), [Motion(forward=300, yaw=2.5, pitch=1.2)])[1]
    assert labels_of(integrate(tilted, [motion_of(label)] * 3)).tolist() == [0, label, label, label]


@given(poses(), poses())
def test_labels_of_any_poses_follow_the_specification(start: np.ndarray, end: np.ndarray) -> None:
    assume(is_clear_cut(start, end))
    assert labels_of(np.stack([start, end])).tolist() == [0, specified_label(start, end)]


@given(poses(), st.tuples(*[st.floats(-3e-4, 3e-4)] * 3), st.tuples(*[st.floats(-0.3, 0.3)] * 3))
def test_labels_of_small_steps_follow_the_specification(
    start: np.ndarray, step: tuple[float, ...], degrees: tuple[float, ...]
) -> None:
    start[:3, 3] /= 400  # near the origin, where such a step is far above rounding
    relative = np.eye(4)
    relative[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    relative[:3, 3] = step
    end = start @ relative
    assume(is_clear_cut(start, end))
    assert labels_of(np.stack([start, end])).tolist() == [0, specified_label(start, end)]


@pytest.mark.parametrize(
    ("part", "unit", "names"),
    [
        ("forward", 1e-4, ("forward", "back")),
        ("right", 1e-4, ("right", "left")),
        ("yaw", math.radians(0.05), ("yaw right", "yaw left")),
        ("pitch", math.radians(0.05), ("pitch up", "pitch down")),
    ],
)
def test_a_motion_counts_from_its_threshold_on(part: str, unit: float, names: tuple[str, str]) -> None:
    for size, name in ((1.001, names[0]), (-1.001, names[1]), (0.999, "stand still"), (-0.999, "stand still")):
        path = integrate(np.eye(4), [Motion(**{part: size * unit})])
        assert action_name(int(labels_of(path)[1])) == name


@pytest.mark.parametrize("about_x", [-40, 0, 40])
@pytest.mark.parametrize("about_y", [-90, 90])
def test_at_a_quarter_turn_the_rest_counts_as_pitch(about_x: float, about_y: float) -> None:
    end = np.eye(4)
    end[:3, :3] = Rotation.from_euler("xyz", [about_x, about_y, 0], degrees=True).as_matrix()
    yaw = "yaw right" if about_y > 0 else "yaw left"
    pitch = {-40: " + pitch down", 0: "", 40: " + pitch up"}[about_x]
    assert action_name(int(labels_of(np.stack([np.eye(4), end]))[1])) == yaw + pitch


@given(poses(), st.floats(-math.pi, math.pi), st.floats(-5, 5))
def test_roll_and_vertical_motion_set_no_label(start: np.ndarray, roll: float, down: float) -> None:
    relative = np.eye(4)
    relative[:3, :3] = Rotation.from_euler("z", roll).as_matrix()
    relative[1, 3] = down
    assert labels_of(np.stack([start, start @ relative])).tolist() == [0, 0]


def test_labels_of_the_first_poses_do_not_depend_on_later_ones() -> None:
    c2w = load_file(GOLDEN / "poses.safetensors")["motions0/c2w"]
    whole = labels_of(c2w)
    for count in range(1, len(c2w)):
        assert labels_of(c2w[:count]).tolist() == whole[:count].tolist()


@given(labels)
def test_a_label_is_nine_translations_times_nine_rotations(label: int) -> None:
    translation, rotation = split_label(label)
    assert (translation, rotation) == (label // 9, label % 9)
    assert action_label(translation, rotation) == label


@pytest.mark.parametrize("label", [-1, 81, 10**20])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    for of_label in (split_label, motion_of, keys_of, action_name):
        with pytest.raises(ValueError, match=rf"0\.\.80, got {label}"):
            of_label(label)


@pytest.mark.parametrize("classes", [(-1, 0), (9, 0), (0, -1), (0, 9)])
def test_a_class_out_of_range_is_refused(classes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"class is 0\.\.8"):
        action_label(*classes)


@pytest.mark.parametrize("label", [1.0, "1", None])
def test_a_label_that_is_no_integer_is_refused(label: object) -> None:
    with pytest.raises(TypeError):
        split_label(label)  # type: ignore[arg-type]


@given(labels)
def test_a_motion_has_every_component_at_full_speed(label: int) -> None:
    motion = motion_of(np.int64(label), MotionScale(units=0.5, degrees=10.0))
    translation = ACTION_TABLE["translation"][label // 9]
    rotation = ACTION_TABLE["rotation"][label % 9]
    assert motion.forward == 0.5 * (("forward" in translation) - ("back" in translation))
    assert motion.right == 0.5 * (("right" in translation) - ("left" in translation))
    assert motion.yaw == np.radians(10.0) * (("right" in rotation) - ("left" in rotation))
    assert motion.pitch == np.radians(10.0) * (("up" in rotation) - ("down" in rotation))


@pytest.mark.parametrize(
    ("keys", "label", "name"),
    [
        ((), 0, "stand still"),
        (("w",), 9, "forward"),
        (("s",), 18, "back"),
        (("d",), 27, "right"),
        (("a",), 36, "left"),
        (("right",), 1, "yaw right"),
        (("left",), 2, "yaw left"),
        (("up",), 3, "pitch up"),
        (("down",), 4, "pitch down"),
        (("w", "right"), 10, "forward + yaw right"),
        (("w", "d", "up", "right"), 50, "forward + right + yaw right + pitch up"),
        (("s", "a", "down", "left"), 80, "back + left + yaw left + pitch down"),
    ],
)
def test_keys_labels_and_names_are_those_of_the_table(keys: tuple[str, ...], label: int, name: str) -> None:
    assert label_of_keys(keys) == label
    assert keys_of(label) == keys
    assert action_name(label) == name


def test_every_label_has_its_own_keys_and_name() -> None:
    everything = range(NUM_ACTIONS)
    assert [label_of_keys(keys_of(label)) for label in everything] == list(everything)
    assert len({action_name(label) for label in everything}) == NUM_ACTIONS


@given(st.sets(st.sampled_from(KEYS)))
def test_opposite_keys_cancel_and_order_and_repeats_do_not_matter(held: set[str]) -> None:
    cancelled = {key for pair in OPPOSITES if set(pair) <= held for key in pair}
    label = label_of_keys(held)
    assert set(keys_of(label)) == held - cancelled
    assert label_of_keys([*sorted(held, reverse=True), *held]) == label


@pytest.mark.parametrize("key", ["W", "q", "", "Up", " w", 3])
def test_an_unknown_key_is_named(key: object) -> None:
    with pytest.raises(ValueError, match=f"unknown key {key!r}: known are w, s, a, d, up, down, left, right"):
        label_of_keys(["w", key])  # type: ignore[list-item]


@pytest.mark.parametrize("label", [0, *range(1, 9), *range(9, 81, 9)])
def test_the_opposite_of_an_action_that_moves_or_turns_leads_back(label: int) -> None:
    there = integrate(np.eye(4), [motion_of(label), motion_of(int(opposite_labels(np.array(label))))])
    if label % 9 < 5:  # two turns at once are undone in reverse order
        np.testing.assert_allclose(there[-1], np.eye(4), atol=1e-12)
    assert opposite_labels(opposite_labels(np.array(label))) == label
