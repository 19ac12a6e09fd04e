"""The folder layouts of a world's weights, and its configuration.

Compact, as this project exports them:

    config.json                  the whole `WorldConfig` (`write_config`)
    transformer.safetensors
    autoencoder.safetensors
    text_encoder.safetensors
    tokenizer/                   unless the text encoder reads bytes

As upstream publishes them, its two repositories laid over each other:

    wan_transformer/config.json
    wan_distilled_model/model.pt          or model.pt or one .safetensors in wan_transformer/
    vae/config.json, vae/*.safetensors
    text_encoder/config.json, text_encoder/*.safetensors, with an index if there are several
    tokenizer/

ABot-World's, as upstream publishes it:

    diffusion_pytorch_model.safetensors, Wan2.2_VAE.pth, models_t5_umt5-xxl-enc-bf16.pth
    taew2_2.pth                           the small decoder, which may lie in a folder of the others as well
    google/umt5-xxl/                      the tokenizer
    config.json                           of `write_config`, if the sizes are others than those of "abot-5b"
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from worldplay_env.media.files import replacing
from worldplay_env.models.abot.config import (
    ABOT_5B,
    AbotTransformerConfig,
    AbotWorldConfig,
    ScheduleConfig,
    WindowConfig,
)
from worldplay_env.models.config import WAN_5B, AutoencoderConfig, TextConfig, TransformerConfig, WorldConfig
from worldplay_env.models.wan.small_decoder import SmallDecoderConfig
from worldplay_env.weights.content import files_hash
from worldplay_env.weights.files import CheckpointError, read_json, refuse_pointer, weight_files

T = TypeVar("T")

SMALL_DECODER = "taew2_2.pth"
"""The file of the small decoder, beside the others in a folder of any layout."""
ABOT_AUTOENCODER = "Wan2.2_VAE.pth"
"""The file that tells a folder of ABot-World from others."""


@dataclass(frozen=True)
class WeightFiles:
    """Everything a world is loaded from, on this machine.

    Attributes:
        config: The sizes that the files state.
        transformer: Its tensors, as a source of `checkpoint.load_transformer`; the others likewise.
        autoencoder: Its tensors.
        text_encoder: Its tensors.
        tokenizer: The folder of the tokenizer's files; None if the text encoder reads bytes.
        revision: The hub's commit of the transformer, or "trained" for what the package carries; None for a folder,
            whose weights are known by their content.
        small_decoder: The tensors of the small decoder, where they are.
    """

    config: WorldConfig
    transformer: Path
    autoencoder: Path
    text_encoder: Path
    tokenizer: Path | None
    revision: str | None
    small_decoder: Path | None = None

    @cached_property
    def content_hash(self) -> str:
        """Digest of sizes, tensors and tokenizer, 64 hexadecimal digits; the files are read when it is asked for."""
        parts = {name: weight_files(getattr(self, name)) for name in ("transformer", "autoencoder", "text_encoder")}
        if self.small_decoder is not None:
            parts["small_decoder"] = weight_files(self.small_decoder)
        words = sorted(self.tokenizer.iterdir()) if self.tokenizer is not None else []
        return files_hash(self.config, parts | {path.name: [path] for path in words if path.is_file()})


def local_files(folder: str | Path) -> WeightFiles:
    """Find the weights of a world in a folder of either layout (see the module's docstring).

    Raises:
        CheckpointError: Something is missing, or a configuration cannot be read; the message names the file.
    """
    folder = Path(folder)
    if (folder / ABOT_AUTOENCODER).exists():
        return abot_files(folder, None)
    if (folder / "config.json").exists():
        return _compact(folder)
    if (folder / "wan_transformer").is_dir():
        return upstream_files(folder, folder, None)
    raise CheckpointError(
        f"{folder}: no weights of a world; expected config.json with transformer.safetensors, "
        f"autoencoder.safetensors and text_encoder.safetensors, or upstream's wan_transformer/, vae/, text_encoder/ "
        f"and tokenizer/, or ABot-World's {ABOT_AUTOENCODER} and what is published beside it"
    )


def upstream_files(worldplay: Path, wan: Path, revision: str | None) -> WeightFiles:
    """Find the weights in upstream's layout: the folder of the transformer's repository, and that of the others."""
    transformer = worldplay / "wan_distilled_model" / "model.pt"
    if not transformer.exists():
        transformer = worldplay / "wan_transformer"
    files = WeightFiles(
        config=replace(
            WAN_5B,
            transformer=_read(worldplay / "wan_transformer" / "config.json", TransformerConfig.from_dict),
            autoencoder=_read(wan / "vae" / "config.json", AutoencoderConfig.from_dict),
            text=_read(wan / "text_encoder" / "config.json", _umt5_sizes),
        ),
        transformer=transformer,
        autoencoder=wan / "vae",
        text_encoder=wan / "text_encoder",
        tokenizer=wan / "tokenizer",
        revision=revision,
        small_decoder=_if_there(worldplay / SMALL_DECODER),
    )
    return _checked(files, worldplay)


def abot_files(folder: Path, revision: str | None) -> WeightFiles:
    """Find the weights of an ABot-World, as upstream publishes them; by default of "abot-5b"'s sizes."""
    config: WorldConfig = read_config(folder) if (folder / "config.json").exists() else ABOT_5B
    files = WeightFiles(
        config=config,
        transformer=folder / "diffusion_pytorch_model.safetensors",
        autoencoder=folder / ABOT_AUTOENCODER,
        text_encoder=folder / "models_t5_umt5-xxl-enc-bf16.pth",
        tokenizer=None if config.text.bytes_tokenizer else folder / "google" / "umt5-xxl",
        revision=revision,
        small_decoder=_if_there(folder / SMALL_DECODER),
    )
    return _checked(files, folder)


def read_config(folder: str | Path) -> WorldConfig:
    """Read the sizes of a world from the config.json that `write_config` wrote.

    Raises:
        CheckpointError: The file is missing, or lacks or misstates a size.
    """
    return _read(Path(folder) / "config.json", _world_config)


def write_config(config: WorldConfig, folder: str | Path) -> Path:
    """Write the sizes of a world to config.json in a folder, and return the file's path."""
    path = Path(folder) / "config.json"
    with replacing(path) as partial:
        partial.write_text(json.dumps(asdict(config), indent=1) + "\n", encoding="utf-8")
    return path


def _compact(folder: Path) -> WeightFiles:
    config = read_config(folder)
    files = WeightFiles(
        config=config,
        transformer=folder / "transformer.safetensors",
        autoencoder=folder / "autoencoder.safetensors",
        text_encoder=folder / "text_encoder.safetensors",
        tokenizer=None if config.text.bytes_tokenizer else folder / "tokenizer",
        revision=None,
    )
    return _checked(files, folder)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _checked(files: WeightFiles, folder: Path) -> WeightFiles:
    """Return the files if all are there and the networks' sizes fit each other."""
    for part in (files.transformer, files.autoencoder, files.text_encoder):
        weight_files(part)
    if files.tokenizer is not None:
        _check_tokenizer(files.tokenizer)
    config = files.config
    transformer = config.transformer
    if not transformer.in_channels == transformer.out_channels == config.autoencoder.z_dim:
        raise CheckpointError(
            f"{folder}: the transformer works on {transformer.in_channels} channels and gives "
            f"{transformer.out_channels}, the autoencoder has {config.autoencoder.z_dim}"
        )
    if transformer.text_dim != config.text.d_model:
        raise CheckpointError(
            f"{folder}: the transformer reads text of width {transformer.text_dim}, "
            f"the text encoder gives {config.text.d_model}"
        )
    return files


def _check_tokenizer(folder: Path) -> None:
    """Raise CheckpointError unless all files of a tokenizer are in its folder."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: the tokenizer's folder is missing")
    if not (folder / "tokenizer_config.json").is_file():
        raise CheckpointError(f"{folder}: the tokenizer lacks tokenizer_config.json")
    of_bytes = read_json(folder / "tokenizer_config.json").get("tokenizer_class") == "ByT5Tokenizer"
    vocabulary = [folder / name for name in ("tokenizer.json", "spiece.model") if (folder / name).is_file()]
    if not vocabulary and not of_bytes:
        raise CheckpointError(f"{folder}: the tokenizer lacks its vocabulary, tokenizer.json or spiece.model")
    for path in vocabulary:
        refuse_pointer(path)


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    values = read_json(path)
    try:
        return parse(values)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path}: not the configuration expected there: {reason}") from error


def _world_config(values: Mapping[str, Any]) -> WorldConfig:
    height, width = values["image_size"]
    common = {
        "name": values["name"],
        "image_size": (height, width),
        "autoencoder": AutoencoderConfig.from_dict(values["autoencoder"]),
        "text": TextConfig(**values["text"]),
        "fps": values["fps"],
    }
    if "window" not in values:
        return WorldConfig(transformer=TransformerConfig.from_dict(values["transformer"]), **common)
    schedule = values["schedule"]
    return AbotWorldConfig(
        transformer=AbotTransformerConfig.from_dict(values["transformer"]),
        window=WindowConfig(**values["window"]),
        schedule=ScheduleConfig(schedule["shift"], tuple(schedule["steps"])),
        small_decoder=SmallDecoderConfig(tuple(values["small_decoder"]["widths"])),
        **common,
    )


def _umt5_sizes(values: Mapping[str, Any]) -> TextConfig:
    """Read the sizes of the encoder from the configuration that transformers writes; it does not say `text_len`."""
    sizes = {field.name for field in fields(TextConfig)} - {"text_len", "bytes_tokenizer"}
    return TextConfig(text_len=WAN_5B.text.text_len, **{name: values[name] for name in sizes})
