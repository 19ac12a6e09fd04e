"""The 81 actions: label <-> translation x rotation <-> keys, label -> motion, poses -> labels (spec section 3).

A label is `translation * 9 + rotation`. Both halves use the same nine classes of two signs: forward and right for the
translation, yaw (right) and pitch (up) for the rotation.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

import numpy as np

from worldplay_env.control.camera import Motion, MotionScale, rebase

DEFAULT_SCALE = MotionScale()
"""The scale of the paths that pose strings name."""
NUM_CLASSES = 9
NUM_ACTIONS = NUM_CLASSES**2

SIGNS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""The signs of each class: (forward, right) of a translation, (yaw, pitch) of a rotation."""

TRANSLATIONS = (
    "none",
    "forward",
    "back",
    "right",
    "left",
    "forward + right",
    "forward + left",
    "back + right",
    "back + left",
)
ROTATIONS = (
    "none",
    "yaw right",
    "yaw left",
    "pitch up",
    "pitch down",
    "yaw right + pitch up",
    "yaw right + pitch down",
    "yaw left + pitch up",
    "yaw left + pitch down",
)
ACTION_TABLE = {"translation": TRANSLATIONS, "rotation": ROTATIONS}
"""The names of the nine translations and the nine rotations, by class."""

KEYS = ("w", "s", "a", "d", "up", "down", "left", "right")
"""The keys of a player and the names of a pose string, translations first."""

MOVED = 1e-4
"""World units: a shorter step is no translation."""
FACING = 60.0
"""Degrees: a step this close to an axis counts as along it."""
TURNED = 0.05
"""Degrees: a smaller turn is no rotation."""

# The sign that each key adds, in the order (forward, right, yaw, pitch).
_SIGNS_OF_KEY = {
    "w": (1, 0, 0, 0),
    "s": (-1, 0, 0, 0),
    "a": (0, -1, 0, 0),
    "d": (0, 1, 0, 0),
    "up": (0, 0, 0, 1),
    "down": (0, 0, 0, -1),
    "left": (0, 0, -1, 0),
    "right": (0, 0, 1, 0),
}
# Indexed by both signs plus one.
_CLASS_OF_SIGNS = np.array([[SIGNS.index((first, second)) for second in (-1, 0, 1)] for first in (-1, 0, 1)])
_OPPOSITE_CLASS = np.array([SIGNS.index((-first, -second)) for first, second in SIGNS])


def action_label(translation: int, rotation: int) -> int:
    """Return the label 0..80 of a translation class 0..8 and a rotation class 0..8.

    Raises:
        ValueError: A class out of range.
    """
    for kind, value in (("translation", translation), ("rotation", rotation)):
        if not 0 <= operator.index(value) < NUM_CLASSES:
            raise ValueError(f"a {kind} class is 0..{NUM_CLASSES - 1}, got {value}")
    return operator.index(translation) * NUM_CLASSES + operator.index(rotation)


def are_labels(numbers: np.ndarray) -> bool:
    """Return whether whole numbers of any shape are all action labels 0..80."""
    return bool(((numbers >= 0) & (numbers < NUM_ACTIONS)).all())


def split_label(label: int) -> tuple[int, int]:
    """Return the translation class 0..8 and the rotation class 0..8 of a label 0..80.

    Raises:
        ValueError: A label out of range.
    """
    if not are_labels(np.array(operator.index(label))):
        raise ValueError(f"an action label is 0..{NUM_ACTIONS - 1}, got {label}")
    return divmod(operator.index(label), NUM_CLASSES)


def opposite_labels(labels: np.ndarray) -> np.ndarray:
    """Return the opposite of each label, int64 [...]: it undoes an action that either moves or turns."""
    translation, rotation = np.divmod(labels, NUM_CLASSES)
    return _OPPOSITE_CLASS[translation] * NUM_CLASSES + _OPPOSITE_CLASS[rotation]


def action_name(label: int) -> str:
    """Return a label's action in words: "forward + yaw right", "stand still"."""
    translation, rotation = split_label(label)
    parts = [TRANSLATIONS[translation]] * (translation > 0) + [ROTATIONS[rotation]] * (rotation > 0)
    return " + ".join(parts) or "stand still"


def motion_of(label: int, scale: MotionScale = DEFAULT_SCALE) -> Motion:
    """Return one latent frame's motion of a label: every component at full speed, diagonals too."""
    forward, right, yaw, pitch = _signs_of(label)
    turn = math.radians(scale.degrees)
    return Motion(forward=forward * scale.units, right=right * scale.units, yaw=yaw * turn, pitch=pitch * turn)


def label_of_keys(keys: Iterable[str]) -> int:
    """Return the label of the keys held down together; opposite keys cancel.

    Raises:
        ValueError: A key that is not one of `KEYS`.
    """
    held = set(keys)
    if unknown := held.difference(KEYS):
        raise ValueError(f"unknown key {min(map(repr, unknown))}: known are {', '.join(KEYS)}")
    forward, right, yaw, pitch = (sum(_SIGNS_OF_KEY[key][part] for key in held) for part in range(4))
    return action_label(int(_CLASS_OF_SIGNS[forward + 1, right + 1]), int(_CLASS_OF_SIGNS[yaw + 1, pitch + 1]))


def keys_of(label: int) -> tuple[str, ...]:
    """Return the fewest keys that give a label, in the order of `KEYS`."""
    wanted = _signs_of(label)
    return tuple(key for key in KEYS if sum(map(operator.mul, _SIGNS_OF_KEY[key], wanted)) > 0)


def labels_of(c2w: np.ndarray) -> np.ndarray:
    """Return the label of each pose of a trajectory: its motion from the pose before, 0 for the first.

    Labels come from the motion in the axes of the pose before; roll and vertical motion set none.

    Args:
        c2w: Rigid poses [N, 4, 4].

    Returns:
        Int64 [N], 0..80.
    """
    c2w = np.asarray(c2w, dtype=np.float64)
    relative = rebase(c2w[1:, None], c2w[:-1])[:, 0]  # [N - 1, 4, 4]
    step = relative[:, :3, 3]  # [N - 1, 3]
    length = np.linalg.norm(step, axis=1)
    moved = length > MOVED
    cosine = np.clip(step / np.where(moved, length, 1.0)[:, None], -1.0, 1.0)
    to_right, _, to_forward = np.degrees(np.arccos(cosine)).T  # angles to the x, y, z axes
    about_x, about_y = _turns(relative[:, :3, :3])

    translation = _classes(moved * _along(to_forward), moved * _along(to_right))
    rotation = _classes(_sign(about_y), _sign(about_x))
    labels = np.zeros(len(c2w), dtype=np.int64)
    labels[1:] = translation * NUM_CLASSES + rotation
    return labels


def _signs_of(label: int) -> tuple[int, int, int, int]:
    """Return the signs of forward, right, yaw and pitch of a label."""
    translation, rotation = split_label(label)
    return (*SIGNS[translation], *SIGNS[rotation])


def _turns(R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the extrinsic xyz Euler angles about x and y, in degrees, of rotations R = Rz Ry Rx [N, 3, 3]."""
    cos_y = np.hypot(R[:, 2, 1], R[:, 2, 2])
    about_y = np.arctan2(-R[:, 2, 0], cos_y)
    # At a quarter turn about y, x and z turn about the same axis; all of it is then counted as about x.
    locked = cos_y < 1e-7
    about_x = np.where(locked, np.arctan2(-R[:, 1, 2], R[:, 1, 1]), np.arctan2(R[:, 2, 1], R[:, 2, 2]))
    return np.degrees(about_x), np.degrees(about_y)


def _along(angle: np.ndarray) -> np.ndarray:
    """Return 1 for an angle to an axis that is along it, -1 if it is against it, else 0."""
    return (angle < FACING).astype(np.int64) - (angle > 180 - FACING)


def _sign(degrees: np.ndarray) -> np.ndarray:
    """Return 1 for a turn, -1 for a turn the other way, 0 for one too small to count."""
    return (degrees > TURNED).astype(np.int64) - (degrees < -TURNED)


def _classes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the classes 0..8 of pairs of signs."""
    return _CLASS_OF_SIGNS[first + 1, second + 1]
