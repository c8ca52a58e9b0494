"""Fetching, against a server on 127.0.0.1: every fault ends clearly, leaves nothing half-written, and heals."""

import errno
import hashlib
import io
import multiprocessing
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trees

from busutils import datasets
from busutils.datasets import catalogue
from busutils.datasets.catalogue import Card, Download
from busutils.datasets.pixels import DatasetError

fetching = __import__("sys").modules["busutils.datasets.fetch"]


class Server(ThreadingHTTPServer):
    """Serves bytes by path; can drop a connection half-way, answer 404, ignore Range."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.drop_once, self.asked, self.ranges = {}, set(), [], True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        path, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((path, wanted))
        if path not in self.server.files:
            self.send_error(404)
            return
        body, start = self.server.files[path], 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        rest = body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if path in self.server.drop_once:
            self.server.drop_once.discard(path)
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(rest)


@pytest.fixture
def server():
    running = Server()
    yield running
    running.shutdown()
    running.server_close()


def zipped(folder):
    """Pack a tree as the hosts do, below a folder of another name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                pack.write(file, f"STU-Hospital-master/{file.relative_to(folder)}")
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path):
    return zipped(trees.stu(tmp_path / "made"))


@pytest.fixture
def offer(server, monkeypatch):
    """Put a card into the catalogue whose file lies on the local server."""

    def put(*paths, checksum=None, **more):
        download = Download(name="stu.zip", urls=tuple(server.url(path) for path in paths), checksum=checksum)
        card = Card(**{**catalogue.STU.__dict__, "downloads": (download,), **more})
        monkeypatch.setitem(catalogue.CARDS, "stu", card)

    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    return put


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def left_behind(dest):
    """Everything but the finished set, the lock and the pinned checksums."""
    kept = {"stu.lock", "pinned.json"}
    return [p for p in dest.rglob("*") if p.is_file() and "Hospital" not in p.parts and p.name not in kept]


def test_fetch_unpacks_and_loads_and_a_second_call_asks_nobody(server, offer, archive, tmp_path, caplog):
    server.files["stu.zip"] = archive
    offer("stu.zip", checksum=sha256(archive))
    with caplog.at_level("INFO", "busutils"):
        home = datasets.fetch("stu", tmp_path / "data", progress=False)
    assert "licence none stated" in caplog.text
    assert home == tmp_path / "data" / "Hospital"
    assert not left_behind(tmp_path / "data")
    with pytest.warns(datasets.DatasetWarning, match="4 of 42"):
        assert len(datasets.load("stu", tmp_path / "data")) == 4
    asked = len(server.asked)
    assert datasets.fetch("stu", tmp_path / "data", progress=False) == home
    assert len(server.asked) == asked


def test_refused_licence_downloads_nothing(server, offer, archive, tmp_path):
    server.files["stu.zip"] = archive
    offer("stu.zip")
    shown = []
    with pytest.raises(DatasetError, match="licence was not accepted"):
        datasets.fetch("stu", tmp_path / "data", confirm=lambda card: shown.append(card.licence), progress=False)
    assert shown and not server.asked and not (tmp_path / "data").exists()


def test_wrong_checksum_then_right_file(server, offer, archive, tmp_path):
    server.files["stu.zip"] = archive[:-1] + b"x"
    offer("stu.zip", checksum=sha256(archive))
    with pytest.raises(DatasetError, match=r"checksum is wrong.*By hand"):
        datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists()
    assert not list(tmp_path.rglob("*.part"))
    server.files["stu.zip"] = archive
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()


def test_dropped_connection_goes_on_where_it_stopped(server, offer, archive, tmp_path):
    server.files["stu.zip"] = archive
    server.drop_once.add("stu.zip")
    offer("stu.zip", checksum=sha256(archive))
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()
    assert [wanted for _, wanted in server.asked] == [None, f"bytes={len(archive) // 2}-"]


def test_server_that_ignores_range_starts_over(server, offer, archive, tmp_path):
    server.files["stu.zip"] = archive
    server.drop_once.add("stu.zip")
    server.ranges = False
    offer("stu.zip", checksum=sha256(archive))
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()


def test_missing_file_then_mirror_and_all_missing(server, offer, archive, tmp_path):
    offer("gone.zip", "stu.zip", checksum=sha256(archive))
    with pytest.raises(DatasetError, match=r"answered 404.*answered 404.*By hand"):
        datasets.fetch("stu", tmp_path, progress=False)
    server.files["stu.zip"] = archive
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()
    assert [path for path, _ in server.asked][-2:] == ["gone.zip", "stu.zip"]


def test_host_that_is_down(offer, server, tmp_path):
    offer("stu.zip")
    server.shutdown()
    server.server_close()
    with pytest.raises(DatasetError, match=r"not reached.*By hand: download it by hand from"):
        datasets.fetch("stu", tmp_path, progress=False)


def test_page_instead_of_archive(server, offer, tmp_path):
    server.files["stu.zip"] = b"<html>please log in</html>"
    offer("stu.zip")
    with pytest.raises(DatasetError, match="it is no zip archive"):
        datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / ".downloads" / "pinned.json").exists()


def test_first_download_is_pinned(server, offer, archive, tmp_path):
    server.files["stu.zip"] = archive
    offer("stu.zip")
    home = datasets.fetch("stu", tmp_path, progress=False)
    __import__("shutil").rmtree(home)
    server.files["stu.zip"] = zipped(trees.stu(tmp_path / "other", n=2))
    with pytest.raises(DatasetError, match="checksum is wrong"):
        datasets.fetch("stu", tmp_path, progress=False)


@pytest.mark.parametrize("where", ["announced", "while writing"])
def test_full_disk(server, offer, archive, tmp_path, monkeypatch, where):
    server.files["stu.zip"] = archive
    offer("stu.zip", checksum=sha256(archive))
    with monkeypatch.context() as patch:
        if where == "announced":
            usage = fetching.shutil.disk_usage(tmp_path)
            patch.setattr(fetching.shutil, "disk_usage", lambda path: usage._replace(free=10))
        else:

            def full(*args):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(fetching.shutil, "copyfileobj", full)
        with pytest.raises(DatasetError, match=r"the disk that holds .* is full"):
            datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists()
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()


def hostile(name, mode=0o644):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        pack.writestr("Hospital/fine.txt", "fine")
        pack.writestr(member, "evil")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../evil.txt", 0o644),
        ("Hospital/../../evil.txt", 0o644),
        ("/evil.txt", 0o644),
        ("C:\\evil.txt", 0o644),
        ("..\\evil.txt", 0o644),
        ("Hospital/link", stat.S_IFLNK | 0o777),
    ],
)
def test_unsafe_paths_are_refused(server, offer, archive, tmp_path, name, mode):
    server.files["stu.zip"] = hostile(name, mode)
    offer("stu.zip")
    dest = tmp_path / "a" / "data"
    with pytest.raises(DatasetError, match="unsafe path"):
        datasets.fetch("stu", dest, progress=False)
    assert not list(tmp_path.rglob("evil.txt")) and not (dest / "Hospital").exists()
    assert not [p for p in (dest / ".downloads").iterdir() if p.is_dir()]


def test_zip_bomb_is_refused(server, offer, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("Hospital/zeros", bytes(5_000_000))
    server.files["stu.zip"] = buffer.getvalue()
    offer("stu.zip")
    with pytest.raises(DatasetError, match="more than is safe"):
        datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists()


def test_only_https_beyond_this_machine(offer, monkeypatch, tmp_path):
    offer("stu.zip")
    download = Download(name="stu.zip", urls=("http://example.org/stu.zip", "file:///etc/passwd"))
    card = Card(**{**catalogue.STU.__dict__, "downloads": (download,)})
    monkeypatch.setitem(catalogue.CARDS, "stu", card)
    with pytest.raises(DatasetError, match=r"only https.*only https"):
        datasets.fetch("stu", tmp_path, progress=False)


def test_signed_form_is_explained(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot be fetched by address.*ReleaseAgreement.*Sign it"):
        datasets.fetch("udiat", tmp_path)
    assert not list(tmp_path.iterdir())


def _fetch_in_process(card, dest):
    catalogue.CARDS["stu"] = card
    datasets.fetch("stu", dest, progress=False)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_two_processes_at_once(server, offer, archive, tmp_path):
    server.files["stu.zip"] = archive
    offer("stu.zip", checksum=sha256(archive))
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_fetch_in_process, args=(catalogue.CARDS["stu"], tmp_path)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(30)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert len(server.asked) == 1 and not left_behind(tmp_path)
