"""Sizes of ABot-World: its transformer, its window and its schedule."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from worldplay_env.models.config import WAN_5B, TransformerConfig


@dataclass(frozen=True)
class AbotTransformerConfig(TransformerConfig):
    """Sizes of ABot-World's diffusion transformer."""

    action_channels: int = 32
    """Channels of an action tensor: the keys, each as often as a latent frame has images."""
    adapter_downscale: int = 16
    """Pixels of an action tensor to one latent pixel, along a side."""


@dataclass(frozen=True)
class WindowConfig:
    """What a block of latent frames sees, and where the frames are in time."""

    block: int = 3
    """Latent frames made by one step."""
    frames: int = 21
    """Latent frames that attention sees, the current block included."""
    position_limit: int = 256
    """Time positions of a block stay below it: where they would reach beyond, the base moves."""
    bounded: bool = False
    """Whether the base is the oldest visible frame at all times, in place of one that moves at the limit."""
    reference_slots: int = 5
    """Pictures of a character: head, left, right, front, back."""
    reference_size: int = 512
    """Height and width of a reference picture in pixels."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise levels of the distilled sampler."""

    shift: float = 5.0
    steps: tuple[int, ...] = (1000, 750, 500, 250)
    """Entries of the table of 1000 levels, counted from its end."""


IMAGES_PER_LATENT = 4
"""Images of a latent frame."""
AUTOENCODER_NORM_EPS = 1e-6
"""What the norms of the autoencoder add to a mean square: the transformer was given such latents."""

ABOT_5B_TRANSFORMER = AbotTransformerConfig(**asdict(WAN_5B.transformer))
"""The backbone is that of Wan 2.2 TI2V-5B."""
