"""OASBUD: B-mode images computed from raw radio-frequency lines."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft, io, signal

from busutils.datasets.catalogue import Card
from busutils.datasets.lesions import Record
from busutils.datasets.reports import Report, count_images, not_this_set
from busutils.io import DatasetError

_RF_RANGE_DB = 50.0


@dataclass(frozen=True)
class RFView:
    """One view of one OASBUD lesion, made from raw radio-frequency lines when read.

    Parameters
    ----------
    file : Path
        ``OASBUD.mat``.
    index : int
        Place of the lesion in the file.
    view : {1, 2}
    what : {'rf', 'roi'}
        Image or mask.
    """

    file: Path
    index: int
    view: int
    what: str

    @property
    def key(self) -> str:
        """Content key: file, size and date, place, and how the image is made."""
        stat = self.file.stat()
        parts = (self.file, stat.st_size, stat.st_mtime_ns, self.index, self.view, self.what, _RF_RANGE_DB)
        return " ".join(map(str, parts))

    def read(self) -> np.ndarray:
        """Return the B-mode image (H, W) uint8, or the mask (H, W) bool."""
        lesion = _oasbud(self.file, self.file.stat().st_mtime_ns)[self.index]
        if self.what == "roi":
            return np.asarray(lesion[f"roi{self.view}"]) > 0
        return b_mode(np.asarray(lesion[f"rf{self.view}"]))


def b_mode(rf: np.ndarray, *, range_db: float = _RF_RANGE_DB) -> np.ndarray:
    """Make a B-mode image from radio-frequency lines: envelope, log compression.

    Parameters
    ----------
    rf : (H, W) ndarray
        Samples in depth by lines.
    range_db : float
        Dynamic range below the brightest point, in decibels.

    Returns
    -------
    (H, W) uint8 ndarray
    """
    # A fast length keeps the Hilbert transform quick; the padding lies below the deepest sample.
    length = fft.next_fast_len(rf.shape[0])
    envelope = np.abs(signal.hilbert(rf.astype(np.float32), N=length, axis=0)[: rf.shape[0]])
    level = 20 * np.log10(np.maximum(envelope, 1e-6) / max(envelope.max(), 1e-6))
    return np.rint(np.clip(level / range_db + 1, 0, 1) * 255).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _oasbud(file: Path, mtime_ns: int) -> list:
    try:
        return list(io.loadmat(file, variable_names=["data"])["data"].ravel())
    except (KeyError, ValueError, TypeError, NotImplementedError, OSError, EOFError, zlib.error) as err:
        raise DatasetError(f"{file} is not OASBUD.mat, or is cut short ({err}); fetch it again.") from None


def read_oasbud(root: Path, card: Card, report: Report) -> list[Record]:
    """Read OASBUD: two views of each lesion as raw radio-frequency lines in one ``.mat`` file.

    Parameters
    ----------
    root : Path
        Folder that holds ``OASBUD.mat``.
    card : Card
    report : Report

    Returns
    -------
    list of Record
        B-mode images are made when read: envelope by Hilbert transform, 50 dB below the brightest point.

    Raises
    ------
    DatasetError
        If there is no such file, or it is broken.
    """
    file = root / "OASBUD.mat"
    if not file.is_file():
        raise not_this_set(root, card)
    lesions = _oasbud(file, file.stat().st_mtime_ns)
    fields = {"id", "rf1", "rf2", "roi1", "roi2", "class"}
    if not lesions or not fields <= set(lesions[0].dtype.names or ()):
        raise DatasetError(f"{file} is not OASBUD: each lesion should have {', '.join(sorted(fields))}.")
    names = [_text(lesion["id"]) or str(place) for place, lesion in enumerate(lesions, 1)]
    records = []
    for place, (name, lesion) in enumerate(zip(names, lesions, strict=True)):
        label = {"0": "benign", "1": "malignant"}.get(_text(lesion["class"]), "unknown")
        unique = f"{name}-{place + 1}" if names.count(name) > 1 else name
        extras = {"birads": _text(lesion["birads"])} if "birads" in lesion.dtype.names else {}
        for view in (1, 2):
            if np.asarray(lesion[f"rf{view}"]).shape != np.asarray(lesion[f"roi{view}"]).shape:
                report.warn(f"{unique}, view {view}: image and mask differ in size; left out.")
                continue
            source, mask = (RFView(file, place, view, what) for what in ("rf", "roi"))
            records.append(Record(f"{unique}_{view}", source, (mask,), label, name, card.key, extras=extras))
    count_images(records, card, report)
    return records


def _text(value: object) -> str:
    """Text of a MATLAB cell: a string, or a number in brackets."""
    flat = np.asarray(value).ravel()
    return str(flat[0]).strip() if flat.size else ""
