"""HY-WorldPlay's model as a `World`: it dreams the video that a camera would see.

A chunk is made from memory frames, which are chosen by what the cameras see: `generator.py` has the steps,
`latent_world.py` what all world models share. Any number of rollouts go through together; where padding costs more
than another pass, they are grouped by the length of their memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from worldplay_env.models.codec import Codec
from worldplay_env.models.config import WorldConfig
from worldplay_env.models.flops import chunk_operations
from worldplay_env.models.footprint import buffer_bytes, chunk_bytes
from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.models.wan.transforms import Transform
from worldplay_env.models.worldplay import memory
from worldplay_env.models.worldplay.sampler import TIMESTEPS
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.worlds.base import Control, Start
from worldplay_env.worlds.diffusion.generator import ChunkGenerator
from worldplay_env.worlds.diffusion.latent_world import LatentWorld
from worldplay_env.worlds.diffusion.rollout import DiffusionRollout, PastChunk
from worldplay_env.worlds.diffusion.room import Needed
from worldplay_env.worlds.follow import next_control

LAUNCH_BOUND = 10**11
"""Operations of a denoising step below which a GPU waits for its kernels to be launched, even with many rollouts: one
pass over memories of all lengths then takes less time than a smaller one for each length."""


class DiffusionWorld(LatentWorld):
    """A `World` made by HY-WorldPlay's diffusion transformer and a codec.

    Args:
        config: Sizes; those of the networks must be the networks' own.
        transformer: The velocity field, in its compute dtype.
        codec: Encodes the starts and decodes the chunks; on the same device.
        text_encoder: Makes prompt embeddings; without one, `start` must be given them.
        weights: Where the parameters came from ("random", "trained", a revision).
        weights_hash: Digest of the files they were read from; by default one of the parameters, made when asked for.
        latents_per_decode: Latent frames that a decoder pass takes, 1..4: fewer need less memory, frames are equal.
            By default 4.
        sample_image: Draw the start's latent from the encoder's posterior, by the rollout's seed, not its mean.
        select: Chooses the past latent frames that each rollout's chunk sees: as many, and in whole clips, as
            `memory.select_each` does.
        mixed_ages: Rollouts whose memories differ in length go through together, the shorter ones padded; by default
            those of small networks on a GPU.
        transforms: Functions that are given the transformer, then the codec, in this order; each returns the
            network that takes its place (see `models.wan.transforms`).
    """

    rollout_type = DiffusionRollout
    transformer: Transformer

    def __init__(
        self,
        config: WorldConfig,
        transformer: Transformer,
        codec: Codec,
        text_encoder: TextEncoder | None = None,
        *,
        weights: str = "random",
        weights_hash: str | None = None,
        latents_per_decode: int | None = None,
        sample_image: bool = False,
        select: memory.Selection = memory.select_each,
        mixed_ages: bool | None = None,
        transforms: Sequence[Transform] = (),
    ) -> None:
        super().__init__(
            config,
            transformer,
            codec,
            text_encoder,
            lambda network: ChunkGenerator(config, network, select),
            weights=weights,
            weights_hash=weights_hash,
            latents_per_decode=latents_per_decode,
            sample_image=sample_image,
            transforms=transforms,
        )
        self._mixed_ages = self._is_launch_bound() if mixed_ages is None else mixed_ages

    def without_selection(self) -> DiffusionWorld:
        """Return a world of the same networks whose memory is the newest latent frames (see `World`)."""
        networks = (self.config, self.transformer, self.codec, self.text_encoder)
        return DiffusionWorld(
            *networks, weights=self.weights, weights_hash=self.weights_hash, select=memory.latest_each
        )

    def warmup(self, batch: int = 1) -> None:
        """Make a decoded chunk for every length of memory and discard it, so that no later step waits for that.

        Networks are compiled for the shapes of such a batch, kernels are chosen, and buffers are allocated.

        Args:
            batch: Rollouts that will be stepped together, of equal age.

        Raises:
            WorldError: No memory.
        """
        prompt = torch.zeros(self.config.text.text_len, self.config.transformer.text_dim)
        rollouts = [self.start(Start(None, ""), seed, prompt_embedding=prompt) for seed in range(batch)]
        for _ in range(0, self.layout.memory + 1, self.layout.latents):
            self.step(rollouts, [next_control(rollout, 0) for rollout in rollouts])

    def needed(self, batch: int, buffered: int, kept: int) -> Needed:
        """Return what the next chunk takes (see `LatentWorld.needed`); what is kept of it is small."""
        itemsize, latents = self.dtype.itemsize, self.layout.latents
        buffers = [buffer_bytes(self.config, worlds, latents, itemsize) for worlds in (batch, buffered)]
        passing = chunk_bytes(self.config, self.codec, batch, self._latents_per_decode, latents, itemsize)
        return Needed(max(0, buffers[0] - buffers[1]), passing)

    def made_up(self, latents: Tensor, control: Control, before: DiffusionRollout) -> PastChunk:
        """Return what `commit` takes, for given latents (see `LatentWorld.made_up`)."""
        return PastChunk.of(latents, control)

    def operations(self, chunks: int) -> dict[str, int]:
        """Return the operations of a rollout's next chunk (see `LatentWorld.operations`)."""
        latents = self.layout.latents
        counted = chunk_operations(self.config, self._remembered(chunks), latents)
        step = counted.pop("denoise")
        decode = self.codec.decode_operations(self.config.latent_size, latents, first=chunks == 0)
        return counted | {f"denoise_{index}": step for index in range(len(TIMESTEPS))} | {"decode": decode}

    def _kind(self, rollout: DiffusionRollout) -> Hashable:
        return 0 if self._mixed_ages else self._remembered(rollout.chunks)

    def _remembered(self, chunks: int) -> int:
        """Return how many latent frames a chunk behind so many others is made from."""
        return min(chunks * self.layout.latents, self.layout.memory)

    def _is_launch_bound(self) -> bool:
        operations = chunk_operations(self.config, memory.MEMORY, self.layout.latents)
        return self.device.type == "cuda" and operations["denoise"] < LAUNCH_BOUND
