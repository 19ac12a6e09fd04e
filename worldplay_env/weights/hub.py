"""Names to local files: weights from the Hugging Face hub, from a folder, or carried by the package itself.

Downloads go through huggingface_hub: its cache, progress bars, tokens and offline mode (HF_HUB_OFFLINE). Files that
are in the cache are used as they are, without asking the hub whether there are newer ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from worldplay_env.model.config import WorldConfig
from worldplay_env.weights.files import CheckpointError, weight_files
from worldplay_env.weights.folder import WeightFiles, local_files, upstream_files


class DownloadError(RuntimeError):
    """Weights could not be downloaded; the message says what to fetch by hand, and where to put it."""


class LicenseError(PermissionError):
    """Weights would have to be downloaded whose licence has not been accepted."""


@dataclass(frozen=True)
class Repository:
    """What a world needs of one repository of the hub.

    Attributes:
        name: Owner and name.
        revision: A commit, tag or branch.
        files: Patterns of paths, and about how large what they match is; each must match at least one file.
    """

    name: str
    revision: str
    files: tuple[tuple[str, str], ...]

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"https://huggingface.co/{self.name}"


# No commit is pinned here: both follow their branch until the first download, which stays in the cache.
# `WeightFiles.revision` reports the commit, and `revision=` asks for that one elsewhere.
WORLDPLAY = Repository(
    "tencent/HY-WorldPlay",
    "main",
    (
        ("wan_transformer/config.json", "1 KB"),
        ("wan_distilled_model/model.pt", "11 GB if it is in bfloat16, 21 GB in float32"),
    ),
)
WAN = Repository(
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    "main",
    (
        ("vae/config.json", "2 KB"),
        ("vae/*.safetensors", "2.8 GB"),
        ("text_encoder/*.json", "25 KB"),
        ("text_encoder/*.safetensors", "11.4 GB"),
        ("tokenizer/*", "20 MB"),
    ),
)

LICENSE_NOTICE = (
    f"The weights of {WORLDPLAY.name} are under the Tencent HY-WorldPlay community licence, which forbids using them "
    "or their output to improve any other AI model and gives no rights in the European Union, the United Kingdom and "
    f"South Korea. Read it at {WORLDPLAY.url} and, if you agree to it, pass accept_license=True (--accept-license); "
    "it is asked for before the first download only."
)


def resolve(name: str | Path, revision: str | None = None, accept_license: bool = False) -> WeightFiles:
    """Return the local files of a world's weights, after downloading what is not there yet.

    Args:
        name: "wan-5b", or a folder (its layouts: `weights.folder`).
        revision: Commit, tag or branch of the transformer's repository; by default that of `WORLDPLAY`.
        accept_license: Agree to the licence of the transformer's weights. Needed to download them, not to use them
            from the cache.

    Raises:
        ValueError: An unknown name, or a revision of a folder.
        LicenseError: The licence has not been accepted.
        DownloadError: No network, or the hub refused; the message lists the files and where to put them by hand.
        CheckpointError: A folder lacks something.
    """
    if str(name) == "wan-5b":
        return _download_wan(replace(WORLDPLAY, revision=revision or WORLDPLAY.revision), accept_license)
    if not Path(name).is_dir():
        raise ValueError(f"unknown weights {str(name)!r}: expected 'wan-5b' or a folder of weights")
    if revision is not None:
        raise ValueError(f"{name} is a folder, which has no revisions, got revision={revision!r}")
    return local_files(name)


def bundled() -> WeightFiles:
    """Return the trained weights of "tiny", which the package carries; raises CheckpointError if it was cut apart."""
    return replace(local_files(Path(__file__).with_name("tiny")), revision="trained")


def folder_config(folder: str | Path) -> WorldConfig:
    """Return the sizes of the world whose weights are in a folder; raises CheckpointError as `resolve` does."""
    return local_files(folder).config


def _download_wan(worldplay: Repository, accept_license: bool) -> WeightFiles:
    folders = {repository: _cached(repository) for repository in (worldplay, WAN)}
    if folders[worldplay] is None and not accept_license:
        raise LicenseError(LICENSE_NOTICE)
    worldplay_folder, wan_folder = (
        folder or _download(repository, worldplay) for repository, folder in folders.items()
    )
    # The hub's cache names the folder of a snapshot by its commit.
    return upstream_files(worldplay_folder, wan_folder, worldplay_folder.name)


def _cached(repository: Repository) -> Path | None:
    """Return the folder of a repository's files in the hub's cache, or None if some are not there."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(repository, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return None if _missing(repository, folder) else folder


def _download(repository: Repository, worldplay: Repository) -> Path:
    try:
        folder = _snapshot(repository, local_files_only=False)
    except Exception as error:  # the hub's own errors, its HTTP client's, the operating system's
        raise DownloadError(_by_hand(repository, worldplay, f"{type(error).__name__}: {error}")) from error
    if missing := _missing(repository, folder):
        reason = f"revision {repository.revision!r} has no {', '.join(missing)}"
        raise DownloadError(_by_hand(repository, worldplay, reason))
    return folder


def _snapshot(repository: Repository, *, local_files_only: bool) -> Path:
    import huggingface_hub

    folder = huggingface_hub.snapshot_download(
        repository.name,
        revision=repository.revision,
        allow_patterns=[pattern for pattern, _ in repository.files],
        local_files_only=local_files_only,
    )
    return Path(folder)


def _missing(repository: Repository, folder: Path) -> list[str]:
    """Return the patterns that nothing in the folder matches; an interrupted download leaves part of a repository."""
    missing = [pattern for pattern, _ in repository.files if not any(folder.glob(pattern))]
    for index in folder.glob("*/*.safetensors.index.json"):
        try:
            weight_files(index)
        except CheckpointError as error:
            missing.append(f"complete {index.parent.name}/ ({error})")
    return missing


def _by_hand(failed: Repository, worldplay: Repository, reason: str) -> str:
    import huggingface_hub

    lines = [f"{failed.name} could not be downloaded: {reason}", ""]
    lines.append("To put the files there by hand, fetch these into one folder, each under its own path:")
    for repository in (worldplay, WAN):
        lines.append(f"  {repository.url}/tree/{repository.revision}")
        lines += [f"    {pattern}  ({size})" for pattern, size in repository.files]
    lines.append("and give the folder as the world: worldplay_env.load('FOLDER'), --world FOLDER.")
    cache = huggingface_hub.constants.HF_HUB_CACHE
    lines.append(f"Or copy the hub's cache from a machine that has them to {cache}.")
    return "\n".join(lines)
