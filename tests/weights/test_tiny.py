"""The weights of the embedded world: they load, and what they dream is nearer to the truth than a still picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import worldplay_env
from worldplay_env.evaluation.scene import short_term
from worldplay_env.evaluation.truth import Truth
from worldplay_env.model.config import TINY
from worldplay_env.training.export import FILES, MOST_BYTES
from worldplay_env.weights import hub

SEEDS = (900_000, 900_002, 900_013)


def test_the_package_carries_trained_weights_of_the_size_allowed() -> None:
    folder = Path(hub.__file__).with_name("tiny")
    assert sum((folder / name).stat().st_size for name in FILES) <= MOST_BYTES
    assert hub.bundled().config == replace(TINY, autoencoder=hub.bundled().config.autoencoder)
    assert hub.bundled().config.autoencoder.latents_std != TINY.autoencoder.latents_std


@pytest.mark.slow
def test_the_embedded_world_beats_the_starting_picture_shown_all_along() -> None:
    world = worldplay_env.load("tiny", device="cpu")
    assert world.weights == "trained"
    truths = [Truth(seed, world.image_size, torch.device("cpu")) for seed in SEEDS]
    for figures in short_term(world, truths, batch=len(SEEDS)):
        assert figures["world"]["psnr"] > figures["repeat"]["psnr"] + 1
