"""Made-up folder trees in the layouts of the public sets; every quirk that a card names is in its tree.

The pictures are drawn from random numbers: no pixel of a real image is used.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import scipy.io
from PIL import Image
from scipy import ndimage


def picture(shape=(48, 64), seed=0) -> np.ndarray:
    """Make a smooth random grey image (H, W) uint8."""
    coarse = np.random.default_rng(seed).uniform(20, 230, (6, 8))
    grey = Image.fromarray(coarse.astype(np.float32)).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(grey).astype(np.uint8)


def blob(shape=(48, 64), centre=(0.5, 0.5), radius=0.2) -> np.ndarray:
    """Make a round mask (H, W) bool; centre and radius are shares of the sides."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return ((rows + 0.5) / shape[0] - centre[0]) ** 2 + ((cols + 0.5) / shape[1] - centre[1]) ** 2 < radius**2


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    """Write a picture; bool becomes 0 and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    image = Image.fromarray(grey)
    if mode == "RGBA":
        image = image.convert("RGB")
        image.putalpha(255)
    elif mode:
        image = image.convert(mode, dither=Image.Dither.NONE) if mode == "1" else image.convert(mode)
    image.save(path)
    return path


def cut_short(path: Path, share: float = 0.6) -> Path:
    """Truncate a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def busi(root: Path, *, n=3) -> Path:
    """BUSI: RGB and RGBA files, 1-bit masks, several masks, black masks, one image under two labels."""
    home = root / "Dataset_BUSI_with_GT"
    for k, label in enumerate(("benign", "malignant", "normal")):
        for number in range(1, n + 1):
            shape = (48 + number, 64 + 4 * k)
            mode = {1: "RGB", 2: "L"}.get(number, "RGBA")
            save(home / label / f"{label} ({number}).png", picture(shape, 10 * k + number), mode)
            mask = np.zeros(shape, bool) if label == "normal" else blob(shape)
            save(home / label / f"{label} ({number})_mask.png", mask, {1: "1", 2: "RGB"}.get(number, "RGBA"))
    shape = (52, 64)
    save(home / "benign" / "benign (4).png", picture(shape, 99))
    for ending, centre in (("_mask", (0.3, 0.3)), ("_mask_1", (0.7, 0.7)), ("_mask_2", (0.3, 0.8))):
        save(home / "benign" / f"benign (4){ending}.png", blob(shape, centre, 0.1), "1")
    for name in ("benign/benign (433)", "malignant/malignant (145)"):
        save(home / f"{name}.png", picture(seed=77))
        save(home / f"{name}_mask.png", blob(), "1")
    return root


def stu(root: Path, *, n=4) -> Path:
    """STU-Hospital: masks four times as large as their image, anti-aliased; one of the same size; one two-valued."""
    home = root / "Hospital"
    for number in range(1, n + 1):
        save(home / f"Test_Image_{number}.png", picture((32, 32), number))
        side = 32 if number == 2 else 128
        sharp = Image.fromarray(blob((256, 256)).astype(np.uint8) * 255)
        soft = sharp.resize((side, side), Image.Resampling.BOX)
        level = np.array(soft)
        if number == 2:
            level[1, 1] = 200  # a speck that nearest neighbour would keep
        if number == 3:
            level = np.where(level > 127, 255, 0).astype(np.uint8)
            level[:, 2] = 255  # a line that nearest neighbour would keep
        save(home / f"mask_{number}.png", level)
    return root


def bus_bra(root: Path, *, leave_out=()) -> Path:
    """BUS-BRA: six images of four cases in the table, some of which may be missing."""
    home = root / "BUSBRA"
    ids = ["bus_0001-l", "bus_0001-r", "bus_0002-l", "bus_0003-s", "bus_0004-l", "bus_0004-r"]
    rows = []
    for k, id_ in enumerate(ids):
        case = id_[4:8].lstrip("0")
        rows.append((id_, case, "cyst", ("benign", "malignant")[int(case) % 2], "4", "GE", "left"))
        if id_ not in leave_out:
            save(home / "Images" / f"{id_}.png", picture(seed=k))
            save(home / "Masks" / f"{id_.replace('bus_', 'mask_')}.png", blob(), "1")
    columns = ["ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Side"]
    home.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(home / "bus_data.csv", index=False)
    return root


def _coloured(mask: np.ndarray, label: str) -> np.ndarray:
    rgb = np.zeros((*mask.shape, 3), np.uint8)
    if label != "normal":
        rgb[mask, 1 if label == "benign" else 0] = 255
    return rgb


def bus_uclm(root: Path) -> Path:
    """BUS-UCLM: colour-coded masks, a table with ; and byte-order mark, crops, two names of one patient, an image
    under two patients, Doppler and burnt-in marks."""
    home = root / "BUS-UCLM Breast ultrasound lesion segmentation dataset" / "BUS-UCLM"
    labels = {
        "ALWI_000": "benign",
        "ALWI_001": "normal",
        "ANFO_000": "malignant",
        "CHCO_000": "benign",
        "CHVI_000": "benign",
        "HESN_000": "malignant",
        "VITR_000": "benign",
        "XXAA_000": "benign",
        "XXBB_000": "benign",
    }
    lines = ["Image;Doppler;Marks;Label"]
    for k, (id_, label) in enumerate(labels.items()):
        shape = (40, 40) if id_.startswith("HESN") else (48, 64)
        seed = {"XXBB_000": 7}.get(id_, k)  # the same image under two patients
        rgb = np.repeat(picture(shape, seed)[..., None], 3, axis=2)
        save(home / "images" / f"{id_}.png", rgb)
        save(home / "masks" / f"{id_}.png", _coloured(blob(), label))
        doppler, marks = ("Yes" if id_ == which else "No" for which in ("VITR_000", "ANFO_000"))
        lines.append(f"{id_}.png;{doppler};{marks};{label.capitalize()}")
    (home / "INFO.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return root


def workbook(path: Path, rows: list[list]) -> Path:
    """Write the smallest workbook that other programs would also read: shared strings and numbers."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    strings: list[str] = []
    lines = []
    for r, row in enumerate(rows, 1):
        cells = []
        for c, value in enumerate(row):
            where = f"{chr(65 + c)}{r}"
            if value is None:
                continue
            if isinstance(value, str):
                strings.append(value)
                cells.append(f'<c r="{where}" t="s"><v>{len(strings) - 1}</v></c>')
            else:
                cells.append(f'<c r="{where}"><v>{value}</v></c>')
        lines.append(f'<row r="{r}">{"".join(cells)}</row>')
    items = "".join(f"<si><t>{escape(text)}</t></si>" for text in strings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/sharedStrings.xml", f'<sst xmlns="{main}">{items}</sst>')
        book.writestr(
            "xl/worksheets/sheet1.xml",
            f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}</sheetData></worksheet>',
        )
    return path


def breast(root: Path) -> Path:
    """BrEaST: transparency, masks of further lesions, a normal case, spacing in centimetres, once with a comma."""
    home = root / "BrEaST-Lesions_USG-images_and_masks"
    for k, id_ in enumerate(("case001", "case002", "case045")):
        alpha = np.stack([picture(seed=k), np.full((48, 64), 200, np.uint8)], axis=-1)
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(alpha, "LA").save(home / f"{id_}.png")
        if id_ != "case045":
            save(home / f"{id_}_tumor.png", blob(centre=(0.3, 0.3), radius=0.1))
    save(home / "case002_other1.png", blob(centre=(0.7, 0.7), radius=0.1))
    files = ["Image_filename", "Mask_tumor_filename", "Mask_other_filename"]
    header = ["CaseID", *files, "Pixel_size", "BIRADS", "Classification"]
    rows = [
        [1, "case001.png", "case001_tumor.png", None, 0.00793, "4a", "benign"],
        [2, "case002.png", "case002_tumor.png", "case002_other1.png", "0,01", "5", "malignant"],
        [45, "case045.png", None, None, 0.01, "1", "normal"],
    ]
    workbook(root / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx", [header, *rows])
    return root


def udiat(root: Path, *, table="xlsx") -> Path:
    """UDIAT, dataset B: classes in an accompanying workbook or text, or none."""
    home = root / "BUS"
    for number in range(1, 4):
        save(home / "original" / f"{number:06d}.png", picture(seed=number))
        save(home / "GT" / f"{number:06d}.png", blob())
    kinds = ["Benign", "Malignant", "Benign"]
    if table == "xlsx":
        rows = [[k + 1, kind] for k, kind in enumerate(kinds)]
        workbook(home / "DatasetB.xlsx", [["Image", "Type"], *rows])
    elif table == "txt":
        lines = [f"{k + 1:06d}.png\t{kind}" for k, kind in enumerate(kinds)]
        (home / "classes.txt").write_text("\n".join(lines))
    return root


def oasbud(root: Path) -> Path:
    """OASBUD: two lesions of two views each as radio-frequency lines; a lesion brighter in the middle, in the second
    view on the left; more samples in depth than lines."""
    fields = [(name, object) for name in ("id", "rf1", "rf2", "roi1", "roi2", "birads", "class")]
    data = np.zeros((1, 2), dtype=fields)
    rng = np.random.default_rng(0)
    for k in range(2):
        for view in (1, 2):
            shape = (200 + 10 * k, 30)
            wave = np.sin(np.arange(shape[0]) * 0.9)[:, None] * rng.normal(size=shape) * 500
            roi = blob(shape, (0.5, 0.5 if view == 1 else 0.3))
            data[0, k][f"rf{view}"] = (wave * np.where(roi, 4, 1)).astype(np.int16)
            data[0, k][f"roi{view}"] = roi
        data[0, k]["id"] = f"{22 + k}rw"
        data[0, k]["birads"] = "4a"
        data[0, k]["class"] = k
    (root / "OASBUD").mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(root / "OASBUD" / "OASBUD.mat", {"data": data})
    return root


def bus_uc(root: Path) -> Path:
    """BUS-UC: the same file names in both class folders, everything doubled in All/."""
    home = root / "BUS_UC"
    for k, label in enumerate(("Benign", "Malignant")):
        for number in (1, 2):
            names = [(f"{label}", f"{number:03d}"), ("All", f"{k * 2 + number:03d}")]
            for folder, name in names:
                save(home / folder / "images" / f"{name}.png", picture((64, 64), 10 * k + number))
                save(home / folder / "masks" / f"{name}.png", blob((64, 64)))
    return root


def folder(root: Path, *, flat=False, labels=True) -> Path:
    """Plain folder: two folders of the same names, or masks beside the images; a table; jpg and bmp."""
    for k, ending in enumerate((".png", ".jpg", ".bmp")):
        name = f"x{k}"
        if flat:
            save(root / f"{name}{ending}", picture(seed=k))
            save(root / f"{name}_mask.png", blob())
        else:
            save(root / "images" / f"{name}{ending}", picture(seed=k))
            save(root / "masks" / f"{name}.png", blob().astype(np.uint8))  # class numbers 0 and 1
    if flat:
        save(root / "x0_mask_1.png", blob(centre=(0.1, 0.1), radius=0.1))
    if labels:
        (root / "labels.csv").write_text("id,label,group\nx0.png,benign,p1\nx1,malignant,p1\nx2,Benign,p2\n")
    return root


def as_busi(dataset, root: Path) -> Path:
    """Any set in BUSI's layout: a mask file for each lesion of an image, and black ones."""
    count = Counter()
    for index, record in enumerate(dataset):
        count[record.label] += 1
        stem = root / "Dataset_BUSI_with_GT" / record.label / f"{record.label} ({count[record.label]})"
        image, mask = dataset.load_native(index)
        save(stem.with_name(f"{stem.name}.png"), image)
        parts, found = ndimage.label(mask)
        for number in range(1, max(found, 1) + 1):
            suffix = "_mask.png" if number == 1 else f"_mask_{number - 1}.png"
            save(stem.with_name(f"{stem.name}{suffix}"), parts == number)
    return root


#: Every set with the function that builds it.
TREES = {
    "busi": busi,
    "stu": stu,
    "bus-bra": bus_bra,
    "bus-uclm": bus_uclm,
    "breast": breast,
    "udiat": udiat,
    "oasbud": oasbud,
    "bus-uc": bus_uc,
    "folder": folder,
}
