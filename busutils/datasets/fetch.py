"""Download public sets, verify them where a checksum is known, and unpack them."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

import filelock
import pooch

from busutils.datasets.catalogue import Card, Download, card, data_dir
from busutils.io import DatasetError

log = logging.getLogger(__name__)

#: An archive may unpack to at most this many bytes, this many files, and this many times its own size.
MAX_UNPACKED_BYTES = 20_000_000_000
MAX_FILES = 100_000
MAX_RATIO = 200

_RETRIES = 2  # of one address before the next mirror
_TIMEOUT_S = 30


def fetch(
    key: str,
    dest: str | os.PathLike | None = None,
    *,
    confirm: Callable[[Card], bool] | None = None,
    progress: bool = True,
) -> Path:
    """Fetch a public set: show its licence, download, verify where a checksum is known, unpack.

    The set appears in ``dest`` in one step, when it is complete. Two processes that fetch the same set wait for each
    other.

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
        The published folder. An existing one is left unchanged.

    Raises
    ------
    DatasetError
        If the set has no download address (the message lists the manual steps), all addresses fail, a checksum is
        wrong, the archive is unsafe, or the folder cannot be written to.
    """
    about = card(key)
    target = Path(dest).expanduser() if dest else data_dir()
    if not about.downloads:
        steps = about.manual or "there is nothing to fetch."
        raise DatasetError(f"{about.title} cannot be fetched by address: {steps}")
    final = target / about.folder
    if _is_filled(final):
        log.info("%s is already there: %s", about.title, final)
        return final
    if confirm is None:
        log.info("%s: licence %s; cite %s", about.title, about.licence, about.citation)
    elif not confirm(about):
        raise DatasetError(f"{about.title} was not fetched: its licence was not accepted.")
    store = target / ".downloads"
    try:
        store.mkdir(parents=True, exist_ok=True)
        with (
            filelock.FileLock(store / f"{about.key}.lock"),
            tempfile.TemporaryDirectory(prefix=f"{about.key}-", dir=store) as folder,
        ):
            if not _is_filled(final):  # otherwise another process was first
                fresh = Path(folder) / "unpacked"
                for download in about.downloads:
                    _place(_download(about, download, Path(folder), progress), download, fresh)
                if final.exists():
                    final.rmdir()
                os.replace(_published_folder(fresh, about), final)
    except OSError as err:
        raise DatasetError(
            f"{target} cannot be written to ({err}): free some space, or name another folder, and fetch again."
        ) from None
    return final


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _download(about: Card, download: Download, folder: Path, progress: bool) -> Path:
    """Get one file from the first address that works; Kaggle gives an unpacked folder."""
    reasons = []
    for url in download.urls:
        if download.checksum is None or url.startswith("kaggle:"):
            log.warning("%s: no checksum is known, so this download cannot be verified", url)
        try:
            if url.startswith("kaggle:"):
                import kagglehub

                return Path(kagglehub.dataset_download(url.removeprefix("kaggle:")))
            _check_address(url)
            known, urls = {download.name: download.checksum}, {download.name: url}
            source = pooch.create(folder, base_url="", registry=known, urls=urls, retry_if_failed=_RETRIES)
            hooks = {"response": lambda got, **_: _check_address(urljoin(got.url, got.headers.get("Location", "")))}
            downloader = pooch.HTTPDownloader(progressbar=progress, timeout=_TIMEOUT_S, hooks=hooks)
            file = Path(source.fetch(download.name, downloader=downloader))
            if not download.unpack or zipfile.is_zipfile(file):
                return file
            file.unlink()
            reasons.append(f"{url}: it is no zip archive")
        except ImportError:
            reasons.append(f'{url}: the client of Kaggle is missing: pip install "busutils[kaggle]"')
        except Exception as err:  # requests and kagglehub raise errors of many kinds
            reasons.append(f"{url}: {err}")
        log.warning("%s", reasons[-1])
    steps = about.manual or f"download it by hand from {about.homepage} and unpack it into your data folder."
    raise DatasetError(f"{about.title} could not be fetched ({'; '.join(reasons)}). By hand: {steps}")


def _check_address(url: str) -> None:
    """Refuse an address whose answer could be altered on the way."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise DatasetError(f"refused, because {parts.scheme}://{parts.hostname} is neither https nor this computer")


def _place(file: Path, download: Download, folder: Path) -> None:
    if file.is_dir():
        shutil.copytree(file, folder, dirs_exist_ok=True)
    elif download.unpack:
        unpack(file, folder)
    else:
        (folder / download.into).mkdir(parents=True, exist_ok=True)
        shutil.move(file, folder / download.into / download.name)


def _published_folder(fresh: Path, about: Card) -> Path:
    """Find the set's own folder in what was unpacked; archives put other folders around it."""
    names = (about.folder, *about.aliases)
    found = [folder for folder in fresh.rglob("*") if folder.name in names and folder.is_dir()]
    return min(found, key=lambda folder: (len(folder.parts), names.index(folder.name)), default=fresh)


def unpack(archive: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Unpack a zip archive whose every path stays inside the folder.

    Parameters
    ----------
    archive : path
    folder : path
        If this raises, the caller removes what was written.

    Raises
    ------
    DatasetError
        If the archive is broken, holds links or paths that lead outside, or would grow beyond ``MAX_UNPACKED_BYTES``,
        ``MAX_FILES`` or ``MAX_RATIO``.
    """
    archive = Path(archive)
    try:
        with zipfile.ZipFile(archive) as pack:
            members = pack.infolist()
            size = sum(member.file_size for member in members)
            limit = min(MAX_UNPACKED_BYTES, MAX_RATIO * archive.stat().st_size)
            if len(members) > MAX_FILES or size > limit:
                raise DatasetError(
                    f"{archive.name} would unpack to {len(members):,} files of {size:,} bytes, more than is safe; "
                    "it was not unpacked."
                )
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                outside = path.is_absolute() or ".." in path.parts or ":" in member.filename
                if outside or stat.S_ISLNK(member.external_attr >> 16):
                    raise DatasetError(f"{archive.name} holds an unsafe path ({member.filename}); it was not unpacked.")
            pack.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as err:
        raise DatasetError(f"{archive.name} is broken ({err}); fetch it again.") from None
