"""The worlds by their names: what each is called, what its sizes are, and how it is loaded."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from worldplay_env.worlds.base import World, WorldSpec
from worldplay_env.worlds.device import pick_device
from worldplay_env.worlds.sharing import Shared

WORLDS = {
    "tiny": "the small embedded world model; runs on a CPU",
    "wan-5b": "HY-WorldPlay WAN-5B; downloads 30 GB and wants a large GPU",
    "testcard": "a test picture that moves with the pose; no model",
    "scene": "procedural scenes, rendered exactly: the truth that tiny is judged by; no model",
}
"""The names that `load` knows beside a folder of weights."""

DTYPES = ("float32", "bfloat16", "float16")
"""What a world may compute in."""
_loaded = Shared()


def describe(name: str | Path) -> WorldSpec:
    """Return the sizes of a named world, or of a folder of weights, without loading it.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    return _module(str(name)).describe(str(name))


def _module(name: str) -> Any:
    """Return the module that describes and loads the world of that name, imported now.

    It has `describe(name)`, `load(name, *, device, ...)`, `DEFAULT_DEVICE` (None for "cuda" where there is one),
    `OPTIONS`, the names of what only its own kind of world takes, and `HAS_MODEL`: whether there is anything to
    give `load` a dtype, weights, a revision and the consent to a licence for. One that has a model has also
    `content(name, weights)`: what tells a world of this name from the one that had it before.
    """
    if name == "testcard":
        return importlib.import_module("worldplay_env.worlds.testcard")
    if name == "scene":
        return importlib.import_module("worldplay_env.worlds.scene")
    if name in WORLDS or Path(name).is_dir():
        return importlib.import_module("worldplay_env.worlds.diffusion")
    raise ValueError(f"unknown world {name!r}: known are {', '.join(WORLDS)}, or a folder of weights")


def lazy_world(world: str | Path | World, **settings: Any) -> tuple[WorldSpec | World, Callable[[], World]]:
    """Return what is known of a world before it is loaded, and what loads it when it is called.

    Args:
        world: What `load` takes, or a world that is loaded already.
        settings: Arguments of `load`; None where nothing is asked for.

    Raises:
        ValueError: An unknown name, or a setting for a world that is loaded already.
        TypeError: No world at all.
    """
    if isinstance(world, str | Path):
        return describe(world), functools.partial(load, world, **settings)
    if not (callable(getattr(world, "start", None)) and callable(getattr(world, "step", None))):
        raise TypeError(f"world must be a name, a folder or a World, got {type(world).__name__}: {world!r}")
    if given := [name for name, value in settings.items() if value is not None and name != "accept_license"]:
        raise ValueError(f"{', '.join(given)} cannot be set for a world that is loaded already: give it to load()")
    return world, lambda: world


def load(
    name: str | Path = "tiny",
    *,
    device: str | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    revision: str | None = None,
    accept_license: bool = False,
    **options: Any,
) -> World:
    """Return the world of that name; equal calls within a process share one while any of them is in use.

    A folder whose weights have changed since is another world: their content counts, not the folder's name.

    Args:
        name: "tiny", "wan-5b", "testcard", "scene", or a folder of weights.
        device: A torch device; by default "cuda" where there is one, else "cpu".
        dtype: "float32", "bfloat16" or "float16"; by default bfloat16 on a GPU and float32 on a CPU.
        weights: "random" for seeded random parameters of the right sizes (no download); by default the world's own.
        revision: The hub's commit, tag or branch to download; by default the commit that this version of the package
            was written for.
        accept_license: Agree to the licence of downloaded weights (asked for once, before the first download).
        options: What only one kind of world takes: `seconds_per_chunk` and `image_size` of the test picture,
            `samples` and `image_size` of the scenes, `latents_per_decode` and `sample_image` of the world models, and
            how their networks run: `compile=True`, `quantize="fp8"`, `attention="cudnn"`, and `transforms`, functions
            from a network to the one that takes its place (see `models.wan.transforms`).

    Raises:
        ValueError: An unknown name or option; the message lists the known ones.
        TypeError: `accept_license` is not a bool.
        RuntimeError: The world is being loaded in another thread, which waits for this one.
    """
    if weights not in (None, "random"):
        raise ValueError(f'weights must be None (the world\'s own) or "random", got {weights!r}')
    if not isinstance(accept_license, bool | np.bool_):
        raise TypeError(f"accept_license must be a bool, got {accept_license!r}")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: known are {', '.join(DTYPES)}")
    module = _module(str(name))
    if unknown := [option for option in options if option not in module.OPTIONS]:
        known = " and ".join(module.OPTIONS)
        raise ValueError(f"unknown option {', '.join(map(repr, unknown))}: {str(name)!r} knows {known}")
    place = pick_device(module.DEFAULT_DEVICE if device is None else device)
    model = {
        "dtype": dtype or ("bfloat16" if place.type == "cuda" else "float32"),
        "weights": weights,
        "revision": revision,
    }
    own = {option: tuple(value) if isinstance(value, list) else value for option, value in options.items()}
    where = str(name) if name in WORLDS else str(Path(name).resolve())
    content = module.content(where, weights) if module.HAS_MODEL else None
    key = (where, content, place.type, place.index or 0, *sorted((model | own).items()))

    def make() -> World:
        # Programs name worlds by one set of options; what is about a model's parameters is for models alone.
        settings = {**model, "accept_license": accept_license} if module.HAS_MODEL else {}
        world = module.load(where, device=place, **settings, **own)
        world.loaded_by = {
            "name": where,
            "device": device,
            "dtype": dtype,
            "weights": weights,
            "revision": revision,
            "accept_license": accept_license,
            **options,
        }
        return world

    return _loaded.get(key, make)


def reload_world(arguments: dict[str, Any]) -> World:
    """Return the world that `load` makes of these arguments; what a pickled world is made by."""
    return load(**arguments)
