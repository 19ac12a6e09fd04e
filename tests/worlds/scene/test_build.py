"""Scenes are pure functions of their seeds, with a free place to begin and a caption that reads well."""

from __future__ import annotations

import re
from dataclasses import fields

import numpy as np
import pytest

from worldplay_env.training.scene_clips import training_seeds
from worldplay_env.worlds.scene.build import HELD_OUT_SEED, Scene, build
from worldplay_env.worlds.scene.collision import is_free

SCENES = [build(seed) for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 60)]


def arrays(scene: Scene) -> list[np.ndarray]:
    return [value for name in fields(scene) if isinstance(value := getattr(scene, name.name), np.ndarray)]


@pytest.mark.parametrize("seed", [0, 7, 900_000, 2**60])
def test_equal_seeds_build_equal_scenes(seed: int) -> None:
    one, other = build(seed), build(seed)
    assert (one.caption, one.kind) == (other.caption, other.kind)
    for array, again in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(array, again)


def test_different_seeds_build_different_scenes() -> None:
    assert len({scene.boxes.tobytes() for scene in SCENES}) == len(SCENES)
    assert len({scene.caption for scene in SCENES}) == len(SCENES)


def test_there_are_many_kinds_of_place_times_of_day_and_weathers() -> None:
    words = " ".join(scene.caption for scene in SCENES)
    assert {scene.kind for scene in SCENES} == {"room", "hall", "courtyard", "garden", "street", "square"}
    for phrase in ("at noon", "at dusk", "at night", "in the morning", "lamplight", "snow", "fog", "clear sky"):
        assert phrase in words


def test_a_scene_begins_where_a_camera_may_be_at_eye_level() -> None:
    for scene in SCENES:
        position = scene.start[None, :3, 3]
        assert is_free(scene.solids[None], scene.bounds[None], position).all()
        assert position[0, 1] == 0
        np.testing.assert_allclose(scene.start[:3, :3] @ scene.start[:3, :3].T, np.eye(3), atol=1e-12)


def test_scenes_hold_finite_numbers_in_equal_shapes() -> None:
    shapes = {tuple(array.shape for array in arrays(scene)) for scene in SCENES}
    assert len(shapes) == 1
    assert all(np.isfinite(array).all() for scene in SCENES for array in arrays(scene))


def test_captions_have_the_right_articles() -> None:
    for scene in SCENES:
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", scene.caption), scene.caption
        assert scene.caption.startswith(f"a {scene.kind} ")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more, got -1"):
        build(-1)


def test_training_never_draws_a_held_out_scene() -> None:
    for seed in range(18):
        assert max(training_seeds(50_000, seed)) < HELD_OUT_SEED
    for count, seed in ((50_000, 18), (1, 18), (900_001, 0), (1, -1)):
        with pytest.raises(ValueError, match="held-out"):
            training_seeds(count, seed)
