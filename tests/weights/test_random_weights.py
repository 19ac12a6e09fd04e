"""Random parameters: a function of the seed, in the range of trained ones."""

from __future__ import annotations

import dataclasses
import json

import torch
from torch import Tensor
from weight_forms import CONFIG, GOLDEN

from worldplay_env.models.config import TINY, AutoencoderConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.weights.checkpoint import (
    RandomWeights,
    initialise,
    load_autoencoder,
    load_text_encoder,
    load_transformer,
)

AUTOENCODER_CONFIG = AutoencoderConfig.from_dict(json.loads((GOLDEN / "vae.json").read_text())["config"])


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_random_parameters_depend_on_the_seed_alone_and_leave_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, again, other = (load_transformer(RandomWeights(seed), CONFIG).state_dict() for seed in (1, 1, 2))
    assert_same(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].dim() > 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_parameter_that_two_sizes_share_is_the_same_in_both() -> None:
    small = load_transformer(RandomWeights(0), CONFIG).state_dict()
    deeper = dataclasses.replace(CONFIG, num_layers=CONFIG.num_layers + 1)
    large = load_transformer(RandomWeights(0), deeper).state_dict()
    assert all(torch.equal(small[name], large[name]) for name in small)


def test_a_module_in_memory_can_be_initialised_too() -> None:
    module = initialise(Autoencoder(AUTOENCODER_CONFIG), seed=5)
    assert_same(module.state_dict(), load_autoencoder(RandomWeights(5), AUTOENCODER_CONFIG).state_dict())


@torch.no_grad()
def test_a_random_transformer_gives_velocities_of_order_one() -> None:
    transformer = load_transformer(RandomWeights(0), TINY.transformer)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, TINY.autoencoder.z_dim, 4, *TINY.latent_size, generator=generator)
    velocity = transformer(
        latents,
        torch.full((1, 4), 1000.0),
        torch.zeros(1, 4, dtype=torch.int64),
        transformer.positions(range(4), TINY.latent_size, torch.eye(4).expand(1, 4, 4, 4), None),
        transformer.text_keys_values(torch.randn(1, 8, TINY.transformer.text_dim, generator=generator)),
        transformer.new_cache(1, 4 * TINY.tokens_per_frame).layers(1, 4 * TINY.tokens_per_frame),
    )
    assert 0.05 < velocity.std() < 20


@torch.no_grad()
def test_random_autoencoder_and_text_encoder_give_values_of_order_one() -> None:
    autoencoder = load_autoencoder(RandomWeights(0), TINY.autoencoder)
    generator = torch.Generator().manual_seed(0)
    mean, _ = autoencoder.encode(torch.rand(1, 3, 1, 96, 160, generator=generator) * 2 - 1)
    frames, _ = autoencoder.decode(autoencoder.normalise(mean))
    embedding = load_text_encoder(RandomWeights(0), None, TINY.text).encode(["a path"])[0, :7]
    for values in (mean, frames, embedding):
        assert 0.05 < values.std() < 20
