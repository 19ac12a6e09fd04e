"""A small player and films inside a Jupyter notebook. It needs the extra `notebook`.

from worldplay_env import notebook

notebook.player("tiny")
notebook.video(frames)
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image
from torch import Tensor

try:
    import ipywidgets
    from IPython.display import Video
except ImportError as error:
    raise ImportError(f"worldplay_env.notebook needs: pip install 'worldplay-env[notebook]' ({error})") from error

from worldplay_env.control.actions import KEYS, action_name, label_of_keys
from worldplay_env.envs.starts import choose_start
from worldplay_env.media.video import FilmWriter
from worldplay_env.worlds.base import Rollout, World
from worldplay_env.worlds.follow import next_control
from worldplay_env.worlds.registry import load
from worldplay_env.worlds.transfer import fetch

ARROWS = {"up": "▲", "left": "◀", "down": "▼", "right": "▶"}
PADS = (("w", "a", "s", "d"), ("up", "left", "down", "right"))
LONGEST_WAY = 64
"""Chunks that "Back" can undo."""
SHOWN_WIDTH = 480


def player(env_or_world: gymnasium.Env[Any, Any] | World | str, **options: Any) -> Player:
    """Return a player to be shown as a cell's result.

    Args:
        env_or_world: A world, the name of one, or an env that has been reset. An env's player goes on from the
            env's episode in a fork: the env itself stays where it is.
        options: Of `Player`; an env takes none but `fps`.

    Raises:
        ResetNeeded: An env without an episode.
        TypeError: Something else.
        ValueError: An unknown world, or a picture that it does not begin from.
    """
    if isinstance(env_or_world, gymnasium.Env):
        inner: Any = env_or_world.unwrapped
        return Player(inner.rollout.fork(), fps=options.pop("fps", inner.fps), **options)
    world = load(env_or_world) if isinstance(env_or_world, str) else env_or_world
    if not isinstance(world, World):
        raise TypeError(f"expected an env, a world or the name of one, got {type(env_or_world).__name__}")
    start = choose_start(options.pop("image", None), options.pop("prompt", None), world.spec)
    return Player(world.start(start, options.pop("seed", 0)), **options)


def video(frames: np.ndarray | Tensor, fps: float = 16) -> Video:
    """Return a film to be shown as a cell's result; it is part of the notebook, without a file beside it.

    Args:
        frames: uint8 [N, height, width, 3].
        fps: Frames a second.

    Raises:
        ValueError: Frames of another shape or dtype, none at all, or a rate that is not positive.
    """
    pictures = fetch(frames) if isinstance(frames, Tensor) else np.asarray(frames)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not len(pictures):
        raise ValueError(
            f"frames are uint8 [N, height, width, 3], N at least 1, got {pictures.dtype} {list(pictures.shape)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with FilmWriter(path, fps, scale=None) as film:
            film.write(pictures)
        width = max(SHOWN_WIDTH, pictures.shape[2])
        return Video(
            path.read_bytes(), embed=True, mimetype="video/mp4", width=width, html_attributes="controls loop"
        )


class Player(ipywidgets.VBox):
    """A picture with buttons: hold keys down, and "Go" makes and plays the next chunk.

    Args:
        rollout: What is played; it goes on with every step.
        fps: Frames a second; by default the world's.
    """

    def __init__(self, rollout: Rollout, *, fps: float | None = None) -> None:
        self.rollout = rollout
        self.fps = rollout.world.fps if fps is None else fps
        if not self.fps > 0:
            raise ValueError(f"fps is a number over 0, got {fps}")
        self._way: list[tuple[Rollout, bytes]] = []
        self._picture = ipywidgets.Image(format="jpeg", value=_jpeg(rollout.picture), width=SHOWN_WIDTH)
        self._caption = ipywidgets.Label()
        self._keys = {
            key: ipywidgets.ToggleButton(description=ARROWS.get(key, key.upper()), layout={"width": "44px"})
            for key in KEYS
        }
        self._buttons = {
            name: ipywidgets.Button(description=name, disabled=name == "Back", layout={"width": "72px"})
            for name in ("Go", "Back")
        }
        self._buttons["Go"].on_click(lambda _: self.step(self.held))
        self._buttons["Back"].on_click(lambda _: self.back())
        pads = [ipywidgets.HBox([self._keys[key] for key in pad]) for pad in PADS]
        super().__init__([self._picture, ipywidgets.HBox([*pads, *self._buttons.values()]), self._caption])

    @property
    def held(self) -> list[str]:
        """The keys that are held down."""
        return [key for key, button in self._keys.items() if button.value]

    def step(self, keys: Iterable[str] = ()) -> np.ndarray:
        """Make the next chunk and play it; return its frames, uint8 [N, height, width, 3].

        Args:
            keys: Held for the whole chunk, of `worldplay_env.KEYS`.

        Raises:
            ValueError: An unknown key.
        """
        label = label_of_keys(keys)
        before = self.rollout.fork(), self._picture.value
        frames: list[np.ndarray] = []
        due = time.monotonic()
        for piece in self.rollout.world.stream(self.rollout, next_control(self.rollout, label)):
            for frame in fetch(piece):
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due, time.monotonic() - 1 / self.fps) + 1 / self.fps
                self._picture.value = _jpeg(frame)
                frames.append(frame)
        self._way = [*self._way, before][-LONGEST_WAY:]
        self._tell(action_name(label))
        return np.stack(frames)

    def back(self) -> bool:
        """Undo the last chunk; return whether there was one."""
        if not self._way:
            return False
        self.rollout, self._picture.value = self._way.pop()
        self._tell("back")
        return True

    def _tell(self, what: str) -> None:
        self._caption.value = f"{what}; {self.rollout.chunks} chunks so far"
        self._buttons["Back"].disabled = not self._way


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return file.getvalue()
