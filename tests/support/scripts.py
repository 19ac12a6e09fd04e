"""Running the agents and examples as a user does: from a folder of one's own, by path."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def run_script(script: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository in a folder."""
    command = [sys.executable, "-W", "error", str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def load_script(script: str) -> ModuleType:
    """Import a script of the repository, its folder on the path as when it is run."""
    path = ROOT / script
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
