"""Counted operations are those that torch counts in a run, exactly; runs are on the meta device, of shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from small_world import CONFIG as SMALL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from worldplay_env.models import flops
from worldplay_env.models.config import TINY, WAN_5B, TransformerConfig, WorldConfig
from worldplay_env.models.wan import cost
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.text import text_model
from worldplay_env.models.worldplay.transformer import Transformer

CONFIGS = pytest.mark.parametrize("config", [TINY, SMALL, WAN_5B], ids=lambda config: config.name)


@pytest.fixture(autouse=True)
def _shapes_alone() -> Iterator[None]:
    with torch.device("meta"):
        yield


def counted(function: Callable[..., object], *args: object) -> int:
    # Fused attention is unknown to torch's counter on some devices; as plain matrix products it is counted.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        function(*args)
    return counter.get_total_flops()


def run_inputs(config: WorldConfig, frames: int) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    channels, (rows, columns) = config.transformer.in_channels, config.latent_size
    latents = torch.zeros(1, channels, frames, rows, columns)
    per_frame = torch.zeros(1, frames), torch.zeros(1, frames, dtype=torch.int64)
    return (latents, *per_frame), torch.eye(4).expand(1, frames, 4, 4)


@CONFIGS
@pytest.mark.parametrize("memory", [0, 4])
def test_transformer_operations_are_those_of_a_run(config: WorldConfig, memory: int) -> None:
    transformer = Transformer(config.transformer)
    text_tokens, frames, size = config.text.text_len, 3, config.latent_size
    tokens = config.tokens_per_frame
    cache = transformer.new_cache(1, (memory + frames) * tokens)
    embedding = torch.zeros(1, text_tokens, config.transformer.text_dim)

    with torch.no_grad():
        text = transformer.text_keys_values(embedding)
    if memory:
        inputs, viewmats = run_inputs(config, memory)
        positions = transformer.positions(range(memory), size, viewmats, None)
        assert counted(
            transformer.prefill, *inputs, positions, text, cache.layers(1, memory * tokens)
        ) == flops.prefill_operations(config.transformer, size, memory, text_tokens)
    inputs, viewmats = run_inputs(config, frames)
    positions = transformer.positions(range(memory, memory + frames), size, viewmats, None)
    assert counted(
        transformer.forward, *inputs, positions, text, cache.layers(1, (memory + frames) * tokens)
    ) == flops.forward_operations(config.transformer, size, frames, memory, text_tokens)


@CONFIGS
def test_autoencoder_operations_are_those_of_a_run(config: WorldConfig) -> None:
    autoencoder, (rows, columns) = Autoencoder(config.autoencoder), config.latent_size
    latents = torch.zeros(1, config.autoencoder.z_dim, 4, rows, columns)
    with torch.no_grad():
        _, state = autoencoder.decode(latents[:, :, :1])

    for before, first in ((None, True), (state, False)):
        assert counted(autoencoder.decode, latents, before) == autoencoder.decode_operations(
            config.latent_size, 4, first=first
        )
    assert counted(autoencoder.encode, torch.zeros(1, 3, 1, *config.image_size)) == autoencoder.encode_operations(
        config.image_size
    )


def test_decoding_in_a_split_takes_the_operations_of_decoding_at_once() -> None:
    config, size = TINY.autoencoder, TINY.latent_size
    one_by_one = sum(cost.decode_operations(config, size, 1, first=index == 0) for index in range(4))

    assert one_by_one == cost.decode_operations(config, size, 4, first=True)


def test_the_first_chunk_has_no_prefill() -> None:
    assert flops.chunk_operations(TINY, memory=0, frames=4)["prefill"] == 0


def test_the_linear_layers_of_the_real_model_take_two_operations_a_parameter_and_token() -> None:
    config: TransformerConfig = WAN_5B.transformer
    tokens = 4 * WAN_5B.tokens_per_frame
    blocks = Transformer(config).blocks
    # The prompt's keys and values are made once a prompt, not in a forward.
    matrices = [
        parameter.numel()
        for name, parameter in blocks.named_parameters()
        if parameter.ndim == 2 and not name.endswith(("cross_attention.to_k.weight", "cross_attention.to_v.weight"))
    ]
    attention_to_text = config.num_layers * 4 * tokens * 512 * config.dim
    attention_to_itself = config.num_layers * 2 * 4 * tokens * tokens * config.dim
    expected = 2 * tokens * sum(matrices) + attention_to_text + attention_to_itself

    assert flops.forward_operations(config, WAN_5B.latent_size, 4, 0, 512) == pytest.approx(expected, rel=0.01)


def test_the_embedded_world_is_small_enough_for_two_cores() -> None:
    counted = flops.chunk_operations(TINY, 16, 4)
    rest = counted["prefill"] + 4 * counted["denoise"]
    assert rest < cost.decode_operations(TINY.autoencoder, TINY.latent_size, 4, first=False) < 25e9
    networks = Transformer(TINY.transformer), Autoencoder(TINY.autoencoder), text_model(TINY.text)
    assert sum(parameter.numel() for network in networks for parameter in network.parameters()) < 20e6
