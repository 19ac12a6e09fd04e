"""Memory selection against the recorded data, against an implementation with angles, and against 50,000 points."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from worldplay_env.control.actions import NUM_ACTIONS, motion_of
from worldplay_env.control.camera import Motion, integrate, rotation_x, rotation_y, view_matrices
from worldplay_env.models.worldplay import memory

GOLDEN = Path(__file__).parents[2] / "golden"
CASE = json.loads((GOLDEN / "fov_memory.json").read_text())
TENSORS = load_file(GOLDEN / "fov_memory.safetensors")


# --- an independent implementation, with angles ---------------------------------------------------------------------


def ball(count: int, seed: int) -> np.ndarray:
    """Points [count, 3] uniform by volume in the ball of radius 8."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return 8 * rng.random((count, 1)) ** (1 / 3) * directions


def degrees_outside(c2w: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How far points [P, 3] are outside of a field of view of 60 x 35 degrees, negative inside: [P]."""

    def wrapped(angle: np.ndarray) -> np.ndarray:
        return (angle + 180) % 360 - 180

    def angles(direction: np.ndarray) -> np.ndarray:
        x, y, z = direction.T
        return np.degrees([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))])

    difference = wrapped((angles(points - c2w[:3, 3]).T - angles(c2w[:3, 2])).T)
    return np.maximum(np.abs(difference[0]) - 30, np.abs(difference[1]) - 17.5)


def overlap_by_angles(current: np.ndarray, history: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Overlap of two world-to-camera matrices, and the share of the points that rounding could decide either way."""
    relative = current @ np.linalg.inv(history)
    visible = points[degrees_outside(np.eye(4), points) < 0]
    outside = degrees_outside(relative, visible)
    reach = np.linalg.norm(visible - relative[:3, 3], axis=1) - 8
    doubtful = (np.abs(outside) < 1e-6) | (np.abs(reach) < 1e-6)
    count = max(len(visible), 1)
    return float(((outside < 0) & (reach < 0)).sum() / count), float(doubtful.sum() / count)


def distances(w2c: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
    """The distance of every candidate clip from the last four views: all pairs, all points."""
    start = len(w2c) - 4
    clips = w2c[: start - 12].reshape(-1, 4, 4, 4)[:, [0, 2]]
    return 1 - memory.overlap(w2c[start:], clips[:, :, None], points).mean((1, 2))


# --- paths ----------------------------------------------------------------------------------------------------------


def path(motions: list[Motion]) -> np.ndarray:
    """World-to-camera matrices of a path from the origin."""
    return view_matrices(integrate(np.eye(4), motions))


def random_path(latents: int, seed: int, hold: int = 4, level: bool = False) -> np.ndarray:
    """World-to-camera matrices of random actions, each held for some latent frames; level: without pitch."""
    rng = np.random.default_rng(seed)
    motions: list[Motion] = []
    while len(motions) < latents - 1:
        motion = motion_of(int(rng.integers(NUM_ACTIONS)))
        if level:
            motion = Motion(motion.forward, motion.right, motion.yaw)
        motions += [motion] * hold
    return path(motions[: latents - 1])


def facing(yaw: float = 0.0, pitch: float = 0.0, position: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """World-to-camera matrix of a camera there, turned right and then up by so many degrees."""
    c2w = np.eye(4)
    c2w[:3, :3] = rotation_y(np.radians(yaw)) @ rotation_x(np.radians(pitch))
    c2w[:3, 3] = position
    return np.linalg.inv(c2w)


# --- recorded data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [item["name"] for item in CASE["items"]])
def test_overlaps_are_the_recorded_ones(name: str) -> None:
    w2c, pairs = TENSORS[f"{name}/w2c"], TENSORS[f"{name}/pairs"]
    result = memory.overlap(w2c[pairs[:, 0]], w2c[pairs[:, 1]], TENSORS["points"])
    np.testing.assert_allclose(result, TENSORS[f"{name}/overlap"], rtol=0, atol=CASE["tolerance"]["overlap"]["atol"])


@pytest.mark.parametrize("item", CASE["items"], ids=lambda item: item["name"])
def test_selections_at_chunk_starts_are_the_recorded_ones(item: dict) -> None:
    recorded = [selection for selection in item["selections"] if selection["chunk_start"]]
    assert recorded
    for selection in recorded:
        w2c = TENSORS[f"{item['name']}/w2c"][: selection["current"] + 4]
        chosen = memory.select(w2c, TENSORS["points"]).tolist()
        assert chosen == selection["selected"] or chosen[0] in selection["acceptable_clips"]
        expected = [distance for _, distance in selection["distances"]]
        np.testing.assert_allclose(distances(w2c, TENSORS["points"]), expected, rtol=0, atol=0.005)


def test_selections_of_the_recorded_rollout_with_its_50000_points() -> None:
    rollout = json.loads((GOLDEN / "rollout_image.json").read_text())
    tensors = load_file(GOLDEN / "rollout_image.safetensors")
    for chunk, expected in rollout["context_latents_per_chunk"].items():
        w2c = tensors["in/viewmats"][: 4 * int(chunk) + 4]
        assert memory.select(w2c, tensors["in/points"]).tolist() == expected
        assert memory.select(w2c).tolist() == expected
    for selection in rollout["memory_selection"]:
        w2c = tensors["in/viewmats"][: 4 * selection["chunk"] + 4]
        expected = [distance for _, distance in selection["distances"]]
        np.testing.assert_allclose(distances(w2c, tensors["in/points"]), expected, rtol=0, atol=1e-4)


# --- half-planes and cones against angles ---------------------------------------------------------------------------

angle = st.floats(-180, 180)
place = st.tuples(*[st.floats(-9, 9)] * 3)


@settings(max_examples=300, deadline=None)
@given(yaw=angle, pitch=angle, roll=angle, position=place, here=st.tuples(angle, angle), seed=st.integers(0, 3))
@example(yaw=180, pitch=0, roll=0, position=(0, 0, 6), here=(0, 0), seed=0)
@example(yaw=-175, pitch=5, roll=40, position=(0, 0, 6), here=(20, 30), seed=0)
@example(yaw=0, pitch=90, roll=0, position=(0, 3, 4), here=(0, 0), seed=0)
@example(yaw=10, pitch=-85, roll=0, position=(0, -3, 4), here=(0, 0), seed=0)
def test_overlap_is_what_angles_give(
    yaw: float,
    pitch: float,
    roll: float,
    position: tuple[float, float, float],
    here: tuple[float, float],
    seed: int,
) -> None:
    points = ball(4000, seed)
    current = facing(*here)
    turned = np.eye(4)
    turned[:2, :2] = rotation_x(np.radians(roll))[1:, 1:]
    history = turned @ facing(yaw, pitch, position)
    expected, doubt = overlap_by_angles(current, history, points)
    assert abs(float(memory.overlap(current, history, points)) - expected) <= doubt + 1e-12


@pytest.mark.parametrize("yaw", [-180, -170, -155, 155, 170, 180])
def test_a_camera_that_looks_back_sees_across_the_wrap(yaw: float) -> None:
    points = ball(20_000, 0)
    points = np.concatenate([points, points * (-1, 1, 1)])  # mirrored, so that left and right weigh the same
    result = memory.overlap(facing(), facing(yaw, 0, (0, 0, 7)), points)
    assert result > 0.1
    assert result == pytest.approx(overlap_by_angles(facing(), facing(yaw, 0, (0, 0, 7)), points)[0])
    assert result == pytest.approx(float(memory.overlap(facing(), facing(-yaw, 0, (0, 0, 7)), points)))


@pytest.mark.parametrize(
    ("pitch", "z", "seen"), [(80, 5.05, True), (80, 4.95, False), (89, 5.05, True), (60, 5.05, False)]
)
def test_a_steep_camera_sees_up_to_the_vertical_and_not_over_it(pitch: float, z: float, seen: bool) -> None:
    history = facing(0, pitch, (0, 3, 5))  # the point is one degree before or past the vertical above it
    assert memory.overlap(facing(), history, np.array([[0.0, 0.0, z]])) == seen


def test_the_limits_of_a_view_are_strict_and_it_reaches_less_than_8() -> None:
    for ahead, seen in ((0.01, True), (-0.01, False)):  # the point is 8 - 0.01 or 8 + 0.01 from the camera
        history = facing(0, 0, (0, 0, -4 + ahead))
        assert memory.overlap(facing(), history, np.array([[0.0, 0.0, 4.0]])) == seen
    assert memory.overlap(facing(), facing(0, 0, (0, 0, -4)), np.array([[0.0, 0.0, 4.0]])) == 0


def test_roll_changes_nothing() -> None:
    rolled = np.diag([-1.0, -1.0, 1.0, 1.0]) @ facing(20, 10, (1, 0, 0))
    assert memory.overlap(facing(), rolled) == memory.overlap(facing(), facing(20, 10, (1, 0, 0))) > 0


def test_overlap_is_not_symmetric_and_a_view_overlaps_with_itself_fully() -> None:
    below, above = facing(), facing(60, -60, (-1, -4, 4))
    assert memory.overlap(above, above) == 1
    assert memory.overlap(above, below) > memory.overlap(below, above) + 0.1


def test_overlap_broadcasts() -> None:
    w2c = random_path(12, 0)
    table = memory.overlap(w2c[:3, None], w2c[None])
    assert table.shape == (3, 12)
    assert all(table[i, j] == memory.overlap(w2c[i], w2c[j]) for i in range(3) for j in range(12))


# --- selection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("past", [0, 4, 8, 12])
def test_a_short_past_is_kept_whole(past: int) -> None:
    chosen = memory.select(random_path(past + 4, 0))
    assert chosen.dtype == np.int64
    assert chosen.tolist() == list(range(past))


@settings(max_examples=40, deadline=None)
@given(past=st.integers(4, 50), seed=st.integers(0, 2**32 - 1), hold=st.sampled_from([1, 4, 9]))
def test_selection_is_the_latest_12_and_the_nearest_whole_clip(past: int, seed: int, hold: int) -> None:
    w2c = random_path(4 * past + 4, seed, hold)
    chosen = memory.select(w2c)
    assert chosen.dtype == np.int64
    assert chosen.shape == (16,)
    assert (np.diff(chosen) > 0).all()
    assert chosen[4:].tolist() == list(range(4 * past - 12, 4 * past))
    assert chosen[0] % 4 == 0
    assert (chosen[:4] == chosen[0] + np.arange(4)).all()
    counted = np.round(distances(w2c) * 8 * memory.DEFAULT_COUNT)  # whole points, so that ties are ties
    assert chosen[0] // 4 == counted.argmin()


def histories(count: int) -> list[np.ndarray]:
    """View matrices of paths of up to 100 chunks: short pasts, still cameras and returns are among them."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(count):
        w2c = random_path(4 * int(rng.integers(1, 101)), seed, hold=(1, 4, 9, 400)[seed % 4], level=seed % 3 == 0)
        if seed % 5 == 0:
            w2c[len(w2c) // 2 :] = w2c[: len(w2c) - len(w2c) // 2]  # the same views again
        if seed % 7 == 0:
            w2c[-4:, 2, 3] += 20  # overlaps with nothing
        found.append(w2c)
    return found


def test_a_batch_chooses_for_each_what_counting_every_point_chooses() -> None:
    paths = histories(60)
    ties = 0
    for w2c, chosen in zip(paths, memory.select_each(paths), strict=True):
        if len(w2c) < 20:
            assert chosen.tolist() == list(range(len(w2c) - 4))
            continue
        counted = np.round(distances(w2c) * 8 * memory.DEFAULT_COUNT)  # whole points, so that ties are ties
        ties += (counted == counted.min()).sum() > 1
        clip = 4 * int(counted.argmin())
        assert chosen.tolist() == [*range(clip, clip + 4), *range(len(w2c) - 16, len(w2c) - 4)]
    assert ties > 10


@pytest.mark.parametrize("points", [None, ball(1000, 0)])
def test_a_batch_chooses_what_each_would_choose_alone(points: np.ndarray | None) -> None:
    paths = histories(24)
    chosen = memory.select_each(paths, points)
    assert [frames.tolist() for frames in chosen] == [memory.select(w2c, points).tolist() for w2c in paths]
    assert memory.select_each([], points) == []


def test_tensors_count_the_points_that_arrays_count() -> None:
    w2c = np.concatenate(histories(12))
    views = memory._relative_views(w2c[::40, None], w2c[None, ::20]).reshape(9, -1)
    for cells in memory._default_levels():
        as_tensors = memory._Cells(*map(torch.from_numpy, (cells.centres, cells.radii, cells.counts)))
        np.testing.assert_array_equal(memory._seen(torch.from_numpy(views), as_tensors), memory._seen(views, cells))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_chooses_what_a_cpu_chooses() -> None:
    paths = histories(200)
    on_gpu = memory.select_each(paths, device=torch.device("cuda"))
    assert [frames.tolist() for frames in on_gpu] == [frames.tolist() for frames in memory.select_each(paths)]


def test_bounds_are_never_below_the_count() -> None:
    rng = np.random.default_rng(0)
    turned = [facing(*rng.uniform(-180, 180, 2), tuple(rng.uniform(-10, 10, 3))) for _ in range(3000)]
    views = memory._relative_views(np.eye(4), np.stack(turned))
    *bounds, exact = [memory._seen(views, level) for level in memory._default_levels()]
    coarse, fine = bounds
    assert (fine >= exact).all()
    assert (coarse >= exact).all()
    assert (fine.mean() - exact.mean()) < (coarse.mean() - exact.mean()) / 2


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.array([[0.0, 0.0, -1.0]]), ball(40, 0), ball(50_000, 0)])
def test_any_number_of_points_will_do(points: np.ndarray) -> None:
    w2c = random_path(204, 5, level=True)
    assert memory.select(w2c, points)[0] // 4 == np.round(distances(w2c, points), 9).argmin()


def test_equal_clips_give_way_to_the_earliest() -> None:
    still = path([Motion()] * 63)
    assert memory.select(still)[:4].tolist() == [0, 1, 2, 3]
    lost = still.copy()
    lost[-4:, 2, 3] += 20  # nothing to come overlaps with anything seen
    assert distances(lost).min() == 1
    assert memory.select(lost)[:4].tolist() == [0, 1, 2, 3]
    late = still.copy()
    late[:20, 2, 3] += 20  # of the clips from 20 on, all equal
    assert memory.select(late)[:4].tolist() == [20, 21, 22, 23]


def test_the_clip_of_a_place_returned_to_is_found_among_many() -> None:
    w2c = random_path(804, 3, level=True)
    w2c[-4:] = w2c[[312, 313, 314, 315]]
    assert memory.select(w2c)[:4].tolist() == [312, 313, 314, 315]


def test_only_relative_motion_matters_even_far_away() -> None:
    w2c = random_path(164, 1, level=True)
    away = facing(130, 40, (300, -20, 80))
    assert memory.select(w2c @ away).tolist() == memory.select(w2c).tolist()
    np.testing.assert_allclose(distances(w2c @ away), distances(w2c), atol=1e-3)


def test_the_arguments_are_left_alone() -> None:
    w2c, points = random_path(84, 2), ball(1000, 0)
    before = w2c.copy(), points.copy()
    memory.select(w2c, points)
    assert (w2c == before[0]).all()
    assert (points == before[1]).all()


@pytest.mark.parametrize("level", [False, True])
def test_a_thousand_chunks_cost_few_tests(level: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    w2c = random_path(4004, 4, level=level)
    tests, inside = 0, memory._inside

    def counted(views: np.ndarray, cells: memory._Cells) -> np.ndarray:
        nonlocal tests
        tests += views.shape[1] * len(cells.radii)
        return inside(views, cells)

    monkeypatch.setattr(memory, "_inside", counted)
    memory.select(w2c)
    assert tests < 997 * 8 * memory.DEFAULT_COUNT / 5


@pytest.mark.slow
def test_the_default_points_choose_what_50000_points_choose() -> None:
    misses = starts = 0
    for seed in range(24):
        w2c = random_path(164, seed, hold=(1, 4, 8)[seed % 3], level=seed % 2 == 0)
        points = ball(50_000, seed)
        for past in range(20, 161, 8):
            by_many = distances(w2c[: past + 4], points)
            misses += by_many[memory.select(w2c[: past + 4])[0] // 4] > by_many.min() + 0.01
            starts += 1
    assert misses <= 0.01 * starts, f"{misses} of {starts}"


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("w2c", "points", "message"),
    [
        (np.tile(np.eye(4), (22, 1, 1)), None, r"multiple of 4.*got shape \(22, 4, 4\)"),
        (np.zeros((0, 4, 4)), None, r"got shape \(0, 4, 4\)"),
        (np.eye(4), None, r"got shape \(4, 4\)"),
        (np.zeros((20, 3, 4)), None, r"w2c must have shape \[\.\.\., 4, 4\], got \(20, 3, 4\)"),
        (np.full((20, 4, 4), np.nan), None, "w2c holds nan"),
        (np.tile(np.eye(4), (20, 1, 1)), np.zeros((5, 2)), r"points must have shape .*got \(5, 2\)"),
        (np.tile(np.eye(4), (20, 1, 1)), np.zeros(3), r"points must have shape \[P, 3\], got \(3,\)"),
        (np.tile(np.eye(4), (20, 1, 1)), np.full((5, 3), np.inf), "points holds inf"),
    ],
)
def test_bad_arguments_are_named(w2c: np.ndarray, points: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory.select(w2c, points)
