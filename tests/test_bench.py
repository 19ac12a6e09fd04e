"""The benchmark: rollouts of an age without dreaming it, a report whose figures agree, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import worldplay_env
from worldplay_env.bench import Args, Part, aged_rollout, main, measure, measured_peak, report, table
from worldplay_env.control.camera import view_matrices
from worldplay_env.models.worldplay.memory import select
from worldplay_env.worlds.diffusion.world import DiffusionWorld


@pytest.fixture(scope="module")
def world() -> DiffusionWorld:
    world = worldplay_env.load("tiny", weights="random", device="cpu")
    assert isinstance(world, DiffusionWorld)
    return world


@pytest.mark.parametrize("age", [0, 1, 7])
def test_an_aged_rollout_goes_on_like_any_other(world: DiffusionWorld, age: int) -> None:
    rollout, control = aged_rollout(world, age, seed=3)
    assert rollout.chunks == age
    past = np.concatenate([*(chunk.control.poses for chunk in rollout.history), control.poses])
    assert len(np.unique(past, axis=0)) > 2 * age  # it wanders

    [chunk] = world.step([rollout], [control])

    assert chunk.frames is not None
    assert len(chunk.frames) == (16 if age else 13)
    np.testing.assert_array_equal(chunk.memory, select(view_matrices(past)))


@pytest.mark.parametrize("age", [0, 2, 7])
def test_a_world_with_a_window_is_measured_at_any_age(age: int) -> None:
    world = worldplay_env.load("abot-small", weights="random", device="cpu")
    parts = measure(world, age, batch=2, repeats=1)
    calls = [name for name, part in parts.items() if name.startswith("denoise_") or name == "keep"]
    assert calls == ["denoise_0", "denoise_1", "denoise_2", "denoise_3", "keep"]
    assert all(parts[name].operations > 0 for name in (*calls, "decode", "encode"))
    assert parts["total"].operations == sum(parts[name].operations for name in (*calls, "decode"))


def test_aged_rollouts_differ_by_seed(world: DiffusionWorld) -> None:
    (one, _), (same, _), (other, _) = (aged_rollout(world, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(one.history[1].latents, same.history[1].latents)
    np.testing.assert_array_equal(one.pose, same.pose)
    assert not torch.equal(one.history[1].latents, other.history[1].latents)
    assert not np.array_equal(one.pose, other.pose)


def test_a_report_is_of_medians_and_sets_rates_beside_the_peak(world: DiffusionWorld) -> None:
    parts = {"decode": Part([3.0, 1.0, 2.0], operations=400), "select": Part([0.5]), "total": Part([4.0], 1000)}
    result = report(Args(age=20, batch=2), world, parts, peak=1000.0, memory_bytes=2**30)

    decode = result["parts"]["decode"]
    assert (decode["median_seconds"], decode["fastest_seconds"], decode["slowest_seconds"]) == (2.0, 1.0, 3.0)
    assert (decode["operations_per_second"], decode["share_of_peak"]) == (200.0, 0.2)
    assert result["parts"]["select"]["share_of_peak"] is None
    assert result["frames_per_second"] == 2 * 16 / 4.0
    text = table(result)
    assert "20.0%" in text
    assert "1.00 GiB" in text


@pytest.mark.slow
def test_a_run_measures_every_part_and_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "bench.json"
    arguments = ["--weights", "random", "--device", "cpu", "--age", "6", "--batch", "2", "--chunks", "1"]
    arguments += ["--quantize", "fp8"]
    assert main([*arguments, "--json", str(path)]) == 0

    printed, result = capsys.readouterr().out, json.loads(path.read_text())
    parts = result["parts"]
    names = [
        "encode",
        "first",
        "select",
        "prefill",
        *(f"denoise_{index}" for index in range(4)),
        "decode",
        "host",
        "total",
    ]
    assert [name for name in parts if name != "check"] == names
    assert all(name in printed for name in names)
    within = [parts[name] for name in names[2:-1]]
    assert sum(part["median_seconds"] for part in within) <= parts["total"]["median_seconds"]
    assert sum(part["operations"] for part in within) == parts["total"]["operations"]
    assert parts["denoise_0"]["operations"] == parts["denoise_3"]["operations"] > 0
    assert result["peak_memory_bytes"] > 20e6  # the parameters alone
    assert result["world"]["weights"] == "random"


def test_the_peak_is_that_of_a_matrix_product() -> None:
    assert 1e8 < measured_peak(torch.device("cpu"), torch.float32) < 1e14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world", "nowhere"], "nowhere"),
        (["--world", "testcard"], "no model"),
        (["--age", "-1"], "-1"),
        (["--batch", "0"], "--batch must be 1 or more"),
        (["--chunks", "0"], "--chunks must be 1 or more"),
        (["--dtype", "int4"], "int4"),
        (["--attention", "cudnn", "--weights", "random", "--device", "cpu"], "needs a GPU"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
