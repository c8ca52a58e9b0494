"""What a wheel holds beside the package: the lessons with what they read, and a README whose links work anywhere.

Everything else about the build is in ``pyproject.toml``.
"""

import csv
import re
import shutil
from pathlib import Path

from PIL import Image
from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
REPOSITORY = "https://github.com/busutils/busutils"
# Columns of scores by image that no lesson reads: they are a third of the largest tables.
UNREAD = {"precision", "recall", "specificity", "accuracy", "assd", "nsd"}


def absolute_links(text: str) -> str:
    """A page of the repository's root with its links to files and pictures as addresses."""
    text = re.sub(r'(<img src="|!\[[^]]*\]\()(?!https?:)', rf"\1{REPOSITORY}/raw/main/", text)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\1{REPOSITORY}/blob/main/", text)


def copy_figure(path: Path, target: Path) -> None:
    """Copy a picture in 256 colours, a quarter of the size; a table without the columns that no lesson reads."""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        small.save(target, optimize=True)
        return
    with path.open(encoding="utf-8", newline="") as source, target.open("w", encoding="utf-8", newline="") as copy:
        rows = csv.DictReader(source)
        kept = [name for name in rows.fieldnames or () if name not in UNREAD]
        writer = csv.DictWriter(copy, kept, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def copy_lessons(target: Path) -> None:
    """Copy the notebooks, and the tables and pictures that they name."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "figures").mkdir(parents=True)
    for path in sorted((ROOT / "notebooks").glob("**/[0-9]*.ipynb")):
        text = path.read_text(encoding="utf-8")
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace("](../docs/", f"]({REPOSITORY}/blob/main/docs/"), encoding="utf-8", newline="\n")
        names = re.findall(r"\.\./figures/([\w.]+)", text)
        names += [f"{name}.csv" for name in re.findall(r'read_table\(\\"(\w+)', text)]
        for name in names:
            copy_figure(ROOT / "figures" / name, target / "figures" / name)


class BuildWithLessons(build_py):
    """Add the lessons to a wheel; an editable installation reads those of its checkout."""

    def run(self):
        """Build."""
        super().run()
        if not self.editable_mode:
            copy_lessons(Path(self.build_lib, "busutils", "lessons", "files"))


if __name__ == "__main__":
    setup(
        cmdclass={"build_py": BuildWithLessons},
        long_description=absolute_links((ROOT / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
