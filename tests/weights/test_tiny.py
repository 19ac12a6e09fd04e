"""The weights of the embedded world: they load, and what they dream is nearer to the truth than a still picture."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest
import torch
from huggingface_hub import ModelCard

import worldplay_env
from worldplay_env.evaluate.ground_truth import Truth
from worldplay_env.evaluate.measures import short_term
from worldplay_env.models.config import TINY
from worldplay_env.training.export import FILES, MOST_BYTES
from worldplay_env.weights import hub

FOLDER = Path(hub.__file__).with_name("tiny")
SEEDS = (900_000, 900_002, 900_013)
IDS = ("WorldPlay/Tiny-v0", "WorldPlay/Reach-v0")
"""What these weights are known as. Other weights are another environment: raise the version, then change these."""
DIGESTS = {
    "autoencoder.safetensors": "1f306887ac71ac45527261c14930e06bf22c6f4800b96f08fff35a92785e80da",
    "text_encoder.safetensors": "590f3b544e555828345c8e91ce441fe1674839a8795f63a3500dea4b1a222f0c",
    "transformer.safetensors": "6cdc1e5fb2a535a50d13742828d0503d44774d13f34c2fec67a5f09a86bfe731",
}


def test_the_hub_reads_the_card_s_licence_and_task() -> None:
    front = ModelCard.load(FOLDER / "README.md").data
    assert (front.license, front.pipeline_tag) == ("apache-2.0", "image-to-video")


def test_the_package_carries_trained_weights_of_the_size_allowed() -> None:
    assert sum((FOLDER / name).stat().st_size for name in FILES) <= MOST_BYTES
    assert hub.bundled().config == replace(TINY, autoencoder=hub.bundled().config.autoencoder)
    assert hub.bundled().config.autoencoder.latents_std != TINY.autoencoder.latents_std


def test_the_ids_of_the_embedded_world_stand_for_these_weights() -> None:
    digests = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in DIGESTS}
    assert digests == DIGESTS
    of_tiny = {name for name, spec in gymnasium.registry.items() if spec.kwargs.get("world") == "tiny"}
    assert of_tiny == set(IDS)


@pytest.mark.slow
def test_the_embedded_world_beats_the_starting_picture_shown_all_along() -> None:
    world = worldplay_env.load("tiny", device="cpu")
    assert world.weights == "trained"
    truths = [Truth(seed, world.image_size, torch.device("cpu")) for seed in SEEDS]
    for figures in short_term(world, truths, batch=len(SEEDS)):
        assert figures["world"]["psnr"] > figures["repeat"]["psnr"] + 1
