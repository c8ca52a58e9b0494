"""Sets in nnU-Net's layout, so that it trains on the same images and folds."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from busutils.datasets.lesions import LesionDataset
from busutils.io import DatasetError

SPLITS = "splits_final.json"


def write_nnunet(dataset: LesionDataset, root: str | os.PathLike, *, number: int = 501) -> Path:
    """Write a set as a data set of nnU-Net 2, with its folds.

    Images become grey PNG files, masks PNG files of 0 and 1. :func:`busutils.datasets.adopt` reads the folder back: images,
    masks, labels, groups and folds are the same. nnU-Net counts folds from 0: its fold 4 is fold 5 here.

    Parameters
    ----------
    dataset : LesionDataset
    root : path
        nnU-Net's folder of raw data.
    number : int
        nnU-Net's number of the set.

    Returns
    -------
    Path
        ``root/Dataset501_NAME``: ``imagesTr``, ``labelsTr``, ``dataset.json``; ``splits_final.json``, which nnU-Net expects
        among its preprocessed data; ``labels.csv`` with the columns id, label and group.

    Raises
    ------
    DatasetError
        If the folder exists, or an id cannot be the name of a file.
    """
    home = Path(root, f"Dataset{number:03d}_{re.sub(r'[^A-Za-z0-9]+', '', dataset.name.title())}")
    if home.exists():
        raise DatasetError(f"{home} exists, and nothing is overwritten: remove it, or take another number.")
    if odd := [id_ for id_ in dataset.ids.tolist() if re.search(r'[\\/:*?"<>|]', id_)]:
        raise DatasetError(f"{odd[0]!r} cannot be the name of a file: export one set at a time, as it was loaded.")
    folds, ids = dataset.folds(), dataset.ids
    splits = [{"train": ids[folds != k].tolist(), "val": ids[folds == k].tolist()} for k in range(1, folds.max() + 1)]
    about: dict[str, Any] = {
        "channel_names": {"0": "ultrasound"},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ".png",
    }
    about |= {"numTraining": len(dataset)}
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=home.parent) as folder:
        fresh = Path(folder, home.name)
        for part in ("imagesTr", "labelsTr"):
            (fresh / part).mkdir(parents=True)
        for index, record in enumerate(dataset):
            image, mask = dataset.load_native(index)
            Image.fromarray(image).save(fresh / "imagesTr" / f"{record.id}_0000.png")
            Image.fromarray(mask.astype(np.uint8)).save(fresh / "labelsTr" / f"{record.id}.png")
        (fresh / "dataset.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (fresh / SPLITS).write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")
        dataset.table()[["id", "label", "group"]].to_csv(fresh / "labels.csv", index=False)
        fresh.rename(home)
    return home
