"""What turns images into latents and latents into images: the protocol, and the state of a decoder in a stream.

A world works over any `Codec`. `models/wan/autoencoder.py` has the whole Wan 2.2 autoencoder, and
`models/wan/small_decoder.py` its encoder with a small decoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

IMAGE_CHANNELS = 3


def uint8_to_pixels(images: Tensor) -> Tensor:
    """Map uint8 images of any shape to float32 pixels in [-1, 1] (spec section 4)."""
    return images.float() / 127.5 - 1


def pixels_to_uint8(frames: Tensor) -> Tensor:
    """Map pixels in [-1, 1] of any shape and float dtype to uint8 (spec section 1)."""
    return ((frames.float() / 2 + 0.5) * 255).round().to(torch.uint8)


def pixels_to_frames(video: Tensor) -> Tensor:
    """Map a video [..., 3, F, H, W], clamped to [-1, 1], to frames, uint8 [..., F, H, W, 3]."""
    return pixels_to_uint8(video.clamp(-1, 1)).movedim(-4, -1).contiguous()


@dataclass(frozen=True, eq=False)
class DecoderState:
    """What a decoder remembers of the latent frames it has seen; made by `Codec.decode`, never written to.

    Any number of rollouts may therefore hold the same state: going on from it makes a new one.

    Attributes:
        histories: [B, channels, past frames, rows, columns] a layer with a memory, in the order in which they run:
            the last frames that went in, zeros where there were none. Each owns its memory.
        latent_frames: How many latent frames each of the B rows has seen, at least 1.
    """

    histories: tuple[Tensor, ...]
    latent_frames: tuple[int, ...]

    @property
    def batch_size(self) -> int:
        """Rows: the rollouts that this state belongs to."""
        return len(self.latent_frames)

    @classmethod
    def after(cls, before: Self | None, histories: Sequence[Tensor], latents: Tensor) -> Self:
        """Return the state with new histories, after latents [B, z, f, h, w] were decoded from the state `before`."""
        seen = before.latent_frames if before is not None else (0,) * latents.shape[0]
        return cls(tuple(histories), tuple(count + latents.shape[2] for count in seen))

    @classmethod
    def stack(cls, states: Sequence[DecoderState]) -> Self:
        """Join the rows of several states, however far each has run, so that one call decodes them all.

        Raises:
            ValueError: There are none, or they come from different decoders or image sizes.
        """
        if not states:
            raise ValueError("no decoder states to stack")
        shapes = [[history.shape[1:] for history in state.histories] for state in states]
        if any(other != shapes[0] for other in shapes):
            raise ValueError("decoder states of different decoders or image sizes cannot be stacked")
        if len(states) == 1:
            return cls(states[0].histories, states[0].latent_frames)
        return cls(
            tuple(torch.cat(rows) for rows in zip(*(state.histories for state in states), strict=True)),
            tuple(count for state in states for count in state.latent_frames),
        )

    def split(self) -> list[DecoderState]:
        """Return one state a row, the reverse of `stack`."""
        if self.batch_size == 1:
            return [self]
        # Copies: a row that is a view would keep every other row's memory alive.
        return [
            DecoderState(
                tuple(history[row : row + 1].clone() for history in self.histories), (self.latent_frames[row],)
            )
            for row in range(self.batch_size)
        ]

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the state as contiguous tensors by name, ready to be saved; `from_tensors` reads them.

        Histories are [B, past frames, rows, columns, channels], the order in which they lie in memory.
        """
        tensors = {
            f"history.{index}": history.movedim(1, -1).contiguous() for index, history in enumerate(self.histories)
        }
        return tensors | {"latent_frames": torch.tensor(self.latent_frames, dtype=torch.int64)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild a state from what `to_tensors` gave.

        Raises:
            ValueError: A tensor is missing, or one is there that does not belong.
        """
        count = len(tensors) - 1
        names = [f"history.{index}" for index in range(count)]
        if unknown := set(tensors) ^ {*names, "latent_frames"}:
            raise ValueError(f"not a decoder state: missing or unexpected {', '.join(sorted(unknown))}")
        return cls(tuple(tensors[name].movedim(-1, 1) for name in names), tuple(tensors["latent_frames"].tolist()))

    def check(self, first: tuple[int, ...], weight: Tensor) -> None:
        """Raise ValueError unless this is the state of a decoder.

        Args:
            first: The shape of the decoder's first history.
            weight: One of its parameters, of its dtype and on its device.
        """
        history = self.histories[0]
        if tuple(history.shape) != first or history.dtype != weight.dtype or history.device != weight.device:
            raise ValueError(
                f"the decoder state ({tuple(history.shape)}, {history.dtype}, {history.device}) does not fit the "
                f"latents and the model ({first}, {weight.dtype}, {weight.device})"
            )


class Codec(nn.Module, ABC):
    """Images to latents and back: every method that a world needs of its codec.

    Latent frame 0 stands for one image, every later one for the temporal factor of them. `normalise` maps latents to
    what the transformer works on; `decode` takes those. Nothing of a stream is kept in the module, so that one codec
    serves any number of rollouts.
    """

    @abstractmethod
    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole videos that begin with their first frame.

        Args:
            video: [B, 3, F, H, W] in [-1, 1]; F is 1 + a multiple of the temporal factor.

        Returns:
            Mean and log-variance of the posterior, [B, z, f, h, w] each, not normalised.

        Raises:
            ValueError: The video's shape does not fit.
        """

    @abstractmethod
    def normalise(self, latents: Tensor) -> Tensor:
        """Map latents [B, z, f, h, w] of `encode` to what the transformer works on, at least in float32."""

    @abstractmethod
    def decode(
        self, latents: Tensor, state: DecoderState | None = None, *, clamp: bool = True
    ) -> tuple[Tensor, DecoderState]:
        """Decode the next latent frames of a stream; any split into calls gives the same frames.

        Args:
            latents: [B, z, f, h, w] normalised latents, f >= 1, of any float dtype.
            state: What the call before returned; None if `latents` begins with latent frame 0.
            clamp: Whether to clamp the frames; training does not, since clamped pixels have no gradient.

        Returns:
            Frames [B, 3, F, H, W] in [-1, 1], in the parameters' dtype, where F = f times the temporal factor, less
            (factor - 1) if `latents` begins with latent frame 0; and the state for the next call.

        Raises:
            ValueError: The latents' shape does not fit the model, or the state does not fit the latents.
        """

    @abstractmethod
    def state_shapes(self, latent_size: tuple[int, int]) -> list[tuple[int, ...]]:
        """Return the shapes of the histories of one rollout, of latents with these rows and columns."""

    @abstractmethod
    def largest_decoded(self, latent_size: tuple[int, int], frames: int) -> int:
        """Return how many numbers the largest tensor between layers has while `frames` latent frames are decoded."""

    @abstractmethod
    def decode_operations(self, latent_size: tuple[int, int], frames: int, *, first: bool) -> int:
        """Return the floating point operations of decoding `frames` latent frames of one rollout, in any split.

        Args:
            latent_size: Rows and columns of a latent frame.
            frames: How many latent frames.
            first: Whether they begin with latent frame 0.
        """

    @abstractmethod
    def encode_operations(self, image_size: tuple[int, int]) -> int:
        """Return the floating point operations of encoding one image of height x width pixels."""
