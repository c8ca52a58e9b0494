"""Write the README's tables from the CSV files they come from.

``python tools/write_readme.py --busi build`` first collects the numbers of a run of the lessons on BUSI
(``busutils lessons run --dataset busi --out build``), ``--lessons build`` those of a run on simulated images.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FIGURES = ROOT / "figures"
RESULTS = FIGURES / "busi_fold5.csv"
INDEX = FIGURES / "README.md"
MINUTES = FIGURES / "lesson_minutes.csv"

METHODS = {"mask": "constant mask (floor)", "textbook": "K-Means, textbook", "improved": "K-Means, improved",
           "best": "K-Means, best", "unet": "U-Net, light, from scratch"}  # fmt: skip
HOLD = {
    "00_start_here": "a first mask and its score",
    "01_explore_the_data": "a set whose traps you know, split without a leak",
    "02_segment_with_kmeans": "a method without learning that beats the floor",
    "03_train_a_unet": "a network trained by you",
    "04_compare_across_datasets": "a table of what is left on another scanner",
    "05_read_activation_maps": "maps of what the network looks at, and their tests",
    "06_use_and_deploy": "a command, a file without TensorFlow, a page",
}


def collect_busi(folder: Path) -> None:
    """Gather the scores of lessons 02 and 03 of a run on BUSI."""
    numbers = {}
    for lesson in ("02_segment_with_kmeans", "03_train_a_unet"):
        found = json.loads((folder / "results" / f"{lesson}.json").read_text())
        if found["dataset"] != "busi":
            sys.exit(f"{folder} holds a run on {found['dataset']}, not on BUSI")
        numbers |= found
    rows = [
        {"method": name, "n": numbers["n_test"]}
        | {s: numbers[f"{s}_{key}"] for s in ("dice", "dice_low", "dice_high", "iou")}
        for key, name in METHODS.items()
    ]
    pd.DataFrame(rows).to_csv(RESULTS, index=False)


def collect_minutes(folder: Path) -> None:
    """Gather how long each lesson took."""
    table = pd.read_csv(folder / "summary.csv")
    if not (table["result"] == "passed").all():
        sys.exit("some lessons did not pass")
    table = table.assign(minutes=(table["seconds"] / 60).round(1))[["lesson", "minutes"]]
    table.to_csv(MINUTES, index=False)


def results_table() -> str:
    lines = ["| Method | Mean Dice [95 % interval] | Mean IoU |", "|---|---|---|"]
    for row in pd.read_csv(RESULTS).itertuples():
        lines.append(f"| {row.method} | {row.dice:.3f} [{row.dice_low:.3f}, {row.dice_high:.3f}] | {row.iou:.3f} |")
    return "\n".join(lines)


def lessons_table() -> str:
    lines = ["| Lesson | You will hold in your hands | Minutes to run |", "|---|---|---|"]
    for row in pd.read_csv(MINUTES).itertuples():
        title = f"{row.lesson[:2]} · {row.lesson[3:].replace('_', ' ').capitalize()}"
        title = title.replace("kmeans", "K-Means").replace("unet", "U-Net")
        lines.append(f"| [{title}](notebooks/{row.lesson}.ipynb) | {HOLD[row.lesson]} | {row.minutes:.1f} |")
    return "\n".join(lines)


def written(text: str) -> str:
    """The README with its tables replaced by those of the CSV files."""
    for name, table in (("results", results_table()), ("lessons", lessons_table())):
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        text, count = mark.subn(lambda found, table=table: found[1] + table + "\n" + found[2], text)
        if count != 1:
            raise ValueError(f"the README needs one pair of marks <!-- {name} -->")
    return text


def figures_index() -> str:
    """Which lesson and cell, or which script, draws each published picture."""
    rows = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            for name, caption in re.findall(r'publish\(\s*"(\w+)".*?caption="(.*?)"', "".join(cell["source"]), re.S):
                rows[name] = (caption, f"[{path.stem}](../notebooks/{path.name}), cell {number}")
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        for name in re.findall(r"(\w+)\.png", path.read_text(encoding="utf-8")):
            rows.setdefault(name, (name.replace("_", " "), f"`benchmarks/{path.name}`"))
    lines = [
        "# Figures",
        "",
        "Written by `tools/write_readme.py`.",
        "",
        "| Picture | Shows | Drawn by | Numbers |",
        "|---|---|---|---|",
    ]
    for path in sorted(FIGURES.glob("*.png")):
        caption, source = rows.get(path.stem, ("", "?"))
        table = path.with_suffix(".csv")
        numbers = f"[{table.name}]({table.name})" if table.exists() else ""
        lines.append(f"| [{path.name}]({path.name}) | {caption} | {source} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busi", type=Path, metavar="DIR")
    parser.add_argument("--lessons", type=Path, metavar="DIR")
    args = parser.parse_args()
    if args.busi:
        collect_busi(args.busi)
    if args.lessons:
        collect_minutes(args.lessons)
    INDEX.write_text(figures_index(), encoding="utf-8")
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
