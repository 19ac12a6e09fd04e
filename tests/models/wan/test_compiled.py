"""Compiled parts: few graphs, whole ones, for all layers and lengths of memory, and none beyond the bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_world import CONFIG, begin, small_world, wander
from torch import Tensor, nn
from torch.fx import GraphModule

from worldplay_env.models.abot.config import ABOT_SMALL
from worldplay_env.models.codec import DecoderState
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.block import Block
from worldplay_env.models.wan.compiled import MOST_SHAPES, Compiled
from worldplay_env.models.wan.transforms import CompileNetworks, transforms_of
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.weights.checkpoint import RandomWeights, initialise, load_small_codec
from worldplay_env.worlds.diffusion.world import DiffusionWorld

LAYERS = 12
"""More than the graphs that torch keeps of one function."""


class Counting:
    """A backend of `torch.compile` that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend() -> Iterator[Counting]:
    torch.compiler.reset()
    yield Counting()
    torch.compiler.reset()


def deep_world(*transforms: Callable[[nn.Module], nn.Module]) -> DiffusionWorld:
    config = replace(CONFIG, transformer=replace(CONFIG.transformer, num_layers=LAYERS))
    networks = (
        initialise(Transformer(config.transformer), seed=1),
        initialise(Autoencoder(config.autoencoder), seed=2),
    )
    return DiffusionWorld(config, *networks, transforms=transforms)


@pytest.mark.slow
def test_graphs_of_a_deep_model_are_bounded_and_none_is_added_in_a_long_run(backend: Counting) -> None:
    """64 chunks with a fork, a new prompt, a reset, and one world or two."""
    world, plain = deep_world(CompileNetworks(backend)), deep_world()
    path = wander(24, seed=1)

    def run(rollouts: list[Any], chunks: int) -> None:
        for index in range(chunks):
            controls = [path[rollout.chunks] for rollout in rollouts]
            world.step(rollouts, controls, decode=index < 2)

    pair = [begin(world, seed) for seed in range(2)]
    run(pair[:1], 6)
    run([pair[1]], 6)
    fresh = [begin(world, seed, prompt=seed) for seed in (2, 3)]
    run(fresh, 6)
    before = backend.graphs
    # Four parts of a block for 4, 8, 12, 16 frames of one world and 8, 16, 24, 32 of two; the decoder's first and
    # later chunks of either.
    assert before <= 4 * 6 + 4
    fork = pair[0].fork()
    fork.encoded_prompt = fresh[0].encoded_prompt
    run([fork], 12)
    run([pair[0], fresh[0]], 12)
    run([begin(world, 5)], 12)
    run([begin(world, seed) for seed in (6, 7)], 10)
    assert backend.graphs == before

    compiled, expected = begin(world, 9), begin(plain, 9)
    for control in path[:3]:
        [found], [right] = world.step([compiled], [control]), plain.step([expected], [control])
        torch.testing.assert_close(found.latents, right.latents, rtol=1e-4, atol=1e-4)
        assert (found.frames.int() - right.frames.int()).abs().max() <= 1  # type: ignore[union-attr]


@pytest.mark.slow
def test_nothing_is_compiled_after_a_warmup_and_chunks_are_those_of_a_plain_world(backend: Counting) -> None:
    world, plain = small_world(transforms=[CompileNetworks(backend)]), small_world()
    world.warmup(batch=2)
    compiled = backend.graphs
    assert compiled > 0
    pairs = [[begin(each, seed) for seed in range(2)] for each in (world, plain)]
    for control in wander(7, seed=1):
        found, expected = world.step(pairs[0], [control] * 2), plain.step(pairs[1], [control] * 2)
        for chunk, right in zip(found, expected, strict=True):
            torch.testing.assert_close(chunk.latents, right.latents, rtol=1e-4, atol=1e-4)
    assert backend.graphs == compiled


def test_a_whole_block_can_be_compiled_by_others_with_one_graph_for_all_layers(backend: Counting) -> None:
    def compile_blocks(module: nn.Module) -> nn.Module:
        for block in module.modules():
            if isinstance(block, Block):
                block.compile(backend=backend, dynamic=False, fullgraph=True)
        return module

    world = deep_world(compile_blocks)
    rollout, path = begin(world, 0), wander(8, seed=1)
    for control in path:
        world.step([rollout], [control])
    assert backend.graphs <= 9  # a chunk behind five lengths of memory, a prefill of four


@torch.no_grad()
def test_the_small_decoder_is_compiled_for_first_and_later_chunks(backend: Counting) -> None:
    plain, compiled = (
        load_small_codec(RandomWeights(), RandomWeights(), ABOT_SMALL.autoencoder, ABOT_SMALL.small_decoder)
        for _ in range(2)
    )
    CompileNetworks(backend)(compiled)
    latents = torch.randn(1, ABOT_SMALL.autoencoder.z_dim, 9, 2, 3, generator=torch.Generator().manual_seed(0))
    states: list[DecoderState | None] = [None, None]
    for part in latents.split(3, dim=2):
        made = [codec.decode(part, state) for codec, state in zip((plain, compiled), states, strict=True)]
        torch.testing.assert_close(made[1][0], made[0][0], rtol=1e-4, atol=1e-5)
        states = [state for _, state in made]
    assert backend.graphs == 2


def test_beyond_its_shapes_a_function_runs_as_it_is(backend: Counting) -> None:
    doubled = Compiled(_double, len, backend=backend)
    for size in range(1, MOST_SHAPES + 5):
        assert doubled(torch.ones(size)).tolist() == [2.0] * size
    assert backend.graphs == MOST_SHAPES
    named = Compiled(_double, len, shapes=[3], backend=backend)
    assert [named(torch.ones(size)).sum() for size in (2, 3)] == [4, 6]
    assert backend.graphs == MOST_SHAPES + 1


def _double(x: Tensor) -> Tensor:
    return 2 * x


@pytest.mark.parametrize(("options", "message"), [
    ({"quantize": "int3"}, "unknown quantize 'int3': known are fp8"),
    ({"attention": "fast"}, "unknown attention 'fast': known are cudnn"),
])  # fmt: skip
def test_an_unknown_way_to_run_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transforms_of(**options)
