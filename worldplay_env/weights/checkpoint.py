"""From named tensors to filled modules: upstream's names, strict loading, seeded random parameters.

Spec section 9. Files carry upstream's tensor names, our own exports too, so there is one way in. A module is built on
the meta device and each tensor goes straight to its device and dtype: there is never a second copy of the whole.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from worldplay_env.models.abot.config import AbotTransformerConfig
from worldplay_env.models.abot.transformer import AbotTransformer
from worldplay_env.models.config import AutoencoderConfig, TextConfig, TransformerConfig
from worldplay_env.models.wan.autoencoder import Autoencoder, RMSNorm
from worldplay_env.models.wan.small_decoder import SmallCodec, SmallDecoderConfig
from worldplay_env.models.wan.text import TextEncoder, Tokenizer, byte_tokenizer, text_model
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.weights.files import CheckpointError, Entry, Source, opened

__all__ = [
    "CheckpointError",
    "RandomWeights",
    "Source",
    "initialise",
    "load_abot_transformer",
    "load_autoencoder",
    "load_small_codec",
    "load_text_encoder",
    "load_text_model",
    "load_tokenizer",
    "load_transformer",
    "match_entries",
    "on_meta",
    "upstream_name",
]

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class RandomWeights:
    """In place of files: seeded random parameters of the right sizes (see `initialise`)."""

    seed: int = 0


_TRANSFORMER_NAMES = [
    # ours, upstream's; # is a block's number, and the first row that fits the beginning of a name applies.
    ("patch_embedding.", "patch_embedding."),
    ("time_embedder.", "condition_embedder.time_embedder."),
    ("action_embedder.", "condition_embedder.action_embedder."),
    ("text_embedder.", "condition_embedder.text_embedder."),
    ("modulation_projection.", "condition_embedder.time_proj."),
    ("blocks.#.self_attention.to_out.", "blocks.#.attn1.to_out.0."),
    ("blocks.#.self_attention.to_out_prope.", "blocks.#.attn1.to_out_prope.0."),
    ("blocks.#.self_attention.", "blocks.#.attn1."),
    ("blocks.#.cross_attention_norm.", "blocks.#.norm2."),
    ("blocks.#.cross_attention.to_out.", "blocks.#.attn2.to_out.0."),
    ("blocks.#.cross_attention.", "blocks.#.attn2."),
    ("blocks.#.feed_forward.linear_1.", "blocks.#.ffn.net.0.proj."),
    ("blocks.#.feed_forward.linear_2.", "blocks.#.ffn.net.2."),
    ("blocks.#.modulation_table", "blocks.#.scale_shift_table"),
    ("modulation_table", "scale_shift_table"),
    ("output_projection.", "proj_out."),
]
_TRANSFORMER_PATTERNS = [
    (re.compile(re.escape(ours).replace(r"\#", r"(\d+)")), theirs.replace("#", r"\1"))
    for ours, theirs in _TRANSFORMER_NAMES
]


def upstream_name(name: str) -> str:
    """Return the name that a transformer's parameter has in a checkpoint; other modules keep upstream's names."""
    for pattern, theirs in _TRANSFORMER_PATTERNS:
        if match := pattern.match(name):
            return match.expand(theirs) + name[match.end() :]
    return name


def load_transformer(
    source: Source | RandomWeights,
    config: TransformerConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """Return the transformer, filled and in eval mode.

    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen, or a file cannot be read; the message names it.
    """
    return _load(functools.partial(Transformer, config), source, torch.device(device), dtype, upstream_name)


def load_abot_transformer(
    source: Source | RandomWeights,
    config: AbotTransformerConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AbotTransformer:
    """Return ABot-World's transformer, filled and in eval mode; raises what `load_transformer` raises."""
    return _load(functools.partial(AbotTransformer, config), source, torch.device(device), dtype, upstream_name)


def load_autoencoder(
    source: Source | RandomWeights,
    config: AutoencoderConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    norm_eps: float = RMSNorm.EPS,
) -> Autoencoder:
    """Return the autoencoder, filled and in eval mode; raises what `load_transformer` raises.

    `norm_eps` is what its norms add to a mean square: that of the implementation which its latents come from.
    """
    return _load(functools.partial(Autoencoder, config, norm_eps=norm_eps), source, torch.device(device), dtype)


def load_small_codec(
    encoder: Source | RandomWeights,
    decoder: Source | RandomWeights,
    config: AutoencoderConfig,
    small: SmallDecoderConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    norm_eps: float = RMSNorm.EPS,
) -> SmallCodec:
    """Return an autoencoder's encoder with the small decoder, filled and in eval mode; raises as `load_transformer`.

    Args:
        encoder: The whole autoencoder's tensors, of which those of its own decoder are passed over.
        decoder: The small autoencoder's tensors, of which those of its own encoder are passed over.
        config: Sizes of the encoder.
        small: Sizes of the decoder.
        device: Where the parameters go.
        dtype: Of the parameters.
        norm_eps: As in `load_autoencoder`.
    """
    place = torch.device(device)
    build = functools.partial(SmallCodec, config, small, norm_eps=norm_eps)
    if isinstance(encoder, RandomWeights) or isinstance(decoder, RandomWeights):
        return _load(build, RandomWeights(), place, dtype)
    module = on_meta(build)
    with opened(encoder, place) as encoding, opened(decoder, place) as decoding:
        entries = {
            name: entry for name, entry in encoding.items() if not name.startswith(("decoder.", "post_quant_conv."))
        } | {name: entry for name, entry in decoding.items() if not name.startswith("encoder.")}
        for kernel, rows in module.decoder.grown.items():
            name = f"decoder.{kernel}"
            if name in entries and len(entries[name].shape) == 4 and entries[name].shape[0] > rows:
                entries[name] = _last_rows(entries[name], rows)
        matched = match_entries(module, entries)
        tensors = {name: entry.read(place, dtype) for name, entry in matched.items()}
    return _assign(module, tensors).eval()


def _last_rows(entry: Entry, rows: int) -> Entry:
    return replace(entry, shape=(rows, *entry.shape[1:]), get=lambda: entry.get()[-rows:])


def load_text_model(
    source: Source | RandomWeights,
    config: TextConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Return the UMT5 encoder, filled and in eval mode; raises as `load_transformer`.

    In place of float16, whose range its feed-forward layers leave, it computes in bfloat16.
    """
    dtype = torch.bfloat16 if dtype == torch.float16 else dtype
    return _load(functools.partial(text_model, config), source, torch.device(device), dtype)


def load_text_encoder(
    source: Source | RandomWeights,
    tokenizer: str | Path | None,
    config: TextConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    unchanged: Callable[[], bool] = lambda: True,
) -> TextEncoder:
    """Return the text encoder; its tensors are checked now, and read when the first prompt is encoded.

    Args:
        source: Where the tensors are.
        tokenizer: The folder of the tokenizer's files; None for the bytes tokenizer, which serves random weights too.
        config: Sizes.
        device: Where the embeddings are made.
        dtype: As in `load_text_model`.
        unchanged: Whether the tensors are still the ones that are meant; asked whenever they are to be read, and if
            they are not, that is a CheckpointError.

    Raises:
        CheckpointError: As in `load_transformer`, or the tokenizer that the weights were trained with is not given.
    """
    if not isinstance(source, RandomWeights):
        if tokenizer is None and not config.bytes_tokenizer:
            raise CheckpointError("this text encoder needs the folder of its tokenizer's files, and none was given")
        with opened(source, torch.device("cpu")) as entries:
            match_entries(on_meta(functools.partial(text_model, config)), entries)

    def load_model() -> nn.Module:
        if not unchanged():
            raise CheckpointError(f"{source}: changed since the world was loaded; load the world again")
        return load_text_model(source, config, device=device, dtype=dtype)

    return TextEncoder(
        load_model,
        functools.partial(load_tokenizer, None if config.bytes_tokenizer else tokenizer),
        config.text_len,
    )


def load_tokenizer(folder: str | Path | None) -> Tokenizer:
    """Return the tokenizer of a folder of its files; for None the one over bytes, which needs no files.

    Raises:
        CheckpointError: There is no tokenizer in the folder.
    """
    if folder is None:
        return byte_tokenizer
    import transformers  # here, since it takes seconds, and only this needs it

    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{folder}: no tokenizer could be read there: {error}") from error


def initialise(
    module: Module, seed: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Module:
    """Give a module new, seeded random parameters and return it; so scaled that activations stay of order one.

    Matrices and kernels have variance 1 / fan-in, biases are small, norms one, embeddings standard normal. Values
    depend on the seed and the parameter's name and shape alone; up to 16 million of them are drawn on the CPU, the
    same for every device, more on the device itself.

    Args:
        module: May be on the meta device. Its parameters are replaced, so make an optimiser afterwards.
        seed: Any integer.
        device: Where the parameters go; by default where they are.
        dtype: By default the one that they have.
    """
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    tensors = {}
    for name, parameter in module.named_parameters():
        fan_in = parameter.numel() // parameter.shape[0]
        if name.endswith("bias"):
            mean, deviation = 0.0, 0.02
        elif id(parameter) in embeddings:
            mean, deviation = 0.0, 1.0
        elif parameter.dim() == 1 or name.endswith("gamma"):  # a norm
            mean, deviation = 1.0, 0.0
        else:
            mean, deviation = 0.0, fan_in**-0.5
        target = torch.device(device) if device is not None else parameter.device
        values = _normal(parameter.shape, zlib.crc32(f"{seed} {name}".encode()), target)
        tensors[name] = values.mul_(deviation).add_(mean).to(dtype or parameter.dtype)
    return _assign(module, tensors)


def _normal(shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """Return standard normal values, float32; large tensors are drawn on their device, for speed."""
    place = device if shape.numel() > 2**24 else torch.device("cpu")
    return torch.randn(shape, generator=torch.Generator(place).manual_seed(seed), device=place).to(device)


def _load(
    build: Callable[[], Module],
    source: Source | RandomWeights,
    device: torch.device,
    dtype: torch.dtype,
    name_in_file: Callable[[str], str] = str,
) -> Module:
    module = on_meta(build)
    if isinstance(source, RandomWeights):
        return initialise(module, source.seed, device=device, dtype=dtype).eval()
    with opened(source, device) as entries:
        matched = match_entries(module, entries, name_in_file)
        tensors = {name: entry.read(device, dtype) for name, entry in matched.items()}
    return _assign(module, tensors).eval()


def on_meta(build: Callable[[], Module]) -> Module:
    """Return a module without memory behind its parameters: for their names and shapes, or to be filled."""
    with torch.device("meta"):
        return build()


def match_entries(
    module: nn.Module, entries: Mapping[str, Entry], name_in_file: Callable[[str], str] = str
) -> dict[str, Entry]:
    """Return the entry of each parameter, `{name: entry}`, if entries and parameters are one to one.

    A parameter that a module has under several names (a shared embedding) is taken from the first that is there.

    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    unexpected = set(entries)
    matched, missing, misshapen = {}, [], []
    for name, parameter in module.named_parameters():
        in_file = [name_in_file(alias) for alias in names[id(parameter)]]
        unexpected -= set(in_file)
        entry = next((entries[alias] for alias in in_file if alias in entries), None)
        if entry is None:
            missing.append(f"{in_file[0]} {list(parameter.shape)}")
        elif entry.shape != tuple(parameter.shape):
            misshapen.append(
                f"{in_file[0]} (expected {list(parameter.shape)}, found {list(entry.shape)} in {entry.place})"
            )
        else:
            matched[name] = entry
    if missing or misshapen or unexpected:
        extra = [f"{name} {list(entries[name].shape)} in {entries[name].place}" for name in sorted(unexpected)]
        kinds = (("missing", missing), ("of another shape", misshapen), ("unexpected", extra))
        places = sorted({entry.place for entry in entries.values()})
        layouts = ", ".join(sorted({entry.layout for entry in entries.values()})) or "nothing"
        raise CheckpointError(
            f"{', '.join(places) or 'the source'}: not the tensors of this {type(module).__name__} "
            f"(wrong file, or sizes that differ from its configuration; taken for: {layouts})"
            + "".join(f"; {len(found)} {kind}: {_listed(found)}" for kind, found in kinds if found)
        )
    return matched


def _listed(items: list[str], most: int = 6) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _assign(module: Module, tensors: Mapping[str, Tensor]) -> Module:
    """Make the tensors the module's parameters, without a copy; a parameter shared by layers stays shared."""
    fresh = {
        id(parameter): nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
        for name, parameter in module.named_parameters()
    }
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, fresh[id(parameter)])
    on_meta = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if on_meta and not any(tensor.is_meta for tensor in tensors.values()):
        raise RuntimeError(f"{type(module).__name__} keeps buffers that no file fills: {_listed(on_meta)}")
    return module
