"""What the training stages share: options, the clock and learning rate, the moving average, logs, resuming."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from worldplay_env.provenance import device_name
from worldplay_env.training import checkpoint
from worldplay_env.training.cuda_graph import Function, Recorded
from worldplay_env.training.muon import Optimiser
from worldplay_env.training.parallel import peers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Module = TypeVar("Module", bound=nn.Module)
Losses = Function
"""The losses of a stage, as a function of a batch."""

FIRST_LOG, LOG_EVERY = 20, 50
"""Steps of a call before its first line of figures, and between later ones."""
LOG_SECONDS = 30.0
"""After so long a line of figures comes whatever the steps, which take seconds each on a CPU."""


@dataclass(frozen=True)
class RunOptions:
    """What every training stage takes."""

    folder: Path
    """Where checkpoints and logs go; a run that is there already is resumed."""
    minutes: float = 8.0
    """How long this call may take, its preparation and last report included. At least the preparation and that report
    are made, however long they take."""
    total_minutes: float | None = None
    """Training time, over all calls, after which the learning rate is at its lowest; by default this call's end."""
    save_every: float = 2.0
    """Minutes between checkpoints."""
    report_every: float = 2.0
    """Minutes between reports on held-out scenes."""
    learning_rate: float = 1e-3
    warmup: int = 100
    """Steps from a learning rate of nearly 0, at the start and after resuming."""
    ema: float = 0.999
    """Decay a step of the parameters' moving average; the average is exported."""
    device: str | None = None
    """A torch device; by default "cuda" where there is one."""
    seed: int = 0
    """Of the data, and of fresh parameters."""
    max_steps: int | None = None
    """Stop after as many steps in this call, whatever the time."""
    compile: bool = True
    """Fuse parts with torch.compile."""


class Run(Generic[Module]):
    """One stage's training: its schedule by the clock, the moving average, checkpoints and logs.

    Args:
        options: Of the stage.
        module: What is trained, on its device; filled from the newest checkpoint, if there is one.
        optimiser: Of the module.

    Attributes:
        step: Optimiser steps made, over all calls.
        notes: What the stage wants to find beside its tensors.
    """

    def __init__(self, options: RunOptions, module: Module, optimiser: Optimiser) -> None:
        self._began = time.monotonic()
        self._reporting: float | None = None
        self._report_seconds = 0.0
        self.options, self.module, self.optimiser = options, module, optimiser
        self.device = next(module.parameters()).device
        self.step = 0
        self.notes: dict[str, Any] = {}
        self._seconds_before = 0.0
        self._peers = peers()
        self._averages = AveragedModel(module, multi_avg_fn=self._average)
        self._averages.requires_grad_(False).eval()
        self._warm_from = 0
        if saved := checkpoint.latest(options.folder):
            self.step, self._seconds_before, self.notes = saved.step, saved.seconds, dict(saved.notes)
            checkpoint.fill(module, saved.model)
            checkpoint.fill(self.averaged, saved.averages)
            self._averages.n_averaged.fill_(self.step)
            if saved.optimiser:
                optimiser.restore(saved.optimiser)
            else:
                self._warm_from = self.step
        self.notes |= {"seed": options.seed, "torch": str(torch.__version__)}
        self.note_then("hardware", device_name(self.device))
        self.notes["commands"] = [*self.notes.get("commands", []), command(options)]
        self._first_step = self.step
        self._reported = -1
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._updates: dict[Losses, Recorded] = {}
        recorded = self.device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if recorded else None
        self._optimise = Recorded(self._step_along, torch.cuda.graph_pool_handle() if recorded else None)
        self._rate = torch.zeros((), device=self.device)
        self._watch = Stopwatch(self.device)
        self._writer = _writer(options.folder / "log") if self.is_first else None
        self.start_clock()

    def note_then(self, name: str, text: str) -> None:
        """Note what holds from this call on, behind what held in the calls before, if it is something else."""
        told = [*str(self.notes.get(name, "")).split(", then "), text]
        self.notes[name] = ", then ".join(each for each, _ in groupby(filter(None, told)))

    @property
    def averaged(self) -> Module:
        """A copy of the module that holds the parameters' moving average."""
        return cast(Module, self._averages.module)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that reports and writes checkpoints."""
        return self._peers.rank == 0

    @property
    def seconds(self) -> float:
        """Training time so far, earlier calls included."""
        return self._seconds_before + time.monotonic() - self._started

    def start_clock(self, *, report_at_once: bool = False) -> None:
        """Count the training time from now: what came before (scenes, compiling) was preparation."""
        self._started = self._saved = time.monotonic()
        left = self._began + self.options.minutes * 60 - self._started
        total = self.options.total_minutes
        self._planned = max(1.0, self._seconds_before + left if total is None else total * 60)
        self._logged = (self.step, self._started)
        self._next_report = 0.0 if report_at_once else self._seconds_before + self.options.report_every * 60

    def report_is_due(self) -> bool:
        """Return whether it is time for this process to report; the next time is then so many minutes away."""
        if not self.is_first or self.seconds < self._next_report:
            return False
        self._next_report = self.seconds + self.options.report_every * 60
        self._reporting, self._reported = time.monotonic(), self.step
        return True

    def last_report_is_due(self) -> bool:
        """Return whether this process has something to report that it has not reported yet."""
        return self.is_first and self._reported != self.step

    def seconds_left(self) -> float:
        """Return the rest of this call's time, less the expected time of the last report."""
        if self._reporting is not None:  # the step after a report begins
            self._report_seconds = time.monotonic() - self._reporting
            self._reporting = None
        return self._began + self.options.minutes * 60 - self._report_seconds - time.monotonic()

    def time_for(self, share: float) -> Callable[[], bool]:
        """Return a function that says whether less than a share of this call's time has gone by since now."""
        until = time.monotonic() + share * self.options.minutes * 60
        return lambda: time.monotonic() < until

    def tell(self, what: str) -> None:
        """Print the current activity and the time since the start of this call, in the first process."""
        if self.is_first:
            print(f"{(time.monotonic() - self._began) / 60:6.2f} min  {what}", flush=True)

    def steps(self) -> Iterator[int]:
        """Yield the number of each step to make while there is time; save every few minutes and at the end."""
        while self._peers.agree(self._goes_on()):
            self.lap("between")
            yield self.step
            if time.monotonic() - self._saved > self.options.save_every * 60:
                self.save()
        self.save()

    def _goes_on(self) -> bool:
        made, most = self.step - self._first_step, self.options.max_steps
        return self.seconds_left() > 0 and (most is None or made < most)

    def lap(self, part: str) -> None:
        """Count the time since the lap before for this part of a step."""
        self._watch.lap(part)

    def rate(self) -> float:
        """Return the learning rate: a cosine over the planned time, down to 2 %, under a warm-up in steps."""
        progress = min(1.0, self.seconds / self._planned)
        cosine = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * progress))
        warm = min(1.0, (self.step - self._warm_from + 1) / max(1, self.options.warmup))
        return self.options.learning_rate * cosine * warm

    def update(self, losses: Losses, *inputs: Any) -> dict[str, Tensor]:
        """Make one optimiser step on `losses(*inputs)["loss"]`, and every so many steps log its figures' means.

        Args:
            losses: Returns tensors by name, "loss" among them; those without dimensions are figures. One object a
                stage, not one a step: on a GPU it is recorded, see `Recorded` for what it may do.
            inputs: All that changes from step to step: tensors, and tuples of tensors.

        Returns:
            What `losses` returned, without gradient; valid until the next update.
        """
        if losses not in self._updates:
            self._updates[losses] = Recorded(partial(self._gradients, losses), self._pool)
        found = self._updates[losses](*inputs)
        self._peers.average(found["gradients"])
        self._rate.fill_(self._peers.agree(self.rate()))
        stepped = self._optimise(found["gradients"])
        self._averages.update_parameters(self.module)
        self.step += 1
        self.lap("update")
        self._log({name: value for name, value in (found | stepped).items() if not value.ndim})
        return found

    def _gradients(self, losses: Losses, *inputs: Any) -> dict[str, Tensor]:
        """Return what `losses` returns, and all gradients in one row."""
        found = losses(*inputs)
        parameters = self._trained()
        gradients = torch.autograd.grad(found["loss"], parameters, allow_unused=True, materialize_grads=True)
        row = torch.cat([gradient.flatten() for gradient in gradients])
        return {name: value.detach() for name, value in found.items()} | {"gradients": row}

    def _step_along(self, row: Tensor) -> dict[str, Tensor]:
        """Make the optimiser's step along gradients in one row; return their norm."""
        norm = row.norm()
        # A gradient that is not finite counts as none, without waiting for the device to say so.
        row = (row * (1 / norm.clamp(min=1.0))).nan_to_num(0.0, 0.0, 0.0)
        parameters = self._trained()
        parts = row.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            # In the parameter's own layout in memory, which AdamW's fused step asks for.
            parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))
        self.optimiser.step(self._rate)
        return {"gradient": norm}

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def _average(self, averages: Any, now: Any, _: Any) -> None:
        """Move the averages towards the parameters; faster at first."""
        decay = min(self.options.ema, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(averages, now, 1 - decay)

    def _log(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros((), device=self.device), 0))
            self._sums[name] = total + value, count + 1
        made = self.step - self._first_step
        waited = time.monotonic() - self._logged[1] > LOG_SECONDS
        if made != FIRST_LOG and made % LOG_EVERY and not waited:
            return
        first, since = self._logged
        steps = self.step - first
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        parts = {f"{part} s": seconds / steps for part, seconds in self._watch.take().items()}
        now = time.monotonic()
        means["steps/s"] = steps / max(1e-9, now - since)
        self._sums, self._logged = {}, (self.step, now)
        self.report(means | parts | _memory(self.device))

    def report(self, values: Mapping[str, float]) -> None:
        """Print figures and write them to TensorBoard, in the first process."""
        if self._writer is None:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {self.step:6d}  {self.seconds / 60:6.2f} min  lr {self.rate():.2e}  {text}", flush=True)
        for name, value in values.items():
            self._writer.add_scalar(name, value, self.step)

    def show(self, name: str, strip: Tensor) -> None:
        """Write a picture, uint8 [H, W, 3], to TensorBoard and as a PNG in the folder, in the first process."""
        if self._writer is None:
            return
        from PIL import Image

        from worldplay_env.media.contact_sheet import save_picture

        picture = strip.cpu().numpy()
        self._writer.add_image(name, picture, self.step, dataformats="HWC")
        save_picture(Image.fromarray(picture), self.options.folder / f"{name}.png")

    def save(self) -> None:
        """Write a checkpoint now, in the first process."""
        self._saved = time.monotonic()
        if not self.is_first:
            return
        checkpoint.save(
            self.options.folder,
            self.step,
            self.seconds,
            dict(self.module.named_parameters()),
            dict(self.averaged.named_parameters()),
            self.notes,
            self.optimiser.state(),
        )


class Stopwatch:
    """Timings of the parts of training steps: on a GPU by events, without synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: list[tuple[str, Any]] = []

    def lap(self, part: str) -> None:
        """Count the time since the lap before for `part`; before the first lap there is none."""
        if self._device.type == "cuda":
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.monotonic()
        self._laps.append((part, now))

    def take(self) -> dict[str, float]:
        """Return the seconds of each part since the call before; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds: dict[str, float] = {}
        for (_, before), (part, now) in pairwise(self._laps):
            spent = before.elapsed_time(now) / 1000 if self._device.type == "cuda" else now - before
            seconds[part] = seconds.get(part, 0.0) + spent
        self._laps = self._laps[-1:]
        return seconds


def command(options: Any) -> str:
    """Return the command line that gives a stage these options: all of them, since defaults may change."""
    words = ["python -m worldplay_env.training", type(options).__name__.removesuffix("Options").lower()]
    for field in fields(options):
        value = getattr(options, field.name)
        if value is not None:
            name = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                words.append(f"--{name} {shlex.quote(str(value))}")
    return " ".join(words)


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return the training dtype: bfloat16 on a GPU, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def fast_convolutions() -> Any:
    """Return the context in which cuDNN measures its kernels for each shape: for few shapes, many times."""
    # Named arguments all: left out, `enabled` would turn cuDNN off.
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)


def _writer(folder: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SystemExit(
            f"error: training writes TensorBoard logs ({error}): pip install 'worldplay-env[training]'"
        ) from error
    return SummaryWriter(str(folder))


def _memory(device: torch.device) -> dict[str, float]:
    """Return the most memory that tensors took, in GiB, and how often it did not suffice at first."""
    if device.type != "cuda":
        return {}
    retries = torch.cuda.memory_stats(device).get("num_alloc_retries", 0)
    return {"peak GiB": torch.cuda.max_memory_allocated(device) / 2**30, "retries": float(retries)}
