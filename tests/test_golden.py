"""The recorded cases pass; and the runner that says so takes any folder, and can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import golden
import pytest
from golden_cases.case import Case
from golden_cases.comparison import compare
from safetensors.torch import load_file, save_file

CASES = golden.cases(golden.FOLDER) + golden.cases(golden.ABOT_FOLDER)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recorded_case_passes(case: Case) -> None:
    rows = list(golden.run(case))
    failed = [str(row) for row in rows if not row.passed]
    assert not failed, "\n".join(failed)
    assert any(not row.skipped for row in rows)


def test_every_kind_is_recorded() -> None:
    assert {golden.kind_of(case) for case in CASES} == set(golden.KINDS)


def copy(folder: Path, *names: str, rename: str = "{}") -> None:
    """Copy cases of the project's folder into another under new names, their listed files too."""
    for name in names:
        values = json.loads((golden.FOLDER / f"{name}.json").read_text())
        listed = {file: rename.format(Path(file).stem) + ".safetensors" for file in values["files"]}
        for file, new in listed.items():
            shutil.copy(golden.FOLDER / file, folder / new)
        values["files"] = {listed[file]: tensors for file, tensors in values["files"].items()}
        values["case"] = rename.format(values["case"])
        for file, new in listed.items():
            values["weights"] = values.get("weights", "").replace(Path(file).stem, Path(new).stem)
        (folder / f"{rename.format(name)}.json").write_text(json.dumps(values))


@pytest.mark.parametrize("rename", ["{}_unseen", "other_{}"])
def test_cases_of_other_names_are_recognised_and_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rename: str
) -> None:
    copy(tmp_path, "vae", "rollout_image", "rollout_text", "prope", "schedule", rename=rename)
    assert golden.main([str(tmp_path)]) == 0
    assert "5 cases" in capsys.readouterr().out


def test_a_changed_tensor_fails_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy(tmp_path, "prope")
    file = tmp_path / "prope.safetensors"
    tensors = load_file(file)
    tensors["out/k"][0, 0, 0, 0] += 1e-3
    save_file(tensors, file)
    assert golden.main([str(tmp_path)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAILED")]
    assert len(failed) == 1
    assert failed[0].startswith("prope/out/k: 0.00")


def test_missing_weights_and_unknown_kinds_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy(tmp_path, "rollout_text")
    (tmp_path / "strange.json").write_text('{"case": "strange", "items": []}')
    assert golden.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "patch_embedding.weight" in out
    assert "unknown kind of case" in out


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_cases_is_an_error_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert golden.main([str(tmp_path / folder)]) == 2
    assert folder in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tolerance", "within", "beyond"),
    [
        (1e-3, 2.0009, 2.0011),
        ({"atol": 1e-3}, 1.9991, 1.9989),
        ({"max_abs": 0.5}, 2.5, 2.6),
        ({"atol": 0.1, "rtol": 0.1}, 2.29, 2.31),
        ({"rtol": 0.1}, 2.19, 2.21),
        ({"rel_l2": 0.05}, 2.09, 2.11),
        ("exact", 2.0, 2.0000001),
        ("exact or one bfloat16 unit", 2.015625, 2.03125),
        ("1 level", 3, 4),
        (1e-3, 2.0, float("nan")),
        ("exact", 2.0, [2.0, 2.0]),
    ],
)
def test_tolerances_mean_what_the_files_say(tolerance: object, within: object, beyond: object) -> None:
    assert compare("item", within, 2.0, tolerance).passed
    assert not compare("item", beyond, 2.0, tolerance).passed
