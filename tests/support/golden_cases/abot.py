"""Recorded parts of ABot-World: actions, schedule, transformer, pictures, encoders and names of parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from golden_cases.case import Case, find_weights
from golden_cases.comparison import Row, compare, holds
from golden_cases.networks import DTYPES
from worldplay_env.control.held_keys import HELD_KEYS, extended, held_keys, sampled, vector_of_keys
from worldplay_env.media.image import cover_image, stretch_image
from worldplay_env.models.abot.adapter import ActionAdapter, action_channels
from worldplay_env.models.abot.block import OpenBlock, References, denoise
from worldplay_env.models.abot.config import (
    AUTOENCODER_NORM_EPS,
    AbotTransformerConfig,
    ScheduleConfig,
    WindowConfig,
)
from worldplay_env.models.abot.picture import pixels_of
from worldplay_env.models.abot.sampler import Schedule, sigma_table
from worldplay_env.models.abot.transformer import AbotTransformer
from worldplay_env.models.abot.window import Window
from worldplay_env.models.config import AutoencoderConfig, TextConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.small_decoder import SmallDecoder, SmallDecoderConfig
from worldplay_env.models.wan.text import clean_prompt, embed, text_model
from worldplay_env.weights.checkpoint import (
    load_abot_transformer,
    load_autoencoder,
    load_text_model,
    on_meta,
    upstream_name,
)
from worldplay_env.weights.entry import Entry
from worldplay_env.weights.layouts import arranged


def transformer_config(recorded: dict[str, Any]) -> AbotTransformerConfig:
    """Return the sizes of a recorded transformer."""
    heads = recorded["num_heads"]
    renamed = {
        "num_attention_heads": heads,
        "attention_head_dim": recorded.get("head_dim", recorded["dim"] // heads),
        "in_channels": recorded["in_dim"],
        "out_channels": recorded["out_dim"],
    }
    return AbotTransformerConfig.from_dict(recorded | renamed)


def transformer_of(case: Case, dtype: torch.dtype = torch.float32) -> AbotTransformer:
    """Load the transformer of a case."""
    files = find_weights(case, case["config"], ("act_control_adapter.conv.weight",))
    return load_abot_transformer(files, transformer_config(case["config"]), dtype=dtype)


def autoencoder_of(case: Case) -> Autoencoder:
    """Load the autoencoder of a case."""
    files = find_weights(case, case["config"] if "config" in case.values else {}, ("encoder.conv1.weight",))
    return load_autoencoder(files, autoencoder_config(case["autoencoder_config"]), norm_eps=AUTOENCODER_NORM_EPS)


def autoencoder_config(recorded: dict[str, Any]) -> AutoencoderConfig:
    """Return the sizes of a recorded autoencoder."""
    renamed = {"base_dim": recorded["dim"], "decoder_base_dim": recorded["dec_dim"]}
    return AutoencoderConfig.from_dict(recorded | renamed)


@torch.inference_mode()
def actions(case: Case) -> Iterator[Row]:
    """Held keys to channels, and to what is added to the tokens; an action tensor of any content."""
    recorded = case["config"]
    height, width = recorded["image_height_width"]
    adapter = ActionAdapter(recorded["action_channels"], recorded["adapter_downscale"], recorded["dim"])
    prefix = "weights/act_control_adapter."
    adapter.load_state_dict({name.removeprefix(prefix): case.tensor(name) for name in case.under(prefix)})
    grid = height // (2 * adapter.downscale), width // (2 * adapter.downscale)
    tolerance = case.tolerance("added")
    for number, held in enumerate(case["held_cases"]):
        keys = torch.tensor(held["vector"], dtype=torch.float32)
        name = f"{case.name}/held{number}"
        yield compare(f"{name}/channels", action_channels(keys), case.tensor(f"out/held{number}/channels"), "exact")
        added = adapter.of_keys(keys[None], grid).mT.unflatten(2, grid)[:, :, None]
        whole = case.tensor(f"out/held{number}/added")
        yield compare(f"{name}/added", added.expand_as(whole), whole, tolerance)
        tensor = action_channels(keys)[None, :, None, None, None].expand(-1, -1, held["frames"], height, width)
        yield compare(f"{name}/added by the tensor", _as_maps(adapter(tensor), grid), whole, tolerance)
    free = _as_maps(adapter(case.tensor("in/free")), grid)
    yield compare(f"{case.name}/free", free, case.tensor("out/free/added"), tolerance)
    yield from _keyboard(case)


def _keyboard(case: Case) -> Iterator[Row]:
    """Held keys to vectors, files of vectors to those of blocks, and opposite keys."""
    for number, held in enumerate(case["held_cases"]):
        keys = [_KEYS[key] for key, down in held["held"].items() if down]
        yield compare(f"{case.name}/held{number}/vector", vector_of_keys(keys), held["vector"], "exact")
    file = case["action_file"]
    for number, item in enumerate(file["sampled"]):
        result = sampled(file["frames"], file["fps"], item["video_fps"], item["frames_per_block"])
        yield compare(f"{case.name}/action file, {number}", result, item["block_vectors"], "exact")
    for number, item in enumerate(case["repeat_or_fix"]):
        result = extended(item["list"], item["blocks"], repeat=item["mode"] == "repeat")
        yield compare(f"{case.name}/{item['mode']}, {number}", result, item["result"], "exact")
    for number, item in enumerate(case["conflicts"]["cases"]):
        pressed, activated, expected = (
            [_KEYS[key] for key in item[part]] for part in ("pressed", "activated", "held")
        )
        result = list(held_keys(pressed, activated))
        yield holds(f"{case.name}/conflict {number}", result == expected, f"{result} instead of {expected}")


_KEYS = dict(zip("WASDIJKL", HELD_KEYS, strict=True))


def _as_maps(added: Tensor, grid: tuple[int, int]) -> Tensor:
    """Map [b, f, n, dim] to [b, dim, f, rows, columns]."""
    return added.unflatten(2, grid).permute(0, 4, 1, 2, 3)


def schedule(case: Case) -> Iterator[Row]:
    """Steps of blocks along given velocities, the first with a known latent frame."""
    steps = Schedule.of(ScheduleConfig())
    yield compare(f"{case.name}/timesteps", steps.timesteps, case["denoising_timesteps"], "exact")
    yield compare(f"{case.name}/sigmas", steps.sigmas, case["denoising_sigmas"], "exact")
    indices, sigmas = zip(*case["sigma_table"]["index_and_sigma"], strict=True)
    yield compare(f"{case.name}/table", sigma_table(ScheduleConfig().shift)[list(indices)], sigmas, "exact")
    calls, count = case["timesteps_per_call"], len(steps.sigmas)
    frames = len(calls[0])
    for dtype_name in sorted({name.split("/")[0] for name in case.under("")} & DTYPES.keys()):
        dtype, tolerance = DTYPES[dtype_name], case.tolerance(dtype_name)
        for block, noise in enumerate(case.tensor("in/noise").split(frames, dim=2)):
            first = block * (count + 1)
            inputs: list[tuple[Tensor, Tensor]] = []

            def velocity(x: Tensor, timesteps: Tensor, first: int = first, inputs: Any = inputs) -> Tensor:
                inputs.append((x, timesteps))
                return case.tensor(f"in/velocity/{first + len(inputs) - 1}").to(x.dtype)

            known = torch.tensor([[timestep == 0 for timestep in calls[first]]])
            renoise = [case.tensor(f"in/renoise/{block * (count - 1) + step}") for step in range(count - 1)]
            made = denoise(velocity, steps, noise, renoise, case.tensor("in/first_frame"), known, dtype)
            for call, (x, timesteps) in enumerate(inputs, first):
                name = f"{dtype_name}/input/{call}"
                yield compare(f"{case.name}/{name}", x, case.tensor(name), tolerance)
                yield compare(f"{case.name}/{name}: timesteps", timesteps[0], calls[call], "exact")
            name = f"{dtype_name}/final/{block}"
            yield compare(f"{case.name}/{name}", made, case.tensor(name), tolerance)


@torch.inference_mode()
def transformer(case: Case) -> Iterator[Row]:
    """Streams of blocks, three calls each: velocities, intermediates and the caches that are left."""
    for recorded, dtype in (("out", torch.float32), ("out_bfloat16", torch.bfloat16)):
        model = transformer_of(case, dtype)
        for name, stream in case["streams"].items():
            if case.under(f"{recorded}/{name}/"):
                yield from _stream(case, model, name, stream, recorded)


def _stream(case: Case, model: AbotTransformer, name: str, stream: dict[str, Any], recorded: str) -> Iterator[Row]:
    low = recorded != "out"
    config = WindowConfig(
        frames=stream["window_frames"],
        position_limit=stream["position_limit"],
        bounded=stream["positions"] == "window-local",
    )
    texts = {
        number: model.text_keys_values(case.tensor(f"in/prompt_embeds{'' if number == 1 else f'_{number}'}"))
        for number in {block["prompt"] for block in stream["blocks"]}
    }
    slots = case.tensor("in/ref_latents")
    references = None
    if stream["references"] is not None:
        given = stream["references"] == "given"
        references = References(slots if given else torch.zeros_like(slots), torch.tensor([given]))
    window = Window()
    for number, block in enumerate(stream["blocks"]):
        frames, label = block["frames"], f"{recorded}/{name}/block{number}"
        latents = {call: case.tensor(f"in/{source}")[:, :, frames] for call, source in _CALLS.items()}
        size = (len(frames), *latents["clean"].shape[-2:])
        added = model.act_control_adapter.of_keys(torch.tensor([block["action"]]), model.grid(size[1:]))
        opened = OpenBlock(
            model,
            config,
            [window],
            size,
            added[:, None],
            texts[block["prompt"]],
            reference_shape=None if references is None else references.shape,
            references=references if number == 0 else None,
        )
        tolerance = case.tolerance("bfloat16" if low else "velocity")
        for call in ("t1000", "t625"):
            timesteps = torch.tensor([block["timesteps"][call]])
            x = torch.where(timesteps[:, None, :, None, None] == 0, latents["clean"], latents[call])
            hidden: list[Tensor] = []
            velocity = opened.velocity(x.to(model.dtype), timesteps, hidden)
            if f"{label}/{call}" in case:
                yield compare(f"{case.name}/{label}/{call}", velocity, case.tensor(f"{label}/{call}"), tolerance)
            inside = f"intermediate/{name}/block{number}/{call}"
            for item in () if low else case.under(f"{inside}/"):
                depth = re.search(r"block(\d+)$", item)
                result = hidden[int(depth[1]) + 1 if depth else 0]
                yield compare(f"{case.name}/{item}", result, case.tensor(item), case.tolerance("intermediate"))
        [window], velocity = opened.close(latents["clean"].to(model.dtype))
        if f"{label}/clean" in case:
            yield compare(f"{case.name}/{label}/clean", velocity, case.tensor(f"{label}/clean"), tolerance)
        if "position_base" in block:
            yield compare(f"{case.name}/{label}/base", [window.base], [block["position_base"]], "exact")
        for item in case.under(f"{label}/cache/"):
            layer, part = re.search(r"layer(\d+)/([kv])$", item).groups()
            rows = [getattr(page, {"k": "keys", "v": "values"}[part])[int(layer)] for page in window.every_page]
            result = torch.cat(rows, dim=1)[None]
            limit = case.tolerance("bfloat16" if low else "cache")
            yield compare(f"{case.name}/{item}", result, case.tensor(item), limit)


_CALLS = {"t1000": "noisy_t1000", "t625": "noisy_t625", "clean": "clean"}


@torch.inference_mode()
def autoencoder(case: Case) -> Iterator[Row]:
    """Encoded image and video under the names of the original file; decoded by the decoder of the original."""
    model = autoencoder_of(case)
    for part in ("image", "video"):
        mean, _ = model.encode(case.tensor(f"in/{part}"))
        recorded = case.tensor(f"out/{part}_latent")
        yield compare(f"{case.name}/{part}_latent", model.normalise(mean), recorded, case.tolerance("latents"))
    state, frames, first = None, [], 0
    for count in case["frame_counts"]:
        latents = (count + 3) // 4
        made, state = model.decode(case.tensor("in/latents")[:, :, first : first + latents], state)
        frames.append(made)
        first += latents
    result, recorded = torch.cat(frames, dim=2), case.tensor("out/frames_reference")
    yield compare(f"{case.name}/frames_reference", result, recorded, case.tolerance("frames"))


def image(case: Case) -> Iterator[Row]:
    """First and reference pictures, fitted, and the pixels that are encoded."""
    for number, item in enumerate(case["items"]):
        name = f"{case.name}/image{number}"
        picture, (width, height) = case.tensor(f"in/image{number}").numpy(), item["target"]
        outputs = f"out/image{number}"
        recorded = case.tensor(f"{outputs}/fitted")
        fitted = cover_image(picture, (height, width))
        if recorded.shape[:2] != (height, width):  # the target is written as height and width
            fitted = cover_image(picture, (width, height))
        yield compare(f"{name}/fitted", fitted, recorded, case.tolerance("fitted"))
        reference = case.tensor(f"{outputs}/reference")
        stretched = stretch_image(picture, tuple(reference.shape[:2]))
        yield compare(f"{name}/reference", stretched, reference, case.tolerance("reference"))
        for dtype, ending in ((torch.float32, ""), (torch.bfloat16, "_bfloat16")):
            if (kept := f"{outputs}/pixels{ending}") in case:
                pixels = pixels_of(fitted, dtype)
                yield compare(f"{name}/pixels{ending}", pixels, case.tensor(kept), case.tolerance(f"pixels{ending}"))


@torch.inference_mode()
def text(case: Case) -> Iterator[Row]:
    """The text encoder under the names of the original file; cleaned prompts."""
    [file] = find_weights(case, case["text_config"], ("token_embedding.weight",))
    model = load_text_model(file, text_config(case["text_config"], case.tensor("in/ids").shape[1]))
    result = embed(model, case.tensor("in/ids"), case.tensor("in/mask"))
    recorded = case.tensor("out/prompt_embeds")
    yield compare(f"{case.name}/prompt_embeds", result, recorded, case.tolerance("prompt_embeds"))
    for prompt, cleaned in case["prompts"]:
        yield holds(f"{case.name}/{prompt!r}", clean_prompt(prompt) == cleaned, clean_prompt(prompt))


def text_config(recorded: dict[str, Any], tokens: int) -> TextConfig:
    """Return the sizes of a recorded text encoder."""
    return TextConfig(
        text_len=tokens,
        vocab_size=recorded["vocab"],
        d_model=recorded["dim"],
        d_kv=recorded["dim_attn"] // recorded["num_heads"],
        d_ff=recorded["dim_ffn"],
        num_layers=recorded["num_layers"],
        num_heads=recorded["num_heads"],
    )


def keys(case: Case) -> Iterator[Row]:
    """Names and shapes of the real parameters, on the meta device, and how the files' names are brought to them."""
    sizes = {part: case[part]["config"] for part in ("transformer", "vae", "text_encoder")}
    networks = {
        "transformer": on_meta(lambda: AbotTransformer(transformer_config(sizes["transformer"]))),
        "vae": on_meta(lambda: Autoencoder(autoencoder_config(sizes["vae"]))),
        "text_encoder": on_meta(lambda: text_model(text_config(sizes["text_encoder"], 512))),
    }
    for part, network in networks.items():
        recorded = case[part]
        rename = upstream_name if part == "transformer" else str
        entries = arranged(
            (name, Entry(recorded["file"], tuple(shape), "F32", torch.empty(0).clone))
            for name, shape in recorded["keys"].items()
        )
        found = {name: entry.shape for name, entry in entries.items()}
        ours = {rename(name): tuple(parameter.shape) for name, parameter in network.named_parameters()}
        wrong = {name for name in found.keys() | ours.keys() if found.get(name) != ours.get(name)}
        note = f"first of those that differ: {min(wrong, default=None)}" if wrong else "exact"
        yield Row(f"{case.name}/{part}/names and shapes", float(len(wrong)), note=note)
        count = sum(parameter.numel() for parameter in network.parameters())
        yield compare(f"{case.name}/{part}/parameters", [count], [recorded["parameters"]], "exact")
    recorded = case["taew2_2"]
    decoder = SmallDecoder(
        recorded["config"]["latent_channels"], SmallDecoderConfig(tuple(recorded["config"]["widths"]))
    )
    shapes = {f"decoder.{name}": list(tensor.shape) for name, tensor in decoder.named_parameters()}
    published = {name: shape for name, shape in recorded["keys"].items() if name.startswith("decoder.")}
    wrong = [name for name in shapes.keys() | published.keys() if shapes.get(name) != published.get(name)]
    yield Row(f"{case.name}/taew2_2/names and shapes", float(len(wrong)), note=f"those that differ: {wrong[:1]}")
    count = sum(parameter.numel() for parameter in decoder.parameters())
    yield compare(f"{case.name}/taew2_2/parameters", [count], [recorded["decoder_parameters"]], "exact")
