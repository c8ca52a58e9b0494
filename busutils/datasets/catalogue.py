"""One card per public set: licence, citation, where it lives, checksum, counts, layout."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

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
class Pairs:
    """Layout of a set that pairs each image with one mask file.

    Parameters
    ----------
    images, masks : str
        Folders of the two below the published folder, or below each class folder; empty for that folder itself.
    image : str
        Regular expression that the file name of an image matches, without its suffix.
    mask : str
        File name of its mask, without its suffix; refers to groups of ``image``.
    classes : mapping of str to str
        Label by class folder, where there are such folders.
    unlabelled : str
        Folder that is read where the class folders are missing.
    listed : bool
        Whether labels come from a list that lies beside the images.
    """

    images: str = ""
    masks: str = ""
    image: str = ".+"
    mask: str = r"\g<0>"
    classes: Mapping[str, str] = field(default_factory=dict)
    unlabelled: str = ""
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
        How images and masks are found, where each image has one mask.
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
    n_masks=798,
    patients=600,
    group=(
        "images of one scene (no patient ids are published): this package's near-duplicate audit joined with "
        "the list of "
        "Pawłowska, Karwat and Żołek 2023 (Mendeley 10.17632/k8t3gnx9h6.1, CC BY 4.0)"
    ),
    layout="{benign,malignant,normal}/benign (1).png, benign (1)_mask.png, benign (1)_mask_1.png …",
    quirks=(
        "several masks of one image (17 images): joined",
        "masks are 1-bit, RGB or RGBA",
        "normal images have black masks",
        "benign (433) and malignant (145) are the same pixels under two labels: one group, both noted",
        "near-duplicates: groups from folds/busi.csv",
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
    pairs=Pairs("Images", "Masks", r"bus_(.+)", r"mask_\1"),
    licence="CC BY 4.0",
    citation=(
        "Gómez-Flores W, Gregorio-Calas MJ, Coelho de Albuquerque Pereira W. BUS-BRA: a breast ultrasound "
        "dataset for "
        "assessing computer-aided diagnosis systems. Medical Physics (2023)."
    ),
    doi="10.1002/mp.16812",
    homepage="https://zenodo.org/records/8231412",
    counts={"benign": 1268, "malignant": 607},
    n_masks=1875,
    patients=1064,
    group="Case (one patient)",
    layout="Images/bus_0001-l.png, Masks/mask_0001-l.png, bus_data.csv, 5-fold-cv.csv",
    quirks=(
        "1-bit masks",
        "folds are the set's own; of five pairs of images that the audit finds alike under two cases, all show different "
        "lesions by eye, but cases 305 (fold 5) and 306 (fold 3) may be one breast",
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
    pairs=Pairs("", "", r"Test_Image_(\d+)", r"mask_\1"),
    licence="none stated: use it, cite it, do not pass its images on",
    citation=(
        "Zhuang Z, Li N, Joseph Raj AN, Mahesh VGV, Qiu S. An RDAU-NET model for lesion segmentation in "
        "breast ultrasound "
        "images. PLoS ONE 14:e0221535 (2019)."
    ),
    doi="10.1371/journal.pone.0221535",
    homepage="https://github.com/xbhlk/STU-Hospital",
    counts={"unknown": 42},
    group="each image is its own group, near-duplicates joined (no patient ids are published)",
    layout="Test_Image_1.png … 42, mask_1.png … 42",
    quirks=("masks of 128 to 512 pixels a side, anti-aliased, for images of 128: averaged over area, cut at one half",),
    downloads=(
        Download(
            name="STU-Hospital.zip",
            urls=("https://github.com/xbhlk/STU-Hospital/archive/refs/heads/master.zip",),
        ),
    ),
    checksum_note="none published; the sha256 of the first download is pinned.",
)

BUS_UCLM = Card(
    key="bus-uclm",
    title="BUS-UCLM, breast ultrasound from Ciudad Real",
    folder="BUS-UCLM",
    pairs=Pairs("images", "masks", r"[A-Za-z]{4}_\d+"),
    aliases=("BUS-UCLM Breast ultrasound lesion segmentation dataset", "BUS_UCLM"),
    licence="version 3: CC BY 4.0 (versions 1 and 2 were quoted as CC BY-NC 4.0: check which one you hold)",
    citation=(
        "Vallez N, Bueno G, Deniz O, Rienda MA, Pastor C. BUS-UCLM: Breast ultrasound lesion segmentation "
        "dataset. "
        "Mendeley Data, version 3."
    ),
    doi="10.17632/7fvgj4jsp7.3",
    homepage="https://data.mendeley.com/datasets/7fvgj4jsp7/3",
    counts={"benign": 174, "malignant": 90, "normal": 419},
    patients=38,
    group="patient (letters before the underscore)",
    layout="images/ALWI_000.png, masks/ALWI_000.png, INFO.csv (separated by ;)",
    quirks=(
        "masks are colour-coded: green benign, red malignant, black none",
        "images smaller than their mask (HESN_*) are left out",
        "patients CHCO and CHVI share images: one group",
        "Doppler frames and burnt-in marks are noted from INFO.csv",
    ),
    downloads=(
        Download(
            name="BUS-UCLM.zip",
            urls=(
                "https://data.mendeley.com/public-api/zip/7fvgj4jsp7/download/3",
                "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com/7fvgj4jsp7-3.zip",
            ),
        ),
    ),
    manual="Open the home page, choose version 3, press 'Download all', unpack the zip into the data folder.",
    checksum_note="none published for the whole zip; the sha256 of the first download is pinned.",
)

BREAST = Card(
    key="breast",
    title="BrEaST, Breast-Lesions-USG",
    folder="BrEaST-Lesions_USG-images_and_masks",
    aliases=("BrEaST-Lesions_USG-images_and_masks-Dec-15-2023", "BrEaST-Lesions-USG", "BrEaST"),
    licence="CC BY 4.0",
    citation=(
        "Pawłowska A et al. Curated benchmark dataset for ultrasound based breast lesion analysis "
        "(Breast-Lesions-USG). The Cancer Imaging Archive (2023)."
    ),
    doi="10.7937/9WKK-Q141",
    homepage="https://www.cancerimagingarchive.net/collection/breast-lesions-usg/",
    counts={"benign": 154, "malignant": 98, "normal": 4},
    patients=256,
    group="case (one patient, one image)",
    layout="case001.png, case001_tumor.png, case001_other1.png …, a workbook of cases beside the folder",
    quirks=(
        "images are grey with transparency",
        "masks of further lesions (_other) are joined with that of the tumour; breast?other=false leaves them out",
        "Pixel_size is in centimetres",
        "normal cases (45, 61, 209, 213) have no mask",
    ),
    downloads=(
        Download(
            name="BrEaST-Lesions_USG-images_and_masks-Dec-15-2023.zip",
            urls=(
                "https://www.cancerimagingarchive.net/wp-content/uploads/"
                "BrEaST-Lesions_USG-images_and_masks-Dec-15-2023.zip",
            ),
        ),
        Download(
            name="BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx",
            urls=(
                "https://www.cancerimagingarchive.net/wp-content/uploads/"
                "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx",
            ),
            unpack=False,
            into="BrEaST-Lesions_USG-images_and_masks",
        ),
    ),
    checksum_note="none published; the sha256 of the first download is pinned.",
)

UDIAT = Card(
    key="udiat",
    title="UDIAT, dataset B",
    folder="BUS",
    pairs=Pairs("original", "GT", listed=True),
    aliases=("UDIAT", "DatasetB", "Dataset_B", "BUS_B"),
    licence="by signed agreement; images must not be passed on",
    citation=(
        "Yap MH et al. Automated breast ultrasound lesions detection using convolutional neural networks. "
        "IEEE Journal of Biomedical and Health Informatics (2018)."
    ),
    doi="10.1109/JBHI.2017.2731873",
    homepage="https://helward.mmu.ac.uk/STAFF/m.yap/dataset.php",
    counts={"benign": 109, "malignant": 54},
    group="each image is its own group (no patient ids are published)",
    layout="original/000001.png, GT/000001.png, a list of classes beside them",
    quirks=(
        "the list of classes comes as a workbook or text: any that lies beside the folders is read",
        "some copies count 110 benign and 53 malignant",
    ),
    manual=(
        "1. Open https://helward.mmu.ac.uk/STAFF/m.yap/dataset.php and print BUS_ReleaseAgreement.pdf. "
        "2. Sign it and send it to the address named there. "
        "3. Unpack what you receive so that BUS/original/000001.png and BUS/GT/000001.png lie in your data "
        "folder, "
        "with the list of classes beside them."
    ),
    checksum_note="not distributed by address; nothing to check against.",
)

OASBUD = Card(
    key="oasbud",
    title="OASBUD, raw radio-frequency data of breast lesions",
    folder="OASBUD",
    licence="open access; quoted as CC BY 4.0 by one catalogue, possibly non-commercial: see the record",
    citation=(
        "Piotrzkowska-Wróblewska H, Dobruch-Sobczak K, Byra M, Nowicki A. Open access database of raw "
        "ultrasonic "
        "signals acquired from malignant and benign breast lesions. Medical Physics (2017)."
    ),
    doi="10.1002/mp.12538",
    homepage="https://zenodo.org/records/545928",
    counts={"benign": 96, "malignant": 104},
    group="lesion (two views each)",
    layout="OASBUD.mat: 100 lesions with rf1, rf2, roi1, roi2, birads, class",
    quirks=(
        "images are made from raw radio-frequency lines: envelope, logarithm, 50 dB",
        "two views of each lesion: one group",
        "samples in depth are much finer than lines: pixels are not square",
    ),
    downloads=(
        Download(
            name="OASBUD.mat",
            urls=("https://zenodo.org/records/545928/files/OASBUD.mat?download=1",),
            checksum="md5:e2b770a6ee2f06ebe480ed0962252100",
            unpack=False,
            into="OASBUD",
        ),
    ),
    checksum_note="md5 as two other projects use it.",
)

BUS_UC = Card(
    key="bus-uc",
    title="BUS_UC, images from ultrasoundcases.info",
    folder="BUS_UC",
    pairs=Pairs("images", "masks", classes={"Benign": "benign", "Malignant": "malignant"}, unlabelled="All"),
    aliases=("BUS-UC", "BUS_UC Breast Ultrasound Image Dataset"),
    licence="CC BY 4.0",
    citation="BUS_UC. Mendeley Data, version 1.",
    doi="10.17632/3ksd7w7jkx.1",
    homepage="https://data.mendeley.com/datasets/3ksd7w7jkx/1",
    counts={"benign": 358, "malignant": 453},
    group="each image is its own group, equal files joined (no patient ids are published)",
    layout="{Benign,Malignant}/{images,masks}/001.png; All/ holds the same images again",
    quirks=("All/ doubles the class folders and is not read", "all images are 256 x 256"),
    downloads=(
        Download(
            name="BUS_UC.zip",
            urls=(
                "https://data.mendeley.com/public-api/zip/3ksd7w7jkx/download/1",
                "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com/3ksd7w7jkx-1.zip",
            ),
        ),
    ),
    manual="Open the home page, press 'Download all' and unpack the zip into the data folder.",
    checksum_note="none published for the whole zip; the sha256 of the first download is pinned.",
)

FOLDER = Card(
    key="folder",
    title="A plain folder of images and masks",
    folder="",
    licence="yours to know",
    citation="",
    doi="",
    homepage="",
    counts={},
    group="column group of labels.csv, else each image is its own group",
    layout="images/x.png and masks/x.png, or x.png and x_mask.png; optional labels.csv (id,label,group)",
)

CARDS: dict[str, Card] = {
    card.key: card for card in (PHANTOM, BUSI, BUS_BRA, BUS_UCLM, BREAST, UDIAT, STU, OASBUD, BUS_UC, FOLDER)
}


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
        near = difflib.get_close_matches(name, CARDS, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise DatasetError(f"there is no data set {key!r}{meant}; the keys are: {', '.join(CARDS)}.")
    return CARDS[name]
