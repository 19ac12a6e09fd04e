from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from small_world import small_world

import worldplay_env
from worldplay_env.model.config import TINY, AutoencoderConfig, TextConfig, TransformerConfig, WorldConfig
from worldplay_env.weights import checkpoint, hub
from worldplay_env.weights.checkpoint import (
    CheckpointError,
    RandomWeights,
    load_autoencoder,
    load_text_encoder,
    load_text_model,
    load_transformer,
    upstream_names,
)
from worldplay_env.weights.folder import read_config, write_config
from worldplay_env.weights.hub import (
    LICENSE_NOTICE,
    WAN,
    WORLDPLAY,
    DownloadError,
    LicenseError,
    bundled,
    folder_config,
    resolve,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40
SMALL = WorldConfig(
    name="small",
    image_size=(32, 64),
    transformer=TransformerConfig(
        num_attention_heads=1,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
    ),
    autoencoder=AutoencoderConfig(
        base_dim=4, decoder_base_dim=4, z_dim=4, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4, num_res_blocks=1
    ),
    text=TextConfig(
        text_len=16, vocab_size=384, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, bytes_tokenizer=True
    ),
)


def transformer_tensors(config: WorldConfig) -> dict[str, torch.Tensor]:
    state = load_transformer(RandomWeights(0), config.transformer).state_dict()
    return {theirs: state[ours] for ours, theirs in upstream_names(state).items()}


def write_compact(folder: Path) -> Path:
    """A folder as the project exports its own worlds."""
    write_config(SMALL, folder)
    save_file(transformer_tensors(SMALL), folder / "transformer.safetensors")
    save_file(load_autoencoder(RandomWeights(0), SMALL.autoencoder).state_dict(), folder / "autoencoder.safetensors")
    write_text_encoder(folder / "text_encoder.safetensors")
    return folder


def write_text_encoder(path: Path) -> None:
    state = load_text_model(RandomWeights(0), SMALL.text).state_dict()
    save_file({name: state[name] for name in state if name != "encoder.embed_tokens.weight"}, path)


def write_worldplay(folder: Path) -> Path:
    """What is used of the transformer's repository, with small sizes."""
    for name in ("wan_transformer", "wan_distilled_model"):
        (folder / name).mkdir(parents=True)
    config = {"_class_name": "WanTransformer3DModel", **dataclasses.asdict(SMALL.transformer)}
    (folder / "wan_transformer" / "config.json").write_text(json.dumps(config))
    tensors = {f"model.{name}": tensor for name, tensor in transformer_tensors(SMALL).items()}
    torch.save({"generator": tensors}, folder / "wan_distilled_model" / "model.pt")
    return folder


def write_wan(folder: Path) -> Path:
    """What is used of the repository of autoencoder and text encoder, with small sizes."""
    from transformers import ByT5Tokenizer

    for name in ("vae", "text_encoder", "tokenizer"):
        (folder / name).mkdir(parents=True)
    config = dataclasses.asdict(SMALL.autoencoder)
    config["temperal_downsample"] = config.pop("temporal_downsample")
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    weights = load_autoencoder(RandomWeights(0), SMALL.autoencoder).state_dict()
    save_file(weights, folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "text_encoder" / "config.json").write_text(json.dumps(dataclasses.asdict(SMALL.text)))
    shard = "model-00001-of-00001.safetensors"
    write_text_encoder(folder / "text_encoder" / shard)
    index = json.dumps({"weight_map": {"shared.weight": shard}})
    (folder / "text_encoder" / "model.safetensors.index.json").write_text(index)
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def write_cache(cache: Path, repository: hub.Repository, commit: str, write: Callable[[Path], Path]) -> Path:
    """A repository as huggingface_hub keeps it in its cache."""
    root = cache / ("models--" + repository.name.replace("/", "--"))
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    return write(root / "snapshots" / commit)


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real huggingface_hub, offline, with an empty cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


class FakeHub:
    """In place of `snapshot_download`: repositories that are there once they have been downloaded."""

    def __init__(self, root: Path, error: Exception | None = None) -> None:
        self.downloaded: list[tuple[str, str]] = []
        self.error = error
        self._root = root
        self._write = {WORLDPLAY.name: write_worldplay, WAN.name: write_wan}

    def __call__(self, name: str, *, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        folder = self._root / name.replace("/", "--") / (revision if revision != "main" else COMMIT)
        if local_files_only:
            if not folder.exists():
                raise LocalEntryNotFoundError("not in the cache")
            return str(folder)
        if self.error is not None:
            raise self.error
        self.downloaded.append((name, revision))
        if not folder.exists():
            self._write[name](folder)
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            assert any(file.relative_to(folder).match(pattern) for pattern in allow_patterns)
        return str(folder)


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return fake


def load_all(files: hub.WeightFiles) -> None:
    config = files.config
    load_transformer(files.transformer, config.transformer)
    load_autoencoder(files.autoencoder, config.autoencoder)
    load_text_encoder(files.text_encoder, files.tokenizer, config.text).encode(["a path"])


# --- the hub ------------------------------------------------------------------------------------------------


def test_the_first_download_asks_for_the_licence_in_two_sentences_and_downloads_nothing(fake_hub: FakeHub) -> None:
    with pytest.raises(LicenseError) as caught:
        resolve("wan-5b")
    assert str(caught.value) == LICENSE_NOTICE
    assert LICENSE_NOTICE.count(". ") == 1
    for words in (
        "improve any other AI model",
        "European Union",
        "United Kingdom",
        "South Korea",
        "--accept-license",
    ):
        assert words in LICENSE_NOTICE
    assert fake_hub.downloaded == []


def test_an_accepted_download_gives_files_that_load_and_is_not_asked_for_again(fake_hub: FakeHub) -> None:
    files = resolve("wan-5b", accept_license=True)
    assert sorted(fake_hub.downloaded) == sorted([(WAN.name, "main"), (WORLDPLAY.name, "main")])
    assert files.revision == COMMIT
    assert files.transformer.name == "model.pt"
    assert files.config.transformer == SMALL.transformer
    assert files.config.autoencoder == SMALL.autoencoder
    assert files.config.text == dataclasses.replace(SMALL.text, text_len=512, bytes_tokenizer=False)
    load_all(files)
    assert resolve("wan-5b") == files
    assert len(fake_hub.downloaded) == 2


def test_a_revision_is_that_of_the_transformer(fake_hub: FakeHub) -> None:
    assert resolve("wan-5b", OTHER_COMMIT, accept_license=True).revision == OTHER_COMMIT
    assert sorted(fake_hub.downloaded) == sorted([(WAN.name, "main"), (WORLDPLAY.name, OTHER_COMMIT)])


def test_only_what_is_not_there_is_downloaded(fake_hub: FakeHub) -> None:
    files = resolve("wan-5b", accept_license=True)
    (files.text_encoder / "model-00001-of-00001.safetensors").unlink()
    fake_hub.downloaded.clear()
    with pytest.raises(DownloadError, match="model-00001-of-00001"):  # the fake does not bring it back
        resolve("wan-5b")  # and the licence of the transformer is not asked for
    assert fake_hub.downloaded == [(WAN.name, "main")]


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline"), ConnectionError("refused"), OSError("full")])
def test_a_failed_download_says_what_to_fetch_and_where_to_put_it(fake_hub: FakeHub, error: Exception) -> None:
    fake_hub.error = error
    with pytest.raises(DownloadError) as caught:
        resolve("wan-5b", accept_license=True)
    message = str(caught.value)
    assert str(error) in message
    for repository in (WORLDPLAY, WAN):
        assert f"https://huggingface.co/{repository.name}" in message
        assert all(pattern in message and size in message for pattern, size in repository.files)
    assert "--world FOLDER" in message
    assert caught.value.__cause__ is error


def test_offline_the_real_hub_gives_the_same_error(offline_cache: Path) -> None:
    with pytest.raises(DownloadError, match=r"wan_distilled_model/model\.pt") as caught:
        resolve("wan-5b", accept_license=True)
    assert str(offline_cache) in str(caught.value)


def test_offline_the_cache_of_the_real_hub_is_used_without_asking_for_the_licence(offline_cache: Path) -> None:
    write_cache(offline_cache, WORLDPLAY, COMMIT, write_worldplay)
    write_cache(offline_cache, WAN, OTHER_COMMIT, write_wan)
    files = resolve("wan-5b")
    assert files.revision == COMMIT
    assert resolve("wan-5b", COMMIT) == files
    load_all(files)


@pytest.mark.parametrize("lost", ["wan_distilled_model/model.pt", "wan_transformer/config.json"])
def test_a_transformer_half_in_the_cache_asks_for_the_licence(offline_cache: Path, lost: str) -> None:
    (write_cache(offline_cache, WORLDPLAY, COMMIT, write_worldplay) / lost).unlink()
    write_cache(offline_cache, WAN, OTHER_COMMIT, write_wan)
    with pytest.raises(LicenseError):
        resolve("wan-5b")


# --- folders ------------------------------------------------------------------------------------------------


def test_a_compact_folder_loads_with_the_sizes_that_it_states(tmp_path: Path) -> None:
    files = resolve(write_compact(tmp_path))
    assert files.config == folder_config(tmp_path) == SMALL
    assert files.tokenizer is None
    load_all(files)


def place_distilled(folder: Path) -> str:
    return "wan_distilled_model/model.pt"


def place_beside_the_configuration(folder: Path) -> str:
    (folder / "wan_distilled_model" / "model.pt").rename(folder / "wan_transformer" / "model.pt")
    return "wan_transformer"


def place_safetensors(folder: Path) -> str:
    (folder / "wan_distilled_model" / "model.pt").unlink()
    save_file(transformer_tensors(SMALL), folder / "wan_transformer" / "transformer.safetensors")
    return "wan_transformer"


@pytest.mark.parametrize("place", [place_distilled, place_beside_the_configuration, place_safetensors])
def test_files_put_into_one_folder_by_hand_load(tmp_path: Path, place: Callable[[Path], str]) -> None:
    write_wan(write_worldplay(tmp_path))
    where = place(tmp_path)
    files = resolve(str(tmp_path))
    assert files.transformer == tmp_path / where
    load_all(files)


@pytest.mark.parametrize("config", [TINY, SMALL])
def test_a_written_configuration_reads_back(tmp_path: Path, config: WorldConfig) -> None:
    write_config(config, tmp_path)
    assert read_config(tmp_path) == config


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        for path, value in changes.items():
            *parents, name = path.split("__")
            target = values
            for parent in parents:
                target = target[parent]
            if value is None:
                del target[name]
            else:
                target[name] = value
        (folder / "config.json").write_text(json.dumps(values))

    return edit


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def spoil_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"name": ')


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no transformer": (lose("transformer.safetensors"), r"transformer\.safetensors: no such file"),
    "no autoencoder": (lose("autoencoder.safetensors"), r"autoencoder\.safetensors: no such file"),
    "no text encoder": (lose("text_encoder.safetensors"), r"text_encoder\.safetensors: no such file"),
    "no configuration": (lose("config.json"), "no weights of a world; expected config.json"),
    "broken configuration": (spoil_json, r"config\.json: not readable as JSON"),
    "no image size": (edit_config(image_size=None), r"config\.json: .*lacks 'image_size'"),
    "no depth": (edit_config(transformer__num_layers=None), r"config\.json: .*lacks num_layers"),
    "unknown text size": (edit_config(text__depth=3), r"config\.json: .*depth"),
    "other channels": (edit_config(transformer__in_channels=5), "5 channels and gives 4, the autoencoder has 4"),
    "other text": (edit_config(transformer__text_dim=9), "text of width 9, the text encoder gives 8"),
    "no tokenizer": (edit_config(text__bytes_tokenizer=False), "tokenizer: the tokenizer's folder is missing"),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_a_folder_that_lacks_something_is_an_error_that_names_it(tmp_path: Path, fault: str) -> None:
    spoil, message = FOLDER_FAULTS[fault]
    spoil(write_compact(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        resolve(tmp_path)


def test_an_unknown_name_and_a_revision_of_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown weights 'wan-6b': expected 'wan-5b' or a folder"):
        resolve("wan-6b")
    with pytest.raises(ValueError, match="a folder, which has no revisions"):
        resolve(tmp_path, revision="main")


def test_what_the_package_carries_loads_and_is_called_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "hub.py"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        bundled()
    write_compact(tmp_path / "tiny")
    files = bundled()
    assert files.revision == "trained"
    load_all(files)


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_a_folder_of_weights_is_a_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    (tmp_path / "worlds" / "mine").mkdir(parents=True)
    write_compact(tmp_path / "worlds" / "mine")
    monkeypatch.chdir(tmp_path)
    folder = Path("worlds/mine") if relative else tmp_path / "worlds" / "mine"
    world = worldplay_env.load(folder)
    assert world is worldplay_env.load(str(tmp_path / "worlds" / "mine"), device="cpu", dtype="float32")
    assert (world.name, world.image_size) == ("small", (32, 64))
    env = worldplay_env.WorldPlayEnv(world=folder, starts=[(None, "a place")])
    observation, _ = env.reset(seed=0)
    assert observation.shape == (16, 32, 64, 3)
    assert env.step(9)[0].any()
    assert env.world is world


def change_a_value(path: Path) -> None:
    """Write another number into a file of tensors; its name, its size and its time of change stay as they are."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_moved_folder_keeps_its_rollouts_and_another_folders_are_refused(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write_compact(tmp_path / name)
    (tmp_path / "here" / "README.md").write_text("what is no weights does not matter")
    change_a_value(tmp_path / "there" / "transformer.safetensors")
    world = worldplay_env.load(tmp_path / "here")
    world.start(worldplay_env.Start(prompt="a place"), 0).save(tmp_path / "rollout.safetensors")
    (tmp_path / "here").rename(tmp_path / "moved")
    assert worldplay_env.load(tmp_path / "moved").load_rollout(tmp_path / "rollout.safetensors").chunks == 0
    with pytest.raises(ValueError, match="no rollout saved in this world"):
        worldplay_env.load(tmp_path / "there").load_rollout(tmp_path / "rollout.safetensors")


# --- what tells weights from others -------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["transformer", "autoencoder", "text_encoder"])
def test_a_folder_whose_weights_changed_is_loaded_anew(tmp_path: Path, part: str) -> None:
    write_compact(tmp_path)
    before = worldplay_env.load(tmp_path)
    change_a_value(tmp_path / f"{part}.safetensors")
    after = worldplay_env.load(tmp_path)
    assert after is not before
    assert after.weights_hash != before.weights_hash
    assert after.weights != before.weights
    change_a_value(tmp_path / f"{part}.safetensors")
    assert worldplay_env.load(tmp_path) is before


def test_a_folder_whose_sizes_changed_is_another_world_with_random_weights_too(tmp_path: Path) -> None:
    write_compact(tmp_path)
    before = worldplay_env.load(tmp_path, weights="random")
    change_a_value(tmp_path / "transformer.safetensors")
    assert worldplay_env.load(tmp_path, weights="random") is before
    edit_config(image_size=[64, 64])(tmp_path)
    assert worldplay_env.load(tmp_path, weights="random").image_size == (64, 64)


def test_weights_are_known_by_their_content_not_by_names_or_dtype(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_compact(tmp_path / name)
    known_as = worldplay_env.load(tmp_path / "one").weights_hash
    assert known_as is not None
    assert len(known_as) == 64
    assert worldplay_env.load(tmp_path / "other", dtype="bfloat16").weights_hash == known_as
    assert worldplay_env.load("testcard").weights_hash is worldplay_env.load("scene").weights_hash is None


def test_worlds_made_of_networks_are_known_by_their_parameters() -> None:
    world, low = small_world(), small_world(torch.bfloat16)
    known_as = world.weights_hash
    assert known_as == low.weights_hash == small_world().weights_hash
    with torch.no_grad():
        world.transformer.output_projection.bias += 1
    assert world.weights_hash != known_as


def test_weights_that_change_while_they_are_read_are_no_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_compact(tmp_path)
    load_autoencoder = checkpoint.load_autoencoder

    def slowly(*arguments: Any, **options: Any) -> Any:
        change_a_value(tmp_path / "transformer.safetensors")
        return load_autoencoder(*arguments, **options)

    monkeypatch.setattr(checkpoint, "load_autoencoder", slowly)
    with pytest.raises(CheckpointError, match="changed while they were read"):
        worldplay_env.load(tmp_path)
