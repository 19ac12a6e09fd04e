"""Rollouts on disk: written whole, and read only if everything in the file agrees with the world and with itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldplay_env.control.camera import check_poses
from worldplay_env.media.files import check_regular, replacing
from worldplay_env.models.codec import DecoderState
from worldplay_env.worlds.base import check_prompt, check_seed
from worldplay_env.worlds.diffusion.prompts import EncodedPrompt

if TYPE_CHECKING:
    from worldplay_env.worlds.diffusion.latent_rollout import LatentRollout
    from worldplay_env.worlds.diffusion.latent_world import LatentWorld

_DECODER = "decoder."
"""What the names of the decoder state's tensors begin with."""
_ALWAYS = ("picture", "start_latent", "start_pose", "prompt_embedding")


def write_rollout(world: LatentWorld, rollout: LatentRollout, path: str | Path) -> None:
    """Write a rollout of a world to a safetensors file, whole or not at all."""
    tensors = {
        "picture": torch.tensor(rollout.picture),
        "start_latent": rollout.start_latent,
        "start_pose": torch.tensor(rollout.start_pose),
        "prompt_embedding": rollout.encoded_prompt.embedding,
        **rollout.tensors(),
    }
    if rollout.decoder_state is not None:
        tensors |= {_DECODER + name: tensor for name, tensor in rollout.decoder_state.to_tensors().items()}
    facts = {
        "world": world.name,
        "weights": world.weights,
        "weights_hash": world.weights_hash,
        "prompt": rollout.prompt,
        "seed": rollout.seed,
        "has_image": rollout.has_image,
        "decoded": rollout.decoded,
        **rollout.facts(),
    }
    with replacing(path) as partial:
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, partial, {"rollout": json.dumps(facts)})


def read_rollout(world: LatentWorld, path: str | Path) -> LatentRollout:
    """Read a rollout that `write_rollout` wrote, for the world that it was made in.

    Raises:
        ValueError: The file is no saved rollout, one of another world, or one whose parts do not fit together.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt", device=str(world.device)) as file:
            facts = json.loads((file.metadata() or {})["rollout"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return _rollout(world, facts, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:  # JSON's are ValueErrors
        raise ValueError(f"{path} is no rollout saved in this world: {error}") from error


def _rollout(world: LatentWorld, facts: Any, tensors: dict[str, Tensor]) -> LatentRollout:
    if not isinstance(facts, dict):
        raise ValueError(f"its facts are {type(facts).__name__}, not an object")
    _check_origin(world, facts)
    if not isinstance(facts["has_image"], bool):
        raise ValueError(f"has_image is {facts['has_image']!r}, not true or false")
    state = {name.removeprefix(_DECODER): tensor for name, tensor in tensors.items() if name.startswith(_DECODER)}
    past = {name: tensor for name, tensor in tensors.items() if name not in _ALWAYS and not name.startswith(_DECODER)}
    channels, _, *latent_size = world.latent_shape
    check_tensor(tensors, "picture", torch.uint8, (*world.image_size, 3))
    check_tensor(tensors, "start_latent", torch.float32, (channels, 1, *latent_size))
    check_tensor(tensors, "start_pose", torch.float64, (4, 4))
    start_pose = tensors["start_pose"].cpu().numpy()
    check_poses(start_pose[None], ["the start's pose"])
    embedding = tensors["prompt_embedding"]
    text = world.config.transformer.text_dim
    if embedding.ndim != 2 or not len(embedding) or embedding.shape[1] != text or not embedding.is_floating_point():
        raise ValueError(
            f"prompt_embedding is {embedding.dtype} {tuple(embedding.shape)}, not float [tokens, {text}]"
        )
    check_finite("prompt_embedding", embedding)
    rollout = world.rollout_type(
        world=world,
        seed=check_seed(facts["seed"]),
        prompt=EncodedPrompt(check_prompt(facts["prompt"]), embedding),
        picture=tensors["picture"].cpu().numpy(),
        start_latent=tensors["start_latent"],
        has_image=facts["has_image"],
        start_pose=start_pose,
    )
    rollout.restore(past, facts)
    rollout.decoded = _decoded(facts["decoded"], rollout.chunks)
    rollout.decoder_state = _decoder_state(world, state, rollout.decoded)
    return rollout


def _check_origin(world: LatentWorld, facts: dict[str, Any]) -> None:
    """Raise ValueError unless a rollout is of a world's model; files of earlier versions do not hold a digest."""
    theirs = facts["world"], facts["weights"], facts.get("weights_hash")
    own = world.name, world.weights, world.weights_hash
    compared = 3 if theirs[2] is not None else 2
    if theirs[:compared] != own[:compared]:
        described = ("{} ({} weights, hash {})".format(*one) for one in (theirs, own))
        raise ValueError("it is of {}, not of {}".format(*described))


def check_tensor(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a saved tensor has a dtype and a shape, and holds finite numbers alone."""
    tensor = tensors[name]
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")
    check_finite(name, tensor)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError if a saved tensor holds numbers that are not finite."""
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} holds numbers that are not finite")


def _decoded(decoded: Any, chunks: int) -> int:
    if type(decoded) is not int or not 0 <= decoded <= chunks:
        raise ValueError(f"decoded is {decoded!r}, not a number of its {chunks} chunks")
    return decoded


def _decoder_state(world: LatentWorld, tensors: dict[str, Tensor], decoded: int) -> DecoderState | None:
    """Return the saved state, in the dtype of the world that loads it: there is one if chunks were decoded."""
    if bool(tensors) != bool(decoded):
        raise ValueError(
            f"{decoded} of its chunks were decoded, and it holds {'a' if tensors else 'no'} decoder state"
        )
    if not tensors:
        return None
    for name, tensor in tensors.items():
        check_finite(name, tensor)
        if tensor.is_floating_point():
            tensors[name] = tensor.to(world.dtype)
    state = DecoderState.from_tensors(tensors)
    if [tuple(history.shape) for history in state.histories] != world.codec.state_shapes(world.config.latent_size):
        raise ValueError("its decoder state is one of another decoder")
    if state.latent_frames != (world.layout.latents * decoded,):
        raise ValueError(
            f"its decoder has seen {list(state.latent_frames)} latent frames, not those of {decoded} chunks"
        )
    return state
