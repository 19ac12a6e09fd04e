"""Weights in a folder: both layouts load, what is missing is named, and a folder is a world."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from weight_folders import (
    SMALL,
    change_a_value,
    load_all,
    transformer_tensors,
    write_compact,
    write_wan,
    write_worldplay,
)

import worldplay_env
from worldplay_env.models.config import TINY, WorldConfig
from worldplay_env.weights import hub
from worldplay_env.weights.checkpoint import CheckpointError
from worldplay_env.weights.folder import read_config, write_config
from worldplay_env.weights.hub import bundled, folder_config, resolve


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


def only(folder: str, *names: str) -> Callable[[Path], None]:
    """Lose all of a folder's files but some."""

    def lose_others(root: Path) -> None:
        for path in [path for path in (root / folder).iterdir() if path.name not in names]:
            path.unlink()

    return lose_others


def point(name: str) -> Callable[[Path], None]:
    """Leave a pointer of git-LFS in place of a file."""

    def write(folder: Path) -> None:
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 16837459\n"
        (folder / name).write_text(pointer)

    return write


SHARD = "model-00002-of-00003.safetensors"
UPSTREAM_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no transformer": (lose("wan_distilled_model/model.pt"), "wan_transformer: no weights there"),
    "no configuration of the transformer": (lose("wan_transformer/config.json"), r"wan_transformer/config\.json"),
    "no configuration of the autoencoder": (lose("vae/config.json"), r"vae/config\.json: not readable"),
    "no configuration of the text encoder": (
        lose("text_encoder/config.json"),
        r"text_encoder/config\.json: not read",
    ),
    "a shard missing": (lose(f"text_encoder/{SHARD}"), f"files that are not there: {SHARD}"),
    "one shard, no index": (
        only("text_encoder", "config.json", SHARD),
        "of 3 shards these are not there: model-00001-of-00003.safetensors, model-00003-of-00003.safetensors",
    ),
    "a tokenizer of one file": (only("tokenizer", "tokenizer.json"), "lacks tokenizer_config.json"),
    "a tokenizer without words": (only("tokenizer", "tokenizer_config.json"), "lacks its vocabulary"),
    "a pointer to a configuration": (point("vae/config.json"), r"vae/config\.json: a git-LFS pointer"),
    "a pointer to a shard": (point(f"text_encoder/{SHARD}"), f"{SHARD}: a git-LFS pointer"),
    "a pointer to a tokenizer": (point("tokenizer/tokenizer.json"), r"tokenizer\.json: a git-LFS pointer"),
}


@pytest.mark.parametrize("fault", UPSTREAM_FAULTS)
def test_upstreams_folder_is_checked_file_by_file_before_anything_is_loaded(tmp_path: Path, fault: str) -> None:
    spoil, message = UPSTREAM_FAULTS[fault]
    write_wan(write_worldplay(tmp_path))
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    resolve(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        resolve(tmp_path)


def test_shards_without_their_index_load_if_all_are_there(tmp_path: Path) -> None:
    write_wan(write_worldplay(tmp_path))
    (tmp_path / "text_encoder" / "model.safetensors.index.json").unlink()
    load_all(resolve(tmp_path))


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


def test_a_configuration_that_is_nested_without_end_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_compact(tmp_path)
    (tmp_path / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json: not readable as JSON: .*recursion"):
        resolve(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "transformer.safetensors"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    write_compact(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"regular file|no weights|missing"):
        load_all(resolve(tmp_path))


def test_a_config_takes_the_place_of_a_link_and_not_of_what_it_names(tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    target.write_text("kept")
    (tmp_path / "config.json").symlink_to(target)
    write_config(SMALL, tmp_path)
    assert target.read_text() == "kept"
    assert read_config(tmp_path) == SMALL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "target.json"]
