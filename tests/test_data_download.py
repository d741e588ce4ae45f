"""Published files: where they are looked for, how they are fetched, and what a failure says and leaves behind."""

import errno
import gzip
import hashlib
import http.server
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pooch
import pytest
import requests

from seqmix.data.files import Source, read_published
from seqmix.errors import DataError
from seqmix.whole import whole

# requests leaves the socket of a response that breaks off to the garbage collector, which may come in another test
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONTENT = b"date,a\n2024-01-01,1\n" * 20_000
SOURCE = Source(("sub/file.csv", "old/name.csv"), "", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
TAIL = "`seqmix fit --config configs/demo.yaml` runs without data"


@pytest.fixture
def server(monkeypatch):
    """Serves what ``reply`` does; its ``count`` is the number of requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            httpd.count += 1
            httpd.reply(self)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "*")
    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    httpd.count, httpd.reply = 0, _whole
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    httpd.source = SOURCE._replace(url=f"http://127.0.0.1:{httpd.server_port}/file.csv")
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def _send(handler, content, length):
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(content)


def _whole(handler):
    _send(handler, CONTENT, len(CONTENT))


def _other(handler):
    _send(handler, b"a page about cookies", 20)


def _cut(handler):
    _send(handler, CONTENT[:100_000], len(CONTENT))


def _absent(handler):
    handler.send_error(404)


def test_download_happens_once(tmp_path, server):
    root = tmp_path / "data"
    assert read_published(server.source, str(root)) == CONTENT
    assert read_published(server.source, str(root)) == CONTENT
    assert server.count == 1
    assert [str(path.relative_to(root)) for path in root.rglob("*")] == ["sub", "sub/file.csv"]
    assert (root / "sub/file.csv").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("place", ["sub/file.csv", "file.csv", "sub/file.csv.gz", "file.csv.gz", "old/name.csv.gz"])
@pytest.mark.parametrize("how", ["argument", "variable", "folder"])
def test_places_of_a_file(tmp_path, server, monkeypatch, place, how):
    root = tmp_path / "data"
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(gzip.compress(CONTENT) if place.endswith(".gz") else CONTENT)
    monkeypatch.delenv("SEQMIX_DATA", raising=False)
    if how == "variable":
        monkeypatch.setenv("SEQMIX_DATA", str(root))
    if how == "folder":
        monkeypatch.chdir(tmp_path)
    assert read_published(server.source, str(root) if how == "argument" else None) == CONTENT
    assert server.count == 0


def _raises(failure):
    def fail(*args, **kwargs):
        raise failure

    return fail


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (_absent, "the server answered 404 Not Found"),
        (_other, f"its sha256 is {hashlib.sha256(b'a page about cookies').hexdigest()}, not {SOURCE.sha256}"),
        (_cut, "the connection broke off"),
    ],
)
@pytest.mark.parametrize("existing", [True, False])
def test_failed_download_leaves_nothing_behind(tmp_path, server, reply, reason, existing):
    server.reply = reply
    root = tmp_path / "data"
    if existing:
        (root / "sub").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as error:
        read_published(server.source, str(root))
    assert str(error.value) == (
        f"cannot download file.csv from {server.source.url} into {root}/sub: {reason}; put the file there by hand, "
        f"or set data.root (or SEQMIX_DATA) to a folder that has it; {TAIL}"
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("where", "failure", "reason"),
    [
        ("get", requests.ConnectionError("Name or service not known"), "no connection"),
        ("get", requests.ReadTimeout("timed out"), "no connection"),
        ("get", requests.exceptions.ChunkedEncodingError("closed"), "the connection broke off"),
        ("open", OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        ("open", OSError(errno.EROFS, "Read-only file system"), "the folder cannot be written to"),
        ("mkdir", PermissionError(errno.EACCES, "Permission denied"), "the folder cannot be written to"),
    ],
)
def test_what_stands_in_the_way_of_a_download(tmp_path, server, monkeypatch, where, failure, reason):
    place = {"get": requests, "open": pooch.downloaders, "mkdir": Path}[where]
    monkeypatch.setattr(place, where, _raises(failure), raising=False)
    with pytest.raises(DataError, match=r"^cannot download file.csv from ") as error:
        read_published(server.source, str(tmp_path / "data"))
    assert f"/sub: {reason}; put the file there by hand" in str(error.value) and TAIL in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_up_half_way(tmp_path, server, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file
            self.close = file.close

        def write(self, chunk):
            self.file.write(chunk[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch.downloaders, "open", lambda *args: Full(open(*args)), raising=False)  # noqa: SIM115
    with pytest.raises(DataError, match=r"into .*/data/sub: the disk is full; "):
        read_published(server.source, str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_interrupted_download_leaves_nothing_behind(tmp_path, server, monkeypatch):
    monkeypatch.setattr(os, "replace", _raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        read_published(server.source, str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_files_of_killed_processes_are_removed(tmp_path):
    """Those of living processes stay, and so do those of other machines, for a day."""
    path, host = tmp_path / "data[1].csv", platform.node()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    gone = ended.stdout.strip()
    # a process before had our number, as in a container
    left = [f"{host}.{gone}-0", f"{host}.{gone}-12", f"{host}.{os.getpid()}-0", "yesterday.7-0"]
    kept = [f"{host}.1-0", f"elsewhere.{gone}-0"]
    for name in left + kept:
        (tmp_path / f".data[1].{name}.part.csv").touch()
    os.utime(tmp_path / ".data[1].yesterday.7-0.part.csv", (0, 0))
    with whole(path) as part:
        part.touch()
        with whole(path) as another:
            another.touch()
    assert sorted(tmp_path.iterdir()) == sorted([*(tmp_path / f".data[1].{name}.part.csv" for name in kept), path])


def test_other_file_of_that_name(tmp_path, server):
    (tmp_path / "file.csv").write_bytes(b"something else")
    with pytest.raises(DataError) as error:
        read_published(server.source, str(tmp_path))
    assert str(error.value) == (
        f"file.csv in {tmp_path} is not the published file: its sha256 is "
        f"{hashlib.sha256(b'something else').hexdigest()}, not {SOURCE.sha256}; "
        f"delete it to fetch it again from {server.source.url}, or load it with WideCSV; {TAIL}"
    )
    assert (tmp_path / "file.csv").read_bytes() == b"something else"


def test_damaged_published_gzip(tmp_path, server):
    (tmp_path / "file.csv.gz").write_bytes(gzip.compress(CONTENT)[:-20])
    with pytest.raises(DataError) as error:
        read_published(server.source, str(tmp_path))
    assert str(error.value) == (
        f"file.csv.gz in {tmp_path} is truncated or no gzip file (Compressed file ended before the end-of-stream "
        f"marker was reached); get a whole copy; or delete it, to fetch it again from {server.source.url}; {TAIL}"
    )


def test_file_without_known_checksum_is_not_fetched(tmp_path, server):
    with pytest.raises(DataError) as error:
        read_published(server.source._replace(sha256=None), str(tmp_path))
    assert str(error.value) == (
        f"file.csv not found in {tmp_path}/sub, and it is not downloaded by itself because no checksum of it is known; "
        f"download {server.source.url} into that folder, or set data.root (or SEQMIX_DATA); {TAIL}"
    )
    assert server.count == 0
    (tmp_path / "file.csv").write_bytes(b"anything")
    assert read_published(server.source._replace(sha256=None), str(tmp_path)) == b"anything"
