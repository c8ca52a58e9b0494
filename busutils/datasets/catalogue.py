"""One card per set: licence, citation, where it lives, checksum, counts, layout. They stand in ``cards.toml``."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import platformdirs

from busutils.io import DatasetError


@dataclass(frozen=True)
class Download:
    """One file of a published set.

    Parameters
    ----------
    name : str
        File name to keep it under.
    urls : tuple of str
        Mirrors, tried in order. ``https:`` addresses, or ``kaggle:owner/name``.
    checksum : str, optional
        ``sha256:…`` or ``md5:…`` as published or measured by others.
    unpack : bool
        Whether it is an archive to be unpacked.
    into : str
        Folder below the data folder that a file is put into, where it is no archive.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None = None
    unpack: bool = True
    into: str = ""


@dataclass(frozen=True)
class Pairs:
    """Layout of a set that consists of images and their mask files.

    An image and a mask belong together where the first groups of ``image`` and ``mask`` match the same text.

    Parameters
    ----------
    images, masks : str
        Folders of the two below the published folder, or below each class folder; empty for that folder itself.
    image, mask : str
        Regular expressions of the file names without suffix.
    classes : mapping of str to str
        Label by class folder, where there are such folders.
    listed : bool
        Whether labels come from a list that lies beside the images.
    """

    images: str = ""
    masks: str = ""
    image: str = "(.+)"
    mask: str = "(.+)"
    classes: Mapping[str, str] = field(default_factory=dict)
    listed: bool = False


@dataclass(frozen=True)
class Card:
    """What is known about a set.

    Parameters
    ----------
    key, title : str
    folder : str
        Published folder below the data folder.
    licence : str
        As the source states it, with caveats.
    citation, doi, homepage : str
    counts : mapping of str to int
        Images by label in the complete set.
    n_masks : int, optional
        Mask files of the complete set.
    patients : int, optional
        In the complete set.
    group : str
        What a group is in this set.
    layout : str
        Files as published.
    quirks : tuple of str
        What the reader handles and reports.
    downloads : tuple of Download
    manual : str
        Steps for a person, where a form must be signed or an address is not stable.
    checksum_note : str
        Where checksums come from.
    aliases : tuple of str
        Other names under which the published folder is met.
    pairs : Pairs, optional
        How images and masks are found.
    """

    key: str
    title: str
    licence: str
    group: str
    layout: str
    folder: str = ""
    citation: str = ""
    doi: str = ""
    homepage: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    n_masks: int | None = None
    patients: int | None = None
    quirks: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    manual: str = ""
    checksum_note: str = ""
    aliases: tuple[str, ...] = ()
    pairs: Pairs | None = None

    @property
    def n_images(self) -> int:
        """Number of images of the complete set."""
        return sum(self.counts.values())


def _read_cards() -> dict[str, Card]:
    with (resources.files("busutils.datasets") / "cards.toml").open("rb") as stream:
        tables = tomllib.load(stream)
    cards = {}
    for key, fields in tables.items():
        if "pairs" in fields:
            fields["pairs"] = Pairs(**fields["pairs"])
        downloads = [Download(**{**given, "urls": tuple(given["urls"])}) for given in fields.pop("downloads", [])]
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        cards[key] = Card(key, downloads=tuple(downloads), **{**fields, **lists})
    return cards


#: Every set by its key, from ``cards.toml``.
CARDS: dict[str, Card] = _read_cards()


def data_dir() -> Path:
    """Folder that sets are fetched into: ``BUSUTILS_DATA_DIR``, or the system's folder for user data.

    Returns
    -------
    Path
    """
    chosen = os.environ.get("BUSUTILS_DATA_DIR")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("busutils"))


def adopted_table(name: str, root: str | os.PathLike | None = None) -> Path:
    """File of a set of one's own, see :func:`busutils.datasets.adopt`.

    Parameters
    ----------
    name : str
        Under which it was adopted; a pattern finds several.
    root : path, optional
        Data folder; by default :func:`data_dir`.

    Returns
    -------
    Path
        It need not exist.
    """
    return (Path(root).expanduser() if root else data_dir()) / "adopted" / f"{name}.csv"


def card(key: str, root: str | os.PathLike | None = None) -> Card:
    """Find the card of a set.

    Parameters
    ----------
    key : str
        Key of the catalogue, or name of an adopted set; case does not matter, ``_`` counts as ``-``.
    root : path, optional
        Data folder of adopted sets.

    Returns
    -------
    Card

    Raises
    ------
    DatasetError
        If there is no such set.

    Examples
    --------
    >>> card("BUSI").n_images
    780
    """
    name = str(key).strip().lower().replace("_", "-")
    if name not in CARDS and adopted_table(name, root).is_file():
        return Card(
            name, "images of your own", "yours to know", "as adopted", f"as listed in {adopted_table(name, root)}"
        )
    if name not in CARDS:
        near = difflib.get_close_matches(name, CARDS, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise DatasetError(f"there is no data set {key!r}{meant}; the keys are: {', '.join(CARDS)}.")
    return CARDS[name]
