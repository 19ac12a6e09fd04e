"""Recorded rollouts of ABot-World: latents of every block, calls of the transformer, and the cache at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_cases.abot import autoencoder_of, transformer_of
from golden_cases.case import Case, find_weights
from golden_cases.comparison import Row, compare
from worldplay_env.media.image import cover_image, stretch_image
from worldplay_env.models.abot.block import OpenBlock, References, denoise
from worldplay_env.models.abot.config import ScheduleConfig, WindowConfig
from worldplay_env.models.abot.picture import pixels_of
from worldplay_env.models.abot.sampler import Schedule
from worldplay_env.models.abot.window import Window
from worldplay_env.models.wan.small_decoder import SmallDecoder, SmallDecoderConfig


@torch.inference_mode()
def rollout(case: Case) -> Iterator[Row]:
    """Make the blocks of a rollout from its recorded noise, keys and prompt embeddings."""
    model, autoencoder = transformer_of(case), autoencoder_of(case)
    frames, latent_size = case["frames_per_block"], tuple(case["latent_height_width"])
    config = WindowConfig(frames, case["window_frames"], case["position_limit"])
    schedule = Schedule.of(ScheduleConfig(case["timestep_shift"], tuple(case["denoising_steps"])))

    def encoded(picture: Tensor) -> Tensor:
        return autoencoder.normalise(autoencoder.encode(picture[:, :, None])[0])

    noise = case.tensor("in/noise")
    clean = torch.zeros_like(noise[:, :, :1])
    if "in/image" in case:
        picture = cover_image(case.tensor("in/image").numpy(), tuple(case["image_height_width"]))
        clean = encoded(pixels_of(picture))
        yield compare(f"{case.name}/first_latent", clean, case.tensor("out/first_latent"), case.tolerance("start"))
    references = None
    if "out/ref_latents" in case:
        latents, side = torch.zeros_like(case.tensor("out/ref_latents")), case["references"]["resolution"]
        if given := [case.tensor(name).numpy() for name in case.under("in/reference/")]:
            latents = torch.stack(
                [encoded(pixels_of(stretch_image(slot, (side, side))))[:, :, 0] for slot in given], dim=1
            )
        recorded = case.tensor("out/ref_latents")
        yield compare(f"{case.name}/ref_latents", latents, recorded, case.tolerance("start"))
        references = References(latents, torch.tensor([bool(given)]))

    text = model.text_keys_values(case.tensor("in/prompt_embeds"))
    window, made = Window(), []
    for block in range(case["blocks"]):
        if block == case["prompt_change_before_block"]:
            text = model.text_keys_values(case.tensor("in/prompt_embeds_2"))
        keys = torch.tensor([case["actions"][block]])
        opened = OpenBlock(
            model,
            config,
            [window],
            (frames, *latent_size),
            model.act_control_adapter.of_keys(keys, model.grid(latent_size))[:, None],
            text,
            reference_shape=None if references is None else references.shape,
            references=references if block == 0 else None,
        )
        known = torch.zeros(1, frames, dtype=torch.bool)
        known[0, 0] = block == 0 and "in/image" in case
        calls: list[tuple[Tensor, Tensor]] = []

        def velocity(x: Tensor, timesteps: Tensor, opened: OpenBlock = opened, calls: list = calls) -> Tensor:
            calls.append((x, opened.velocity(x, timesteps)))
            return calls[-1][1]

        renoise = [case.tensor(name) for name in case.under(f"in/renoise/block{block}/")]
        own = noise[:, :, block * frames : (block + 1) * frames]
        latents = denoise(velocity, schedule, own, renoise, clean, known, model.dtype)
        [window], last = opened.close(latents)
        made.append(latents)
        recorded = case.tensor("out/latents")[:, :, block * frames : (block + 1) * frames]
        yield compare(f"{case.name}/block {block}", latents, recorded, case.tolerance("latents"))
        for number, (given, returned) in enumerate([*calls, (latents, last)]):
            trace = f"trace/block{block}/call{number}"
            if f"{trace}/input" in case:
                yield compare(
                    f"{case.name}/{trace}/input", given, case.tensor(f"{trace}/input"), case.tolerance("trace")
                )
                recorded = case.tensor(f"{trace}/velocity")
                yield compare(f"{case.name}/{trace}/velocity", returned, recorded, case.tolerance("trace"))
    for name, part in (("k", "keys"), ("v", "values")):
        if (item := f"out/cache_after_last_block/{name}") in case:
            rows = torch.cat([getattr(page, part)[-1] for page in window.every_page], dim=1)[None]
            yield compare(f"{case.name}/{item}", rows, case.tensor(item), case.tolerance("cache"))
    if "frames" in case:
        yield from _frames(case, torch.cat(made, dim=2))


def _frames(case: Case, latents: Tensor) -> Iterator[Row]:
    """Decode a rollout by the small decoder; upstream cuts off where this package rounds."""
    decoder, parts = small_decoder_of(case, case["decoder_config"]), []
    histories = None
    for block in latents.split(case["frames_per_block"], dim=2):
        pixels, histories = decoder(block, histories)
        parts.append((pixels[0].movedim(1, 0).clamp(-1, 1) + 1) / 2)
    counts = [len(part) for part in parts]
    yield compare(f"{case.name}/images", counts, case["frames_per_block_decoded"], "exact")
    frames = torch.cat(parts)  # [F, 3, H, W] in [0, 1]
    first, tolerance = case.tensor("out/frames_first3"), case.tolerance("frames_float")
    yield compare(f"{case.name}/frames_first3", frames[: len(first)], first, tolerance)
    shown = (255 * frames).to(torch.uint8).movedim(1, -1)
    yield compare(f"{case.name}/frames", shown, case.tensor("frames"), case.tolerance("frames_uint8"))


@torch.inference_mode()
def small_decoder(case: Case) -> Iterator[Row]:
    """The small decoder in a stream, by single latents and by blocks; its state and what is between its layers."""
    decoder, latents = small_decoder_of(case, case["config"]), case.tensor("in/latents")
    recorded, tolerance = case.tensor("out/frames"), case.tolerance("frames")
    for size, key in ((1, "frames_one_latent_a_call"), (3, "frames_three_latents_a_call")):
        histories, parts = None, []
        for part in latents.split(size, dim=2):
            pixels, histories = decoder(part, histories)
            parts.append(pixels.clamp(-1, 1))
        yield compare(f"{case.name}/{key}", [part.shape[2] for part in parts], case["decoding"][key], "exact")
        yield compare(f"{case.name}/frames, {size} a call", torch.cat(parts, dim=2), recorded, tolerance)
    whole, _ = decoder(latents, None)
    yield compare(f"{case.name}/frames at once", whole.clamp(-1, 1), recorded, tolerance)
    between: dict[str, Tensor] = {}
    for name, layer in decoder.named_children():
        layer.register_forward_hook(lambda _, inputs, output, name=name: between.update({name: output}))
    _, histories = decoder(latents[:, :, :3], None)
    for item, history in zip(case.under("out/state_after_first_block/"), histories, strict=True):
        yield compare(f"{case.name}/{item}", history[:, :, 0], case.tensor(item), case.tolerance("state"))
    for item in case.under("intermediate/"):
        made = between[item.rpartition(".")[2]]
        made = made[0] if isinstance(made, tuple) else made
        yield compare(f"{case.name}/{item}", made, case.tensor(item), case.tolerance("intermediate"))


def small_decoder_of(case: Case, config: dict[str, Any]) -> SmallDecoder:
    """Load the small decoder of a case."""
    [file] = find_weights(case, config, ("decoder.1.weight",))
    decoder = SmallDecoder(config["latent_channels"], SmallDecoderConfig(tuple(config["widths"])))
    decoder.load_state_dict({name.removeprefix("decoder."): tensor for name, tensor in load_file(file).items()})
    return decoder
