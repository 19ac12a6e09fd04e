"""What a screen shows at one moment, without a screen: pictures, lit keys, map, figures and messages."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from worldplay_env.play.loading import Progress


@dataclass(frozen=True)
class Walk:
    """What the map shows of one panel.

    Attributes:
        path: float [N, 2], right and forward of every place; the last is where the camera is.
        heading: float [2], where the camera looks, right and forward.
        remembered: float [M, 2], the places that the chunk on show was made from.
        bookmark: float [2], or None.
    """

    path: np.ndarray
    heading: np.ndarray
    remembered: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    bookmark: np.ndarray | None = None


@dataclass(frozen=True)
class ScreenState:
    """All that a screen shows.

    Attributes:
        pictures: uint8 [height, width, 3], one or more, side by side.
        captions: What each picture is; drawn if there is more than one.
        held: Movement keys that are lit.
        action: What they do together, in words.
        figures: Lines of the panel of figures.
        walks: What the map shows, one a panel; no map if there are none.
        notice: What has just happened.
        sign: Why the picture waits.
        verdict: How the walk to a goal ended.
        progress: Of loading.
        filming: Seconds of film so far.
        paused: Whether the picture is stopped by request.
        typing: The prompt that is being typed.
        error: What went wrong.
        overlay: Whether keys, map, figures and captions are shown over the picture; messages are in any case.
    """

    pictures: tuple[np.ndarray, ...]
    captions: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    action: str = ""
    figures: tuple[str, ...] = ()
    walks: tuple[Walk, ...] = ()
    notice: str = ""
    sign: str = ""
    verdict: str = ""
    progress: Progress | None = None
    filming: float | None = None
    paused: bool = False
    typing: str | None = None
    error: str = ""
    overlay: bool = True
