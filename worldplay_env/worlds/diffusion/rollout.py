"""The state of one dreamt world: its past, prompt and decoder, and how it is forked, saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from worldplay_env.control.camera import view_matrices
from worldplay_env.models.wan.autoencoder import DecoderState
from worldplay_env.summary import rollout_line
from worldplay_env.worlds.base import Control, check_seed

if TYPE_CHECKING:
    from worldplay_env.worlds.diffusion.world import DreamWorld

_CHUNK_NOISE, _IMAGE_NOISE = 0, 1


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt and its embedding, float [text tokens, text_dim]; forks share it."""

    text: str
    embedding: Tensor


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
        """Make the record of a chunk that was dreamt with `control`."""
        return cls(latents, control, view_matrices(control.poses))


class DreamRollout:
    """A `Rollout` of a `DreamWorld`; made by its `start`.

    Attributes:
        world: What made it.
        seed: Chunk n's noise is a function of (seed, n) alone.
        encoded_prompt: Prompt and embedding for the chunks to come.
        picture: uint8 [H, W, 3] the start as the world shows it.
        start_latent: float32 [C, 1, h, w] the encoded start; zeros if there is no image.
        has_image: Whether latent frame 0 is given (an image) or generated (text only).
        history: The finished chunks.
        decoder_state: The decoder's state after the `decoded` first chunks.
        decoded: Chunks that have gone through the decoder.
    """

    def __init__(
        self,
        *,
        world: DreamWorld,
        seed: int,
        prompt: EncodedPrompt,
        picture: np.ndarray,
        start_latent: Tensor,
        has_image: bool,
        start_pose: np.ndarray,
    ) -> None:
        self.world = world
        self.seed = seed
        self.encoded_prompt = prompt
        self.picture = picture
        self.start_latent = start_latent
        self.has_image = has_image
        self.start_pose = start_pose
        self.history: list[PastChunk] = []
        self.decoder_state: DecoderState | None = None
        self.decoded = 0

    def __repr__(self) -> str:
        return rollout_line(self, self.world.name)

    @property
    def prompt(self) -> str:
        """The prompt in force, for the chunks to come."""
        return self.encoded_prompt.text

    @property
    def chunks(self) -> int:
        """Chunks made so far."""
        return len(self.history)

    @property
    def pose(self) -> np.ndarray:
        """Float64 [4, 4]: the newest camera-to-world matrix; the start's before the first step."""
        return (self.history[-1].control.poses[-1] if self.history else self.start_pose).copy()

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt for the chunks to come."""
        self.encoded_prompt = self.world.encode_prompt(prompt)

    def noise(self) -> Tensor:
        """Draw the next chunk's noise: float32 [C, 4, h, w] on the CPU, a function of (seed, chunk) alone."""
        return _normal(self.world.latent_shape, self.seed, _CHUNK_NOISE, self.chunks)

    def commit(self, past: PastChunk, decoder_state: DecoderState | None) -> None:
        """Append a finished chunk; `decoder_state` is the state after it, or None if it was not decoded."""
        self.history.append(past)
        if decoder_state is not None:
            self.decoder_state = decoder_state
            self.decoded = len(self.history)

    def fork(self, seed: int | None = None) -> DreamRollout:
        """Return a rollout that goes on as this one would, or with other noise if given another seed.

        No tensor is copied: finished chunks and decoder states are never written again.
        """
        twin = object.__new__(DreamRollout)
        twin.__dict__.update(self.__dict__)
        twin.history = list(self.history)
        if seed is not None:
            twin.seed = check_seed(seed)
        return twin

    def save(self, path: str | Path) -> None:
        """Write the rollout to a safetensors file, whole or not at all; `DreamWorld.load_rollout` reads it."""
        from worldplay_env.worlds.diffusion.saved import write_rollout

        write_rollout(self.world, self, path)


def image_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Draw the noise of a start's posterior sample: float32 on the CPU, a function of the rollout's seed alone."""
    return _normal(shape, seed, _IMAGE_NOISE, 0)


def _normal(shape: Sequence[int], seed: int, purpose: int, number: int) -> Tensor:
    # numpy, since torch's generator on the CPU takes no more than 32 bits of a seed.
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, number))
    values = np.random.Generator(np.random.PCG64(sequence)).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(values)
