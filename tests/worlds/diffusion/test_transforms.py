"""What is done with the networks of a world before it is built."""

from __future__ import annotations

import torch
from small_world import PATH, begin, small_world
from torch import nn

import worldplay_env
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.worlds.diffusion.world import DiffusionWorld


def test_a_function_is_given_the_transformer_then_the_autoencoder_and_what_it_returns_is_used() -> None:
    given: list[nn.Module] = []

    def note(module: nn.Module) -> nn.Module:
        given.append(module)
        return module

    def other(module: nn.Module) -> nn.Module:
        return small_world().transformer if isinstance(module, Transformer) else module

    world = small_world(transforms=[note, other, note])
    assert [type(module) for module in given] == [Transformer, Autoencoder] * 2
    assert given[2] is world.transformer is not given[0]
    plain = small_world()
    [found], [expected] = (each.step([begin(each, 0)], [PATH[0]]) for each in (world, plain))
    assert torch.equal(found.latents, expected.latents)


def test_a_loaded_world_takes_functions_and_options_and_8_bits_cost_little() -> None:
    def silent(module: nn.Module) -> nn.Module:
        if isinstance(module, Transformer):
            nn.init.zeros_(module.output_projection.weight)
            nn.init.zeros_(module.output_projection.bias)
        return module

    tiny, still, small = (
        worldplay_env.load("tiny", weights="random", device="cpu", **options)
        for options in ({}, {"transforms": (silent,)}, {"quantize": "fp8"})
    )
    assert len({id(world) for world in (tiny, still, small)}) == 3
    made = []
    for world in (tiny, still, small):
        assert isinstance(world, DiffusionWorld)
        rollout = world.start(worldplay_env.Start(None, "a place"), 0)
        noise = rollout.noise()
        made.append(world.step([rollout], [PATH[0]], decode=False)[0].latents)
    assert torch.equal(made[1], noise)  # where nothing flows
    assert 0 < (made[2] - made[0]).norm() < 0.1 * made[0].norm()
