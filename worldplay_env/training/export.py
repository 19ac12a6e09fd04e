"""Last stage: the moving averages of the trained networks become the files that `worldplay_env.load` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from worldplay_env.model.config import TINY, WorldConfig
from worldplay_env.training import checkpoint
from worldplay_env.training.autoencoder import measured_config
from worldplay_env.weights.checkpoint import upstream_name
from worldplay_env.weights.files import CheckpointError
from worldplay_env.weights.folder import write_config


@dataclass(frozen=True)
class ExportOptions:
    """Write the newest checkpoints as weights in half precision."""

    autoencoder: Path = Path("runs/autoencoder")
    """The autoencoder's run."""
    out: Path = Path("worldplay_env/weights/tiny")
    """Where the files go."""

    def run(self) -> None:
        """Write the files and say what they hold."""
        config = export_autoencoder(self.autoencoder, self.out)
        print(f"{self.out}: autoencoder.safetensors, config.json of {config.name!r}")


def export_autoencoder(run_folder: Path, out: Path) -> WorldConfig:
    """Write autoencoder.safetensors, and config.json with the latents' statistics; return the configuration.

    Raises:
        CheckpointError: The run has no checkpoint, or a damaged one.
    """
    saved = _newest(run_folder)
    config = replace(TINY, autoencoder=measured_config(saved.notes))
    out.mkdir(parents=True, exist_ok=True)
    write_half(saved.tensors, out / "autoencoder.safetensors")
    write_config(config, out)
    return config


def write_half(tensors: Mapping[str, Tensor], file: Path, names: bool = False) -> None:
    """Write the averaged parameters of a checkpoint in float16, under upstream's names if `names`."""
    averages = {name.removeprefix("ema."): value for name, value in tensors.items() if name.startswith("ema.")}
    save_file(
        {upstream_name(name) if names else name: value.to(torch.float16) for name, value in averages.items()}, file
    )


def _newest(run_folder: Path) -> checkpoint.Saved:
    saved = checkpoint.latest(run_folder)
    if saved is None:
        raise CheckpointError(f"{run_folder}: no checkpoint of a run there; train this stage first")
    return saved
