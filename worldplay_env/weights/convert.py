"""One ready safetensors file of a network, from a checkpoint of any layout that is known (`weights.layouts`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from worldplay_env.media.files import replacing
from worldplay_env.models.abot.config import ABOT_5B, AbotWorldConfig
from worldplay_env.models.abot.transformer import AbotTransformer
from worldplay_env.models.config import PRESETS, WorldConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.text import text_model
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.weights.checkpoint import match_entries, on_meta, upstream_name
from worldplay_env.weights.entry import CheckpointError
from worldplay_env.weights.files import opened
from worldplay_env.weights.hub import folder_config

_TEXT_SIGNS = ("shared.", "encoder.embed_tokens.", "encoder.block.")
_AUTOENCODER_SIGNS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        network: Which of a world's networks it is: "transformer", "autoencoder" or "text encoder".
        tensors: How many there are.
        layout: What the source was taken for.
        size: Of the file, in bytes.
    """

    network: str
    tensors: int
    layout: str
    size: int


def convert(source: Path, out: Path, world: str = "wan-5b", dtype: torch.dtype | None = None) -> Converted:
    """Write a network's tensors to one safetensors file, under the names that are loaded, whole or not at all.

    Needs about as much memory as the file is large.

    Args:
        source: A file, an index of shards or a folder.
        out: The .safetensors file; one that is there is replaced.
        world: Whose network it must be: a preset's name, or a folder that is a world.
        dtype: Of the tensors; by default each one's own, and bfloat16 for numbers of 8 bits.

    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen, or a file cannot be read.
        ValueError: The name of `out`, or an unknown world.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"the file to write must end in .safetensors, got {out}")
    presets: dict[str, WorldConfig] = {**PRESETS, ABOT_5B.name: ABOT_5B}
    if world not in presets and not Path(world).is_dir():
        raise ValueError(f"unknown world {world!r}: known are {', '.join(presets)}, or a folder of weights")
    config = presets[world] if world in presets else folder_config(world)
    cpu = torch.device("cpu")
    with opened(source, cpu) as entries:
        if not entries:
            raise CheckpointError(f"{source}: there are no tensors in it")
        network = _network_of(set(entries))
        module, name_in_file = _networks(config)[network]
        matched = match_entries(on_meta(module), entries, name_in_file)
        tensors = {name_in_file(name): entry.read(cpu, dtype).contiguous() for name, entry in matched.items()}
        layout = next(iter(entries.values())).layout
    with replacing(out) as partial:
        save_file(tensors, partial, {"format": "pt"})
    return Converted(network, len(tensors), layout, out.stat().st_size)


def _networks(config: WorldConfig) -> dict[str, tuple[Callable[[], nn.Module], Callable[[str], str]]]:
    """Return each network's constructor and the translation of its parameter names to those of a file."""
    transformer: Callable[[], nn.Module] = functools.partial(Transformer, config.transformer)
    if isinstance(config, AbotWorldConfig):
        transformer = functools.partial(AbotTransformer, config.transformer)
    return {
        "transformer": (transformer, upstream_name),
        "autoencoder": (functools.partial(Autoencoder, config.autoencoder), str),
        "text encoder": (functools.partial(text_model, config.text), str),
    }


def _network_of(names: set[str]) -> str:
    """Return the network of the most similar parameter names; `match_entries` checks them."""
    if any(name.startswith(_TEXT_SIGNS) for name in names):
        return "text encoder"
    return "autoencoder" if any(name.startswith(_AUTOENCODER_SIGNS) for name in names) else "transformer"
