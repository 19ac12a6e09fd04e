"""What passes into worlds is checked, and loaded worlds are shared."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldplay_env.control.actions import motion_of
from worldplay_env.control.camera import integrate, move
from worldplay_env.worlds.base import Control, Start, check_step
from worldplay_env.worlds.device import pick_device
from worldplay_env.worlds.registry import WORLDS, describe, load
from worldplay_env.worlds.testcard import Testcard

POSES = np.broadcast_to(np.eye(4), (4, 4, 4))
LABELS = np.zeros(4, dtype=np.int64)
SCALED = POSES * np.array([2.0, 2.0, 2.0, 1.0])[:, None]
K = np.broadcast_to(np.array([[0.5, 0, 0.5], [0, 0.9, 0.5], [0, 0, 1]]), (4, 3, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Start(prompt=3), TypeError, "the prompt must be a string, got int: 3"),
        (lambda: Start(image="a.png"), ValueError, "Start.image must be a uint8 array .*got str"),
        (lambda: Start(image=np.zeros((4, 4, 3))), ValueError, r"got float64 \(4, 4, 3\)"),
        (lambda: Start(image=np.zeros((4, 4), np.uint8)), ValueError, r"got uint8 \(4, 4\)"),
        (lambda: Start(pose=SCALED[0]), ValueError, "rotation"),
        (lambda: Start(pose=np.full((4, 4), np.nan)), ValueError, "finite"),
        (lambda: Control(POSES[:3], LABELS), ValueError, r"4 labels need 4 poses of 4x4, got shape \(3, 4, 4\)"),
        (lambda: Control(SCALED, LABELS), ValueError, "rotation"),
        (lambda: Control(POSES, LABELS[:3]), ValueError, "3 labels need 3 poses"),
        (lambda: Control(POSES, LABELS.astype(float)), ValueError, "4 integer labels, got float64"),
        (lambda: Control(POSES, LABELS + 81), ValueError, r"0..80, got \[81"),
        (lambda: Control(POSES, LABELS - 1), ValueError, r"0..80, got \[-1"),
        (
            lambda: Control(POSES, LABELS, K[:2]),
            ValueError,
            r"intrinsics must be numbers of shape \[4, 3, 3\], got float64 \[2, 3, 3\]",
        ),
        (lambda: Control(POSES, LABELS, K * np.nan), ValueError, "intrinsics hold NaN"),
    ],
)
def test_a_start_or_a_control_that_makes_no_sense_cannot_be_made(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_chunk_0_has_the_start_and_three_motions_and_every_later_one_four() -> None:
    pose = integrate(np.eye(4), [motion_of(40)] * 5)[-1]
    first = Control.of_labels(pose, [80, 9, 1, 10], first=True)
    np.testing.assert_array_equal(first.poses, integrate(pose, [motion_of(label) for label in (9, 1, 10)]))
    assert first.labels.tolist() == [0, 9, 1, 10]
    later = Control.of_labels(pose, np.array([80, 9, 1, 10]), first=False)
    np.testing.assert_array_equal(later.poses[0], move(pose, motion_of(80)))
    np.testing.assert_array_equal(later.poses[1:], integrate(later.poses[0], map(motion_of, (9, 1, 10)))[1:])
    assert later.labels.tolist() == [80, 9, 1, 10]


def test_controls_of_labels_do_not_write_to_their_argument() -> None:
    labels = np.array([5, 6, 7, 8])
    Control.of_labels(np.eye(4), labels, first=True)
    assert labels.tolist() == [5, 6, 7, 8]


def test_equal_loads_share_a_world_while_it_is_used() -> None:
    world = load("testcard", image_size=(16, 32))
    assert load("testcard", image_size=(16, 32)) is world
    assert load("testcard", image_size=(32, 16)) is not world
    gone: list[str] = []
    weakref.finalize(world, gone.append, "gone")
    del world
    gc.collect()
    assert gone == ["gone"]
    assert load("testcard", image_size=(16, 32)).image_size == (16, 32)


def test_a_copied_or_pickled_world_is_the_same_one() -> None:
    world = load("testcard", image_size=(16, 32))
    assert copy.deepcopy({"world": [world]})["world"][0] is world
    assert pickle.loads(pickle.dumps(world)) is world


def test_a_world_made_by_hand_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="only a world that load"):
        pickle.dumps(Testcard())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "atlantis"},
            "unknown world 'atlantis': known are tiny, wan-5b, abot-5b, abot-small, testcard, scene, or a folder of "
            "weights",
        ),
        ({"name": "testcard", "dtype": "int8"}, "unknown dtype 'int8': known are float32, bfloat16, float16"),
        ({"name": "testcard", "device": "abacus"}, "unknown device 'abacus'"),
        ({"name": "testcard", "device": "cuda:77"}, "there is no device 'cuda:77'"),
    ],
)
def test_unknown_names_are_told_with_the_known_ones(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(**arguments)


@pytest.mark.parametrize("name", [name for name in WORLDS if not name.endswith("5b")])
def test_a_world_is_as_it_is_described(name: str) -> None:
    assert load(name, device="cpu", weights="random" if name == "abot-small" else None).spec == describe(name)


def test_the_real_model_is_described_without_its_weights() -> None:
    described = describe("wan-5b")
    assert (described.image_size, described.latent_shape, described.fps) == ((704, 1280), (48, 4, 44, 80), 16)


def test_an_unknown_world_or_empty_folder_is_not_described(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("unknown world 'atlantis': known are tiny, wan-5b, abot-5b")):
        describe("atlantis")
    with pytest.raises(Exception, match=re.escape(str(tmp_path))):
        describe(tmp_path)


@pytest.mark.parametrize("device", [None, "cuda", "cuda:0"])
def test_cuda_after_a_fork_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, device: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match=r'forked after its parent had used CUDA.*"spawn"'):
        pick_device(device)
    assert pick_device("cpu") == torch.device("cpu")


def test_a_batch_without_rollouts_is_no_error() -> None:
    world = load("testcard")
    check_step(world, [], [])
    assert world.step([], []) == []


@pytest.mark.parametrize("name", ["testcard", "scene"])
def test_settings_of_models_are_checked_where_they_mean_nothing_too(name: str) -> None:
    with pytest.raises(ValueError, match="weights must be None"):
        load(name, weights="nonsense")
    with pytest.raises(TypeError, match="accept_license must be a bool, got 'no'"):
        load(name, accept_license="no")  # type: ignore[arg-type]
