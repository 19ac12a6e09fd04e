"""Recorded cameras and memory: the kinds `poses` and `fov_memory`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from golden_cases.case import Case
from golden_cases.comparison import Row, compare, holds, skipped
from worldplay_env.control.camera import Motion, move, rotation_y, view_matrices
from worldplay_env.control.trajectory import Trajectory, parse_pose_string, read_trajectory, trajectory_of_poses
from worldplay_env.models.worldplay import memory


def poses(case: Case) -> Iterator[Row]:
    """Pose strings, motions and trajectory files -> poses, view matrices, intrinsics and labels."""
    files = {item: file for file, item in case.values.get("trajectory_files", {}).items()}
    for item in case["items"]:
        yield from _trajectory(case, item, _read(case, item), item["name"])
        file = files.get(item["name"])
        if file is not None and file != item.get("trajectory_file"):
            written = read_trajectory(case.path.parent / file)
            yield from _trajectory(case, item, written, f"{item['name']} ({file})")
    for text, error in case.values.get("pose_string_errors", {}).items():
        outcome = "accepted"
        try:
            parse_pose_string(text)
        except Exception as raised:
            outcome = type(raised).__name__
        yield holds(f"{case.name}/rejects {text!r}", outcome == error, f"{outcome} instead of {error}")


def _trajectory(case: Case, item: dict, trajectory: Trajectory, name: str) -> Iterator[Row]:
    count = item["latents"]  # the pipeline ignores surplus poses
    results = {
        "c2w": trajectory.poses,
        "w2c": view_matrices(trajectory.poses),
        "Ks": trajectory.intrinsics,
        "action": trajectory.labels,
    }
    for key, result in results.items():
        recorded = case.tensor(f"{item['name']}/{key}")
        yield compare(f"{case.name}/{name}/{key}", result[:count], recorded, case.tolerance(key))


def _read(case: Case, item: dict) -> Trajectory:
    match item:
        case {"kind": "pose_string", "pose": text}:
            return parse_pose_string(text)
        case {"kind": "json", "trajectory_file": file}:
            return read_trajectory(case.path.parent / file)
        case {"kind": "motions", "motions": motions}:
            return trajectory_of_recorded(motions)
    raise ValueError(f"{case.path.name}: unknown kind of item {item.get('kind')!r} ({item['name']})")


def trajectory_of_recorded(motions: list[dict[str, float]]) -> Trajectory:
    """Return the trajectory of recorded motions; `third_yaw` circles the point one unit ahead (radians)."""
    path = [np.eye(4)]
    for record in motions:
        own_axes = {key: value for key, value in record.items() if key != "third_yaw"}
        path.append(_orbit(move(path[-1], Motion(**own_axes)), record.get("third_yaw", 0.0)))
    return trajectory_of_poses(np.stack(path))


def _orbit(c2w: np.ndarray, angle: float) -> np.ndarray:
    """Return the pose [4, 4] after circling the point one unit ahead of `c2w`; positive angles turn left."""
    turned = c2w.copy()
    turned[:3, :3] = c2w[:3, :3] @ rotation_y(-angle)
    turned[:3, 3] += c2w[:3, 2] - turned[:3, 2]
    return turned


def fov_memory(case: Case) -> Iterator[Row]:
    """Overlap of pairs of views; the latent frames chosen at every chunk start."""
    points = case.tensor("points").numpy()
    for item in case["items"]:
        name = f"{case.name}/{item['name']}"
        w2c = case.tensor(f"{item['name']}/w2c").double().numpy()
        if f"{item['name']}/pairs" in case:
            current, history = case.tensor(f"{item['name']}/pairs").T.numpy()
            overlap = memory.overlap(w2c[current], w2c[history], points)
            recorded = case.tensor(f"{item['name']}/overlap")
            yield compare(f"{name}/overlap", overlap, recorded, case.tolerance("overlap"))
        starts = [selection for selection in item["selections"] if selection["chunk_start"]]
        others = [str(selection["current"]) for selection in item["selections"] if not selection["chunk_start"]]
        for selection in starts:
            start = selection["current"]
            chosen = memory.select(w2c[: start + memory.CLIP], points)
            yield selected(f"{name}/selection at {start}", chosen, selection)
        if others:
            yield skipped(f"{name}/selection at {', '.join(others)}", "by rule: chunk_start is false")


def selected(name: str, chosen: np.ndarray, selection: dict) -> Row:
    """Compare chosen latent frames with a recorded selection; the error counts the frames that it lacks.

    Another clip counts as right where the record accepts it, unless its distance is exactly that of the recorded one:
    then the earlier must be chosen.
    """
    recorded = selection["selected"]
    missing = len(set(recorded) ^ set(chosen.tolist())) / 2
    if missing and len(chosen) == len(recorded):
        distances = {int(clip): distance for clip, distance in selection.get("distances", [])}
        clip, best = int(chosen[0]), selection.get("memory_clip", recorded[0])
        accepted = clip in selection.get("acceptable_clips", []) and distances.get(clip) != distances.get(best)
        as_recorded = [*range(clip, clip + memory.CLIP), *recorded[memory.CLIP :]]
        if accepted and as_recorded == chosen.tolist():
            return Row(name, 0.0, note=f"clip {clip}, which the record accepts, instead of {best}")
    if not missing and chosen.tolist() != recorded:
        return Row(name, 1.0, note=f"not in order: {chosen.tolist()}")
    return Row(name, missing, note="exact" if not missing else f"{chosen.tolist()} instead of {recorded}")
