"""Recorded functions: what is recorded when, and that a replayed step of every stage is the step itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cpu_graphs
import numpy as np
import pytest
import torch
from small_paths import small_paths
from small_world import CONFIG
from torch import Tensor, nn

from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.training import autoencoder, distill, networks, transformer
from worldplay_env.training.autoencoder import AutoencoderOptions
from worldplay_env.training.cuda_graph import WARM_UP, Recorded
from worldplay_env.training.distill import DistillOptions, Rollouts
from worldplay_env.training.fused_transformer import FusedTransformer
from worldplay_env.training.muon import Optimiser
from worldplay_env.training.run import Losses, Run, RunOptions
from worldplay_env.training.transformer import TransformerOptions
from worldplay_env.weights.checkpoint import initialise

CPU = torch.device("cpu")
Stage = Callable[[], tuple[nn.Module, Callable[[str, nn.Parameter], bool], Iterable[tuple[Losses, Any]]]]
"""Makes a module, tells what of it is inside, and gives the losses and inputs of its steps."""


class Sums:
    """A function to record: it adds its inputs to a total, and counts how often Python came by."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.calls = 0

    def __call__(self, x: Tensor, more: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        self.calls += 1
        doubled = 2 * x + more[0] * more[1]
        self.total += doubled.sum()
        return {"doubled": doubled}


def inputs(size: int, value: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return inputs of `Sums`; it returns 2 value + 6 of them."""
    return torch.full((size,), value), (torch.full((size,), 2.0), torch.tensor(3.0))


def test_a_function_is_called_a_few_times_then_recorded_and_from_then_on_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = cpu_graphs.on_cpu(monkeypatch)
    sums = Sums()
    recorded = Recorded(sums, cpu_graphs.POOL)
    total = 0.0
    for call in range(WARM_UP + 4):
        found = recorded(*inputs(3, call))["doubled"]
        assert found.tolist() == [2.0 * call + 6] * 3
        total += 3 * (2 * call + 6)
        assert sums.total == total  # one call, one step: recording itself changed nothing
        assert len(graphs) == (call >= WARM_UP)
    assert sums.calls == WARM_UP + 1


def test_a_replay_returns_the_same_tensors_and_leaves_its_inputs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_graphs.on_cpu(monkeypatch)
    recorded = Recorded(Sums(), cpu_graphs.POOL)
    for _ in range(WARM_UP):
        recorded(*inputs(3, 0.0))
    given = inputs(3, 1.0)
    first = recorded(*given)["doubled"]
    assert recorded(*inputs(3, 5.0))["doubled"] is first
    assert first.tolist() == [16.0] * 3
    assert given[0].tolist() == [1.0] * 3


def test_every_shape_and_dtype_has_a_warm_up_and_a_recording_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = cpu_graphs.on_cpu(monkeypatch)
    sums = Sums()
    recorded = Recorded(sums, cpu_graphs.POOL)
    for call in range(WARM_UP + 3):
        for size, dtype in ((3, torch.float32), (5, torch.float32), (3, torch.float64)):
            x, more = inputs(size, call)
            found = recorded(x.to(dtype), more)["doubled"]
            assert found.dtype == dtype
            assert found.tolist() == [2.0 * call + 6] * size
    assert len(graphs) == 3
    assert sums.calls == 3 * (WARM_UP + 1)


@pytest.mark.parametrize("reason", ["waits for the device", "draws random numbers", "random numbers were drawn"])
def test_what_cannot_be_recorded_is_called_every_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    graphs = cpu_graphs.on_cpu(monkeypatch)
    calls = []

    def function(x: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        if "waits" in reason:
            float(x.sum())
        else:
            torch.rand(2, generator=torch.Generator() if "draws" in reason else None)
        return {"y": x + 1}

    recorded = Recorded(function, cpu_graphs.POOL)
    for call in range(WARM_UP + 3):
        assert recorded(torch.full((2,), float(call)))["y"].tolist() == [call + 1.0] * 2
    assert len(graphs) == 1
    assert len(calls) == WARM_UP + 3 + 1  # one of them to no avail
    printed = capsys.readouterr().out
    assert printed.count("not recorded, runs unrecorded: RuntimeError:") == 1
    assert reason in printed


def test_what_first_went_wrong_is_told_where_ending_the_recording_fails_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu_graphs.on_cpu(monkeypatch)

    class Unended(cpu_graphs.Capture):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            raise RuntimeError("ended")

    monkeypatch.setattr(torch.cuda, "graph", Unended)
    recorded = Recorded(lambda x: {"y": x * float(x.sum())}, cpu_graphs.POOL)
    for _ in range(WARM_UP + 1):
        recorded(torch.ones(2))
    assert "waits for the device" in capsys.readouterr().out


def test_an_error_of_the_function_itself_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_graphs.on_cpu(monkeypatch)
    wrong = []

    def function(x: Tensor) -> dict[str, Tensor]:
        if wrong:
            raise ValueError("not like this")
        return {"y": x}

    recorded = Recorded(function, cpu_graphs.POOL)
    for _ in range(WARM_UP):
        recorded(torch.ones(2))
    wrong.append(True)
    with pytest.raises(ValueError, match="not like this"):
        recorded(torch.ones(2))


def test_without_a_pool_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = cpu_graphs.on_cpu(monkeypatch)
    sums = Sums()
    recorded = Recorded(sums, None)
    for call in range(WARM_UP + 3):
        recorded(*inputs(3, call))
    assert sums.calls == WARM_UP + 3
    assert not graphs


class Halves(nn.Module):
    """Two matrices and two offsets; those of the second half are used for wide inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(torch.eye(4) * value for value in (1.0, 2.0))
        self.offsets = nn.ParameterList(torch.full((4,), value) for value in (0.1, 0.2))

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        loss = (x[:, :4] @ self.matrices[0] + self.offsets[0] - 1).square().mean()
        if x.shape[1] > 4:
            loss = loss + (x[:, 4:] @ self.matrices[1] + self.offsets[1]).square().mean()
        return {"loss": loss}


def half_used() -> Any:
    module = Halves()
    generator = torch.Generator().manual_seed(0)
    losses = module.losses
    widths = (4, 4, 8, 4, 8, 4, 4, 8, 8, 8, 4)
    steps = [(losses, (torch.randn(3, width, generator=generator),)) for width in widths]
    return module, lambda name, parameter: parameter.ndim == 2, steps


def clips() -> Any:
    module = autoencoder.fresh(CONFIG.autoencoder, 0, CPU)
    losses = partial(autoencoder.losses, module, AutoencoderOptions())
    distance, offsets = torch.full((2, 3, 8, 12), 3.0), torch.tensor([[3.0, -5.0]])
    generator = torch.Generator().manual_seed(0)
    noise = (2, CONFIG.autoencoder.z_dim, 3, *CONFIG.latent_size)

    def steps() -> Any:
        for _ in range(WARM_UP + 2):
            video = torch.rand(2, 3, 9, 32, 48, generator=generator)
            yield losses, (video, torch.randn(noise, generator=generator), distance, offsets)

    return module, autoencoder.is_inside, steps()


def flow() -> Any:
    module = networks.fresh(CONFIG, 0, CPU)
    losses = partial(transformer.flow_losses, module, FusedTransformer(module.transformer, torch.float32), 0.1)
    paths, options = small_paths(2, 2), TransformerOptions(frames=48)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    drawn = (transformer.draw(paths, options, rng, generator) for _ in range(2 * WARM_UP + 6))
    return module, networks.is_inside, ((losses, (batch,)) for batch in drawn)


def rollouts() -> Any:
    module = networks.fresh(CONFIG, 0, CPU, critic=True)
    decoder = initialise(Autoencoder(CONFIG.autoencoder), 2).requires_grad_(False)
    fused = FusedTransformer(module.transformer, torch.float32)
    losses = partial(distill.rollout_losses, module, fused, decoder, distill.DistillOptions(pixels=1.0, looks=0.1))
    paths, options = small_paths(2, 2), DistillOptions(decoded=1)
    generator = torch.Generator().manual_seed(0)
    under_way = Rollouts(paths, 2)

    def steps() -> Any:
        for _ in range(2 * WARM_UP + 4):
            under_way.next(np.random.default_rng(0))
            yield losses, (distill.draw(under_way, paths, options, generator),)
            under_way.commit(torch.randn(2, 6, 4, 4, 6, generator=generator))

    return module, networks.is_inside, steps()


@pytest.mark.parametrize("stage", [half_used, clips, flow, pytest.param(rollouts, marks=pytest.mark.slow)])
def test_replayed_steps_are_the_steps_themselves(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit: parameters, averages and figures, at rates and decays that change, for two shapes by turns."""
    graphs = cpu_graphs.on_cpu(monkeypatch)
    monkeypatch.setattr(Run, "rate", lambda run: 1e-2 / (1 + run.step % 4))
    found = []
    for pool in (None, cpu_graphs.POOL):
        module, is_inside, steps = stage()
        run = Run(RunOptions(folder=tmp_path / str(pool), device="cpu"), module, Optimiser(module, is_inside))
        run._pool = run._optimise._pool = pool
        start = [parameter.detach().clone() for parameter in module.parameters()]
        figures = [
            {name: value.clone() for name, value in run.update(losses, *given).items()} for losses, given in steps
        ]
        found.append((list(module.parameters()), list(run.averaged.parameters()), figures))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert any((new != old).any() for new, old in zip(found[1][0], start, strict=True))
    assert len(graphs) == (2 if stage is clips else 3)
    assert "not recorded" not in capsys.readouterr().out
