"""The transformer against diffusers' Wan transformer, and the properties that its callers rely on."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from small_world import CONFIG, small_transformer, wander
from torch import Tensor, nn

from worldplay_env.control.camera import DEFAULT_INTRINSICS, Motion, integrate, rebase, view_matrices
from worldplay_env.models.worldplay.transformer import Transformer

SIZE = CONFIG.latent_size
CHANNELS = CONFIG.transformer.in_channels
TOKENS = CONFIG.tokens_per_frame


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _cameras(poses: np.ndarray) -> tuple[Tensor, Tensor]:
    K = torch.tensor(DEFAULT_INTRINSICS).float().expand(1, len(poses), 3, 3)
    return torch.from_numpy(view_matrices(poses)).float()[None], K


def _call(
    transformer: Transformer, latents: Tensor, poses: np.ndarray, *, timestep: float = 960.0, label: int = 10
) -> Tensor:
    """Run memory (all but the last four frames) and chunk; return the chunk's velocity."""
    memory, frames = latents.shape[2] - 4, latents.shape[2]
    viewmats, K = _cameras(poses)
    labels = torch.full((1, frames), label)
    text = transformer.text_keys_values(_randn(1, 5, CONFIG.transformer.text_dim, seed=9))
    cache = transformer.new_cache(1, frames * TOKENS)
    if memory:
        behind = transformer.positions(range(memory), SIZE, viewmats[:, :memory], K[:, :memory])
        known = torch.full((1, memory), 14.0)
        layers = cache.layers(1, memory * TOKENS)
        transformer.prefill(latents[:, :, :memory], known, labels[:, :memory], behind, text, layers)
    positions = transformer.positions(range(memory, frames), SIZE, viewmats[:, memory:], K[:, memory:])
    timesteps = torch.full((1, 4), timestep)
    chunk = latents[:, :, memory:].to(transformer.dtype)
    return transformer(chunk, timesteps, labels[:, memory:], positions, text, cache.layers(1, frames * TOKENS))


@torch.no_grad()
def test_without_cameras_and_actions_it_is_diffusers_wan_transformer() -> None:
    config = CONFIG.transformer
    torch.manual_seed(0)
    oracle = WanTransformer3DModel(
        patch_size=config.patch_size,
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        cross_attn_norm=True,
        eps=config.eps,
    ).eval()
    ours = small_transformer()
    with torch.no_grad():
        for layer in (ours.action_embedder.linear_2, *(block.self_attention.to_out_prope for block in ours.blocks)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    theirs = {_diffusers_name(name): value for name, value in ours.state_dict().items()}
    oracle.load_state_dict({name: value for name, value in theirs.items() if name in oracle.state_dict()})

    latents, text = _randn(2, CHANNELS, 4, *SIZE), _randn(2, 5, config.text_dim, seed=1)
    viewmats, K = _cameras(wander(1, 0)[0].poses)
    positions = ours.positions(range(4), SIZE, viewmats.expand(2, -1, -1, -1), K.expand(2, -1, -1, -1))
    velocity = ours(
        latents,
        torch.full((2, 4), 888.8889),
        torch.zeros(2, 4),
        positions,
        ours.text_keys_values(text),
        ours.new_cache(2, 4 * TOKENS).layers(2, 4 * TOKENS),
    )
    expected = oracle(latents, torch.full((2,), 888.8889), text, return_dict=False)[0]
    assert torch.allclose(velocity, expected, atol=2e-5)


def _diffusers_name(name: str) -> str:
    for pattern, replacement in (
        (r"^(time|text)_embedder\.", r"condition_embedder.\1_embedder."),
        (r"^modulation_projection\.", "condition_embedder.time_proj."),
        (r"^output_projection\.", "proj_out."),
        (r"modulation_table$", "scale_shift_table"),
        (r"\.self_attention\.", ".attn1."),
        (r"\.cross_attention\.", ".attn2."),
        (r"\.to_out\.", ".to_out.0."),
        (r"\.cross_attention_norm\.", ".norm2."),
        (r"\.feed_forward\.linear_1\.", ".ffn.net.0.proj."),
        (r"\.feed_forward\.linear_2\.", ".ffn.net.2."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@torch.no_grad()
@pytest.mark.parametrize("memory", [0, 4, 16])
def test_rebased_and_plain_cameras_agree_near_the_origin(memory: int) -> None:
    transformer = small_transformer()
    latents = _randn(1, CHANNELS, memory + 4, *SIZE)
    poses = np.concatenate([control.poses for control in wander(memory // 4 + 1, 3)])
    plain, rebased = (_call(transformer, latents, each) for each in (poses, rebase(poses, poses[memory])))
    assert (plain - rebased).abs().max() < 1e-4


@torch.no_grad()
def test_far_from_the_origin_rebased_bfloat16_is_as_accurate_as_at_the_origin() -> None:
    exact, low = small_transformer().double(), small_transformer(torch.bfloat16)
    latents = _randn(1, CHANNELS, 8, *SIZE)
    near = np.concatenate([control.poses for control in wander(2, 3)])
    far = np.concatenate([control.poses for control in wander(2, 3, start=_at(300.0))])

    def error(poses: np.ndarray) -> float:
        rebased = rebase(poses, poses[4])
        expected = _call(exact, latents.double(), rebased)
        return float((_call(low, latents, rebased).double() - expected).norm() / expected.norm())

    assert error(far) < 2 * error(near) < 0.1


def _at(distance: float) -> np.ndarray:
    return integrate(np.eye(4), [Motion(yaw=0.7), Motion(forward=distance)])[-1]


@torch.no_grad()
@pytest.mark.parametrize("change", ["pose", "label", "timestep", "memory", "memory order"])
def test_every_condition_changes_the_velocity(change: str) -> None:
    transformer = small_transformer()
    latents = _randn(1, CHANNELS, 12, *SIZE)
    poses = np.concatenate([control.poses for control in wander(3, 3)])
    options: dict[str, float] = {}
    changed_latents, changed_poses = latents.clone(), poses.copy()
    if change == "pose":
        changed_poses[9] = changed_poses[9] @ _at(0.05)
    elif change == "label":
        options["label"] = 11
    elif change == "timestep":
        options["timestep"] = 727.2728
    elif change == "memory":
        changed_latents[:, :, 2] += 1
    else:
        changed_latents[:, :, [0, 1]] = latents[:, :, [1, 0]]
    before = _call(transformer, latents, poses)
    after = _call(transformer, changed_latents, changed_poses, **options)  # type: ignore[arg-type]
    assert (before - after).norm() / before.norm() > 1e-3


@torch.no_grad()
def test_memory_rows_of_the_cache_are_not_touched_by_the_chunk() -> None:
    transformer = small_transformer()
    latents = _randn(1, CHANNELS, 8, *SIZE)
    viewmats, K = _cameras(np.concatenate([control.poses for control in wander(2, 3)]))
    text = transformer.text_keys_values(_randn(1, 5, CONFIG.transformer.text_dim))
    labels, cache = torch.zeros(1, 4), transformer.new_cache(1, 8 * TOKENS)
    memory, everything = cache.layers(1, 4 * TOKENS), cache.layers(1, 8 * TOKENS)
    behind = transformer.positions(range(4), SIZE, viewmats[:, :4], K[:, :4])
    transformer.prefill(latents[:, :, :4], torch.full((1, 4), 14.0), labels, behind, text, memory)
    before = [[part.clone() for part in layer] for layer in memory]
    positions = transformer.positions(range(4, 8), SIZE, viewmats[:, 4:], K[:, 4:])
    first, second = (
        transformer(latents[:, :, 4:], torch.full((1, 4), 960.0), labels, positions, text, everything)
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert all(
        torch.equal(x, y) for one, other in zip(before, memory, strict=True) for x, y in zip(one, other, strict=True)
    )
