"""The distillation stage: rollouts go on with their own history, and the four steps get better at them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_paths import SIZE
from small_world import CONFIG, begin, small_world
from torch import Tensor

from worldplay_env.control.camera import DEFAULT_INTRINSICS
from worldplay_env.evaluate.metrics import visible
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.training import distill
from worldplay_env.training.distill import DistillOptions, Rollouts, draw, draw_true, rollout_losses
from worldplay_env.training.fused_transformer import FusedTransformer
from worldplay_env.training.held_out import roll_out
from worldplay_env.training.latent_dataset import LatentPaths, render_paths
from worldplay_env.training.losses import contrast_score, contrasts, latent_score, pictures, pixel_score
from worldplay_env.training.muon import Optimiser
from worldplay_env.training.networks import Networks, fresh, is_inside, without_prompts
from worldplay_env.training.scene_clips import SceneClips
from worldplay_env.training.trajectories import plan
from worldplay_env.weights.checkpoint import initialise
from worldplay_env.weights.files import CheckpointError
from worldplay_env.worlds.base import Control

CPU = torch.device("cpu")


def still_paths(count: int, chunks: int) -> LatentPaths:
    """Return paths that stand still, with latents of noise, in the sizes of the small world."""
    frames = 4 * chunks
    world = small_world()
    still = torch.eye(4, dtype=torch.float64).expand(count, frames, 4, 4)
    latents = torch.randn(count, frames, 6, 4, 6, generator=torch.Generator().manual_seed(0)).half()
    remembered = torch.zeros(count, chunks, 16, dtype=torch.int64)
    for chunk in range(1, chunks):
        length = min(4 * chunk, 16)
        remembered[:, chunk, :length] = torch.arange(4 * chunk - length, 4 * chunk)
    rollout = begin(world, 0)
    latents[:, 0] = rollout.start_latent[:, 0].half()
    ids = torch.ones(count, CONFIG.text.text_len, dtype=torch.int64)
    labels, depth = torch.zeros(count, frames, dtype=torch.int64), torch.full((count, frames, 8, 12), 3.0).half()
    return LatentPaths(latents, still, still, labels, remembered, ids, ids, depth)


def test_the_stages_rollouts_are_those_of_the_world() -> None:
    """Chunk 0 and a chunk with memory, from the same noise, through the pieces and through `DiffusionWorld.step`."""
    world, chunks = small_world(), 3
    paths = still_paths(1, chunks)
    networks = initialise(Networks(CONFIG), 0)
    networks.transformer.load_state_dict(world.transformer.state_dict())
    made = roll_out(networks, paths, chunks, torch.float32, seed=5)
    start = paths.latents[0, 0].float()[:, None]
    rollout = begin(world, 0)
    rollout.start_latent = start
    rollout.encoded_prompt = type(rollout.encoded_prompt)("p", networks.embed(paths.tokens, paths.mask)[0].detach())
    generator = torch.Generator().manual_seed(5)
    control = Control(np.tile(np.eye(4), (4, 1, 1)), np.zeros(4, np.int64), np.tile(DEFAULT_INTRINSICS, (4, 1, 1)))
    for chunk in range(chunks):
        noise = torch.randn(1, 6, 4, 4, 6, generator=generator)
        expected = world.step([rollout], [control], noise=noise, decode=False)[0].latents
        found = made[0, :, 4 * chunk : 4 * chunk + 4]
        assert (found - expected).norm() / expected.norm() < 5e-3  # the stage keeps its history in float16


def test_rollouts_remember_what_the_model_made() -> None:
    paths = still_paths(2, 4)
    rollouts = Rollouts(paths, 3)
    rng = np.random.default_rng(0)
    while rollouts.next(rng) or rollouts._end < 4:
        rollouts.chunk = rollouts._end
    assert rollouts.take().memory.shape[2] == 0
    made = torch.randn(3, 6, 4, 4, 6)
    rollouts.commit(made)
    rollouts.next(rng)
    assert rollouts.chunk == 1
    torch.testing.assert_close(rollouts.take().memory, made, atol=2e-3, rtol=2e-3)


def test_rollouts_begin_anew_at_the_end_of_their_paths() -> None:
    rollouts, rng = Rollouts(still_paths(2, 2), 3), np.random.default_rng(0)
    chunks = []
    for _ in range(5):
        rollouts.next(rng)
        chunks.append(rollouts.chunk)
        rollouts.commit(torch.zeros(3, 6, 4, 4, 6))
    assert chunks == [0, 1, 0, 1, 0]


@pytest.mark.slow
def test_self_forcing_overfits_one_path() -> None:
    paths = still_paths(1, 2)
    networks = fresh(CONFIG, 0, CPU)
    fused = FusedTransformer(networks.transformer, torch.float32)
    autoencoder = initialise(Autoencoder(CONFIG.autoencoder), 2).requires_grad_(False)
    optimiser, rollouts = Optimiser(networks, is_inside), Rollouts(paths, 4)
    options = DistillOptions(decoded=2, memory_noise=0.0, pixels=1.0)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    losses: list[Tensor] = []
    for _ in range(60):
        rollouts.next(rng)
        found = rollout_losses(networks, fused, autoencoder, options, draw(rollouts, paths, options, generator))
        rollouts.commit(found["made"])
        losses.append(found["loss"])
        losses[-1].backward()
        optimiser.step(1e-2)
    before, after = (torch.stack(part).mean() for part in (losses[:4], losses[-4:]))
    assert after < 0.8 * before  # distances: their squares fall to less than 0.7


def test_a_score_is_least_for_the_truth_where_it_is_certain() -> None:
    paths = still_paths(2, 3)
    autoencoder = initialise(Autoencoder(CONFIG.autoencoder), 2).requires_grad_(False)
    for chunk, length in ((0, 0), (2, 8)):
        batch = paths.take(torch.arange(2), torch.full((2,), chunk), length)
        context = batch.memory[:, :, -2:]
        everywhere, nowhere = torch.ones(2, 4, 4, 6, dtype=torch.bool), torch.zeros(2, 4, 4, 6, dtype=torch.bool)
        right = batch.clean[:, None].repeat(1, 2, 1, 1, 1, 1)
        wrong = (right + 0.1 * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1, 1, 1)).requires_grad_()

        def shown_score(pair: Tensor, *rest: Tensor, context: Tensor = context) -> Tensor:
            first, second, truth = (pictures(autoencoder, made, context) for made in (*pair.unbind(1), rest[0]))
            return pixel_score(first, second, truth, *rest[1:])

        for score in (latent_score, shown_score):
            least = float(score(right, batch.clean, everywhere, nowhere))
            assert least == pytest.approx(1e-2)  # the root of what is added below it
            found = score(wrong, batch.clean, everywhere, nowhere)
            (gradient,) = torch.autograd.grad(found, wrong)
            assert found > 1.5 * least
            assert gradient.abs().sum() > 0
            assert score(wrong, batch.clean, everywhere, everywhere) < found  # two makings that differ are better
            assert score(wrong, batch.clean, nowhere, everywhere) == 0


@pytest.mark.parametrize(("spread", "better"), [(True, 1.0), (False, 0.0)])
def test_samples_are_best_where_a_chunk_is_invented_and_the_middle_where_it_is_not(
    spread: bool, better: float
) -> None:
    """The truth is drawn from a normal distribution; so are the two makings, with any share of its deviation."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(512, 8, 4, 4, 4, generator=generator)
    noise = torch.randn(512, 2, 8, 4, 4, 4, generator=generator)
    everywhere = torch.ones(512, 4, 4, 4, dtype=torch.bool)
    scores = {
        deviation: float(latent_score(deviation * noise, truth, everywhere, everywhere & spread))
        for deviation in (0.0, 0.5, 1.0, 1.5)
    }
    assert min(scores, key=scores.__getitem__) == better


def test_contrasts_of_all_scales_add_up_to_the_variance() -> None:
    video = torch.rand(2, 3, 5, 12, 20, generator=torch.Generator().manual_seed(0))  # 3x5 squares, 4 pixels wide
    found = contrasts(video)
    assert found.shape == (2, 3, 5, 3)
    variance = ((2 * found).exp() - 1e-3).sum(-1)
    torch.testing.assert_close(variance, video.var((-2, -1), correction=0), atol=1e-6, rtol=1e-4)
    board = (torch.arange(12)[:, None] + torch.arange(20)) % 2
    finest = contrasts(board.expand(1, 3, 1, 12, 20).float())[0, 0, 0]
    assert finest[0] > -0.7 > -3 > finest[1:].max()


def test_the_contrast_score_asks_for_the_scenes_contrast_wherever_it_is() -> None:
    truth = torch.rand(4, 3, 16, 16, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    elsewhere = truth.flip((-2, -1))
    nothing = torch.zeros(4, 4, 1, 2, dtype=torch.bool)
    faded = [contrast_score(*2 * [share * elsewhere], truth, nothing) for share in (1.0, 0.8, 0.6, 1.25)]
    assert faded[0] < 1e-6
    assert faded[0] < faded[1] < faded[2]
    assert faded[0] < faded[3]
    grey = (0.5 * truth).requires_grad_()
    half = torch.arange(2).expand_as(nothing) == 1
    score = contrast_score(grey, grey, truth, nothing)
    torch.testing.assert_close(contrast_score(grey, grey, truth, half), score / 2)
    assert contrast_score(grey, grey, truth, ~nothing) == 0  # where all is certain, the truth itself is asked for
    score.backward()
    assert grey.grad is not None
    assert (grey.grad * truth).sum() < 0  # more of the same is better


def test_contrasts_are_best_drawn_from_those_that_may_be() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, 1, 16, 32, generator=generator) - 0.5
    truth, one, other = (texture * (1.0 * torch.randn(400, 1, 1, 1, 1, generator=generator)).exp() for _ in range(3))
    nothing = torch.zeros(400, 4, 1, 2, dtype=torch.bool)
    drawn, middle = (contrast_score(*pair, truth, nothing) for pair in ((one, other), (texture, texture)))
    assert drawn < 0.8 * middle


def test_what_pictures_show_again_is_what_the_finer_depth_of_the_scene_says() -> None:
    planned, chunk = plan(range(2), 4, SIZE), 3
    autoencoder = initialise(Autoencoder(CONFIG.autoencoder), 2)
    paths = render_paths([planned], autoencoder, CONFIG.text, SIZE)
    rows = torch.arange(2)
    first, before = paths.shown(rows, torch.full((2,), chunk), 12)
    assert (before | ~first).all()  # what the first picture shows is shown before
    clips = SceneClips(planned.scenes, SIZE, CPU)
    depth = clips.depth(np.arange(2), planned.poses, SIZE)
    agreed = []
    for row in rows:
        coming = slice(4 * chunk, 4 * chunk + 4)
        relative = torch.from_numpy(np.linalg.inv(planned.poses[row, 0]) @ planned.poses[row, coming]).float()
        seen = visible(depth[row, coming], relative, depth[row, 0], DEFAULT_INTRINSICS)
        share = torch.nn.functional.avg_pool2d(seen.float(), SIZE[0] // first.shape[-2])
        clear = (share - 0.5).abs() > 0.25  # four values decide over a latent pixel, not all of its pixels
        assert clear.float().mean() > 0.5
        agreed.append(((share >= 0.5) == first[row])[clear].float().mean())
        assert 0.05 < first[row].float().mean() < 0.95  # of a path that shows old and new
    assert min(agreed) > 0.95


def test_only_what_the_truth_is_known_of_is_asked_of_a_rollout() -> None:
    """A camera looks away from the start: with the start alone as memory all is new; later it is the model's own."""
    paths = still_paths(1, 6)
    away = torch.eye(4, dtype=torch.float64)
    away[0, 0] = away[2, 2] = -1
    c2w = paths.c2w.clone()
    c2w[:, 4:] = away
    paths = replace(paths, c2w=c2w, w2c=c2w.inverse())
    rows, options, generator = torch.zeros(1, dtype=torch.int64), DistillOptions(decoded=1), torch.Generator()
    rollouts = Rollouts(paths, 1)
    rollouts.rows = rows
    expected = {0: (True, False), 1: (True, True), 2: (False, False)}  # asked, invented
    for chunk, (asked, invented) in expected.items():
        rollouts.chunk = chunk
        batch = draw(rollouts, paths, options, generator)
        assert (batch.asked == asked).all()
        assert (batch.invented == invented).all()
    batch = draw_true(paths, 1, options, np.random.default_rng(0), generator)
    assert batch.asked.all()


def test_dropped_prompts_are_the_empty_prompt() -> None:
    tokens, mask = without_prompts(
        torch.full((2, 4), 7), torch.tensor([[1, 1, 1, 0]] * 2), torch.tensor([True, False])
    )
    assert tokens.tolist() == [[1, 0, 0, 0], [7, 7, 7, 7]]
    assert mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


def test_distillation_needs_a_run_of_the_transformer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.*no checkpoint"):
        distill.train(DistillOptions(folder=tmp_path / "new", transformer=tmp_path / "nowhere", device="cpu"))
