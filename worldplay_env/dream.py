"""The world model as a `World`: it dreams the video that a camera would see.

One step of a rollout: choose memory frames, prefill their keys and values, denoise the new chunk in four steps,
decode it in the stream, check it, commit it (spec section 7). Any number of rollouts go through together, grouped by
the length of their memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from worldplay_env import dream_rollout, memory
from worldplay_env.control.camera import rebase, view_matrices
from worldplay_env.dream_rollout import DreamRollout, PastChunk, Prompt
from worldplay_env.image import fit_image
from worldplay_env.model import sampler
from worldplay_env.model.attention import KeysValues, KeyValueCache
from worldplay_env.model.autoencoder import Autoencoder, DecoderState, pixels_to_uint8, uint8_to_pixels
from worldplay_env.model.config import PRESETS, WorldConfig
from worldplay_env.model.positional import Positions
from worldplay_env.model.text import TextEncoder
from worldplay_env.model.transformer import Transformer
from worldplay_env.timing import Stopwatch
from worldplay_env.weights import checkpoint, hub
from worldplay_env.weights.checkpoint import RandomWeights
from worldplay_env.world import CHUNK_LATENTS, Chunk, Control, Start, World, WorldError, check_batch, pick_device

KNOWN_PROMPTS = 16
"""Prompts whose keys and values are kept (of wan-5b, 0.2 GB each)."""
MID_GREY = 128


def load(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    revision: str | None = None,
    accept_license: bool = False,
    latents_per_decode: int = CHUNK_LATENTS,
    sample_image: bool = False,
    **unknown: object,
) -> DreamWorld:
    """Make the world model of that name; `world.load` shares it within the process and describes the arguments.

    Raises:
        ValueError: An unknown option; `weights` is neither None nor "random"; no weights are known under that name.
        LicenseError, DownloadError, CheckpointError: The weights cannot be had, or are damaged.
    """
    if unknown:
        known = "latents_per_decode and sample_image"
        raise ValueError(f"unknown option {', '.join(map(repr, unknown))}: a world model knows {known}")
    place = pick_device(device)
    compute = getattr(torch, dtype or ("bfloat16" if place.type == "cuda" else "float32"))
    if weights not in (None, "random"):
        raise ValueError(f'weights must be None (the world\'s own) or "random", got {weights!r}')
    if name == "tiny" and hub.bundled(name) is None:
        weights = "random"  # the package carries no trained ones
    files = None if weights == "random" else hub.bundled(name) or hub.resolve(name, revision, accept_license)
    if files is not None:
        config = files.config
    elif name in PRESETS:
        config = PRESETS[name]
    else:
        config = hub.folder_config(name)
    random, placed = RandomWeights(), {"device": place, "dtype": compute}
    return DreamWorld(
        config,
        checkpoint.load_transformer(files.transformer if files else random, config.transformer, **placed),
        checkpoint.load_autoencoder(files.autoencoder if files else random, config.autoencoder, **placed),
        checkpoint.load_text_encoder(
            files.text_encoder if files else random, files.tokenizer if files else None, config.text, **placed
        ),
        weights=files.revision if files else "random",
        latents_per_decode=latents_per_decode,
        sample_image=sample_image,
    )


@dataclass(frozen=True)
class _Dreamt:
    """New chunks of a group, before they are decoded.

    Attributes:
        latents: float32 [batch, C, 4, h, w].
        past: The same as records for the rollouts' histories.
        memory: The past latent frames that each was made from.
    """

    latents: Tensor
    past: list[PastChunk]
    memory: list[np.ndarray]


class DreamWorld(World):
    """A `World` made by the diffusion transformer and the autoencoder.

    Args:
        config: Sizes; those of the networks must be the networks' own.
        transformer: The velocity field, in its compute dtype.
        autoencoder: On the same device.
        text_encoder: Makes prompt embeddings; without one, `start` must be given them.
        weights: Where the parameters came from ("random", "trained", a revision).
        latents_per_decode: Latent frames that a decoder pass takes, 1..4: fewer need less memory, frames are equal.
        sample_image: Draw the start's latent from the encoder's posterior, by the rollout's seed, not its mean.
        memory_points: float [P, 3] sample points for the memory selection; by default its own fixed set.
    """

    def __init__(
        self,
        config: WorldConfig,
        transformer: Transformer,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder | None = None,
        *,
        weights: str = "random",
        latents_per_decode: int = CHUNK_LATENTS,
        sample_image: bool = False,
        memory_points: np.ndarray | None = None,
    ) -> None:
        if not 1 <= latents_per_decode <= CHUNK_LATENTS:
            raise ValueError(f"latents_per_decode must be 1..{CHUNK_LATENTS}, got {latents_per_decode}")
        self.config = config
        self.name = config.name
        self.weights = weights
        self.image_size = config.image_size
        self.fps = config.fps
        self.latent_shape = (config.autoencoder.z_dim, CHUNK_LATENTS, *config.latent_size)
        self.transformer = transformer.eval()
        self.autoencoder = autoencoder.eval()
        self.text_encoder = text_encoder
        self.device = transformer.device
        self._latents_per_decode = latents_per_decode
        self._sample_image = sample_image
        self._memory_points = memory_points
        self._cache: KeyValueCache | None = None
        self._prompts: WeakValueDictionary[str, Prompt] = WeakValueDictionary()
        self._text: OrderedDict[Prompt, list[KeysValues]] = OrderedDict()
        self._lock = threading.Lock()

    # ---- rollouts: begin, load

    def start(self, start: Start, seed: int, *, prompt_embedding: Tensor | None = None) -> DreamRollout:
        """Begin a rollout.

        Args:
            start: Picture, prompt and first pose.
            seed: Of the rollout's noise, 0 or more.
            prompt_embedding: float [text tokens, text_dim] in place of the text encoder's.
        """
        seed = dream_rollout.check_seed(seed)
        if prompt_embedding is None:
            prompt = self.prompt(start.prompt)
        else:
            prompt = Prompt(start.prompt, prompt_embedding.to(self.device))
        if start.image is None:
            picture = np.full((*self.image_size, 3), MID_GREY, dtype=np.uint8)
            channels, _, *latent_size = self.latent_shape
            latent = torch.zeros(channels, 1, *latent_size, device=self.device)
        else:
            picture = fit_image(start.image, self.image_size)
            latent = self._encode(picture, seed)
        return DreamRollout(
            world=self,
            seed=seed,
            prompt=prompt,
            picture=picture,
            start_latent=latent,
            has_image=start.image is not None,
            start_pose=np.array(start.pose, dtype=np.float64),
        )

    def prompt(self, text: str) -> Prompt:
        """Return a prompt and its embedding; rollouts with equal prompts share one."""
        if self.text_encoder is None:
            raise ValueError("this world has no text encoder: give start() a prompt_embedding")
        prompt = self._prompts.get(text)
        if prompt is None:
            prompt = Prompt(text, self.text_encoder.encode([text])[0].to(self.device))
            self._prompts[text] = prompt
        return prompt

    def load_rollout(self, path: str | Path) -> DreamRollout:
        """Read a rollout that `DreamRollout.save` wrote, in this process or another.

        Raises:
            ValueError: The file is no saved rollout, or one of another world.
        """
        return dream_rollout.load(self, path)

    @torch.no_grad()
    def _encode(self, picture: np.ndarray, seed: int) -> Tensor:
        """Encode a picture, uint8 [H, W, 3], to normalised latents, float32 [C, 1, h, w]."""
        pixels = uint8_to_pixels(torch.from_numpy(picture).to(self.device))  # [H, W, 3]
        mean, logvar = self.autoencoder.encode(pixels.permute(2, 0, 1)[None, :, None])
        latent = mean.float()
        if self._sample_image:
            noise = dream_rollout.normal(latent.shape, seed).to(self.device)
            latent = latent + torch.exp(logvar.float() / 2) * noise
        return self.autoencoder.normalise(latent)[0]

    # ---- one chunk

    def step(
        self,
        rollouts: Sequence[DreamRollout],
        controls: Sequence[Control],
        *,
        noise: Tensor | None = None,
        decode: bool = True,
    ) -> list[Chunk]:
        """Make one chunk for every rollout, all of them or none (see `World.step`)."""
        self._check(rollouts, controls, noise)
        groups: dict[int, list[int]] = defaultdict(list)
        for index, rollout in enumerate(rollouts):
            groups[min(rollout.chunks * CHUNK_LATENTS, memory.MEMORY)].append(index)
        made: dict[int, tuple[Chunk, PastChunk, DecoderState | None]] = {}
        with self._exclusively():
            for members in groups.values():
                group = [rollouts[index] for index in members]
                cameras = [controls[index] for index in members]
                made.update(
                    zip(members, self._step_group(group, cameras, _rows(noise, members), decode), strict=True)
                )
        for index, rollout in enumerate(rollouts):
            rollout.commit(*made[index][1:], decoded=decode)
        return [made[index][0] for index in range(len(rollouts))]

    def stream(self, rollout: DreamRollout, control: Control) -> Generator[Tensor, None, Chunk]:
        """Make one chunk and yield its frames as they are decoded (see `World.stream`).

        The generator returns the `Chunk`, whose timings end before decoding. Unless exhausted, it commits nothing.
        """
        self._check([rollout], [control], None)
        with self._exclusively():
            watch = Stopwatch(self.device)
            dreamt = self._dream([rollout], [control], None, watch)
            state = self._caught_up(rollout)
        before = rollout.chunks
        parts = []
        for latent in dreamt.latents.split(1, dim=2):
            with self._exclusively():
                pixels, state = self.autoencoder.decode(latent, state)
                _require_finite(latent, pixels)
            parts.append(_to_frames(pixels)[0])
            yield parts[-1]
        if rollout.chunks != before:
            raise RuntimeError("the rollout was stepped while its frames were streamed")
        rollout.commit(dreamt.past[0], state, decoded=True)
        return Chunk(torch.cat(parts), dreamt.latents[0], dreamt.memory[0], watch.seconds())

    def _step_group(
        self, rollouts: list[DreamRollout], controls: list[Control], noise: Tensor | None, decode: bool
    ) -> list[tuple[Chunk, PastChunk, DecoderState | None]]:
        """Make the chunks of rollouts with equally long memories, committing nothing."""
        watch = Stopwatch(self.device)
        dreamt = self._dream(rollouts, controls, noise, watch)
        frames: list[Tensor | None] = [None] * len(rollouts)
        states: list[DecoderState | None] = [None] * len(rollouts)
        if decode:
            pixels, state = self._decode(dreamt.latents, _stack([self._caught_up(rollout) for rollout in rollouts]))
            watch.lap("decode")
            _require_finite(dreamt.latents, pixels)
            frames[:] = _to_frames(pixels)
            states[:] = state.split()
        else:
            _require_finite(dreamt.latents)
        watch.lap("check")
        timings = watch.seconds()
        rows = zip(frames, dreamt.latents, dreamt.memory, dreamt.past, states, strict=True)
        return [
            (Chunk(images, latents, chosen, timings), past, state) for images, latents, chosen, past, state in rows
        ]

    def _dream(
        self, rollouts: list[DreamRollout], controls: list[Control], noise: Tensor | None, watch: Stopwatch
    ) -> _Dreamt:
        """Choose memory, prefill it and denoise the next chunk of rollouts with equally long memories."""
        chosen = [self._select(*pair) for pair in zip(rollouts, controls, strict=True)]
        seen = [_memory_of(*pair) for pair in zip(rollouts, chosen, strict=True)]  # clips of each rollout
        watch.lap("select")
        length, device = len(chosen[0]), self.device
        viewmats, K, labels = self._cameras(seen, controls)
        size, frames = self.config.latent_size, range(length, length + CHUNK_LATENTS)
        positions = self.transformer.positions(frames, size, viewmats[:, length:], K[:, length:])
        text = self._text_of(rollouts)
        cache = self._cache_for(len(rollouts))
        if length:
            clean = torch.stack([torch.cat([past.latents for past in clips], dim=1) for clips in seen])
            timesteps = torch.full((len(rollouts), length), sampler.KNOWN_TIMESTEP, device=device)
            behind = self.transformer.positions(range(length), size, viewmats[:, :length], K[:, :length])
            self.transformer.prefill(clean, timesteps, labels[:, :length], behind, text, cache)
            watch.lap("prefill")
        if noise is None:
            noise = torch.stack([rollout.noise() for rollout in rollouts])
        latents = self._denoise(rollouts, noise.to(device), labels[:, length:], positions, text, cache, watch)
        past = [PastChunk.of(row.clone(), control) for row, control in zip(latents, controls, strict=True)]
        return _Dreamt(latents, past, chosen)

    def _denoise(
        self,
        rollouts: list[DreamRollout],
        noise: Tensor,
        labels: Tensor,
        positions: Positions,
        text: list[KeysValues],
        cache: KeyValueCache,
        watch: Stopwatch,
    ) -> Tensor:
        """Follow the flow from noise [b, C, 4, h, w] to clean latents, float32, in the four steps of the schedule.

        Latent frame 0 of a rollout that begins with an image is known: it is fed clean and never updated.
        """
        dtype, device = self.transformer.dtype, self.device
        given = torch.tensor([rollout.has_image and not rollout.chunks for rollout in rollouts], device=device)
        known = torch.zeros(len(rollouts), CHUNK_LATENTS, dtype=torch.bool, device=device)
        known[:, 0] = given
        mask = known[:, None, :, None, None]  # [b, 1, 4, 1, 1]
        clean = torch.stack([rollout.start_latent for rollout in rollouts])  # [b, C, 1, h, w]
        x = torch.where(mask, clean, noise).to(dtype)
        for step, timestep in enumerate(sampler.TIMESTEPS):
            timesteps = torch.where(known, sampler.KNOWN_TIMESTEP, timestep)
            flow = self.transformer(x, timesteps, labels, positions, text, cache)
            x = torch.where(mask, x, sampler.euler_step(x, flow, step))
            watch.lap(f"denoise_{step}")
        return torch.where(mask, clean, x.float())

    def _select(self, rollout: DreamRollout, control: Control) -> np.ndarray:
        """Return the sorted indices of the past latent frames that the next chunk sees."""
        coming = view_matrices(control.poses)
        viewmats = np.concatenate([*(past.viewmats for past in rollout.history), coming])
        return memory.select(viewmats, self._memory_points)

    def _cameras(self, seen: list[list[PastChunk]], controls: list[Control]) -> tuple[Tensor, Tensor, Tensor]:
        """Return view matrices, intrinsics and labels of memory and chunk, [b, frames, ...].

        Poses are re-based on the chunk's first in float64: exact, since attention sees relative cameras only, and
        what keeps low precision accurate far from the origin.
        """
        viewmats, intrinsics, labels = [], [], []
        for clips, control in zip(seen, controls, strict=True):
            all_controls = [*(past.control for past in clips), control]
            poses = np.concatenate([one.poses for one in all_controls])
            viewmats.append(view_matrices(rebase(poses, control.poses[0])))
            intrinsics.append(np.concatenate([one.intrinsics for one in all_controls]))
            labels.append(np.concatenate([one.labels for one in all_controls]))
        return (
            torch.from_numpy(np.stack(viewmats)).float().to(self.device),
            torch.from_numpy(np.stack(intrinsics)).float().to(self.device),
            torch.from_numpy(np.stack(labels)).to(self.device),
        )

    def _text_of(self, rollouts: list[DreamRollout]) -> list[KeysValues]:
        """Return every block's prompt keys and values, [b, heads, text tokens, head_dim], computed once a prompt."""
        prompts = [rollout.prompt_in_force for rollout in rollouts]
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._text:
                self._text[prompt] = self.transformer.text_keys_values(prompt.embedding[None])
            self._text.move_to_end(prompt)
        known = [self._text[prompt] for prompt in prompts]
        while len(self._text) > KNOWN_PROMPTS:
            self._text.popitem(last=False)
        if len(set(prompts)) == 1:
            return [(k.expand(len(prompts), -1, -1, -1), v.expand(len(prompts), -1, -1, -1)) for k, v in known[0]]
        return [
            (torch.cat([k for k, _ in block]), torch.cat([v for _, v in block])) for block in zip(*known, strict=True)
        ]

    def _cache_for(self, batch: int) -> KeyValueCache:
        """Return an empty cache for `batch` worlds; its buffers are the world's and grow to the largest batch."""
        if self._cache is None or self._cache.batch < batch:
            self._cache = None  # frees the smaller one first
            rows = (memory.MEMORY + CHUNK_LATENTS) * self.config.tokens_per_frame
            self._cache = self.transformer.new_cache(batch, rows)
        return self._cache.narrow(batch)

    # ---- decoding

    def _decode(self, latents: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        """Decode latents [b, C, f, h, w] in passes of `latents_per_decode` frames: pixels [b, 3, F, H, W]."""
        parts = []
        for part in latents.split(self._latents_per_decode, dim=2):
            pixels, state = self.autoencoder.decode(part, state)
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

    def _check(self, rollouts: Sequence[DreamRollout], controls: Sequence[Control], noise: Tensor | None) -> None:
        check_batch(self, rollouts, controls, noise)
        for rollout in rollouts:
            if not isinstance(rollout, DreamRollout) or not rollout.belongs_to(self):
                raise ValueError(f"not a rollout of this world: {rollout!r}")

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the networks and buffers for one call; without gradients, so that results can be kept cheaply."""
        with self._lock, torch.no_grad():
            try:
                yield
            except torch.OutOfMemoryError as error:
                self._cache = None
                raise WorldError(
                    f"out of memory on {self.device}; no rollout was changed. Step fewer rollouts at once, or load "
                    f"the world with fewer latents_per_decode (now {self._latents_per_decode})."
                ) from error


def _memory_of(rollout: DreamRollout, frames: np.ndarray) -> list[PastChunk]:
    """Return the chunks that the chosen frames make up: memory is chosen in whole clips, which are chunks."""
    return [rollout.history[index // CHUNK_LATENTS] for index in frames[::CHUNK_LATENTS]]


def _rows(noise: Tensor | None, members: list[int]) -> Tensor | None:
    return None if noise is None else noise[members]


def _stack(states: list[DecoderState | None]) -> DecoderState | None:
    """Join decoder states; rollouts with equally long memories are all at their first chunk (None), or none is."""
    known = [state for state in states if state is not None]
    return DecoderState.stack(known) if known else None


def _to_frames(pixels: Tensor) -> Tensor:
    """Map pixels [b, 3, F, H, W] to frames, uint8 [b, F, H, W, 3]."""
    return pixels_to_uint8(pixels).permute(0, 2, 3, 4, 1).contiguous()


def _require_finite(*tensors: Tensor) -> None:
    if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
        raise WorldError("the model's output is not finite; no rollout was changed. Are the weights whole?")
