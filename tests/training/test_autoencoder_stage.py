"""The autoencoder stage: it learns, what it reports is the model's own, and unfinished runs are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import CONFIG

from worldplay_env.models.config import TINY_V1
from worldplay_env.training import checkpoint, depth
from worldplay_env.training.autoencoder import (
    AutoencoderOptions,
    DepthAutoencoder,
    as_video,
    fresh,
    gradient_loss,
    inside,
    is_inside,
    losses,
    measured_config,
    moved,
    rebuild,
    train,
)
from worldplay_env.training.muon import Optimiser
from worldplay_env.training.scene_clips import held_labels, training_seeds
from worldplay_env.weights.checkpoint import initialise

CPU = torch.device("cpu")


def moving_bars() -> torch.Tensor:
    """Return a clip uint8 [1, 9, 32, 48, 3] of bars that move."""
    x = torch.arange(48)[None, :] + 2 * torch.arange(9)[:, None]
    bars = (x % 16 < 8).to(torch.uint8) * 200 + 20  # [9, 48]
    return bars[None, :, None, :, None].expand(1, 9, 32, 48, 3).contiguous()


def test_the_autoencoder_overfits_one_clip() -> None:
    autoencoder = fresh(CONFIG.autoencoder, 0, CPU)
    optimiser, video = Optimiser(autoencoder, is_inside), as_video(moving_bars())
    shape = (1, CONFIG.autoencoder.z_dim, 3, *CONFIG.latent_size)
    distance = torch.linspace(1, 9, 12).expand(1, 3, 8, 12)
    decibels, errors = [], []
    for step in range(40):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        found = losses(autoencoder, AutoencoderOptions(), video, noise, distance, torch.zeros(0, 2))
        found["loss"].backward()
        optimiser.step(1e-2)
        decibels.append(float(found["psnr"]))
        errors.append(float(found["depth error"]))
    assert min(errors[-5:]) < 0.5 * errors[0]
    assert max(decibels[-5:]) > decibels[0] + 6


def test_rebuilding_is_the_models_own_encoding_and_decoding() -> None:
    autoencoder = fresh(CONFIG.autoencoder, 0, CPU).autoencoder
    video = as_video(moving_bars())
    rebuilt, mean, log_variance = rebuild(autoencoder, video)
    expected, expected_log_variance = autoencoder.encode(video)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(log_variance, expected_log_variance)
    torch.testing.assert_close(rebuilt, autoencoder.decode(autoencoder.normalise(expected))[0])


def test_the_gradient_loss_sees_edges_and_not_brightness() -> None:
    video = as_video(moving_bars())
    assert gradient_loss(video + 0.1, video) < 1e-6
    assert gradient_loss(torch.zeros_like(video), video) > 0.01


def test_what_is_moved_comes_from_where_the_offset_says() -> None:
    video = torch.arange(48.0).view(1, 1, 1, 6, 8).repeat(2, 3, 2, 1, 1)
    offsets = torch.tensor([[2.0, -3.0]])
    found = moved(video, offsets)
    torch.testing.assert_close(found[0, :, :, 2:, :5], video[0, :, :, :4, 3:])
    assert torch.equal(found[1], video[1])
    torch.testing.assert_close(moved(video, torch.tensor([[0.0, 0.5]]))[0, 0, 0, :, 1:], video[0, 0, 0, :, 1:] - 0.5)
    shown = inside(offsets, video)
    assert shown[0, 0, 0].sum() == 4 * 5
    assert shown[0, 0, 0, 2:, :5].all()
    assert shown[1].all()


def test_depth_is_judged_by_its_logarithm_on_surfaces_alone() -> None:
    true = torch.tensor([[1.0, 2.0], [4.0, torch.inf]])
    target = depth.target(true)
    torch.testing.assert_close(target.flatten(), -torch.tensor([1.0, 2.0, 4.0, depth.FARTHEST]).log())
    assert depth.error(target + 0.1, target) == pytest.approx(0.1, abs=1e-5)
    assert depth.error(depth.target(torch.tensor([[1.0, 2.0], [4.0, 1.0]])), target) < 1e-6
    first = torch.tensor([[True, False], [False, False]])
    assert depth.error(target + torch.tensor([[0.2, 0.0], [0.0, 0.0]]), target, first) == pytest.approx(0.2, abs=1e-5)
    blocks = depth.cells(torch.arange(1.0, 33.0).view(4, 8), rows=2)
    assert blocks[0, 1].tolist() == [3, 4, 11, 12, 19, 20, 27, 28]


def test_an_autoencoder_whose_latents_were_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="no latent statistics yet"):
        measured_config({})


def test_training_never_draws_a_held_out_scene() -> None:
    assert max(training_seeds(50_000, 17)) < 900_000
    with pytest.raises(ValueError, match="held-out"):
        training_seeds(4096, 18)


def test_held_labels_are_actions_that_are_held() -> None:
    labels = held_labels(np.random.default_rng(0), 500, 12)
    assert labels.min() == 0
    assert labels.max() == 80
    assert 0.3 < (labels[:, 1:] == labels[:, :-1]).mean() < 0.9


def test_a_decoder_is_trained_on_alone(tmp_path: Path) -> None:
    """Its latents, and the statistics that later stages rely on, are those of the run that it began with."""
    parameters = dict(initialise(DepthAutoencoder(TINY_V1.autoencoder), 0).named_parameters())
    statistics = {
        "latents_mean": [0.25] * TINY_V1.autoencoder.z_dim,
        "latents_std": [1.5] * TINY_V1.autoencoder.z_dim,
    }
    checkpoint.save(tmp_path / "before", 7, 90.0, {}, parameters, statistics)
    options = AutoencoderOptions(
        folder=tmp_path / "decoder",
        begin_with=tmp_path / "before",
        device="cpu",
        compile=False,
        max_steps=1,
        clips=1,
        scenes=2,
        held_out=1,
    )
    train(options)
    saved = checkpoint.latest(tmp_path / "decoder")
    assert saved is not None
    assert {name: saved.notes[name] for name in statistics} == statistics
    assert saved.notes["began_with"]["step"] == 7
    before = checkpoint.averages(tmp_path / "before").averages
    changed = {name for name in parameters if not torch.equal(saved.model[name], before[name])}
    assert changed
    assert all(name.startswith(("autoencoder.decoder.", "autoencoder.post_quant_conv.")) for name in changed)
    with pytest.raises(ValueError, match="a folder of its own"):
        train(replace(options, folder=tmp_path / "before"))
