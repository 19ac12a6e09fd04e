"""The transformer stage: its data is what the world would see, its fused network is the model, and it learns."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_paths import SIZE, small_paths
from small_world import CONFIG
from torch import Tensor

from worldplay_env.control.actions import labels_of, motion_of
from worldplay_env.control.camera import DEFAULT_INTRINSICS, integrate, rebase, view_matrices
from worldplay_env.models.worldplay import memory, sampler
from worldplay_env.training import latent_dataset as data
from worldplay_env.training import trajectories as paths_module
from worldplay_env.training.fused_transformer import FusedTransformer
from worldplay_env.training.muon import Optimiser
from worldplay_env.training.networks import Networks, fresh, is_inside
from worldplay_env.training.trajectories import memory_length, path_labels, plan, undo
from worldplay_env.training.transformer import TransformerOptions, draw, draw_timesteps, flow_losses, noised
from worldplay_env.weights.checkpoint import initialise

CPU = torch.device("cpu")
OPTIONS = TransformerOptions(frames=48, memory_noise=0.0)


def test_a_planned_path_has_the_memory_and_the_labels_that_the_world_would_have() -> None:
    planned = plan(range(3), 7, SIZE, seed=1)
    for poses, labels, chosen in zip(planned.poses, planned.labels, planned.memory, strict=True):
        assert labels.tolist() == labels_of(poses).tolist()
        for chunk in range(7):
            expected = memory.select(view_matrices(poses)[: 4 * chunk + 4])
            assert chosen[chunk, : memory_length(chunk)].tolist() == expected.tolist()


def test_planning_again_gives_the_same_paths_and_another_seed_others() -> None:
    first, again, other = (plan(range(3), 4, SIZE, seed=seed) for seed in (1, 1, 2))
    assert (first.poses == again.poses).all()
    assert (first.poses != other.poses).any()


def test_paths_are_through_scenes_of_both_editions() -> None:
    editions = []
    for first in range(0, 48, 4):
        planned = plan(range(first, first + 1), 1, SIZE, second=0.5)
        editions += [scene.edition for scene in planned.scenes]
    assert 2 <= editions.count(2) <= 10
    assert plan(range(3), 1, SIZE, second=1.0).scenes[0].edition == 2
    assert plan(range(3), 1, SIZE).scenes[0].edition == 1


def test_plans_that_nobody_asked_for_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths_module, "_SHARD", 1)
    pools: list[ThreadPoolExecutor] = []

    def threads(workers: int, **options: Any) -> ThreadPoolExecutor:
        pools.append(ThreadPoolExecutor(workers))
        return pools[-1]

    begun: list[int] = []

    def slow_plan(seeds: range, **options: Any) -> range:
        begun.append(seeds[0])
        time.sleep(0.02)
        return seeds

    monkeypatch.setattr(paths_module, "ProcessPoolExecutor", threads)
    monkeypatch.setattr(paths_module, "plan", slow_plan)
    with paths_module.plans(range(100), 1, SIZE, workers=2) as planned:
        assert [next(planned), next(planned)] == [range(1), range(1, 2)]
    pools[0].shutdown(wait=True)
    assert len(begun) < 10


@pytest.mark.parametrize("steps", [3, 4, 19, 63])
def test_every_kind_of_path_has_the_length_asked_for(steps: int) -> None:
    labels = path_labels(np.random.default_rng(0), 100, steps)
    assert labels.shape == (100, steps)
    assert labels.min() >= 0
    assert labels.max() <= 80


def test_undoing_single_moves_leads_back_to_the_start() -> None:
    out = np.array([9, 9, 1, 27, 3, 36, 2])
    there_and_back = integrate(np.eye(4), [motion_of(int(label)) for label in [*out, *undo(out)]])
    np.testing.assert_allclose(there_and_back[-1], np.eye(4), atol=1e-12)


def test_a_batch_holds_the_chosen_frames_and_cameras_seen_from_the_chunk() -> None:
    paths = small_paths(chunks=6)
    rows, chunk = torch.tensor([1, 0]), torch.tensor([5, 4])
    batch = paths.take(rows, chunk, 16)
    for row, path, number in zip(range(2), rows, chunk, strict=True):
        frames = [*paths.memory[path, number].tolist(), *range(4 * number, 4 * number + 4)]
        torch.testing.assert_close(batch.memory[row], paths.latents[path, frames[:16]].float().transpose(0, 1))
        torch.testing.assert_close(batch.clean[row], paths.latents[path, frames[16:]].float().transpose(0, 1))
        assert batch.labels[row].tolist() == paths.labels[path, frames].tolist()
        poses = paths.c2w[path].numpy()
        expected = view_matrices(rebase(poses[frames], poses[4 * number]))
        np.testing.assert_allclose(batch.viewmats[row], expected, atol=1e-6)


@pytest.mark.parametrize(("length", "draws", "dtype", "tolerance"), [
    (0, 1, torch.float32, 1e-5), (4, 3, torch.float32, 1e-5), (16, 2, torch.float32, 1e-5),
    (8, 2, torch.bfloat16, 3e-2),
])  # fmt: skip
@torch.no_grad()
def test_the_pieces_compute_what_the_model_computes(
    length: int, draws: int, dtype: torch.dtype, tolerance: float
) -> None:
    networks = initialise(Networks(CONFIG), 1)
    transformer, paths = networks.transformer, small_paths(chunks=5)
    batch = paths.take(torch.arange(2), torch.full((2,), length // 4), length)
    x = torch.randn(2 * draws, *batch.clean.shape[1:], generator=torch.Generator().manual_seed(1))
    timesteps = torch.linspace(0, 1000, 8 * draws).view(2 * draws, 4)
    clean = torch.full((2, length), sampler.KNOWN_TIMESTEP)
    embedding = networks.embed(paths.tokens, paths.mask)
    labels, viewmats = batch.labels.split((length, 4), 1), batch.viewmats.split((length, 4), 1)

    fused = FusedTransformer(transformer, dtype)
    text = fused.text(embedding)
    remembered = fused.prefill(batch.memory, clean, labels[0], viewmats[0], text) if length else None
    found = fused.velocity(x, timesteps, labels[1], viewmats[1], text, remembered)

    K = torch.tensor(DEFAULT_INTRINSICS).float().expand(2, length + 4, 3, 3).split((length, 4), 1)
    prompt, tokens = transformer.text_keys_values(embedding), CONFIG.tokens_per_frame
    cache = transformer.new_cache(2, (length + 4) * tokens)
    if length:
        behind = transformer.positions(range(length), (4, 6), viewmats[0], K[0])
        transformer.prefill(batch.memory, clean, labels[0], behind, prompt, cache.layers(2, length * tokens))
    positions = transformer.positions(range(length, length + 4), (4, 6), viewmats[1], K[1])
    layers = cache.layers(2, (length + 4) * tokens)
    for index in range(draws):
        expected = transformer(x[index::draws], timesteps[index::draws], labels[1], positions, prompt, layers)
        error = (found[index::draws] - expected).norm() / expected.norm()
        assert error < tolerance


def test_training_through_a_prefill_reaches_memory_and_parameters() -> None:
    networks, paths = initialise(Networks(CONFIG), 1), small_paths(chunks=2)
    batch = paths.take(torch.arange(2), torch.ones(2, dtype=torch.int64), 4)
    remembered = batch.memory.requires_grad_()
    fused = FusedTransformer(networks.transformer, torch.float32)
    text = fused.text(networks.embed(paths.tokens, paths.mask))
    known = torch.full((2, 4), sampler.KNOWN_TIMESTEP)
    memory = fused.prefill(remembered, known, batch.labels[:, :4], batch.viewmats[:, :4], text)
    x = torch.randn(4, *batch.clean.shape[1:], generator=torch.Generator().manual_seed(1))  # two draws of each chunk
    velocity = fused.velocity(x, torch.full((4, 4), 960.0), batch.labels[:, 4:], batch.viewmats[:, 4:], text, memory)
    velocity.square().sum().backward()
    assert remembered.grad is not None
    assert remembered.grad.abs().sum() > 0
    assert [name for name, value in networks.transformer.named_parameters() if value.grad is None] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles for a CPU by a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own parts
def test_a_compiled_transformer_computes_and_learns_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    paths, options = small_paths(2, 2), replace(OPTIONS, frames=48)
    batch = draw(paths, options, np.random.default_rng(0), torch.Generator().manual_seed(0))
    gradients = []
    for compiled in ((), (48,)):
        networks = initialise(Networks(CONFIG), 1)
        fused = FusedTransformer(networks.transformer, torch.float32, compiled)
        fused.warm_up(CONFIG.tokens_per_frame)
        flow_losses(networks, fused, 0.1, batch)["loss"].backward()
        gradients.append([parameter.grad for parameter in networks.transformer.parameters()])
    assert "compiled for [48] frames" in capsys.readouterr().out
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


def test_draws_of_a_chunk_are_at_different_levels_of_the_sampler() -> None:
    drawn = draw_timesteps(500, 4, torch.Generator().manual_seed(0)).view(500, 4)
    levels = torch.isin(drawn, torch.tensor(sampler.TIMESTEPS))
    assert 0.85 < levels.float().mean() < 0.95
    complete = drawn[levels.all(1)]
    assert (complete.sort(1).values == torch.tensor(sampler.TIMESTEPS).sort().values).all()


def test_memory_is_noised_a_frame_at_a_time_and_the_first_picture_never() -> None:
    paths = small_paths(chunks=6)
    chunks = paths.take(torch.arange(2), torch.full((2,), 4), 16)
    assert chunks.starts.tolist() == (paths.memory[:2, 4] == 0).tolist()
    assert chunks.starts[:, 0].all()
    change = (noised(chunks, 0.5, torch.Generator().manual_seed(0)) - chunks.memory).abs().mean((1, 3, 4))  # [b, K]
    assert (change[:, 0] == 0).all()
    assert (change[:, 1:] > 0).all()
    assert change[:, 1:].std(1).min() > 0.02


def test_a_shortened_memory_is_without_its_newest_frames() -> None:
    paths = small_paths(chunks=6)
    rows = torch.arange(2)
    full, short = (paths.take(rows, torch.full((2,), 5), length) for length in (16, 12))
    assert torch.equal(short.memory, full.memory[:, :, :12])
    assert torch.equal(short.clean, full.clean)
    assert torch.equal(short.viewmats[:, :12], full.viewmats[:, :12])
    assert (paths.memory[:, 5, 11] < paths.memory[:, 5, 12]).all()


def test_flow_matching_overfits_one_path() -> None:
    paths, options = small_paths(1, 2), replace(OPTIONS, frames=96)
    networks = fresh(CONFIG, 0, CPU)
    fused = FusedTransformer(networks.transformer, torch.float32)
    optimiser = Optimiser(networks, is_inside)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    losses: list[Tensor] = []
    for _ in range(100):
        losses.append(flow_losses(networks, fused, 0.1, draw(paths, options, rng, generator))["loss"])
        losses[-1].backward()
        optimiser.step(1e-2)
    before, after = (torch.stack(part).mean() for part in (losses[:5], losses[-5:]))
    assert after < 0.6 * before


def test_a_batch_size_that_a_memory_length_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of 48.*100"):
        replace(OPTIONS, frames=100)


def test_nothing_held_out_is_trained_on() -> None:
    assert data.HELD_OUT_PATHS >= data.HELD_OUT_SEED
