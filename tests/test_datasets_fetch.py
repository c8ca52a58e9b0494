"""Fetching from a server on 127.0.0.1: every fault gives a clear error, leaves no partial set, and can be retried."""

import dataclasses
import errno
import hashlib
import io
import multiprocessing
import stat
import sys
import threading
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trees

from busutils import datasets
from busutils.datasets import catalogue
from busutils.datasets.catalogue import Card, Download
from busutils.io import DatasetError

fetching = sys.modules["busutils.datasets.fetch"]


class Server(ThreadingHTTPServer):
    """Serves bytes by path; can drop a connection half-way, answer 404, be busy."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.drop_once, self.busy_once, self.asked = {}, set(), set(), []
        self.moved = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        path = self.path.lstrip("/")
        self.server.asked.append(path)
        if path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[path])
            self.end_headers()
            return
        if path not in self.server.files or path in self.server.busy_once:
            busy = path in self.server.busy_once
            self.server.busy_once.discard(path)  # before the answer: the client may ask again at once
            self.send_error(503 if busy else 404)
            return
        body = self.server.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if path in self.server.drop_once:
            self.server.drop_once.discard(path)
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)


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
        card = Card(**{**catalogue.CARDS["stu"].__dict__, "downloads": (download,), **more})
        monkeypatch.setitem(catalogue.CARDS, "stu", card)

    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    return put


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def left_behind(dest):
    """Everything but the finished set and the lock."""
    return [p for p in dest.rglob("*") if p.is_file() and "Hospital" not in p.parts and p.name != "stu.lock"]


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
    again = datasets.fetch("stu", tmp_path / "data", confirm=lambda card: pytest.fail("it is there"), progress=False)
    assert again == home and len(server.asked) == asked


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
    with pytest.raises(DatasetError, match=r"does not match the known hash.*By hand"):
        datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists()
    assert not left_behind(tmp_path)
    server.files["stu.zip"] = archive
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()


@pytest.mark.parametrize("fault", ["busy_once", "drop_once"])
def test_server_in_trouble_is_asked_again(server, offer, archive, tmp_path, fault):
    server.files["stu.zip"] = archive
    getattr(server, fault).add("stu.zip")
    offer("stu.zip")
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()
    assert len(server.asked) == 2 and not left_behind(tmp_path)


@pytest.mark.parametrize("client", ["gives it", "missing", "refuses"])
def test_kaggle_is_a_mirror(server, offer, tmp_path, monkeypatch, client):
    def download(handle):
        assert handle == "someone/stu"
        if client == "refuses":
            raise LookupError("no such set")
        return str(trees.stu(tmp_path / "kaggle"))

    fake = None if client == "missing" else types.SimpleNamespace(dataset_download=download)
    monkeypatch.setitem(sys.modules, "kagglehub", fake)  # None makes the import fail
    offer("gone.zip")
    download_ = Download(name="stu.zip", urls=(server.url("gone.zip"), "kaggle:someone/stu"))
    monkeypatch.setitem(catalogue.CARDS, "stu", dataclasses.replace(catalogue.CARDS["stu"], downloads=(download_,)))
    if client == "gives it":
        assert datasets.fetch("stu", tmp_path / "data", progress=False) == tmp_path / "data" / "Hospital"
        with pytest.warns(datasets.DatasetWarning, match="4 of 42"):
            assert len(datasets.load("stu", tmp_path / "data")) == 4
        assert (tmp_path / "kaggle" / "Hospital").is_dir(), "Kaggle's own copy stays"
        return
    said = {"missing": r'pip install "busutils\[kaggle\]"', "refuses": "kaggle:someone/stu: no such set"}[client]
    with pytest.raises(DatasetError, match=rf"404.*{said}.*By hand"):
        datasets.fetch("stu", tmp_path / "data", progress=False)
    assert not (tmp_path / "data" / "Hospital").exists() and not left_behind(tmp_path / "data")


def test_missing_file_then_mirror_and_all_missing(server, offer, archive, tmp_path):
    offer("gone.zip", "stu.zip", checksum=sha256(archive))
    with pytest.raises(DatasetError, match=r"404.*404.*By hand"):
        datasets.fetch("stu", tmp_path, progress=False)
    server.files["stu.zip"] = archive
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()
    assert server.asked[-2:] == ["gone.zip", "stu.zip"]


def test_host_that_is_down(offer, server, tmp_path):
    offer("stu.zip")
    server.shutdown()
    server.server_close()
    with pytest.raises(DatasetError, match=r"could not be fetched.*By hand: download it by hand from"):
        datasets.fetch("stu", tmp_path, progress=False)


def test_page_instead_of_archive(server, offer, tmp_path):
    server.files["stu.zip"] = b"<html>please log in</html>"
    offer("stu.zip")
    with pytest.raises(DatasetError, match="it is no zip archive"):
        datasets.fetch("stu", tmp_path, progress=False)
    assert not left_behind(tmp_path)


@pytest.mark.parametrize("where", ["while downloading", "while unpacking"])
def test_full_disk(server, offer, archive, tmp_path, monkeypatch, where):
    server.files["stu.zip"] = archive
    offer("stu.zip", checksum=sha256(archive))
    with monkeypatch.context() as patch:

        def full(*args, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        place = "requests.Response.iter_content" if where == "while downloading" else "zipfile.ZipFile.extractall"
        patch.setattr(place, full)
        with pytest.raises(DatasetError, match=r"No space left on device"):
            datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists() and not left_behind(tmp_path)
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
    server.files["stu.zip"] = archive
    assert datasets.fetch("stu", dest, progress=False).is_dir()


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_UNPACKED_BYTES"])
def test_archive_beyond_a_limit_is_refused(server, offer, archive, tmp_path, monkeypatch, limit):
    server.files["stu.zip"] = archive
    offer("stu.zip")
    with monkeypatch.context() as patch:
        patch.setattr(fetching, limit, 5)
        with pytest.raises(DatasetError, match="more than is safe"):
            datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists()
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()


def test_archive_that_is_broken_inside_is_fetched_anew(server, offer, archive, tmp_path):
    bad = bytearray(archive)
    with zipfile.ZipFile(io.BytesIO(archive)) as pack:
        first = pack.infolist()[0]
    place = first.header_offset + 30 + len(first.filename) + first.file_size // 2
    bad[place] ^= 0xFF  # its checksum inside the archive is wrong now
    server.files["stu.zip"] = bytes(bad)
    offer("stu.zip")
    with pytest.raises(DatasetError, match=r"stu.zip is broken .*fetch it again"):
        datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists() and not left_behind(tmp_path)
    server.files["stu.zip"] = archive  # nor is the broken one what later downloads are held against
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()


def test_zip_bomb_is_refused(server, offer, archive, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("Hospital/zeros", bytes(5_000_000))
    server.files["stu.zip"] = buffer.getvalue()
    offer("stu.zip")
    with pytest.raises(DatasetError, match="more than is safe"):
        datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists()
    server.files["stu.zip"] = archive
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()


def test_all_addresses_are_https_or_kaggle():
    urls = [url for card in catalogue.CARDS.values() for download in card.downloads for url in download.urls]
    assert urls and all(url.startswith(("https://", "kaggle:")) for url in urls)


@pytest.mark.parametrize("url", ["http://example.org/stu.zip", "ftp://example.org/stu.zip", "file:///stu.zip"])
def test_an_address_that_is_neither_https_nor_local_is_refused(offer, server, archive, tmp_path, monkeypatch, url):
    offer("stu.zip")
    downloads = (Download(name="stu.zip", urls=(url,)),)
    monkeypatch.setitem(catalogue.CARDS, "stu", dataclasses.replace(catalogue.CARDS["stu"], downloads=downloads))
    with pytest.raises(DatasetError, match="neither https"):
        datasets.fetch("stu", tmp_path, progress=False)
    server.files["stu.zip"] = archive
    server.moved["stu.zip"] = url  # nor is such an address followed
    offer("stu.zip")
    with pytest.raises(DatasetError, match="neither https"):
        datasets.fetch("stu", tmp_path, progress=False)
    assert not (tmp_path / "Hospital").exists() and not left_behind(tmp_path)


def test_a_redirect_on_the_same_host_is_followed(offer, server, archive, tmp_path):
    server.files["new.zip"], server.moved["stu.zip"] = archive, "/new.zip"
    offer("stu.zip", checksum=sha256(archive))
    assert datasets.fetch("stu", tmp_path, progress=False).is_dir()
    assert server.asked == ["stu.zip", "new.zip"]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_download_that_cannot_be_verified_is_said_so(offer, server, archive, tmp_path, caplog, is_known):
    server.files["stu.zip"] = archive
    offer("stu.zip", checksum=sha256(archive) if is_known else None)
    datasets.fetch("stu", tmp_path, progress=False)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (not is_known) and all("cannot be verified" in message for message in said)


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
