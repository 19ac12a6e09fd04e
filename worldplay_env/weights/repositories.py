"""The files of each world on the Hugging Face hub: repository, commit, size, hash, and their local check."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from worldplay_env.weights.content import file_sha256, hub_blob

PINNED = {
    "tencent/HY-WorldPlay": "f4c29235647707b571479a69b569e4166f9f5bf8",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": "b8fff7315c768468a5333511427288870b2e9635",
}
"""The commits that are downloaded unless another is asked for; of ABot-World none is known, hence its branch.

Of WorldPlay's autoencoder and text encoder, sizes and hashes of all files are written down below. Those of the
others are not known here: their files are held against what the hub itself calls their hash.
"""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository.

    Attributes:
        path: Within the repository.
        size: In bytes; None if it is not known beforehand.
        sha256: Of its bytes, in hexadecimal; None if it is not known beforehand.
        about: Its size in words, where that is not known to the byte.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    about: str = ""

    def __str__(self) -> str:
        """Return the file's path and size."""
        return f"{self.path} ({_in_words(self.size) if self.size is not None else self.about})"


@dataclass(frozen=True)
class Repository:
    """What a world needs of one repository of the hub.

    Attributes:
        name: Owner and name.
        revision: A commit, tag or branch.
        files: Every file that is needed.
    """

    name: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"https://huggingface.co/{self.name}"

    def at(self, revision: str | None) -> Repository:
        """Return the same files at another commit, tag or branch, where their sizes and hashes are not known."""
        if revision is None or revision == self.revision:
            return self
        about = [file.about or f"about {_in_words(file.size or 0)}" for file in self.files]
        files = tuple(RemoteFile(file.path, about=words) for file, words in zip(self.files, about, strict=True))
        return replace(self, revision=revision, files=files)

    def lacking(self, folder: Path | None) -> list[RemoteFile]:
        """Return the files that a folder lacks or has in another size; all of them if there is no folder."""
        return [file for file in self.files if folder is None or not _is_there(file, folder / file.path)]

    def command(self, files: list[RemoteFile]) -> str:
        """Return the command line that fetches some of the files into the hub's cache."""
        return f"hf download {self.name} {' '.join(file.path for file in files)} --revision {self.revision}"


def damaged(file: RemoteFile, path: Path) -> str | None:
    """Return the fault of a downloaded file; None if its hash is right or unknown.

    That is the one written down here; else the one that the hub's cache has named it by, which is SHA-256 for large
    files and git's SHA-1 for small ones.
    """
    if file.sha256 is not None:
        found, expected = file_sha256(path, trust_name=False), file.sha256
    else:
        expected = hub_blob(path) or ""
        if re.fullmatch(r"[0-9a-f]{64}", expected):
            found = file_sha256(path, trust_name=False)
        elif re.fullmatch(r"[0-9a-f]{40}", expected):
            content = path.read_bytes()
            found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        else:
            return None
    return None if found == expected else f"{path} has the hash {found}, and should have {expected}"


def _is_there(file: RemoteFile, path: Path) -> bool:
    return path.is_file() and (file.size is None or path.stat().st_size == file.size)


def _in_words(size: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


WORLDPLAY = Repository(
    "tencent/HY-WorldPlay",
    PINNED["tencent/HY-WorldPlay"],
    (
        RemoteFile("wan_transformer/config.json", about="1 KB"),
        RemoteFile("wan_distilled_model/model.pt", about="11 GB if it is in bfloat16, 21 GB in float32"),
    ),
)
ABOT = Repository(
    "acvlab/ABot-World-0-5B-LF",
    "main",
    (
        RemoteFile("diffusion_pytorch_model.safetensors", about="10.5 GB"),
        RemoteFile("Wan2.2_VAE.pth", about="2.8 GB"),
        RemoteFile("taew2_2.pth", about="23 to 46 MB"),
        RemoteFile("models_t5_umt5-xxl-enc-bf16.pth", about="11.4 GB"),
        RemoteFile("google/umt5-xxl/special_tokens_map.json", about="7 KB"),
        RemoteFile("google/umt5-xxl/spiece.model", about="4.5 MB"),
        RemoteFile("google/umt5-xxl/tokenizer.json", about="17 MB"),
        RemoteFile("google/umt5-xxl/tokenizer_config.json", about="62 KB"),
    ),
)
"""ABot-World's. Its code is under Apache-2.0, and others call the weights so too; nothing is to be accepted."""
SMALL_DECODER = Repository(ABOT.name, ABOT.revision, (RemoteFile("taew2_2.pth", about="23 to 46 MB"),))
"""The small decoder alone; it is under the MIT licence."""
# fmt: off
WAN = Repository(
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    PINNED["Wan-AI/Wan2.2-TI2V-5B-Diffusers"],
    (
        RemoteFile("vae/config.json", 1_701,
                   "d996c340fe9a7df5d7371f76a7d8d6956f6c98256080074d8434fa5eeac11360"),
        RemoteFile("vae/diffusion_pytorch_model.safetensors", 2_818_777_808,
                   "62cd18f19438e35b32ac63020e2852f566e9b02f46b6cdbd87972a356e3c6f4b"),
        RemoteFile("text_encoder/config.json", 855,
                   "a2bcb24699f6c009a2427432bdd483ef8b2b42a712abc9503759cdc77d171f07"),
        RemoteFile("text_encoder/model.safetensors.index.json", 22_476,
                   "31c4c7bcce679eaa0dd4667462394ddb013dc2f748e0bffc893dc9146a320dab"),
        RemoteFile("text_encoder/model-00001-of-00003.safetensors", 4_935_812_536,
                   "a8e861969c7433e707cc5a74065d795d36cca07ec96eb6763eb4083df7248f58"),
        RemoteFile("text_encoder/model-00002-of-00003.safetensors", 4_983_103_192,
                   "d57d948ece4837d850b7a859a4415121d57cacf8b9ee1d4db200c67f592902d7"),
        RemoteFile("text_encoder/model-00003-of-00003.safetensors", 1_442_935_480,
                   "0da9ee284e21d1406df708788db1d502d95d75f69faa25cd26151bf8829b7c5f"),
        RemoteFile("tokenizer/special_tokens_map.json", 7_079,
                   "456b58fd240a06c743a7c2cf8008bec501240d68ebd1fc4018ea569505fea270"),
        RemoteFile("tokenizer/spiece.model", 4_548_313,
                   "e3909a67b780650b35cf529ac782ad2b6b26e6d1f849d3fbb6a872905f452458"),
        RemoteFile("tokenizer/tokenizer.json", 16_837_459,
                   "20a46ac256746594ed7e1e3ef733b83fbc5a6f0922aa7480eda961743de080ef"),
        RemoteFile("tokenizer/tokenizer_config.json", 61_758,
                   "1d8d2a216bf8e70ac15b7ddcea566c4dd0433c024b39a58ca5e4c66bd78defbd"),
    ),
)
# fmt: on
