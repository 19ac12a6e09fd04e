"""What only a GPU can show: the same world on another device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import begin, small_world, wander

import worldplay_env
from worldplay_env.control.camera import DEFAULT_INTRINSICS
from worldplay_env.worlds.abot.world import AbotWorld
from worldplay_env.worlds.diffusion.room import free_bytes
from worldplay_env.worlds.follow import next_control
from worldplay_env.worlds.scene.build import HELD_OUT_SEED, build, stack
from worldplay_env.worlds.scene.render import Renderer

pytestmark = pytest.mark.gpu
PATH = wander(6, seed=5)


@pytest.mark.parametrize("edition", [1, 2])
def test_scenes_look_the_same_on_both_devices(edition: int) -> None:
    scenes = [build(seed, edition) for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 8)]
    starts = torch.from_numpy(np.stack([scene.start for scene in scenes]))
    seen = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        renderer = Renderer(stack(scenes, device), (96, 160))
        which, intrinsics = torch.arange(8, device=device), torch.tensor(DEFAULT_INTRINSICS, device=device)
        pictures = renderer.frames(which, starts.to(device), intrinsics)
        seen.append((pictures.cpu().int(), renderer.depth(which, starts.to(device), intrinsics).cpu()))
    (pictures, depth), (others, other_depth) = seen
    assert ((pictures - others).abs().amax(-1) > 2).float().mean() < 0.002  # pixels at edges and between tiles
    far = depth.isinf()
    assert (far ^ other_depth.isinf()).float().mean() < 0.001
    close = torch.isclose(depth, other_depth, rtol=1e-3, atol=0.0) | far
    assert close.float().mean() > 0.998


def test_float32_dreams_the_same_on_both_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = small_world(), small_world(device="cuda")
    rollout, other = begin(here, 0), begin(there, 0)
    for control in PATH:
        [expected], [chunk] = here.step([rollout], [control]), there.step([other], [control])
        assert expected.latents is not None
        assert chunk.latents is not None
        difference = chunk.latents.cpu() - expected.latents
        assert difference.norm() / expected.latents.norm() < 1e-3


def test_equal_seeds_give_equal_bits_in_bfloat16() -> None:
    world = small_world(torch.bfloat16, device="cuda")
    one, other = begin(world, 0), begin(world, 0)
    for control in PATH:
        [first], [second] = world.step([one], [control]), world.step([other], [control])
        assert first.frames is not None
        assert second.frames is not None
        assert torch.equal(first.frames, second.frames)
        assert first.timings["total"] > 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_rollouts_of_all_ages_go_through_together_as_they_would_alone(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    world = small_world(dtype, device="cuda")
    rollouts = [begin(world, seed) for seed in range(len(PATH))]
    for age, rollout in enumerate(rollouts):
        for control in PATH[:age]:
            world.step([rollout], [control])
    alone = [world.step([rollout.fork()], [PATH[age]])[0] for age, rollout in enumerate(rollouts)]
    together = world.step(rollouts, PATH)
    assert len({chunk.timings["prefill"] for chunk in together}) == 1  # one pass
    for one, other in zip(together, alone, strict=True):
        assert one.latents is not None
        assert other.latents is not None
        assert (one.latents - other.latents).norm() / other.latents.norm() < tolerance


def test_a_rollout_saved_on_a_gpu_goes_on_without_one(tmp_path: Path) -> None:
    there, here = small_world(torch.bfloat16, device="cuda"), small_world()
    rollout = begin(there, 0)
    for control in PATH[:2]:
        there.step([rollout], [control])
    rollout.save(tmp_path / "rollout.safetensors")
    loaded = here.load_rollout(tmp_path / "rollout.safetensors")
    [chunk] = here.step([loaded], [PATH[2]])
    assert chunk.frames is not None
    assert chunk.frames.device.type == "cpu"


def test_memory_that_torch_keeps_back_counts_as_free() -> None:
    device, size = torch.device("cuda"), 1 << 28
    before = free_bytes(device)
    assert before is not None
    taken = torch.empty(size, dtype=torch.uint8, device=device)
    between = free_bytes(device)
    assert between is not None
    assert before - between == pytest.approx(size, rel=0.2)
    del taken
    after = free_bytes(device)
    assert after is not None
    assert after - between == pytest.approx(size, rel=0.2)


def abot(dtype: str) -> AbotWorld:
    """Return a small ABot-World on the GPU."""
    world = worldplay_env.load("abot-small", weights="random", device="cuda", dtype=dtype)
    assert isinstance(world, AbotWorld)
    return world


def test_abot_world_makes_the_same_on_both_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    start = worldplay_env.Start(np.full((64, 96, 3), 90, np.uint8), "a place")
    here = worldplay_env.load("abot-small", weights="random", device="cpu")
    runs = [world.start(start, 0) for world in (here, abot("float32"))]
    for label in (9, 10, 2, 0, 9):
        made = [run.world.step([run], [next_control(run, label)])[0].latents.cpu() for run in runs]
        assert (made[0] - made[1]).norm() / made[0].norm() < 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.05)])
def test_abot_rollouts_of_all_ages_go_through_together_as_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    world = abot(dtype)
    rollouts = [world.start(worldplay_env.Start(None, "a place"), seed) for seed in range(5)]
    for age, rollout in enumerate(rollouts):
        for _ in range(age):
            world.step([rollout], [next_control(rollout, 9)])
    alone = [world.step([rollout.fork()], [next_control(rollout, 10)])[0].latents for rollout in rollouts]
    rollouts[-1].save(tmp_path / "rollout.safetensors")
    loaded = world.load_rollout(tmp_path / "rollout.safetensors")
    assert torch.equal(world.step([loaded], [next_control(loaded, 10)])[0].latents, alone[-1])
    together = world.step(rollouts, [next_control(rollout, 10) for rollout in rollouts])
    for one, other in zip(together, alone, strict=True):
        assert (one.latents - other).norm() / other.norm() < tolerance
    assert world.needed(5, 5, 5).certain == sum(
        page.nbytes for rollout in rollouts for page in rollout.window.pages[-3:]
    )
