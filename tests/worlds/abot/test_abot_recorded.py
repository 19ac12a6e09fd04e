"""The recorded rollouts, made again by the world itself: pictures, references, keys, prompts and noise go in."""

from __future__ import annotations

from dataclasses import replace

import golden
import numpy as np
import pytest
import torch
from golden_cases.abot import autoencoder_of, text_config, transformer_of
from golden_cases.case import Case
from golden_cases.comparison import compare

from worldplay_env.models.abot.config import AbotWorldConfig, ScheduleConfig, WindowConfig
from worldplay_env.worlds.abot.rollout import AbotRollout
from worldplay_env.worlds.abot.world import AbotWorld
from worldplay_env.worlds.base import Start
from worldplay_env.worlds.diffusion.prompts import EncodedPrompt
from worldplay_env.worlds.follow import keys_control

CASES = [Case.read(golden.ABOT_FOLDER / f"abot_rollout_{name}.json") for name in ("references", "no_image")]


def world_of(case: Case) -> AbotWorld:
    """Return a world of the recorded networks that draws the recorded noise between the steps."""
    transformer, codec = transformer_of(case), autoencoder_of(case)
    text = text_config(Case.read(golden.ABOT_FOLDER / "abot_text.json")["text_config"], case["config"]["text_len"])
    config = AbotWorldConfig(
        name=case.name,
        image_size=tuple(case["image_height_width"]),
        transformer=transformer.config,
        autoencoder=codec.config,
        text=replace(text, d_model=transformer.config.text_dim),
        window=WindowConfig(
            case["frames_per_block"],
            case["window_frames"],
            case["position_limit"],
            reference_size=case["references"]["resolution"],
        ),
        schedule=ScheduleConfig(case["timestep_shift"], tuple(case["denoising_steps"])),
    )

    def renoise(rollout: AbotRollout, step: int) -> torch.Tensor:
        return case.tensor(f"in/renoise/block{rollout.chunks}/{step}")[0]

    return AbotWorld(config, transformer, codec, renoise=renoise)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recorded_rollout_is_made_again(case: Case) -> None:
    world = world_of(case)
    image = case.tensor("in/image").numpy() if "in/image" in case else None
    references = tuple(case.tensor(name).numpy() for name in case.under("in/reference/"))
    rollout = world.start(Start(image, references=references), 0, prompt_embedding=case.tensor("in/prompt_embeds")[0])
    assert isinstance(rollout, AbotRollout)
    for block, keys in enumerate(case["actions"]):
        if block == case["prompt_change_before_block"]:
            rollout.encoded_prompt = EncodedPrompt("the second", case.tensor("in/prompt_embeds_2")[0])
        frames = slice(block * case["frames_per_block"], (block + 1) * case["frames_per_block"])
        control = keys_control(rollout, np.array(keys))
        noise = case.tensor("in/noise")[:, :, frames]
        [chunk] = world.step([rollout], [control], noise=noise)
        row = compare(
            f"block {block}", chunk.latents[None], case.tensor("out/latents")[:, :, frames], case.tolerance("latents")
        )
        assert row.passed, str(row)
        assert len(chunk.frames) == case["frames_per_block_decoded"][block]
    for part, name in (("keys", "k"), ("values", "v")):
        if (item := f"out/cache_after_last_block/{name}") in case:
            rows = torch.cat([getattr(page, part)[-1] for page in rollout.window.every_page], dim=1)[None]
            row = compare(item, rows, case.tensor(item), case.tolerance("cache"))
            assert row.passed, str(row)


def test_both_kinds_of_references_are_recorded() -> None:
    assert {case["references"]["kind"] for case in CASES} == {"given", "missing"}
