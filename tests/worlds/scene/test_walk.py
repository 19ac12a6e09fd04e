"""Cameras go where they are sent, unless something is in the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldplay_env.control.actions import NUM_ACTIONS, motion_of
from worldplay_env.control.camera import integrate, move
from worldplay_env.worlds.scene.build import HELD_OUT_SEED, Scene, build
from worldplay_env.worlds.scene.collision import MARGIN, is_free
from worldplay_env.worlds.scene.walk import between, follow, from_start, motion_matrices, motion_table, walk

SCENES = [build(seed) for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 24)]
FORWARD, RIGHT, YAW_RIGHT = 9, 27, 1


def empty_scene(*boxes: tuple[float, ...]) -> Scene:
    """Return a scene of nothing but these boxes (x, y, z, half extents), with its start at the origin."""
    solids = np.zeros((len(boxes), 8), np.float32)
    solids[:, 6] = 1
    solids[:, :6] = np.array(boxes).reshape(-1, 6)
    wide = np.array([[-50.0] * 3, [50.0] * 3])
    return replace(SCENES[0], boxes=solids, balls=np.zeros((0, 8), np.float32), bounds=wide, start=np.eye(4))


def wander(seed: int, steps: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow random labels through every scene; return labels [B, T], true poses and what was blocked."""
    labels = np.random.default_rng(seed).integers(NUM_ACTIONS, size=(len(SCENES), steps // 4)).repeat(4, axis=1)
    return labels, *walk(SCENES, np.stack([scene.start for scene in SCENES]), motion_table()[labels])


def test_motions_are_those_of_the_actions() -> None:
    pose = integrate(np.eye(4), [motion_of(50), motion_of(33)])[-1]
    moved = pose @ motion_matrices(motion_table())
    expected = np.stack([move(pose, motion_of(label)) for label in range(NUM_ACTIONS)])
    np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_where_nothing_is_in_the_way_poses_are_integrated_motions() -> None:
    labels = np.random.default_rng(0).integers(NUM_ACTIONS, size=30)
    poses, blocked = walk([empty_scene()], np.eye(4)[None], motion_table()[labels][None])
    np.testing.assert_allclose(poses[0], integrate(np.eye(4), map(motion_of, labels)), atol=1e-12)
    assert not blocked.any()


def test_cameras_stay_clear_of_solids_and_stand_still_exactly_when_blocked() -> None:
    labels, poses, blocked = wander(1)
    assert blocked.mean() > 0.02  # the paths do meet walls
    for scene, path in zip(SCENES, poses, strict=True):
        assert is_free(scene.solids[None], scene.bounds[None], path[:, :3, 3]).all()
    stays = (poses[:, 1:, :3, 3] == poses[:, :-1, :3, 3]).all(axis=2)
    moves = np.abs(motion_table()[labels][..., :2]).sum(axis=2) > 0
    np.testing.assert_array_equal(stays, blocked | ~moves)


def test_a_blocked_motion_still_turns() -> None:
    labels, poses, _ = wander(1)
    for path, own in zip(poses, labels, strict=True):
        free = integrate(path[0], map(motion_of, own))
        np.testing.assert_allclose(path[:, :3, :3], free[:, :3, :3], atol=1e-12)


def test_a_wall_ahead_stops_a_camera_before_it() -> None:
    wall = empty_scene((0, 0, 1.53, 2, 2, 0.5))
    face = 1.03
    poses, blocked = walk([wall], np.eye(4)[None], motion_table()[np.full((1, 20), FORWARD)])
    steps = int((face - MARGIN) / 0.08)
    assert blocked[0].tolist() == [False] * steps + [True] * (20 - steps)
    assert poses[0, -1, 2, 3] == pytest.approx(steps * 0.08)
    sideways, stopped = walk([wall], poses[:, -1], motion_table()[np.full((1, 2), RIGHT)])
    assert not stopped.any()
    assert sideways[0, -1, 0, 3] == pytest.approx(0.16)


def test_no_way_leads_through_a_wall_however_long_it_is() -> None:
    wall = empty_scene((0, 0, 1.0, 0.5, 2, 0.05))
    beyond, beside = np.eye(4), np.eye(4)
    beyond[2, 3], beside[0, 3] = 2.0, 2.0
    far = np.eye(4)
    far[2, 3] = 1e9
    for step, expected in ((beyond, True), (beside, False), (far, True)):
        poses, blocked = follow([wall], np.eye(4)[None], step[None, None])
        assert blocked[0, 0] == expected
        np.testing.assert_allclose(poses[0, 1], np.eye(4) if expected else step)


def test_frames_between_latent_poses_are_even_parts_of_the_motion() -> None:
    labels = np.random.default_rng(2).integers(NUM_ACTIONS, size=12)
    poses = integrate(np.eye(4), map(motion_of, labels))
    images = between(poses)
    assert images.shape == (1 + 4 * 12, 4, 4)
    np.testing.assert_allclose(images[::4], poses, atol=1e-12)
    parts = (np.linalg.inv(images[:-1]) @ images[1:])[:, :3, :3].reshape(12, 4, 3, 3)
    np.testing.assert_allclose(parts, np.broadcast_to(parts[:, :1], parts.shape), atol=1e-9)
    ways = np.diff(images[:, :3, 3], axis=0).reshape(12, 4, 3)
    np.testing.assert_allclose(ways, np.broadcast_to(ways[:, :1], ways.shape), atol=1e-12)


def test_a_quarter_of_a_yaw_is_a_yaw_by_a_quarter() -> None:
    images = between(integrate(np.eye(4), [motion_of(YAW_RIGHT)]))
    angles = np.degrees(np.arctan2(images[:, 0, 2], images[:, 2, 2]))
    np.testing.assert_allclose(angles, [0, 0.75, 1.5, 2.25, 3], atol=1e-9)


def test_a_path_is_the_same_in_the_scene_s_coordinates() -> None:
    labels = np.random.default_rng(3).integers(NUM_ACTIONS, size=9)
    motions = [motion_of(label) for label in labels]
    start = integrate(np.eye(4), [motion_of(40)] * 100)[-1]
    mapped = from_start(integrate(start, motions), start, SCENES[0].start)
    np.testing.assert_allclose(mapped, integrate(SCENES[0].start, motions), atol=1e-9)
