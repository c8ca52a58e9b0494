"""Published pictures are those that their commands draw from the committed numbers."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
sys.path.insert(0, str(ROOT / "tools"))
from compare_figures import find_difference  # noqa: E402

# Picture → the command that draws it from its CSV without measuring anything.
COMMANDS = {
    "matrix": ("matrix_figure.py",),
    "matrix_strata": ("strata.py", "--draw"),
    "kmeans_ablation": ("kmeans_ablation.py", "--draw"),
    "unet_peers": ("unet_peers.py",),
    "unet_experiments": ("unet_experiments.py",),
    "inference": ("inference.py",),
    "phantom_gallery": ("phantom_figure.py", "--out", "{out}"),
}
BY_A_NETWORK = {"lesson_07_page", "front"}  # tools/page_screenshot.py and tools/front_picture.py: not from numbers


def committed(ending):
    """Files of figures/ that belong to the repository; all of them where this is no checkout."""
    listed = subprocess.run(["git", "ls-files", "figures"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    paths = [ROOT / name for name in listed] or sorted(FIGURES.iterdir())
    return [path for path in paths if path.suffix == ending and path.exists()]


DRAWN = [path.stem for path in committed(".png") if path.stem in COMMANDS]


@pytest.mark.parametrize("name", DRAWN)
def test_picture_is_drawn_from_the_committed_numbers(name, tmp_path, monkeypatch):
    script, *options = COMMANDS[name]
    for path in committed(".csv"):
        shutil.copy(path, tmp_path)
    (tmp_path / "phantom_gallery.csv").unlink()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = __import__(script.removesuffix(".py"))
    monkeypatch.setattr(module, "FIGURES", tmp_path, raising=False)
    monkeypatch.setattr(sys, "argv", [script, *(option.format(out=tmp_path) for option in options)])
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        module.main()
    assert find_difference(FIGURES / f"{name}.png", tmp_path / f"{name}.png") == ""
    for path in tmp_path.glob("*.csv"):  # such as the ranks beside the matrix
        pd.testing.assert_frame_equal(pd.read_csv(path), pd.read_csv(FIGURES / path.name), check_exact=False, atol=1e-4)


def test_every_picture_has_a_command():
    published = {
        name
        for path in (ROOT / "notebooks").glob("*.ipynb")
        for name in re.findall(r'publish\(\s*(?:\\n",\s*")?\s*\\"(\w+)\\"', path.read_text(encoding="utf-8"))
    }
    unknown = {path.stem for path in committed(".png")} - published - set(COMMANDS) - BY_A_NETWORK
    assert not unknown, f"no command draws figures/{', '.join(sorted(unknown))}.png"


def test_comparison_sees_a_moved_bar_but_not_a_softer_edge(tmp_path):
    for name, left, grey in (("committed", 100, 0), ("softer", 100, 20), ("moved", 110, 0)):
        picture = Image.new("L", (600, 300), 255)
        ImageDraw.Draw(picture).rectangle((left, 100, left + 50, 250), fill=grey)
        picture.save(tmp_path / f"{name}.png")
    Image.new("L", (600, 306)).save(tmp_path / "larger.png")
    assert find_difference(tmp_path / "committed.png", tmp_path / "softer.png") == ""
    assert "differs from the committed one" in find_difference(tmp_path / "committed.png", tmp_path / "moved.png")
    assert "600 × 306 pixels" in find_difference(tmp_path / "committed.png", tmp_path / "larger.png")
