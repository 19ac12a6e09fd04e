"""The world model as a `World`: it dreams the video that a camera would see.

One step of a rollout: choose memory frames, prefill their keys and values, denoise the new chunk in four steps (all
in `generator.py`), decode it in the stream, check it, commit it (here). Any number of rollouts go through together;
where padding costs more than another pass, they are grouped by the length of their memory.
"""

from __future__ import annotations

import hashlib
import threading
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from worldplay_env.media.image import fit_image
from worldplay_env.models.config import WorldConfig
from worldplay_env.models.flops import chunk_operations
from worldplay_env.models.wan.autoencoder import Autoencoder, DecoderState, pixels_to_frames, uint8_to_pixels
from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.models.wan.transforms import Transform
from worldplay_env.models.worldplay import memory
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.weights.content import parameters_hash
from worldplay_env.worlds.base import (
    CHUNK_LATENTS,
    MID_GREY,
    Chunk,
    Control,
    Decode,
    Start,
    World,
    WorldError,
    check_seed,
    check_step,
)
from worldplay_env.worlds.diffusion.generator import ChunkGenerator, GeneratedChunk
from worldplay_env.worlds.diffusion.groups import first_and_later, grouped, stacked
from worldplay_env.worlds.diffusion.rollout import DreamRollout, EncodedPrompt, PastChunk, image_noise
from worldplay_env.worlds.diffusion.room import OutOfMemoryError, Room, is_out_of_memory
from worldplay_env.worlds.diffusion.saved import read_rollout
from worldplay_env.worlds.diffusion.timing import Stopwatch

PICTURES_KEPT = 256
"""Start pictures whose latents a world keeps: of tiny 6 MB, of wan-5b 170 MB."""
ROLLOUTS_AT_ONCE_ON_CPU = 4
"""Rollouts in one pass on a CPU: with more, what a layer hands to the next leaves the caches, and all take longer."""
LAUNCH_BOUND = 10**11
"""Operations of a denoising step below which a GPU waits for its kernels to be launched, even with many rollouts: one
pass over memories of all lengths then takes less time than a smaller one for each length."""


@dataclass(frozen=True, eq=False)
class _Made:
    """A finished chunk that has not been committed; `decoder_state` is None if it was not decoded."""

    chunk: Chunk
    past: PastChunk
    decoder_state: DecoderState | None


class DreamWorld(World):
    """A `World` made by the diffusion transformer and the autoencoder.

    Args:
        config: Sizes; those of the networks must be the networks' own.
        transformer: The velocity field, in its compute dtype.
        autoencoder: On the same device.
        text_encoder: Makes prompt embeddings; without one, `start` must be given them.
        weights: Where the parameters came from ("random", "trained", a revision).
        weights_hash: Digest of the files they were read from; by default one of the parameters, made when asked for.
        latents_per_decode: Latent frames that a decoder pass takes, 1..4: fewer need less memory, frames are equal.
        sample_image: Draw the start's latent from the encoder's posterior, by the rollout's seed, not its mean.
        select: Chooses the past latent frames that a chunk sees, of float64 [s + 4, 4, 4] view matrices: as many, and
            in whole clips, as `memory.select` does.
        mixed_ages: Rollouts whose memories differ in length go through together, the shorter ones padded; by default
            those of small networks on a GPU.
        transforms: Functions that are given the transformer, then the autoencoder, in this order; each returns the
            network that takes its place (see `models.wan.transforms`).
    """

    has_model = True
    latent_shape: tuple[int, int, int, int]

    def __init__(
        self,
        config: WorldConfig,
        transformer: Transformer,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder | None = None,
        *,
        weights: str = "random",
        weights_hash: str | None = None,
        latents_per_decode: int = CHUNK_LATENTS,
        sample_image: bool = False,
        select: Callable[[np.ndarray], np.ndarray] = memory.select,
        mixed_ages: bool | None = None,
        transforms: Sequence[Transform] = (),
    ) -> None:
        if not 1 <= latents_per_decode <= CHUNK_LATENTS:
            raise ValueError(f"latents_per_decode must be 1..{CHUNK_LATENTS}, got {latents_per_decode}")
        for transform in transforms:
            transformer = cast(Transformer, transform(transformer))
            autoencoder = cast(Autoencoder, transform(autoencoder))
        self.config = config
        self.name = config.name
        self.weights = weights
        self._weights_hash = weights_hash
        self.image_size = config.image_size
        self.fps = config.fps
        self.latent_shape = (config.autoencoder.z_dim, CHUNK_LATENTS, *config.latent_size)
        self.transformer = transformer.eval()
        self.autoencoder = autoencoder.eval()
        self.text_encoder = text_encoder
        self.device = transformer.device
        self._latents_per_decode = latents_per_decode
        self._sample_image = sample_image
        self._mixed_ages = self._is_launch_bound() if mixed_ages is None else mixed_ages
        self._dreamer = ChunkGenerator(config, self.transformer, select)
        self._room = Room(config, text_encoder, self.device, self.dtype, latents_per_decode)
        self._pictures: OrderedDict[tuple[bytes, int | None], Tensor] = OrderedDict()
        self._prompts: WeakValueDictionary[str, EncodedPrompt] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return self.transformer.dtype

    @property
    def weights_hash(self) -> str:  # type: ignore[override]
        """Digest of sizes and parameters, 64 hexadecimal digits (see `World.weights_hash`)."""
        return self._weights_hash or parameters_hash(self.config, self.transformer, self.autoencoder)

    @property
    def codec(self) -> Autoencoder:
        """The autoencoder between frames and latents."""
        return self.autoencoder

    def without_selection(self) -> DreamWorld:
        """Return a world of the same networks whose memory is the newest latent frames (see `World`)."""
        networks = (self.config, self.transformer, self.autoencoder, self.text_encoder)
        return DreamWorld(*networks, weights=self.weights, weights_hash=self.weights_hash, select=memory.latest)

    # ---- rollouts: begin, load

    def start(self, start: Start, seed: int, *, prompt_embedding: Tensor | None = None) -> DreamRollout:
        """Begin a rollout.

        Args:
            start: Picture, prompt and first pose.
            seed: Of the rollout's noise, 0 or more.
            prompt_embedding: float [text tokens, text_dim] in place of the text encoder's.

        Raises:
            ValueError: A seed that is none.
            WorldError: No memory.
        """
        seed = check_seed(seed)
        if prompt_embedding is None:
            prompt = self.encode_prompt(start.prompt)
        else:
            prompt = EncodedPrompt(start.prompt, prompt_embedding.to(self.device))
        if start.image is None:
            picture = np.full((*self.image_size, 3), MID_GREY, dtype=np.uint8)
            channels, _, *latent_size = self.latent_shape
            latent = torch.zeros(channels, 1, *latent_size, device=self.device)
        else:
            picture = fit_image(start.image, self.image_size)
            latent = self._encoded(picture, seed)
        return DreamRollout(
            world=self,
            seed=seed,
            prompt=prompt,
            picture=picture,
            start_latent=latent,
            has_image=start.image is not None,
            start_pose=start.pose,
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
        with self._exclusively():
            return self.text_encoder.encode([prompt])[0].to(self.device)

    def load_rollout(self, path: str | Path) -> DreamRollout:
        """Read a rollout that `DreamRollout.save` wrote, in this process or another.

        Raises:
            ValueError: The file is no saved rollout, one of another world, or one whose parts do not fit together.
        """
        return read_rollout(self, path)

    def release(self) -> None:
        """Give back the memory that the next step makes anew: buffers, prompts' keys and values, the text encoder."""
        with self._lock:
            self._dreamer.forget()
            self._pictures.clear()
            if self.text_encoder is not None:
                self.text_encoder.release()

    def _encoded(self, picture: np.ndarray, seed: int) -> Tensor:
        """Return a picture's latents as `_encode` does; those of pictures that were started from lately are kept."""
        key = (hashlib.sha256(picture.tobytes()).digest(), seed if self._sample_image else None)
        with self._exclusively():
            if key not in self._pictures:
                self._pictures[key] = self._encode(picture, seed)
            self._pictures.move_to_end(key)
            latent = self._pictures[key]
            while len(self._pictures) > PICTURES_KEPT:
                self._pictures.popitem(last=False)
        return latent.clone()

    def _encode(self, picture: np.ndarray, seed: int) -> Tensor:
        """Encode a picture, uint8 [H, W, 3], to normalised latents, float32 [C, 1, h, w]."""
        pixels = uint8_to_pixels(torch.from_numpy(picture).to(self.device))  # [H, W, 3]
        mean, logvar = self.autoencoder.encode(pixels.permute(2, 0, 1)[None, :, None])
        latent = mean.float()
        if self._sample_image:
            noise = image_noise(latent.shape, seed).to(self.device)
            latent = latent + torch.exp(logvar.float() / 2) * noise
        return self.autoencoder.normalise(latent)[0]

    # ---- one chunk

    def step(
        self,
        rollouts: Sequence[DreamRollout],
        controls: Sequence[Control],
        *,
        noise: Tensor | None = None,
        decode: Decode = True,
    ) -> list[Chunk]:
        """Make one chunk for every rollout, all of them or none (see `World.step`)."""
        return self._room.retried(lambda: self._step(rollouts, controls, noise, decode))

    def _step(
        self, rollouts: Sequence[DreamRollout], controls: Sequence[Control], noise: Tensor | None, decode: Decode
    ) -> list[Chunk]:
        with self._exclusively():
            check_step(self, rollouts, controls, noise)
            most = ROLLOUTS_AT_ONCE_ON_CPU if self.device.type == "cpu" else None
            groups = grouped(rollouts, mixed_ages=self._mixed_ages, most=most)
            self._room.make(max(map(len, groups), default=0), self._dreamer.buffered)
            made: dict[int, _Made] = {}
            for members in groups:
                group, cameras = [rollouts[index] for index in members], [controls[index] for index in members]
                own_noise = None if noise is None else noise[members]
                made.update(zip(members, self._step_group(group, cameras, own_noise, decode), strict=True))
            for index, rollout in enumerate(rollouts):
                rollout.commit(made[index].past, made[index].decoder_state)
        return [made[index].chunk for index in range(len(rollouts))]

    def stream(self, rollout: DreamRollout, control: Control) -> Generator[Tensor, None, Chunk]:
        """Make one chunk and yield its frames as they are decoded (see `World.stream`).

        The generator returns the `Chunk`, whose timings end before decoding. It commits just before it yields the
        last frames, and nothing if it is not taken that far.
        """
        check_step(self, [rollout], [control])
        return self._stream(rollout, control)

    def _stream(self, rollout: DreamRollout, control: Control) -> Generator[Tensor, None, Chunk]:
        before = rollout.chunks
        dreamt, state, timings = self._room.retried(lambda: self._dreamt(rollout, control))
        parts: list[Tensor] = []
        for latent in dreamt.latents.split(1, dim=2):
            with self._exclusively():
                pixels, state = self.autoencoder.decode(latent, state, clamp=False)
                self._require_finite(pixels)
                parts.append(pixels_to_frames(pixels[0]))
                if len(parts) == CHUNK_LATENTS:
                    if rollout.chunks != before:
                        raise WorldError("the rollout was stepped while its frames were streamed")
                    rollout.commit(dreamt.past[0], state)
            yield parts[-1]
        return Chunk(torch.cat(parts), dreamt.latents[0].clone(), control.poses, dreamt.memory[0], timings)

    def _dreamt(
        self, rollout: DreamRollout, control: Control
    ) -> tuple[GeneratedChunk, DecoderState | None, dict[str, float]]:
        """Return the latents of a rollout's next chunk, the decoder's state before it, and the time they took."""
        with self._exclusively():
            self._room.make(1, self._dreamer.buffered)
            watch = Stopwatch(self.device)
            dreamt = self._dreamer.dream([rollout], [control], None, watch)
            self._require_finite(dreamt.latents)
            return dreamt, self._caught_up(rollout), watch.seconds()

    def _is_launch_bound(self) -> bool:
        operations = chunk_operations(self.config, memory.MEMORY, CHUNK_LATENTS, first=False)
        return self.device.type == "cuda" and operations["denoise"] < LAUNCH_BOUND

    def _step_group(
        self, rollouts: list[DreamRollout], controls: list[Control], noise: Tensor | None, decode: Decode
    ) -> list[_Made]:
        """Make the chunks of rollouts in one pass, committing nothing."""
        watch = Stopwatch(self.device)
        dreamt = self._dreamer.dream(rollouts, controls, noise, watch)
        frames: list[Tensor | None] = [None] * len(rollouts)
        states: list[DecoderState | None] = [None] * len(rollouts)
        made = [dreamt.latents]
        if decode:
            for members in first_and_later(rollouts):
                before = stacked([self._caught_up(rollouts[index]) for index in members])
                pixels, state = self._decode(dreamt.latents[members], before)
                made.append(pixels)
                shown = pixels[:, :, -1:] if decode == "newest" else pixels
                for index, row, after in zip(members, shown, state.split(), strict=True):
                    frames[index], states[index] = pixels_to_frames(row), after
            watch.lap("decode")
        self._require_finite(*made)
        watch.lap("check")
        timings = watch.seconds()
        return [
            _Made(Chunk(images, past.latents.clone(), past.control.poses, chosen, dict(timings)), past, state)
            for images, chosen, past, state in zip(frames, dreamt.memory, dreamt.past, states, strict=True)
        ]

    # ---- decoding

    def _decode(self, latents: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        """Decode latents [b, C, f, h, w], a few frames a pass: unclamped pixels [b, 3, F, H, W]."""
        parts = []
        for part in latents.split(self._latents_per_decode, dim=2):
            pixels, state = self.autoencoder.decode(part, state, clamp=False)
            parts.append(pixels)
        assert state is not None
        return torch.cat(parts, dim=2), state

    def _caught_up(self, rollout: DreamRollout) -> DecoderState | None:
        """Return the decoder's state before the next chunk, decoding what was stepped with `decode=False`."""
        state = rollout.decoder_state
        for past in rollout.history[rollout.decoded :]:
            _, state = self._decode(past.latents[None], state)
        return state

    # ---- safety

    def _require_finite(self, *tensors: Tensor) -> None:
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            raise WorldError(
                "the model's output is not finite; no rollout was changed. Are the weights whole, and is "
                f"{self.dtype} wide enough for them?"
            )

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the networks and buffers for one call, in a context that does not depend on the caller's.

        Without gradients, so that results are cheap to keep; not in inference mode, whose tensors could not be
        written later; not in autocast, which would change results.
        """
        autocast = torch.autocast(self.device.type, enabled=False)
        with self._lock, torch.inference_mode(False), torch.no_grad(), autocast:
            try:
                yield
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._dreamer.forget()
                traceback.clear_frames(error.__traceback__)  # they would keep the tensors of the failed call alive
                raise OutOfMemoryError(
                    f"out of memory on {self.device}; no rollout was changed. Step fewer rollouts at once, or load "
                    f"the world with fewer latents_per_decode (now {self._latents_per_decode})."
                ) from error
