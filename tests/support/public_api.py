"""The package's public interface as data: names, registered ids, commands.

python tests/support/public_api.py > tests/public_api.json    # at a release
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import re
import runpy
import sys
from typing import Any

import gymnasium

COMMANDS = {
    "play": (),
    "rollout": (),
    "bench": (),
    "evaluate": (),
    "scenes": (),
    "weights": ("fetch", "convert"),
    "training": ("autoencoder", "transformer", "distill", "export", "report", "diagnose"),
}
"""Commands and their subcommands."""
HOOKS = ("Reach",)
"""Classes whose methods the environments call: recorded without parameters."""


def describe() -> dict[str, Any]:
    """Return the public interface: what JSON can hold, keys in alphabetical order."""
    package = importlib.import_module("worldplay_env")
    return {
        "names": {name: describe_name(name, getattr(package, name)) for name in sorted(package.__all__)},
        "ids": {
            id: {"arguments": spec.kwargs, "max_episode_steps": spec.max_episode_steps}
            for id, spec in sorted(gymnasium.registry.items())
            if id.startswith("WorldPlay/")
        },
        "commands": {
            " ".join(words): command_arguments(words)
            for command, subcommands in COMMANDS.items()
            for words in ((command,), *((command, subcommand) for subcommand in subcommands))
        },
    }


def describe_name(name: str, value: Any) -> dict[str, Any]:
    """Return a public object's parameters, and a class's members with theirs."""
    if not isinstance(value, type):
        return {"parameters": parameters(value)} if callable(value) else {}
    described: dict[str, Any] = {"parameters": parameters(value)} if "__init__" in members(value) else {}
    described["members"] = {
        member: parameters(attribute) if inspect.isroutine(attribute) and name not in HOOKS else []
        for member, attribute in sorted(members(value).items())
        if not member.startswith("_")
    }
    return described


def members(owner: type) -> dict[str, Any]:
    """Return the attributes that a class and its bases in the package define, annotated ones included."""
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        if base.__module__.startswith("worldplay_env"):
            found |= dict.fromkeys(inspect.get_annotations(base)) | dict(base.__dict__)
    if dataclasses.is_dataclass(owner):
        found |= dict.fromkeys(field.name for field in dataclasses.fields(owner))
    return {name: one.__func__ if isinstance(one, classmethod | staticmethod) else one for name, one in found.items()}


def parameters(function: Any) -> list[str]:
    """Return a function's parameters in their order, `self` and `cls` left out."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def command_arguments(words: tuple[str, ...]) -> list[str]:
    """Return the options, positional arguments and subcommands that a command's help lists."""
    command, *rest = words
    shown, arguments = io.StringIO(), sys.argv
    sys.argv = [f"worldplay {command}", *rest, "--help"]
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            runpy.run_module(f"worldplay_env.{command}", run_name="__main__", alter_sys=True)
    finally:
        sys.argv = arguments
    found = set()
    for line in shown.getvalue().splitlines():
        if entry := re.match(r"[│ ] (\S.*)", line):  # an argument; its description is indented further
            left = re.split(r" {2,}", entry[1])[0]
            found |= set(re.findall(r"--[a-z][\w-]*", left)) or set(re.findall(r"^\[?([A-Z]+)\]?(?= |$)", left))
        elif entry := re.match(r"[│ ] +• (\S+)", line):
            found.add(entry[1])
    return sorted(found - {"--help"})


if __name__ == "__main__":
    print(json.dumps(describe(), indent=1))
