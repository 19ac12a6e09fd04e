"""What is shared within a process is made once, each behind a lock of its own, and nobody waits for ever."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from worldplay_env.worlds.sharing import Shared

WAIT = 60.0
"""Seconds after which a thread that should go on is taken for stuck: no test waits that long."""


class Thing:
    """Something that a weak reference can be taken of."""


def counting(made: list[str], name: str = "made") -> Callable[[], Thing]:
    def make() -> Thing:
        made.append(name)
        return Thing()

    return make


def test_equal_keys_share_what_is_held_and_nothing_is_kept_alive() -> None:
    shared, made = Shared(), list[str]()
    first = shared.get("a", counting(made))
    assert shared.get("a", counting(made)) is first
    assert shared.get("b", counting(made)) is not first
    assert len(made) == 2
    del first
    gc.collect()
    shared.get("a", counting(made))
    assert len(made) == 3


def test_threads_that_ask_for_one_key_get_one_thing() -> None:
    shared, made, together = Shared(), list[str](), threading.Barrier(8)

    def ask(_: int) -> Any:
        together.wait(WAIT)
        return shared.get("a", counting(made))

    with ThreadPoolExecutor(8) as pool:
        things = list(pool.map(ask, range(8)))
    assert len(set(map(id, things))) == len(made) == 1


def test_one_thing_is_made_while_another_is_being_made() -> None:
    shared, begun, done = Shared(), threading.Event(), threading.Event()

    def slow() -> Thing:
        begun.set()
        assert done.wait(WAIT)
        return Thing()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(shared.get, "slow", slow)
        assert begun.wait(WAIT)
        assert isinstance(shared.get("quick", Thing), Thing)
        done.set()
        assert isinstance(waiting.result(WAIT), Thing)


def test_what_is_made_may_need_something_else_and_even_itself() -> None:
    shared, made = Shared(), list[str]()

    def outer() -> Thing:
        shared.get("inner", counting(made, "inner"))
        shared.held = shared.get("outer", counting(made, "itself"))  # type: ignore[attr-defined]
        return Thing()

    assert shared.get("outer", outer) is shared.held  # type: ignore[attr-defined]
    assert made == ["inner", "itself"]


def test_an_error_is_the_callers_and_the_next_one_tries_again() -> None:
    shared = Shared()

    def fail() -> Thing:
        raise OSError("no disk")

    for _ in range(2):
        with pytest.raises(OSError, match="no disk"):
            shared.get("a", fail)
    assert isinstance(shared.get("a", Thing), Thing)


def test_two_threads_that_would_wait_for_each_other_get_one_error_and_both_end() -> None:
    shared, together = Shared(), threading.Barrier(2)

    def crosswise(own: str, other: str) -> Any:
        def make() -> Thing:
            together.wait(WAIT)
            return shared.get(other, Thing)

        return shared.get(own, make)

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(crosswise, *pair) for pair in (("a", "b"), ("b", "a"))]
        errors = [call.exception(WAIT) for call in calls]
    [error] = [error for error in errors if error is not None]
    assert isinstance(error, RuntimeError)
    assert "would wait for ever" in str(error)


IMPORTS = """
import importlib, sys, threading, types
from worldplay_env.worlds.sharing import Shared

class Thing: pass

shared = types.SimpleNamespace(things=Shared(), begun=threading.Event(), importing=threading.Event())
sys.modules["shared"] = shared

def make():
    shared.begun.set()
    assert shared.importing.wait(60)
    import loads_a_world
    return Thing()

maker = threading.Thread(target=lambda: shared.things.get("a", make), name="maker", daemon=True)
maker.start()
assert shared.begun.wait(60)
try:
    import loads_a_world
except RuntimeError as error:
    print(error)
maker.join(60)
print("stuck" if maker.is_alive() else "ended")
"""


@pytest.mark.parametrize(("key", "told"), [("b", False), ("a", True)])
def test_an_import_that_loads_while_that_import_is_waited_for_goes_on_or_is_told(
    tmp_path: Path, key: str, told: bool
) -> None:
    module = f"import shared\nshared.importing.set()\nthing = shared.things.get({key!r}, shared.things.__class__)\n"
    (tmp_path / "loads_a_world.py").write_text(module)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *error, end = done.stdout.splitlines()
    assert end == "ended"
    assert bool(error) == told
    if told:
        assert "'maker' is loading it" in error[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_wait_for_its_parents_threads() -> None:
    program = """
import os, threading, warnings
from worldplay_env.worlds.sharing import Shared
warnings.simplefilter("ignore")
class Thing: pass
shared, begun, done = Shared(), threading.Event(), threading.Event()
def slow():
    begun.set()
    done.wait(60)
    return Thing()
thread = threading.Thread(target=lambda: shared.get("a", slow))
thread.start()
begun.wait(60)
child = os.fork()
if child == 0:
    os._exit(0 if isinstance(shared.get("a", Thing), Thing) else 1)
code = os.waitpid(child, 0)[1]
done.set()
thread.join()
print(code)
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.stdout.strip() == "0", done.stderr
