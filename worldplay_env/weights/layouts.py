"""Recognise a checkpoint's layout by its tensor names, and translate these to the names of this package.

Known layouts: the names of diffusers and transformers, which are the target of the translation; those of the original
Wan code; the prefixes of ComfyUI and of training wrappers; 8-bit numbers with or without scales. The name of a file
does not matter. Missing tensors are never guessed: loading is as strict as for any other file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from worldplay_env.weights.entry import CheckpointError, Entry

_WRAPPERS = re.compile(r"(?<![^.])(_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")
"""What training wrappers and compilers put into a name, anywhere."""
_PREFIXES = ("generator.", "model.diffusion_model.", "diffusion_model.", "model.", "module.")
"""What whole checkpoints are kept under, one after the other; the longer ones first."""
_COMFY = ("model.diffusion_model.", "diffusion_model.")
_CONTAINERS = ("generator", "generator_ema", "gen_model", "state_dict", "model_state_dict", "model", "module")
"""The keys of a pickle that may hold the tensors, in the order of preference."""

_SCALES = (".scale_weight", ".weight_scale")
_WITHOUT_USE = (".scale_input", ".input_scale", ".comfy_quant")
"""Ends of names beside a `.weight` that matter to arithmetic in 8 bits alone."""
_MARKERS = ("scaled_fp8", "spiece_model")
"""Names beside the weights in ComfyUI's files: that there are scales, and the tokenizer."""

_WAN_TRANSFORMER = (
    # Wan's, diffusers'; # is a number, and the first row that fits the beginning of a name applies.
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("head.head.", "proj_out."),
    ("head.modulation", "scale_shift_table"),
    *(
        (f"blocks.#.{wan}_attn.{part}.", f"blocks.#.{ours}.{place}.")
        for wan, ours in (("self", "attn1"), ("cross", "attn2"))
        for part, place in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    ),
    ("blocks.#.self_attn.", "blocks.#.attn1."),
    ("blocks.#.cross_attn.", "blocks.#.attn2."),
    ("blocks.#.norm3.", "blocks.#.norm2."),
    ("blocks.#.ffn.0.", "blocks.#.ffn.net.0.proj."),
    ("blocks.#.ffn.2.", "blocks.#.ffn.net.2."),
    ("blocks.#.modulation", "blocks.#.scale_shift_table"),
)
_WAN_AUTOENCODER = (
    ("conv1.", "quant_conv."),
    ("conv2.", "post_quant_conv."),
    *(
        row
        for coder in ("encoder", "decoder")
        for row in (
            (f"{coder}.conv1.", f"{coder}.conv_in."),
            (f"{coder}.middle.0.", f"{coder}.mid_block.resnets.0."),
            (f"{coder}.middle.1.", f"{coder}.mid_block.attentions.0."),
            (f"{coder}.middle.2.", f"{coder}.mid_block.resnets.1."),
            (f"{coder}.head.0.", f"{coder}.norm_out."),
            (f"{coder}.head.2.", f"{coder}.conv_out."),
        )
    ),
    ("encoder.downsamples.#.downsamples.#.resample.", "encoder.down_blocks.#1.downsampler.resample."),
    ("encoder.downsamples.#.downsamples.#.time_conv.", "encoder.down_blocks.#1.downsampler.time_conv."),
    ("encoder.downsamples.#.downsamples.#.", "encoder.down_blocks.#1.resnets.#2."),
    ("decoder.upsamples.#.upsamples.#.resample.", "decoder.up_blocks.#1.upsampler.resample."),
    ("decoder.upsamples.#.upsamples.#.time_conv.", "decoder.up_blocks.#1.upsampler.time_conv."),
    ("decoder.upsamples.#.upsamples.#.", "decoder.up_blocks.#1.resnets.#2."),
)
_WAN_RESIDUAL_BLOCK = {
    ".residual.0.": ".norm1.",
    ".residual.2.": ".conv1.",
    ".residual.3.": ".norm2.",
    ".residual.6.": ".conv2.",
    ".shortcut.": ".conv_shortcut.",
}
_WAN_TEXT = (
    ("token_embedding.", "shared."),
    ("norm.", "encoder.final_layer_norm."),
    ("blocks.#.norm1.", "encoder.block.#.layer.0.layer_norm."),
    ("blocks.#.norm2.", "encoder.block.#.layer.1.layer_norm."),
    ("blocks.#.attn.", "encoder.block.#.layer.0.SelfAttention."),
    ("blocks.#.pos_embedding.embedding.", "encoder.block.#.layer.0.SelfAttention.relative_attention_bias."),
    ("blocks.#.ffn.gate.0.", "encoder.block.#.layer.1.DenseReluDense.wi_0."),
    ("blocks.#.ffn.fc1.", "encoder.block.#.layer.1.DenseReluDense.wi_1."),
    ("blocks.#.ffn.fc2.", "encoder.block.#.layer.1.DenseReluDense.wo."),
)


def _compiled(rows: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    return [
        (
            re.compile(re.escape(theirs).replace(r"\#", r"(\d+)")),
            re.sub(r"#(\d?)", lambda number: rf"\{number[1] or 1}", ours),
        )
        for theirs, ours in rows
    ]


_WAN_NAMES = (
    # What at least one name must look like, and how all of them are renamed.
    (re.compile(r"blocks\.\d+\.(self|cross)_attn\."), _compiled(_WAN_TRANSFORMER)),
    (re.compile(r"encoder\.downsamples\.|decoder\.upsamples\."), _compiled(_WAN_AUTOENCODER)),
    (re.compile(r"token_embedding\.|blocks\.\d+\.pos_embedding\."), _compiled(_WAN_TEXT)),
)


def strip_prefixes(name: str) -> str:
    """Remove the prefixes and infixes of training wrappers and ComfyUI from a tensor's name (spec section 9)."""
    name = _WRAPPERS.sub("", name)
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = _WRAPPERS.sub("", name[len(prefix) :])
    return name


def tensors_of(container: Any, place: str) -> Mapping[str, Tensor]:
    """Return the tensors of an unpickled checkpoint: the mapping itself, or the value of a known key.

    Raises:
        CheckpointError: It holds none.
    """
    known = container if isinstance(container, Mapping) else {}
    for key in _CONTAINERS:
        if isinstance(known.get(key), Mapping):
            return tensors_of(known[key], place) if _is_bare(known[key]) is None else known[key]
    if _is_bare(known):
        return known
    found = str(list(known))[:200] if known else type(container).__name__
    raise CheckpointError(f"{place}: expected tensors by name, or under one of the keys {_CONTAINERS}, found {found}")


def _is_bare(mapping: Mapping[Any, Any]) -> bool | None:
    """Whether a mapping is one of tensors; None if it holds other mappings, where they may be."""
    if any(isinstance(value, Mapping) for value in mapping.values()):
        return None
    return any(isinstance(value, Tensor) for value in mapping.values())


def arranged(found: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    """Return the entries of a source under the names of diffusers and transformers, with their scales.

    Raises:
        CheckpointError: Two of them have one name, or a file that says it has scales lacks them.
    """
    raw = list(found)
    entries: dict[str, Entry] = {}
    for raw_name, entry in raw:
        name = strip_prefixes(raw_name)
        if name in entries:
            raise CheckpointError(f"tensor {name!r} is there twice: {entries[name].place}, {entry.place}")
        entries[name] = entry
    entries, scaled = _with_scales(entries)
    entries, names = _renamed(entries)
    parts = [names]
    if any(name.startswith(_COMFY) for name, _ in raw):
        parts.append("ComfyUI's prefix")
    elif any(strip_prefixes(name) != name for name, _ in raw):
        parts.append("a training wrapper's prefix")
    if any(entry.is_8_bits for entry in entries.values()):
        parts.append("numbers of 8 bits with scales" if scaled else "numbers of 8 bits without scales")
    layout = ", ".join(parts)
    return {name: replace(entry, layout=layout) for name, entry in entries.items()}


def _with_scales(entries: dict[str, Entry]) -> tuple[dict[str, Entry], bool]:
    """Return the weights with their scales, and whether there are scales; other tensors are left out."""
    weights: dict[str, Entry] = {}
    scales: dict[str, Entry] = {}
    for name, entry in entries.items():
        layer = next((name.removesuffix(end) for end in _SCALES + _WITHOUT_USE if name.endswith(end)), None)
        if layer is None or f"{layer}.weight" not in entries:
            weights[name] = entry
        elif name.endswith(_SCALES):
            scales[f"{layer}.weight"] = entry
    for name, scale in scales.items():
        weights[name] = replace(weights[name], scale=scale.get)
    marked = [weights.pop(marker) for marker in _MARKERS if marker in weights]
    if "scaled_fp8" in entries:
        bare = [name for name, entry in weights.items() if entry.is_8_bits and entry.scale is None]
        if bare:
            raise CheckpointError(
                f"{marked[0].place}: it says that its numbers of 8 bits have scales (scaled_fp8), and {len(bare)} "
                f"have none, {bare[0]} first"
            )
    return weights, bool(scales)


def _renamed(entries: dict[str, Entry]) -> tuple[dict[str, Entry], str]:
    """Return the entries under the names that are loaded here, and whose names they had."""
    for sign, rules in _WAN_NAMES:
        if any(sign.match(name) for name in entries):
            renamed = {_rename(name, rules): entry for name, entry in entries.items()}
            if len(renamed) < len(entries):
                places = sorted({entry.place for entry in entries.values()})
                raise CheckpointError(f"{', '.join(places)}: some tensors are there under Wan's names and diffusers'")
            return renamed, "Wan's own names"
    return entries, "diffusers' names"


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, ours in rules:
        if match := pattern.match(name):
            name = match.expand(ours) + name[match.end() :]
            break
    for theirs, ours in _WAN_RESIDUAL_BLOCK.items():
        name = name.replace(theirs, ours)
    return name
