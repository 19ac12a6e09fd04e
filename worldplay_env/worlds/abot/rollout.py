"""The state of one rollout of ABot-World: its window, which forks share page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from worldplay_env.control.camera import check_poses
from worldplay_env.models.abot.window import Page, Window
from worldplay_env.models.codec import DecoderState
from worldplay_env.worlds.diffusion.latent_rollout import LatentRollout
from worldplay_env.worlds.diffusion.saved import check_finite, check_tensor

if TYPE_CHECKING:
    from worldplay_env.worlds.abot.world import AbotWorld

_REFERENCES = "references"
_UNDECODED = "undecoded"
_POSE = "pose"
_PAGE = "page."
"""What the names of the pages' tensors begin with: the references' page, and those of the window by their number."""


@dataclass(frozen=True, eq=False)
class PastBlock:
    """A finished block.

    Attributes:
        latents: float32 [C, L, h, w], clean.
        pose: float64 [4, 4], the camera-to-world matrix of its last latent frame.
        window: What later blocks see.
    """

    latents: Tensor
    pose: np.ndarray
    window: Window


class AbotRollout(LatentRollout):
    """A `Rollout` of an `AbotWorld` (see `LatentRollout`).

    Attributes:
        references: float32 [slots, C, rows, columns], the encoded reference pictures; None: there are none.
        window: The keys and values of the newest latent frames. It is a value: a step puts another in its place.
    """

    world: AbotWorld

    def __init__(self, *, references: Tensor | None = None, **begun: Any) -> None:
        super().__init__(**begun)
        self.references = references
        self.window = Window()
        self._pose = self.start_pose
        self._undecoded: tuple[Tensor, ...] = ()

    @property
    def chunks(self) -> int:
        """Chunks made so far."""
        return self.window.frames // self.world.layout.latents

    @property
    def pose(self) -> np.ndarray:
        """Float64 [4, 4]: the newest camera-to-world matrix; the start's before the first step."""
        return self._pose.copy()

    @property
    def undecoded(self) -> Sequence[Tensor]:
        """The latents, float32 [C, L, h, w], of each chunk behind the `decoded` first ones."""
        return self._undecoded

    def commit(self, past: PastBlock, decoder_state: DecoderState | None) -> None:
        """Append a finished chunk; `decoder_state` is the state after it, or None if it was not decoded."""
        self.window, self._pose = past.window, past.pose
        if decoder_state is None:
            self._undecoded = (*self._undecoded, past.latents)
        else:
            self.decoder_state, self.decoded, self._undecoded = decoder_state, self.chunks, ()

    def tensors(self) -> dict[str, Tensor]:
        """Return pose, references, window and chunks that were not decoded, to be saved."""
        tensors = {_POSE: torch.tensor(self._pose)}
        if self.references is not None:
            tensors[_REFERENCES] = self.references
        if self._undecoded:
            tensors[_UNDECODED] = torch.stack(self._undecoded)
        for name, page in self._named_pages(self.window).items():
            tensors |= {f"{name}.keys": page.keys, f"{name}.values": page.values}
        return tensors

    def facts(self) -> dict[str, Any]:
        """Return the latent frames made so far, and the one at time position 0."""
        return {"frames": self.window.frames, "base": self.window.base}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Set pose, references and window from what `tensors` and `facts` gave (see `LatentRollout.restore`)."""
        config, layout = self.world.config, self.world.layout
        frames, base = facts["frames"], facts["base"]
        if type(frames) is not int or frames < 0 or frames % layout.latents:
            raise ValueError(f"frames is {frames!r}, not a number of latent frames in chunks of {layout.latents}")
        if type(base) is not int or not 0 <= base <= max(0, frames - 1):
            raise ValueError(f"base is {base!r}, not one of its {frames} latent frames")
        check_tensor(tensors, _POSE, torch.float64, (4, 4))
        pose = tensors[_POSE].cpu().numpy()
        check_poses(pose[None], ["its pose"])
        known = {_POSE}
        if _REFERENCES in tensors:
            side = config.reference_latents
            shape = (config.window.reference_slots, self.world.latent_shape[0], side, side)
            check_tensor(tensors, _REFERENCES, torch.float32, shape)
            known.add(_REFERENCES)
        undecoded: tuple[Tensor, ...] = ()
        if _UNDECODED in tensors:
            check_tensor(tensors, _UNDECODED, torch.float32, (len(tensors[_UNDECODED]), *self.world.latent_shape))
            undecoded = tuple(one.clone() for one in tensors[_UNDECODED])
            known.add(_UNDECODED)
        if facts["decoded"] != frames // layout.latents - len(undecoded):
            raise ValueError(f"it holds {len(undecoded)} chunks that were not decoded, of {frames} latent frames")
        sizes = {f"{_PAGE}{number}": config.tokens_per_frame for number in range(min(frames, config.window.frames))}
        if frames and config.window.reference_slots:
            sizes[_PAGE + _REFERENCES] = config.reference_tokens
        pages = {name: self._page(tensors, name, tokens) for name, tokens in sizes.items()}
        known |= {f"{name}.{part}" for name in pages for part in ("keys", "values")}
        if unknown := set(tensors) - known:
            raise ValueError(f"it holds {', '.join(sorted(unknown))}")
        references = pages.pop(_PAGE + _REFERENCES, None)
        self.window = Window(frames, base, references, tuple(pages.values()))
        self.references, self._pose, self._undecoded = tensors.get(_REFERENCES), pose, undecoded

    def _page(self, tensors: Mapping[str, Tensor], name: str, tokens: int) -> Page:
        """Return a saved page in the dtype of the world that loads it."""
        sizes = self.world.config.transformer
        shape = (sizes.num_layers, sizes.num_attention_heads, tokens, sizes.attention_head_dim)
        parts = []
        for part in (f"{name}.keys", f"{name}.values"):
            tensor = tensors[part]
            if tuple(tensor.shape) != shape or not tensor.is_floating_point():
                raise ValueError(f"{part} is {tensor.dtype} {tuple(tensor.shape)}, not float {shape}")
            check_finite(part, tensor)
            parts.append(tensor.to(self.world.dtype))
        return Page(*parts)

    @staticmethod
    def _named_pages(window: Window) -> dict[str, Page]:
        named = {f"{_PAGE}{number}": page for number, page in enumerate(window.pages)}
        return named if window.references is None else named | {_PAGE + _REFERENCES: window.references}
