"""All stages by their command lines, a few steps each in the real sizes: trained, exported, loaded, stepped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import worldplay_env
from worldplay_env.models.config import TINY_V1
from worldplay_env.training import checkpoint
from worldplay_env.training.__main__ import main
from worldplay_env.training.autoencoder import DepthAutoencoder
from worldplay_env.training.export import FIGURES, FILES, MOST_BYTES, export
from worldplay_env.training.networks import Networks
from worldplay_env.weights import hub
from worldplay_env.weights.checkpoint import initialise
from worldplay_env.weights.files import CheckpointError
from worldplay_env.worlds.base import Control, Start

STATISTICS = {"latents_mean": [0.25] * TINY_V1.autoencoder.z_dim, "latents_std": [1.5] * TINY_V1.autoencoder.z_dim}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs of untrained networks, in the real sizes."""
    folder = tmp_path_factory.mktemp("runs")
    for name, module, notes in (
        ("autoencoder", DepthAutoencoder(TINY_V1.autoencoder), STATISTICS),
        ("distill", Networks(TINY_V1), {"held-out psnr": 12.5, "seed": 3, "commands": ["python -m the.command"]}),
    ):
        parameters = dict(initialise(module, 0).named_parameters())
        checkpoint.save(folder / name, 7, 90.0, parameters, parameters, notes)
    return folder


def test_the_weights_of_a_world_are_exported_with_statistics_and_card(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    (out / "starts").mkdir(parents=True)
    config = export(runs / "autoencoder", runs / "distill", out)
    assert hub.resolve(out).config == config
    assert config.autoencoder.latents_std == (1.5,) * TINY_V1.autoencoder.z_dim
    assert {path.name for path in out.iterdir()} == {*FILES, "starts"}
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert sum(path.stat().st_size for path in out.iterdir()) < MOST_BYTES
    card = (out / "README.md").read_text()
    front = ModelCard(card).data  # as the hub reads it
    assert (front.license, front.pipeline_tag) == ("apache-2.0", "image-to-video")
    assert "world-model" in front.tags
    facts = ("- steps: 7", "- time: 1.5 minutes", "| held-out psnr | 12.5 | dB", "- seed: 3", "python -m the.command")
    for fact in facts:
        assert fact in card


def test_what_is_exported_is_what_was_trained(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(runs / "autoencoder", runs / "distill", Path("exported"))
    world = worldplay_env.load("exported", device="cpu")
    trained = checkpoint.averages(runs / "distill").averages
    for name, parameter in world.transformer.named_parameters():
        assert torch.equal(parameter, trained["transformer." + name].half().float())


def test_an_export_that_fails_leaves_what_is_there(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    export(runs / "autoencoder", runs / "distill", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(CheckpointError, match=r"distill/step-000007: .*not one of this DepthAutoencoder"):
        export(_statistics_beside(runs / "distill", tmp_path), runs / "distill", out)
    with pytest.raises(CheckpointError, match=r"nowhere: no checkpoint"):
        export(runs / "autoencoder", tmp_path / "nowhere", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def _statistics_beside(run: Path, tmp_path: Path) -> Path:
    """Return a copy of a run of other networks that claims to have measured latents."""
    copy = tmp_path / run.name
    saved = checkpoint.averages(run)
    checkpoint.save(copy, saved.step, saved.seconds, {}, saved.averages, STATISTICS)
    return copy


@pytest.mark.slow
def test_the_whole_pipeline_by_its_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shared = "--device cpu --no-compile --max-steps 2 --held-out 1"
    arguments = f"{shared} --paths 1 --chunks 2 --frames 48"
    main(f"autoencoder {shared} --clips 1 --scenes 4 --measured 1".split())
    for file in Path("runs/autoencoder").glob("step-*/model-*"):
        file.unlink()  # later stages need the averages alone
    main(f"autoencoder {shared} --clips 1 --scenes 4 --folder runs/decoder --begin-with runs/autoencoder".split())
    main(f"transformer {arguments} --workers 1".split())
    main(f"transformer {arguments} --workers 0 --max-steps 1".split())  # resumed
    main(f"distill {arguments} --workers 0 --groups 1 --decoded 1".split())
    main(["export", "--autoencoder", "runs/decoder", "--out", "exported"])
    for stage, steps in (("autoencoder", 2), ("decoder", 2), ("transformer", 3), ("distill", 2)):
        (index,) = Path("runs", stage).glob("step-*/index.json")
        saved = json.loads(index.read_text())
        assert saved["step"] == steps
        assert "held-out psnr" in saved["notes"]
        assert all(f"--{name}" in saved["notes"]["commands"][0] for name in ("max-steps 2", "no-compile"))
        assert max(file.stat().st_size for file in index.parent.iterdir()) <= 16 * 2**20
        assert list(Path("runs", stage).glob("*.png"))
    card = Path("exported/README.md").read_text()
    assert card.count("python -m worldplay_env.training") == 6
    assert card.index("Frames to latents") < card.index("the decoder alone")
    assert card.index("flow matching") < card.index("own rollouts")
    for stage in ("autoencoder", "decoder", "transformer", "distill"):
        notes = checkpoint.averages(Path("runs", stage)).notes
        noted = {name for name, value in notes.items() if isinstance(value, float)}
        assert noted <= FIGURES.keys()  # the card says of every figure what it means

    world = worldplay_env.load("exported", device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (*world.image_size, 3), dtype=np.uint8)
    rollout = world.start(Start(picture, "a room"), 0)
    for _ in range(2):
        control = Control(np.tile(np.eye(4), (4, 1, 1)), np.zeros(4, np.int64))
        (chunk,) = world.step([rollout], [control])
        assert chunk.frames is not None
        assert chunk.frames.shape[1:] == (*world.image_size, 3)
