"""Ray for the tests that ask for it, or none."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import small_world
import spread


@pytest.fixture(scope="module")
def ray(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Ray, started once a module; the definitions of tests travel to its actors by value."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    modules = (request.module, small_world, spread)
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    yield ray
    for module in modules:
        ray.cloudpickle.unregister_pickle_by_value(module)
    ray.shutdown()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Ray fails in the package as where it is not installed; a Ray that runs already is not disturbed."""
    real = builtins.__import__

    def importing(name: str, globals: Any = None, *others: Any) -> Any:
        if name == "ray" and (globals or {}).get("__name__", "").startswith("worldplay_env."):
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return real(name, globals, *others)

    monkeypatch.setattr(builtins, "__import__", importing)
