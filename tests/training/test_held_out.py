"""What is measured of held-out rollouts: each figure on networks and pictures whose figure is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_paths import small_paths
from small_world import CONFIG

from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.training import checkpoint, depth
from worldplay_env.training.__main__ import main
from worldplay_env.training.diagnose import GATES, Gate, rows
from worldplay_env.training.held_out import FIGURES, attention_shares, measure, power, read_depth, roll_out, strips
from worldplay_env.training.networks import Networks, fresh
from worldplay_env.weights.checkpoint import initialise

CPU = torch.device("cpu")


def test_power_is_of_the_band_alone_and_where_it_counts() -> None:
    x = torch.arange(160).float()

    def wave(period: float, amplitude: float) -> torch.Tensor:
        row = 128 + amplitude * torch.sin(2 * torch.pi * x / period)
        return row.round().to(torch.uint8)[None, None, :, None].expand(1, 96, 160, 3)

    everywhere = torch.ones(1, 96, 160, dtype=torch.bool)
    full = power(wave(9, 60), everywhere)
    assert power(wave(9, 30), everywhere) / full == pytest.approx(0.25, rel=0.05)
    assert power(wave(20, 60), everywhere) < 0.02 * full
    left = everywhere.clone()
    left[:, :, 80:] = False
    half = torch.cat([wave(9, 60)[:, :, :80], wave(9, 0)[:, :, 80:]], dim=2)
    assert power(half, left) > 5 * power(half, ~left)


def test_attention_shares_add_up_and_find_the_frame_that_is_looked_at() -> None:
    paths = small_paths(chunks=4)
    networks = fresh(CONFIG, 0, CPU)
    shares = attention_shares(networks, paths, torch.float32)
    assert shares.shape == (CONFIG.transformer.num_layers, 16)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)))
    with torch.no_grad():  # no queries: all keys get the same
        for block in networks.transformer.layers():
            block.self_attention.norm_q.weight.zero_()
    torch.testing.assert_close(
        attention_shares(networks, paths, torch.float32), torch.full((len(shares), 16), 1 / 16)
    )


def test_depth_that_is_read_is_compared_where_the_past_shows_it() -> None:
    paths = small_paths(chunks=3)
    still = torch.eye(4, dtype=torch.float64).expand_as(paths.c2w)
    paths = replace(paths, c2w=still, w2c=still, depth=torch.full_like(paths.depth, 4.0))
    networks = fresh(CONFIG, 0, CPU)
    with torch.no_grad():
        networks.depth.weight.zero_()
        networks.depth.bias.fill_(-torch.tensor(5.0).log())
    right = pytest.approx(np.log(5 / 4), abs=1e-4)
    assert read_depth(networks, paths, 3, torch.float32) == (right, right)
    behind = paths.depth.clone()
    behind[:, 4:, : depth.CELLS] = 8.0  # what nothing before showed
    assert read_depth(networks, replace(paths, depth=behind), 2, torch.float32) == (right, right)
    past = paths.depth.clone()
    past[:, :4] = 8.0
    _, of_memory = read_depth(networks, replace(paths, depth=past), 2, torch.float32)
    assert of_memory == pytest.approx(np.log(8 / 5), abs=1e-4)


def test_a_rollout_with_a_true_past_remembers_nothing_of_its_own() -> None:
    paths, networks = small_paths(chunks=3), fresh(CONFIG, 0, CPU)
    own, single = (roll_out(networks, paths, 3, torch.float32, true_memory=known) for known in (False, True))
    assert torch.equal(own[:, :, :4], single[:, :, :4])
    alone = roll_out(networks, replace(paths, latents=paths.latents * 1), 3, torch.float32, true_memory=True)
    assert torch.equal(alone, single)


def test_all_figures_are_measured_and_explained() -> None:
    paths, networks = small_paths(chunks=4), fresh(CONFIG, 0, CPU)
    autoencoder = initialise(Autoencoder(CONFIG.autoencoder), 1).requires_grad_(False)
    video = torch.randint(0, 256, (2, 61, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    still = torch.eye(4, dtype=torch.float64).expand_as(paths.c2w)
    labels = torch.ones_like(paths.labels)
    labels[0] = 9
    paths = replace(paths, frames=video, c2w=still, w2c=still, labels=labels, depth=torch.full_like(paths.depth, 4))
    found = measure(networks, autoencoder, paths, 4, thorough=True)
    assert found.figures.keys() == FIGURES.keys()
    assert all(np.isfinite(value) for value in found.figures.values())
    assert len(found.by_chunk) == 4
    assert strips(found, 4).shape == (4 * 32, 4 * 48, 3)
    few = measure(networks, autoencoder, paths, 4)
    assert few.figures == {name: pytest.approx(found.figures[name]) for name in few.figures}


def test_gates_tell_what_passed_and_what_was_missed() -> None:
    assert Gate(2.0).passed(2.0)
    assert not Gate(2.0).passed(1.9)
    assert Gate(2.0, below=True).passed(1.9)
    assert not Gate(2.0, below=True).passed(float("nan"))
    lines = rows("autoencoder", {"held-out psnr": 31.0, "worst frame": 20.0})
    assert [line.split()[-1] for line in lines] == ["passed", "20.000", "0.12"]
    assert "MISSED" in rows("autoencoder", {"held-out psnr": 30.0})[0]
    assert all(gates.keys() <= FIGURES.keys() for gates in GATES.values())


def test_the_report_is_of_the_newest_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", "--runs", str(tmp_path)])
    assert "no stage has a checkpoint" in capsys.readouterr().out
    parameters = dict(initialise(Networks(CONFIG), 0).named_parameters())
    checkpoint.save(tmp_path / "transformer", 3, 9.0, {}, parameters, {"psnr of true memory": 23.4, "seed": 1})
    main(["report", "--runs", str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == [
        "transformer",
        "psnr",
        "of",
        "true",
        "memory",
        "23.400",
        "at",
        "least",
        "23.3",
        "passed",
    ]
    assert "not measured" in printed[1]
