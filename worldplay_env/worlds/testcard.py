"""The test picture: a `World` without a model, whose picture moves with the pose.

Yaw and pitch slide the start picture (a card of colour bars for a text-only start), translation zooms and shifts it.
A strip at the top marks the heading, one at the foot counts frames in binary. Its latents are the pose and a little
noise, so that what is built around a world (environments, the player) runs, and differs by seed, as with the dream.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from worldplay_env.control.camera import check_poses
from worldplay_env.media.image import fit_image
from worldplay_env.summary import rollout_line
from worldplay_env.worlds.base import (
    LAYOUT,
    MID_GREY,
    Chunk,
    Control,
    Decode,
    Start,
    World,
    WorldError,
    WorldSpec,
    check_prompt,
    check_seed,
    check_step,
    check_streamed,
)
from worldplay_env.worlds.device import pick_device
from worldplay_env.worlds.rollout_file import check_arrays, read_rollout, write_rollout

if TYPE_CHECKING:
    import torch

FPS = 16
COUNTER_BITS = 16
NOISE_SCALE = 0.1
GRAIN = 60.0
"""Grey levels that one unit of latent noise adds to a picture."""
DEPTH = 2.0
"""World units: sideways steps shift the picture as if it hung this far away; that far forward doubles it."""


def _latent_shape(image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    height, width = image_size
    return 4, LAYOUT.latents, max(1, height // 16), max(1, width // 16)


SPEC = WorldSpec(
    image_size=(96, 160), latent_shape=_latent_shape((96, 160)), fps=FPS, uses_prompt=False, name="testcard"
)
"""The sizes by default."""


def describe(name: str = "testcard") -> WorldSpec:
    """Return the sizes of the test picture by default."""
    return SPEC


def load(
    name: str = "testcard",
    *,
    device: str | torch.device | None = None,
    image_size: tuple[int, int] = SPEC.image_size,
    seconds_per_chunk: float = 0.0,
) -> Testcard:
    """Return a test picture; `worldplay_env.load("testcard", ...)` calls this.

    Args:
        name: What it is called.
        device: Where frames and latents are put; "cpu" by default.
        image_size: Height and width of a frame in pixels.
        seconds_per_chunk: How long making a chunk takes at least, to stand in for a model of that speed.

    Raises:
        ValueError: An image size that is not two positive integers, a negative time.
    """
    return Testcard(image_size=image_size, seconds_per_chunk=seconds_per_chunk, device=device)


@dataclass(eq=False)
class TestcardRollout:
    """One running test picture: see `worldplay_env.worlds.base.Rollout`."""

    __test__ = False  # not a test case, whatever pytest makes of its name

    world: Testcard
    seed: int
    picture: np.ndarray
    card: np.ndarray
    """Uint8 [height, width, 3]: what moves; the picture, or colour bars for a text-only start."""
    pose: np.ndarray
    prompt: str
    chunks: int = 0

    def __repr__(self) -> str:
        return rollout_line(self, self.world.name)

    @property
    def start_latent(self) -> torch.Tensor:
        """Float32 [4, 1, rows, columns]: the pose, without noise."""
        return self.world._latents(self.pose[None], None)

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt; it does not change the picture."""
        self.prompt = check_prompt(prompt)

    def fork(self, seed: int | None = None) -> Self:
        """Return a rollout that goes on as this one would, or with other noise."""
        return replace(self, seed=self.seed if seed is None else check_seed(seed))

    def save(self, path: str | Path) -> None:
        """Write the rollout to a safetensors file that `Testcard.load_rollout` reads."""
        facts = {"world": "testcard", "seed": self.seed, "chunks": self.chunks, "prompt": self.prompt}
        write_rollout(path, facts, {"picture": self.picture, "card": self.card, "pose": self.pose})


class Testcard(World):
    """A world that shows a test picture from every pose; see the module."""

    __test__ = False
    uses_prompt = SPEC.uses_prompt
    latent_shape: tuple[int, int, int, int]

    def __init__(
        self,
        image_size: tuple[int, int] = SPEC.image_size,
        seconds_per_chunk: float = 0.0,
        device: str | torch.device | None = None,
    ) -> None:
        if len(image_size) != 2 or not all(isinstance(side, int) and side > 0 for side in image_size):
            raise ValueError(f"image_size must be two positive integers (height, width), got {image_size!r}")
        if not 0 <= seconds_per_chunk < float("inf"):
            raise ValueError(f"seconds_per_chunk must be 0 or more, got {seconds_per_chunk}")
        self.name = "testcard"
        self.image_size = (image_size[0], image_size[1])
        self.latent_shape = _latent_shape(self.image_size)
        self.fps = FPS
        self.device = pick_device(device or "cpu")
        self.seconds_per_chunk = seconds_per_chunk

    def start(self, start: Start, seed: int) -> TestcardRollout:
        """Begin a rollout."""
        if start.image is None:
            picture, card = np.full((*self.image_size, 3), MID_GREY, dtype=np.uint8), _colour_bars(self.image_size)
        else:
            picture = card = fit_image(start.image, self.image_size)
        pose = np.array(start.pose, dtype=np.float64)
        return TestcardRollout(
            world=self, seed=check_seed(seed), picture=picture, card=card, pose=pose, prompt=start.prompt
        )

    def step(
        self,
        rollouts: Sequence[TestcardRollout],
        controls: Sequence[Control],
        *,
        noise: torch.Tensor | None = None,
        decode: Decode = True,
    ) -> list[Chunk]:
        """Make one chunk for every rollout, all of them or none; see `World.step`."""
        began = time.perf_counter()
        check_step(self, rollouts, controls, noise)
        chunks = []
        for row, (rollout, control) in enumerate(zip(rollouts, controls, strict=True)):
            drawn = self._noise(rollout) if noise is None else noise[row].cpu()
            latents = self._chunk_latents(rollout, control, drawn)
            frames = self._frames(rollout, control, latents).to(self.device) if decode else None
            if frames is not None and decode == "newest":
                frames = frames[-1:]
            chunks.append(Chunk(frames, latents.to(self.device), control.poses, _memory(rollout.chunks), {}))
        time.sleep(max(0.0, self.seconds_per_chunk - (time.perf_counter() - began)))
        for rollout, control, chunk in zip(rollouts, controls, chunks, strict=True):
            _commit(rollout, control)
            chunk.timings["render"] = time.perf_counter() - began
        return chunks

    def stream(self, rollout: TestcardRollout, control: Control) -> Generator[torch.Tensor, None, Chunk]:
        """Make one chunk and yield its frames one latent frame at a time; see `World.stream`."""
        began = time.perf_counter()
        check_step(self, [rollout], [control])
        made, memory = rollout.chunks, _memory(rollout.chunks)
        latents = self._chunk_latents(rollout, control, self._noise(rollout))
        frames = self._frames(rollout, control, latents).to(self.device)
        pieces = frames.split(self.layout.images_by_latent(made))
        for piece in pieces[:-1]:
            time.sleep(self.seconds_per_chunk / self.layout.latents)
            yield piece
        time.sleep(self.seconds_per_chunk / self.layout.latents)
        check_streamed(rollout, made)
        _commit(rollout, control)
        timings = {"render": time.perf_counter() - began}
        yield pieces[-1]
        return Chunk(frames, latents.to(self.device), control.poses, memory, timings)

    def load_rollout(self, path: str | Path) -> TestcardRollout:
        """Read a rollout that `TestcardRollout.save` wrote.

        Raises:
            ValueError: The file holds no rollout of a test picture of this size.
        """
        metadata, arrays = read_rollout(path, "testcard", self.image_size)
        check_arrays(path, arrays, {"picture": "uint8", "card": "uint8", "pose": "float64"})
        if arrays["card"].shape != (*self.image_size, 3):
            raise ValueError(f"{str(path)!r} holds a card of shape {arrays['card'].shape}")
        check_poses(arrays["pose"][None])
        return TestcardRollout(
            world=self,
            seed=int(metadata["seed"]),
            prompt=metadata["prompt"],
            chunks=int(metadata["chunks"]),
            **arrays,
        )

    def _noise(self, rollout: TestcardRollout) -> torch.Tensor:
        """Return the chunk's noise, float32 [channels, 4, rows, columns]: a function of the seed and its number."""
        import torch

        entropy = np.random.SeedSequence([rollout.seed, rollout.chunks]).generate_state(1, np.uint64)
        generator = torch.Generator("cpu").manual_seed(int(entropy[0]))
        return torch.randn(self.latent_shape, generator=generator)

    def _chunk_latents(self, rollout: TestcardRollout, control: Control, noise: torch.Tensor) -> torch.Tensor:
        latents = self._latents(control.poses, noise)
        if rollout.chunks == 0:
            latents[:, :1] = rollout.start_latent
        if not latents.isfinite().all():
            raise WorldError(f"chunk {rollout.chunks} is not finite; the rollout is as it was before")
        return latents

    def _latents(self, poses: np.ndarray, noise: torch.Tensor | None) -> torch.Tensor:
        """Return x, z, yaw and pitch of poses [N, 4, 4] as channels, plus noise: float32 [4, N, rows, columns]."""
        import torch

        rows, columns = self.latent_shape[2:]
        channels = torch.from_numpy(_parameters(poses)[:, [0, 2, 3, 4]].T.astype(np.float32))  # [4, N]
        latents = channels[:, :, None, None].expand(-1, -1, rows, columns)
        return latents.clone() if noise is None else latents + NOISE_SCALE * noise

    def _frames(self, rollout: TestcardRollout, control: Control, latents: torch.Tensor) -> torch.Tensor:
        """Return the chunk's video on the CPU: uint8 [13 or 16, height, width, 3]."""
        import torch

        path = np.concatenate([rollout.pose[None], control.poses[1 if rollout.chunks == 0 else 0 :]])
        views = _between(_parameters(path))  # [12 or 16, 5]
        if rollout.chunks == 0:
            views = np.concatenate([_parameters(path[:1]), views])  # [13, 5]
        number = self.layout.images_before(rollout.chunks)
        frames = np.stack([_view(rollout.card, view, number + index) for index, view in enumerate(views)])

        height, width = self.image_size
        clean = self._latents(control.poses, None)
        grain = torch.nn.functional.interpolate((latents - clean)[:1], size=(height, width))
        levels = (grain[0] * GRAIN).round().numpy()  # [4, height, width]
        levels = np.repeat(levels, 4, axis=0)[-len(frames) :, :, :, None]
        margin = _margin(height)
        frames[:, margin:-margin] = np.clip(frames[:, margin:-margin] + levels[:, margin:-margin], 0, 255)
        return torch.from_numpy(frames)


def frame_number(frame: np.ndarray) -> int:
    """Return what the counter at the foot of a frame, uint8 [height, width, 3], says: 0 for a rollout's first."""
    height, width = frame.shape[:2]
    centres = ((np.arange(COUNTER_BITS) + 0.5) * width / COUNTER_BITS).astype(int)
    bits = frame[height - _margin(height) // 2 - 1, centres, 0] > 127
    return int((bits * 2 ** np.arange(COUNTER_BITS)[::-1]).sum())


def _commit(rollout: TestcardRollout, control: Control) -> None:
    rollout.pose = np.array(control.poses[-1], dtype=np.float64)
    rollout.chunks += 1


def _memory(chunks: int) -> np.ndarray:
    latents = chunks * LAYOUT.latents
    return np.arange(max(0, latents - LAYOUT.memory), latents)


def _margin(height: int) -> int:
    """Rows of the strips at the top and at the foot."""
    return max(1, height // 16)


def _parameters(poses: np.ndarray) -> np.ndarray:
    """Return x, y, z and the yaw and pitch (radians; right and up positive) of poses [N, 4, 4]: [N, 5]."""
    ahead = poses[:, :3, 2]
    yaw = np.arctan2(ahead[:, 0], ahead[:, 2])
    pitch = np.arctan2(-ahead[:, 1], np.hypot(ahead[:, 0], ahead[:, 2]))
    return np.column_stack([poses[:, :3, 3], yaw, pitch])


def _between(parameters: np.ndarray) -> np.ndarray:
    """Return four evenly spaced views for every step between rows [N + 1, 5], the last of them its end: [4 N, 5]."""
    steps = np.diff(parameters, axis=0)
    steps[:, 3] = (steps[:, 3] + np.pi) % (2 * np.pi) - np.pi  # the short way round
    views = parameters[:-1, None] + steps[:, None] * np.array([0.25, 0.5, 0.75, 1.0])[:, None]  # [N, 4, 5]
    return views.reshape(-1, 5)


def _view(card: np.ndarray, view: np.ndarray, number: int) -> np.ndarray:
    """Return the card seen from x, y, z, yaw, pitch, with the heading and the frame's number: uint8 [H, W, 3]."""
    height, width = card.shape[:2]
    x, y, z, yaw, pitch = view
    # The card repeats as in facing mirrors, every two widths; four widths to a turn, so that a turn leads back.
    pixels_a_radian = 4 * width / (2 * np.pi)
    zoom = 2.0 ** np.clip(-z / DEPTH, -8, 8)
    columns = (np.arange(width) + 0.5 - width / 2) * zoom + width / 2 + pixels_a_radian * (yaw + x / DEPTH)
    rows = (np.arange(height) + 0.5 - height / 2) * zoom + height / 2 + pixels_a_radian * (y / DEPTH - pitch)
    frame = card[_mirrored(rows, height)[:, None], _mirrored(columns, width)[None]]

    margin = _margin(height)
    frame[:margin] = 0
    mark = int((yaw / (2 * np.pi) + 0.5) % 1 * width)
    frame[:margin, max(0, mark - 1) : mark + 2] = (255, 255, 0)
    bits = np.arange(width) * COUNTER_BITS // width  # the counter's bit in each column, highest first
    frame[-margin:] = np.where(number >> (COUNTER_BITS - 1 - bits) & 1, 255, 0)[None, :, None]
    return frame


def _mirrored(positions: np.ndarray, size: int) -> np.ndarray:
    """Return the pixel of a line of `size` pixels that repeats in both directions, every other time reversed."""
    index = np.floor(positions).astype(np.int64) % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _colour_bars(image_size: tuple[int, int]) -> np.ndarray:
    """Return eight colour bars over a chequered ramp: uint8 [height, width, 3]."""
    height, width = image_size
    bars = np.array(
        [
            [255, 255, 255],
            [255, 255, 0],
            [0, 255, 255],
            [0, 255, 0],
            [255, 0, 255],
            [255, 0, 0],
            [0, 0, 255],
            [0, 0, 0],
        ]
    )
    rows, columns = np.indices(image_size)
    ramp = columns * 255 // max(1, width - 1)
    cell = max(1, height // 12)
    chequered = np.where((rows // cell + columns // cell) % 2, ramp, 255 - ramp)[:, :, None]
    return np.where((rows < 2 * height // 3)[:, :, None], bars[columns * 8 // width], chequered).astype(np.uint8)
