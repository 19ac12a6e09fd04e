"""What the stages share: runs that are killed go on, damage is refused by name, averages alone are enough."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import tyro
from torch import Tensor, nn

from worldplay_env.training import checkpoint
from worldplay_env.training.muon import Optimiser, orthogonal
from worldplay_env.training.run import Run, RunOptions, command
from worldplay_env.weights.files import CheckpointError


@dataclass(frozen=True)
class LineOptions(RunOptions):
    """Of a stage that fits a matrix."""

    folder: Path = Path("runs/line")
    width: int = 3


def line_run(folder: Path, steps: int, save_every: float = 2.0) -> Run[nn.Linear]:
    """Train, or go on training, a linear map to be three times the identity."""
    module = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(module.weight)
    options = LineOptions(
        folder=folder, max_steps=steps, learning_rate=0.05, warmup=1, device="cpu", save_every=save_every
    )
    run = Run(options, module, Optimiser(module, lambda name, parameter: False))
    losses = partial(line_losses, module)
    for step in run.steps():
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        run.lap("data")
        run.update(losses, x)
    return run


def line_losses(module: nn.Linear, x: Tensor) -> dict[str, Tensor]:
    return {"loss": (module(x) - 3 * x).square().mean()}


def saved_in(folder: Path) -> Path:
    """Return the folder of the one checkpoint of a run."""
    (path,) = folder.glob("step-*")
    return path


def test_a_run_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    first = line_run(tmp_path, 30)
    temporary = tmp_path / ".step-killed"  # what a run that is killed while it writes leaves
    temporary.mkdir()
    (temporary / "model-00.safetensors").write_bytes(b"half")
    again = line_run(tmp_path, 0)
    assert again.step == 30
    assert again.seconds > 0
    torch.testing.assert_close(again.module.weight, first.module.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.averaged.weight, first.averaged.weight, rtol=1e-3, atol=1e-4)
    last = line_run(tmp_path, 30)
    assert last.step == 60
    target = 3 * torch.eye(4)
    assert (last.module.weight - target).norm() < (first.module.weight - target).norm()
    assert saved_in(tmp_path).name == "step-000060"
    assert len(last.notes["commands"]) == 3


@pytest.mark.slow
def test_a_process_that_is_killed_without_warning_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    begin = f"run_path({__file__!r})['line_run'](Path({str(tmp_path)!r}), 10**9, save_every=0.0)"
    program = [sys.executable, "-c", f"from pathlib import Path; from runpy import run_path; {begin}"]
    step = 0
    for _ in range(2):
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 60
            while max((int(path.name[5:]) for path in tmp_path.glob("step-*")), default=0) < step + 20:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        left = line_run(tmp_path, 0)
        assert left.step >= step + 20
        step = left.step


def test_a_run_that_is_killed_while_it_saves_a_step_again_keeps_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line_run(tmp_path, 3)
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.name.startswith(".step-"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            line_run(tmp_path, 0)
    assert checkpoint.exists(tmp_path)
    (left,) = tmp_path.glob(".step-*")
    os.utime(left, (0, 0))  # long ago: nobody writes it any more
    assert line_run(tmp_path, 2).step == 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["log", "step-000005"]


def test_the_newest_checkpoint_is_the_one_of_most_steps(tmp_path: Path) -> None:
    assert not checkpoint.exists(tmp_path)
    for step in (999_999, 1_000_000):
        checkpoint.save(tmp_path, step, 1.0, {}, {})
    saved = checkpoint.latest(tmp_path)
    assert saved is not None
    assert saved.step == 1_000_000


@pytest.mark.parametrize("group", ["model", "averages"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, group: str, damage: str) -> None:
    line_run(tmp_path, 1)
    file = saved_in(tmp_path) / f"{group}-00.safetensors"
    if damage == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=rf"step-000001/{group}-00\.safetensors: (damaged|missing)"):
        line_run(tmp_path, 1)


@pytest.mark.parametrize("content", ["", "[]", '{"step": 1}'])
def test_a_damaged_index_is_refused_by_name(tmp_path: Path, content: str) -> None:
    line_run(tmp_path, 1)
    (saved_in(tmp_path) / "index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"step-000001/index\.json: missing or damaged"):
        line_run(tmp_path, 1)


def test_the_averages_can_be_read_without_the_model(tmp_path: Path) -> None:
    run = line_run(tmp_path, 2)
    for file in saved_in(tmp_path).glob("model-*"):
        file.unlink()
    saved = checkpoint.averages(tmp_path)
    assert saved.model == {}
    torch.testing.assert_close(saved.averages["weight"], run.averaged.weight.detach(), rtol=1e-3, atol=1e-6)
    with pytest.raises(CheckpointError, match="elsewhere: no checkpoint"):
        checkpoint.averages(tmp_path / "elsewhere")


def test_a_checkpoint_of_other_sizes_is_refused_and_nothing_changed() -> None:
    module = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"not one of this Linear: weight differ"):
        checkpoint.fill(module, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_no_file_of_a_checkpoint_is_too_large_to_carry(tmp_path: Path) -> None:
    tensors = {f"layer.{index}": torch.zeros(2_500_000) for index in range(4)}
    path = checkpoint.save(tmp_path, 1, 1.0, tensors, tensors)
    assert max(file.stat().st_size for file in path.iterdir()) <= 16 * 2**20
    saved = checkpoint.latest(tmp_path)
    assert saved is not None
    assert saved.model.keys() == saved.averages.keys() == tensors.keys()


def test_the_first_figures_come_soon_and_say_where_the_time_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line_run(tmp_path, 60)
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert [int(line.split()[1]) for line in lines] == [20, 50]
    for figure in ("steps/s", "data s", "update s"):
        assert figure in lines[0]


class Clock:
    """Stands in for the module `time`: it goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("worldplay_env.training.run.time", clock)
    return clock


def timed_run(folder: Path, clock: Clock, *, preparation: float, step: float, report: float) -> tuple[int, int]:
    """Train for two minutes by the clock, each part taking so many seconds; return the steps and the reports made."""
    module = nn.Linear(4, 4, bias=False)
    run = Run(LineOptions(folder=folder, minutes=2.0, device="cpu"), module, Optimiser(module, lambda *_: False))
    losses, reports = partial(line_losses, module), 0
    clock.now += preparation
    run.start_clock(report_at_once=True)
    for _ in run.steps():
        run.update(losses, torch.ones(8, 4))
        clock.now += step
        if run.report_is_due():
            clock.now += report
            reports += 1
    if run.last_report_is_due():
        clock.now += report
        reports += 1
    return run.step, reports


@pytest.mark.parametrize(
    ("preparation", "step", "report", "made"),
    [
        (0.0, 10.0, 30.0, (6, 2)),  # 10 + 30 of the first report, five steps more, 30 of the last
        (50.0, 10.0, 20.0, (3, 2)),
        (50.0, 1.0, 0.0, (70, 2)),
        (0.0, 70.0, 70.0, (1, 1)),  # what was reported of the one step is the last report
        (200.0, 10.0, 20.0, (0, 1)),
    ],
)
def test_the_time_of_a_call_counts_everything(
    preparation: float, step: float, report: float, made: tuple[int, int], tmp_path: Path, clock: Clock
) -> None:
    assert timed_run(tmp_path, clock, preparation=preparation, step=step, report=report) == made


def test_figures_of_slow_steps_come_after_half_a_minute(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    timed_run(tmp_path, clock, preparation=0.0, step=11.0, report=0.0)
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert [int(line.split()[1]) for line in lines] == [4, 7, 10]


@pytest.mark.parametrize("at_once", [True, False])
def test_reports_are_due_every_so_many_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    run = line_run(tmp_path, 0)
    seconds = 0.0
    monkeypatch.setattr(Run, "seconds", property(lambda run: seconds))
    run.start_clock(report_at_once=at_once)
    due = []
    for step in range(40):  # ten minutes, a report every two
        seconds = 15.0 * step
        if run.report_is_due():
            due.append(step)
    assert due == [0] * at_once + [8, 16, 24, 32]


def test_a_run_that_moved_says_on_which_machines_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in ("one", "one", "another"):
        monkeypatch.setattr("worldplay_env.training.run.device_name", lambda device, machine=machine: machine)
        run = line_run(tmp_path, 1)
    assert run.notes["hardware"] == "one, then another"


def test_a_gradient_that_is_not_finite_changes_nothing_for_good(tmp_path: Path) -> None:
    run = line_run(tmp_path, 1)
    run.update(partial(line_losses, run.module), torch.full((8, 4), float("nan")))
    assert run.module.weight.isfinite().all()


def test_the_command_line_of_a_run_gives_all_its_options_again() -> None:
    options = LineOptions(minutes=2.0, compile=False, folder=Path("a b"))
    program, *words = shlex.split(command(options).removeprefix("python -m worldplay_env.training "))
    assert program == "line"
    assert "--no-compile" in words
    assert tyro.cli(LineOptions, args=words) == options
    assert "--width" in words  # at its default, which another day may be another


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 3, 2, 3, 3)])
def test_muon_steps_as_pytorchs_own_does(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=generator) for _ in range(2))
    extra = nn.Parameter(torch.ones(1))
    module = nn.ParameterList([nn.Parameter(first.clone()), nn.Parameter(second.clone()), extra])
    matrices = [nn.Parameter(_as_matrix(start)) for start in (first, second)]
    theirs = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    mine = Optimiser(module, lambda name, parameter: parameter is not extra)
    for _ in range(3):
        for parameter, matrix in zip(module, matrices, strict=False):
            gradient = torch.randn(shape, generator=generator)
            parameter.grad, matrix.grad = gradient, _as_matrix(gradient)
        mine.step(0.02)
        theirs.step()
    for parameter, matrix, start in zip(module, matrices, (first, second), strict=False):
        moved = (matrix - _as_matrix(start)).norm()
        assert (_as_matrix(parameter.detach()) - matrix).norm() < 0.02 * moved


def _as_matrix(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).flatten(1).clone()


def test_orthogonal_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonal(matrices).float())
    assert singular.min() > 0.5
    assert singular.max() < 1.4
