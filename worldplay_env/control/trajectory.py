"""Trajectories: cameras written down as a pose string or a JSON file (spec section 3)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldplay_env.control.actions import KEYS, label_of_keys, labels_of, motion_of
from worldplay_env.control.camera import (
    DEFAULT_INTRINSICS,
    Motion,
    check_poses,
    integrate,
    normalise_intrinsics,
    normalised_intrinsics_error,
)
from worldplay_env.summary import one_line

MAX_POSES = 100_000
"""The longest trajectory that is read: 7 hours of video at 16 images a second."""

_COUNT = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A camera path: one pose, action label and camera a latent frame.

    Attributes:
        poses: float64 [N, 4, 4] camera-to-world matrices, N >= 1.
        labels: int64 [N] action labels 0..80; 0 for the first.
        intrinsics: float64 [N, 3, 3] normalised intrinsics.
    """

    poses: np.ndarray
    labels: np.ndarray
    intrinsics: np.ndarray

    __repr__ = one_line

    def __len__(self) -> int:
        return len(self.poses)


def trajectory_of_poses(poses: np.ndarray, intrinsics: np.ndarray | None = None) -> Trajectory:
    """Return the trajectory through given poses, with the labels that its motions have.

    Args:
        poses: Rigid camera-to-world matrices [N, 4, 4], N >= 1; kept as they are, the first too.
        intrinsics: Normalised intrinsics [N, 3, 3]; by default `DEFAULT_INTRINSICS` throughout.

    Raises:
        ValueError: No pose, a pose that is not rigid, or intrinsics that are not normalised.
    """
    check_poses(poses)
    poses = np.array(poses, dtype=np.float64)
    if len(poses) == 0:
        raise ValueError("a trajectory has one pose or more, got none")
    if intrinsics is None:
        intrinsics = np.tile(DEFAULT_INTRINSICS, (len(poses), 1, 1))
    if error := normalised_intrinsics_error(intrinsics, len(poses)):
        raise ValueError(error)
    return Trajectory(poses, labels_of(poses), np.array(intrinsics, dtype=np.float64))


def trajectory_of_motions(motions: Iterable[Motion]) -> Trajectory:
    """Return the trajectory of N + 1 poses that starts at the identity and makes N motions."""
    return trajectory_of_poses(integrate(np.eye(4), motions))


def parse_pose_string(text: str) -> Trajectory:
    """Return the trajectory of a pose string such as `"w-3, right-2, d-4"`: n motions give n + 1 poses.

    Items are separated by commas and blanks around them do not matter. Each is `name-count`: a name of `KEYS`, and a
    decimal number of latent frames, whose fraction is dropped (`right-0.5` is no move). Empty items are skipped, and
    the empty string is one pose.

    Raises:
        ValueError: Anything else, or more than `MAX_POSES` poses; the message names the item.
    """
    if not isinstance(text, str):
        raise TypeError(f"a pose string must be a string, got {type(text).__name__}: {_shorten(text)}")
    motions: list[Motion] = []
    for position, item in enumerate(text.split(","), start=1):
        item = item.strip()
        if not item:
            continue
        what = f"item {position} of the pose string, {_shorten(item)},"
        name, count = _parse_item(item, what)
        if len(motions) + count >= MAX_POSES:
            raise ValueError(f"{what} makes it longer than {MAX_POSES:,} poses; shorten it")
        motions += [motion_of(label_of_keys([name]))] * int(count)
    return trajectory_of_motions(motions)


def _parse_item(item: str, what: str) -> tuple[str, float]:
    """Return the name and the count (not truncated yet, maybe infinite) of one item of a pose string."""
    name, dash, count = item.partition("-")
    if not dash or "-" in count:
        raise ValueError(f"{what} must be a name, one '-' and a count, such as w-3")
    if name not in KEYS:
        raise ValueError(f"{what} has the unknown name {_shorten(name)}: known are {', '.join(KEYS)} (case matters)")
    if not _COUNT.fullmatch(count):
        raise ValueError(
            f"{what} has the count {_shorten(count)}; it must be a plain number of latent frames, such as 3"
        )
    return name, float(count)


def read_trajectory(path: str | Path) -> Trajectory:
    """Return the trajectory of a JSON file, `{"0": {"extrinsic": 4x4 c2w, "K": 3x3 in pixels}, "1": ...}`.

    Entries count in the order of the file, whatever their keys; the first pose is kept. Each K is normalised by its
    own principal point.

    Raises:
        ValueError: Not such a file, a matrix that is no pose or no camera, NaN, two entries with one key, or more
            than `MAX_POSES`; the message names the file, the entry and what is wrong with it.
        OSError: The file cannot be read.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError("no regular file")  # to open a pipe would wait for ever
        entries = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON trajectory: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(
            f'{path} must hold an object of entries, {{"0": {{"extrinsic": 4x4, "K": 3x3}}, ...}}, '
            f"got {_shorten(entries)}"
        )
    if len(entries) > MAX_POSES:
        raise ValueError(f"{path} has {len(entries):,} entries, more than {MAX_POSES:,}; split it")
    names = [f"{path}, entry {key!r}:" for key in entries]
    poses, intrinsics = [], []
    for name, entry in zip(names, entries.values(), strict=True):
        try:
            poses.append(_matrix(entry, "extrinsic", 4))
            intrinsics.append(normalise_intrinsics(_matrix(entry, "K", 3)))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    check_poses(np.stack(poses), [f'{name} "extrinsic"' for name in names])
    return trajectory_of_poses(np.stack(poses), np.stack(intrinsics))


def load_trajectory(text_or_path: str | Path) -> Trajectory:
    """Return the trajectory that a pose string describes, or that a .json file holds.

    A `Path`, and text that ends in ".json", is a file; any other text is a pose string.

    Raises:
        ValueError: Neither is well-formed.
        OSError: The file cannot be read.
    """
    if isinstance(text_or_path, Path) or text_or_path.strip().lower().endswith(".json"):
        return read_trajectory(text_or_path)
    return parse_pose_string(text_or_path)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that comes twice (json would keep the last and drop a pose)."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} comes twice in one object")
        result[key] = value
    return result


def _matrix(entry: Any, name: str, size: int) -> np.ndarray:
    """Return a square matrix of an entry as float64 [size, size]; ValueError if it is not there or is none."""
    if not isinstance(entry, dict) or name not in entry:
        raise ValueError(f'there is no "{name}"; an entry is {{"extrinsic": 4x4, "K": 3x3}}, got {_shorten(entry)}')
    rows = entry[name]
    if not (isinstance(rows, list) and len(rows) == size and all(_is_row(row, size) for row in rows)):
        raise ValueError(f'"{name}" must be {size} rows of {size} finite numbers, got {_shorten(rows)}')
    return np.array(rows, dtype=np.float64)


def _is_row(row: Any, size: int) -> bool:
    """Say whether a JSON value is a row of finite numbers; numpy would also take true, null and "1"."""
    return (
        isinstance(row, list)
        and len(row) == size
        and all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in row)
    )


def _shorten(value: Any) -> str:
    """Return a value as text of at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
