"""One card per public set: licence, citation, where it lives, checksum, counts, layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from busutils.datasets.pixels import DatasetError


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
        ``sha256:…`` or ``md5:…`` as published or measured by others. Without one the first download is
        pinned.
    unpack : bool
        Whether it is an archive to be unpacked.
    into : str
        Folder below the data folder that the archive is unpacked to, or the file is put into.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None = None
    unpack: bool = True
    into: str = ""


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
    patients : int, optional
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
    """

    key: str
    title: str
    folder: str
    licence: str
    citation: str
    doi: str
    homepage: str
    counts: Mapping[str, int]
    group: str
    layout: str
    patients: int | None = None
    quirks: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    manual: str = ""
    checksum_note: str = ""
    extras: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """Number of images of the complete set."""
        return sum(self.counts.values())


PHANTOM = Card(
    key="phantom",
    title="Simulated B-mode images whose truth is known",
    folder="",
    licence="Apache-2.0 (made by this package)",
    citation="busutils",
    doi="",
    homepage="",
    counts={},
    group="each image is its own group",
    layout="made in memory, by number and seed",
)

BUSI = Card(
    key="busi",
    title="BUSI, Breast Ultrasound Images",
    folder="Dataset_BUSI_with_GT",
    licence=(
        "not settled: the data paper is CC BY 4.0, the Kaggle copy says CC0, the original page says nothing; "
        "use it, cite it, do not pass its images on"
    ),
    citation=(
        "Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. "
        "Data in Brief 28:104863 (2020)."
    ),
    doi="10.1016/j.dib.2019.104863",
    homepage="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
    counts={"benign": 437, "malignant": 210, "normal": 133},
    patients=600,
    group=(
        "images of one scene (no patient ids are published): this package's near-copy audit joined with "
        "the list of "
        "Pawłowska, Karwat and Żołek 2023 (Mendeley 10.17632/k8t3gnx9h6.1, CC BY 4.0)"
    ),
    layout="{benign,malignant,normal}/benign (1).png, benign (1)_mask.png, benign (1)_mask_1.png …",
    quirks=(
        "several masks of one image (17 images): joined",
        "masks are 1-bit, RGB or RGBA",
        "normal images have black masks",
        "benign (433) and malignant (145) are the same pixels under two labels: one group, both noted",
        "near-copies: groups from folds/busi.csv",
    ),
    downloads=(
        Download(
            name="Dataset_BUSI.zip",
            urls=(
                "https://scholar.cu.edu.eg/Dataset_BUSI.zip",
                "kaggle:aryashah2k/breast-ultrasound-images-dataset",
            ),
            checksum="sha256:b2ce09f6063a31a73f628b6a6ee1245187cbaec225e93e563735691d68654de7",
        ),
    ),
    checksum_note="sha256 of the zip as torch-em uses it; the Kaggle copy is another archive.",
)

BUS_BRA = Card(
    key="bus-bra",
    title="BUS-BRA, biopsy-proven breast ultrasound from Brazil",
    folder="BUSBRA",
    licence="CC BY 4.0",
    citation=(
        "Gómez-Flores W, Gregorio-Calas MJ, Coelho de Albuquerque Pereira W. BUS-BRA: a breast ultrasound "
        "dataset for "
        "assessing computer-aided diagnosis systems. Medical Physics 51:3110-3123 (2024)."
    ),
    doi="10.1002/mp.16812",
    homepage="https://zenodo.org/records/8231412",
    counts={"benign": 1268, "malignant": 607},
    patients=1064,
    group="Case (one patient)",
    layout="Images/bus_0001-l.png, Masks/mask_0001-l.png, bus_data.csv, 5-fold-cv.csv",
    quirks=(
        "1-bit masks",
        "folds are the set's own",
        "partial copies: what bus_data.csv lists and the folder lacks is named",
    ),
    downloads=(
        Download(
            name="BUSBRA.zip",
            urls=("https://zenodo.org/records/8231412/files/BUSBRA.zip?download=1",),
            checksum="sha256:ba3e6ed19cc37c682d8d39e25435bbf8a555a12cb7e641b5f2117685c95580ff",
        ),
    ),
    checksum_note="sha256 as other projects (torch-em) use it.",
)

STU = Card(
    key="stu",
    title="STU-Hospital",
    folder="Hospital",
    licence="none stated: use it, cite it, do not pass its images on",
    citation=(
        "Zhuang Z, Li N, Joseph Raj AN, Mahesh VGV, Qiu S. An RDAU-NET model for lesion segmentation in "
        "breast ultrasound "
        "images. PLoS ONE 14:e0221535 (2019)."
    ),
    doi="10.1371/journal.pone.0221535",
    homepage="https://github.com/xbhlk/STU-Hospital",
    counts={"unknown": 42},
    group="each image is its own group, near-copies joined (no patient ids are published)",
    layout="Test_Image_1.png … 42, mask_1.png … 42",
    quirks=(
        "masks of 128 to 512 pixels a side, anti-aliased, for images of 128: averaged over area, cut at "
        "one half",
    ),
    downloads=(
        Download(
            name="STU-Hospital.zip",
            urls=("https://github.com/xbhlk/STU-Hospital/archive/refs/heads/master.zip",),
        ),
    ),
    checksum_note="none published; the sha256 of the first download is pinned.",
)

CARDS: dict[str, Card] = {card.key: card for card in (PHANTOM, BUSI, BUS_BRA, STU)}

KEYS = ("phantom", "busi", "bus-bra", "bus-uclm", "breast", "udiat", "stu", "oasbud", "bus-uc", "folder")


def card(key: str) -> Card:
    """Find the card of a set.

    Parameters
    ----------
    key : str
        Key of the catalogue; case does not matter, ``_`` counts as ``-``.

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
    if name not in CARDS:
        raise DatasetError(f"there is no data set {key!r}; the keys are: {', '.join(CARDS)}.")
    return CARDS[name]
