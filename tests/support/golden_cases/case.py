"""A recorded case (one JSON file and its tensors), and the weights that belong to it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from golden_cases.comparison import Tolerance


@dataclass(frozen=True)
class Case:
    """One recorded case of a folder.

    Attributes:
        path: The case's JSON file.
        values: What is in it.
    """

    path: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Case:
        """Read a case's JSON file; its tensors are read when they are asked for."""
        return cls(path, json.loads(path.read_text(encoding="utf-8")))

    @property
    def name(self) -> str:
        """The file's name without its ending: unique within a folder."""
        return self.path.stem

    @property
    def names(self) -> set[str]:
        """What other cases may call this one."""
        return {self.name, str(self.values.get("case", self.name))}

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise KeyError(f"{self.path.name} has no {key!r}")
        return self.values[key]

    @cached_property
    def _owners(self) -> dict[str, Path]:
        """Tensor names -> the file that holds them: the case's listed files, or those named after it."""
        listed = [self.path.parent / name for name in self.values.get("files") or ()]
        files = listed or sorted(self.path.parent.glob(f"{self.name}*.safetensors"))
        return {name: file for file in files for name in tensor_names(file)}

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._owners

    def under(self, prefix: str) -> list[str]:
        """Names of the tensors that begin with `prefix`, in natural order (2 before 10)."""
        names = [name for name in self._owners if name.startswith(prefix)]
        return sorted(names, key=lambda name: [(int(n) if n else -1, s) for n, s in re.findall(r"(\d*)(\D*)", name)])

    def tensor(self, name: str) -> Tensor:
        """Read one tensor."""
        if name not in self._owners:
            raise KeyError(f"no file of {self.path.name} holds the tensor {name!r}")
        with safe_open(self._owners[name], "pt") as file:
            return file.get_tensor(name)

    def tolerance(self, name: str) -> Tolerance:
        """The tolerance that the case states for `name`; a key such as "c2w/w2c" speaks for each of its parts."""
        for key, value in self["tolerance"].items():
            if name == key or name in key.split("/"):
                return value
        raise KeyError(f"{self.path.name} states no tolerance for {name!r}, only for {', '.join(self['tolerance'])}")


def tensor_names(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file."""
    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def find_weights(case: Case, config: dict[str, Any], parts: tuple[str, ...]) -> list[Path]:
    """Return the files that together hold the parameters of a case's network.

    A case lists its weights among its files, or shares those of a case with the same sizes: of the ones that its
    `weights` text names, by file or by case; failing that, of the file with the most alike name.

    Args:
        case: The case to run.
        config: Sizes of the network.
        parts: For each part that may be in a file of its own, a tensor name that tells it ("decoder.conv_in.weight").

    Raises:
        FileNotFoundError: No file of the folder holds a part.
    """
    found: list[Path] = []
    folder = case.path.parent
    neighbours = [Case.read(path) for path in sorted(folder.glob("*.json")) if path != case.path]
    named = set(re.findall(r"\w+", str(case.values.get("weights", ""))))

    def fitness(file: Path) -> tuple[bool, bool, bool, bool, int]:
        owners = [other for other in neighbours if file.name in (other.values.get("files") or ())]
        alike = [config in (owner.values.get("config"), owner.values.get("vae_config")) for owner in owners]
        return (
            file.name in (case.values.get("files") or ()),
            any(alike) or not owners,
            file.stem in named,
            any(owner.names & named for owner in owners),
            _letters_shared(file.stem, case.name),
        )

    files = {file: set(tensor_names(file)) for file in sorted(folder.glob("*.safetensors"))}
    for part in parts:
        holders = [file for file, names in files.items() if part in names]
        if not holders:
            raise FileNotFoundError(f"{case.path.name}: no file in {folder} holds weights with the key {part!r}")
        found.append(max(holders, key=fitness))
    return list(dict.fromkeys(found))


def _letters_shared(a: str, b: str) -> int:
    """Count the letters that two names begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
