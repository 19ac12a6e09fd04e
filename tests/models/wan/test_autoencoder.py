"""The autoencoder against recorded data, against diffusers, and against itself in every split of a stream."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from worldplay_env.models.codec import DecoderState, pixels_to_uint8, uint8_to_pixels
from worldplay_env.models.config import AutoencoderConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.causal import CausalConv3d
from worldplay_env.models.wan.resampling import UpsampledConv2d

Network = TypeVar("Network", bound=nn.Module)
GOLDEN = Path(__file__).parents[2] / "golden"


def sizes(
    base: int,
    decoder_base: int,
    dim_mult: tuple[int, ...],
    temporal: tuple[bool, ...],
    *,
    blocks: int = 1,
    patch: int = 2,
) -> AutoencoderConfig:
    return AutoencoderConfig(
        base_dim=base,
        decoder_base_dim=decoder_base,
        z_dim=4,
        latents_mean=(0.1, -0.2, 0.3, 0.0),
        latents_std=(0.5, 2.0, 1.0, 1.5),
        dim_mult=dim_mult,
        temporal_downsample=temporal,
        num_res_blocks=blocks,
        patch_size=patch,
    )


LAYOUTS = {
    "wan": sizes(4, 6, (1, 2, 4, 4), (False, True, True), blocks=2),
    "tiny": sizes(8, 4, (1, 2, 2), (True, True), patch=4),
    "narrowing": sizes(4, 4, (1, 4, 2), (True, True), patch=1),
    "one time level": sizes(4, 8, (2, 2, 2), (False, True), blocks=3),
    "two levels": sizes(4, 4, (1, 1), (True,), patch=3),
}


def randomised(module: Network, seed: int = 0) -> Network:
    """Draw every parameter, norms and biases too, so that none is a neutral 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if name.endswith("gamma"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return module.requires_grad_(False)


def random(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def decode_in_parts(model: Autoencoder, latents: Tensor, parts: list[int]) -> tuple[Tensor, DecoderState]:
    frames, state = [], None
    for part in latents.split(parts, dim=2):
        decoded, state = model.decode(part, state)
        frames.append(decoded)
    assert state is not None
    return torch.cat(frames, dim=2), state


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    case = json.loads((GOLDEN / "vae.json").read_text())
    return case | {"tensors": safetensors.torch.load_file(GOLDEN / "vae.safetensors")}


@pytest.fixture(scope="module")
def recorded_model(golden: dict[str, Any]) -> Autoencoder:
    model = Autoencoder(AutoencoderConfig.from_dict(golden["config"]))
    weights = [
        safetensors.torch.load_file(GOLDEN / f"vae_{part}_weights.safetensors") for part in ("encoder", "decoder")
    ]
    model.load_state_dict(weights[0] | weights[1])
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    return randomised(Autoencoder(LAYOUTS["tiny"]).double())


class TestRecorded:
    def test_encoded_image(self, golden: dict[str, Any], recorded_model: Autoencoder) -> None:
        tensors, tolerance = golden["tensors"], golden["tolerance"]["latents"]
        mean, logvar = recorded_model.encode(tensors["in/image"])
        torch.testing.assert_close(mean, tensors["out/image_mean"], **tolerance)
        torch.testing.assert_close(logvar, tensors["out/image_logvar"], **tolerance)
        torch.testing.assert_close(recorded_model.normalise(mean), tensors["out/image_latent"], **tolerance)

    def test_encoded_video(self, golden: dict[str, Any], recorded_model: Autoencoder) -> None:
        mean, _ = recorded_model.encode(golden["tensors"]["in/video"])
        torch.testing.assert_close(mean, golden["tensors"]["out/video_mean"], **golden["tolerance"]["latents"])

    @pytest.mark.parametrize("parts", [[12], [4, 4, 4], [1] * 12, [3, 1, 6, 2]], ids=str)
    def test_decoded_stream(self, golden: dict[str, Any], recorded_model: Autoencoder, parts: list[int]) -> None:
        frames, state = decode_in_parts(recorded_model, golden["tensors"]["in/latents"], parts)
        expected = golden["tensors"]["out/frames"]
        torch.testing.assert_close(frames, expected, **golden["tolerance"]["frames"], rtol=0)
        assert state.latent_frames == (12,)
        recorded_shapes = [shape for shape in golden["streaming"]["cache_shapes_after_third_latent"] if shape]
        assert [list(history.shape) for history in state.histories] == recorded_shapes

    def test_decoded_in_bfloat16(self, golden: dict[str, Any]) -> None:
        model = Autoencoder(AutoencoderConfig.from_dict(golden["config"]))
        for part in ("encoder", "decoder"):
            weights = safetensors.torch.load_file(GOLDEN / f"vae_{part}_weights.safetensors")
            model.load_state_dict(weights, strict=False)
        model.to(torch.bfloat16).requires_grad_(False)
        frames, _ = decode_in_parts(model, golden["tensors"]["in/latents"], [4, 4, 4])
        assert frames.dtype == torch.bfloat16
        expected = golden["tensors"]["out/frames"]
        error = (frames.float() - expected).norm() / expected.norm()
        assert error < golden["tolerance"]["bfloat16_frames"]["rel_l2"]

    def test_real_size_has_the_recorded_parameters(self) -> None:
        recorded = json.loads((GOLDEN / "keys.json").read_text())["vae"]
        with torch.device("meta"):
            model = Autoencoder(AutoencoderConfig.from_dict(recorded["config"]))
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        assert shapes == recorded["keys"]
        assert len(shapes) == 196


@pytest.fixture(scope="module", params=LAYOUTS)
def pair(request: pytest.FixtureRequest) -> tuple[Autoencoder, Any]:
    from diffusers import AutoencoderKLWan

    config = LAYOUTS[request.param]
    ours = randomised(Autoencoder(config))
    channels = 3 * config.patch_size**2
    oracle: Any = AutoencoderKLWan(
        base_dim=config.base_dim,
        decoder_base_dim=config.decoder_base_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        is_residual=True,
        in_channels=channels,
        out_channels=channels,
        patch_size=config.patch_size,
    )
    oracle.load_state_dict(ours.state_dict())
    return ours, oracle


class TestAgainstDiffusers:
    @pytest.mark.parametrize("frames", [1, 9])
    def test_encode(self, pair: tuple[Autoencoder, Any], frames: int) -> None:
        ours, oracle = pair
        side = ours.config.spatial_factor
        video = random(2, 3, frames, 2 * side, 3 * side).clamp(-1, 1)
        posterior = oracle.encode(video).latent_dist
        mean, logvar = ours.encode(video)
        torch.testing.assert_close(mean, posterior.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logvar, posterior.logvar, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("parts", [[1], [5], [2, 3]], ids=str)
    def test_decode(self, pair: tuple[Autoencoder, Any], parts: list[int]) -> None:
        ours, oracle = pair
        latents = random(2, 4, sum(parts), 2, 3)
        frames, _ = decode_in_parts(ours, latents, parts)
        assert frames.shape[2] == 1 + (sum(parts) - 1) * ours.config.temporal_factor
        torch.testing.assert_close(frames, oracle.decode(ours.denormalise(latents)).sample, atol=1e-5, rtol=1e-4)


class TestStream:
    @settings(max_examples=12, deadline=None)
    @given(parts=st.lists(st.integers(1, 4), min_size=1, max_size=4), batch=st.integers(1, 3))
    def test_any_split_equals_the_whole(self, model: Autoencoder, parts: list[int], batch: int) -> None:
        latents = random(batch, 4, sum(parts), 2, 2, dtype=torch.float64)
        whole, whole_state = model.decode(latents)
        streamed, state = decode_in_parts(model, latents, parts)
        torch.testing.assert_close(streamed, whole, atol=1e-12, rtol=0)
        assert state.latent_frames == whole_state.latent_frames == (sum(parts),) * batch
        for one, other in zip(state.histories, whole_state.histories, strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)

    def test_rollouts_of_any_age_decode_together_as_each_alone(self, model: Autoencoder) -> None:
        ages, coming = (1, 3, 8), random(3, 4, 4, 2, 3, seed=2, dtype=torch.float64)
        states = [model.decode(random(1, 4, age, 2, 3, seed=age, dtype=torch.float64))[1] for age in ages]
        together, stacked = model.decode(coming, DecoderState.stack(states))
        assert stacked.latent_frames == (5, 7, 12)
        for row, (state, after) in enumerate(zip(states, stacked.split(), strict=True)):
            alone, alone_after = model.decode(coming[row : row + 1], state)
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-12, rtol=0)
            torch.testing.assert_close(after.histories, alone_after.histories, atol=1e-12, rtol=0)
            assert after.latent_frames == alone_after.latent_frames

    def test_a_shared_state_is_never_written(self, model: Autoencoder) -> None:
        _, state = model.decode(random(1, 4, 2, 2, 3, dtype=torch.float64))
        before = [history.clone() for history in state.histories]
        coming = random(1, 4, 3, 2, 3, seed=3, dtype=torch.float64)
        first, _ = model.decode(coming, state)
        model.decode(-coming, state)
        again, _ = model.decode(coming, state)
        assert torch.equal(first, again)
        assert all(map(torch.equal, before, state.histories))

    def test_a_state_owns_no_more_memory_than_it_shows(self, model: Autoencoder) -> None:
        _, state = model.decode(random(2, 4, 4, 2, 3, dtype=torch.float64))
        for each in (state, *state.split(), DecoderState.stack(state.split())):
            for history in each.histories:
                assert history.untyped_storage().nbytes() == history.numel() * history.element_size()

    def test_a_saved_state_goes_on_bit_for_bit(self, model: Autoencoder, tmp_path: Path) -> None:
        _, state = model.decode(random(2, 4, 3, 2, 3, dtype=torch.float64))
        safetensors.torch.save_file(state.to_tensors(), tmp_path / "state.safetensors")
        loaded = DecoderState.from_tensors(safetensors.torch.load_file(tmp_path / "state.safetensors"))
        assert loaded.latent_frames == state.latent_frames
        coming = random(2, 4, 4, 2, 3, seed=4, dtype=torch.float64)
        (frames, after), (loaded_frames, loaded_after) = (model.decode(coming, s) for s in (state, loaded))
        assert torch.equal(frames, loaded_frames)
        assert all(map(torch.equal, after.histories, loaded_after.histories))

    def test_no_frame_depends_on_a_later_latent(self, model: Autoencoder) -> None:
        latents = random(1, 4, 4, 2, 2, dtype=torch.float64)
        changed = torch.cat([latents[:, :, :2], -latents[:, :, 2:]], dim=2)
        frames, other = (model.decode(each, clamp=False)[0] for each in (latents, changed))
        torch.testing.assert_close(frames[:, :, :5], other[:, :, :5], atol=1e-12, rtol=0)
        assert not torch.allclose(frames[:, :, 5:], other[:, :, 5:], atol=1e-3)


class TestParts:
    @pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 4, 5)], ids=str)
    def test_upsampled_convolution_is_repetition_then_convolution(self, shape: tuple[int, ...]) -> None:
        conv = randomised(UpsampledConv2d(3, 5).double())
        x = random(*shape, dtype=torch.float64)
        enlarged = F.interpolate(x, scale_factor=2, mode="nearest")
        expected = F.conv2d(enlarged, conv.weight, conv.bias, padding=1)
        torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("kernel", [3, (3, 1, 1), 1], ids=str)
    @pytest.mark.parametrize("side", [2, 24], ids=["small", "large"])
    def test_causal_convolution_is_a_convolution_after_zeros(
        self, kernel: int | tuple[int, int, int], side: int
    ) -> None:
        conv = randomised(CausalConv3d(64, 2, kernel))
        x = random(1, 64, 16, side, 2)
        time, height, width = conv.kernel_size
        padded = F.pad(x, (width // 2,) * 2 + (height // 2,) * 2 + (time - 1, 0))
        torch.testing.assert_close(conv(x), F.conv3d(padded, conv.weight, conv.bias), atol=1e-4, rtol=1e-4)

    def test_denormalise_undoes_normalise_in_float32_at_least(self, model: Autoencoder) -> None:
        latents = random(2, 4, 3, 2, 2).to(torch.bfloat16)
        normalised = model.normalise(latents)
        assert normalised.dtype == torch.float32
        torch.testing.assert_close(model.denormalise(normalised), latents.float())
        torch.testing.assert_close(normalised[:, 1], (latents[:, 1].float() + 0.2) / 2)

    def test_pixels_and_uint8(self) -> None:
        levels = torch.arange(256, dtype=torch.uint8)
        assert torch.equal(pixels_to_uint8(uint8_to_pixels(levels)), levels)
        assert uint8_to_pixels(levels)[[0, 255]].tolist() == [-1, 1]
        assert pixels_to_uint8(torch.tensor([-1.0, -0.5, 0.0, 0.25, 1.0])).tolist() == [0, 64, 128, 159, 255]
        assert pixels_to_uint8(torch.tensor([1.0, -1.0], dtype=torch.bfloat16)).tolist() == [255, 0]


class TestTraining:
    @pytest.fixture
    def trainable(self) -> Autoencoder:
        return randomised(Autoencoder(LAYOUTS["tiny"])).requires_grad_(True)

    def test_every_parameter_learns_from_a_round_trip(self, trainable: Autoencoder) -> None:
        video = random(2, 3, 5, 32, 32).clamp(-1, 1)
        mean, logvar = trainable.encode(video)
        frames, _ = trainable.decode(trainable.normalise(mean), clamp=False)
        ((frames - video).square().mean() + logvar.square().mean()).backward()
        for name, parameter in trainable.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_unclamped_frames_have_a_gradient_beyond_the_range(self, trainable: Autoencoder) -> None:
        latents = 100 * random(1, 4, 2, 2, 2)
        frames, unclamped = (trainable.decode(latents, clamp=clamp)[0] for clamp in (True, False))
        assert unclamped.abs().max() > 1
        torch.testing.assert_close(frames, unclamped.clamp(-1, 1))

    @pytest.mark.slow
    def test_decoder_compiles_as_one_graph(self, model: Autoencoder) -> None:
        compiled = torch.compile(model.decoder, fullgraph=True, backend="eager")
        latents = random(1, 4, 2, 2, 2, dtype=torch.float64)
        histories = None
        for _ in range(2):
            expected, next_histories = model.decoder(latents, histories)
            patches, compiled_histories = compiled(latents, histories)
            torch.testing.assert_close(patches, expected)
            torch.testing.assert_close(compiled_histories, next_histories)
            histories = next_histories


class TestErrors:
    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((3, 5, 32, 32), r"\[B, 3, F, H, W\]"),
            ((1, 4, 5, 32, 32), r"\[B, 3, F, H, W\]"),
            ((1, 3, 5, 40, 32), "divisible by 16"),
            ((1, 3, 4, 32, 32), "1 \\+ a multiple of 4 frames, got 4"),
            ((1, 3, 0, 32, 32), "got 0"),
        ],
    )
    def test_video_of_a_wrong_shape(self, model: Autoencoder, shape: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            model.encode(torch.zeros(shape))

    @pytest.mark.parametrize("shape", [(4, 1, 2, 2), (1, 3, 1, 2, 2), (1, 4, 0, 2, 2)], ids=str)
    def test_latents_of_a_wrong_shape(self, model: Autoencoder, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="latents are"):
            model.decode(torch.zeros(shape))

    @pytest.mark.parametrize("shape", [(2, 4, 1, 2, 3), (1, 4, 1, 3, 3)], ids=str)
    def test_state_of_another_stream(self, model: Autoencoder, shape: tuple[int, ...]) -> None:
        _, state = model.decode(torch.zeros(1, 4, 1, 2, 3))
        with pytest.raises(ValueError, match="does not fit"):
            model.decode(torch.zeros(shape), state)

    def test_state_of_another_dtype(self, model: Autoencoder) -> None:
        _, state = model.decode(torch.zeros(1, 4, 1, 2, 3))
        cast = replace(state, histories=tuple(history.float() for history in state.histories))
        with pytest.raises(ValueError, match=r"torch\.float32.*torch\.float64"):
            model.decode(torch.zeros(1, 4, 1, 2, 3), cast)

    def test_states_that_cannot_be_stacked(self, model: Autoencoder) -> None:
        states = [model.decode(torch.zeros(1, 4, 1, 2, width))[1] for width in (2, 3)]
        with pytest.raises(ValueError, match="different decoders or image sizes"):
            DecoderState.stack(states)
        with pytest.raises(ValueError, match="no decoder states"):
            DecoderState.stack([])

    @pytest.mark.parametrize("change", ["missing", "unexpected"])
    def test_tensors_that_are_no_state(self, model: Autoencoder, change: str) -> None:
        tensors = model.decode(torch.zeros(1, 4, 1, 2, 2))[1].to_tensors()
        if change == "missing":
            del tensors["history.3"]
        else:
            tensors["stranger"] = torch.zeros(1)
        with pytest.raises(ValueError, match=r"history\.3" if change == "missing" else "stranger"):
            DecoderState.from_tensors(tensors)

    @pytest.mark.parametrize(
        ("dim_mult", "message"),
        [((1, 2, 2, 3), "averaging shortcut from 8 to 12"), ((1, 1, 8, 8), "duplicating shortcut from 32 to 4")],
    )
    def test_widths_without_a_shortcut(self, dim_mult: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Autoencoder(sizes(4, 4, dim_mult, (False, False, True)))
