"""Sizes of ABot-World: its transformer, its window and its schedule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from worldplay_env.control.layout import ChunkLayout
from worldplay_env.models.config import WAN_5B, AutoencoderConfig, TextConfig, TransformerConfig, WorldConfig
from worldplay_env.models.wan.small_decoder import SmallDecoderConfig


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
    """Pictures of a character: head, left, right, front, back. The weights saw all slots at all times, as zeros where
    there were no pictures."""
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

REFERENCES = ("head", "left", "right", "front", "back")
"""The reference pictures of a third-person character: its face and its four sides."""


@dataclass(frozen=True)
class AbotWorldConfig(WorldConfig):
    """A whole ABot-World: image size, its networks, its window and its schedule."""

    transformer: AbotTransformerConfig
    fps: int = 12
    """Images a second, as upstream writes and plays them; its action files and its README speak of 16."""
    window: WindowConfig = WindowConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    small_decoder: SmallDecoderConfig = field(default_factory=SmallDecoderConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        side = self.transformer.patch_size[1] * self.autoencoder.spatial_factor
        if self.window.reference_size % side:
            raise ValueError(f"reference_size must be a multiple of {side}, got {self.window.reference_size}")
        if not 2 <= self.window.block <= self.window.frames:
            raise ValueError(f"a block has 2 to {self.window.frames} latent frames, got {self.window.block}")

    @property
    def layout(self) -> ChunkLayout:
        """A block a chunk; it sees the rest of the window."""
        latents, images = self.window.block, self.autoencoder.temporal_factor
        return ChunkLayout(latents, images, 1 + (latents - 1) * images, self.window.frames - latents)

    @property
    def reference_latents(self) -> int:
        """Rows, and columns, of the latents of a reference picture."""
        return self.window.reference_size // self.autoencoder.spatial_factor

    @property
    def reference_tokens(self) -> int:
        """Tokens of all reference slots."""
        slot = self.transformer.tokens_per_frame((self.reference_latents, self.reference_latents))
        return self.window.reference_slots * slot


ABOT_5B = AbotWorldConfig(
    name="abot-5b",
    image_size=(704, 1280),
    transformer=ABOT_5B_TRANSFORMER,
    autoencoder=WAN_5B.autoencoder,
    text=WAN_5B.text,
)
ABOT_SMALL = AbotWorldConfig(
    name="abot-small",
    image_size=(64, 96),
    transformer=AbotTransformerConfig(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=6,
        out_channels=6,
        text_dim=10,
        freq_dim=16,
        ffn_dim=48,
        num_layers=3,
    ),
    autoencoder=AutoencoderConfig(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=6,
        latents_mean=(0.1, -0.2, 0.3, 0.0, 0.05, -0.4),
        latents_std=(1.1, 0.9, 0.5, 1.3, 0.8, 1.0),
        dim_mult=(1, 2, 2, 2),
        num_res_blocks=1,
    ),
    text=TextConfig(
        text_len=160,
        vocab_size=384,
        d_model=10,
        d_kv=4,
        d_ff=8,
        num_layers=1,
        num_heads=2,
        bytes_tokenizer=True,
    ),
    # Three blocks fill the window, and the base of positions moves at the fourth.
    window=WindowConfig(frames=9, position_limit=10, reference_size=64),
    small_decoder=SmallDecoderConfig((12, 8, 4, 4)),
)
"""The same architecture for tests: no weights of this size were ever trained."""

ABOT_PRESETS = {config.name: config for config in (ABOT_5B, ABOT_SMALL)}
