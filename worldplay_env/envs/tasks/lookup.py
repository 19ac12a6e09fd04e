"""Tasks by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldplay_env.envs.tasks.base import Task, from_fields
from worldplay_env.envs.tasks.collect import Collect
from worldplay_env.envs.tasks.reach import Reach

TASKS: dict[str, type[Task[Any]]] = {"reach": Reach, "collect": Collect}
DEFAULT = "reach"
"""The task of a mapping that has no "name"."""


def find_task(task: str | Mapping[str, Any] | Task[Any] | None) -> Task[Any] | None:
    """Return the task for the argument `task` of an environment.

    Args:
        task: A name; a mapping of a task's fields, with its name under "name" ("reach" without one); a `Task`; or
            None.

    Raises:
        ValueError: An unknown name or field, or a value that the task refuses.
        TypeError: An argument of another type.
    """
    if task is None or isinstance(task, Task):
        return task
    if isinstance(task, str):
        task = {"name": task}
    if not isinstance(task, Mapping):
        raise TypeError(f"a task is {_names()}, a mapping of its fields or a Task, got {task!r}")
    fields = {"name": DEFAULT, **task}
    name = fields.pop("name")
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: known are {', '.join(TASKS)}")
    return from_fields(TASKS[name], fields)


def _names() -> str:
    return " or ".join(f'"{name}"' for name in TASKS)
