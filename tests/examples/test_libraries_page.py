"""The code of examples/libraries.md."""

from __future__ import annotations

import ast
import gc
import re
from pathlib import Path

import pytest
from libraries import CLOSED_AFTER, MINARI_ADVICE, MINARI_FOLDERS, run
from scripts import ROOT

import worldplay_env

PAGE = (ROOT / "examples" / "libraries.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


class TestThePage:
    @pytest.mark.slow
    @pytest.mark.filterwarnings(MINARI_ADVICE, MINARI_FOLDERS)
    @pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
    def test_its_code_runs(self, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if "ray.rllib" in block:
            pytest.importorskip("tree", reason="RLlib is not installed: it wants an environment of its own")
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for name in names:
                    pytest.importorskip(str(name).partition(".")[0])
        if "RecordVideo" in block:
            pytest.importorskip("moviepy")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        if "utils.play" in block:  # it sets the backend of the process's plots
            run(CLOSED_AFTER.format(frames=20) + block, tmp_path)
        elif "ray.rllib" in block:  # it starts processes, and warns of itself
            run(block, tmp_path)
        else:
            exec(compile(block, "examples/libraries.md", "exec"), {"__name__": "__main__"})
            gc.collect()
        films = {path.parent.name for path in tmp_path.rglob("*.mp4")}
        assert films == {name for name in ("videos", "films") if f'"outputs/{name}"' in block}

    def test_it_shows_every_library(self) -> None:
        for name in ("RecordVideo", "FrameStackObservation", "RecordEpisodeStatistics", "play", "stable_baselines3"):
            assert name in "".join(BLOCKS)
        for name in ("torchrl", "minari", "wrappers.vector"):
            assert name in "".join(BLOCKS)

    def test_its_code_uses_public_names_alone(self) -> None:
        used = {
            alias.name
            for block in BLOCKS
            for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("worldplay_env")
            for alias in node.names
        }
        assert used <= set(worldplay_env.__all__)
