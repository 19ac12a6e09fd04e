"""Names to local files: weights from the Hugging Face hub, from a folder, or carried by the package itself.

Downloads go through huggingface_hub: its cache, progress bars, tokens and offline mode (HF_HUB_OFFLINE). They are of
one commit each (`repositories`). What is in the cache is used without asking the hub; what is missing or cut off
there is fetched, and held against its hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from worldplay_env.models.config import WorldConfig
from worldplay_env.weights.folder import WeightFiles, abot_files, local_files, upstream_files
from worldplay_env.weights.repositories import ABOT, SMALL_DECODER, WAN, WORLDPLAY, RemoteFile, Repository, damaged


class DownloadError(RuntimeError):
    """Weights could not be downloaded; the message lists the files to fetch by hand and their folder."""


class LicenseError(PermissionError):
    """Weights would have to be downloaded whose licence has not been accepted."""


LICENSE_NOTICE = (
    f"The weights of {WORLDPLAY.name} are under the Tencent HY-WorldPlay community licence, which forbids using them "
    "or their output to improve any other AI model and gives no rights in the European Union, the United Kingdom and "
    f"South Korea. Read it at {WORLDPLAY.url} and, if you agree to it, pass accept_license=True (--accept-license); "
    "it is asked for before the first download only."
)


def resolve(
    name: str | Path, revision: str | None = None, accept_license: bool = False, *, small_decoder: bool = False
) -> WeightFiles:
    """Return the local files of a world's weights, after downloading the missing ones.

    Args:
        name: "wan-5b", "abot-5b", or a folder (its layouts: `weights.folder`).
        revision: Commit, tag or branch of the transformer's repository; by default the one of `repositories.PINNED`.
        accept_license: Agree to the licence of HY-WorldPlay's weights. Needed to download them, not to use them from
            the cache; those of ABot-World ask for nothing.
        small_decoder: Download the small decoder too, for "wan-5b", which has another by default.

    Raises:
        ValueError: An unknown name, or a revision of a folder.
        LicenseError: The licence has not been accepted.
        DownloadError: No network, or the hub refused; the message lists the files and where to put them by hand.
        CheckpointError: A folder lacks something.
    """
    if str(name) == "wan-5b":
        worldplay = WORLDPLAY.at(revision)
        needed = (worldplay, WAN, SMALL_DECODER) if small_decoder else (worldplay, WAN)
        folder, wan_folder, *small = _fetched(needed, None if accept_license else worldplay)
        files = upstream_files(folder, wan_folder, folder.name)  # the hub's cache names a folder by its commit
        return replace(files, small_decoder=small[0] / SMALL_DECODER.files[0].path) if small else files
    if str(name) == "abot-5b":
        [folder] = _fetched((ABOT.at(revision),))
        return abot_files(folder, folder.name)
    if not Path(name).is_dir():
        raise ValueError(f"unknown weights {str(name)!r}: expected 'wan-5b', 'abot-5b' or a folder of weights")
    if revision is not None:
        raise ValueError(f"{name} is a folder, which has no revisions, got revision={revision!r}")
    return local_files(name)


def bundled() -> WeightFiles:
    """Return the trained weights of "tiny", which the package carries; raises CheckpointError if it was cut apart."""
    return replace(local_files(Path(__file__).with_name("tiny")), revision="trained")


def folder_config(folder: str | Path) -> WorldConfig:
    """Return the sizes of the world whose weights are in a folder; raises CheckpointError as `resolve` does."""
    return local_files(folder).config


def _fetched(repositories: Sequence[Repository], unlicensed: Repository | None = None) -> list[Path]:
    """Return the folders of repositories, after downloading the missing files.

    Args:
        repositories: All that a world needs.
        unlicensed: One of them whose licence has not been accepted.
    """
    cached = {repository: _cached(repository) for repository in repositories}
    lacking = {repository: repository.lacking(cached[repository]) for repository in repositories}
    if unlicensed is not None and lacking[unlicensed]:
        raise LicenseError(LICENSE_NOTICE)
    for repository in repositories:
        if lacking[repository]:
            cached[repository] = _download(repository, lacking)
    return [folder for folder in cached.values() if folder is not None]


def _cached(repository: Repository) -> Path | None:
    """Return the folder of a repository in the hub's cache, whole or not; None if there is none."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _snapshot(repository, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def _download(repository: Repository, lacking: dict[Repository, list[RemoteFile]]) -> Path:
    """Download the missing files of a repository, check all hashes and return its folder."""
    try:
        folder = _snapshot(repository, local_files_only=False)
        for file in repository.lacking(folder):
            if (folder / file.path).exists():  # cut off: the hub's client takes it for complete
                _fetch_anew(repository, file)
    except Exception as error:  # the hub's own errors, its HTTP client's, the operating system's
        raise DownloadError(_by_hand(repository, lacking, f"{type(error).__name__}: {error}")) from error
    if missing := repository.lacking(folder):
        reason = f"the hub could not be reached, or has no whole {', '.join(file.path for file in missing)}"
        raise DownloadError(_by_hand(repository, lacking | {repository: missing}, reason))
    found = {file: damaged(file, folder / file.path) for file in lacking[repository]}
    if wrong := {file: damage for file, damage in found.items() if damage is not None}:
        for file in wrong:  # or they would count as downloaded; what lies in the cache are links
            (folder / file.path).resolve().unlink()
            (folder / file.path).unlink(missing_ok=True)
        reason = f"damaged on the way, and deleted: {'; '.join(wrong.values())}"
        raise DownloadError(_by_hand(repository, lacking | {repository: list(wrong)}, reason))
    return folder


def _snapshot(repository: Repository, *, local_files_only: bool) -> Path:
    import huggingface_hub

    folder = huggingface_hub.snapshot_download(
        repository.name,
        revision=repository.revision,
        allow_patterns=[file.path for file in repository.files],
        local_files_only=local_files_only,
    )
    return Path(folder)


def _fetch_anew(repository: Repository, file: RemoteFile) -> None:
    import huggingface_hub

    huggingface_hub.hf_hub_download(repository.name, file.path, revision=repository.revision, force_download=True)


def _by_hand(failed: Repository, lacking: dict[Repository, list[RemoteFile]], reason: str) -> str:
    import huggingface_hub

    lines = [f"{failed.name} could not be downloaded: {reason}", ""]
    for repository, files in lacking.items():
        if files:
            lines.append(f"Not there yet, of {repository.url}/tree/{repository.revision}")
            lines += [f"    {file}" for file in files]
    lines.append("These commands fetch them, on a machine with a network:")
    lines += [f"    {repository.command(files)}" for repository, files in lacking.items() if files]
    cache = huggingface_hub.constants.HF_HUB_CACHE
    lines.append(f"They go into that machine's cache of the hub: copy it to {cache}.")
    lines.append("Or into a folder, with --local-dir FOLDER behind each command: with all files of all repositories")
    lines.append("in it, it can be given as the world, worldplay_env.load('FOLDER') or --world FOLDER.")
    return "\n".join(lines)
