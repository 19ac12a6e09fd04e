"""The state of one dreamt world: its past, prompt and decoder, and how it is forked, saved and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldplay_env.control.camera import view_matrices
from worldplay_env.model.autoencoder import DecoderState
from worldplay_env.world import Control

if TYPE_CHECKING:
    from worldplay_env.dream import DreamWorld

_DECODER = "decoder."
"""What the names of the decoder state's tensors begin with in a saved rollout."""


@dataclass(frozen=True, eq=False)
class Prompt:
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
        seed: Chunk n's noise is a function of (seed, n) alone.
        prompt_in_force: Prompt and embedding for the chunks to come.
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
        prompt: Prompt,
        picture: np.ndarray,
        start_latent: Tensor,
        has_image: bool,
        start_pose: np.ndarray,
    ) -> None:
        self._world = world
        self.seed = seed
        self.prompt_in_force = prompt
        self.picture = picture
        self.start_latent = start_latent
        self.has_image = has_image
        self.start_pose = start_pose
        self.history: list[PastChunk] = []
        self.decoder_state: DecoderState | None = None
        self.decoded = 0

    @property
    def prompt(self) -> str:
        """The prompt in force, for the chunks to come."""
        return self.prompt_in_force.text

    @property
    def chunks(self) -> int:
        """Chunks made so far."""
        return len(self.history)

    @property
    def pose(self) -> np.ndarray:
        """Float64 [4, 4]: the newest camera-to-world matrix; the start's before the first step."""
        return (self.history[-1].control.poses[-1] if self.history else self.start_pose).copy()

    def belongs_to(self, world: Any) -> bool:
        """Whether `world` started or loaded this rollout."""
        return self._world is world

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt for the chunks to come."""
        self.prompt_in_force = self._world.prompt(prompt)

    def noise(self) -> Tensor:
        """Draw the next chunk's noise: float32 [C, 4, h, w] on the CPU, a function of (seed, chunk) alone."""
        return normal(self._world.latent_shape, self.seed, self.chunks)

    def commit(self, past: PastChunk, decoder_state: DecoderState | None, *, decoded: bool) -> None:
        """Append a finished chunk; `decoder_state` is the state after it if it was decoded."""
        self.history.append(past)
        if decoded:
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
        tensors = {
            "picture": torch.from_numpy(self.picture),
            "start_latent": self.start_latent,
            "start_pose": torch.from_numpy(self.start_pose),
            "prompt_embedding": self.prompt_in_force.embedding,
        }
        if self.history:
            controls = [past.control for past in self.history]
            tensors["latents"] = torch.stack([past.latents for past in self.history])
            tensors["poses"] = torch.from_numpy(np.stack([control.poses for control in controls]))
            tensors["labels"] = torch.from_numpy(np.stack([control.labels for control in controls]))
            tensors["intrinsics"] = torch.from_numpy(np.stack([control.intrinsics for control in controls]))
        if self.decoder_state is not None:
            tensors |= {_DECODER + name: tensor for name, tensor in self.decoder_state.to_tensors().items()}
        facts = {
            "world": self._world.name,
            "weights": self._world.weights,
            "prompt": self.prompt,
            "seed": self.seed,
            "has_image": self.has_image,
            "decoded": self.decoded,
        }
        partial = Path(f"{path}.partial")
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial, _to_metadata(facts))
        os.replace(partial, path)


def load(world: DreamWorld, path: str | Path) -> DreamRollout:
    """Read a rollout that `DreamRollout.save` wrote, for the world that it was made in.

    Raises:
        ValueError: The file is no saved rollout, or one of another world.
    """
    try:
        with safe_open(path, framework="pt", device=str(world.device)) as file:
            facts = _of_metadata(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a saved rollout: {error}") from error
    shape = tuple(tensors["start_latent"].shape)
    expected = (world.latent_shape[0], 1, *world.latent_shape[2:])
    if (facts["world"], facts["weights"]) != (world.name, world.weights) or shape != expected:
        raise ValueError(
            f"{path} holds a rollout of {facts['world']} ({facts['weights']} weights, latents {shape}), not of "
            f"{world.name} ({world.weights} weights, latents {expected})"
        )
    rollout = DreamRollout(
        world=world,
        seed=facts["seed"],
        prompt=Prompt(facts["prompt"], tensors["prompt_embedding"]),
        picture=tensors["picture"].cpu().numpy(),
        start_latent=tensors["start_latent"],
        has_image=facts["has_image"],
        start_pose=tensors["start_pose"].cpu().numpy(),
    )
    if "latents" in tensors:
        parts = zip(*(tensors[name].cpu().numpy() for name in ("poses", "labels", "intrinsics")), strict=True)
        controls = [Control(*part) for part in parts]
        rollout.history = [
            PastChunk.of(latents, control) for latents, control in zip(tensors["latents"], controls, strict=True)
        ]
    decoder = {name.removeprefix(_DECODER): tensor for name, tensor in tensors.items() if name.startswith(_DECODER)}
    rollout.decoder_state = DecoderState.from_tensors(decoder) if decoder else None
    rollout.decoded = facts["decoded"]
    return rollout


def normal(shape: Sequence[int], *key: int) -> Tensor:
    """Return standard normal values, float32 on the CPU, that are a function of `key` alone."""
    # numpy, since torch's generator on the CPU takes no more than 32 bits of a seed.
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def check_seed(seed: int) -> int:
    """Return a rollout's seed, or raise ValueError if it is not a whole number of 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"a seed is a whole number of 0 or more, got {seed!r}")
    return int(seed)


def _to_metadata(facts: dict[str, Any]) -> dict[str, str]:
    return {"rollout": json.dumps(facts)}


def _of_metadata(metadata: dict[str, str] | None) -> dict[str, Any]:
    return json.loads((metadata or {})["rollout"])
