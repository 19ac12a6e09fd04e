"""Cameras: motions and the poses they lead to, view matrices, re-basing, intrinsics (spec section 2).

Axes are right-handed with x right, y down, z forward (OpenCV). A pose is a camera-to-world matrix, `c2w`, float64
[4, 4]; the model takes its inverse, the view matrix or `w2c`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

ORTHONORMAL_TOLERANCE = 1e-3
"""How far R^T R may be from the identity: room for poses written with four decimals, none for a scaled rotation."""


def _default_intrinsics() -> np.ndarray:
    focal = 32000 / 33  # pixels, for an image of 1920x1080
    K = np.array([[focal / 1920, 0, 0.5], [0, focal / 1080, 0.5], [0, 0, 1]])
    K.setflags(write=False)
    return K


DEFAULT_INTRINSICS = _default_intrinsics()
"""Float64 [3, 3], normalised (focal lengths over the image's sides, centre at 0.5); read-only."""


@dataclass(frozen=True)
class MotionScale:
    """The length of an action's motion, for one latent frame; by default that of HY-WorldPlay (spec section 3).

    Attributes:
        units: World units along each axis that moves.
        degrees: Degrees about each axis that turns.
    """

    units: float = 0.08
    degrees: float = 3.0


@dataclass(frozen=True)
class Motion:
    """What a camera does in one latent frame, in its own axes: yaw, then pitch, then the translation.

    Attributes:
        forward: World units along the turned z axis.
        right: World units along the turned x axis.
        yaw: Radians about y; positive turns right.
        pitch: Radians about x; positive turns up.
    """

    forward: float = 0.0
    right: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0

    def matrix(self) -> np.ndarray:
        """Return the pose after the motion seen from the pose before it: float64 [4, 4]."""
        rotation = rotation_y(self.yaw) @ rotation_x(self.pitch)
        return _pose(rotation, rotation @ np.array([self.right, 0.0, self.forward]))


def rotation_x(angle: float) -> np.ndarray:
    """Return the rotation by `angle` radians about x, float64 [3, 3]; positive lifts the z axis (y is down)."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])


def rotation_y(angle: float) -> np.ndarray:
    """Return the rotation by `angle` radians about y, float64 [3, 3]; positive turns the z axis to the right."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


def move(c2w: np.ndarray, motion: Motion) -> np.ndarray:
    """Return the pose, float64 [4, 4], that one motion leads to from the pose `c2w` [4, 4]."""
    return c2w @ motion.matrix()


def integrate(start: np.ndarray, motions: Iterable[Motion]) -> np.ndarray:
    """Return the start pose and the one after each of the N motions: float64 [N + 1, 4, 4]."""
    poses = [np.asarray(start, dtype=np.float64)]
    for motion in motions:
        poses.append(move(poses[-1], motion))
    return np.stack(poses)


def rebase(c2w: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return poses as seen from a reference pose, reference^-1 @ c2w, in float64.

    Attention sees only P_i P_j^-1, which this leaves as it is; small numbers keep it exact in low precision.

    Args:
        c2w: Poses [..., N, 4, 4].
        reference: The pose [..., 4, 4] that becomes the identity.
    """
    c2w = np.asarray(c2w, dtype=np.float64)
    reference = np.asarray(reference, dtype=np.float64)[..., None, :, :]  # [..., 1, 4, 4]
    inverse = np.linalg.inv(reference[..., :3, :3])
    # Subtract positions before turning them: the difference is exact where the two large terms would round.
    offset = c2w[..., :3, 3:] - reference[..., :3, 3:]
    return _pose(inverse @ c2w[..., :3, :3], (inverse @ offset)[..., 0])


def view_matrices(c2w: np.ndarray) -> np.ndarray:
    """Return the world-to-camera matrices of poses [..., 4, 4], float64 of the same shape, last row exactly 0 0 0 1.

    The rotation is inverted, not transposed: the same thing for a true rotation, and still the pose's inverse for one
    that was read from a file with few decimals.
    """
    return rebase(np.eye(4)[None], c2w)[..., 0, :, :]


def check_poses(c2w: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Check that every pose of [N, 4, 4] is a rigid camera-to-world matrix.

    Args:
        c2w: The poses.
        names: What messages call each of the N poses; by default "pose 0", "pose 1", ...

    Raises:
        ValueError: Wrong shape or type, NaN or infinity, a last row other than 0 0 0 1, or a 3x3 block that is no
            rotation (R^T R = 1, determinant 1); the message names the first such pose.
    """
    poses = np.asarray(c2w)
    if poses.dtype.kind not in "fiu" or poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise ValueError(f"poses must be numbers of shape [N, 4, 4], got {poses.dtype} {list(poses.shape)}")
    poses = poses.astype(np.float64)

    def require(holds: np.ndarray, complaint: str) -> None:
        if not holds.all():
            index = int(np.argmin(holds))
            name = f"pose {index}" if names is None else names[index]
            raise ValueError(f"{name} {complaint}, got {poses[index].tolist()}")

    require(np.isfinite(poses).all(axis=(1, 2)), "must hold finite numbers")
    require((poses[:, 3] == [0, 0, 0, 1]).all(axis=1), "must end in the row 0 0 0 1")
    rotation = poses[:, :3, :3]
    # Entries of a rotation are at most 1: clipping leaves those as they are, and keeps the products from overflowing.
    rotation = rotation.clip(-2, 2)
    gram_error = np.abs(rotation.swapaxes(1, 2) @ rotation - np.eye(3)).max(axis=(1, 2), initial=0)
    require(gram_error <= ORTHONORMAL_TOLERANCE, "must have a rotation as its 3x3 block (R^T R = 1)")
    require(np.linalg.det(rotation) > 0, "must have a rotation as its 3x3 block, not a reflection (determinant 1)")


def normalise_intrinsics(K: np.ndarray) -> np.ndarray:
    """Return pixel intrinsics [..., 3, 3] normalised by their own principal point, float64 of the same shape.

    The image is taken to be 2 cx wide and 2 cy high; only fx / (2 cx) and fy / (2 cy) survive.

    Raises:
        ValueError: Not [..., 3, 3] numbers, or a focal length or principal point that is not finite and positive.
    """
    K = np.asarray(K)
    if K.dtype.kind not in "fiu" or K.shape[-2:] != (3, 3):
        raise ValueError(f"K must be numbers of shape [..., 3, 3], got {K.dtype} {list(K.shape)}")
    K = K.astype(np.float64)
    if not np.isfinite(K).all():
        raise ValueError(f"K holds NaN or infinity: {K.tolist()}")
    fx, fy, cx, cy = K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2]
    if min(part.min(initial=np.inf) for part in (fx, fy, cx, cy)) <= 0:
        raise ValueError(
            f"K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels with all four positive, got {K.tolist()}"
        )
    normalised = np.zeros_like(K)
    normalised[..., 0, 0] = fx / (2 * cx)
    normalised[..., 1, 1] = fy / (2 * cy)
    normalised[..., :2, 2] = 0.5
    normalised[..., 2, 2] = 1.0
    return normalised


def normalised_intrinsics_error(K: np.ndarray, count: int) -> str | None:
    """Say what keeps `K` from being `count` normalised intrinsics [count, 3, 3]; None if nothing does."""
    K = np.asarray(K)
    if K.dtype.kind not in "fiu" or K.shape != (count, 3, 3):
        return f"intrinsics must be numbers of shape [{count}, 3, 3], got {K.dtype} {list(K.shape)}"
    if not np.isfinite(K).all():
        return f"intrinsics hold NaN or infinity: {K.tolist()}"
    focal = K[:, [0, 1], [0, 1]]
    centred = K.astype(np.float64)
    centred[:, [0, 1], [0, 1]] = 0
    if (focal <= 0).any() or np.abs(centred - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 1]]).max(initial=0) > 1e-6:
        return (
            "intrinsics must be normalised, [[fx / width, 0, 0.5], [0, fy / height, 0.5], [0, 0, 1]] with positive "
            f"focal lengths (normalise_intrinsics makes them from pixels), got {K.tolist()}"
        )
    return None


def _pose(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the matrices [..., 4, 4] of rotations [..., 3, 3] and positions [..., 3]."""
    pose = np.zeros((*rotation.shape[:-2], 4, 4))
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = position
    pose[..., 3, 3] = 1.0
    return pose
