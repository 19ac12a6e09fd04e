"""The contract of the model: what docstrings cite is there."""

from __future__ import annotations

import re
from pathlib import Path

import worldplay_env

PACKAGE = Path(worldplay_env.__file__).parent
CITATION = re.compile(r"\bspec sections? (\d)(?: and (\d))?", re.IGNORECASE)


def test_every_section_that_docstrings_cite_is_in_the_contract() -> None:
    contract = (PACKAGE / "models/worldplay/SPEC.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## (\d)\. ", contract, re.MULTILINE))
    files = [path for path in PACKAGE.rglob("*.py") if "abot" not in path.parts]
    cited = {
        number
        for path in files
        for numbers in CITATION.findall(" ".join(path.read_text(encoding="utf-8").split()))
        for number in numbers
        if number
    }
    assert len(cited) > 5
    assert cited <= sections
