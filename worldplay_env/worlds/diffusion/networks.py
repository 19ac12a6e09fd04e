"""The networks of a world model, from its files or with random parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch

from worldplay_env.models.config import WorldConfig
from worldplay_env.models.wan.autoencoder import Autoencoder, RMSNorm
from worldplay_env.models.wan.backbone import Backbone
from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.weights import checkpoint
from worldplay_env.weights.content import remembered
from worldplay_env.weights.files import weight_files
from worldplay_env.weights.folder import WeightFiles

Transformer = TypeVar("Transformer", bound=Backbone)


@dataclass(frozen=True)
class Networks(Generic[Transformer]):
    """What a world model is made of.

    Attributes:
        transformer: The velocity field.
        codec: Frames to latents and back.
        text_encoder: Prompts to embeddings.
        weights: Where the parameters came from: a revision, the beginning of the files' digest, or "random".
        weights_hash: The digest of the files; None for random parameters.
    """

    transformer: Transformer
    codec: Autoencoder
    text_encoder: TextEncoder
    weights: str
    weights_hash: str | None


def load_networks(
    name: str,
    config: WorldConfig,
    files: WeightFiles | None,
    load_transformer: Callable[..., Transformer],
    *,
    device: torch.device,
    dtype: torch.dtype,
    norm_eps: float = RMSNorm.EPS,
) -> Networks[Transformer]:
    """Load the networks of a world.

    Args:
        name: Of the world, for errors.
        config: Its sizes.
        files: Its weights; None for random ones.
        load_transformer: A function of `weights.checkpoint`.
        device: Where the networks go.
        dtype: Of their parameters.
        norm_eps: As in `load_autoencoder`.

    Raises:
        CheckpointError: A file is damaged, does not fit the sizes, or was changed while it was read.
    """
    random = checkpoint.RandomWeights()
    known_as = files.content_hash if files else None  # before the files are read
    with torch.inference_mode(False):  # whatever the caller does: these tensors outlive the call
        networks = Networks(
            load_transformer(files.transformer if files else random, config.transformer, device=device, dtype=dtype),
            checkpoint.load_autoencoder(
                files.autoencoder if files else random,
                config.autoencoder,
                device=device,
                dtype=dtype,
                norm_eps=norm_eps,
            ),
            checkpoint.load_text_encoder(
                files.text_encoder if files else random,
                files.tokenizer if files else None,
                config.text,
                unchanged=remembered(weight_files(files.text_encoder) if files else []),
                device=device,
                dtype=dtype,
            ),
            weights=(files.revision or files.content_hash[:12]) if files else "random",
            weights_hash=known_as,
        )
    if files and replace(files).content_hash != known_as:
        raise checkpoint.CheckpointError(f"{name}: its files were changed while they were read; load it again")
    return networks
