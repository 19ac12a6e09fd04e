"""Configurations that cannot be a world are refused when they are made."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from worldplay_env.models.config import PRESETS, TINY, WAN_5B, AutoencoderConfig, TransformerConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": (97, 160)}, "multiples of (16, 16), got (97, 160)"),
        ({"image_size": (0, 160)}, "got (0, 160)"),
        ({"image_size": (96,)}, "got (96,)"),
        ({"image_size": "ab"}, "got ('a', 'b')"),
        ({"image_size": (96.0, 160)}, "got (96.0, 160)"),
        ({"fps": 0}, "a positive whole number, got 0"),
        ({"fps": "x"}, "a positive whole number, got 'x'"),
    ],
)
def test_a_world_without_whole_frames_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(TINY, **values)


def test_networks_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 30"):
        replace(TINY.transformer, attention_head_dim=30)
    with pytest.raises(ValueError, match="must not merge latent frames"):
        replace(TINY.transformer, patch_size=(2, 2, 2))
    with pytest.raises(ValueError, match="one entry between two levels: 2, got 1"):
        replace(TINY.autoencoder, temporal_downsample=(True,))
    with pytest.raises(ValueError, match="need z_dim = 96 values each"):
        replace(TINY.autoencoder, latents_mean=(0.0,))


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda config: config.name)
def test_a_configuration_survives_the_names_of_a_checkpoint(config: Any) -> None:
    assert TransformerConfig.from_dict({**asdict(config.transformer), "dropout": 0.1}) == config.transformer
    theirs = asdict(config.autoencoder)
    theirs["temperal_downsample"] = theirs.pop("temporal_downsample")
    assert AutoencoderConfig.from_dict(theirs) == config.autoencoder


def test_a_configuration_that_lacks_a_size_says_which() -> None:
    with pytest.raises(ValueError, match=r"TransformerConfig: the configuration lacks .*ffn_dim"):
        TransformerConfig.from_dict({"num_layers": 2})


def test_the_real_model_has_the_sizes_of_its_specification() -> None:
    assert WAN_5B.latent_size == (44, 80)
    assert WAN_5B.tokens_per_frame == 880
    assert WAN_5B.transformer.dim == 3072
    assert WAN_5B.autoencoder.spatial_factor == 16
    assert WAN_5B.autoencoder.temporal_factor == 4
