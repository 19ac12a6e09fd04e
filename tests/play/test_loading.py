"""What is shown while worlds are loaded: by the bytes of a download, else by the clock, and never a lie."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from played import until

from worldplay_env.play import loading
from worldplay_env.play.loading import Download, Loading

BLOBS = Path("models--tencent--HY-WorldPlay", "blobs")
GIGABYTES = 30 * loading.GIGABYTE


class Cache:
    """Stands in for the hub's cache: a test sets the bytes of its files, in gigabytes."""

    def __init__(self) -> None:
        self.gigabytes: dict[str, float] = {}

    def __call__(self, cache: Path) -> dict[Path, int]:
        return {cache / name: int(size * loading.GIGABYTE) for name, size in self.gigabytes.items()}


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Cache:
    stand_in = Cache()
    monkeypatch.setattr(loading, "_files", stand_in)
    return stand_in


def test_loading_goes_on_and_never_claims_to_be_done() -> None:
    tiny = Loading(["tiny"])
    fractions = [tiny.progress("Loading tiny", seconds).fraction for seconds in (0, 1, 5, 50, 5000)]
    assert fractions[0] == 0
    assert fractions == sorted(fractions)
    assert fractions[2] < 0.9
    assert tiny.progress("Loading tiny", 3).text == "Loading tiny: 3 s (usually a few seconds)"


def test_of_two_worlds_the_slower_one_says_how_long_it_takes() -> None:
    both = Loading(["testcard", "wan-5b"])
    assert "usually a minute or two" in both.progress("Loading wan-5b", 3).text
    assert both.progress("Loading wan-5b", 3).fraction < 0.1


def test_a_download_is_counted_in_bytes_and_the_rest_estimated_from_its_rate(cache: Cache) -> None:
    wan = Loading(["wan-5b"])
    for seconds in range(61):
        cache.gigabytes["model.incomplete"] = 0.1 * seconds
        progress = wan.progress("Loading wan-5b", seconds)
    assert progress.fraction == pytest.approx(0.2)
    assert progress.text == "Loading wan-5b: downloaded 6.0 of about 30 GB, 4 min left"


def test_after_the_download_the_clock_goes_on_from_its_end(cache: Cache) -> None:
    wan = Loading(["wan-5b"])
    cache.gigabytes["model.incomplete"] = 1.0
    assert "downloaded" in wan.progress("Loading wan-5b", 600.0).text
    cache.gigabytes = {"model": 28.0}
    assert "downloaded 28.0" in wan.progress("Loading wan-5b", 602.0).text  # the next file may follow
    assert wan.progress("Loading wan-5b", 610.0).text.startswith("Loading wan-5b: 10 s (usually a minute or two")
    assert wan.progress("Loading wan-5b", 610.0).fraction < 0.2


def test_what_is_there_already_is_no_download(cache: Cache) -> None:
    cache.gigabytes = {"model": 11.0, "vae": 3.0}
    assert "downloaded" not in Loading(["wan-5b"]).progress("Loading wan-5b", 5.0).text


def test_the_beginning_that_a_broken_download_left_behind_counts_only_once_it_grows(cache: Cache) -> None:
    cache.gigabytes = {"model.1234.incomplete": 9.0}
    download = Download(Path("cache"), GIGABYTES)
    download.look(0.0)
    assert not download.running
    cache.gigabytes["model.5678.incomplete"] = 3.0
    download.look(1.0)
    assert (download.running, download.fraction) == (True, pytest.approx(0.1))
    cache.gigabytes["model.1234.incomplete"] = 9.3
    download.look(2.0)
    assert download.fraction == pytest.approx(0.41)


def test_a_download_that_stands_still_says_that_it_waits_for_the_network(cache: Cache) -> None:
    download = Download(Path("cache"), GIGABYTES)
    cache.gigabytes["model.incomplete"] = 12.0
    for seconds in range(40):
        download.look(seconds)
    assert download.words() == "downloaded 12.0 of about 30 GB, waiting for the network"


def test_a_download_that_turns_out_larger_is_nearly_there(cache: Cache) -> None:
    download = Download(Path("cache"), GIGABYTES)
    for seconds in range(10):
        cache.gigabytes["model.incomplete"] = 30.0 + seconds
        download.look(seconds)
    assert download.fraction == 1
    assert download.words() == "downloaded 39.0 of about 30 GB, nearly there"


def test_a_file_that_was_given_its_length_beforehand_counts_by_what_is_in_it(tmp_path: Path) -> None:
    if not hasattr(tmp_path.stat(), "st_blocks"):
        pytest.skip("this system does not tell how much room a file takes")
    (tmp_path / BLOBS).mkdir(parents=True)
    with (tmp_path / BLOBS / "model.incomplete").open("wb") as file:
        file.write(bytes(1_000_000))
        file.truncate(6_000_000_000)
    assert sum(loading._files(tmp_path).values()) == pytest.approx(1_000_000, rel=0.1)


class HubServer(http.server.ThreadingHTTPServer):
    """A hub with one file, of which it holds back the second half until a test gives it leave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.content = bytes(2_000_000)
        self.leave = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{64 * "e"}"')
        self.send_header("X-Repo-Commit", 40 * "a")
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        half = len(self.server.content) // 2
        self.wfile.write(self.server.content[:half])
        self.server.leave.wait(20)
        self.wfile.write(self.server.content[half:])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    with HubServer() as hub:
        serving = threading.Thread(target=hub.serve_forever, args=(0.01,))
        serving.start()
        yield hub
        hub.leave.set()
        hub.shutdown()
        serving.join()


def test_a_real_download_is_seen_to_grow_and_to_end(server: HubServer, tmp_path: Path) -> None:
    download = Download(tmp_path, len(server.content))
    download.look(0.0)
    assert not download.running
    place = {"cache_dir": tmp_path, "endpoint": server.url}
    downloading = threading.Thread(
        target=huggingface_hub.hf_hub_download, args=("tencent/HY-WorldPlay", "model.pt"), kwargs=place
    )
    downloading.start()
    now = iter(range(1, 10**9))

    def half_way() -> bool:
        download.look(next(now))
        return download.running and download.fraction > 0.4

    until(half_way)
    assert download.fraction < 0.6
    server.leave.set()
    downloading.join()
    end = next(now)
    download.look(end)
    assert download.fraction == 1
    download.look(end + 60)
    assert not download.running
