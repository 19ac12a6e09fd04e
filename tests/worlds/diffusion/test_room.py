"""The text encoder leaves its place on the device to a chunk that needs it, and comes back for a new prompt."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from small_world import CONFIG, PATH, small_world
from torch import Tensor, nn

from worldplay_env.models.config import TINY, WAN_5B, AutoencoderConfig, TextConfig
from worldplay_env.models.footprint import buffer_bytes, chunk_bytes
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.text import TextEncoder
from worldplay_env.weights.checkpoint import RandomWeights, load_autoencoder, load_text_model, load_tokenizer, on_meta
from worldplay_env.worlds.base import Start, WorldError
from worldplay_env.worlds.diffusion import room
from worldplay_env.worlds.diffusion.rollout import DiffusionRollout
from worldplay_env.worlds.diffusion.world import DiffusionWorld

TEXT = TextConfig(
    text_len=5, vocab_size=384, d_model=10, d_kv=4, d_ff=8, num_layers=1, num_heads=2, bytes_tokenizer=True
)
PLENTY = 10**15


class Loads:
    """A world with a text encoder, and how often that was loaded."""

    def __init__(self) -> None:
        self.count = 0
        self.encoder = TextEncoder(self._load, lambda: load_tokenizer(None), TEXT.text_len)
        self.world = small_world(text_encoder=self.encoder)

    def _load(self) -> nn.Module:
        self.count += 1
        return load_text_model(RandomWeights(0), TEXT)

    def begin(self, prompt: str = "hut") -> DiffusionRollout:
        return self.world.start(Start(prompt=prompt), 0)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """How much memory the device has free."""
    memory: dict[str, int | None] = {"bytes": PLENTY}
    monkeypatch.setattr(room, "free_bytes", lambda device: memory["bytes"])
    return memory


def needed(world: DiffusionWorld, batch: int = 1) -> int:
    passing = chunk_bytes(world.config, world.codec, batch, 4, 4, 4)
    return passing + buffer_bytes(world.config, batch, 4, 4)


def test_where_there_is_room_the_text_encoder_stays(free: dict[str, int | None]) -> None:
    loads = Loads()
    free["bytes"] = needed(loads.world)
    loads.world.step([loads.begin()], [PATH[0]])
    assert loads.encoder.loaded
    loads.begin("bay")
    assert loads.count == 1


def test_where_memory_is_not_counted_the_text_encoder_stays() -> None:
    assert room.free_bytes(torch.device("cpu")) is None
    loads = Loads()
    loads.world.step([loads.begin()], [PATH[0]])
    assert loads.encoder.loaded


@pytest.mark.parametrize(("fraction", "free"), [(1.0, 40 + 30 - 25), (0.5, 50 - 25)])
def test_what_torch_keeps_back_is_free_up_to_what_it_may_take(
    monkeypatch: pytest.MonkeyPatch, fraction: float, free: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 25)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction)
    assert room.free_bytes(torch.device("cuda")) == free


@pytest.mark.parametrize("streamed", [False, True])
def test_it_leaves_for_a_chunk_that_would_not_fit_and_comes_back_for_a_new_prompt(
    free: dict[str, int | None], streamed: bool
) -> None:
    loads, other = Loads(), Loads()
    rollout, expected = loads.begin(), other.begin()
    free["bytes"] = needed(loads.world) - 1
    for number, control in enumerate(PATH[:3]):
        if number == 2:
            rollout.set_prompt("snow")
            assert loads.encoder.loaded
            expected.set_prompt("snow")
        if streamed:
            frames = torch.cat(list(loads.world.stream(rollout, control)))
        else:
            [chunk] = loads.world.step([rollout], [control])
            assert chunk.frames is not None
            frames = chunk.frames
        assert not loads.encoder.loaded
        free["bytes"] = PLENTY
        [chunk] = other.world.step([expected], [control])
        assert other.encoder.loaded
        free["bytes"] = 0
        assert torch.equal(rollout.history[-1].latents, expected.history[-1].latents)
        assert streamed or torch.equal(frames, chunk.frames)  # type: ignore[arg-type]
    assert (loads.count, other.count) == (2, 1)


def test_what_a_larger_batch_needs_counts(free: dict[str, int | None]) -> None:
    loads = Loads()
    rollouts = [loads.begin() for _ in range(3)]
    free["bytes"] = needed(loads.world) + 1
    loads.world.step(rollouts[:1], PATH[:1])
    assert loads.encoder.loaded
    loads.world.step(rollouts[1:], [PATH[0]] * 2)
    assert not loads.encoder.loaded


def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, times: int) -> list[str]:
    """Let a function run out of memory the first times it is called."""
    calls: list[str] = []
    original = getattr(owner, name)

    def short(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, short)
    return calls


@pytest.mark.parametrize("streamed", [False, True])
def test_a_chunk_that_found_no_memory_is_made_again_without_the_text_encoder(
    monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    loads, other = Loads(), Loads()
    rollout, expected = loads.begin(), other.begin()
    other.world.step([expected], [PATH[0]])
    with monkeypatch.context() as patch:
        failing(patch, loads.world.transformer, "forward", 1)
        if streamed:
            list(loads.world.stream(rollout, PATH[0]))
        else:
            loads.world.step([rollout], [PATH[0]])
    assert not loads.encoder.loaded
    assert torch.equal(rollout.history[0].latents, expected.history[0].latents)


@pytest.mark.parametrize("times", [1, 2])
def test_a_chunk_that_finds_no_memory_without_it_either_is_an_error(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    loads = Loads()
    rollout = loads.begin()
    if times == 1:
        loads.world.release()
    with monkeypatch.context() as patch:
        calls = failing(patch, loads.world.transformer, "forward", times)
        with pytest.raises(WorldError, match="out of memory on cpu; no rollout was changed"):
            loads.world.step([rollout], [PATH[0]])
        assert len(calls) == times
    assert rollout.chunks == 0
    assert not loads.encoder.loaded
    loads.world.step([rollout], [PATH[0]])


def test_a_prompt_that_found_no_memory_is_encoded_without_the_buffers_of_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = Loads()
    rollout = loads.begin()
    loads.world.step([rollout], [PATH[0]])
    with monkeypatch.context() as patch:
        failing(patch, loads.encoder, "encode", 1)
        rollout.set_prompt("snow")
    assert rollout.prompt == "snow"
    assert loads.world._generator.buffered == 0
    with monkeypatch.context() as patch:
        failing(patch, loads.encoder, "encode", 2)
        with pytest.raises(WorldError, match="out of memory"):
            rollout.set_prompt("fog")
    assert rollout.prompt == "snow"


def test_the_buffers_are_counted_exactly() -> None:
    world = small_world()
    for batch in (1, 3):
        cache = world.transformer.new_cache(batch, 20 * CONFIG.tokens_per_frame)
        assert cache.nbytes == buffer_bytes(CONFIG, batch, 4, 4)


@pytest.mark.parametrize("config", [CONFIG.autoencoder, TINY.autoencoder], ids=["small", "tiny"])
@pytest.mark.parametrize("frames", [1, 4])
def test_the_largest_tensor_between_layers_is_the_one_that_is_counted(config: AutoencoderConfig, frames: int) -> None:
    autoencoder = load_autoencoder(RandomWeights(0), config)
    sizes: list[int] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    latents = torch.zeros(1, config.z_dim, frames, 4, 6)
    with torch.no_grad():
        _, state = autoencoder.decode(latents)
        for layer in autoencoder.modules():
            if not isinstance(layer, Autoencoder):
                layer.register_forward_hook(note)
        autoencoder.decode(latents, state)
    assert autoencoder.largest_decoded((4, 6), frames) == max(sizes)


def test_the_real_model_is_counted_as_it_was_measured() -> None:
    codec = on_meta(functools.partial(Autoencoder, WAN_5B.autoencoder))
    parameters = 2 * (5_293_225_152 + 704_688_668)
    assert buffer_bytes(WAN_5B, 1, 4, 2) == pytest.approx(13e9, rel=0.02)
    whole = parameters + buffer_bytes(WAN_5B, 1, 4, 2) + chunk_bytes(WAN_5B, codec, 1, 4, 4, 2)
    assert whole == pytest.approx(42e9, rel=0.1)
    assert chunk_bytes(WAN_5B, codec, 2, 4, 4, 2) == 2 * chunk_bytes(WAN_5B, codec, 1, 4, 4, 2)
    assert chunk_bytes(WAN_5B, codec, 1, 1, 4, 2) < chunk_bytes(WAN_5B, codec, 1, 4, 4, 2)
