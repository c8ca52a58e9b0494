"""The command as a user types it: right uses, and every wrong one ends in one clear sentence."""

import io
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trees
from PIL import Image

from busutils import cli, datasets, errors


@pytest.fixture(scope="module")
def busi_like(tmp_path_factory):
    """Twenty-four simulated images in BUSI's layout."""
    root = tmp_path_factory.mktemp("data")
    trees.as_busi(datasets.load("phantom", n=24, size=64), root)
    return root


@pytest.fixture
def root(busi_like, tmp_path):
    shutil.copytree(busi_like, tmp_path / "data")
    return tmp_path / "data"


def run(capsys, *words):
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys, *words):
    """The one sentence of a command that could not be carried out."""
    status, _, err = run(capsys, *words)
    lines = [line for line in err.splitlines() if not line.startswith("busutils: note:")]
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("busutils: ")
    return lines[0]


def evaluate(root):
    return ("evaluate", "--dataset", "busi", "--root", root, "--weights", "kmeans-textbook", "--size", 64)


@pytest.mark.filterwarnings("ignore")
def test_evaluating_writes_a_table_and_prints_a_summary(capsys, root, tmp_path):
    status, out, _ = run(capsys, *evaluate(root), "--name", "mine", "--out", tmp_path / "t.csv")
    assert status == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert len(table) == 24
    lesions = table[table["mask_area"] > 0]
    (line,) = (line for line in out.splitlines() if line.strip().startswith("all lesions"))
    assert line.split()[2:4] == [str(len(lesions)), f"{lesions['dice'].mean():.3f}"]
    assert "normal images" in out
    assert set(table["method"]) == {"mine"}
    assert set(table["target"]) == {"busi"}


@pytest.mark.filterwarnings("ignore")
def test_masks_that_another_program_drew_are_scored(capsys, root, tmp_path):
    masks = tmp_path / "masks"
    status, out, _ = run(
        capsys, "predict", root / "Dataset_BUSI_with_GT/benign", "--weights", "kmeans-improved", "--out", masks
    )
    assert status == 0
    assert "images segmented" in out
    words = refused(capsys, "evaluate", "--dataset", "busi", "--root", root, "--pred", masks)
    assert "lacks the masks of" in words


def test_no_data_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("BUSUTILS_DATA_DIR", raising=False)
    assert "no data folder is known" in refused(capsys, "evaluate", "--dataset", "busi", "--weights", "kmeans-best")
    assert "is not a folder" in refused(capsys, *evaluate(tmp_path / "nowhere"))


def test_either_weights_or_masks_are_scored(capsys, root):
    assert "--pred" in refused(capsys, *evaluate(root)[:-4])
    assert "--pred" in refused(capsys, *evaluate(root), "--pred", root)


def test_an_empty_folder(capsys, tmp_path):
    assert "is empty" in refused(capsys, *evaluate(tmp_path))


def test_a_folder_that_is_not_busi(capsys, tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"x")
    assert "BUSI" in refused(capsys, *evaluate(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_an_image_without_a_mask(capsys, root):
    (root / "Dataset_BUSI_with_GT/benign/benign (1)_mask.png").unlink()
    assert "benign (1)" in refused(capsys, *evaluate(root))


@pytest.mark.filterwarnings("ignore")
def test_a_truncated_image(capsys, root):
    path = root / "Dataset_BUSI_with_GT/benign/benign (2).png"
    path.write_bytes(path.read_bytes()[:300])
    assert "benign (2).png" in refused(capsys, *evaluate(root))


@pytest.mark.filterwarnings("ignore")
def test_a_mask_of_another_size(capsys, root):
    Image.fromarray(np.zeros((20, 90), np.uint8)).save(root / "Dataset_BUSI_with_GT/benign/benign (3)_mask.png")
    assert "another picture" in refused(capsys, *evaluate(root))


def test_a_file_that_holds_no_weights(capsys, tmp_path):
    (tmp_path / "w.npz").write_text("nothing")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "i.png")
    for weights, words in (
        (tmp_path / "w.npz", "not a file of saved weights"),
        (tmp_path / "gone.npz", "no weights file"),
        ("unknown-name", "kmeans-best"),
        (tmp_path / "gone.onnx", "no file"),
    ):
        sentence = refused(capsys, "predict", tmp_path / "i.png", "--weights", weights, "--out", tmp_path / "o")
        assert words in sentence
    request = ("predict", tmp_path / "i.png", "--weights", "kmeans-best", "--out", tmp_path / "o")
    assert "leave it to auto" in refused(capsys, *request, "--runtime", "onnx")
    assert not (tmp_path / "o").exists()
    request = ("export", "--weights", "busi-light", "--out", tmp_path / "o.xml")
    assert "ends in .onnx" in refused(capsys, *request)


def test_images_that_do_not_exist(capsys, tmp_path):
    assert "no file or folder" in refused(
        capsys, "predict", tmp_path / "x.png", "--weights", "kmeans-best", "--out", tmp_path
    )
    assert "no image was found" in refused(capsys, "predict", tmp_path, "--weights", "kmeans-best", "--out", tmp_path)


def test_a_bad_image_among_good_ones_is_reported_and_the_rest_done(capsys, tmp_path):
    Image.fromarray(np.full((40, 60), 90, np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    out_folder = tmp_path / "out"
    status, out, err = run(capsys, "predict", tmp_path, "--weights", "kmeans-textbook", "--out", out_folder)
    assert status == 1
    assert "1 of 2 images" in out
    assert "bad.png" in err
    assert Image.open(out_folder / "good_mask.png").size == (60, 40)
    table = pd.read_csv(out_folder / "predictions.csv")
    assert table["error"].notna().tolist() == [True, False]


def test_a_misspelt_lesson_parameter_or_set(capsys, tmp_path):
    sentence = refused(capsys, "lessons", "run", "03", "-p", "epochz=3", "--out", tmp_path)
    assert "epochz" in sentence
    assert "epochs" in sentence
    assert "bussi" in refused(capsys, "evaluate", "--dataset", "bussi", "--weights", "kmeans-best")
    assert "no option" in refused(capsys, "evaluate", "--dataset", "phantom?m=3", "--weights", "kmeans-best")


def test_a_folder_as_the_file_of_a_training_is_refused_before_it(capsys, tmp_path):
    assert "is a folder" in refused(capsys, "train", "--dataset", "bussi", "--out", tmp_path)


def test_an_unknown_command_ends_without_traceback():
    done = subprocess.run([sys.executable, "-m", "busutils.cli", "segmnt"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'segmnt'" in done.stderr
    assert "Traceback" not in done.stderr


def test_sets_are_listed_described_and_checked(capsys, root):
    status, out, _ = run(capsys, "datasets", "list")
    assert status == 0
    keys = {line.split()[0] for line in out.splitlines()[1:]}
    assert keys == set(datasets.CARDS)
    status, out, _ = run(capsys, "datasets", "info", "busi")
    assert "10.1016/j.dib.2019.104863" in out
    status, out, _ = run(capsys, "datasets", "check", "busi", "--root", root)
    assert "24 images" in out
    assert "missing: benign (15)" in out  # a partial copy is told
    status, out, _ = run(capsys, "datasets", "split", "phantom", "--out", root / "folds.csv")
    assert len(pd.read_csv(root / "folds.csv")) == 120
    assert out.splitlines()[0].split() == ["label", "benign", "malignant", "normal"]


def test_fetching_asks_for_the_licence(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody is there to answer
    assert "--yes" in refused(capsys, "datasets", "fetch", "stu", "--root", tmp_path / "new")
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.tf
def test_training_exporting_and_using_a_network(capsys, tmp_path):
    weights, onnx = tmp_path / "w.npz", tmp_path / "w.onnx"
    status, out, _ = run(
        capsys, "train", "--dataset", "phantom?n=12&size=64", "--epochs", 1, "--size", 32, "--out", weights
    )
    assert status == 0
    assert "without fold 5" in out
    status, _, _ = run(capsys, "export", "--weights", weights, "--out", onnx)
    assert status == 0
    from busutils import models

    images, _ = datasets.load("phantom", n=3, size=64).load_arrays(64)
    expected = models.load(weights, "keras").predict_proba(images)
    np.testing.assert_allclose(cli.segmenter_named(str(onnx)).predict_proba(images), expected, atol=1e-4)
    trees.as_busi(datasets.load("phantom", n=3, size=64), tmp_path / "three")
    masks = ("predict", tmp_path / "three", "--recursive", "--weights", weights, "--out", tmp_path / "masks")
    status, out, err = run(capsys, *masks, "--runtime", "keras")
    assert (status, "Keras" in err) == (0, True)
    # Runtimes differ in the last digits: what was begun with one is not gone on with by another.
    status, _, err = run(capsys, *masks[:-3], onnx, *masks[-2:])
    assert (status, "--runtime keras" in err) == (2, True)
    status, out, err = run(capsys, *masks, "--runtime", "keras")
    assert (status, "before" in out) == (0, True)
    assert "no network to export" in refused(capsys, "export", "--weights", "kmeans-best", "--out", tmp_path / "k.onnx")
    (tmp_path / "x.onnx").write_text("nothing")
    sentence = refused(capsys, "evaluate", "--dataset", "phantom?n=3", "--weights", tmp_path / "x.onnx")
    assert "not a network exported" in sentence


@pytest.mark.realdata
def test_busi_has_its_known_scores(capsys, data_root, tmp_path):
    """Textbook K-Means on all 647 lesion images: 0.184 (benign 0.138, malignant 0.280)."""
    command = ("evaluate", "--dataset", "busi", "--root", data_root, "--weights", "kmeans-textbook")
    assert run(capsys, *command, "--out", tmp_path / "t.csv")[0] == 0
    table = pd.read_csv(tmp_path / "t.csv")
    lesions = table[table["mask_area"] > 0]
    dice = {"all lesions": lesions["dice"].mean(), **lesions.groupby("label")["dice"].mean()}
    assert dice["all lesions"] == pytest.approx(0.184, abs=0.003)
    assert dice["benign"] == pytest.approx(0.138, abs=0.003)
    assert dice["malignant"] == pytest.approx(0.280, abs=0.003)


def test_tables_of_the_pages_are_those_of_the_files():
    tools = Path(__file__).parents[1] / "tools"
    sys.path.insert(0, str(tools))
    try:
        import write_readme
    finally:
        sys.path.pop(0)
    for page, text in write_readme.written().items():
        assert page.read_text(encoding="utf-8") == text, f"{page}: python tools/write_readme.py"
    index = write_readme.INDEX.read_text(encoding="utf-8")
    assert "| ? |" not in index  # every picture has a known origin


SECTIONS = (
    "Introduction", "Triple-negative breast cancer", "U-Net", "Dataset", "Results", "Activation maps", "Getting started",
    "Prediction comparison on different datasets", "Requirements", "Installation", "Dataset directory structure",
    "Deployments", "References",
)  # fmt: skip


def test_the_readme_is_short_and_its_sections_are_found():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("##")]
    assert set(SECTIONS) <= set(headings)


def test_an_audit_tells_pairs_and_findings(capsys):
    status, out, _ = run(capsys, "datasets", "audit", "phantom?n=12&size=96&copies=0.5&calipers=1")
    assert status == 0
    assert "pairs of near-duplicates: " in out
    assert "burnt-in marks" in out.split("images with a finding: ")[1]


def test_warnings_and_logging_are_left_as_they_were(capsys, tmp_path):
    before = warnings.showwarning, list(logging.getLogger().handlers), list(logging.getLogger("busutils").handlers)
    assert cli.main(["datasets", "info", "stu"]) == 0
    after = warnings.showwarning, list(logging.getLogger().handlers), list(logging.getLogger("busutils").handlers)
    assert after == before


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, ImportError, FileNotFoundError])
def test_a_bug_shows_its_traceback(monkeypatch, error):
    def broken(*_, **__):
        raise error("a bug")

    monkeypatch.setattr(cli.datasets, "info", broken)
    with pytest.raises(error):
        cli.main(["datasets", "info", "stu"])


def test_what_the_user_can_put_right_is_one_sentence(capsys, monkeypatch):
    def missing(*_, **__):
        raise errors.MissingPackageError("it needs a package: pip install it")

    monkeypatch.setattr(cli.datasets, "info", missing)
    assert refused(capsys, "datasets", "info", "stu") == "busutils: it needs a package: pip install it"


def test_a_table_that_cannot_be_written_is_one_sentence(capsys, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file" / "table.csv"):
        assert str(tmp_path) in refused(capsys, "datasets", "split", "phantom?n=12&size=64", "--out", out)
