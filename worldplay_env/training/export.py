"""Last stage: the moving averages of the trained networks become the folder that `worldplay_env.load` reads.

Beside the weights in half precision and `config.json`, with the latents' measured statistics, it holds a card,
`README.md`. Everything is made and checked beside the folder first; then `config.json` is the last to be put in it,
so that nobody takes half a folder for weights.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor, nn

from worldplay_env.models.config import TINY_V1, WorldConfig
from worldplay_env.training import checkpoint, held_out
from worldplay_env.training.autoencoder import DepthAutoencoder, measured_config
from worldplay_env.training.checkpoint import Saved
from worldplay_env.training.networks import Networks
from worldplay_env.training.run import command
from worldplay_env.weights.checkpoint import upstream_name
from worldplay_env.weights.files import CheckpointError
from worldplay_env.weights.folder import local_files, write_config

MOST_BYTES = 40_000_000
"""Of all files together: the weights are part of the package."""
FILES = ("transformer.safetensors", "text_encoder.safetensors", "autoencoder.safetensors", "README.md", "config.json")

FRONT_MATTER = (
    "---",
    "license: apache-2.0",
    "library_name: worldplay-env",
    "pipeline_tag: image-to-video",
    "tags:",
    "- world-model",
    "- reinforcement-learning",
    "- gymnasium",
    "- video-generation",
    "---",
)
"""What the hub reads of a card."""

FIGURES = {"worst frame": "dB, the lowest of any frame", **held_out.FIGURES}
"""What the stages' figures mean, by the names that they have in a run's notes."""


@dataclass(frozen=True)
class ExportOptions:
    """Write the newest checkpoints as the weights that the package carries."""

    autoencoder: Path = Path("runs/autoencoder")
    """The autoencoder's run."""
    transformer: Annotated[Path, tyro.conf.arg(aliases=["--dreamer"])] = Path("runs/distill")
    """The run of the transformer and the text encoder: the distillation's, or one of the transformer stage."""
    out: Path = Path("worldplay_env/weights/tiny")
    """The folder of the files; what else is there stays."""

    def run(self) -> None:
        """Write the files and say how large they are."""
        config = export(self.autoencoder, self.transformer, self.out)
        size = sum((self.out / name).stat().st_size for name in FILES)
        print(f"{self.out}: the weights of {config.name!r}, {size / 1e6:.1f} MB")


def export(autoencoder: Path, transformer: Path, out: Path) -> WorldConfig:
    """Write the weights, their configuration and their card to a folder; return the configuration.

    Args:
        autoencoder: The autoencoder's run.
        transformer: The run of the transformer and the text encoder.
        out: Where to; other files in it (the bundled starts) are kept.

    Raises:
        CheckpointError: A run has no checkpoint, a damaged one, or one of other networks; nothing was written.
        ValueError: The autoencoder's latents have not been measured, or the files are too large; likewise.
    """
    encoded, transformed = (
        replace(saved, averages=checkpoint.without_critic(saved.averages))
        for saved in (checkpoint.averages(autoencoder), checkpoint.averages(transformer))
    )
    config = replace(TINY_V1, autoencoder=measured_config(encoded.notes))
    with torch.device("meta"):
        _check(DepthAutoencoder(config.autoencoder), encoded)
        _check(Networks(config), transformed)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        blocks = checkpoint.part(transformed.averages, "transformer.")
        _write(blocks, temporary / "transformer.safetensors", upstream=True)
        _write(checkpoint.part(transformed.averages, "text."), temporary / "text_encoder.safetensors")
        _write(checkpoint.part(encoded.averages, "autoencoder."), temporary / "autoencoder.safetensors")
        write_config(config, temporary)
        (temporary / "README.md").write_text(card(encoded, transformed), encoding="utf-8")
        local_files(temporary)
        size = sum(file.stat().st_size for file in temporary.iterdir())
        if size > MOST_BYTES:
            raise ValueError(f"the files take {size / 1e6:.1f} MB, and at most {MOST_BYTES / 1e6:.0f} MB may be kept")
        _put(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return config


def card(autoencoder: Saved, transformer: Saved) -> str:
    """Return the card of the weights: what was trained on what, how long, with which figures, by which commands."""
    lines = [
        *FRONT_MATTER,
        "",
        "# The embedded world's weights",
        "",
        "Trained from nothing on videos of procedural scenes (`worlds/scene/`), rendered while training: no",
        "other data, no other weights. Scenes with seeds of 900,000 and more were held out; the figures below are of",
        "those, whole frames, with the parameters' moving averages, which are here in float16. What the world",
        "reaches on the suite that it is judged by, `python -m worldplay_env.evaluate --world tiny` measures. Like",
        "the code, these weights are under the Apache licence, version 2.0.",
    ]
    flow = "Latents from noise (flow matching on true ones), given memory, cameras, actions and prompt"
    rollouts = "From there on, the four-step sampler on the model's own rollouts"
    for title, what, then, saved in (
        ("Autoencoder", "Frames to latents and back", "From there on, the decoder alone", autoencoder),
        ("Transformer and text encoder", flow, rollouts, transformer),
    ):
        if "began_with" in saved.notes:
            lines += _section(f"{title}, first", what, **saved.notes["began_with"])
            lines += _section(f"{title}, then", then, **_progress(saved))
        else:
            lines += _section(title, what, **_progress(saved))
    lines += [
        "",
        "## To make them again",
        "",
        "Training goes by the clock: on such hardware these commands give weights about as good, not the same bits.",
        "",
        "```",
    ]
    for saved in (autoencoder, transformer):
        earlier = saved.notes.get("began_with", {"notes": {}})["notes"]
        lines += [*earlier.get("commands", []), *saved.notes.get("commands", [])]
    options = ExportOptions(autoencoder=autoencoder.path.parent, transformer=transformer.path.parent)
    lines += [command(options), "```", ""]
    return "\n".join(lines)


def _progress(saved: Saved) -> dict[str, Any]:
    return {"step": saved.step, "seconds": saved.seconds, "notes": saved.notes}


def _section(title: str, what: str, *, step: int, seconds: float, notes: Mapping[str, object]) -> list[str]:
    """Return the lines about one run: steps, time, what the stage noted in words, and a table of its figures."""
    lines = ["", f"## {title}", "", f"{what}.", "", f"- steps: {step}", f"- time: {seconds / 60:.1f} minutes"]
    plain = {name: value for name, value in notes.items() if isinstance(value, int | float | str)}
    lines += [f"- {name}: {value}" for name, value in plain.items() if name not in FIGURES]
    figures = [f"| {name} | {plain[name]} | {meaning} |" for name, meaning in FIGURES.items() if name in plain]
    if figures:
        lines += ["", "| figure | value | meaning |", "| --- | --- | --- |", *figures]
    return lines


def _check(module: nn.Module, saved: Saved) -> None:
    """Raise CheckpointError unless the averages are those of this module, by names and shapes."""
    try:
        checkpoint.fill(module, {name: value.to("meta") for name, value in saved.averages.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{saved.path}: {error}") from error


def _write(tensors: Mapping[str, Tensor], file: Path, *, upstream: bool = False) -> None:
    """Write tensors in float16, under the names that upstream's transformer has if `upstream`."""
    save_file(
        {upstream_name(name) if upstream else name: value.to(torch.float16) for name, value in tensors.items()}, file
    )


def _put(ready: Path, out: Path) -> None:
    """Move the files of one folder into another, which is one of weights only while its config.json is there."""
    out.mkdir(parents=True, exist_ok=True)
    (out / FILES[-1]).unlink(missing_ok=True)
    for name in FILES:
        (ready / name).replace(out / name)
