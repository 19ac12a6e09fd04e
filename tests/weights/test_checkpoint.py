from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worldplay_env.models.config import TINY, WAN_5B, AutoencoderConfig, TransformerConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.weights.checkpoint import (
    CheckpointError,
    RandomWeights,
    initialise,
    load_autoencoder,
    load_text_encoder,
    load_text_model,
    load_tokenizer,
    load_transformer,
    upstream_name,
)
from worldplay_env.weights.files import strip_prefixes

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = json.loads((GOLDEN / "keys.json").read_text())
CONFIG = TransformerConfig.from_dict(json.loads((GOLDEN / "transformer.json").read_text())["config"])
AUTOENCODER_CONFIG = AutoencoderConfig.from_dict(json.loads((GOLDEN / "vae.json").read_text())["config"])
WEIGHTS = GOLDEN / "transformer_weights.safetensors"
AUTOENCODER_WEIGHTS = [GOLDEN / "vae_encoder_weights.safetensors", GOLDEN / "vae_decoder_weights.safetensors"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(WEIGHTS)


def named(transformer: Transformer) -> dict[str, Tensor]:
    state = transformer.state_dict()
    return {upstream_name(name): tensor for name, tensor in state.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_upstream_names_and_shapes_of_the_real_transformer_are_ours() -> None:
    with torch.device("meta"):
        transformer = Transformer(WAN_5B.transformer)
    assert {name: list(tensor.shape) for name, tensor in named(transformer).items()} == KEYS["transformer"]["keys"]


def test_upstream_names_and_shapes_of_the_real_autoencoder_are_ours() -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(WAN_5B.autoencoder)
    assert {name: list(tensor.shape) for name, tensor in autoencoder.state_dict().items()} == KEYS["vae"]["keys"]


@pytest.mark.parametrize(("raw", "name"), KEYS["checkpoint"]["examples"])
def test_prefixes_are_stripped_as_recorded(raw: str, name: str) -> None:
    assert strip_prefixes(raw) == name


# --- every form of a source ---------------------------------------------------------------------------------


def as_file(folder: Path, tensors: dict[str, Tensor]) -> Any:
    save_file(tensors, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def as_text_path(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return str(as_file(folder, tensors))


def as_folder(folder: Path, tensors: dict[str, Tensor]) -> Any:
    as_file(folder, tensors)
    (folder / "config.json").write_text("{}")
    return folder


def as_shards(folder: Path, tensors: dict[str, Tensor]) -> Any:
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    placed = {name: file for file, members in shards.items() for name in members}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index


def as_folder_of_shards(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return as_shards(folder, tensors).parent


def as_several_files(folder: Path, tensors: dict[str, Tensor]) -> Any:
    as_shards(folder, tensors)
    return sorted(folder.glob("*.safetensors"))


def as_distilled(folder: Path, tensors: dict[str, Tensor], key: str = "generator", prefix: str = "") -> Any:
    torch.save({key: {prefix + name: tensor for name, tensor in tensors.items()}, "step": 3}, folder / "model.pt")
    return folder / "model.pt"


def as_distilled_average(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return as_distilled(folder, tensors, "generator_ema")


def as_distilled_wrapped(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return as_distilled(folder, tensors, prefix="model._fsdp_wrapped_module.")


def as_mapping(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return tensors


FORMS = [
    as_file,
    as_text_path,
    as_folder,
    as_shards,
    as_folder_of_shards,
    as_several_files,
    as_distilled,
    as_distilled_average,
    as_distilled_wrapped,
    as_mapping,
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_source_fills_the_transformer(
    form: Callable[[Path, dict[str, Tensor]], Any], tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    transformer = load_transformer(form(tmp_path, tensors), CONFIG)
    assert_same(named(transformer), tensors)
    assert not transformer.training


@pytest.mark.parametrize("form", FORMS)
def test_loaded_parameters_share_no_memory_with_their_source(
    form: Callable[[Path, dict[str, Tensor]], Any], tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    source_tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    transformer = load_transformer(form(tmp_path, source_tensors), CONFIG)
    for tensor in source_tensors.values():
        tensor.fill_(7)
    for file in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.pt")]:
        with file.open("r+b") as handle:  # in place: a view of the mapped file would see it
            handle.write(b"\x07" * file.stat().st_size)
    assert_same(named(transformer), tensors)


def test_the_autoencoder_is_filled_from_two_files_that_complete_each_other() -> None:
    autoencoder = load_autoencoder(AUTOENCODER_WEIGHTS, AUTOENCODER_CONFIG)
    assert_same(autoencoder.state_dict(), load_file(AUTOENCODER_WEIGHTS[0]) | load_file(AUTOENCODER_WEIGHTS[1]))


def test_tensors_take_the_dtype_asked_for(tensors: dict[str, Tensor]) -> None:
    transformer = load_transformer(WEIGHTS, CONFIG, dtype=torch.bfloat16)
    assert_same(named(transformer), {name: tensor.bfloat16() for name, tensor in tensors.items()})


class AllocatedBytes(TorchDispatchMode):
    """Counts the bytes of the new memory that operations give their results, off the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not result.is_meta:
            known = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor) and not arg.is_meta}
            if result.untyped_storage().data_ptr() not in known:
                self.count += result.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("form", [as_file, as_shards, as_distilled])
def test_loading_allocates_the_parameters_once_and_nothing_else(
    form: Callable[[Path, dict[str, Tensor]], Any], tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    source = form(tmp_path, tensors)
    with AllocatedBytes() as allocated:
        load_transformer(source, CONFIG, dtype=torch.bfloat16)
    assert allocated.count == 2 * sum(tensor.numel() for tensor in tensors.values())


# --- what bad weights get -----------------------------------------------------------------------------------


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_tensor(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {name: tensor}


TENSOR_FAULTS = {
    "missing": (without("blocks.1.ffn.net.2.bias"), r"1 missing: blocks\.1\.ffn\.net\.2\.bias \[72\]"),
    "unexpected": (with_tensor("extra.weight", torch.zeros(2, 3)), r"1 unexpected: extra\.weight \[2, 3\]"),
    "our own name": (with_tensor("time_embedder.linear_1.bias", torch.zeros(72)), r"1 unexpected: time_embedder"),
    "misshapen": (
        with_tensor("proj_out.bias", torch.zeros(5)),
        r"1 of another shape: proj_out\.bias \(expected \[32\], found \[5\]",
    ),
    "not floating": (with_tensor("proj_out.bias", torch.zeros(32, dtype=torch.int8)), r"found torch\.int8"),
    "twice": (with_tensor("model.proj_out.bias", torch.zeros(32)), r"'proj_out\.bias' is there twice"),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
@pytest.mark.parametrize("form", [as_file, as_shards, as_distilled, as_mapping])
def test_tensors_that_do_not_fit_are_named_with_their_file(
    form: Callable[[Path, dict[str, Tensor]], Any], fault: str, tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    change, message = TENSOR_FAULTS[fault]
    source = form(tmp_path, change(tensors))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_transformer(source, CONFIG)
    assert form is as_mapping or str(tmp_path) in str(caught.value)


def test_the_sizes_of_another_model_are_told_in_a_short_message() -> None:
    with pytest.raises(CheckpointError, match="sizes that differ from its configuration") as caught:
        load_transformer(WEIGHTS, TINY.transformer)
    assert len(str(caught.value)) < 3000


def cut_off(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a pickle ran code",)


def two_kinds(folder: Path, tensors: dict[str, Tensor]) -> Any:
    save_file(tensors, folder / "a.safetensors")
    save_file(tensors, folder / "b.safetensors")
    return folder


def shard_missing(folder: Path, tensors: dict[str, Tensor]) -> Any:
    index = as_shards(folder, tensors)
    (folder / "model-2.safetensors").unlink()
    return index


def index_text(text: str) -> Callable[[Path, dict[str, Tensor]], Any]:
    def write(folder: Path, tensors: dict[str, Tensor]) -> Any:
        path = folder / "model.safetensors.index.json"
        path.write_text(text)
        return path

    return write


def pickled(content: Any) -> Callable[[Path, dict[str, Tensor]], Any]:
    def write(folder: Path, tensors: dict[str, Tensor]) -> Any:
        torch.save(content, folder / "model.pt")
        return folder / "model.pt"

    return write


def plain_pickle(folder: Path, tensors: dict[str, Tensor]) -> Any:
    (folder / "model.pt").write_bytes(pickle.dumps({"generator": RunsCode()}))
    return folder / "model.pt"


FILE_FAULTS: dict[str, tuple[Callable[[Path, dict[str, Tensor]], Any], str]] = {
    "cut off": (lambda folder, tensors: cut_off(as_file(folder, tensors), 0.9), "weights.safetensors: damaged"),
    "cut in the header": (lambda folder, tensors: cut_off(as_file(folder, tensors), 0.001), "weights.saf.*: damaged"),
    "empty": (lambda folder, tensors: cut_off(as_file(folder, tensors), 0), "weights.safetensors: damaged"),
    "pickle cut off": (lambda folder, tensors: cut_off(as_distilled(folder, tensors), 0.9), "model.pt: damaged"),
    "pickle empty": (lambda folder, tensors: cut_off(as_distilled(folder, tensors), 0), "model.pt: damaged"),
    "pickle with code": (pickled({"generator": RunsCode()}), "model.pt: .*could run code"),
    "old pickle with code": (plain_pickle, "model.pt: .*could run code"),
    "pickle without generator": (pickled({"weights": {}}), "model.pt: .*'generator'.*found .*weights"),
    "pickle of a list": (pickled([1, 2]), "model.pt: expected tensors by name, or under one of"),
    "pickle of numbers": (pickled({"generator": {"proj_out.bias": 3}}), "model.pt: .*'proj_out.bias': int"),
    "no file": (lambda folder, tensors: folder / "absent.safetensors", "absent.safetensors: no such file"),
    "other kind of file": (lambda folder, tensors: Path(__file__), "expected a .safetensors, .pt or .pth file"),
    "empty folder": (lambda folder, tensors: folder, "no weights there"),
    "two files in a folder": (two_kinds, "name one: a.safetensors, b.safetensors"),
    "missing shard": (shard_missing, "lists files that are not there: model-2.safetensors"),
    "index that is no JSON": (index_text("{"), "index.json: not readable as JSON"),
    "index without map": (index_text("{}"), "index.json: expected a `weight_map`"),
    "index leading elsewhere": (index_text('{"weight_map": {"a": "../a.safetensors"}}'), "expected a `weight_map`"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_files_that_cannot_be_read_are_named(
    fault: str, tmp_path: Path, tensors: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = FILE_FAULTS[fault]
    with pytest.raises(CheckpointError, match=message):
        load_transformer(make(tmp_path, tensors), CONFIG)
    assert "ran code" not in capsys.readouterr().out


# --- text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept", [["shared.weight"], ["encoder.embed_tokens.weight"], ["shared.weight", "encoder.embed_tokens.weight"]]
)
def test_the_text_encoder_takes_its_embedding_under_either_name_and_keeps_it_shared(
    kept: list[str], tmp_path: Path
) -> None:
    original = load_text_model(RandomWeights(3), TINY.text)
    state = {name: tensor for name, tensor in original.state_dict().items() if name != "shared.weight"}
    embedding = state.pop("encoder.embed_tokens.weight")
    state |= {name: embedding.clone() for name in kept}
    save_file(state, tmp_path / "text_encoder.safetensors")
    loaded = load_text_model(tmp_path / "text_encoder.safetensors", TINY.text)
    assert_same(loaded.state_dict(), original.state_dict())
    assert loaded.shared.weight is loaded.encoder.embed_tokens.weight


def test_a_text_encoder_file_is_checked_before_any_prompt_is_encoded(tmp_path: Path) -> None:
    state = {
        name: tensor.clone() for name, tensor in load_text_model(RandomWeights(), TINY.text).state_dict().items()
    }
    del state["encoder.final_layer_norm.weight"]
    save_file(state, tmp_path / "text_encoder.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: encoder\.final_layer_norm\.weight"):
        load_text_encoder(tmp_path, None, TINY.text)


def test_text_in_half_precision_is_encoded_in_bfloat16() -> None:
    encoder = load_text_encoder(RandomWeights(), None, TINY.text, dtype=torch.float16)
    embedding = encoder.encode(["a path"])
    assert embedding.dtype == torch.bfloat16
    assert embedding.shape == (1, TINY.text.text_len, TINY.transformer.text_dim)


def test_a_text_encoder_of_words_needs_its_tokenizer_unless_it_is_random() -> None:
    words = dataclasses.replace(TINY.text, bytes_tokenizer=False)
    with pytest.raises(CheckpointError, match="needs the folder of its tokenizer"):
        load_text_encoder(load_text_model(RandomWeights(), words).state_dict(), None, words)
    assert load_text_encoder(RandomWeights(), None, words).encode(["a path"]).isfinite().all()


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer could be read there") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizer_is_read_from_its_folder(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    words = dataclasses.replace(TINY.text, bytes_tokenizer=False)
    by_files = load_text_encoder(RandomWeights(), tmp_path, words).encode(["a path"])
    assert torch.equal(by_files, load_text_encoder(RandomWeights(), None, TINY.text).encode(["a path"]))


# --- random parameters --------------------------------------------------------------------------------------


def test_random_parameters_depend_on_the_seed_alone_and_leave_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, again, other = (load_transformer(RandomWeights(seed), CONFIG).state_dict() for seed in (1, 1, 2))
    assert_same(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].dim() > 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_parameter_that_two_sizes_share_is_the_same_in_both() -> None:
    small = load_transformer(RandomWeights(0), CONFIG).state_dict()
    deeper = dataclasses.replace(CONFIG, num_layers=CONFIG.num_layers + 1)
    large = load_transformer(RandomWeights(0), deeper).state_dict()
    assert all(torch.equal(small[name], large[name]) for name in small)


def test_a_module_in_memory_can_be_initialised_too() -> None:
    module = initialise(Autoencoder(AUTOENCODER_CONFIG), seed=5)
    assert_same(module.state_dict(), load_autoencoder(RandomWeights(5), AUTOENCODER_CONFIG).state_dict())


@torch.no_grad()
def test_a_random_transformer_gives_velocities_of_order_one() -> None:
    transformer = load_transformer(RandomWeights(0), TINY.transformer)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, TINY.autoencoder.z_dim, 4, *TINY.latent_size, generator=generator)
    velocity = transformer(
        latents,
        torch.full((1, 4), 1000.0),
        torch.zeros(1, 4, dtype=torch.int64),
        transformer.positions(range(4), TINY.latent_size, torch.eye(4).expand(1, 4, 4, 4), None),
        transformer.text_keys_values(torch.randn(1, 8, TINY.transformer.text_dim, generator=generator)),
        transformer.new_cache(1, 4 * TINY.tokens_per_frame).layers(1, 4 * TINY.tokens_per_frame),
    )
    assert 0.05 < velocity.std() < 20


@torch.no_grad()
def test_random_autoencoder_and_text_encoder_give_values_of_order_one() -> None:
    autoencoder = load_autoencoder(RandomWeights(0), TINY.autoencoder)
    generator = torch.Generator().manual_seed(0)
    mean, _ = autoencoder.encode(torch.rand(1, 3, 1, 96, 160, generator=generator) * 2 - 1)
    frames, _ = autoencoder.decode(autoencoder.normalise(mean))
    embedding = load_text_encoder(RandomWeights(0), None, TINY.text).encode(["a path"])[0, :7]
    for values in (mean, frames, embedding):
        assert 0.05 < values.std() < 20
