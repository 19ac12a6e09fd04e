"""The renderer shows what is there: known shapes at known depths, and the same surface from wherever it is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldplay_env.control.actions import NUM_ACTIONS, motion_of
from worldplay_env.control.camera import DEFAULT_INTRINSICS, Motion, integrate, move
from worldplay_env.evaluate.metrics import psnr
from worldplay_env.worlds.scene.build import HELD_OUT_SEED, LIGHT, SceneBatch, build, stack
from worldplay_env.worlds.scene.palette import SURFACE_WIDTH
from worldplay_env.worlds.scene.render import Renderer, _render
from worldplay_env.worlds.scene.walk import motion_table, walk

SIZE = (96, 160)
SCENES = [build(seed) for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 24)]
BATCH = stack(SCENES)
K = torch.tensor(DEFAULT_INTRINSICS)
STARTS = np.stack([scene.start for scene in SCENES])


def renderer(size: tuple[int, int] = SIZE, samples: int = 1) -> Renderer:
    return Renderer(BATCH, size, samples=samples)


def frames(which: int, *poses: np.ndarray, **settings: int) -> np.ndarray:
    """Return what a scene shows from each pose: uint8 [F, H, W, 3]."""
    scene = torch.full((len(poses),), which)
    return renderer(**settings).frames(scene, torch.from_numpy(np.stack(poses)), K).numpy()


def depth(which: int, *poses: np.ndarray) -> np.ndarray:
    scene = torch.full((len(poses),), which)
    return renderer().depth(scene, torch.from_numpy(np.stack(poses)), K).numpy()


def one_solid(*, boxes: list[float] | None = None, balls: list[float] | None = None) -> Renderer:
    """Return a renderer of a single box or ellipsoid: x, y, z, half extents, cosine and sine of its yaw."""
    nothing = [0.0, 1e4, 0, 0, 0, 0, 1, 0]
    light = torch.zeros(1, max(part.stop for part in LIGHT.values()))
    solids = torch.tensor([[boxes or nothing]]), torch.tensor([[balls or nothing]])
    return Renderer(SceneBatch(*solids, torch.ones(1, 2, SURFACE_WIDTH), light), SIZE, samples=1)


def rays() -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the rays through the pixel centres in camera axes, z = 1: each [H, W]."""
    rows, columns = np.indices(SIZE) + 0.5
    x = (columns / SIZE[1] - 0.5) / DEFAULT_INTRINSICS[0, 0]
    return x, (rows / SIZE[0] - 0.5) / DEFAULT_INTRINSICS[1, 1]


def test_a_box_is_seen_at_the_depth_of_its_face_and_nothing_beside_it() -> None:
    seen = one_solid(boxes=[0.2, 0.1, 4, 0.5, 0.4, 1, 1, 0]).depth(torch.zeros(1).long(), torch.eye(4)[None], K)[0]
    x, y = (3 * ray for ray in rays())  # where rays meet the plane of the face, z = 3
    inside = (np.abs(x - 0.2) < 0.5) & (np.abs(y - 0.1) < 0.4)
    np.testing.assert_allclose(seen[inside], 3.0, rtol=1e-5)
    # The camera sees none of the sides: it is within the box's breadth and height.
    assert torch.isinf(seen[~inside]).all()


def test_rays_along_an_axis_see_what_their_neighbours_see() -> None:
    odd = Renderer(BATCH, (45, 81), samples=1)  # a level camera's middle row looks exactly level
    seen = odd.depth(torch.arange(len(SCENES)), torch.from_numpy(STARTS), K)
    above, middle, below = seen[:, 21], seen[:, 22], seen[:, 23]
    assert not (middle.isinf() & ~above.isinf() & ~below.isinf()).any()
    boxed = one_solid(boxes=[0, 0, 4, 0.5, 0.4, 1, 1, 0])  # and straight ahead, along two of a box's axes
    ahead = Renderer(boxed.scenes, (45, 81), samples=1).depth(torch.zeros(1).long(), torch.eye(4)[None], K)
    torch.testing.assert_close(ahead[0, 22, 40], torch.tensor(3.0))


def test_an_ellipsoid_is_seen_where_rays_meet_its_equation() -> None:
    seen = one_solid(balls=[0.3, -0.2, 4, 0.8, 0.5, 1.2, 1, 0]).depth(torch.zeros(1).long(), torch.eye(4)[None], K)[0]
    hit = np.isfinite(seen.numpy())
    x, y = rays()
    points = np.stack([x, y, np.ones(SIZE)], -1)[hit] * seen.numpy()[hit][:, None]
    value = (((points - [0.3, -0.2, 4]) / [0.8, 0.5, 1.2]) ** 2).sum(1)
    np.testing.assert_allclose(value, 1.0, atol=1e-4)
    assert (points[:, 2] < 4).all()  # its near side
    assert 0.02 < hit.mean() < 0.2


def test_pictures_are_the_same_each_time_and_whatever_else_is_rendered() -> None:
    which, poses = torch.arange(6), torch.from_numpy(STARTS[:6])
    together = renderer().frames(which, poses, K)
    assert torch.equal(together, renderer().frames(which, poses, K))
    for index in range(6):
        assert torch.equal(
            together[index], renderer().frames(which[index : index + 1], poses[index : index + 1], K)[0]
        )
    assert len({picture.numpy().tobytes() for picture in together}) == 6


@pytest.mark.parametrize("focal", [0.2, 0.505, 2.0])
def test_leaving_out_solids_that_are_out_of_view_changes_nothing(focal: float) -> None:
    wide = torch.tensor([[focal, 0, 0.5], [0, focal * 16 / 9, 0.5], [0, 0, 1]])
    for index in range(4):
        pose = torch.from_numpy(move(STARTS[index], Motion(pitch=0.3, yaw=1.0 * index))).float()[None]
        which = torch.tensor([index])
        whole = _render(BATCH.take(which), pose, wide[None], SIZE, 1)
        assert torch.equal(renderer().frames(which, pose, wide), whole.frames)
        torch.testing.assert_close(renderer().depth(which, pose, wide), whole.depth)


def test_a_longer_focal_length_shows_the_middle_larger() -> None:
    which, pose = torch.tensor([3]), torch.from_numpy(STARTS[3:4])
    longer = K * torch.tensor([[2.0, 1, 1], [1, 2, 1], [1, 1, 1]])
    near = renderer((48, 80)).depth(which, pose, longer)
    torch.testing.assert_close(near, renderer().depth(which, pose, K)[:, 24:72, 40:120])


@pytest.mark.parametrize("motion", [Motion(forward=0.08), Motion(right=0.08), Motion(yaw=np.radians(3))])
def test_one_latent_frames_motion_moves_the_picture(motion: Motion) -> None:
    which = torch.arange(len(SCENES))
    before = renderer(samples=2).frames(which, torch.from_numpy(STARTS), K)
    after = renderer(samples=2).frames(which, torch.from_numpy(np.stack([move(s, motion) for s in STARTS])), K)
    assert psnr(after, before).mean() < 25  # dB: 14 of 255 levels


@pytest.mark.parametrize("index", [0, 3, 9, 10, 17])
@pytest.mark.parametrize("motion", [Motion(forward=0.16), Motion(right=0.16, yaw=0.1), Motion(yaw=-0.3, pitch=0.1)])
def test_depth_agrees_with_the_view_from_another_pose(index: int, motion: Motion) -> None:
    here, there = STARTS[index], move(STARTS[index], motion)
    near, other = depth(index, here, there)
    first, second = frames(index, here, there, samples=2).astype(int)
    seen = np.isfinite(near)
    x, y = rays()
    points = np.stack([x, y, np.ones(SIZE)], -1)[seen] * near[seen][:, None]
    scene = points @ here[:3, :3].T + here[:3, 3]
    moved = (scene - there[:3, 3]) @ there[:3, :3]
    columns = (DEFAULT_INTRINSICS[0, 0] * moved[:, 0] / moved[:, 2] + 0.5) * SIZE[1]
    rows = (DEFAULT_INTRINSICS[1, 1] * moved[:, 1] / moved[:, 2] + 0.5) * SIZE[0]
    inside = (moved[:, 2] > 0) & (columns >= 0) & (columns < SIZE[1]) & (rows >= 0) & (rows < SIZE[0])
    assert inside.mean() > 0.3
    to = rows[inside].astype(int), columns[inside].astype(int)
    ratio = other[to] / moved[inside, 2]
    # A pixel's centre is up to half a pixel from the point: a few per cent on what is seen at a slant.
    assert (ratio < 1.05).mean() > 0.97  # nothing is seen through the point...
    same = np.abs(ratio - 1) < 0.05
    assert same.mean() > 0.8  # ...and little hides it
    difference = np.abs(second[to] - first[seen][inside]).max(1)
    assert np.median(difference[same]) <= 4


@pytest.mark.parametrize("label", [label for label in range(1, NUM_ACTIONS) if label < 9 or label % 9 == 0])
def test_one_chunk_of_every_single_move_changes_the_picture(label: int) -> None:
    before, *_, after = integrate(STARTS[3], [motion_of(label)] * 4)
    one, other = frames(3, before, after, size=(48, 80)).astype(int)
    assert np.abs(one - other).mean() > 5


def test_repeating_the_last_frame_scores_under_18_db_on_moving_paths() -> None:
    labels = np.random.default_rng(0).integers(1, NUM_ACTIONS, size=(len(SCENES), 1)).repeat(4, axis=1)
    poses, _ = walk(SCENES, STARTS, motion_table()[labels])
    ends = torch.from_numpy(poses[:, [0, -1]].reshape(-1, 4, 4))  # frame t and frame t + 16
    pictures = renderer().frames(torch.arange(len(SCENES)).repeat_interleave(2), ends, K).double()
    error = (pictures[::2] - pictures[1::2]).square().mean((1, 2, 3))
    ratio = 10 * torch.log10(255**2 / error)
    assert ratio.mean() < 18
    assert ratio.min() > 3  # and it is the same place
