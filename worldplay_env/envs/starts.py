"""Starts of episodes: bundled pictures by name, a picture, a folder, or a list with or without prompts."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from worldplay_env.media.image import ImageError, ImageSource, read_image
from worldplay_env.worlds.base import Start, World, WorldSpec, check_references
from worldplay_env.worlds.scene import SCENE_PROMPT

Starts = ImageSource | Sequence[ImageSource | tuple[ImageSource | None, str]]
"""What `find_starts` takes: a name, a picture, a folder's path, or a list of pictures and (picture, prompt) pairs."""
References = str | Path | Sequence[ImageSource]
"""Reference pictures in the order of `World.references`, or a folder of pictures with these names."""
StartSource = tuple[ImageSource | None, str]
"""A picture that has not been read yet, or None for text only, and a prompt."""

BUNDLED = Path(__file__).parents[1] / "weights" / "tiny" / "starts"
LIST = "starts.json"
"""The file of a folder that gives its pictures prompts: [{"image": "courtyard.png", "prompt": "..."}]."""
NO_PICTURE = "none"
ALL = "all"
"""The name of all the bundled pictures together."""
UNNAMED = "picture"
"""The name of a picture without a name or a path."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


def find_starts(starts: Starts | None = None, world: WorldSpec | World | None = None) -> Sequence[StartSource]:
    """Return the starts to draw from; pictures are looked for, but not read yet.

    Args:
        starts: The name of a bundled picture ("courtyard", "room", "street", "snow", "dusk", "night") or "all" for
            all of them; a picture (see `read_image`); the path of a folder, whose pictures are taken by name, or by
            its `starts.json` if it has one, which gives them prompts; or a list of pictures, which get empty prompts
            unless they are bundled ones, and of (picture, prompt) pairs, picture None for text only. By default the
            bundled pictures. A name goes before a file that is called the same: `./snow` is a path.
        world: The world of the starts, or its spec; by default any world.

    Raises:
        ImageError: A path where there is nothing, a folder without pictures.
        ValueError: No starts, a list of something else than pictures and pairs, or a picture for a world that has its
            own (see `check_usable`).
        TypeError: Anything else.
    """
    if starts is None or (isinstance(starts, str) and starts == ALL):
        return list(bundled_starts().values())
    found = _find(starts)
    if world is not None:
        for image, prompt in found:
            check_usable(world, image, prompt)
    return found


@functools.cache
def bundled_starts() -> Mapping[str, StartSource]:
    """Return the bundled starts by name; their prompts name what is in view."""
    return {Path(str(image)).stem: (image, prompt) for image, prompt in _of_folder(BUNDLED)}


def with_own_prompt(image: ImageSource | None) -> StartSource:
    """Return a picture and its prompt: a bundled picture, found by its name, has one; any other an empty one."""
    if isinstance(image, str) and image in bundled_starts():
        return bundled_starts()[image]
    return image, ""


def name_of(image: ImageSource | None) -> str:
    """Return a picture's name in infos and records: a bundled one's, a path, "picture", or "none" for None."""
    if image is None:
        return NO_PICTURE
    if not isinstance(image, str | Path):
        return UNNAMED
    known = {str(own): name for name, (own, _) in bundled_starts().items()}
    return known.get(str(image), str(image))


def _find(starts: Starts) -> Sequence[StartSource]:
    if isinstance(starts, str | Path) and Path(starts).is_dir() and starts not in bundled_starts():
        return _of_folder(Path(starts))
    if isinstance(starts, str | Path | np.ndarray | Image.Image):
        return [_of_picture(starts)]
    if not isinstance(starts, Sequence):
        raise TypeError(
            "starts must be a bundled picture's name, a picture, a folder, or a list of pictures and pairs, got "
            f"{starts!r}"
        )
    if not starts:
        raise ValueError("starts is empty: give at least one picture or (picture, prompt) pair")
    pictures = (str, Path, np.ndarray, Image.Image)
    return [_of_picture(start) if isinstance(start, pictures) else _of_pair(start) for start in starts]


def read_start(image: ImageSource | None, prompt: str) -> Start:
    """Return a start with its picture read (see `read_image`); an image of None starts from the prompt alone."""
    if isinstance(image, str | Path) and not Path(image).suffix:
        _existing(image)  # it may have been meant as a name
    return Start(image=None if image is None else read_image(image), prompt=prompt, name=name_of(image))


def read_references(references: References | None, world: WorldSpec | World) -> tuple[np.ndarray, ...]:
    """Return the reference pictures of a start, read.

    Args:
        references: One picture for each of `World.references` in their order, a folder that has a picture of each of
            these names, or None for none.
        world: The world or its spec.

    Raises:
        ImageError: A picture that cannot be read, or is missing in the folder.
        ValueError: Another number of pictures than the world takes.
        TypeError: Neither pictures nor a folder.
    """
    if references is None:
        return ()
    if isinstance(references, str | Path):
        if not world.references:
            check_references(world, [references])
        references = [_named_picture(Path(references), name) for name in world.references]
    if not isinstance(references, Sequence):
        raise TypeError(f"references are a list of pictures or a folder of them, got {references!r}")
    check_references(world, references)
    return tuple(read_image(picture) for picture in references)


def _named_picture(folder: Path, name: str) -> Path:
    found = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    if not found:
        raise ImageError(f"no reference picture {name!r} in {str(folder)!r}: expected {name}.png or another picture")
    return found[0]


def choose_start(image: str | None, prompt: str | None, world: WorldSpec | World | None = None) -> Start:
    """Return the start that the options `--image` and `--prompt` of a command ask for.

    Args:
        image: The name of a bundled picture, the path of one, "none" to start from the prompt alone, or None for the
            first bundled picture.
        prompt: None for the bundled picture's own; without that, an empty one.
        world: The world of the start, or its spec; by default any world.

    Raises:
        ImageError: The picture cannot be read.
        ValueError: A picture for a world that has its own (see `check_usable`).
    """
    if image is None:
        picture, own_prompt = find_starts()[0]
    else:
        picture, own_prompt = with_own_prompt(None if image == NO_PICTURE else image)
        if world is not None:
            check_usable(world, picture, own_prompt if prompt is None else prompt)
    return read_start(picture, own_prompt if prompt is None else prompt)


def check_usable(world: WorldSpec | World, image: ImageSource | None, prompt: str) -> None:
    """Check that a world can begin from a picture.

    A world with `uses_picture` False accepts only the bundled pictures with their own prompts, which name places in
    it.

    Args:
        world: The world or its spec.
        image: Any picture, or None for a start from the prompt alone.
        prompt: The picture's prompt.

    Raises:
        ValueError: The world would begin somewhere else.
    """
    if image is None or world.uses_picture:
        return
    if (own := _bundled_prompt(image)) is not None:
        if prompt != own:
            raise ValueError(
                f"this world finds the place of the picture {name_of(image)!r} by its own prompt, not by {prompt!r}: "
                "leave the prompt out, or the picture"
            )
        return
    shown = repr(str(image)) if isinstance(image, str | Path) else "this picture"
    raise ValueError(
        f"this world cannot begin from {shown}: it shows places of its own, which the prompt chooses, such as "
        '"scene 900012"; leave the picture out, or take a world model such as "tiny"'
    )


def unused_prompt(world: WorldSpec | World, prompt: str | None) -> str:
    """Return a warning about a prompt without effect in a world, "" where there is nothing to warn of.

    Args:
        world: The world or its spec.
        prompt: The user's prompt, or None.
    """
    if not prompt or world.uses_prompt:
        return ""
    if not world.uses_picture:
        if SCENE_PROMPT.fullmatch(prompt) or any(prompt == own for _, own in find_starts()):
            return ""
        return (
            f'{world.name} takes no prompt but the name of a place ("scene 900012"): {prompt!r} changes nothing in it'
        )
    return f"{world.name} takes no prompt: {prompt!r} changes nothing in it"


def _bundled_prompt(image: ImageSource) -> str | None:
    """Return the prompt of a bundled picture; None for any other."""
    if not isinstance(image, str | Path):
        return None
    path = Path(image).resolve()
    return next((prompt for own, prompt in find_starts() if Path(str(own)).resolve() == path), None)


def _of_pair(pair: object) -> StartSource:
    # Lists as well as tuples: a spec that went through JSON has no tuples left.
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], str):
        raise ValueError(f"starts must hold pictures, or (picture, prompt) pairs, prompt a string; got {pair!r}")
    image, prompt = pair
    return _of_picture(image)[0], prompt


def _of_picture(image: ImageSource | None) -> StartSource:
    image, prompt = with_own_prompt(image)
    return (_existing(image) if isinstance(image, str | Path) else image), prompt


def _of_folder(folder: Path) -> Sequence[StartSource]:
    if (folder / LIST).is_file():
        return _of_list(folder)
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageError(f"no pictures in {str(folder)!r}: expected files that end in {', '.join(SUFFIXES)}")
    return [(path, "") for path in found]


def _of_list(folder: Path) -> Sequence[StartSource]:
    path = folder / LIST
    try:
        starts = [
            (_existing(folder / entry["image"]), str(entry["prompt"]))
            for entry in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ValueError(f'{path} must hold a list of {{"image": file, "prompt": text}}: {error!r}') from error
    if not starts:
        raise ValueError(f"{path} lists no pictures")
    return starts


def _existing(path: str | Path) -> str | Path:
    if not Path(path).is_file():
        names = "" if Path(path).suffix else f", and none is bundled by that name ({', '.join(bundled_starts())})"
        raise ImageError(f"no picture at {str(path)!r}{names}")
    return path
