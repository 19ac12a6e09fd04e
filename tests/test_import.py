"""Importing the package is cheap, and hands on its public names."""

from __future__ import annotations

import subprocess
import sys

import worldplay_env


def run(program: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_takes_under_half_a_second_more_than_gymnasium() -> None:
    program = "import time, gymnasium; t = time.perf_counter(); import worldplay_env; print(time.perf_counter() - t)"
    # The least of three: the machine may be busy with something else, the import never takes less than it needs.
    assert min(float(run(program)) for _ in range(3)) < 0.5


def test_neither_importing_nor_making_an_env_imports_torch_or_transformers() -> None:
    heavy = "print(sorted({'torch', 'transformers', 'pygame', 'diffusers'} & sys.modules.keys()))"
    assert run(f"import sys, worldplay_env; {heavy}") == "[]"
    made = "gymnasium.make('WorldPlay/Tiny-v0', render_mode='human').close()"
    assert run(f"import sys, gymnasium, worldplay_env; {made}; {heavy}") == "[]"


def test_gymnasium_imports_the_package_by_the_id_of_an_env() -> None:
    made = "gymnasium.make('worldplay_env:WorldPlay/Testcard-v0')"
    assert "WorldPlay/Testcard-v0" in run(f"import gymnasium; print({made})")


def test_every_public_name_is_there() -> None:
    for name in worldplay_env.__all__:
        assert getattr(worldplay_env, name) is not None
    assert {"FrameByFrame", "RecordChunks", "RecordVectorChunks", "World", "load"} <= set(worldplay_env.__all__)
    assert set(worldplay_env.__all__) <= set(dir(worldplay_env))
    star: dict[str, object] = {}
    exec("from worldplay_env import *", star)
    assert set(worldplay_env.__all__) <= star.keys()
    assert not hasattr(worldplay_env, "no_such_name")


def test_every_public_name_imports_without_what_only_extras_bring() -> None:
    extras = (
        "moviepy",
        "tensorboard",
        "ray",
        "scipy",
        "diffusers",
        "stable_baselines3",
        "torchrl",
        "minari",
        "starlette",
        "uvicorn",
        "websockets",
        "ipywidgets",
        "IPython",
    )
    hidden = f"import sys; sys.modules.update(dict.fromkeys({extras!r}))"
    assert run(f"{hidden}; from worldplay_env import *; print(RecordVectorChunks.__name__)") == "RecordVectorChunks"


def test_commands_import_without_an_encoder_for_films() -> None:
    hidden = "import sys; sys.modules['imageio_ffmpeg'] = None"
    assert run(f"{hidden}; import worldplay_env.evaluate, worldplay_env.rollout; print('here')") == "here"
