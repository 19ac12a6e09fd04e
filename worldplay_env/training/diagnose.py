"""What trained networks can and cannot do, measured on held-out paths, and the gates that each stage has to pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from worldplay_env.media.contact_sheet import save_picture
from worldplay_env.models.config import TINY_V1
from worldplay_env.training import checkpoint
from worldplay_env.training.held_out import FIGURES, measure, strips
from worldplay_env.training.latent_dataset import HELD_OUT_PATHS, render_paths
from worldplay_env.training.networks import fresh, trained_autoencoder
from worldplay_env.training.run import compute_dtype
from worldplay_env.training.trajectories import plans
from worldplay_env.worlds.device import pick_device


@dataclass(frozen=True)
class Gate:
    """What a figure has to reach before the next stage is worth its time.

    Attributes:
        bound: The least that it may be; the most if `below`.
        below: Whether less is better.
    """

    bound: float
    below: bool = False

    def passed(self, value: float) -> bool:
        """Return whether a value is good enough; nan is not."""
        return value <= self.bound if self.below else value >= self.bound

    def __str__(self) -> str:
        return f"at {'most' if self.below else 'least'} {self.bound:g}"


GATES: dict[str, dict[str, Gate]] = {
    "autoencoder": {"held-out psnr": Gate(30.5), "depth error": Gate(0.12, below=True)},
    "transformer": {"psnr of true memory": Gate(23.3), "forward below yaw": Gate(1.5, below=True)},
    "distill": {
        "psnr of short term": Gate(22.5),
        "psnr of true memory": Gate(23.5),
        "depth error": Gate(0.15, below=True),
        "power at 9 pixels": Gate(0.8),
    },
}
"""By stage and figure."""


def rows(stage: str, figures: Mapping[str, float]) -> list[str]:
    """Return a line for each figure that is measured or gated, with its gate and whether it passed."""
    gates = GATES.get(stage, {})
    lines = []
    for name in [*figures, *(name for name in gates if name not in figures)]:
        value, gate = figures.get(name), gates.get(name)
        measured = "not measured" if value is None else f"{value:.3f}"
        verdict = "" if gate is None or value is None else "passed" if gate.passed(value) else "MISSED"
        lines.append(f"{stage:12} {name:24} {measured:>12}  {'' if gate is None else gate!s:14} {verdict}".rstrip())
    return lines


@dataclass(frozen=True)
class ReportOptions:
    """Print the figures that each stage's newest checkpoint notes, beside the gates that they have to pass."""

    runs: Path = Path("runs")
    """The folder of the stages' folders."""

    def run(self) -> None:
        """Print a table."""
        found = False
        for stage in GATES:
            if not checkpoint.exists(self.runs / stage):
                continue
            found = True
            notes = checkpoint.averages(self.runs / stage).notes
            figures = {name: float(value) for name, value in notes.items() if isinstance(value, float)}
            print("\n".join(rows(stage, figures)))
        if not found:
            print(f"{self.runs}: no stage has a checkpoint there")


@dataclass(frozen=True)
class DiagnoseOptions:
    """Measure networks on held-out paths: rollouts, and motion, depth, sharpness and attention behind them."""

    transformer: Annotated[Path, tyro.conf.arg(aliases=["--dreamer"])] = Path("runs/transformer")
    """The run of the transformer and the text encoder."""
    autoencoder: Path = Path("runs/autoencoder")
    """The autoencoder's run."""
    held_out: int = 32
    """Paths, one a held-out scene."""
    chunks: int = 16
    """Length of a path."""
    second: bool = False
    """Measure on scenes of the second edition."""
    out: Path | None = None
    """A PNG of some rollouts, the truth above each."""
    device: str | None = None
    """A torch device; by default "cuda" where there is one."""

    def run(self) -> None:
        """Measure, and print a table."""
        device = pick_device(self.device)
        dtype = compute_dtype(device)
        autoencoder = trained_autoencoder(self.autoencoder, device, dtype)
        networks = fresh(TINY_V1, 0, device).requires_grad_(False)
        checkpoint.fill_networks(networks, checkpoint.averages(self.transformer).averages)
        size, seeds = TINY_V1.image_size, range(HELD_OUT_PATHS, HELD_OUT_PATHS + self.held_out)
        with plans(seeds, self.chunks, size, second=float(self.second)) as planned:
            paths = render_paths(planned, autoencoder, TINY_V1.text, size, keep_frames=True)
        found = measure(networks, autoencoder, paths, self.chunks, thorough=True)
        stage = "distill" if "began_with" in checkpoint.averages(self.transformer).notes else "transformer"
        print("\n".join(rows(stage, found.figures)))
        print("psnr by chunk:", *(f"{value:.2f}" for value in found.by_chunk))
        print(*(f"{name}: {FIGURES[name]}" for name in found.figures), sep="\n")
        if self.out is not None:
            save_picture(Image.fromarray(strips(found, self.chunks).cpu().numpy()), self.out)
