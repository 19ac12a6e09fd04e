"""Recorded rollouts of the whole pipeline: the kind `rollout`, with an image or without."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from golden_cases.case import Case
from golden_cases.comparison import Row, compare, skipped
from golden_cases.control import selected
from golden_cases.networks import autoencoder_of, transformer_of
from golden_cases.preparation import FALLS_SHORT, falls_short, normalised_pixels
from worldplay_env.models.config import TextConfig, WorldConfig
from worldplay_env.models.worldplay import memory
from worldplay_env.worlds.base import CHUNK_LATENTS, Chunk, Control, Start
from worldplay_env.worlds.diffusion.world import DiffusionWorld

FIRST_FRAMES = 5
"""Frames that are recorded as floats too."""


@torch.inference_mode()
def rollout(case: Case) -> Iterator[Row]:
    """Drive a world made of the recorded networks with the recorded noise, cameras and prompt embedding."""
    world = _world(case)
    poses = np.linalg.inv(case.tensor("in/viewmats").double().numpy())
    labels, intrinsics = case.tensor("in/action").numpy(), case.tensor("in/Ks").double().numpy()
    image = case.tensor("in/image").numpy() if "in/image" in case else None
    if image is not None and falls_short(image, world.image_size):
        yield skipped(f"{case.name}/in/image", f"{FALLS_SHORT}; its recorded pixels are the start")
        image = _recorded_picture(case)
    prompt = case.tensor("in/prompt_embeds")[0]
    run = world.start(Start(image, pose=poses[0]), case["seed"], prompt_embedding=prompt)
    if image is not None:
        yield from _start(case, world, run.picture, run.start_latent)
    chunks = []
    noise = case.tensor("in/noise")
    for start in range(0, case.tensor("out/latents").shape[2], CHUNK_LATENTS):
        span = slice(start, start + CHUNK_LATENTS)
        chunks += world.step([run], [Control(poses[span], labels[span], intrinsics[span])], noise=noise[:, :, span])
    yield from _compare(case, world, chunks)


def _world(case: Case) -> DiffusionWorld:
    arguments, tokens = case["arguments"], case.tensor("in/prompt_embeds").shape[1]
    transformer, autoencoder = transformer_of(case), autoencoder_of(case, case["vae_config"])
    config = WorldConfig(
        name=case.name,
        image_size=(arguments["height"], arguments["width"]),
        transformer=transformer.config,
        autoencoder=autoencoder.config,
        # No encoder is made: prompt embeddings are given.
        text=TextConfig(
            tokens, vocab_size=1, d_model=transformer.config.text_dim, d_kv=1, d_ff=1, num_layers=1, num_heads=1
        ),
    )
    points = case.tensor("in/points").numpy() if "in/points" in case else None
    return DiffusionWorld(
        config, transformer, autoencoder, select=functools.partial(memory.select_each, points=points)
    )


def _recorded_picture(case: Case) -> np.ndarray:
    """Return the start as upstream prepared it, uint8 [height, width, 3]."""
    pixels = (case.tensor("out/image_pixels")[0, :, 0] + 1) * 127.5  # [3, height, width]
    return pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _start(case: Case, world: DiffusionWorld, picture: np.ndarray, latent: Tensor) -> Iterator[Row]:
    """Compare the prepared picture and what the autoencoder makes of it."""
    pixels = normalised_pixels(picture)
    recorded = case.tensor("out/image_pixels")[0, :, 0]
    yield compare(f"{case.name}/image_pixels", pixels, recorded, case.tolerance("frames_float"))
    mean, _ = world.codec.encode(torch.from_numpy(pixels)[None, :, None].float())
    yield compare(f"{case.name}/image_mean", mean, case.tensor("out/image_mean"), case.tolerance("latents"))
    yield compare(
        f"{case.name}/image_latent", latent[None], case.tensor("out/image_latent"), case.tolerance("latents")
    )


def _compare(case: Case, world: DiffusionWorld, chunks: list[Chunk]) -> Iterator[Row]:
    """Compare all chunks with the recorded latents, memory frames and images."""
    selections = {selection["chunk"]: selection for selection in case.values.get("memory_selection", [])}
    recorded = case.tensor("out/latents").split(CHUNK_LATENTS, dim=2)
    for number, (chunk, latents) in enumerate(zip(chunks, recorded, strict=True)):
        name = f"{case.name}/chunk {number}"
        context = case["context_latents_per_chunk"].get(str(number), [])
        yield selected(f"{name}/memory", chunk.memory, {"selected": context} | selections.get(number, {}))
        yield compare(f"{name}/latents", chunk.latents[None], latents, case.tolerance("latents"))

    pixels, _ = world.codec.decode(chunks[0].latents[None])
    first = pixels[0, :, :FIRST_FRAMES].permute(1, 2, 3, 0) / 2 + 0.5  # [5, H, W, 3] in [0, 1]
    yield compare(
        f"{case.name}/first frames", first, case.tensor("out/frames_first5"), case.tolerance("frames_float")
    )
    frames = torch.cat([chunk.frames for chunk in chunks])
    yield compare(f"{case.name}/frames", frames, case.tensor("frames"), case.tolerance("frames_uint8"))
