"""Motions, poses, view matrices, re-basing and intrinsics."""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from worldplay_env.control import camera
from worldplay_env.control.camera import (
    DEFAULT_INTRINSICS,
    Motion,
    check_poses,
    integrate,
    move,
    normalise_intrinsics,
    normalised_intrinsics_error,
    rebase,
    rotation_x,
    rotation_y,
    view_matrices,
)

angles = st.floats(-math.pi, math.pi)
lengths = st.floats(-5, 5)
motions = st.builds(Motion, forward=lengths, right=lengths, yaw=angles, pitch=angles)


@st.composite
def poses(draw: st.DrawFn, reach: float = 400.0) -> np.ndarray:
    """Any rigid pose [4, 4], at most `reach` units away along each axis."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", [draw(angles) for _ in range(3)]).as_matrix()
    pose[:3, 3] = [draw(st.floats(-reach, reach)) for _ in range(3)]
    return pose


@given(angles)
def test_rotations_are_those_of_scipy(angle: float) -> None:
    np.testing.assert_allclose(rotation_x(angle), Rotation.from_euler("x", angle).as_matrix(), atol=1e-15)
    np.testing.assert_allclose(rotation_y(angle), Rotation.from_euler("y", angle).as_matrix(), atol=1e-15)


@pytest.mark.parametrize(
    ("motion", "forward_axis", "position"),
    [
        (Motion(forward=2), [0, 0, 1], [0, 0, 2]),
        (Motion(right=2), [0, 0, 1], [2, 0, 0]),
        (Motion(yaw=math.pi / 2), [1, 0, 0], [0, 0, 0]),
        (Motion(pitch=math.pi / 2), [0, -1, 0], [0, 0, 0]),
        (Motion(yaw=math.pi / 2, forward=2, right=3), [1, 0, 0], [2, 0, -3]),
        (Motion(pitch=math.pi / 2, forward=2, right=3), [0, -1, 0], [3, -2, 0]),
        (Motion(yaw=math.pi / 2, pitch=math.pi / 2, forward=2), [0, -1, 0], [0, -2, 0]),
    ],
    ids=["forward", "right", "yaw right", "pitch up", "yaw then move", "pitch then move", "yaw then pitch"],
)
def test_a_motion_turns_right_and_up_then_moves_along_the_turned_axes(
    motion: Motion, forward_axis: list[float], position: list[float]
) -> None:
    pose = move(np.eye(4), motion)
    np.testing.assert_allclose(pose[:3, 2], forward_axis, atol=1e-15)
    np.testing.assert_allclose(pose[:3, 3], position, atol=1e-15)


@given(poses(), motions)
def test_a_motion_follows_the_formula_of_the_specification(start: np.ndarray, motion: Motion) -> None:
    turn = Rotation.from_euler("YX", [motion.yaw, motion.pitch]).as_matrix()  # intrinsic: yaw, then pitch
    rotation = start[:3, :3] @ turn
    position = start[:3, 3] + motion.forward * rotation[:, 2] + motion.right * rotation[:, 0]
    pose = move(start, motion)
    np.testing.assert_allclose(pose[:3, :3], rotation, atol=1e-13)
    np.testing.assert_allclose(pose[:3, 3], position, atol=1e-12)
    assert pose[3].tolist() == [0, 0, 0, 1]


@given(poses(), motions)
def test_an_undone_motion_leads_back(start: np.ndarray, motion: Motion) -> None:
    """A motion turns first and moves last, so that its parts are undone one by one, last part first."""
    undo = [
        Motion(forward=-motion.forward, right=-motion.right),
        Motion(pitch=-motion.pitch),
        Motion(yaw=-motion.yaw),
    ]
    path = integrate(start, [motion, *undo])
    assert path.shape == (5, 4, 4)
    np.testing.assert_allclose(path[-1], start, atol=1e-11)


@given(poses(), st.lists(motions, max_size=6))
def test_integration_starts_at_the_start_and_stays_rigid(start: np.ndarray, path: list[Motion]) -> None:
    integrated = integrate(start, path)
    assert integrated.shape == (len(path) + 1, 4, 4)
    assert integrated.dtype == np.float64
    np.testing.assert_array_equal(integrated[0], start)
    check_poses(integrated)


def test_a_long_integration_does_not_drift_from_rigid() -> None:
    path = integrate(np.eye(4), [Motion(forward=0.08, right=-0.08, yaw=0.05, pitch=0.05)] * 5000)
    rotation = path[-1, :3, :3]
    assert np.abs(rotation.T @ rotation - np.eye(3)).max() < 1e-11


@given(st.lists(poses(), min_size=1, max_size=4))
def test_view_matrices_are_the_transposed_rotation_and_the_turned_back_position(
    path: list[np.ndarray],
) -> None:
    c2w = np.stack(path)
    w2c = view_matrices(c2w)
    transposed = c2w[:, :3, :3].swapaxes(1, 2)
    np.testing.assert_allclose(w2c[:, :3, :3], transposed, atol=1e-14)
    np.testing.assert_allclose(w2c[:, :3, 3], -np.einsum("nij,nj->ni", transposed, c2w[:, :3, 3]), atol=1e-11)
    assert (w2c[:, 3] == [0, 0, 0, 1]).all()


def test_view_matrices_invert_poses_written_with_few_decimals() -> None:
    c2w = np.round(integrate(np.eye(4), [Motion(forward=1, yaw=0.3, pitch=0.2)] * 5), 4)
    np.testing.assert_allclose(view_matrices(c2w) @ c2w, np.broadcast_to(np.eye(4), c2w.shape), atol=1e-14)


@given(st.lists(poses(), min_size=2, max_size=4), poses())
def test_rebasing_keeps_the_relative_cameras(path: list[np.ndarray], reference: np.ndarray) -> None:
    c2w = np.stack(path)
    rebased = rebase(c2w, reference)

    def relative(c2w: np.ndarray) -> np.ndarray:
        return np.linalg.inv(c2w)[:, None] @ c2w[None]  # P_i P_j^-1 with P = w2c: [N, N, 4, 4]

    np.testing.assert_allclose(relative(rebased), relative(c2w), atol=1e-10)
    np.testing.assert_allclose(reference @ rebased, c2w, atol=1e-11)


@given(poses(reach=1e6))
def test_rebasing_on_itself_gives_the_identity(pose: np.ndarray) -> None:
    np.testing.assert_allclose(rebase(pose[None], pose)[0], np.eye(4), atol=1e-14)


def test_rebasing_takes_one_reference_a_batch_row() -> None:
    c2w = integrate(np.eye(4), [Motion(forward=1, yaw=0.3)] * 5).reshape(2, 3, 4, 4)
    batched = rebase(c2w, c2w[:, 0])
    assert batched.shape == c2w.shape
    for row in range(2):
        np.testing.assert_array_equal(batched[row], rebase(c2w[row], c2w[row, 0]))


def changed(row: int, column: int, value: float) -> np.ndarray:
    """The identity with one entry changed."""
    pose = np.eye(4)
    pose[row, column] = value
    return pose


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (changed(0, 0, math.nan), "finite"),
        (changed(1, 3, math.inf), "finite"),
        (changed(0, 0, 1.01), "rotation"),
        (changed(0, 0, 1e200), "rotation"),
        (changed(0, 1, 0.1), "rotation"),
        (changed(2, 2, 0.0), "rotation"),
        (changed(2, 2, -1.0), "reflection"),
        (changed(3, 0, 1.0), "0 0 0 1"),
        (changed(3, 3, 2.0), "0 0 0 1"),
    ],
    ids=["nan", "inf", "scaled", "huge", "sheared", "flat", "mirrored", "projective", "homogeneous scale"],
)
def test_a_pose_that_is_not_rigid_is_named(bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^pose 1 .*{message}"):
        check_poses(np.stack([np.eye(4), bad, bad]))
    with pytest.raises(ValueError, match=rf"^the second .*{message}"):
        check_poses(np.stack([np.eye(4), bad]), ["the first", "the second"])


@pytest.mark.parametrize("bad", [np.eye(4), np.zeros((2, 3, 4)), np.full((1, 4, 4), "x"), np.eye(4)[None] + 0j])
def test_poses_of_the_wrong_shape_or_type_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\[N, 4, 4\]"):
        check_poses(bad)


@given(st.lists(poses(), max_size=4))
def test_rigid_poses_pass_rounded_to_float32_or_four_decimals(path: list[np.ndarray]) -> None:
    c2w = np.stack([np.eye(4), *path])
    check_poses(c2w)
    check_poses(c2w.astype(np.float32))
    check_poses(np.round(c2w, 4))


def test_the_default_intrinsics_are_a_focal_length_of_970_pixels_in_full_hd() -> None:
    focal = 969.6969696969696
    np.testing.assert_allclose(
        DEFAULT_INTRINSICS, [[focal / 1920, 0, 0.5], [0, focal / 1080, 0.5], [0, 0, 1]], atol=1e-15
    )
    assert not DEFAULT_INTRINSICS.flags.writeable


@given(
    st.lists(st.tuples(*[st.floats(1e-3, 1e5)] * 4), min_size=1, max_size=3),
    st.floats(0.1, 10),
)
def test_normalised_intrinsics_do_not_depend_on_the_resolution(
    cameras: list[tuple[float, ...]], scale: float
) -> None:
    K = np.array([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] for fx, fy, cx, cy in cameras])
    scaled = K * np.array([scale, scale, 1])[:, None]
    normalised = normalise_intrinsics(K)
    np.testing.assert_allclose(normalise_intrinsics(scaled), normalised, rtol=1e-12)
    np.testing.assert_allclose(normalise_intrinsics(normalised), normalised, rtol=1e-12)
    assert normalised_intrinsics_error(normalised, len(cameras)) is None


@pytest.mark.parametrize(
    "K",
    [
        [[0, 0, 960], [0, 900, 540], [0, 0, 1]],
        [[900, 0, 960], [0, -900, 540], [0, 0, 1]],
        [[900, 0, 0], [0, 900, 0], [960, 540, 1]],
        [[math.nan, 0, 960], [0, 900, 540], [0, 0, 1]],
        [[900, 0, 960, 0], [0, 900, 540, 0], [0, 0, 1, 0]],
    ],
    ids=["no focal length", "negative", "transposed", "nan", "3x4"],
)
def test_pixel_intrinsics_that_are_no_camera_are_refused(K: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"^K "):
        normalise_intrinsics(np.array(K))


@pytest.mark.parametrize(
    ("K", "message"),
    [
        (np.tile([[900.0, 0, 960], [0, 900, 540], [0, 0, 1]], (2, 1, 1)), "normalised"),
        (np.tile([[-1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], (2, 1, 1)), "positive"),
        (np.full((2, 3, 3), math.nan), "NaN"),
        (DEFAULT_INTRINSICS, r"shape \[2, 3, 3\]"),
        (np.tile(DEFAULT_INTRINSICS, (3, 1, 1)), r"shape \[2, 3, 3\]"),
    ],
    ids=["pixels", "negative", "nan", "one", "three"],
)
def test_intrinsics_that_are_not_normalised_are_explained(K: np.ndarray, message: str) -> None:
    error = normalised_intrinsics_error(K, 2)
    assert error is not None
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)


def test_control_imports_numpy_and_nothing_else() -> None:
    files = list(Path(camera.__file__).parent.glob("*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    imported = {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    others = {name for name in imported if name.split(".")[0] not in {*sys.stdlib_module_names, "numpy"}}
    assert others == {"worldplay_env.control.actions", "worldplay_env.control.camera", "worldplay_env.summary"}
