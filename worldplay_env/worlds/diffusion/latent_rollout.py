"""The state that rollouts of all world models have: start, prompt, seed and decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from worldplay_env.models.codec import DecoderState
from worldplay_env.summary import rollout_line
from worldplay_env.worlds.base import check_seed
from worldplay_env.worlds.diffusion.prompts import EncodedPrompt

if TYPE_CHECKING:
    from worldplay_env.worlds.diffusion.latent_world import LatentWorld

_CHUNK_NOISE, _IMAGE_NOISE, _RENOISE = range(3)
"""What numbers are drawn for, so that no two purposes share them."""


class LatentRollout(ABC):
    """A `Rollout` of a `LatentWorld`; made by its `start`.

    A subclass keeps what its model sees of the past. It sets that in `commit` and never writes to a tensor of it, so
    that forks share all tensors.

    Attributes:
        world: What made it.
        seed: Chunk n's noise is a function of (seed, n) alone.
        encoded_prompt: Prompt and embedding for the chunks to come.
        picture: uint8 [H, W, 3] the start as the world shows it.
        start_latent: float32 [C, 1, h, w] the encoded start; zeros if there is no image.
        has_image: Whether latent frame 0 is given (an image) or generated (text only).
        start_pose: float64 [4, 4], where it begins.
        decoder_state: The decoder's state after the `decoded` first chunks.
        decoded: Chunks that have gone through the decoder.
    """

    def __init__(
        self,
        *,
        world: LatentWorld,
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
        self.decoder_state: DecoderState | None = None
        self.decoded = 0

    def __repr__(self) -> str:
        return rollout_line(self, self.world.name)

    @property
    def prompt(self) -> str:
        """The prompt in force, for the chunks to come."""
        return self.encoded_prompt.text

    @property
    @abstractmethod
    def chunks(self) -> int:
        """Chunks made so far."""

    @property
    @abstractmethod
    def pose(self) -> np.ndarray:
        """Float64 [4, 4]: the newest camera-to-world matrix; the start's before the first step."""

    @property
    @abstractmethod
    def undecoded(self) -> Sequence[Tensor]:
        """The latents, float32 [C, L, h, w], of each chunk behind the `decoded` first ones."""

    @abstractmethod
    def commit(self, past: Any, decoder_state: DecoderState | None) -> None:
        """Append a finished chunk; `decoder_state` is the state after it, or None if it was not decoded."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what the model sees of the past, as tensors by name, to be saved."""

    def facts(self) -> dict[str, Any]:
        """Return what is saved beside the tensors, ready for JSON."""
        return {}

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Set the past of a rollout that has just begun from what `tensors` and `facts` gave.

        Raises:
            KeyError, TypeError, ValueError: They do not fit the world, or each other.
        """

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt for the chunks to come."""
        self.encoded_prompt = self.world.encode_prompt(prompt)

    def noise(self) -> Tensor:
        """Draw the next chunk's noise: float32 [C, L, h, w] on the CPU, a function of (seed, chunk) alone."""
        return _normal(self.world.latent_shape, self.seed, _CHUNK_NOISE, self.chunks)

    def fork(self, seed: int | None = None) -> Self:
        """Return a rollout that goes on as this one would, or with other noise if given another seed.

        No tensor is copied: none is ever written again.
        """
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        if seed is not None:
            twin.seed = check_seed(seed)
        return twin

    def save(self, path: str | Path) -> None:
        """Write the rollout to a safetensors file, whole or not at all; `World.load_rollout` reads it."""
        from worldplay_env.worlds.diffusion.saved import write_rollout

        write_rollout(self.world, self, path)


def image_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Draw the noise of a start's posterior sample: float32 on the CPU, a function of the rollout's seed alone."""
    return _normal(shape, seed, _IMAGE_NOISE, 0)


def renoise(shape: Sequence[int], seed: int, chunk: int, step: int) -> Tensor:
    """Draw the noise that is added after a denoising step: float32 on the CPU, a function of its arguments alone."""
    return _normal(shape, seed, _RENOISE, chunk, step)


def _normal(shape: Sequence[int], seed: int, *purpose: int) -> Tensor:
    # numpy, since torch's generator on the CPU takes no more than 32 bits of a seed.
    sequence = np.random.SeedSequence(seed, spawn_key=purpose)
    values = np.random.Generator(np.random.PCG64(sequence)).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(values)
