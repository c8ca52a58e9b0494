"""Adopt a folder of one's own: find its layout, join near-duplicates, make folds, and keep all that under one name.

Nothing in the folder is changed or copied. What was found stands in a table of the data folder, one row an image.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from sklearn.model_selection import StratifiedGroupKFold

from busutils.datasets.audit import audit
from busutils.datasets.catalogue import CARDS, adopted_table
from busutils.datasets.lesions import LABELS, LesionDataset, Record
from busutils.datasets.nnunet import SPLITS
from busutils.datasets.readers import PICTURES, pair_files, pictures, rows_of_folder
from busutils.datasets.reports import Report
from busutils.datasets.tables import name_some, read_labels
from busutils.io import DatasetError, DatasetWarning, picture_size
from busutils.jobs import atomic_path

_IMAGES = ("images", "image", "imgs", "img", "imagestr")
_MASKS = ("masks", "mask", "labels", "label", "labelstr", "gt", "groundtruth", "ground_truth", "annotations")
_LAYOUTS = "x_mask.png beside x.png, images/ and masks/ with equal names, class folders of these, or polygons of COCO or Label Studio"


class Adopted(NamedTuple):
    """What became of a folder: the set, its layout in words, its pairs of near-duplicates, the table that keeps it."""

    dataset: LesionDataset
    layout: str
    pairs: pd.DataFrame
    table: Path


@dataclass(frozen=True)
class _Outline:
    """A mask that is drawn from polygons (N, 2) of x and y in pixels."""

    polygons: tuple[np.ndarray, ...]
    shape: tuple[int, int]

    def read(self) -> np.ndarray:
        """Draw it, (H, W) bool."""
        mask = Image.new("1", self.shape[::-1])
        for points in self.polygons:
            ImageDraw.Draw(mask).polygon([(x, y) for x, y in points.tolist()], fill=1)
        return np.array(mask)


class _Found(NamedTuple):
    """An image of a folder, its masks, and what its class is called there."""

    name: str
    file: Path
    masks: tuple[Path | _Outline, ...]
    kind: str = ""


def adopt(
    folder: str | os.PathLike,
    name: str,
    *,
    root: str | os.PathLike | None = None,
    images: str | None = None,
    masks: str | None = None,
    labels: str | os.PathLike | None = None,
    group: str | None = None,
    classes: Mapping[str, str] | None = None,
    without_mask: str | None = None,
    search: bool = True,
    progress: bool = False,
) -> Adopted:
    """Make a set of a folder of images and masks; :func:`busutils.datasets.load` then takes its name.

    These layouts are known: masks beside their images (``x.png``, ``x_mask.png``); a folder of images and one of masks of
    the same names, such as nnU-Net's ``imagesTr`` and ``labelsTr``; class folders of either; polygons of COCO or Label
    Studio in a JSON file. nnU-Net's folds are kept; other sets get five, of whole groups and with the classes spread evenly.

    Parameters
    ----------
    folder : path
    name : str
        Small letters, digits and ``-``.
    root : path, optional
        Data folder that keeps the table; by default the one of all sets.
    images, masks : str, optional
        Names of the folders of images and masks, where they have unusual ones.
    labels : path, optional
        Table with columns id, label and group; by default ``labels.csv`` in the folder, if there is one.
    group : str, optional
        Regular expression that is searched in the folder and name of an image, such as ``images/p01_3``; its first group
        is the patient.
    classes : mapping of str to str, optional
        Label by class as the folder calls it, ``*`` for all others; ``benign``, ``malignant``, ``normal`` and ``unknown``
        are known.
    without_mask : {"normal", "skip"}, optional
        Images without a mask are normal, or left out.
    search : bool
        Whether to look for near-duplicates and join their groups.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Adopted

    Raises
    ------
    DatasetError
        If the name is taken, the folder has no known layout or several, something is not known that a parameter can say, a
        file is broken, there are fewer than five groups, or nnU-Net's folds separate a group.
    """
    folder, table = Path(folder).expanduser().resolve(), adopted_table(name, root)
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", name) or name in CARDS:
        raise DatasetError(
            f"no set of yours can be called {name!r}: take small letters, digits and -, no published set's name."
        )
    if table.exists():
        raise DatasetError(f"there is a set {name} already, whose folds stay: take another name, or remove {table}.")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: check the path.")
    layout, found, report = _find(folder, images, masks)
    records = _records(found, folder, name, report, labels, group, classes or {}, without_mask)
    dataset = LesionDataset(records, name=name)
    dataset.load_arrays(32, use_cache=False)  # refuses broken files and masks of other pictures
    audited = audit(dataset if search else dataset.subset([]), progress=progress)
    joined = [replace(record, group=audited.groups.get(record.id, record.group)) for record in records]
    dataset = LesionDataset(joined, name=name, folds=_folds(LesionDataset(joined, name=name), folder / SPLITS))
    _write(dataset, table)
    for problem in report.problems:
        warnings.warn(problem.message, DatasetWarning, stacklevel=2)
    return Adopted(load_adopted(table), layout, audited.pairs, table)


def load_adopted(table: Path, name: str | None = None) -> LesionDataset:
    """Load a set that was adopted.

    Parameters
    ----------
    table : Path
        With columns id, image, masks (joined by ``|``), label, group and fold; paths are absolute, or begin at its folder.
    name : str, optional
        What tables and figures call the set; by default the name of the file.

    Returns
    -------
    LesionDataset

    Raises
    ------
    DatasetError
        If the file is no such table.
    """
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8")
        folds = rows["fold"].astype(int).to_numpy()
        records = [
            Record(
                row.id,
                table.parent / row.image,
                tuple(table.parent / mask for mask in row.masks.split("|") if mask),
                row.label,
                row.group,
                table.stem,
            )
            for row in rows.itertuples()
        ]
    except (ValueError, KeyError, AttributeError) as error:
        raise DatasetError(f"{table} is no table of a set ({error}): remove it and adopt the folder again.") from None
    return LesionDataset(records, name=name or table.stem, key=table.stem, folds=folds)


# -- layouts -------------------------------------------------------------------------------------------------


def _find(folder: Path, images: str | None, masks: str | None) -> tuple[str, list[_Found], Report]:
    """The one layout in which images of the folder have masks."""
    ways: dict[str, tuple[list[_Found], Report]] = {}

    def consider(layout: str, read: Callable[..., list[_Found]], *places: Any) -> None:
        report = Report()
        found = read(*places, report)
        if any(image.masks for image in found):
            ways[layout] = found, report

    inner = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    homes = [folder / images] if images else [child for child in inner if child.name.lower() in _IMAGES]
    drawn = [folder / masks] if masks else [child for child in inner if child.name.lower() in _MASKS]
    for home in homes:
        for other in drawn:
            consider(f"images in {home.name}/, masks in {other.name}/", _two_folders, home, other)
        consider(f"masks beside their images in {home.name}/", _pairs, home, home)
    if not images:
        consider("masks beside their images", _pairs, folder, folder)
        classes = [child for child in inner if child not in homes + drawn]
        consider(f"class folders {', '.join(child.name for child in classes)}", _classes, classes)
        for file in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
            consider(f"polygons of {file.name}", _outlines, file, folder)
    if len(ways) > 1:
        raise DatasetError(
            f"{folder} can be read in several ways ({'; '.join(ways)}): say which with --images and --masks."
        )
    if not ways:
        raise DatasetError(f"{folder} holds no image with a mask: put them as {_LAYOUTS}.")
    ((layout, (found, report)),) = ways.items()
    return layout, found, report


def _pairs(home: Path, drawn: Path, report: Report, kind: str = "") -> list[_Found]:
    if not home.is_dir():
        return []
    channel = "_0000" if home.name == "imagesTr" else ""
    pairs = pair_files(home, drawn if drawn.is_dir() else home, report)
    for stem, (file, masks) in pairs.items():
        if len({re.sub(r"_\d$", "", mask.stem.removeprefix(stem)) for mask in masks}) > 1:
            names = name_some(mask.name for mask in masks)
            raise DatasetError(f"{file} has masks of several kinds ({names}): leave one kind in the folder.")
    return [_Found(stem.removesuffix(channel), file, masks, kind) for stem, (file, masks) in pairs.items()]


def _two_folders(home: Path, drawn: Path, report: Report) -> list[_Found]:
    if not home.is_dir() or pictures(home):
        return _pairs(home, drawn, report)
    kinds = [child.name for child in sorted(home.iterdir()) if child.is_dir()]
    return [found for kind in kinds for found in _pairs(home / kind, drawn / kind, report, kind)]


def _classes(folders: list[Path], report: Report) -> list[_Found]:
    found = []
    for folder in folders:
        inner = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
        home = next((inner[name] for name in _IMAGES if name in inner), folder)
        drawn = next((inner[name] for name in _MASKS if name in inner), home)
        found += _pairs(home, drawn, report, folder.name)
    return found


def _outlines(file: Path, folder: Path, report: Report) -> list[_Found]:
    """Images and polygons of an export of COCO or Label Studio; none from another file."""
    places = defaultdict(list)
    for path in folder.rglob("*"):
        if path.suffix.lower() in PICTURES:
            places[path.name].append(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        is_coco = isinstance(content, dict) and {"images", "annotations"} <= set(content)
        if not is_coco and not (isinstance(content, list) and content and {"data", "annotations"} <= set(content[0])):
            return []
        images = (_coco if is_coco else _label_studio)(content, lambda name: _place(name, places, file))
    except DatasetError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DatasetError(
            f"{file} is no complete export of COCO or Label Studio ({error!r}): export it again."
        ) from None
    listed = {path for path, _, _ in images}
    if others := [path.name for paths in places.values() for path in paths if path not in listed]:
        report.warn(f"{len(others)} pictures that {file.name} does not list are left out: {name_some(sorted(others))}.")
    return [
        _Found(
            path.stem,
            path,
            (_Outline(tuple(polygons), picture_size(path)),) if polygons else (),
            " + ".join(sorted(kinds)),
        )
        for path, polygons, kinds in images
    ]


def _place(name: str, places: Mapping[str, list[Path]], file: Path) -> Path:
    """The picture that an export names by an address of its own; Label Studio puts eight digits in front."""
    name = PurePosixPath(unquote(name).replace("\\", "/")).name
    found = places.get(name) or places.get(re.sub(r"^[0-9a-f]{8}-", "", name), [])
    if len(found) != 1:
        raise DatasetError(
            f"{file} names {name}, and {len(found) or 'no'} pictures of the folder are called so: there must be one."
        )
    return found[0]


_Drawn = list[tuple[Path, list[np.ndarray], set[str]]]  # pictures with polygons and the names of their classes


def _coco(content: dict[str, Any], place: Callable[[str], Path]) -> _Drawn:
    names = {kind["id"]: kind["name"] for kind in content.get("categories", ())}
    drawn = defaultdict(list)
    for shape in content["annotations"]:
        drawn[shape["image_id"]].append(shape)
    images = []
    for image in content["images"]:
        path, shapes = place(image["file_name"]), drawn[image["id"]]
        if any(not isinstance(shape["segmentation"], list) for shape in shapes):
            raise DatasetError(
                f"the outline of {path.name} is no polygon but run-length encoded: export polygons, or masks."
            )
        if (image["height"], image["width"]) != picture_size(path):
            raise DatasetError(f"{path} is not {image['width']} x {image['height']} pixels large, as its outlines say.")
        polygons = [np.reshape(points, (-1, 2)) for shape in shapes for points in shape["segmentation"]]
        images.append((path, polygons, {str(names.get(shape.get("category_id"), "")) for shape in shapes}))
    return images


def _label_studio(content: list[dict[str, Any]], place: Callable[[str], Path]) -> _Drawn:
    images = []
    for task in content:
        path = place(next(value for value in task["data"].values() if str(value).lower().endswith(PICTURES)))
        done = [answer["result"] for answer in task["annotations"] if not answer.get("was_cancelled")]
        shapes = done[0] if done else []
        if len(done) > 1 or any(shape["type"] != "polygonlabels" for shape in shapes):
            raise DatasetError(f"{path.name} has several annotations, or others than polygons: keep one, of polygons.")
        height, width = picture_size(path)
        values = [shape["value"] for shape in shapes]
        polygons = [np.array(value["points"]) / 100 * (width, height) for value in values]
        images.append((path, polygons, {kind for value in values for kind in value["polygonlabels"]}))
    return images


# -- labels, groups, folds -----------------------------------------------------------------------------------


def _records(
    found: list[_Found],
    folder: Path,
    source: str,
    report: Report,
    labels: str | os.PathLike | None,
    group: str | None,
    classes: Mapping[str, str],
    without_mask: str | None,
) -> list[Record]:
    """Records of the images, where everything about them is known."""
    counts = Counter(image.name for image in found)
    ids = [image.name if counts[image.name] == 1 else f"{image.kind.lower()}-{image.name}" for image in found]
    lists = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".csv", ".tsv", ".xlsx")]
    table = Path(labels) if labels else next((file for file in lists if file.name.lower() == "labels.csv"), None)
    if labels and not Path(labels).is_file():
        raise DatasetError(f"there is no table {labels}: check the path.")
    if lists and not table and not group:
        raise DatasetError(
            f"{folder} holds {name_some(file.name for file in lists)}: if that names patients or classes, give it as --labels with "
            'columns id, label and group; else say that every image is a patient of its own, with --group "(.+)".'
        )
    table = table or folder / "labels.csv"
    rows = read_labels(table, ids) if group else rows_of_folder(table, ids, report)
    known = {**{label: label for label in LABELS}, "": "unknown", **classes}
    records, bare, strange, alone = [], [], set(), []
    for id_, image in zip(ids, found, strict=True):
        row = rows.get(id_, {})
        kind = row.get("label") or image.kind
        label = known.get(kind, known.get(kind.lower(), known.get("*", "")))
        if label not in LABELS:
            strange.add(kind)
            continue
        place = f"{image.file.parent.name}/{image.file.stem}"
        match = re.search(group, place) if group else None
        if group and not (match and match.groups()):
            alone.append(place)
        patient = row.get("group") or (match[1] if match and match.groups() else id_)
        if not image.masks and label != "normal":
            bare.append(image.file.name)
            if without_mask != "normal":
                continue
            label = "normal"
        records.append(Record(id_, image.file, image.masks, label, patient, source))
    if strange:
        raise DatasetError(
            f"{folder}: what the classes {name_some(sorted(strange))} are is not known: say so for each, as in "
            f'--label "{min(strange)}=benign" (or malignant, normal, unknown).'
        )
    if alone:
        raise DatasetError(
            f"--group {group!r} finds no patient in {len(alone)} names ({name_some(alone)}): put it in parentheses."
        )
    if bare and not without_mask:
        raise DatasetError(
            f"{folder}: {len(bare)} of {len(found)} images have no mask ({name_some(bare)}): say whether they are normal or left out, "
            "with --without-mask normal or --without-mask skip."
        )
    return records


def _folds(dataset: LesionDataset, file: Path) -> np.ndarray:
    """nnU-Net's folds if there are any, else five of whole groups in which the classes are spread evenly."""
    if not file.is_file():
        if (n := len(set(dataset.groups))) < 5:
            raise DatasetError(f"{dataset.name} has {n} groups of images; five folds need at least five.")
        folds = np.zeros(len(dataset), int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # a class may have fewer images than folds
            for fold, (_, test) in enumerate(splitter.split(folds, dataset.labels, dataset.groups), 1):
                folds[test] = fold
        return folds
    parts = [part["val"] for part in json.loads(file.read_text(encoding="utf-8"))]
    fold_of = {case: fold for fold, part in enumerate(parts, 1) for case in part}
    if sorted(case for part in parts for case in part) != sorted(dataset.ids):
        raise DatasetError(f"{file} does not hold each image once among 'val': remove it to have folds made.")
    folds = np.array([fold_of[id_] for id_ in dataset.ids])
    if len(split := [g for g in dict.fromkeys(dataset.groups) if len(set(folds[dataset.groups == g])) > 1]):
        raise DatasetError(
            f"{file} separates images of one patient or scene ({name_some(split)}): remove it to have folds made, or keep it with "
            "--no-search if these are no near-duplicates."
        )
    return folds


def _write(dataset: LesionDataset, table: Path) -> None:
    """Write the masks that were drawn, and the table."""
    rows = []
    for record, fold in zip(dataset, dataset.folds(), strict=True):
        masks = []
        for mask in record.masks:
            if isinstance(mask, _Outline):
                file = table.with_suffix("") / f"{record.id}.png"
                with atomic_path(file) as temporary:
                    Image.fromarray(mask.read()).save(temporary)
                mask = file.relative_to(table.parent)
            masks.append(str(mask))
        rows.append((record.id, record.image, "|".join(masks), record.label, record.group, fold))
    with atomic_path(table) as temporary:
        columns = ["id", "image", "masks", "label", "group", "fold"]
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
