"""Fill the pages of the documentation from data: tables of numbers, the list of lessons, the index of the figures.

A page contains pairs of marks, ``<!-- name -->`` and ``<!-- /name -->``; the text between them is replaced by the table of
that name (``benchmarks/tables.py``). ``python tools/write_readme.py --lessons build`` first collects the running times
of the lessons from a run.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
INDEX = FIGURES / "README.md"
MINUTES = FIGURES / "lesson_minutes.csv"
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("results", "speed", "weights")),
    ROOT / "benchmarks" / "README.md",
)
sys.path.insert(0, str(ROOT / "benchmarks"))
from tables import TABLES  # noqa: E402

# Lesson → its picture and what that shows.
LESSONS = {
    "00_start_here": ("lesson_00_first_masks", "textbook K-Means marks everything dark, not only the lesion"),
    "01_explore_the_data": ("lesson_01_near_duplicates", "pairs of near-duplicates"),
    "02_segment_with_kmeans": ("lesson_02_scores", "Dice of every test image for four K-Means variants"),
    "03_train_a_unet": ("lesson_03_unet_masks", "masks of K-Means and of a U-Net"),
    "04_compare_across_datasets": ("lesson_04_scanners", "one scene through three scanners"),
    "05_read_activation_maps": ("lesson_05_cams", "Seg-Grad-CAM at three levels"),
    "06_estimate_uncertainty": ("lesson_06_uncertainty", "uncertainty of a typical and of a hard image"),
    "07_use_and_deploy": ("lesson_07_page", "the web page with a mask"),
}

# Pictures that are drawn from several tables.
PARTS = {"unet_experiments": tuple(f"unet_{part}" for part in ("leak", "pretraining", "external"))}


def collect_minutes(folder: Path) -> None:
    """Gather how long each lesson took."""
    table = pd.read_csv(folder / "summary.csv")
    if not (table["result"] == "passed").all():
        sys.exit("some lessons did not pass")
    table = table.assign(minutes=(table["seconds"] / 60).round(1))[["lesson", "minutes"]]
    table.to_csv(MINUTES, index=False)


def lessons_table() -> str:
    """The lessons with a picture, the minutes they run, and what lesson 00 says that the reader builds."""
    minutes = pd.read_csv(MINUTES).set_index("lesson")["minutes"]
    cells = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))["cells"]
    contents = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown")
    lines = ["| | Lesson | You build | Minutes to run |", "|---|---|---|---|"]
    for lesson, (picture, shows) in LESSONS.items():
        title, product = re.search(
            rf"^\| \[?({lesson[:2]} · [^]|]+?)(?:\]\(.*?\))? \| (.*?) \|", contents, re.M
        ).groups()
        image = f'<img src="figures/{picture}.png" alt="{shows}" width="150">'
        lines.append(f"| {image} | [{title}](notebooks/{lesson}.ipynb) | {product} | {minutes[lesson]:.1f} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """A page with everything between its marks written anew.

    Raises
    ------
    ValueError
        For marks that name no table, or are not closed.
    """
    tables = {"lessons": lessons_table, **TABLES}
    for name in re.findall(r"<!-- ([\w-]+) -->", text):
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if name not in tables or len(mark.findall(text)) != 1:
            raise ValueError(f"<!-- {name} --> names no table, stands twice or is not closed")
        table = tables[name]()
        text = mark.sub(lambda found, table=table: found[1] + table + "\n" + found[2], text)
    return text


def figures_index() -> str:
    """Which lesson and cell, or which script, draws each published picture, from what, and what it says in plain words."""
    rows = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            code = "".join(cell["source"])
            for name in re.findall(r'publish\(\s*"(\w+)"', code):
                if caption := re.search(r'caption ?= ?"(.*?)"', code):
                    source = f"[{path.stem}](../notebooks/{path.name}), cell {number}"
                    rows[name] = (caption[1], source, f"`busutils lessons refresh {path.stem[:2]}`")
    for path in sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").glob("*.py")]):
        text = path.read_text(encoding="utf-8")
        about = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("\n", " ")
        for name in re.findall(r"(\w+)\.png", text):
            script = f"{path.parent.name}/{path.name}"
            rows.setdefault(name, (about, f"[{script}](../{script})", f"`python {script}`"))
    lines = [
        "# Figures",
        "",
        "Written by `tools/write_readme.py`.",
        "",
        "| Picture | Shows | Drawn by | Numbers | Command |",
        "|---|---|---|---|---|",
    ]
    names = sorted(path.stem for path in FIGURES.glob("*.png"))
    for name in names:
        caption, source, command = rows[name]
        tables = [table for table in PARTS.get(name, (name,)) if (FIGURES / f"{table}.csv").exists()]
        numbers = ", ".join(f"[{table}.csv]({table}.csv)" for table in tables)
        lines.append(f"| [{name}.png]({name}.png) | {caption} | {source} | {numbers} | {command} |")
    plain = tomllib.loads((FIGURES / "captions.toml").read_text(encoding="utf-8"))
    lines += ["", "## In plain words"]
    for name in names:
        if name in plain:
            lines += ["", f"**[{name}]({name}.png)**: {plain[name]}"]
    return "\n".join(lines) + "\n"


def written() -> dict[Path, str]:
    """Every page that holds numbers, as the files of data have them."""
    pages = {page: filled(page.read_text(encoding="utf-8")) for page in PAGES}
    return {**pages, INDEX: figures_index()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lessons", type=Path, metavar="DIR")
    args = parser.parse_args()
    if args.lessons:
        collect_minutes(args.lessons)
    for page, text in written().items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
