"""Downloads: of one commit, file by file, whole and with the right hashes, or an error that says what to fetch."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from weight_folders import SMALL, load_all, write_wan, write_worldplay

import worldplay_env
from worldplay_env.weights import hub
from worldplay_env.weights.checkpoint import CheckpointError
from worldplay_env.weights.hub import LICENSE_NOTICE, DownloadError, LicenseError, resolve
from worldplay_env.weights.repositories import PINNED, WAN, WORLDPLAY, RemoteFile, Repository, damaged

OTHER_COMMIT = "f" * 40
SHARD = "text_encoder/model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the hub has of each repository, with small sizes."""
    root = tmp_path_factory.mktemp("published")
    return {WORLDPLAY.name: write_worldplay(root / "worldplay"), WAN.name: write_wan(root / "wan")}


@pytest.fixture(autouse=True)
def small_wan(published: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The list of what is needed, with the sizes and hashes of the small files."""
    files = []
    for file in WAN.files:
        content = (published[WAN.name] / file.path).read_bytes()
        files.append(RemoteFile(file.path, len(content), hashlib.sha256(content).hexdigest()))
    small = dataclasses.replace(WAN, files=tuple(files))
    monkeypatch.setattr(hub, "WAN", small)
    return small


class FakeHub:
    """In place of the hub's client: it brings what is not there yet, and leaves alone what is, as that does."""

    def __init__(self, root: Path, published: dict[str, Path]) -> None:
        self.downloaded: list[tuple[str, str]] = []
        self.brought: list[str] = []
        self.error: Exception | None = None
        self.on_the_way: Callable[[Path], None] = lambda path: None
        self._root, self._published = root, published

    def folder(self, repository: Repository) -> Path:
        return self._root / repository.name.replace("/", "--") / repository.revision

    def anew(self, name: str, path: str, *, revision: str, force_download: bool) -> str:
        assert force_download
        (self._root / name.replace("/", "--") / revision / path).unlink()
        return self(name, revision=revision, allow_patterns=[path], local_files_only=False)

    def __call__(self, name: str, *, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        folder = self._root / name.replace("/", "--") / revision
        if local_files_only:
            if not folder.exists():
                raise LocalEntryNotFoundError("not in the cache")
            return str(folder)
        if self.error is not None:
            raise self.error
        self.downloaded.append((name, revision))
        for path in allow_patterns:
            source, target = self._published[name] / path, folder / path
            if source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
                self.brought.append(path)
                self.on_the_way(target)
        return str(folder)


@pytest.fixture
def fake_hub(tmp_path: Path, published: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path, published)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.anew)
    return fake


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real huggingface_hub, offline, with an empty cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def write_cache(cache: Path, repository: Repository, published: dict[str, Path]) -> Path:
    """A repository as huggingface_hub keeps it in its cache: links to files that are named by their hashes."""
    root = cache / ("models--" + repository.name.replace("/", "--"))
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(OTHER_COMMIT)
    (root / "blobs").mkdir()
    folder = root / "snapshots" / repository.revision
    for file in repository.files:
        content = (published[repository.name] / file.path).read_bytes()
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).symlink_to(blob)
    return folder


# --- what is asked for --------------------------------------------------------------------------------------


def test_every_file_is_listed_and_the_sizes_are_those_of_the_real_models() -> None:
    assert {repository.name: repository.revision for repository in (WORLDPLAY, WAN)} == PINNED
    assert all(len(commit) == 40 for commit in PINNED.values())
    assert all(file.size is not None and len(file.sha256 or "") == 64 for file in WAN.files)
    text_parameters, autoencoder_parameters = 5_680_910_336, 704_688_668
    shards = [file.size or 0 for file in WAN.files if file.path.startswith("text_encoder/model-")]
    assert 0 < sum(shards) - 2 * text_parameters < 100_000  # bfloat16, and three headers
    [autoencoder] = [file.size or 0 for file in WAN.files if file.path.startswith("vae/diffusion")]
    assert 0 < autoencoder - 4 * autoencoder_parameters < 100_000  # float32, and a header


def test_the_first_download_asks_for_the_licence_in_two_sentences_and_downloads_nothing(fake_hub: FakeHub) -> None:
    with pytest.raises(LicenseError) as caught:
        resolve("wan-5b")
    assert str(caught.value) == LICENSE_NOTICE
    assert LICENSE_NOTICE.count(". ") == 1
    for words in (
        "improve any other AI model",
        "European Union",
        "United Kingdom",
        "South Korea",
        "--accept-license",
    ):
        assert words in LICENSE_NOTICE
    assert fake_hub.downloaded == []


def test_an_accepted_download_gives_files_that_load_and_is_not_asked_for_again(fake_hub: FakeHub) -> None:
    files = resolve("wan-5b", accept_license=True)
    assert dict(fake_hub.downloaded) == PINNED
    assert sorted(fake_hub.brought) == sorted(file.path for file in WORLDPLAY.files + WAN.files)
    assert files.revision == WORLDPLAY.revision
    assert files.transformer.name == "model.pt"
    assert files.config.transformer == SMALL.transformer
    assert files.config.autoencoder == SMALL.autoencoder
    assert files.config.text == dataclasses.replace(SMALL.text, text_len=512, bytes_tokenizer=False)
    load_all(files)
    assert resolve("wan-5b") == files
    assert len(fake_hub.downloaded) == 2


@pytest.mark.parametrize("revision", [OTHER_COMMIT, "main"])
def test_a_revision_is_that_of_the_transformer(fake_hub: FakeHub, revision: str) -> None:
    assert resolve("wan-5b", revision, accept_license=True).revision == revision
    assert dict(fake_hub.downloaded) == PINNED | {WORLDPLAY.name: revision}


def test_sizes_and_hashes_are_those_of_their_commit_alone() -> None:
    other = WAN.at("main")
    assert [file.path for file in other.files] == [file.path for file in WAN.files]
    assert all(file.size is None and file.sha256 is None for file in other.files)
    assert "about 4.9 GB" in str(other.files[4])
    assert WAN.at(None) is WAN.at(WAN.revision) is WAN


# --- half a cache -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [file.path for file in WAN.files])
def test_what_is_not_there_is_fetched_and_nothing_else(fake_hub: FakeHub, lost: str) -> None:
    files = resolve("wan-5b", accept_license=True)
    (fake_hub.folder(WAN) / lost).unlink()
    fake_hub.downloaded.clear()
    fake_hub.brought.clear()
    assert resolve("wan-5b") == files  # and the licence of the transformer is not asked for
    assert fake_hub.downloaded == [(WAN.name, WAN.revision)]
    assert fake_hub.brought == [lost]


@pytest.mark.parametrize("lost", [file.path for file in WAN.files])
def test_offline_what_is_not_there_is_named_with_the_command_that_fetches_it(
    offline_cache: Path, published: dict[str, Path], small_wan: Repository, lost: str
) -> None:
    write_cache(offline_cache, WORLDPLAY, published)
    (write_cache(offline_cache, small_wan, published) / lost).unlink()
    with pytest.raises(DownloadError) as caught:
        resolve("wan-5b")
    message = str(caught.value)
    assert f"    hf download {WAN.name} {lost} --revision {WAN.revision}\n" in message
    others = [file.path for file in WAN.files + WORLDPLAY.files if file.path != lost]
    assert not any(f"{other} " in message for other in others)


def test_a_file_that_was_cut_off_is_fetched_again(fake_hub: FakeHub) -> None:
    files = resolve("wan-5b", accept_license=True)
    (fake_hub.folder(WAN) / SHARD).write_bytes(b"half")
    fake_hub.brought.clear()
    assert resolve("wan-5b") == files
    assert fake_hub.brought == [SHARD]
    load_all(files)


def test_offline_a_file_that_was_cut_off_is_left_and_named(
    offline_cache: Path, published: dict[str, Path], small_wan: Repository
) -> None:
    write_cache(offline_cache, WORLDPLAY, published)
    cut = write_cache(offline_cache, small_wan, published) / SHARD
    cut.write_bytes(b"half")
    with pytest.raises(DownloadError, match=SHARD):
        resolve("wan-5b")
    assert cut.read_bytes() == b"half"


@pytest.mark.parametrize("lost", ["wan_distilled_model/model.pt", "wan_transformer/config.json"])
def test_a_transformer_half_in_the_cache_asks_for_the_licence(
    offline_cache: Path, published: dict[str, Path], small_wan: Repository, lost: str
) -> None:
    (write_cache(offline_cache, WORLDPLAY, published) / lost).unlink()
    write_cache(offline_cache, small_wan, published)
    with pytest.raises(LicenseError):
        resolve("wan-5b")


def test_a_pointer_in_place_of_the_transformer_is_told(
    offline_cache: Path, published: dict[str, Path], small_wan: Repository
) -> None:
    write_cache(offline_cache, small_wan, published)
    folder = write_cache(offline_cache, WORLDPLAY, published)
    (folder / "wan_distilled_model" / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n")
    with pytest.raises(CheckpointError, match=r"model\.pt: a git-LFS pointer"):
        resolve("wan-5b")


# --- what goes wrong on the way -----------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    if path.name == Path(SHARD).name:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)


def test_what_was_damaged_on_the_way_is_told_and_does_not_stay(fake_hub: FakeHub) -> None:
    fake_hub.on_the_way = flip_a_bit
    with pytest.raises(DownloadError, match=rf"damaged on the way.*{SHARD} has the hash .* should have"):
        resolve("wan-5b", accept_license=True)
    assert not (fake_hub.folder(WAN) / SHARD).exists()
    fake_hub.on_the_way = lambda path: None
    load_all(resolve("wan-5b"))


def test_the_hubs_own_names_are_hashes_that_files_are_held_against(
    offline_cache: Path, published: dict[str, Path]
) -> None:
    file = WORLDPLAY.files[1]
    path = write_cache(offline_cache, WORLDPLAY, published) / file.path
    assert damaged(file, path) is None
    path.write_bytes(path.read_bytes() + b"\0")
    assert "should have" in (damaged(file, path) or "")


def test_small_files_are_held_against_gits_hash(tmp_path: Path) -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    blob = tmp_path / "models--a--b" / "blobs" / "ce013625030ba8dba906f756967f9e9ca394464a"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"hello\n")
    assert damaged(RemoteFile("config.json"), blob) is None
    blob.write_bytes(b"hullo\n")
    assert "should have ce0136" in (damaged(RemoteFile("config.json"), blob) or "")
    assert damaged(RemoteFile("config.json"), tmp_path / "elsewhere") is None  # nothing is known of it


def test_what_the_hub_does_not_have_is_told(
    fake_hub: FakeHub, small_wan: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = RemoteFile("vae/absent.json", 5)
    monkeypatch.setattr(hub, "WAN", dataclasses.replace(small_wan, files=(*small_wan.files, absent)))
    with pytest.raises(DownloadError, match=r"has no whole vae/absent\.json"):
        resolve("wan-5b", accept_license=True)


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline"), ConnectionError("refused"), OSError("full")])
def test_a_failed_download_says_what_to_fetch_and_where_to_put_it(
    fake_hub: FakeHub, small_wan: Repository, error: Exception
) -> None:
    fake_hub.error = error
    with pytest.raises(DownloadError) as caught:
        resolve("wan-5b", accept_license=True)
    message = str(caught.value)
    assert str(error) in message
    for repository in (WORLDPLAY, small_wan):
        assert f"https://huggingface.co/{repository.name}" in message
        assert all(f"    {file}\n" in message for file in repository.files)
        assert f"--revision {repository.revision}" in message
    assert "--world FOLDER" in message
    assert caught.value.__cause__ is error


def test_offline_the_real_hub_gives_the_same_error(offline_cache: Path) -> None:
    with pytest.raises(DownloadError, match=r"wan_distilled_model/model\.pt") as caught:
        resolve("wan-5b", accept_license=True)
    assert str(offline_cache) in str(caught.value)


def test_offline_the_cache_of_the_real_hub_is_used_without_asking_for_the_licence(
    offline_cache: Path, published: dict[str, Path], small_wan: Repository, tmp_path: Path
) -> None:
    write_cache(offline_cache, WORLDPLAY, published)
    write_cache(offline_cache, small_wan, published)
    files = resolve("wan-5b")
    assert files.revision == WORLDPLAY.revision
    assert resolve("wan-5b", WORLDPLAY.revision) == files
    load_all(files)
    # The same files in a folder are the same weights, though of those nobody has said a hash.
    for repository in (WORLDPLAY, WAN):
        for file in repository.files:
            (tmp_path / "folder" / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(published[repository.name] / file.path, tmp_path / "folder" / file.path)
    assert resolve(tmp_path / "folder").content_hash == files.content_hash


def test_a_download_is_a_world(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    world = worldplay_env.load("wan-5b", accept_license=True, device="cpu")
    assert world.weights == WORLDPLAY.revision
    assert len(world.weights_hash or "") == 64


def test_unknown_weights_are_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown weights 'wan-6b': expected 'wan-5b', 'abot-5b' or a folder"):
        resolve("wan-6b")
    with pytest.raises(ValueError, match="a folder, which has no revisions"):
        resolve(tmp_path, revision="main")
