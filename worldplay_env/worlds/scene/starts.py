"""The scenes that the bundled start pictures show, and how such pictures are made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worldplay_env.control.camera import DEFAULT_INTRINSICS
from worldplay_env.worlds.scene.build import Scene, build, stack
from worldplay_env.worlds.scene.render import Renderer

BUNDLED_SCENES = {
    "courtyard": 900_042,
    "room": 900_039,
    "street": 900_014,
    "snow": 900_032,
    "dusk": 900_006,
    "night": 900_046,
}
"""The name of each bundled picture, and the seed of its scene: a held-out one."""
BUNDLED_PROMPTS = {
    "courtyard": "a courtyard at noon, green tiles, sand ground, clear sky, a pink arch, a tree with teal leaves",
    "room": "a room in daylight, olive walls, brown tiles floor, white steps, a purple ball, a planted tub",
    "street": "a street in the morning, wine bricks, grey ground, scattered clouds, a sand pillar, a purple pillar, "
    "a yellow crate",
    "snow": "a square at noon, yellow bricks, snow, a red arch, a cypress, a lamp",
    "dusk": "a square at dusk, blue bricks, red ground, clear sky, a cypress, a planted tub, a tree with teal leaves",
    "night": "a courtyard at night, blue tiles, grey ground, scattered clouds, a purple crate, a planted tub, "
    "a stall with a red awning",
}
"""The prompt of each bundled picture. It names what is in view, in the words of captions."""
PICTURE_SIZE = (384, 640)


def first_picture(
    scene: Scene, size: tuple[int, int] = PICTURE_SIZE, *, samples: int = 2, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Return what the scene shows from its start: uint8 [height, width, 3]; `samples` as in `Renderer`."""
    renderer = Renderer(stack([scene], device), size, samples=samples)
    which, pose = torch.zeros(1, dtype=torch.int64), torch.from_numpy(scene.start)[None]
    return renderer.frames(which, pose, torch.tensor(DEFAULT_INTRINSICS))[0].cpu().numpy()


def write_starts(
    folder: Path,
    scenes: Mapping[str, int] = BUNDLED_SCENES,
    size: tuple[int, int] = PICTURE_SIZE,
    edition: int = 1,
) -> list[Path]:
    """Write the scenes' first pictures, and a `starts.json` with their prompts; return what was written.

    The prompt of a bundled picture names what is in view; that of any other scene is its caption.

    Args:
        folder: Made if it does not exist; files of these names in it are replaced.
        scenes: Name of each picture -> seed of its scene.
        size: Height and width of the pictures.
        edition: Of the scenes; the bundled pictures are of edition 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries, written = [], []
    for name, seed in scenes.items():
        scene = build(seed, edition)
        path = folder / f"{name}.png"
        Image.fromarray(first_picture(scene, size)).save(path, optimize=True)
        entries.append({"image": path.name, "prompt": BUNDLED_PROMPTS.get(name, scene.caption)})
        written.append(path)
    listing = folder / "starts.json"
    listing.write_text(json.dumps(entries, indent=2) + "\n")
    return [*written, listing]
