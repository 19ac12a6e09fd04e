"""Editions of a scene: the first is drawn as ever, the second is the same place with other paint and light."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldplay_env.control.camera import DEFAULT_INTRINSICS, Motion, move
from worldplay_env.evaluate.metrics import psnr
from worldplay_env.training.scene_clips import SceneClips
from worldplay_env.worlds.base import Start
from worldplay_env.worlds.scene.build import HELD_OUT_SEED, Scene, build, stack
from worldplay_env.worlds.scene.harmony import from_lch, to_lch
from worldplay_env.worlds.scene.lighting import LAMP_REACH
from worldplay_env.worlds.scene.palette import COLOURS
from worldplay_env.worlds.scene.render import Renderer, _render
from worldplay_env.worlds.scene.second import NO_CONTACTS, NO_LAMPS
from worldplay_env.worlds.scene.world import SceneWorld

SIZE = (48, 80)
SEEDS = range(HELD_OUT_SEED, HELD_OUT_SEED + 16)
SCENES = [build(seed, edition=2) for seed in SEEDS]
DARK = [scene for scene in SCENES if "at night" in scene.caption]
K = torch.tensor(DEFAULT_INTRINSICS)
RECORD = Path(__file__).with_name("edition1.npz")
ARRAYS = ("boxes", "balls", "surfaces", "light", "bounds", "start")


def draw(scenes: list[Scene], starts: np.ndarray | None = None, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return what each scene shows from its start, or from a pose of one's own: uint8 [F, H, W, 3]."""
    poses = np.stack([scene.start for scene in scenes]) if starts is None else starts
    return Renderer(stack(scenes), size).frames(torch.arange(len(scenes)), torch.from_numpy(poses), K).numpy()


def see(scenes: list[Scene], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return the depth from each scene's start: float32 [F, H, W]."""
    poses = torch.from_numpy(np.stack([scene.start for scene in scenes]))
    return Renderer(stack(scenes), size).depth(torch.arange(len(scenes)), poses, K).numpy()


def points(scene: Scene) -> np.ndarray:
    """Return where the pixels' centres are in the scene, sky very far: float [H, W, 3]."""
    rows, columns = np.indices(SIZE) + 0.5
    x = (columns / SIZE[1] - 0.5) / DEFAULT_INTRINSICS[0, 0]
    y = (rows / SIZE[0] - 0.5) / DEFAULT_INTRINSICS[1, 1]
    [depth] = see([scene])
    rays = np.stack([x, y, np.ones(SIZE)], -1) @ scene.start[:3, :3].T
    return np.where(np.isinf(depth), 1e9, depth)[..., None] * rays + scene.start[:3, 3]


def without(scene: Scene, part: str) -> Scene:
    """Return the scene without its lamplight or without contact shadows."""
    return replace(scene, **{part: np.zeros_like(getattr(scene, part)) + (0 if part == "lamps" else _NOTHING)})


_NOTHING = np.array([0, 1e4, 0, 0, 0, 0, 1, 0, 1, 1, 0], np.float32)


def test_the_first_edition_is_drawn_as_it_was_recorded() -> None:
    record = np.load(RECORD)
    scenes = [build(int(seed)) for seed in record["seeds"]]
    assert [scene.caption for scene in scenes] == record["captions"].tolist()
    for name in ARRAYS:
        # Another processor may round the last bit of a sine.
        np.testing.assert_allclose(
            np.stack([getattr(scene, name) for scene in scenes]), record[name], rtol=3e-7, atol=1e-7
        )
    difference = np.abs(draw(scenes).astype(int) - record["frames"])
    assert (difference > 2).mean() < 1e-3
    assert all(scene.contacts is NO_CONTACTS and scene.lamps is NO_LAMPS for scene in scenes)


def test_equal_seeds_build_and_draw_equal_scenes_of_the_second_edition() -> None:
    again = [build(seed, edition=2) for seed in SEEDS]
    for one, other in zip(SCENES, again, strict=True):
        for name in (field.name for field in fields(one)):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(draw(SCENES[:6]), draw(again[:6]))


def test_the_second_edition_is_the_same_place_with_lanterns_at_most() -> None:
    lanterns = 0
    for scene in SCENES:
        first = build(scene.seed)
        np.testing.assert_array_equal(scene.boxes, first.boxes)
        np.testing.assert_array_equal(scene.bounds, first.bounds)
        there = first.balls[:, 3] > 0
        np.testing.assert_array_equal(scene.balls[there], first.balls[there])
        lanterns += int((scene.balls[:, 3] > 0).sum() - there.sum())
        assert scene.kind == first.kind
    assert lanterns > 0
    for name in ("light", "surfaces"):
        assert all(np.isfinite(getattr(scene, name)).all() for scene in SCENES)
    by_day = [scene for scene in SCENES if "at noon" in scene.caption]
    np.testing.assert_array_equal(see(by_day), see([build(scene.seed) for scene in by_day]))


def test_lamps_are_bright_at_night_near_them_and_nowhere_else() -> None:
    near, far = [], []
    for scene in DARK:
        lit, dark = draw([scene, without(scene, "lamps")]).astype(int)
        lamps = scene.lamps[scene.lamps[:, 3] > 0, :3]
        distance = np.linalg.norm(points(scene)[:, :, None] - lamps, axis=-1).min(-1)
        gain = (lit - dark).mean(-1)
        assert gain.min() >= 0
        # A pixel's centre is not all of it: at an outline some of it is nearer.
        assert (gain[distance > LAMP_REACH] > 0).mean() < 0.02
        near.append(gain[distance < 0.8])
        far.append(gain[distance > 1.6])
    assert np.concatenate(near).mean() > 25  # of 255 levels
    assert np.concatenate(near).mean() > 3 * np.concatenate(far).mean()


def test_it_is_darker_where_things_touch_the_ground_and_only_there() -> None:
    shaded = 0.0
    for scene in SCENES:
        with_shadows, plain = draw([scene, without(scene, "contacts")]).astype(int)
        loss = (plain - with_shadows).max(-1)
        assert (with_shadows <= plain).all()
        there = scene.contacts[scene.contacts[:, 10] > 0]
        distance = np.linalg.norm(points(scene)[:, :, None] - there[:, :3], axis=-1) - there[:, 10]
        # A pixel's centre is not all of it: at an outline some of it is nearer.
        assert (loss[distance.min(-1) > 0.05] > 0).mean() < 0.02
        shaded += (loss > 15).mean() / len(SCENES)
    assert 0.003 < shaded < 0.2


def test_light_and_shadow_do_not_change_depth() -> None:
    bare = [without(without(scene, "contacts"), "lamps") for scene in SCENES]
    np.testing.assert_array_equal(see(SCENES), see(bare))


@pytest.mark.parametrize("motion", [Motion(forward=0.16), Motion(right=0.16, yaw=0.1), Motion(yaw=-0.3, pitch=0.1)])
def test_a_surface_has_one_colour_from_wherever_it_is_seen(motion: Motion) -> None:
    medians = []
    for scene in SCENES[:12]:
        there = move(scene.start, motion)
        first, second = draw([scene, scene], np.stack([scene.start, there])).astype(int)
        depth = see([replace(scene, start=there)])[0]
        places = points(scene).reshape(-1, 3)
        hit = np.abs(places).max(1) < 1e6
        seen, colours = places[hit], first.reshape(-1, 3)[hit]
        moved = (seen - there[:3, 3]) @ there[:3, :3]
        columns = (DEFAULT_INTRINSICS[0, 0] * moved[:, 0] / moved[:, 2] + 0.5) * SIZE[1]
        rows = (DEFAULT_INTRINSICS[1, 1] * moved[:, 1] / moved[:, 2] + 0.5) * SIZE[0]
        inside = (moved[:, 2] > 0) & (columns >= 0) & (columns < SIZE[1]) & (rows >= 0) & (rows < SIZE[0])
        to = rows[inside].astype(int), columns[inside].astype(int)
        same = np.abs(depth[to] / moved[inside, 2] - 1) < 0.05
        medians.append(np.median(np.abs(second[to] - colours[inside]).max(1)[same]))
    assert max(medians) <= 5
    assert np.median(medians) <= 3


def test_frames_by_strips_are_those_of_all_rays_at_once() -> None:
    scenes = SCENES[:5]
    poses = torch.from_numpy(np.stack([scene.start for scene in scenes])).float()
    batch, intrinsics = stack(scenes), K.float().expand(len(scenes), 3, 3)
    strips = draw(scenes).astype(int)
    whole = _render(batch, poses, intrinsics, SIZE, 2).frames.numpy()
    assert np.abs(strips - whole).max() <= 1
    traced = torch.compile(_render, fullgraph=True, backend="eager", dynamic=False)  # nothing depends on the data
    some = torch.tensor([1, 3])
    compiled = traced(batch.take(some), poses[some], intrinsics[some], SIZE, 2).frames.numpy().astype(int)
    assert np.abs(compiled - whole[some.numpy()]).max() <= 1


def test_motion_is_seen() -> None:
    scenes = SCENES[::3]
    still = torch.from_numpy(draw(scenes, size=(96, 160)))
    for motion in (Motion(forward=0.08), Motion(right=0.08), Motion(yaw=np.radians(3))):
        moved = draw(scenes, np.stack([move(scene.start, motion) for scene in scenes]), (96, 160))
        assert psnr(torch.from_numpy(moved), still).mean() < 25, motion  # dB, as in the first edition


def test_colours_come_back_from_oklch_and_too_strong_ones_keep_lightness_and_hue() -> None:
    for colour in COLOURS.values():
        np.testing.assert_allclose(from_lch(to_lch(colour)), colour, atol=0.02)
    lightness, chroma, hue = to_lch(from_lch((0.7, 0.5, 150)))
    assert (lightness, hue) == pytest.approx((0.7, 150), abs=0.5)
    assert 0.1 < chroma < 0.5


def test_paint_is_calm_and_its_parts_can_be_told_apart() -> None:
    chroma, gaps = [], []
    for scene in SCENES:
        painted = scene.boxes[:, 3] > 0
        for row in scene.surfaces[: len(painted)][painted]:
            first, second = to_lch(tuple(row[:3])), to_lch(tuple(row[3:6]))
            chroma.append(first[1])
            if row[12:15].any() and row[17] == 0:  # a pattern that does not shine
                gaps.append(abs(first[0] - second[0]))
    assert max(chroma) < 0.2
    assert np.percentile(gaps, 2) > 0.05


def test_editions_are_not_mixed_and_unknown_ones_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got editions \\[1, 2\\]"):
        stack([build(1), build(1, edition=2)])
    with pytest.raises(ValueError, match="must be one of \\(1, 2\\), got 3"):
        build(1, edition=3)
    with pytest.raises(ValueError, match="must be one of \\(1, 2\\), got 0"):
        SceneWorld(edition=0)
    clips = SceneClips([1, 2], (12, 20), torch.device("cpu"), edition=2)
    assert [scene.edition for scene in clips.scenes] == [2, 2]
    world = SceneWorld((12, 20), samples=1, device="cpu", edition=2)
    rollout = world.start(Start(np.zeros((12, 20, 3), np.uint8), "scene 900003", np.eye(4)), 0)
    rollout.save(tmp_path / "rollout.safetensors")
    assert world.load_rollout(tmp_path / "rollout.safetensors").scene.edition == 2
    with pytest.raises(ValueError, match="edition 2"):
        SceneWorld((12, 20), samples=1, device="cpu").load_rollout(tmp_path / "rollout.safetensors")
