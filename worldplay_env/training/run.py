"""What the training stages share: options, the clock and learning rate, the moving average, logs, resuming."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from worldplay_env.training import checkpoint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class RunOptions:
    """What every training stage takes."""

    folder: Path
    """Where checkpoints and logs go; a run that is there already is resumed."""
    minutes: float = 8.0
    """How long this call may train."""
    total_minutes: float | None = None
    """The training time, over all calls, that the learning rate is planned for; this call's if not given."""
    save_every: float = 2.0
    """Minutes between checkpoints."""
    learning_rate: float = 6e-4
    warmup: int = 100
    """Steps from a learning rate of nearly 0, at the start and after resuming."""
    ema: float = 0.999
    """Decay a step of the parameters' moving average, which is what is exported."""
    device: str | None = None
    """A torch device; by default "cuda" where there is one."""
    seed: int = 0
    """Of the data, and of fresh parameters."""
    max_steps: int | None = None
    """Stop after as many steps in this call, whatever the time."""
    compile: bool = True
    """Fuse the renderer with torch.compile, on a GPU."""


class Run:
    """One stage's training: the optimiser, its schedule by the clock, the moving average, checkpoints and logs.

    Args:
        options: Of the stage.
        module: What is trained, on its device; filled from the newest checkpoint, if there is one.

    Attributes:
        step: Optimiser steps made, over all calls.
        averaged: A copy of the module that holds the parameters' moving average.
        notes: What the stage wants to find beside its tensors.
    """

    def __init__(self, options: RunOptions, module: nn.Module) -> None:
        self.options = options
        self.module = module
        self.device = next(module.parameters()).device
        self.step = 0
        self.notes: dict[str, Any] = {}
        self._seconds_before = 0.0
        self.averaged = copy.deepcopy(module).requires_grad_(False).eval()
        if saved := checkpoint.latest(options.folder):
            self.step, self._seconds_before, self.notes = saved.step, saved.seconds, dict(saved.notes)
            restore(module, saved.tensors, "model.")
            restore(self.averaged, saved.tensors, "ema.")
        self._first_step = self.step
        self._started = self._saved = time.monotonic()
        self.optimiser = torch.optim.AdamW(
            module.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self._sums: dict[str, Tensor] = {}
        self._logged = (self.step, time.monotonic())
        self._writer: SummaryWriter | None = None

    @property
    def seconds(self) -> float:
        """Training time so far, earlier calls included."""
        return self._seconds_before + time.monotonic() - self._started

    def steps(self) -> Iterator[int]:
        """Yield each step's number while there is time; write a checkpoint every few minutes and at the end."""
        options = self.options
        while time.monotonic() - self._started < options.minutes * 60:
            if options.max_steps is not None and self.step - self._first_step >= options.max_steps:
                break
            yield self.step
            self.step += 1
            if time.monotonic() - self._saved > options.save_every * 60:
                self.save()
        self.save()

    def start_clock(self) -> None:
        """Count the time from now: what came before (building scenes, compiling) was preparation."""
        self._started = self._saved = time.monotonic()
        self._logged = (self.step, time.monotonic())

    def rate(self) -> float:
        """Return the learning rate: a cosine over the planned time, down to 2 %, under a warm-up in steps."""
        total = self.options.total_minutes or (self._seconds_before / 60 + self.options.minutes)
        progress = min(1.0, self.seconds / (total * 60))
        cosine = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * progress))
        warm = min(1.0, (self.step - self._first_step + 1) / max(1, self.options.warmup))
        return self.options.learning_rate * cosine * warm

    def update(self, losses: Mapping[str, Tensor], *, every: int = 50) -> None:
        """Make one optimiser step on `losses["loss"]` and log the losses' means every so many steps."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        # A gradient that is not finite counts as none, without waiting for the device to say so.
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        for gradient in gradients:
            gradient.nan_to_num_(0.0, 0.0, 0.0)
        self.optimiser.step()
        self._average()
        self._log({**losses, "gradient": norm}, every)

    def _average(self) -> None:
        decay = min(self.options.ema, (self.step + 1) / (self.step + 10))
        average, current = list(self.averaged.parameters()), list(self.module.parameters())
        torch._foreach_lerp_(average, [parameter.detach() for parameter in current], 1 - decay)

    def _log(self, values: Mapping[str, Tensor], every: int) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        if (self.step + 1) % every:
            return
        first, since = self._logged
        now = time.monotonic()
        count = self.step + 1 - first
        means = {name: float(total) / count for name, total in self._sums.items()}
        means["steps/s"] = count / max(1e-9, now - since)
        self._sums, self._logged = {}, (self.step + 1, now)
        self.report(means)

    def report(self, values: Mapping[str, float]) -> None:
        """Print figures and write them to TensorBoard."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {self.step + 1:6d}  {self.seconds / 60:6.2f} min  lr {self.rate():.2e}  {text}", flush=True)
        for name, value in values.items():
            self.writer.add_scalar(name, value, self.step + 1)

    def show(self, name: str, strip: Tensor) -> None:
        """Write a picture, uint8 [H, W, 3], to TensorBoard and as a PNG beside the checkpoints."""
        from PIL import Image

        self.writer.add_image(name, strip.cpu(), self.step + 1, dataformats="HWC")
        Image.fromarray(strip.cpu().numpy()).save(self.options.folder / f"{name}.png")

    @property
    def writer(self) -> SummaryWriter:
        """The TensorBoard log, in the run's folder."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.options.folder / "log"))
        return self._writer

    def save(self) -> Path:
        """Write a checkpoint now."""
        tensors = {"model." + name: parameter for name, parameter in self.module.named_parameters()}
        tensors |= {"ema." + name: average for name, average in self.averaged.named_parameters()}
        self._saved = time.monotonic()
        return checkpoint.save(self.options.folder, self.step, self.seconds, tensors, self.notes)


def restore(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Fill a module's parameters from a checkpoint's tensors of that prefix.

    Raises:
        CheckpointError: The checkpoint is of another module or other sizes.
    """
    parameters = dict(module.named_parameters())
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    wrong = [
        name for name in parameters | found if getattr(found.get(name), "shape", None) != _shape(parameters, name)
    ]
    if wrong:
        raise checkpoint.CheckpointError(
            f"the checkpoint is not one of this {type(module).__name__}: {', '.join(sorted(wrong)[:4])} differ; "
            "use another folder, or the sizes that it was trained with"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[name])


def _shape(parameters: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return parameters[name].shape if name in parameters else None
