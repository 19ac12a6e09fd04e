"""What a world is: the abstract `World`, the `Rollout` protocol, and the values that pass through them.

A world turns cameras into video, one chunk at a time. The world models (`diffusion/`), the rendered scenes (`scene/`)
and the test picture (`testcard.py`) implement it; the environments, the player and the rollout tool work over any
of them.
Nothing here needs torch until a world is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from worldplay_env.control.actions import DEFAULT_SCALE, NUM_ACTIONS, are_labels, motion_of
from worldplay_env.control.camera import (
    DEFAULT_INTRINSICS,
    MotionScale,
    check_poses,
    integrate,
    normalised_intrinsics_error,
)
from worldplay_env.control.held_keys import HELD_KEYS, vector_of_label
from worldplay_env.control.layout import LAYOUT, ChunkLayout
from worldplay_env.summary import one_line

if TYPE_CHECKING:
    import torch

    from worldplay_env.models.codec import Codec

CHUNK_LATENTS = LAYOUT.latents
"""Latent frames in a chunk of that layout; other worlds have their own (`World.layout`)."""

Decode = bool | Literal["newest"]
"""Which frames a step makes: all of its chunk, none, or the newest alone, which renderers make in less time."""

MID_GREY = 128
"""What every channel of the picture of a text-only start is."""


class WorldError(RuntimeError):
    """A world could not make a chunk (non-finite output, no memory); its rollouts are as they were."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where a rollout begins.

    Attributes:
        image: uint8 [height, width, 3] of any size (worlds scale and crop it to their own), or None for text only.
        prompt: what the world looks like; may be empty.
        pose: float64 [4, 4] camera-to-world matrix of latent frame 0.
        name: what the picture is called in infos and records; nothing else depends on it.
        references: uint8 [height, width, 3] pictures of any size, one for each of `World.references` in their order;
            or none.
    """

    image: np.ndarray | None = None
    prompt: str = ""
    pose: np.ndarray = field(default_factory=lambda: np.eye(4))
    name: str = ""
    references: tuple[np.ndarray, ...] = field(default=(), repr=False)

    __repr__ = one_line

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if self.image is not None:
            _check_picture("Start.image", self.image)
        object.__setattr__(self, "references", tuple(self.references))
        for reference in self.references:
            _check_picture("a reference picture", reference)
        object.__setattr__(self, "pose", _frozen(self.pose, np.float64))
        check_poses(self.pose[None])


@dataclass(frozen=True, eq=False)
class Control:
    """The cameras of one chunk; it keeps its own, read-only copies of what it is given.

    In chunk 0 the first pose is that of the start, and the others are new; in every later chunk all are new.

    Attributes:
        poses: float64 [L, 4, 4] camera-to-world matrices, one a latent frame; L is `ChunkLayout.latents`.
        labels: int64 [L] action labels 0..80 (spec section 3); 0 for the start.
        intrinsics: float64 [L, 3, 3] normalised intrinsics (spec section 2).
        keys: int64 [L, 8], 0 or 1: which of `HELD_KEYS` are held, for worlds that are told keys in place of cameras;
            by default those of the labels.
    """

    poses: np.ndarray
    labels: np.ndarray
    intrinsics: np.ndarray = None  # type: ignore[assignment]  # `DEFAULT_INTRINSICS` for all
    keys: np.ndarray = field(default=None, repr=False)  # type: ignore[arg-type]  # those of `labels`

    __repr__ = one_line

    def __post_init__(self) -> None:
        count = len(np.atleast_1d(self.labels))
        if not count or np.shape(self.poses) != (count, 4, 4):
            raise ValueError(f"{count} labels need {count} poses of 4x4, got shape {np.shape(self.poses)}")
        check_poses(self.poses)
        labels = check_labels(self.labels, count)
        if self.intrinsics is None:
            object.__setattr__(self, "intrinsics", np.broadcast_to(DEFAULT_INTRINSICS, (count, 3, 3)))
        if error := normalised_intrinsics_error(self.intrinsics, count):
            raise ValueError(error)
        object.__setattr__(self, "poses", _frozen(self.poses, np.float64))
        object.__setattr__(self, "labels", _frozen(labels, np.int64))
        object.__setattr__(self, "intrinsics", _frozen(self.intrinsics, np.float64))
        keys = [vector_of_label(int(label)) for label in labels] if self.keys is None else self.keys
        object.__setattr__(self, "keys", _frozen(_checked_keys(keys, count), np.int64))

    @classmethod
    def of_labels(
        cls, pose: np.ndarray, labels: Sequence[int] | np.ndarray, *, first: bool, motion: MotionScale = DEFAULT_SCALE
    ) -> Self:
        """Return the next chunk's cameras for L actions, one a latent frame.

        Args:
            pose: Float64 [4, 4], the rollout's newest pose.
            labels: L labels 0..80. In chunk 0 the first one is ignored: that latent frame is the start.
            first: Whether this is chunk 0.
            motion: The world's `motion`.
        """
        labels = check_labels(labels, len(labels)).copy()
        if first:
            labels[0] = 0
        poses = integrate(pose, [motion_of(int(label), motion) for label in labels[int(first) :]])
        return cls(poses=poses[-len(labels) :], labels=labels)


def check_labels(labels: Any, count: int) -> np.ndarray:
    """Return `count` action labels as int64, or raise ValueError."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"a chunk has {count} integer labels, got {labels.dtype} {labels.shape}")
    if not are_labels(labels):
        raise ValueError(f"action labels are 0..{NUM_ACTIONS - 1}, got {labels.tolist()}")
    return labels.astype(np.int64)


def _checked_keys(keys: Any, count: int) -> np.ndarray:
    keys = np.asarray(keys)
    if keys.shape != (count, len(HELD_KEYS)) or not np.isin(keys, (0, 1)).all():
        raise ValueError(f"a chunk has {count} vectors of {len(HELD_KEYS)} held keys, 0 or 1, got {keys.tolist()}")
    return keys


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one step made.

    Attributes:
        frames: uint8 [F, height, width, 3] on the world's device, in playing order; F is `ChunkLayout.images_of` the
            chunk; [1, height, width, 3] if only the newest was asked for; None if not decoded.
        latents: float32 [channels, L, rows, columns] normalised latents; None for a world that has none.
        poses: float64 [L, 4, 4], the camera-to-world matrices that the latent frames were really made from: the
            control's, or in a world with walls where the camera truly went.
        memory: int64 [K] sorted indices of the past latent frames the chunk was made from (K up to `layout.memory`).
        timings: seconds by part ("select", "prefill", "denoise", "decode", ...), of the call that made it.
    """

    frames: torch.Tensor | None
    latents: torch.Tensor | None
    poses: np.ndarray
    memory: np.ndarray
    timings: dict[str, float]

    __repr__ = one_line


@runtime_checkable
class Rollout(Protocol):
    """Everything that one running world needs to go on; made by `World.start` and changed by `World.step` alone."""

    seed: int
    """Chunk n's noise is a function of (seed, n)."""

    @property
    def world(self) -> World:
        """The world that began it."""

    @property
    def prompt(self) -> str:
        """The prompt in force, for the chunks to come."""

    @property
    def chunks(self) -> int:
        """Chunks made so far."""

    @property
    def pose(self) -> np.ndarray:
        """Float64 [4, 4]: the newest camera-to-world matrix; the start's before the first step."""

    @property
    def picture(self) -> np.ndarray:
        """Uint8 [height, width, 3]: the start as the world shows it; mid-grey if it has no image."""

    @property
    def start_latent(self) -> torch.Tensor | None:
        """Float32 [channels, 1, rows, columns]: the start's latent frame (zeros if it has no image)."""

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt for the chunks to come (a promptable event)."""

    def fork(self, seed: int | None = None) -> Self:
        """Return a rollout that goes on as this one would, or with other noise if given another seed."""

    def save(self, path: str | Path) -> None:
        """Write the rollout to a safetensors file that `World.load_rollout` reads."""


@dataclass(frozen=True)
class WorldSpec:
    """What is known of a world before it is loaded; attributes as in `World`."""

    image_size: tuple[int, int]
    latent_shape: tuple[int, int, int, int] | None
    fps: int
    uses_picture: bool = True
    uses_prompt: bool = True
    layout: ChunkLayout = LAYOUT
    motion: MotionScale = DEFAULT_SCALE
    references: tuple[str, ...] = ()
    name: str = ""


class World(ABC):
    """A model, renderer or picture that makes video from cameras, for any number of rollouts.

    A subclass sets `name`, `image_size`, `fps`, `latent_shape` and `device`, and overrides what differs of the rest.
    `worldplay_env.check_world` checks it.
    """

    name: str
    weights: str = "none"
    """Where the parameters came from: "random", "trained", a revision, "none" for a world without any."""
    weights_hash: str | None = None
    """Digest of the parameters' content and the sizes, 64 hexadecimal digits: equal for equal weights wherever their
    files lie, and in every dtype and on every device; None for a world without weights."""
    codec: Codec | None = None
    """What turns frames into latents and latents into frames; None for a world without latents."""
    has_model: bool = False
    """Whether a network makes the video, in place of a renderer or a picture."""
    image_size: tuple[int, int]
    """Height and width of a frame in pixels."""
    fps: int
    latent_shape: tuple[int, int, int, int] | None
    """Channels, latent frames, rows, columns of a chunk's latents; None for a world that has none."""
    device: torch.device
    layout: ChunkLayout = LAYOUT
    """Latent frames and images of a chunk, and the length of its memory."""
    motion: MotionScale = DEFAULT_SCALE
    """How far an action moves and turns the camera in a latent frame."""
    uses_picture: bool = True
    """Whether rollouts begin from the start's picture; False for a world that has its own."""
    uses_prompt: bool = True
    """Whether what is shown follows the prompt as it is changed."""
    references: tuple[str, ...] = ()
    """The names of the reference pictures that a start may have; none for a world that takes none."""
    loaded_by: Callable[[], World] | None = None
    """A picklable function that loads an equal world, set by `load`; None for a world made otherwise."""

    @property
    def spec(self) -> WorldSpec:
        """What `describe` says of the world."""
        return WorldSpec(**{field.name: getattr(self, field.name) for field in fields(WorldSpec)})

    @abstractmethod
    def start(self, start: Start, seed: int) -> Rollout:
        """Begin a rollout."""

    @abstractmethod
    def step(
        self,
        rollouts: Sequence[Any],
        controls: Sequence[Control],
        *,
        noise: torch.Tensor | None = None,
        decode: Decode = True,
    ) -> list[Chunk]:
        """Make one chunk for every rollout, all of them or none.

        Args:
            rollouts: Distinct rollouts of this world, however far each has run.
            controls: The cameras of each.
            noise: Float32 [len(rollouts), *latent_shape] in place of the rollouts' own noise.
            decode: Which frames to make; a rollout may skip decoding and go on without it.

        Raises:
            WorldError: The output was not finite or memory ran out; every rollout is as it was before.
        """

    @abstractmethod
    def stream(self, rollout: Any, control: Control) -> Generator[torch.Tensor, None, Chunk]:
        """Make one chunk and yield the frames of each latent frame as they are decoded: uint8 [F, height, width, 3].

        Together they are the `frames` that `step` would give, to float tolerance (of a model in float32 a grey level,
        in bfloat16 three). The chunk is committed when the last of them are handed out; the generator returns it.
        """

    @abstractmethod
    def load_rollout(self, path: str | Path) -> Rollout:
        """Read a rollout that `Rollout.save` wrote."""

    def without_selection(self) -> World | None:
        """Return a world of the same networks whose memory is the newest latent frames; None if there is none."""
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the world itself: copies of an env, or of the spec it was made from, share its weights."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the world was loaded by, not its weights."""
        if self.loaded_by is None:
            raise TypeError(f"only a world that load() returned can be pickled, by its arguments; got {self!r}")
        return self.loaded_by, ()


def check_prompt(prompt: str) -> str:
    """Return a prompt, or raise TypeError if it is no string."""
    if not isinstance(prompt, str):
        raise TypeError(f"the prompt must be a string, got {type(prompt).__name__}: {prompt!r}")
    return prompt


def check_seed(seed: int) -> int:
    """Return a rollout's seed, or raise ValueError if it is not a whole number of 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"a seed is a whole number of 0 or more, got {seed!r}")
    return int(seed)


def check_references(world: World | WorldSpec, references: Sequence[Any]) -> None:
    """Raise ValueError unless a world takes so many reference pictures."""
    if references and len(references) != len(world.references):
        takes = f"takes {len(world.references)}: {', '.join(world.references)}" if world.references else "takes none"
        raise ValueError(f"got {len(references)} reference pictures, and this world {takes}")


def check_step(world: World, rollouts: Sequence[Any], controls: Sequence[Control], noise: Any = None) -> None:
    """Raise ValueError or TypeError unless `World.step` can take these arguments (see there)."""
    if strangers := [one for one in rollouts if getattr(one, "world", None) is not world]:
        raise ValueError(f"{strangers[0]!r} is not a rollout of this world: use what its start() returned")
    if len(controls) != len(rollouts):
        raise ValueError(f"every rollout needs one control: got {len(rollouts)} rollouts, {len(controls)} controls")
    if len({id(rollout) for rollout in rollouts}) != len(rollouts):
        raise ValueError("a rollout is given twice in one step: fork it to go two ways from it")
    for rollout, control in zip(rollouts, controls, strict=True):
        if not isinstance(control, Control):
            raise TypeError(f"a control is a Control, got {type(control).__name__}: {control!r}")
        if len(control.labels) != world.layout.latents:
            raise ValueError(
                f"a chunk of this world has {world.layout.latents} latent frames, the control {len(control.labels)}"
            )
        if rollout.chunks == 0 and not np.allclose(control.poses[0], rollout.pose, atol=1e-4):
            raise ValueError(
                "the first pose of chunk 0 must be the start's own: give Start(pose=...) the one that the path begins"
                f" with; the start is at {rollout.pose[:3, 3]}, the path at {control.poses[0, :3, 3]}"
            )
    expected = (len(rollouts), *(world.latent_shape or ()))
    if noise is not None and (isinstance(noise, np.ndarray) or tuple(noise.shape) != expected):
        what = type(noise).__name__ if isinstance(noise, np.ndarray) else tuple(noise.shape)
        raise ValueError(f"noise must be a tensor of shape {expected}, got {what}")


def check_streamed(rollout: Rollout, chunks: int) -> None:
    """Raise WorldError unless a rollout that is being streamed still has as many chunks as when that began."""
    if rollout.chunks != chunks:
        raise WorldError("the rollout was stepped while its chunk was streamed: finish a stream before the next step")


def _check_picture(name: str, image: Any) -> None:
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"{name} must be a uint8 array [height, width, 3], got {what}")


def _frozen(array: Any, dtype: Any) -> np.ndarray:
    """Return a read-only copy."""
    copy = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy
