"""What all world models are: a transformer makes the latents of a chunk, a codec decodes them in a stream.

One step of a rollout: generate the new latents (a `LatentGenerator`), decode them in the stream, check them, commit
them. Any number of rollouts go through together.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from worldplay_env.media.image import fit_image
from worldplay_env.models.codec import Codec, DecoderState, pixels_to_frames, uint8_to_pixels
from worldplay_env.models.config import WorldConfig
from worldplay_env.models.wan.backbone import Backbone
from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.models.wan.transforms import Transform
from worldplay_env.weights.content import parameters_hash
from worldplay_env.worlds.base import (
    MID_GREY,
    Chunk,
    Control,
    Decode,
    Start,
    World,
    WorldError,
    check_references,
    check_seed,
    check_step,
)
from worldplay_env.worlds.diffusion.exclusive import ExclusiveUse
from worldplay_env.worlds.diffusion.groups import grouped, stacked
from worldplay_env.worlds.diffusion.latent_generator import GeneratedChunk, LatentGenerator
from worldplay_env.worlds.diffusion.latent_rollout import LatentRollout, image_noise
from worldplay_env.worlds.diffusion.pictures import PictureCache
from worldplay_env.worlds.diffusion.prompts import EncodedPrompt
from worldplay_env.worlds.diffusion.room import Needed, OutOfMemoryError, Room
from worldplay_env.worlds.diffusion.saved import read_rollout
from worldplay_env.worlds.diffusion.timing import Stopwatch

ROLLOUTS_AT_ONCE_ON_CPU = 4
"""Rollouts in one pass on a CPU: with more, what a layer hands to the next leaves the caches, and all take longer."""


@dataclass(frozen=True, eq=False)
class _Made:
    """A finished chunk that has not been committed; `decoder_state` is None if it was not decoded."""

    chunk: Chunk
    past: Any
    decoder_state: DecoderState | None


class LatentWorld(World):
    """A `World` whose chunks are latents that a transformer makes and a codec decodes.

    A subclass names its `rollout_type`, has a `LatentGenerator`, and says which rollouts can go through it together.

    Args:
        config: Sizes; those of the networks must be the networks' own.
        transformer: The velocity field, in its compute dtype.
        codec: Encodes the starts and decodes the chunks; on the same device.
        text_encoder: Makes prompt embeddings; without one, `start` must be given them.
        generator: Makes the generator of latents of the transformer that the transforms return.
        weights: Where the parameters came from ("random", "trained", a revision).
        weights_hash: Digest of the files they were read from; by default one of the parameters, made when asked for.
        latents_per_decode: Latent frames that a decoder pass takes, by default those of a chunk: fewer need less
            memory, frames are equal.
        sample_image: Draw the start's latent from the encoder's posterior, by the rollout's seed, not its mean.
        transforms: Functions that are given the transformer, then the codec, in this order; each returns the
            network that takes its place (see `models.wan.transforms`).
    """

    has_model = True
    latent_shape: tuple[int, int, int, int]
    codec: Codec
    rollout_type: type[LatentRollout]

    def __init__(
        self,
        config: WorldConfig,
        transformer: Backbone,
        codec: Codec,
        text_encoder: TextEncoder | None,
        generator: Callable[[Any], LatentGenerator],
        *,
        weights: str = "random",
        weights_hash: str | None = None,
        latents_per_decode: int | None = None,
        sample_image: bool = False,
        transforms: Sequence[Transform] = (),
    ) -> None:
        layout = config.layout
        latents_per_decode = layout.latents if latents_per_decode is None else latents_per_decode
        if not 1 <= latents_per_decode <= layout.latents:
            raise ValueError(f"latents_per_decode must be 1..{layout.latents}, got {latents_per_decode}")
        for transform in transforms:
            transformer = cast(Backbone, transform(transformer))
            codec = cast(Codec, transform(codec))
        self.name = config.name
        self.weights = weights
        self._weights_hash = weights_hash
        self.image_size = config.image_size
        self.fps = config.fps
        self.layout = layout
        self.latent_shape = (config.autoencoder.z_dim, layout.latents, *config.latent_size)
        self.config = config
        self.transformer = transformer.eval()
        self.codec = codec.eval()
        self.text_encoder = text_encoder
        self.device = transformer.device
        self._latents_per_decode = latents_per_decode
        self._sample_image = sample_image
        self._generator = generator(self.transformer)
        self._room = Room(self.needed, text_encoder, self.device)
        self._pictures = PictureCache()
        self._prompts: WeakValueDictionary[str, EncodedPrompt] = WeakValueDictionary()
        self._use = ExclusiveUse(
            self.device,
            self._generator.forget,
            "Step fewer rollouts at once, or load the world with fewer latents_per_decode "
            f"(now {latents_per_decode}).",
        )

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return self.transformer.dtype

    @property
    def weights_hash(self) -> str:  # type: ignore[override]
        """Digest of sizes and parameters, 64 hexadecimal digits (see `World.weights_hash`)."""
        return self._weights_hash or parameters_hash(self.config, self.transformer, self.codec)

    # ---- what models differ in

    @abstractmethod
    def needed(self, batch: int, buffered: int, kept: int) -> Needed:
        """Return what the next chunk takes.

        Args:
            batch: Rollouts that go through together at most.
            buffered: Rollouts that there are buffers for.
            kept: Rollouts in all, whose results are kept until all are made.
        """

    @abstractmethod
    def _kind(self, rollout: Any) -> Hashable:
        """Return a value that is equal for rollouts that can go through the transformer together."""

    @abstractmethod
    def made_up(self, latents: Tensor, control: Control, before: Any) -> Any:
        """Return what `before.commit` takes, for given latents: a past that no network made, to be measured on.

        Args:
            latents: float32 [C, L, h, w].
            control: The cameras of the chunk.
            before: The rollout that the chunk follows; it is not changed.
        """

    @abstractmethod
    def operations(self, chunks: int) -> dict[str, int]:
        """Return the floating point operations of a rollout's next chunk, by the names of its timings.

        Args:
            chunks: That the rollout has behind it.
        """

    def _more_of(self, start: Start, seed: int) -> dict[str, Any]:
        """Return further arguments of `rollout_type` for a rollout that begins."""
        return {}

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        """Return a picture uint8 [height, width, 3] in the world's size."""
        return fit_image(image, self.image_size)

    def _pixels(self, picture: np.ndarray) -> Tensor:
        """Return what is encoded of a picture uint8 [height, width, 3]: [1, 3, height, width], on the device."""
        return uint8_to_pixels(torch.from_numpy(picture).to(self.device)).permute(2, 0, 1)[None]

    # ---- rollouts: begin, load

    def start(self, start: Start, seed: int, *, prompt_embedding: Tensor | None = None) -> LatentRollout:
        """Begin a rollout.

        Args:
            start: Picture, prompt and first pose; in a world that takes them, reference pictures.
            seed: Of the rollout's noise, 0 or more.
            prompt_embedding: float [text tokens, text_dim] in place of the text encoder's.

        Raises:
            ValueError: A seed that is none, or reference pictures that the world does not take.
            WorldError: No memory.
        """
        seed = check_seed(seed)
        check_references(self, start.references)
        if prompt_embedding is None:
            prompt = self.encode_prompt(start.prompt)
        else:
            prompt = EncodedPrompt(start.prompt, prompt_embedding.to(self.device))
        if start.image is None:
            picture = np.full((*self.image_size, 3), MID_GREY, dtype=np.uint8)
            channels, _, *latent_size = self.latent_shape
            latent = torch.zeros(channels, 1, *latent_size, device=self.device)
        else:
            picture = self._fitted(start.image)
            latent = self._encoded(picture, seed)
        return self.rollout_type(
            world=self,
            seed=seed,
            prompt=prompt,
            picture=picture,
            start_latent=latent,
            has_image=start.image is not None,
            start_pose=start.pose,
            **self._more_of(start, seed),
        )

    def encode_prompt(self, prompt: str) -> EncodedPrompt:
        """Return a prompt and its embedding; rollouts with equal prompts share one.

        Warns of a prompt with more tokens than the model reads; the rest has no effect.
        """
        if self.text_encoder is None:
            raise ValueError("this world has no text encoder: give start() a prompt_embedding")
        encoded = self._prompts.get(prompt)
        if encoded is None:
            tokens, most = self.text_encoder.token_count(prompt), self.config.text.text_len
            if tokens > most:
                warnings.warn(f"the prompt has {tokens} tokens, of which {most} count: {prompt!r}", stacklevel=2)
            try:
                embedding = self._embedded(prompt)
            except OutOfMemoryError:  # which gave back the buffers of chunks
                embedding = self._embedded(prompt)
            encoded = self._prompts[prompt] = EncodedPrompt(prompt, embedding)
        return encoded

    def _embedded(self, prompt: str) -> Tensor:
        assert self.text_encoder is not None
        with self._use.hold():
            return self.text_encoder.encode([prompt])[0].to(self.device)

    def load_rollout(self, path: str | Path) -> LatentRollout:
        """Read a rollout that `Rollout.save` wrote, in this process or another.

        Raises:
            ValueError: The file is no saved rollout, one of another world, or one whose parts do not fit together.
        """
        return read_rollout(self, path)

    def release(self) -> None:
        """Give back the memory that the next step makes anew: buffers, prompts' keys and values, the text encoder."""
        with self._use.lock:
            self._generator.forget()
            self._pictures.clear()
            if self.text_encoder is not None:
                self.text_encoder.release()

    def _encoded(self, picture: np.ndarray, seed: int) -> Tensor:
        """Return a picture's latents as `_encode` does; those of pictures that were started from lately are kept."""
        key = (picture.shape, hashlib.sha256(picture.tobytes()).digest(), seed if self._sample_image else None)
        with self._use.hold():
            return self._pictures.get(key, lambda: self._encode(picture, seed))

    def _encode(self, picture: np.ndarray, seed: int) -> Tensor:
        """Encode a picture, uint8 [H, W, 3], to normalised latents, float32 [C, 1, h, w]."""
        mean, logvar = self.codec.encode(self._pixels(picture)[:, :, None])
        latent = mean.float()
        if self._sample_image:
            noise = image_noise(latent.shape, seed).to(self.device)
            latent = latent + torch.exp(logvar.float() / 2) * noise
        return self.codec.normalise(latent)[0]

    # ---- one chunk

    def step(
        self,
        rollouts: Sequence[LatentRollout],
        controls: Sequence[Control],
        *,
        noise: Tensor | None = None,
        decode: Decode = True,
    ) -> list[Chunk]:
        """Make one chunk for every rollout, all of them or none (see `World.step`)."""
        return self._room.retried(lambda: self._step(rollouts, controls, noise, decode))

    def _step(
        self, rollouts: Sequence[LatentRollout], controls: Sequence[Control], noise: Tensor | None, decode: Decode
    ) -> list[Chunk]:
        with self._use.hold():
            check_step(self, rollouts, controls, noise)
            most = ROLLOUTS_AT_ONCE_ON_CPU if self.device.type == "cpu" else None
            groups = grouped([self._kind(rollout) for rollout in rollouts], most=most)
            self._room.make(max(map(len, groups), default=0), self._generator.buffered, len(rollouts))
            made: dict[int, _Made] = {}
            for members in groups:
                group, cameras = [rollouts[index] for index in members], [controls[index] for index in members]
                own_noise = None if noise is None else noise[members]
                made.update(zip(members, self._step_group(group, cameras, own_noise, decode), strict=True))
            for index, rollout in enumerate(rollouts):
                rollout.commit(made[index].past, made[index].decoder_state)
        return [made[index].chunk for index in range(len(rollouts))]

    def stream(self, rollout: LatentRollout, control: Control) -> Generator[Tensor, None, Chunk]:
        """Make one chunk and yield its frames as they are decoded (see `World.stream`).

        The generator returns the `Chunk`, whose timings end before decoding. It commits just before it yields the
        last frames, and nothing if it is not taken that far.
        """
        check_step(self, [rollout], [control])
        return self._stream(rollout, control)

    def _stream(self, rollout: LatentRollout, control: Control) -> Generator[Tensor, None, Chunk]:
        before = rollout.chunks
        generated, state, timings = self._room.retried(lambda: self._generate(rollout, control))
        parts: list[Tensor] = []
        for latent in generated.latents.split(1, dim=2):
            with self._use.hold():
                pixels, state = self.codec.decode(latent, state, clamp=False)
                self._require_finite(pixels)
                parts.append(pixels_to_frames(pixels[0]))
                if len(parts) == self.layout.latents:
                    if rollout.chunks != before:
                        raise WorldError("the rollout was stepped while its frames were streamed")
                    rollout.commit(generated.past[0], state)
            yield parts[-1]
        return Chunk(torch.cat(parts), generated.latents[0].clone(), control.poses, generated.memory[0], timings)

    def _generate(
        self, rollout: LatentRollout, control: Control
    ) -> tuple[GeneratedChunk, DecoderState | None, dict[str, float]]:
        """Return the latents of a rollout's next chunk, the decoder's state before it, and the time they took."""
        with self._use.hold():
            self._room.make(1, self._generator.buffered, 1)
            watch = Stopwatch(self.device)
            generated = self._generator.generate([rollout], [control], None, watch)
            self._require_finite(generated.latents)
            return generated, self._caught_up(rollout), watch.seconds()

    def _step_group(
        self, rollouts: list[LatentRollout], controls: list[Control], noise: Tensor | None, decode: Decode
    ) -> list[_Made]:
        """Make the chunks of rollouts in one pass, committing nothing."""
        watch = Stopwatch(self.device)
        generated = self._generator.generate(rollouts, controls, noise, watch)
        frames: list[Tensor | None] = [None] * len(rollouts)
        states: list[DecoderState | None] = [None] * len(rollouts)
        made = [generated.latents]
        if decode:
            for members in grouped([rollout.chunks == 0 for rollout in rollouts]):  # first chunks have fewer frames
                before = stacked([self._caught_up(rollouts[index]) for index in members])
                pixels, state = self._decode(generated.latents[members], before)
                made.append(pixels)
                shown = pixels[:, :, -1:] if decode == "newest" else pixels
                for index, row, after in zip(members, shown, state.split(), strict=True):
                    frames[index], states[index] = pixels_to_frames(row), after
            watch.lap("decode")
        self._require_finite(*made)
        watch.lap("check")
        timings = watch.seconds()
        return [
            _Made(Chunk(images, latents.clone(), control.poses, chosen, dict(timings)), past, state)
            for images, latents, control, chosen, past, state in zip(
                frames, generated.latents, controls, generated.memory, generated.past, states, strict=True
            )
        ]

    # ---- decoding

    def _decode(self, latents: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        """Decode latents [b, C, f, h, w], a few frames a pass: unclamped pixels [b, 3, F, H, W]."""
        parts = []
        for part in latents.split(self._latents_per_decode, dim=2):
            pixels, state = self.codec.decode(part, state, clamp=False)
            parts.append(pixels)
        assert state is not None
        return torch.cat(parts, dim=2), state

    def _caught_up(self, rollout: LatentRollout) -> DecoderState | None:
        """Return the decoder's state before the next chunk, decoding what was stepped with `decode=False`."""
        state = rollout.decoder_state
        for latents in rollout.undecoded:
            _, state = self._decode(latents[None], state)
        return state

    # ---- safety

    def _require_finite(self, *tensors: Tensor) -> None:
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            raise WorldError(
                "the model's output is not finite; no rollout was changed. Are the weights whole, and is "
                f"{self.dtype} wide enough for them?"
            )
