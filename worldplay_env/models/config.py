"""Every size of the model, as frozen dataclasses, and the named presets.

Field names follow the configuration files that published checkpoints carry, so that such a file can be read with
`from_dict`; `wan-5b` holds the sizes of the real model (spec, table of symbols and section 9).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from worldplay_env.control.layout import LAYOUT, ChunkLayout


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the diffusion transformer."""

    num_attention_heads: int
    attention_head_dim: int
    """Channels a head; a multiple of 4, since PRoPE works on groups of four."""
    in_channels: int
    out_channels: int
    text_dim: int
    """Width of a prompt embedding."""
    freq_dim: int
    """Width of the timestep and action sinusoid."""
    ffn_dim: int
    num_layers: int
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Latent frames, rows and columns in one token; time is never merged."""
    eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", tuple(self.patch_size))
        if self.attention_head_dim % 4:
            raise ValueError(f"attention_head_dim must be a multiple of 4, got {self.attention_head_dim}")
        if self.patch_size[0] != 1:
            raise ValueError(f"patch_size must not merge latent frames, got {self.patch_size}")

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim

    def tokens_per_frame(self, latent_size: tuple[int, int]) -> int:
        """Tokens of one latent frame of `latent_size` = (rows, columns)."""
        _, rows, columns = self.patch_size
        height, width = latent_size
        if height % rows or width % columns:
            raise ValueError(f"latent size {latent_size} is not divisible by the patch {self.patch_size}")
        return (height // rows) * (width // columns)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a checkpoint's `config.json`; keys that do not set a size are passed over."""
        return _from_dict(cls, values)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the causal video autoencoder."""

    base_dim: int
    decoder_base_dim: int
    z_dim: int
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    """For each downsampling between two levels: whether it halves time as well."""
    patch_size: int = 2

    def __post_init__(self) -> None:
        for name in ("latents_mean", "latents_std", "dim_mult", "temporal_downsample"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temporal_downsample needs one entry between two levels: {len(self.dim_mult) - 1}, "
                f"got {len(self.temporal_downsample)}"
            )
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ValueError(f"latents_mean and latents_std need z_dim = {self.z_dim} values each")

    @property
    def spatial_factor(self) -> int:
        """Image pixels to one latent pixel, along a side."""
        return self.patch_size * 2 ** (len(self.dim_mult) - 1)

    @property
    def temporal_factor(self) -> int:
        """Images to one latent frame, the first latent frame apart (it is one image)."""
        return 2 ** sum(self.temporal_downsample)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a checkpoint's `config.json`; its key for `temporal_downsample` is `temperal_downsample`."""
        values = dict(values)
        if "temperal_downsample" in values:
            values["temporal_downsample"] = values.pop("temperal_downsample")
        if values.get("decoder_base_dim") is None:
            values["decoder_base_dim"] = values.get("base_dim")
        return _from_dict(cls, values)


def _from_dict(cls: type, values: Mapping[str, Any]) -> Any:
    fields = dataclasses.fields(cls)
    missing = [field.name for field in fields if field.name not in values and field.default is dataclasses.MISSING]
    if missing:
        raise ValueError(f"{cls.__name__}: the configuration lacks {', '.join(missing)}")
    return cls(**{field.name: values[field.name] for field in fields if field.name in values})


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the UMT5 text encoder, and how prompts are tokenised."""

    text_len: int
    """Tokens that a prompt embedding is cut or zero-padded to."""
    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    bytes_tokenizer: bool = False
    """Whether a token is a byte (`text.byte_tokenizer`), so that no tokenizer file is needed."""


@dataclass(frozen=True)
class WorldConfig:
    """A whole world model: image size, and the sizes of its three networks."""

    name: str
    image_size: tuple[int, int]
    """Height and width in pixels."""
    transformer: TransformerConfig
    autoencoder: AutoencoderConfig
    text: TextConfig
    fps: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        _, rows, columns = self.transformer.patch_size
        sides = (rows * self.autoencoder.spatial_factor, columns * self.autoencoder.spatial_factor)
        whole = len(self.image_size) == 2 and all(
            isinstance(length, int) and length > 0 and length % side == 0
            for length, side in zip(self.image_size, sides, strict=False)
        )
        if not whole:
            raise ValueError(f"image_size must be height and width, multiples of {sides}, got {self.image_size}")
        if not isinstance(self.fps, int) or self.fps <= 0:
            raise ValueError(f"fps must be a positive whole number, got {self.fps!r}")

    @property
    def layout(self) -> ChunkLayout:
        """The chunks and the memory of HY-WorldPlay, and as many images a latent frame as the autoencoder makes."""
        images = self.autoencoder.temporal_factor
        return dataclasses.replace(LAYOUT, images=images, first_images=1 + (LAYOUT.latents - 1) * images)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Rows and columns of a latent frame."""
        factor = self.autoencoder.spatial_factor
        return self.image_size[0] // factor, self.image_size[1] // factor

    @property
    def tokens_per_frame(self) -> int:
        """Transformer tokens of one latent frame."""
        return self.transformer.tokens_per_frame(self.latent_size)


# fmt: off
_WAN_LATENTS_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.157, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
_WAN_LATENTS_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on

WAN_5B = WorldConfig(
    name="wan-5b",
    image_size=(704, 1280),
    transformer=TransformerConfig(
        num_attention_heads=24,
        attention_head_dim=128,
        in_channels=48,
        out_channels=48,
        text_dim=4096,
        freq_dim=256,
        ffn_dim=14336,
        num_layers=30,
    ),
    autoencoder=AutoencoderConfig(
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        latents_mean=_WAN_LATENTS_MEAN,
        latents_std=_WAN_LATENTS_STD,
    ),
    text=TextConfig(text_len=512, vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64),
)

TINY = WorldConfig(
    name="tiny",
    image_size=(96, 160),
    # Tokens of one latent pixel, not 2x2: at 6x10 latent pixels a frame there are few of them, and a token that
    # covers 32x32 image pixels is too coarse to move by the few pixels that one action shifts the picture.
    transformer=TransformerConfig(
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=96,
        out_channels=96,
        text_dim=64,
        freq_dim=128,
        ffn_dim=512,
        num_layers=5,
        patch_size=(1, 1, 1),
    ),
    # Wide layers at low resolution cost little on a CPU, narrow ones at full resolution much: hence patches of 4. And
    # twice the channels of the real model's latents, since a small picture has as many edges in fewer pixels.
    autoencoder=AutoencoderConfig(
        base_dim=64,
        decoder_base_dim=56,
        z_dim=96,
        latents_mean=(0.0,) * 96,
        latents_std=(1.0,) * 96,
        dim_mult=(1, 2, 2),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        patch_size=4,
    ),
    text=TextConfig(
        text_len=160,
        vocab_size=384,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        bytes_tokenizer=True,
    ),
)

TINY_V1 = dataclasses.replace(
    TINY,
    # Tokens of 16x8 image pixels: one action moves the picture by a few pixels, which larger ones resample poorly.
    transformer=dataclasses.replace(TINY.transformer, in_channels=24, out_channels=24, patch_size=(1, 2, 1)),
    autoencoder=AutoencoderConfig(
        base_dim=32,
        decoder_base_dim=16,
        z_dim=24,
        latents_mean=(0.0,) * 24,
        latents_std=(1.0,) * 24,
        dim_mult=(1, 4, 4),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        patch_size=2,
    ),
)
"""The second edition of the embedded world, which the training stages make: latents of 8x8 pixels, not 16x16."""

PRESETS = {config.name: config for config in (TINY, WAN_5B)}
