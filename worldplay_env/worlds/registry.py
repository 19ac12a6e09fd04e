"""The worlds by their names: their sizes, how each is loaded, and how other packages add theirs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from worldplay_env.worlds import abot, diffusion, scene, testcard
from worldplay_env.worlds.base import World, WorldSpec
from worldplay_env.worlds.device import pick_device
from worldplay_env.worlds.sharing import Shared

ENTRY_POINTS = "worldplay_env.worlds"
"""The group of entry points by which installed packages add worlds."""
DTYPES = ("float32", "bfloat16", "float16")
"""What a world may compute in."""
_SETTINGS = ("device", "dtype", "weights", "revision", "decoder", "accept_license")
"""Arguments of `load` that a factory may take beside the options of its own."""
GIGABYTE = 1e9


@dataclass(frozen=True)
class LoadTime:
    """The usual time to load a world.

    Attributes:
        seconds: From the disk.
        words: The same for a person, a download included.
        download: Bytes of the first time's download; 0 for none.
    """

    seconds: float
    words: str
    download: float = 0.0


@dataclass(frozen=True, eq=False)
class WorldEntry:
    """One row of the registry.

    Attributes:
        factory: Returns the world; its parameters are the settings and options that it knows.
        describe: Returns the world's sizes without loading it; None to load the world for them.
        load_time: The usual time to load it.
        default_device: Its device where none is asked for; None for "cuda" where there is one.
        content: Returns a digest of the files behind the world, given `weights`; None for a world without files.
    """

    factory: Callable[..., World]
    describe: Callable[[], WorldSpec] | None = None
    load_time: LoadTime = LoadTime(60, "seconds for a renderer, minutes for a large model")
    default_device: str | None = None
    content: Callable[[str | None], str | None] | None = None

    def options(self) -> dict[str, bool]:
        """Return the names of the factory's keyword arguments, each with whether it is a setting of every model."""
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(self.factory).parameters.values()
        return {one.name: one.name in _SETTINGS for one in parameters if one.kind in kinds}


_FOLDER_TIME = LoadTime(60, "seconds for a small world, a minute or two for a large one")


def _model(kind: ModuleType, name: str, load_time: LoadTime = _FOLDER_TIME) -> WorldEntry:
    """Return the entry of a world model: a preset, or a folder of weights."""
    return WorldEntry(
        functools.partial(kind.load, name),
        functools.partial(kind.describe, name),
        load_time,
        content=functools.partial(diffusion.content, name),
    )


def _of_folder(folder: str) -> WorldEntry:
    """Return the entry of a folder of weights, by the configuration in it."""
    from worldplay_env.models.abot.config import AbotWorldConfig
    from worldplay_env.weights import hub

    return _model(abot if isinstance(hub.folder_config(folder), AbotWorldConfig) else diffusion, folder)


def _downloaded(gigabytes: int) -> LoadTime:
    """Return the time to load a large model that is downloaded once."""
    words = f"a minute or two; the first time a download of {gigabytes} GB, 5 to 60 minutes"
    return LoadTime(90, words, gigabytes * GIGABYTE)


WORLDS: Mapping[str, WorldEntry] = {
    "tiny": _model(diffusion, "tiny", LoadTime(5, "a few seconds")),
    "wan-5b": _model(diffusion, "wan-5b", _downloaded(30)),
    "abot-5b": _model(abot, "abot-5b", _downloaded(25)),
    "abot-small": _model(abot, "abot-small", LoadTime(5, "a few seconds")),
    "testcard": WorldEntry(
        functools.partial(testcard.load, "testcard"),
        testcard.describe,
        LoadTime(2, "a second or two"),
        default_device="cpu",
    ),
    "scene": WorldEntry(functools.partial(scene.load, "scene"), scene.describe, LoadTime(3, "a few seconds")),
}
"""The worlds of this package."""
_registered: dict[str, WorldEntry] = {}
_loaded = Shared()
_specs: WeakKeyDictionary[WorldEntry, WorldSpec] = WeakKeyDictionary()
_described: WeakKeyDictionary[WorldEntry, World] = WeakKeyDictionary()
"""Worlds that were loaded to describe them, until `load` is called for the entry."""


def register_world(name: str, factory: Callable[..., World], *, spec: WorldSpec | None = None) -> None:
    """Make a world known by a name to `load`, `gymnasium.make(..., world=NAME)` and, in this process, `--world NAME`.

    A package whose worlds the commands should find declares an entry point of the group `worldplay_env.worlds`, with
    the name of the world, that refers to its factory.

    Args:
        name: Of letters, digits, ".", "_" and "-"; registering it again replaces the factory.
        factory: Returns the world. Its keyword arguments are the options that `load` accepts for this name; those
            called `device` (a torch.device), `dtype`, `weights`, `revision` and `accept_license` get what `load` was
            given, and `decoder` where one was asked for.
        spec: The world's sizes, known before it is loaded; without it, the world is loaded when an env is made.

    Raises:
        ValueError: A name that cannot be, or one of this package's own worlds.
        TypeError: The factory cannot be called.
    """
    if not isinstance(name, str) or not name or not name.translate(str.maketrans("._-", "aaa")).isalnum():
        raise ValueError(f"a world's name has letters, digits, '.', '_' and '-', got {name!r}")
    if name in WORLDS:
        raise ValueError(f"{name!r} is a world of worldplay_env: choose another name")
    if not callable(factory):
        raise TypeError(f"a factory is a function that returns a World, got {factory!r}")
    if spec is None:
        _registered[name] = WorldEntry(factory)
    else:
        named = replace(spec, name=spec.name or name)
        _registered[name] = WorldEntry(factory, lambda: named)


def world_names() -> list[str]:
    """Return the names of all worlds: this package's, registered ones, and those of entry points."""
    return list(dict.fromkeys([*WORLDS, *_registered, *(one.name for one in entry_points(group=ENTRY_POINTS))]))


def resolve(world: str | Path) -> str:
    """Return a world's name as it is, and a folder of weights as an absolute path."""
    return str(world) if str(world) in world_names() else str(Path(world).resolve())


def find(world: str | Path) -> WorldEntry:
    """Return the entry of a name or of a folder of weights.

    Raises:
        ValueError: An unknown name; the message lists the known ones. A folder without weights (`CheckpointError`).
        TypeError: An entry point that is no function.
    """
    name = str(world)
    if name in WORLDS:
        return WORLDS[name]
    if name not in _registered:
        for one in entry_points(group=ENTRY_POINTS, name=name):
            register_world(name, one.load())
    if name in _registered:
        return _registered[name]
    if Path(name).is_dir():
        return _of_folder(str(Path(name).resolve()))
    raise ValueError(f"unknown world {name!r}: known are {', '.join(world_names())}, or a folder of weights")


def describe(name: str | Path) -> WorldSpec:
    """Return the sizes of a named world, or of a folder of weights; without loading it, where they are known.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    entry = find(name)
    if entry.describe is not None:
        return entry.describe()
    if entry not in _specs:
        world = load(name)
        _specs[entry], _described[entry] = world.spec, world
    return _specs[entry]


def lazy_world(world: str | Path | World, **settings: Any) -> tuple[WorldSpec, Callable[[], World]]:
    """Return a world's spec and a function that loads it.

    Args:
        world: What `load` takes, or a world that is loaded already.
        settings: Arguments of `load`; None where nothing is asked for.

    Raises:
        ValueError: An unknown name, or a setting for a world that is loaded already.
        TypeError: No world at all.
    """
    if isinstance(world, str | Path):
        loader = functools.partial(load, world, **settings)
        entry = find(world)
        if entry.describe is not None:
            return entry.describe(), loader
        loaded = loader()
        return loaded.spec, lambda: loaded
    if not isinstance(world, World):
        raise TypeError(f"world must be a name, a folder or a World, got {type(world).__name__}: {world!r}")
    if given := [name for name, value in settings.items() if value is not None and name != "accept_license"]:
        raise ValueError(f"{', '.join(given)} cannot be set for a world that is loaded already: give it to load()")
    return world.spec, lambda: world


def load(
    name: str | Path = "tiny",
    *,
    device: str | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    revision: str | None = None,
    decoder: str | None = None,
    accept_license: bool = False,
    **options: Any,
) -> World:
    """Return the world of that name; equal calls within a process share one while any of them is in use.

    A folder whose weights have changed since is another world: their content counts, not the folder's name.

    Args:
        name: "tiny", "wan-5b", "abot-5b", "testcard", "scene", a name that `register_world` or an installed package
            added, or a folder of weights.
        device: A torch device; by default "cuda" where there is one, else "cpu".
        dtype: "float32", "bfloat16" or "float16"; by default bfloat16 on a GPU and float32 on a CPU.
        weights: "random" for seeded random parameters of the right sizes (no download); by default the world's own.
        revision: The hub's commit, tag or branch to download; by default the commit that this version of the package
            was written for.
        decoder: "full" or "small" (taew2_2), of a world model; by default "small" for ABot-World, "full" for others.
        accept_license: Agree to the licence of downloaded weights (asked for once, before the first download).
        options: What only one kind of world takes: `seconds_per_chunk` and `image_size` of the test picture,
            `samples`, `image_size`, `edition`, `layout` and `motion` of the scenes, `image_size` of "abot-5b",
            `latents_per_decode` of all world models, `sample_image` of HY-WorldPlay's, and how their networks run:
            `compile=True`, `quantize="fp8"`, `attention="cudnn"`, and `transforms`, functions from a network to the
            one that takes its place (see `models.wan.transforms`).

    Raises:
        ValueError: An unknown name or option; the message lists the known ones.
        TypeError: `accept_license` is not a bool, or a factory returned no `World`.
        RuntimeError: The world is being loaded in another thread, which waits for this one.
    """
    if weights not in (None, "random"):
        raise ValueError(f'weights must be None (the world\'s own) or "random", got {weights!r}')
    if not isinstance(accept_license, bool | np.bool_):
        raise TypeError(f"accept_license must be a bool, got {accept_license!r}")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: known are {', '.join(DTYPES)}")
    entry, where = find(name), resolve(name)
    taken = entry.options()
    known = [option for option, is_setting in taken.items() if not is_setting]
    if unknown := [option for option in options if option not in known]:
        knows = " and ".join(known) or "none"
        raise ValueError(f"unknown option {', '.join(map(repr, unknown))}: {str(name)!r} knows {knows}")
    place = pick_device(entry.default_device if device is None else device)
    settings = {
        "dtype": dtype or ("bfloat16" if place.type == "cuda" else "float32"),
        "weights": weights,
        "revision": revision,
    }
    if decoder is not None:  # else the factory's default
        settings["decoder"] = decoder
    own = {option: tuple(value) if isinstance(value, list) else value for option, value in options.items()}
    content = None if entry.content is None else entry.content(weights)
    key = (
        where,
        _registered.get(where),
        content,
        place.type,
        place.index or 0,
        *sorted((settings | own).items()),
    )

    def make() -> World:
        given = {"device": place, **settings, "accept_license": accept_license}
        # Programs name worlds by one set of settings; a factory gets those that mean something to its world.
        world = entry.factory(**{setting: value for setting, value in given.items() if setting in taken}, **own)
        if not isinstance(world, World):
            raise TypeError(f"the factory of {where!r} must return a World, got {type(world).__name__}: {world!r}")
        asked = {"device": device, "dtype": dtype, "weights": weights, "revision": revision, "decoder": decoder}
        world.loaded_by = functools.partial(load, where, **asked, accept_license=accept_license, **options)
        return world

    world = _loaded.get(key, make)
    _described.pop(entry, None)
    return world
