"""Download, verify, unpack: resumable, with mirrors, nothing half-written where a reader would find it."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import shutil
import stat
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import filelock
import platformdirs
import pooch
from tqdm import tqdm

from busutils import jobs
from busutils.datasets.catalogue import Card, Download, card
from busutils.io import DatasetError

log = logging.getLogger(__name__)

#: An archive may unpack to at most this many bytes, this many files, and this many times its own size.
MAX_UNPACKED_BYTES = 20_000_000_000
MAX_FILES = 100_000
MAX_RATIO = 200

_BLOCK = 1 << 18
_TRIES = 3  # of one address before the next mirror
_TIMEOUT_S = 30
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Failed(Exception):
    """One address did not work; another may."""


def data_dir() -> Path:
    """Folder that sets are fetched into: ``BUSUTILS_DATA_DIR``, or the place the system keeps for data.

    Returns
    -------
    Path
    """
    chosen = os.environ.get("BUSUTILS_DATA_DIR")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("busutils"))


def fetch(
    key: str,
    dest: str | os.PathLike | None = None,
    *,
    confirm: Callable[[Card], bool] | None = None,
    progress: bool = True,
) -> Path:
    """Fetch a public set: show its licence, download, verify, unpack.

    A download that was cut off goes on where it stopped. The set appears in ``dest`` in one step, when all of it is
    there. Two processes that fetch the same set wait for each other.

    Parameters
    ----------
    key : str
    dest : path, optional
        Data folder; by default :func:`data_dir`.
    confirm : callable, optional
        Gets the card, whose licence it shows; ``False`` stops before anything is downloaded. Without it the licence
        is logged.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Path
        The published folder. One that is already there is left as it is.

    Raises
    ------
    DatasetError
        If the set cannot be fetched by address (the message lists the steps for a person), all addresses fail, a
        checksum is wrong, the disk is full, or the archive is unsafe.
    """
    about = card(key)
    target = Path(dest).expanduser() if dest else data_dir()
    if not about.downloads:
        steps = about.manual or "there is nothing to fetch."
        raise DatasetError(f"{about.title} cannot be fetched by address: {steps}")
    final = target / about.folder
    if final.is_dir() and any(final.iterdir()):
        log.info("%s is already there: %s", about.title, final)
        return final
    if confirm is None:
        log.info("%s: licence %s; cite %s", about.title, about.licence, about.citation)
    elif not confirm(about):
        raise DatasetError(f"{about.title} was not fetched: its licence was not accepted.")
    try:
        store = target / ".downloads"
        store.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(store / f"{about.key}.lock"):
            if final.is_dir() and any(final.iterdir()):
                return final  # another process was first
            return _fetch_all(about, store, final, progress)
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DatasetError(
                f"the disk that holds {target} is full: free some space, or name another folder, and fetch again."
            ) from None
        raise DatasetError(f"{target} cannot be written to ({err}); name another folder.") from None


def _fetch_all(about: Card, store: Path, final: Path, progress: bool) -> Path:
    fresh = Path(tempfile.mkdtemp(prefix=f"{about.key}-", dir=store))
    try:
        kept = []
        for download in about.downloads:
            file = _download(about, download, store, progress)
            if isinstance(file, Path) and file.is_dir():
                shutil.copytree(file, fresh, dirs_exist_ok=True)  # a finished folder, from Kaggle
            elif download.unpack:
                try:
                    unpack(file, fresh)
                except DatasetError:
                    file.unlink()  # so that the next try downloads it anew
                    raise
                kept.append((download, file))
            else:
                place = fresh / (download.into or about.folder)
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place / download.name)
                kept.append((download, file))
        home = _published_folder(fresh, about)
        # One rename: a reader sees all of the set, or nothing.
        if final.exists():
            final.rmdir()
        os.replace(home, final)
        for download, file in kept:
            # Not before all went well: a broken first download must not be what later ones are held against.
            if not download.checksum:
                _pin(store, download.name, f"sha256:{pooch.file_hash(str(file))}")
            file.unlink(missing_ok=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return final


def _published_folder(fresh: Path, about: Card) -> Path:
    """Find the set's own folder in what was unpacked, however deep the archive buried it."""
    level = [fresh]
    for _ in range(4):
        for name in (about.folder, *about.aliases):
            for folder in level:
                if (folder / name).is_dir():
                    return folder / name
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
    return fresh


def _download(about: Card, download: Download, store: Path, progress: bool) -> Path:
    """Get one file from the first address that gives the right one."""
    ready = store / download.name
    wanted = download.checksum or _pins(store).get(download.name)
    if ready.is_file() and (not wanted or _hash_is(ready, wanted)):
        return ready
    reasons = []
    for url in download.urls:
        try:
            if url.startswith("kaggle:"):
                return _from_kaggle(url.removeprefix("kaggle:"))
            part = store / f"{download.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
            _get(url, part, progress)
            if wanted and not _hash_is(part, wanted):
                part.unlink()
                raise _Failed(f"its checksum is wrong (expected {wanted})")
            if download.unpack and not zipfile.is_zipfile(part):
                part.unlink()
                raise _Failed("it is no zip archive")
            os.replace(part, ready)
            return ready
        except _Failed as err:
            reasons.append(f"{url}: {err}")
            log.warning("%s", reasons[-1])
    steps = about.manual or f"download it by hand from {about.homepage} and unpack it into your data folder."
    raise DatasetError(f"{about.title} could not be fetched ({'; '.join(reasons)}). By hand: {steps}")


def _pins(store: Path) -> dict[str, str]:
    try:
        return json.loads((store / "pinned.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _pin(store: Path, name: str, checksum: str) -> None:
    """Remember the checksum of a first download, so that a later one that differs is noticed."""
    # All sets share this file, and each is fetched under a lock of its own.
    with filelock.FileLock(store / "pinned.lock"), jobs.atomic_path(store / "pinned.json") as fresh:
        fresh.write_text(json.dumps({**_pins(store), name: checksum}, indent=1), encoding="utf-8")


def _hash_is(file: Path, wanted: str) -> bool:
    kind, _, digest = wanted.partition(":")
    return pooch.file_hash(str(file), alg=kind) == digest.lower()


def _safe_address(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise _Failed("only https addresses are used")


def _get(url: str, part: Path, progress: bool) -> None:
    """Download one address into ``part``, going on where an earlier try stopped."""
    reason = "no answer"
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(0.2 * attempt)
        try:
            if _get_once(url, part, progress):
                return
            reason = "the connection dropped"
        except urllib.error.HTTPError as err:
            if err.code == 416:  # what is there is not a beginning of what the server has
                part.unlink(missing_ok=True)
                reason = "it changed while it was fetched"
                continue
            reason = f"the server answered {err.code}"
            if err.code < 500:
                break
        except urllib.error.URLError as err:
            reason = f"not reached ({err.reason})"
        except (http.client.HTTPException, ConnectionError, TimeoutError) as err:
            reason = f"the connection dropped ({err})"
    raise _Failed(reason)


def _get_once(url: str, part: Path, progress: bool) -> bool:
    """Try once; ``False`` when the connection ended early, with what came kept."""
    _safe_address(url)
    have = part.stat().st_size if part.exists() else 0
    # An archive that the transfer packs once more has other bytes than its checksum was made from.
    headers = {"User-Agent": "busutils", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as answer:
        _safe_address(answer.geturl())
        begins = answer.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
        goes_on = answer.status == 206 and begins == str(have)
        if answer.status == 206 and not goes_on:
            part.unlink(missing_ok=True)
            return False
        have = have if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if total and total - have > shutil.disk_usage(part.parent).free:
            raise OSError(errno.ENOSPC, "no space left")
        try:
            with (
                part.open("ab" if goes_on else "wb") as stream,
                tqdm(
                    total=total,
                    initial=have,
                    unit="B",
                    unit_scale=True,
                    desc=part.name.split(".")[0],
                    disable=not progress,
                    leave=False,
                ) as bar,
            ):
                while block := answer.read(_BLOCK):
                    stream.write(block)
                    bar.update(len(block))
                    have += len(block)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink(missing_ok=True)
            raise
    return total is None or have == total


def _from_kaggle(handle: str) -> Path:
    try:
        import kagglehub
    except ImportError:
        raise _Failed("Kaggle's client is missing; install it with: pip install 'busutils[kaggle]'") from None
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as err:  # kagglehub raises many kinds, of many libraries
        raise _Failed(f"Kaggle did not give it ({err})") from None


def unpack(archive: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Unpack a zip archive whose every path stays inside the folder.

    Parameters
    ----------
    archive : path
    folder : path
        Filled; what was written is for the caller to remove when this raises.

    Raises
    ------
    DatasetError
        If the archive is broken, holds links or paths that lead outside, or would grow beyond ``MAX_UNPACKED_BYTES``,
        ``MAX_FILES`` or ``MAX_RATIO``.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with zipfile.ZipFile(archive) as pack:
            members = pack.infolist()
            size = sum(member.file_size for member in members)
            if (
                len(members) > MAX_FILES
                or size > MAX_UNPACKED_BYTES
                or size > MAX_RATIO * max(archive.stat().st_size, 1)
            ):
                raise DatasetError(
                    f"{archive.name} would unpack to {len(members):,} files of {size:,} bytes, more than is safe; "
                    "it was not unpacked."
                )
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                outside = path.is_absolute() or ".." in path.parts or ":" in member.filename
                if outside or stat.S_ISLNK(member.external_attr >> 16):
                    raise DatasetError(f"{archive.name} holds an unsafe path ({member.filename}); it was not unpacked.")
            if size > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, "no space left")
            for member in members:
                place = folder / PurePosixPath(member.filename.replace("\\", "/"))
                if member.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with pack.open(member) as source, place.open("wb") as stream:
                    shutil.copyfileobj(source, stream, _BLOCK)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as err:
        raise DatasetError(f"{archive.name} is broken ({err}); fetch it again.") from None
