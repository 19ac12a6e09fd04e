"""Recorded networks and their parts: the kinds `prope`, `schedule`, `transformer`, `vae` and `keys`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from golden_cases.case import Case, find_weights
from golden_cases.comparison import Row, compare, holds
from worldplay_env.models.config import WAN_5B, AutoencoderConfig, TransformerConfig
from worldplay_env.models.wan.attention import KeyValueCache, Rows, by_frame, by_row
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.worldplay import positional, sampler
from worldplay_env.models.worldplay.attention import BRANCHES
from worldplay_env.models.worldplay.positional import Positions
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.weights.checkpoint import load_autoencoder, load_transformer, upstream_name
from worldplay_env.weights.files import strip_prefixes

TRANSFORMER = ("patch_embedding.weight",)
AUTOENCODER = ("encoder.conv_in.weight", "decoder.conv_in.weight")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def transformer_of(case: Case, dtype: torch.dtype = torch.float32) -> Transformer:
    """Load the transformer of a case."""
    files = find_weights(case, case["config"], TRANSFORMER)
    beside = {name: case[name] for name in ("patch_size",) if name in case.values}
    return load_transformer(files, TransformerConfig.from_dict(beside | case["config"]), dtype=dtype)


def autoencoder_of(case: Case, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> Autoencoder:
    """Load the autoencoder of a case, `config` being its sizes."""
    files = find_weights(case, config, AUTOENCODER)
    return load_autoencoder(files, AutoencoderConfig.from_dict(config), dtype=dtype)


def prope(case: Case) -> Iterator[Row]:
    """The projective encoding of queries, keys, values and outputs, with and without intrinsics, in two dtypes."""
    variants = {name.split("/")[0] for name in case.under("out")}
    for variant in sorted(variants):
        dtype = torch.bfloat16 if variant.endswith("bfloat16") else torch.float32
        inputs = {name: case.tensor(f"in/{name}").to(dtype) for name in ("q", "k", "v", "o", "viewmats", "Ks")}
        intrinsics = None if "no_intrinsics" in variant else inputs["Ks"]
        nothing = torch.empty(0)  # RoPE's tables, which play no part here
        matrices = positional.projections(inputs["viewmats"], intrinsics)
        positions = Positions(nothing, nothing, *(each.flatten(0, 1) for each in matrices))
        encode = {
            "q": positional.prope_queries,
            "k": positional.prope_keys_values,
            "v": positional.prope_keys_values,
            "o": positional.prope_outputs,
        }
        tolerance = case.tolerance("bfloat16" if dtype is torch.bfloat16 else "float32")
        for name, function in encode.items():
            result = by_row(function(by_frame(inputs[name], len(positions.projection)), positions), len(inputs[name]))
            yield compare(f"{case.name}/{variant}/{name}", result, case.tensor(f"{variant}/{name}"), tolerance)


def schedule(case: Case) -> Iterator[Row]:
    """Four Euler steps a chunk along given velocities."""
    yield compare(f"{case.name}/timesteps", [*sampler.TIMESTEPS, 0.0], case["timesteps"], "exact")
    velocities = case.under("velocity/")
    steps, frames = len(case["timesteps"]) - 1, case.tensor(velocities[0]).shape[2]
    for dtype_name in sorted({name.split("/")[0] for name in case.under("")} & DTYPES.keys()):
        dtype, tolerance = DTYPES[dtype_name], case.tolerance(dtype_name)
        finished = []
        for chunk, noise in enumerate(case.tensor("noise").split(frames, dim=2)):
            x = noise.to(dtype)
            for step in range(steps):
                call = chunk * steps + step
                recorded = case.tensor(f"{dtype_name}/input/{call}")
                yield compare(f"{case.name}/{dtype_name}/input/{call}", x, recorded, tolerance)
                x = sampler.euler_step(x, case.tensor(f"velocity/{call}").to(dtype), step)
            finished.append(x.float())
        recorded = case.tensor(f"{dtype_name}/final")
        yield compare(f"{case.name}/{dtype_name}/final", torch.cat(finished, dim=2), recorded, tolerance)


@torch.inference_mode()
def transformer(case: Case) -> Iterator[Row]:
    """First chunks, prefills and later chunks; velocities, and the caches of the recorded blocks."""
    yield from _transformer_calls(case, torch.float32, "out")
    if case.under("out_bfloat16/"):
        yield from _transformer_calls(case, torch.bfloat16, "out_bfloat16")


def _transformer_calls(case: Case, dtype: torch.dtype, recorded: str) -> Iterator[Row]:
    """Run the calls that were recorded in a dtype, and the prefills that they need."""
    model = transformer_of(case, dtype)
    calls: dict[str, dict[str, Any]] = case["calls"]
    text = model.text_keys_values(case.tensor("in/prompt_embeds"))

    batch, _, _, *latent_size = case.tensor("in/latents").shape

    def rows(call: dict[str, Any]) -> int:
        """Return the tokens of memory and call together."""
        frames = call["rope_start_latent"] + len(call["frames"])
        return frames * model.config.tokens_per_frame(tuple(latent_size))

    def run(call: dict[str, Any], cache: KeyValueCache) -> Tensor | None:
        frames, start = call["frames"], call["rope_start_latent"]
        latents = case.tensor("in/latents")[:, :, frames]
        cameras = case.tensor("in/viewmats")[:, frames], case.tensor("in/Ks")[:, frames]
        positions = model.positions(range(start, start + len(frames)), tuple(latents.shape[-2:]), *cameras)
        labels = case.tensor("in/action")[:, frames]
        timesteps = torch.tensor(call["timestep"]).expand(labels.shape)
        function = model.prefill if call.get("is_cache") else model.forward
        return function(latents.to(dtype), timesteps, labels, positions, text, cache.layers(batch, rows(call)))

    for name, call in calls.items():
        whole = f"{recorded}/{name}"
        outputs = [whole] if whole in case else case.under(f"{whole}/block")
        if not outputs:
            continue
        cache = model.new_cache(batch, rows(call))
        if call.get("cache") is not None:
            run(calls[call["cache"]], cache)
        velocity = run(call, cache)
        tolerance = case.tolerance(
            "bfloat16" if dtype is torch.bfloat16 else "cache" if call.get("is_cache") else "velocity"
        )
        for output in outputs:
            result = velocity if velocity is not None else _cached(cache.layers(batch, rows(call)), output)
            label = output if recorded != "out" else output.removeprefix("out/")
            yield compare(f"{case.name}/{label}", result, case.tensor(output), tolerance)


def _cached(layers: Sequence[Rows], output: str) -> Tensor:
    """Return what `.../block<b>/k` or `/v` names, in its layout: branches side by side on the channel axis."""
    block, part = re.search(r"block(\d+)/([kv])$", output).groups()
    rows = layers[int(block)]["kv".index(part)]
    return rearrange(rows, "b (branch h) n d -> b h n (branch d)", branch=BRANCHES)


@torch.inference_mode()
def vae(case: Case) -> Iterator[Row]:
    """Encoded image and video; a stream decoded frame by frame, in chunks and at once."""
    model = autoencoder_of(case, case["config"])
    mean, logvar = model.encode(case.tensor("in/image"))
    results = {
        "image_mean": mean,
        "image_logvar": logvar.clamp(-30, 20),
        "image_latent": model.normalise(mean),
        "video_mean": model.encode(case.tensor("in/video"))[0],
    }
    for name, result in results.items():
        yield compare(f"{case.name}/{name}", result, case.tensor(f"out/{name}"), case.tolerance("latents"))

    latents, frames, streaming = case.tensor("in/latents"), case.tensor("out/frames"), case["streaming"]
    for name, sizes, recorded_counts in (
        ("frames, one latent a call", [1] * latents.shape[2], streaming["frames_per_latent"]),
        ("frames, four latents a call", _sizes(latents.shape[2], 4), streaming.get("chunks_of_four")),
        ("frames, one call", [latents.shape[2]], [frames.shape[2]]),
    ):
        parts = list(_stream(model, latents, sizes))
        yield compare(f"{case.name}/{name}", torch.cat(parts, dim=2), frames, case.tolerance("frames"))
        if recorded_counts is not None:
            counts = [part.shape[2] for part in parts]
            yield compare(f"{case.name}/{name}: how many", counts, recorded_counts, "exact")
    if "bfloat16_frames" in case["tolerance"]:
        low_precision = autoencoder_of(case, case["config"], torch.bfloat16)
        result = torch.cat(list(_stream(low_precision, latents, _sizes(latents.shape[2], 4))), dim=2)
        yield compare(f"{case.name}/frames in bfloat16", result, frames, case.tolerance("bfloat16_frames"))


def _sizes(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _stream(model: Autoencoder, latents: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    state = None
    for part in latents.split(sizes, dim=2):
        frames, state = model.decode(part, state)
        yield frames


def keys(case: Case) -> Iterator[Row]:
    """Names, shapes and number of the real parameters, on the meta device; rules for a checkpoint's keys."""
    parts = (
        ("transformer", TransformerConfig, Transformer, WAN_5B.transformer),
        ("vae", AutoencoderConfig, Autoencoder, WAN_5B.autoencoder),
    )
    for part, config_class, network, preset in parts:
        name, recorded = f"{case.name}/{part}", case[part]
        config = config_class.from_dict(recorded["config"])
        if "latents_mean" in recorded["config"]:
            # Small networks use other statistics and the preset's must be the real ones: they are in no state dict.
            statistics = [*config.latents_mean, *config.latents_std]
            yield compare(
                f"{name}/latent statistics", [*preset.latents_mean, *preset.latents_std], statistics, "exact"
            )
        with torch.device("meta"):
            parameters = network(config).state_dict()
        rename = upstream_name if network is Transformer else str
        shapes = {rename(key): list(tensor.shape) for key, tensor in parameters.items()}
        wrong = {
            key for key in shapes.keys() | recorded["keys"].keys() if shapes.get(key) != recorded["keys"].get(key)
        }
        difference = f"first of those that differ: {min(wrong, default=None)}"
        yield Row(f"{name}/keys and shapes", float(len(wrong)), note=difference if wrong else "exact")
        count = sum(tensor.numel() for tensor in parameters.values())
        yield compare(f"{name}/parameters", [count], [recorded["parameters"]], "exact")
    for key, stripped in case["checkpoint"]["examples"]:
        result = strip_prefixes(key)
        yield holds(f"{case.name}/{key}", result == stripped, f"{result} instead of {stripped}")
