"""The hub's real client against a hub of this machine: half a cache is completed, and nothing else is fetched."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from weight_folders import load_all, write_wan, write_worldplay

from worldplay_env.weights import hub
from worldplay_env.weights.hub import DownloadError, resolve
from worldplay_env.weights.repositories import WAN, WORLDPLAY, RemoteFile, Repository

SHARD = "text_encoder/model-00002-of-00003.safetensors"


class HubServer(http.server.ThreadingHTTPServer):
    """A hub with two repositories, each of one commit."""

    def __init__(self, folders: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.folders = folders
        self.fetched: list[str] = []
        self.spoilt = ""


class _Answer(http.server.BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        path = self.path.split("?")[0]
        for name, folder in self.server.folders.items():
            commit = WORLDPLAY.revision if name == WORLDPLAY.name else WAN.revision
            if path.startswith(f"/api/models/{name}"):
                files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
                return self._send_json(_listing(folder, files, commit, tree="/tree/" in path))
            if path.startswith(start := f"/{name}/resolve/{commit}/") and (folder / path[len(start) :]).is_file():
                return self._send_file(folder, path[len(start) :], commit, with_content)
        self.send_error(404)
        return None

    def _send_json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_file(self, folder: Path, file: str, commit: str, with_content: bool) -> None:
        content = (folder / file).read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.server.fetched.append(file)
            self.wfile.write(content if file != self.server.spoilt else content[:-1] + bytes([content[-1] ^ 1]))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _listing(folder: Path, files: list[str], commit: str, *, tree: bool) -> Any:
    if not tree:
        return {"id": "model", "sha": commit, "siblings": [{"rfilename": file} for file in files]}
    return [{"type": "file", "path": file, "size": (folder / file).stat().st_size, "oid": 40 * "0"} for file in files]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    published = {
        WORLDPLAY.name: write_worldplay(tmp_path / "worldplay"),
        WAN.name: write_wan(tmp_path / "wan"),
    }
    monkeypatch.setattr(hub, "WAN", _as_published(WAN, published[WAN.name]))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with HubServer(published) as server:
        for name in ("snapshot_download", "hf_hub_download"):
            client = functools.partial(getattr(huggingface_hub, name), endpoint=server.url)
            monkeypatch.setattr(huggingface_hub, name, client)
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


def _as_published(repository: Repository, folder: Path) -> Repository:
    contents = {file.path: (folder / file.path).read_bytes() for file in repository.files}
    files = [
        RemoteFile(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in contents.items()
    ]
    return dataclasses.replace(repository, files=tuple(files))


def test_a_download_is_made_once_and_half_a_cache_is_completed(server: HubServer) -> None:
    files = resolve("wan-5b", accept_license=True)
    assert sorted(server.fetched) == sorted(file.path for file in WORLDPLAY.files + WAN.files)
    load_all(files)
    server.fetched.clear()
    assert resolve("wan-5b") == files
    assert server.fetched == []

    lost = files.text_encoder / "config.json"
    lost.resolve().unlink()
    lost.unlink()
    cut_off = files.text_encoder / Path(SHARD).name
    cut_off.resolve().write_bytes(b"half")
    assert resolve("wan-5b") == files
    assert sorted(server.fetched) == ["text_encoder/config.json", SHARD]
    load_all(files)


def test_a_file_that_the_network_changed_is_told_and_fetched_again_the_next_time(server: HubServer) -> None:
    server.spoilt = SHARD
    with pytest.raises(DownloadError, match=f"damaged on the way.*{SHARD} has the hash"):
        resolve("wan-5b", accept_license=True)
    server.spoilt = ""
    server.fetched.clear()
    load_all(resolve("wan-5b"))
    assert server.fetched == [SHARD]


def test_a_file_that_the_hub_has_no_more_is_told_with_the_command(server: HubServer) -> None:
    (server.folders[WAN.name] / SHARD).unlink()
    with pytest.raises(DownloadError, match=rf"hf download {WAN.name} {SHARD} --revision {WAN.revision}"):
        resolve("wan-5b", accept_license=True)
