import csv
import itertools
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import blob, picture

from busutils import datasets, io, models, predict
from busutils.predict import PredictError, find_images, predict_files, run


class Bright(models.Segmenter):
    """Draws what is bright."""

    supervised = False

    def __init__(self, size=32, seconds=0.0):
        self.size = size
        self.seconds = seconds

    def _square_proba(self, squares):
        time.sleep(self.seconds * len(squares))
        return squares / 255.0


def images_in(folder, n, shape=(48, 64)):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        Image.fromarray(picture(shape, seed=index)).save(folder / f"scan_{index:03d}.png")
    return folder


def table_of(out):
    with open(out / "predictions.csv", encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def content_of(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


# -- what is written -----------------------------------------------------------------------------------------


def test_masks_and_rows_agree_with_the_segmenter(tmp_path):
    folder = images_in(tmp_path / "in", 20)
    rows = list(predict_files(Bright(), sorted(folder.iterdir()), tmp_path / "out"))
    assert [Path(row.file).name for row in rows] == sorted(path.name for path in folder.iterdir())
    for row, written in zip(rows, table_of(tmp_path / "out"), strict=True):
        image = datasets.read_image(Path(row.file))
        (wanted,) = Bright().predict([image])
        mask = np.asarray(Image.open(tmp_path / "out" / row.mask))
        assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask == 255, wanted)
        assert row.area_px == wanted.sum() == int(written["area_px"])
        assert written["error"] == "" and written["frame"] == ""


def described(mask, spacing=None, prob=None):
    prob = np.where(mask, np.float32(0.9), np.float32(0.1)) if prob is None else prob
    return predict.describe(
        Path("a.png"), "a_mask.png", io.Image(np.zeros(mask.shape, np.uint8), spacing), prob, mask, 0.5
    )


def test_measurements_of_shapes_that_can_be_measured_by_hand():
    mask = np.zeros((50, 80), bool)
    mask[10:13, 20:24] = True
    row = described(mask, spacing=(0.5, 0.25))
    assert (row.height, row.width, row.area_px) == (50, 80, 12)
    assert (row.top, row.left, row.bottom, row.right) == (10, 20, 13, 24)
    assert row.area_mm2 == 12 * 0.5 * 0.25
    assert row.confidence == pytest.approx(0.9, abs=1e-4)
    # From the middle of one outer edge to that of another, in a box of 3 by 4 pixels.
    assert row.longest_axis_px == pytest.approx(np.hypot(2, 4), abs=0.01)
    assert row.longest_axis_mm == pytest.approx(np.hypot(3 * 0.5, 3 * 0.25), abs=0.001)
    assert described(mask).area_mm2 is None and described(mask).longest_axis_mm is None
    mask[40, 70] = True  # the axis is the largest region's
    assert described(mask).longest_axis_px == row.longest_axis_px
    single = np.zeros((5, 5), bool)
    single[2, 2] = True
    assert described(single, spacing=(0.3, 0.3)).longest_axis_mm == pytest.approx(0.3)


@pytest.mark.parametrize("turn", range(4))
def test_the_longest_axis_of_a_disc_is_its_diameter_and_of_a_bar_its_length(turn):
    disc = blob((200, 200), radius=0.2)
    assert described(disc).longest_axis_px == pytest.approx(80, abs=1)
    bar = np.zeros((200, 200), bool)
    bar[50, 10:150] = True
    bar = np.rot90(bar, turn)
    row = described(bar, spacing=(0.1, 0.2))
    assert row.longest_axis_px == pytest.approx(140)
    assert row.longest_axis_mm == pytest.approx(140 * (0.2 if turn % 2 == 0 else 0.1))


def test_an_empty_mask_has_no_box_no_axis_and_full_uncertainty():
    row = described(np.zeros((9, 9), bool), spacing=(1, 1), prob=np.zeros((9, 9), np.float32))
    assert (row.area_px, row.area_mm2, row.top, row.longest_axis_px, row.longest_axis_mm) == (0, 0, None, None, None)
    assert row.confidence is None and row.uncertainty == 1


def test_an_overlay_outlines_the_lesion_and_leaves_the_rest(tmp_path):
    image = np.zeros((40, 40), np.uint8)
    image[10:30, 10:30] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    list(predict_files(Bright(size=40), [tmp_path / "a.png"], tmp_path / "out", overlay=True))
    overlay = np.asarray(Image.open(tmp_path / "out" / "a_overlay.png"))
    coloured = (overlay != overlay[..., :1]).any(axis=-1)
    near = np.zeros((40, 40), bool)
    near[9:31, 9:31] = True
    near[11:29, 11:29] = False
    np.testing.assert_array_equal(coloured, near & coloured)
    assert coloured.sum() > 100
    np.testing.assert_array_equal(overlay[~coloured][:, 0], image[~coloured])


# -- which files ---------------------------------------------------------------------------------------------


def test_folders_lists_and_files_are_found_once_and_in_order(tmp_path):
    folder = images_in(tmp_path / "in", 3)
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    images_in(folder / "deeper", 1)
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder / 'scan_001.png'}\n\n{folder}\n{tmp_path / 'gone.png'}\n", encoding="utf-8")
    names = [path.name for path in find_images([listed, folder])]
    assert names == ["scan_001.png", "scan_000.png", "scan_002.png", "gone.png"]
    assert len(find_images([folder], recursive=True)) == 4
    with pytest.raises(PredictError, match="another --out"):
        find_images([folder], out=folder)
    with pytest.raises(PredictError, match="check the path"):
        find_images([tmp_path / "nowhere"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(PredictError, match="no image"):
        find_images([tmp_path / "bare"])


def test_masks_beside_their_images_are_left_out_of_a_folder(tmp_path, caplog):
    names = ["benign (1).png", "scan.jpg", "lone_mask.png", "the_masked.png"]
    masks = ["benign (1)_mask.png", "benign (1)_mask_1.png", "scan_mask.png"]
    (tmp_path / "deeper").mkdir()
    for name in [*names, *masks, "deeper/scan_mask.png"]:
        (tmp_path / name).touch()
    with caplog.at_level("INFO", "busutils"):
        found = find_images([tmp_path], recursive=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in found) == sorted(names)
    (said,) = caplog.messages
    assert "left out 4 masks" in said
    assert find_images([tmp_path / masks[0]]) == [tmp_path / masks[0]]  # whoever names one gets it


def test_numbered_masks_beside_their_images_are_left_out_of_a_folder(tmp_path):
    names = ["Test_Image_1.png", "Test_Image_2.png", "mask_7.png"]  # no image ends in _7
    for name in [*names, "mask_1.png", "mask_2.png"]:
        (tmp_path / name).touch()
    assert [path.name for path in find_images([tmp_path])] == names


def test_folders_of_masks_and_of_results_are_no_images(tmp_path, caplog):
    images = images_in(tmp_path / "set" / "images", 3)
    for file in sorted(images.iterdir()):
        for name in (
            f"masks/{file.name}",
            f"GT/{file.name}",
            f"other/{file.stem}_mask.png",
        ):
            (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / "set" / name)
    list(predict_files(Bright(), sorted(images.iterdir()), tmp_path / "set" / "earlier", overlay=True))
    with caplog.at_level("INFO", "busutils"):
        assert find_images([tmp_path / "set"], recursive=True) == sorted(images.iterdir())
    assert "left out 9 masks" in caplog.text
    assert len(find_images([tmp_path / "set" / "GT"])) == 3  # whoever names one gets it


def test_every_kind_of_picture_is_found_in_a_folder(tmp_path):
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"):
        Image.fromarray(picture()).save(tmp_path / f"a{suffix[1:]}{suffix}")
    files = find_images([tmp_path])
    assert len(files) == 6
    assert not any(row.error for row in predict_files(Bright(), files, tmp_path / "out"))


def test_patterns_are_expanded_where_the_shell_does_not(tmp_path, monkeypatch):
    folder = images_in(tmp_path / "in", 3)
    Image.fromarray(picture()).save(folder / "scan_[1].png")
    monkeypatch.chdir(folder)
    assert [path.name for path in find_images(["scan_00?.png"])] == ["scan_000.png", "scan_001.png", "scan_002.png"]
    assert find_images(["scan_[1].png"]) == [Path("scan_[1].png")]  # a name before a pattern
    with pytest.raises(PredictError, match="check the path"):
        find_images(["*.jpg"])


def test_results_are_not_taken_for_images(tmp_path):
    folder = images_in(tmp_path / "in", 2)
    for _ in range(2):
        files = find_images([folder], recursive=True, out=folder / "out")
        assert len(files) == 2
        list(predict_files(Bright(), files, folder / "out"))


def test_a_folder_of_results_below_a_searched_one_is_left_out_from_the_first_run_on(tmp_path, monkeypatch):
    folder = images_in(tmp_path / "in", 2)
    images_in(folder / "out", 3)
    monkeypatch.chdir(tmp_path)
    assert len(find_images(["in"], recursive=True, out="in/out")) == 2
    assert len(find_images(["in"], recursive=True, out=".")) == 5  # above the searched folder


def test_a_folder_that_is_named_like_an_image_is_none(tmp_path):
    images_in(tmp_path / "in" / "case.tif", 2)
    assert len(find_images([tmp_path / "in"], recursive=True)) == 2
    with pytest.raises(PredictError, match="no image"):
        find_images([tmp_path / "in"])


def test_names_that_collide_or_look_like_frames_stay_apart(tmp_path):
    files = []
    for name in (
        "a/scan.png",
        "b/scan.png",
        "a/SCAN.bmp",
        "a/scan_f0001.png",
        "a/b_scan_png.png",
        "a/" + "x" * 240 + ".png",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture()).save(path)
        files.append(path)
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(2)]
    frames[0].save(tmp_path / "scan.tif", save_all=True, append_images=frames[1:])
    files.append(tmp_path / "scan.tif")
    rows = list(predict_files(Bright(), files, tmp_path / "out"))
    masks = [row.mask.casefold() for row in rows]
    assert len(set(masks)) == len(masks) == 8
    assert all((tmp_path / "out" / row.mask).is_file() for row in rows)
    assert not list(predict_files(Bright(), files, tmp_path / "out"))  # all are known again


# -- spoiled files -------------------------------------------------------------------------------------------


def test_two_hundred_spoiled_files_do_not_stop_the_rest_and_no_patient_is_copied(tmp_path):
    pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
    import spoiled

    (tmp_path / "in").mkdir()
    in_order, refused, either = spoiled.write_all(tmp_path / "in")
    files = [*in_order, *refused, *either]
    random.Random(0).shuffle(files)
    assert len(files) >= 200
    out = tmp_path / "out"
    rows = list(predict_files(Bright(), files, out, overlay=True))
    errors = {row.file: row.error for row in rows if row.error}
    assert {row.file for row in rows} == set(map(str, files))
    assert set(map(str, refused)) <= set(errors)
    assert not set(map(str, in_order)) & set(errors)
    assert all(file in error for file, error in errors.items())
    for row in rows:
        if not row.error:
            with Image.open(out / row.mask) as mask:
                assert mask.size == (row.width, row.height)
    assert not any(b"SECRET" in content for content in content_of(out).values())
    assert len(table_of(out)) == len(rows)


# -- stopping and going on -----------------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_predict import Bright
from busutils.predict import predict_files
for row in predict_files(Bright(seconds=0.003), sorted(Path(sys.argv[2]).iterdir()), sys.argv[3], overlay=True):
    print(row.mask, flush=True)
"""


def kill_and_restart(tmp_path, n_kills, seed):
    """Kill a run at random moments, let the last one finish, and compare with a run that was left alone."""
    folder = images_in(tmp_path / "in", 150)
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(30)]
    frames[0].save(folder / "scan_020.tif", save_all=True, append_images=frames[1:])
    (folder / "broken.png").write_bytes(b"no image")
    out, rng = tmp_path / "out", random.Random(seed)
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(folder), str(out)]
    told, times = [], {}
    for kill in range(n_kills + 1):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        wanted = rng.randrange(max(2, 240 // (n_kills + 1))) if kill < n_kills else None
        for count, line in enumerate(process.stdout):
            if line.strip():
                told.append(line.strip())
            if wanted is not None and count >= wanted:
                time.sleep(rng.uniform(0, 0.02))
                process.kill()
                told += [rest for rest in process.stdout.read().split("\n")[:-1] if rest]
                break
        assert (process.wait() == 0) == (wanted is None)
        process.stdout.close()
        for row in table_of(out):
            path = out / (row["mask"] or "none")
            if path.exists() and not row["frame"]:
                # What had its row is not written again; a clip is begun anew.
                assert times.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    single = [mask for mask in told if "_f0" not in mask]
    assert len(single) == len(set(single))
    alone = tmp_path / "alone"
    list(predict_files(Bright(seconds=0.003), sorted(folder.iterdir()), alone, overlay=True))
    written, wanted = content_of(out), content_of(alone)
    assert written.keys() == wanted.keys()
    for name in wanted.keys() - {"predictions.csv", "predictions.jsonl"}:
        assert written[name] == wanted[name], name
    # An error is tried again, so its row moves.
    assert sorted(written["predictions.csv"].splitlines()) == sorted(wanted["predictions.csv"].splitlines())


def test_a_run_that_is_killed_is_taken_up_again(tmp_path):
    kill_and_restart(tmp_path, 3, seed=1)


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_is_taken_up_again(tmp_path):
    kill_and_restart(tmp_path, 20, seed=2)


def test_torn_rows_and_lost_masks_are_made_again(tmp_path):
    folder, out = images_in(tmp_path / "in", 12), tmp_path / "out"
    files = sorted(folder.iterdir())
    list(predict_files(Bright(), files, out))
    wanted = content_of(out)
    lines = wanted["predictions.csv"].splitlines(keepends=True)
    (out / "scan_003_mask.png").unlink()
    (out / ".partial-x.png").write_bytes(b"half")
    (out / "predictions.csv").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    again = list(predict_files(Bright(), files, out))
    assert [Path(row.file).name for row in again] == ["scan_003.png"]  # the record knows the torn row
    record = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(record[:-8])  # as if killed before the last file was done
    again = list(predict_files(Bright(), files, out))
    assert [Path(row.file).name for row in again] == ["scan_003.png"]
    found = content_of(out)
    assert found.keys() == wanted.keys()
    assert sorted(found["predictions.csv"].splitlines()) == sorted(wanted["predictions.csv"].splitlines())


def test_a_mended_file_is_tried_again_and_a_wish_for_overlays_is_met(tmp_path):
    folder, out = images_in(tmp_path / "in", 3), tmp_path / "out"
    (folder / "broken.png").write_bytes(b"no image")
    files = sorted(folder.iterdir())
    assert [row.file for row in predict_files(Bright(), files, out) if row.error] == [str(folder / "broken.png")]
    shutil.copy(folder / "scan_000.png", folder / "broken.png")
    (row,) = predict_files(Bright(), files, out)
    assert not row.error and len(table_of(out)) == 4
    assert len(list(predict_files(Bright(), files, out, overlay=True))) == 4
    assert len(table_of(out)) == 4 and len(list(out.glob("*_overlay.png"))) == 4


def test_missing_overlays_matter_only_to_a_run_that_writes_overlays(tmp_path):
    files, out = sorted(images_in(tmp_path / "in", 3).iterdir()), tmp_path / "out"
    list(predict_files(Bright(), files, out, overlay=True))
    (out / "scan_001_overlay.png").unlink()
    assert list(predict_files(Bright(), files, out)) == []
    assert [row.mask for row in predict_files(Bright(), files, out, overlay=True)] == ["scan_001_mask.png"]


def test_a_run_with_another_runtime_names_the_option_that_continues(tmp_path, monkeypatch):
    files = sorted(images_in(tmp_path / "in", 2).iterdir())
    monkeypatch.setattr(Bright, "runtime", "keras")
    list(predict_files(Bright(), files, tmp_path / "out"))
    monkeypatch.setattr(Bright, "runtime", "onnx")
    with pytest.raises(PredictError, match="--runtime keras"):
        list(predict_files(Bright(), files, tmp_path / "out"))


def test_other_weights_do_not_mix_with_what_a_folder_holds(tmp_path):
    files = sorted(images_in(tmp_path / "in", 2).iterdir())
    list(predict_files(Bright(), files, tmp_path / "out", weights="bright"))
    with pytest.raises(PredictError, match=r"other weights, settings or runtime \(bright\)"):
        list(predict_files(Bright(size=16), files, tmp_path / "out"))


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    files = sorted(images_in(tmp_path / "in", 20).iterdir())
    first = predict_files(Bright(), files, tmp_path / "out")
    next(first)
    with pytest.raises(PredictError, match="another run"):
        next(predict_files(Bright(), files, tmp_path / "out"))
    first.close()
    assert len(list(predict_files(Bright(), files, tmp_path / "out"))) < 20
    assert len(table_of(tmp_path / "out")) == 20


def test_no_more_than_a_few_images_are_held_at_once(tmp_path, monkeypatch):
    files = sorted(images_in(tmp_path / "in", 90).iterdir())
    read, ahead = [], []
    frames = run.read_images
    monkeypatch.setattr(run, "read_images", lambda path: read.append(path) or frames(path))
    monkeypatch.setattr(run.joblib, "cpu_count", lambda: 2)
    for count, _ in enumerate(predict_files(Bright(), files, tmp_path / "out"), start=1):
        ahead.append(len(read) - count)
    # The batches under way, and the one whose rows are being written.
    assert max(ahead) <= 5 * run._BATCH


# -- nothing of somebody else's is lost ------------------------------------------------------------------------


def drawn_by_hand(path):
    """Write a mask as a person would, and return what is in the file."""
    Image.fromarray(np.uint8(255) * blob((48, 64), radius=0.3)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("way", ["files", "list", "folder"])
def test_what_no_run_wrote_is_never_overwritten(tmp_path, monkeypatch, way):
    folder = images_in(tmp_path / "scans", 3)
    out = tmp_path / "masks" if way == "folder" else folder
    out.mkdir(exist_ok=True)
    wanted = {name: drawn_by_hand(out / name) for name in ("scan_001_mask.png", "scan_002_overlay.png")}
    (folder / "list.txt").write_text("scan_000.png\nscan_001.png\nscan_002.png\n")
    places = {"files": ["scan_000.png", "scan_001.png", "scan_002.png"], "list": ["list.txt"], "folder": ["."]}
    monkeypatch.chdir(folder)
    files = find_images(places[way], out=out)
    with pytest.raises(PredictError, match="give another --out"):
        list(predict_files(Bright(), files, out, overlay=True))
    assert {name: (out / name).read_bytes() for name in wanted} == wanted
    assert not (out / "scan_000_mask.png").exists()  # refused before anything was made


def test_a_mask_that_came_while_a_run_was_stopped_is_not_overwritten(tmp_path):
    files = sorted(images_in(tmp_path / "in", 30).iterdir())
    rows = predict_files(Bright(), files, tmp_path / "out")
    next(rows)
    rows.close()
    wanted = drawn_by_hand(tmp_path / "out" / "scan_029_mask.png")
    with pytest.raises(PredictError, match=r"scan_029_mask\.png"):
        list(predict_files(Bright(), files, tmp_path / "out"))
    assert (tmp_path / "out" / "scan_029_mask.png").read_bytes() == wanted
    assert (tmp_path / "out" / "scan_000_mask.png").exists()


def test_a_mask_that_was_corrected_by_hand_is_kept(tmp_path, caplog):
    files, out = sorted(images_in(tmp_path / "in", 3).iterdir()), tmp_path / "out"
    list(predict_files(Bright(), files, out))
    wanted = drawn_by_hand(out / "scan_001_mask.png")
    with caplog.at_level("WARNING", "busutils"):
        assert list(predict_files(Bright(), files, out)) == []
    assert "scan_001_mask.png was changed" in caplog.text
    images_in(tmp_path / "in", 3, shape=(40, 40))  # other scans under the same names
    with pytest.raises(PredictError, match=r"scan_001_mask\.png"):
        list(predict_files(Bright(), files, out))
    assert (out / "scan_001_mask.png").read_bytes() == wanted


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.jsonl"])
def test_a_table_of_somebody_else_is_not_overwritten(tmp_path, name):
    files, out = sorted(images_in(tmp_path / "in", 2).iterdir()), tmp_path / "out"
    out.mkdir()
    (out / name).write_text("file,dice\na.png,0.9\n")
    with pytest.raises(PredictError, match="give another --out"):
        list(predict_files(Bright(), files, out))
    assert (out / name).read_text() == "file,dice\na.png,0.9\n"


def test_notes_in_the_table_are_not_overwritten(tmp_path):
    files, out = sorted(images_in(tmp_path / "in", 2).iterdir()), tmp_path / "out"
    list(predict_files(Bright(), files, out))
    table = out / "predictions.csv"
    noted = table.read_text(encoding="utf-8").replace(",\n", ",looks odd\n")
    table.write_text(noted, encoding="utf-8")
    with pytest.raises(PredictError, match="was changed"):
        list(predict_files(Bright(), files, out))
    assert table.read_text(encoding="utf-8") == noted


# -- nothing old is taken for new ----------------------------------------------------------------------------


def test_masks_of_another_folder_are_not_returned(tmp_path, monkeypatch):
    out = tmp_path / "out"
    for where, shape in (("a", (48, 64)), ("b", (40, 56))):
        images_in(tmp_path / where / "scans", 3, shape)
        monkeypatch.chdir(tmp_path / where)
        rows = list(predict_files(Bright(), find_images(["scans"]), out))
        assert len(rows) == 3
        for row in rows:
            assert Image.open(out / row.mask).size == shape[::-1]
        assert list(predict_files(Bright(), find_images(["scans"]), out)) == []
    assert len(table_of(out)) == len({row["mask"] for row in table_of(out)}) == 6


def test_a_scan_that_was_replaced_is_segmented_again(tmp_path):
    folder, out = images_in(tmp_path / "in", 3), tmp_path / "out"
    list(predict_files(Bright(), sorted(folder.iterdir()), out, overlay=True))
    Image.fromarray(picture((40, 50), seed=9)).save(folder / "scan_001.png")
    (row,) = predict_files(Bright(), sorted(folder.iterdir()), out, overlay=True)
    assert (row.mask, row.width) == ("scan_001_mask.png", 50)
    assert Image.open(out / row.mask).size == (50, 40)
    assert len(table_of(out)) == 3


def test_a_mask_that_was_cut_is_made_again(tmp_path):
    files, out = sorted(images_in(tmp_path / "in", 3).iterdir()), tmp_path / "out"
    list(predict_files(Bright(), files, out, overlay=True))
    wanted = content_of(out)
    for name in ("scan_001_mask.png", "scan_002_overlay.png"):
        (out / name).write_bytes(b"")
    assert [row.mask for row in predict_files(Bright(), files, out, overlay=True)] == [
        "scan_001_mask.png",
        "scan_002_mask.png",
    ]
    found = content_of(out)
    assert all(found[name] == wanted[name] for name in wanted if name.endswith(".png"))


def test_an_empty_file_that_no_run_wrote_is_not_overwritten(tmp_path):
    files, out = sorted(images_in(tmp_path / "in", 2).iterdir()), tmp_path / "out"
    list(predict_files(Bright(), files[:1], out))
    (out / "scan_001_mask.png").touch()
    with pytest.raises(PredictError, match=r"scan_001_mask\.png"):
        list(predict_files(Bright(), files, out))


def test_k_means_does_not_wait_for_keras_lock(tmp_path, monkeypatch):
    """Two calls must be under way at the same time; behind a lock the barrier would break."""
    both = threading.Barrier(2)
    monkeypatch.setattr(models.KMeansSegmenter, "_square_proba", lambda self, s: (both.wait(20), s / 255.0)[1])
    files = sorted(images_in(tmp_path / "in", 2 * run._BATCH).iterdir())
    assert len(list(predict_files(models.KMeansSegmenter("textbook"), files, tmp_path / "out"))) == len(files)


def test_reading_segmenting_and_writing_overlap(tmp_path, monkeypatch):
    """The first image is not segmented before a later one is read, nor written before a later one is segmented."""
    n_read, n_segmented = itertools.count(1), itertools.count(1)
    later_read, later_segmented = threading.Event(), threading.Event()

    class Parallel(Bright):
        thread_safe = True

        def _square_proba(self, squares):
            assert later_read.wait(60)
            if next(n_segmented) == 2:
                later_segmented.set()
            return squares / 255.0

    def read(path, read_images=run.read_images):
        if next(n_read) == 3:
            later_read.set()
        return read_images(path)

    def add(self, row, outputs, add=run.Record.add):
        assert later_segmented.wait(60)
        add(self, row, outputs)

    monkeypatch.setattr(run, "read_images", read)
    monkeypatch.setattr(run.Record, "add", add)
    monkeypatch.setattr(run.joblib, "cpu_count", lambda: 2)
    files = sorted(images_in(tmp_path / "in", 6).iterdir())
    assert len(list(predict_files(Parallel(), files, tmp_path / "out"))) == 6


# -- runtimes and clusters ------------------------------------------------------------------------------------


@pytest.fixture
def constant(tmp_path):
    """Saved weights that load in any process."""
    masks = np.stack([blob((48, 64), centre=(0.4, 0.6))] * 2)
    fitted = models.ConstantMaskSegmenter(size=32).fit(np.zeros(masks.shape, np.uint8), masks)
    return str(fitted.save(tmp_path / "constant.npz"))


@pytest.mark.slow  # a worker is killed
def test_a_cluster_that_loses_a_worker_writes_the_same(tmp_path, constant, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    monkeypatch.chdir(tmp_path)
    folder = images_in(tmp_path / "in", 100)
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    frames[0].save(folder / "scan_020.tif", save_all=True, append_images=frames[1:])
    (folder / "broken.png").write_bytes(b"no image")
    files = sorted(Path("in").iterdir())  # relative: workers live in folders of their own
    segmenter = models.load(constant)
    list(predict_files(segmenter, files, tmp_path / "alone", weights=constant, overlay=True))
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        doomed = next(iter(cluster.workers.values()))
        rows = predict_files(segmenter, files, tmp_path / "cluster", weights=constant, overlay=True, client=client)
        next(rows)
        doomed.process.process._process.kill()
        assert len(list(rows)) == 103
    assert content_of(tmp_path / "cluster") == content_of(tmp_path / "alone")


@pytest.mark.slow
def test_the_command_writes_the_same_on_a_cluster(tmp_path, constant):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    images_in(tmp_path / "in", 30)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    command = [sys.executable, "-m", "busutils.cli", "predict", "in", "--weights", constant, "--overlay", "--out"]
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        for more in (["alone"], ["cluster", "--scheduler", cluster.scheduler_address]):
            done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 1, done.stderr  # for the broken file
            assert "30 of 31 images segmented" in done.stdout
    assert content_of(tmp_path / "cluster") == content_of(tmp_path / "alone")


def test_a_cluster_needs_a_name_of_the_weights(tmp_path):
    with pytest.raises(PredictError, match="give their name"):
        next(predict_files(Bright(), [], tmp_path, client=object()))
