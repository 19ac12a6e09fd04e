"""The evaluation: its paths, and worlds of known quality."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import made_up
from pictures import pictures
from PIL import Image
from small_world import begin, small_world, wander
from torch import Tensor

import worldplay_env
from worldplay_env.control.camera import DEFAULT_INTRINSICS, MotionScale
from worldplay_env.control.layout import LAYOUT, ChunkLayout
from worldplay_env.evaluate import camera_paths
from worldplay_env.evaluate.__main__ import main, read_seeds
from worldplay_env.evaluate.ground_truth import Truth
from worldplay_env.evaluate.measures import drift_of, evaluate_scenes, follow_actions, most_chunks
from worldplay_env.evaluate.metrics import moved, visible
from worldplay_env.evaluate.rollouts import RolloutSpec, make_rollouts, reconstruct
from worldplay_env.evaluate.run import evaluate
from worldplay_env.models.worldplay import memory
from worldplay_env.workers.base import OneProcess
from worldplay_env.worlds.base import World
from worldplay_env.worlds.diffusion.world import DiffusionWorld
from worldplay_env.worlds.scene.build import Scene, build
from worldplay_env.worlds.scene.walk import images_of, motion_table, walk
from worldplay_env.worlds.scene.world import SceneWorld

SEEDS = (900_000, 900_002, 900_013)
SIZE = (24, 40)
CPU = torch.device("cpu")
PATHS = [camera_paths.short_path, camera_paths.out_and_back, camera_paths.wandering_path]


# ---- what the starting picture shows

STEP_RIGHT = torch.eye(4)[None].clone()
STEP_RIGHT[0, 0, 3] = 1.0
STEP_PIXELS = 2.02
"""One unit at depth 4 is 0.505 / 4 of a width of 16 pixels: pixel i shows what pixel i + 2.02 did."""


def test_a_wall_ahead_is_visible_where_it_was_in_the_picture_and_not_where_it_was_hidden_or_outside() -> None:
    # A wall 4 units ahead, and before its left half a screen at 2 units; then the camera steps 1 unit to the right.
    start = torch.full((8, 16), 4.0)
    start[:, :8] = 2.0
    wall = torch.full((1, 8, 16), 4.0)  # seen from there without the screen: what it hid comes into view
    seen = visible(wall, STEP_RIGHT, start, DEFAULT_INTRINSICS)[0]
    shown = np.arange(16) + STEP_PIXELS
    expected = (shown > 7.5) & (shown + 0.5 < 16)
    np.testing.assert_array_equal(seen.numpy(), np.broadcast_to(expected, (8, 16)))


def test_a_picture_is_moved_by_its_depth() -> None:
    ramp = 3 + 10 * torch.arange(16)
    picture = ramp.to(torch.uint8)[None, :, None].repeat(8, 1, 3)
    cameras = torch.cat([torch.eye(4)[None], STEP_RIGHT])
    frames = moved(picture, torch.full((2, 8, 16), 4.0), cameras, DEFAULT_INTRINSICS)
    assert torch.equal(frames[0], picture)
    inside = slice(2, 12)  # where all four pixels that a cubic takes are in the picture
    expected = np.round(3 + 10 * (np.arange(16) + STEP_PIXELS))[inside]
    np.testing.assert_array_equal(frames[1, :, inside], np.broadcast_to(expected[:, None], (8, 10, 3)))


def test_all_is_visible_from_the_start_itself_and_nothing_behind_it() -> None:
    depth = torch.rand(1, 6, 10) + 1
    depth[0, :2] = torch.inf
    turned = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    own = visible(depth, torch.eye(4)[None], depth[0], DEFAULT_INTRINSICS)
    behind = visible(depth, turned[None], depth[0], DEFAULT_INTRINSICS)
    assert own.all()
    assert not behind.any()


def test_sky_is_visible_where_the_picture_has_sky_however_far_the_camera_went() -> None:
    sky = torch.full((1, 6, 10), torch.inf)
    half = sky[0].clone()
    half[:, 5:] = 3.0
    away = torch.eye(4)
    away[:3, 3] = torch.tensor([2.0, 0.0, 1.0])
    seen = visible(sky, away[None], half, DEFAULT_INTRINSICS)[0]
    assert seen[:, :4].all()
    assert not seen[:, 5:].any()


def test_visible_points_have_the_colour_that_the_start_shows_there() -> None:
    truth = Truth(SEEDS[0], (48, 80), CPU)
    poses = camera_paths.short_path(truth.scene).poses
    film, counts = truth.film(poses), truth.visible(poses)
    assert counts[0].float().mean() > 0.95
    assert 0.2 < counts[-1].float().mean() < 0.95
    # Warped by hand: the pixel of the start that each counted pixel of the last frame shows.
    depth = truth._renderer.depth(*truth._views(poses[-1:]))[0].double().clamp(max=1e4).numpy()
    rows, columns = np.indices(depth.shape)
    rays = np.stack([(columns + 0.5) / 80, (rows + 0.5) / 48, np.ones(depth.shape)]).reshape(3, -1)
    points = np.linalg.inv(DEFAULT_INTRINSICS) @ rays * depth.reshape(-1)
    to_start = np.linalg.inv(truth.scene.start) @ poses[-1]
    x, y, z = DEFAULT_INTRINSICS @ (to_start[:3, :3] @ points + to_start[:3, 3:])
    kept = counts[-1].numpy().reshape(-1)
    column, row = (x / z * 80).astype(int)[kept], (y / z * 48).astype(int)[kept]
    error = np.abs(truth.picture.numpy()[row, column].astype(int) - film[-1].reshape(-1, 3)[kept].numpy())
    assert np.median(error) < 6


# ---- paths


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", PATHS)
def test_paths_are_walked_by_their_actions_without_touching_anything(
    make: Callable[[Scene], camera_paths.Path], seed: int
) -> None:
    scene = build(seed)
    path = make(scene)
    poses, blocked = walk([scene], scene.start[None], motion_table()[path.labels[None, 1:]])
    assert not blocked.any()
    np.testing.assert_allclose(poses[0], path.poses, atol=1e-9)
    np.testing.assert_array_equal(make(build(seed)).labels, path.labels)
    assert np.abs(np.arcsin(path.poses[:, 1, 2])).max() <= camera_paths.MOST_PITCH + 1e-9


@pytest.mark.parametrize(("make", "chunks"), list(zip(PATHS, (4, 16, 60), strict=True)))
def test_controls_begin_at_the_identity_and_keep_the_motions(
    make: Callable[[Scene], camera_paths.Path], chunks: int
) -> None:
    path = make(build(SEEDS[1]))
    controls = path.controls()
    poses = np.concatenate([control.poses for control in controls])
    assert len(controls) == chunks
    np.testing.assert_array_equal(poses[0], np.eye(4))
    np.testing.assert_allclose(path.poses[0] @ poses, path.poses, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_way_back_takes_the_way_out_in_reverse_and_turns_far(seed: int) -> None:
    path = camera_paths.out_and_back(build(seed))
    np.testing.assert_array_equal(path.poses, path.poses[::-1])
    turned = np.degrees(np.arccos(path.poses[31, :3, 2] @ path.poses[0, :3, 2]))
    assert 40 < turned < 95


@pytest.mark.parametrize("layout", [LAYOUT, ChunkLayout(3, 4, 9, 6), ChunkLayout(2, 5, 8, 4)])
def test_frames_of_the_way_back_have_their_own_pose_on_the_way_out(layout: ChunkLayout) -> None:
    path = camera_paths.out_and_back(build(SEEDS[0]), layout, MotionScale(0.1, 8.0))
    cameras, mirrored = images_of(path.poses, layout), camera_paths.mirrored_frames(layout)
    turn = camera_paths.turn_frame(layout)
    assert len(mirrored) == len(cameras) == sum(layout.images_of(chunk) for chunk in range(16))
    np.testing.assert_array_equal(mirrored[: turn - layout.images + 1], np.arange(turn - layout.images + 1))
    np.testing.assert_allclose(cameras[mirrored], cameras, atol=1e-9)


def test_short_paths_move_all_the_time() -> None:
    assert all((camera_paths.short_path(build(seed)).labels[1:] > 0).all() for seed in SEEDS)


def test_an_action_into_a_wall_has_no_path() -> None:
    blocked = [(seed, label) for seed in range(900_000, 900_012) for label in range(9, 81)
               if camera_paths.held_path(build(seed), label) is None]  # fmt: skip
    assert blocked
    seed, label = blocked[0]
    assert walk([build(seed)], build(seed).start[None], motion_table()[np.full((1, 3), label)])[1].any()


# ---- worlds


class NoText:
    """Stands in for a text encoder: every prompt is the same."""

    def token_count(self, prompt: str) -> int:
        return 1

    def encode(self, prompts: list[str]) -> Tensor:
        return torch.zeros(len(prompts), 5, 10)


@pytest.fixture(scope="module")
def scenes() -> World:
    return worldplay_env.load("scene", device="cpu", image_size=SIZE)


@pytest.fixture(scope="module")
def dream() -> DiffusionWorld:
    return small_world(text_encoder=NoText())


@pytest.fixture(scope="module")
def true_result(scenes: World) -> dict[str, Any]:
    return evaluate_scenes(scenes, SEEDS[:1], batch=9, drift=False)[0]


def test_the_truth_scores_as_the_truth(true_result: dict[str, Any]) -> None:
    short, long, actions = (true_result[part] for part in ("short", "long", "actions"))
    for figures in (short["world"], long["world"], long["outbound"]):
        assert figures["psnr"] > 55
        assert figures["whole_psnr"] > 55
        assert figures["ssim"] > 0.999
    assert short["world"]["frames"] + short["world"]["left_out"] == 60
    assert long["world"]["frames"] + long["world"]["left_out"] == 124
    assert long["world"]["left_out"] > 0  # the way out turns away from what the start shows
    assert actions["world"] == actions["actions"] > 5
    assert actions["mistaken"] == []
    assert short["repeat"]["psnr"] < 18
    assert short["moved"]["psnr"] > short["repeat"]["psnr"] + 8
    assert short["moved"]["psnr"] > 25
    assert "autoencoder" not in short


def test_standing_still_is_told_as_standing_still(scenes: World, true_result: dict[str, Any]) -> None:
    truth = Truth(SEEDS[0], SIZE, CPU)
    assert true_result["actions"]["repeat"] == 1
    [result] = follow_actions(scenes, [truth], (0,), batch=1)
    assert (result["actions"], result["world"], result["repeat"]) == (1, 1, 1)


def test_actions_that_are_taken_for_others_are_listed() -> None:
    class Frozen(SceneWorld):
        def step(self, rollouts: Any, controls: Any, **options: Any) -> Any:
            chunks = super().step(rollouts, controls, **options)
            for chunk in chunks:
                chunk.frames[:] = chunk.frames[:1]  # it never moves
            return chunks

    truth = Truth(SEEDS[0], SIZE, CPU)
    [result] = follow_actions(Frozen(SIZE, device="cpu"), [truth], (0, 1, 2), batch=2)
    assert (result["actions"], result["world"]) == (3, 1)
    assert result["mistaken"] == [(1, 0), (2, 0)]


@pytest.mark.slow
def test_a_true_minute_does_not_drift(scenes: World) -> None:
    truth = Truth(SEEDS[1], SIZE, CPU)
    [result] = drift_of(scenes, [truth], batch=1)
    assert result["world"]["mean"] == pytest.approx(result["truth"]["mean"], rel=1e-3)
    assert result["world"]["contrast"] == pytest.approx(result["truth"]["contrast"], rel=1e-3)
    assert result["repeat"] != result["world"]


def test_a_world_without_a_model_of_the_scene_scores_badly() -> None:
    card = worldplay_env.load("testcard", image_size=SIZE)
    made: list[int] = []
    [result] = evaluate_scenes(card, SEEDS[:1], drift=False, stepped=made.append)
    assert sum(made) == result["actions"]["actions"] + 4 + 16
    assert sum(made) <= most_chunks(False, False, False, False) == 29
    assert result["short"]["world"]["psnr"] < 20
    assert result["long"]["world"]["psnr"] < 20
    assert result["actions"]["world"] < result["actions"]["actions"]


@pytest.mark.slow
def test_a_dream_has_a_ceiling_and_another_memory_to_compare_with(dream: DiffusionWorld) -> None:
    made: list[int] = []
    [result] = evaluate_scenes(dream, SEEDS[:1], drift=False, stepped=made.append)
    assert sum(made) == 2 * result["actions"]["actions"] + 2 * 4 + 4 * 16
    assert sum(made) <= most_chunks(True, True, False, False) == 90
    assert max(made) <= 16
    assert set(result["long"]["curve"]) == {"world", "latest", "repeat", "autoencoder"}
    assert result["short"]["autoencoder"]["psnr"] < 25  # of random weights
    assert result["short"]["clip"]["whole_psnr"] < 25
    # With a full memory the two choose alike until a clip of long ago sees more: the way out is the same.
    selected, recent = (result["long"]["curve"][name]["psnr"] for name in ("world", "latest"))
    assert selected[:61] == recent[:61]
    assert selected != recent


def test_films_do_not_depend_on_who_shares_the_batch(dream: DiffusionWorld) -> None:
    takes = [RolloutSpec(Truth(seed, dream.image_size, CPU), camera_paths.short_path(build(seed))) for seed in SEEDS]
    together, apart = make_rollouts(dream, takes, 2), make_rollouts(dream, takes, 1)
    for one, other in zip(together, apart, strict=True):
        assert len(one) == 61
        assert (one.int() - other.int()).abs().max() <= 1
    last = make_rollouts(dream, takes[:1], 1, last_chunks=1)[0]
    assert torch.equal(last, apart[0][-16:])


def test_the_latest_memory_is_the_latest_sixteen_and_reaches_the_model() -> None:
    def poses(count: int) -> np.ndarray:
        return np.broadcast_to(np.eye(4), (count, 4, 4))

    chosen = memory.latest_each([poses(4), poses(12), poses(44)])
    assert [frames.tolist() for frames in chosen] == [[], list(range(8)), list(range(24, 40))]
    world = small_world().without_selection()
    rollout = begin(world, 0)
    memories = [world.step([rollout], [control], decode=False)[0].memory for control in wander(7, 0)]
    assert memories[-1].tolist() == list(range(8, 24))


def test_reconstruction_is_the_autoencoder_clip_by_clip(dream: DiffusionWorld) -> None:
    film = pictures(0, count=69, size=(32, 48))
    whole = reconstruct(dream.codec, film)
    assert whole.shape == film.shape
    assert torch.equal(whole[:61], reconstruct(dream.codec, film[:61]))
    assert torch.equal(whole[61:], reconstruct(dream.codec, film[60:])[1:])
    assert reconstruct(dream.codec, film[:1]).shape == (1, 32, 48, 3)


# ---- the program


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 2])
def test_the_program_writes_table_strips_and_curve(
    workers: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if workers is not None:
        pytest.importorskip("ray")
    small = functools.partial(worldplay_env.load, image_size=SIZE)  # whatever else is asked for is passed on
    monkeypatch.setattr("worldplay_env.evaluate.__main__.load", small)
    arguments = ["--world", "testcard", "--quick", "--seeds", "900000:900002", "--out", str(tmp_path)]
    assert main(arguments if workers is None else [*arguments, "--workers", str(workers)]) == 0
    printed, record = capsys.readouterr().out, json.loads((tmp_path / "evaluation.json").read_text())
    assert [scene["seed"] for scene in record["scenes"]] == [900_000, 900_001]
    assert [set(scene) >= {"all_actions", "drift"} for scene in record["scenes"]] == [True, False]
    assert all(row["what"] in printed for row in record["rows"])
    assert record["seconds"] > 0
    assert len(record["curve"]["psnr"]["world"]) == 253
    for name in ("curve.png", "strips/900000-short.png", "strips/900001-long.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 300


def test_scenes_are_evaluated_once_each_whatever_the_groups(scenes: World, monkeypatch: Any, tmp_path: Path) -> None:
    asked: list[tuple[int, bool, bool]] = []
    result = made_up(20.0, 0.5, latest_psnr=19.0, right=10, tone_ratio=1.0)

    def fake(world: World, seeds: list[int], *, all_actions: bool, drift: bool, **_: Any) -> list[dict[str, Any]]:
        asked.extend((seed, all_actions, drift) for seed in seeds)
        return [{**result, "long": dict(result["long"]), "seed": seed} for seed in seeds]

    monkeypatch.setattr("worldplay_env.evaluate.run.evaluate_scenes", fake)
    monkeypatch.setattr("worldplay_env.evaluate.run.chunk_seconds", lambda *_: 0.5)
    _, record = evaluate(
        OneProcess(lambda: scenes), range(900_000, 900_007), tmp_path, batch=2, all_actions=3, drift=5
    )
    assert asked == [(900_000 + index, index < 3, index < 5) for index in range(7)]
    assert len(record["scenes"]) == 7


def test_seeds_are_a_range_of_held_out_scenes() -> None:
    assert read_seeds("900000:900064") == range(900_000, 900_064)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "900000"], "A:B"),
        (["--seeds", "a:b"], "'a:b'"),
        (["--seeds", "900002:900002"], "empty"),
        (["--seeds", "100:200"], "trained on"),
        (["--batch", "0"], "--batch must be 1 or more"),
        (["--workers", "0"], "workers must be 1 or more, got 0"),
        (["--threads", "-1"], "threads must be 1 or more, got -1"),
        (["--address", "auto"], "no workers to place"),
        (["--world", "nowhere"], "nowhere"),
        (["--world", "testcard", "--out", "/dev/null/folder"], "/dev/null/folder: Not a directory"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
