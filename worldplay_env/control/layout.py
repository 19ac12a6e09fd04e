"""The sizes of chunks: latent frames, images, memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkLayout:
    """The sizes of a world's chunks; by default those of HY-WorldPlay (spec section 1).

    Attributes:
        latents: Latent frames in a chunk: poses in a `Control`.
        images: Images of a latent frame, but for the first of a rollout.
        first_images: Images in chunk 0.
        memory: The most past latent frames that a chunk is made from.
    """

    latents: int = 4
    images: int = 4
    first_images: int = 13
    memory: int = 16

    def __post_init__(self) -> None:
        if min(self.latents, self.images) < 1 or self.memory < 0:
            raise ValueError(f"a chunk has at least one latent frame, of at least one image: {self}")
        if not 1 <= self.start_images <= self.images:
            raise ValueError(f"the first latent frame has 1..{self.images} images: {self}")

    @property
    def chunk_images(self) -> int:
        """Images in every chunk after chunk 0."""
        return self.latents * self.images

    @property
    def full_memory(self) -> int:
        """Chunks after which the next one is made from no more of the past than the last."""
        return -(-self.memory // self.latents)

    def images_of(self, chunk: int) -> int:
        """Return the number of images in chunk 0, 1, ..."""
        return self.chunk_images if chunk else self.first_images

    def images_before(self, chunk: int) -> int:
        """Return the number of images in all chunks before chunk 0, 1, ..."""
        return self.first_images + (chunk - 1) * self.chunk_images if chunk else 0

    @property
    def start_images(self) -> int:
        """Images of a rollout's first latent frame, which all show the start's pose."""
        return self.first_images - (self.latents - 1) * self.images

    def images_by_latent(self, chunk: int) -> list[int]:
        """Return the number of images of each latent frame of chunk 0, 1, ..."""
        return [self.images if chunk else self.start_images] + [self.images] * (self.latents - 1)


LAYOUT = ChunkLayout()
"""The layout of HY-WorldPlay's worlds, and of those that stand in for them."""
