"""The state of one rollout: every finished chunk, since any of them may be chosen as memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from worldplay_env.control.camera import view_matrices
from worldplay_env.models.codec import DecoderState
from worldplay_env.worlds.base import Control
from worldplay_env.worlds.diffusion.latent_rollout import LatentRollout
from worldplay_env.worlds.diffusion.saved import check_tensor

_PAST = ("latents", "poses", "labels", "intrinsics")


@dataclass(frozen=True, eq=False)
class PastChunk:
    """A finished chunk, as memory sees it.

    Attributes:
        latents: float32 [C, 4, h, w] clean normalised latents, never written again.
        control: Its cameras and labels.
        viewmats: float64 [4, 4, 4] world-to-camera matrices of the control's poses.
    """

    latents: Tensor
    control: Control
    viewmats: np.ndarray

    @classmethod
    def of(cls, latents: Tensor, control: Control) -> PastChunk:
        """Make the record of a chunk that was generated with `control`."""
        return cls(latents, control, view_matrices(control.poses))


class DiffusionRollout(LatentRollout):
    """A `Rollout` of a `DiffusionWorld` (see `LatentRollout`).

    Attributes:
        history: The finished chunks.
    """

    def __init__(self, **begun: Any) -> None:
        super().__init__(**begun)
        self.history: list[PastChunk] = []

    @property
    def chunks(self) -> int:
        """Chunks made so far."""
        return len(self.history)

    @property
    def pose(self) -> np.ndarray:
        """Float64 [4, 4]: the newest camera-to-world matrix; the start's before the first step."""
        return (self.history[-1].control.poses[-1] if self.history else self.start_pose).copy()

    @property
    def undecoded(self) -> Sequence[Tensor]:
        """The latents, float32 [C, 4, h, w], of each chunk behind the `decoded` first ones."""
        return [past.latents for past in self.history[self.decoded :]]

    def commit(self, past: PastChunk, decoder_state: DecoderState | None) -> None:
        """Append a finished chunk; `decoder_state` is the state after it, or None if it was not decoded."""
        self.history.append(past)
        if decoder_state is not None:
            self.decoder_state = decoder_state
            self.decoded = len(self.history)

    def fork(self, seed: int | None = None) -> Self:
        """Return a rollout that goes on as this one would (see `LatentRollout.fork`)."""
        twin = super().fork(seed)
        twin.history = list(self.history)
        return twin

    def tensors(self) -> dict[str, Tensor]:
        """Return the finished chunks, to be saved: latents and cameras; nothing before the first step."""
        if not self.history:
            return {}
        controls = [past.control for past in self.history]
        return {
            "latents": torch.stack([past.latents for past in self.history]),
            "poses": torch.from_numpy(np.stack([control.poses for control in controls])),
            "labels": torch.from_numpy(np.stack([control.labels for control in controls])),
            "intrinsics": torch.from_numpy(np.stack([control.intrinsics for control in controls])),
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Set the finished chunks from what `tensors` gave (see `LatentRollout.restore`)."""
        if tensors and set(tensors) != set(_PAST):
            raise ValueError(f"it holds {', '.join(sorted(tensors))}")
        if not tensors:
            return
        count = len(tensors["latents"])
        if not count:
            raise ValueError("its past has no chunk")
        check_tensor(tensors, "latents", torch.float32, (count, *self.world.latent_shape))
        frames = self.world.layout.latents
        check_tensor(tensors, "poses", torch.float64, (count, frames, 4, 4))
        check_tensor(tensors, "labels", torch.int64, (count, frames))
        check_tensor(tensors, "intrinsics", torch.float64, (count, frames, 3, 3))
        parts = zip(*(tensors[name].cpu().numpy() for name in _PAST[1:]), strict=True)
        controls = [Control(*part) for part in parts]  # which checks what is in them
        if not np.array_equal(controls[0].poses[0], self.start_pose):
            raise ValueError("its first pose is not that of the start")
        # Copies: views would keep all of the past in memory as one block.
        self.history = [
            PastChunk.of(one.clone(), control) for one, control in zip(tensors["latents"], controls, strict=True)
        ]
