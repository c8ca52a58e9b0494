"""Audit: near-duplicates of made-up scenes are found, unlike ones are not; odd masks and marks are named."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trees
from scipy import ndimage

from busutils import datasets, phantom
from busutils.datasets import DatasetWarning

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from datasets_audit import against

auditing = __import__("sys").modules["busutils.datasets.audit"]


def speckle(seed, shape=(240, 320)):
    """A frame of soft layers and speckle: darker with depth as all are, unlike in detail."""
    rng = np.random.default_rng(seed)
    grain = np.hypot(*(ndimage.gaussian_filter(rng.normal(size=shape), (3, 4)) for _ in range(2)))
    layers = ndimage.gaussian_filter(rng.normal(size=shape), (10, 30))
    depth = np.linspace(1.2, 0.5, shape[0])[:, None]
    return np.clip(grain / grain.mean() * (1 + 0.3 * layers / layers.std()) * depth * 45, 0, 180).astype(np.uint8)


def similarity(first, second):
    """Best match over all shifts."""
    one, other = (
        auditing._spectra(auditing._details(image, auditing._FINE), auditing._FINE) for image in (first, second)
    )
    return auditing._best_match(one, other, auditing._FINE).max()


@pytest.fixture
def scenes(tmp_path):
    """Twelve scenes; copies: with marks, cropped, shrunk, brightened; one of them under another label."""
    base = [speckle(seed) for seed in range(12)]
    marked = base[0].copy()
    marked[100:104, 60:90] = 255
    marked[90:114, 74:78] = 255
    files = {f"s{k}": image for k, image in enumerate(base)}
    files |= {
        "s0-marked": marked,
        "s1-cropped": base[1][:, :230],
        "s2-small": datasets.resize_image(base[2], (180, 240)),
        "s3-bright": np.clip(base[3] * 1.3 + 10, 0, 255).astype(np.uint8),
    }
    lines = ["id,label,group"]
    for name, image in files.items():
        trees.save(tmp_path / "images" / f"{name}.png", image)
        mask = trees.blob(image.shape)
        if name == "s5":
            mask[:] = False
        if name == "s6":
            mask = trees.blob(image.shape, radius=0.01)
        trees.save(tmp_path / "masks" / f"{name}.png", mask)
        lines.append(f"{name},{'malignant' if name == 's3-bright' else 'benign'},{name}")
    colour = np.repeat(base[7][..., None], 3, axis=2)
    colour[20:40, 20:60] = (255, 40, 0)
    trees.save(tmp_path / "images" / "s7.png", colour)
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return datasets.load("folder", tmp_path)


def test_copies_are_found_and_nothing_else(scenes):
    report = datasets.audit(scenes)
    found = {frozenset(pair) for pair in report.pairs[["id_a", "id_b"]].itertuples(index=False, name=None)}
    want = {("s0", "s0-marked"), ("s1", "s1-cropped"), ("s2", "s2-small"), ("s3", "s3-bright")}
    assert found == {frozenset(pair) for pair in want}
    differ = report.pairs[report.pairs["labels_differ"]]
    assert {*differ["id_a"], *differ["id_b"]} == {"s3", "s3-bright"} and len(differ) == 1
    assert report.groups["s1-cropped"] == report.groups["s1"] != report.groups["s2"]


def test_findings_of_single_images(scenes):
    findings = datasets.audit(scenes).images.set_index("id")["findings"]
    assert findings["s5"] == "empty mask" and findings["s6"] == "tiny mask"
    assert "colour overlay" in findings["s7"]
    assert "burnt-in marks" in findings["s0-marked"] and findings["s1"] == ""


def test_burnt_in_marks_of_phantoms_are_told_from_bright_echoes():
    plain, marked = (
        np.array(
            [
                auditing.burnt_in(phantom.simulate(index, seed=3, scanner=scanner, **marks).image).sum()
                for scanner in phantom.PRESETS
                for index in range(6)
            ]
        )
        for marks in ({}, {"text": 1.0})
    )
    assert (marked >= auditing._BURNT_PX).mean() >= 0.9 and (plain >= auditing._BURNT_PX).mean() <= 0.15


def test_orientation_mark_in_a_corner_is_no_finding():
    image = speckle(0)
    image[1:11, 1:12:2] = 255
    assert auditing.burnt_in(image).sum() == 0
    image[101:111, 101:112:2] = 255
    assert auditing.burnt_in(image).sum() >= auditing._BURNT_PX


@pytest.mark.parametrize("kind", ["thin box", "yellow text", "grey", "grey as jpeg"])
def test_colour_overlays_are_told_from_grey_pictures(tmp_path, kind):
    rgb = np.repeat(speckle(1, (120, 160))[..., None], 3, axis=2)
    if kind == "thin box":  # the faint window of a Doppler picture
        rgb[20:80, [30, 120]] = rgb[[20, 80], 30:121] = (110, 110, 70)
    elif kind == "yellow text":
        rgb[100:108, 20:60:2] = (250, 250, 20)
    ending = "jpg" if kind == "grey as jpeg" else "png"
    trees.save(tmp_path / "images" / f"x.{ending}", rgb)
    trees.save(tmp_path / "masks" / "x.png", trees.blob((120, 160)))
    row = datasets.audit(datasets.load("folder", tmp_path)).images.iloc[0]
    assert ("colour overlay" in row["findings"]) == (row["colour_share"] > 0) == (not kind.startswith("grey"))


@pytest.mark.parametrize(("top", "left", "high", "wide"), [(8, 16, 222, 290), (0, 30, 230, 275)])
def test_a_copy_cut_out_and_stretched_is_found(tmp_path, top, left, high, wide):
    for seed in range(8):
        trees.save(tmp_path / "images" / f"s{seed}.png", speckle(seed))
        trees.save(tmp_path / "masks" / f"s{seed}.png", trees.blob((240, 320)))
    copy = datasets.resize_image(speckle(3)[top : top + high, left : left + wide], (240, 320))
    trees.save(tmp_path / "images" / "cut.png", copy)
    trees.save(tmp_path / "masks" / "cut.png", trees.blob((240, 320)))
    assert similarity(speckle(3), copy) < auditing.SAME_SCENE, "shifts alone do not find it"
    pairs = datasets.audit(datasets.load("folder", tmp_path)).pairs
    assert pairs[["id_a", "id_b"]].to_numpy().tolist() == [["cut", "s3"]]


def test_broken_file_is_a_finding_not_the_end(scenes):
    trees.cut_short(next(record.image for record in scenes if record.id == "s9"))
    report = datasets.audit(scenes)
    assert "broken" in report.problems.set_index("id")["findings"]["s9"]
    assert len(report.pairs) == 4


def test_pages_and_tables(scenes, tmp_path):
    report = datasets.audit(scenes)
    page = report.write_html(tmp_path / "out" / "pairs.html").read_text(encoding="utf-8")
    assert page.count("<img") == 8 and "s0-marked" in page and 'src="data:image/jpeg' in page
    assert "<td>s6</td>" in page and "<td>tiny mask</td>" in page
    table = pd.read_csv(report.write_csv(tmp_path / "out" / "pairs.csv"))
    assert table["id_a"].tolist() == report.pairs["id_a"].tolist()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["pairs.csv", "pairs.html", "pairs_images.csv"]
    images = pd.read_csv(tmp_path / "out" / "pairs_images.csv").set_index("id")
    assert images.loc["s6", "findings"] == "tiny mask" and images.loc["s0-marked", "burnt_px"] > 0
    listed = pd.DataFrame({"id": ["s0", "s0-marked", "s4", "s8"], "group": ["a", "a", "b", "b"]})
    assert against(report.pairs, listed) == {"published": 2, "found": 1, "recall": 0.5, "beyond": 3}


def test_an_audit_of_no_or_one_image_finds_no_pair():
    made = datasets.load("phantom", n=2, size=64)
    for part in (made.subset([]), made.subset([0])):
        report = datasets.audit(part)
        assert len(report.pairs) == report.n_candidates == 0 and len(report.images) == len(part)


def test_a_lesion_on_a_normal_image_is_a_finding(tmp_path):
    root = trees.busi(tmp_path)
    trees.save(root / "Dataset_BUSI_with_GT" / "normal" / "normal (1)_mask.png", trees.blob((49, 72)))
    with pytest.warns(DatasetWarning):
        images = datasets.audit(datasets.load("busi", root)).images.set_index("id")
    assert "normal with a lesion" in images.loc["normal (1)", "findings"]


def test_registration_tells_scenes_apart():
    same = similarity(speckle(1), speckle(1)[:, 60:])
    other = similarity(speckle(1), speckle(2))
    assert same > 0.6 > auditing.SAME_SCENE > 0.3 > other


def test_small_images_do_not_match_by_chance():
    small = [datasets.resize_image(speckle(seed), (64, 64)) for seed in range(8)]
    scores = [similarity(a, b) for i, a in enumerate(small) for b in small[:i]]
    assert max(scores) < auditing.SAME_SCENE


def test_candidates_of_a_large_set_hold_every_similar_pair():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6000, 64)).astype(np.float32)
    vectors[3000:3200] = vectors[:200] + 0.25 * rng.normal(size=(200, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = auditing.candidate_pairs(vectors, neighbours=2)
    assert {(k, k + 3000) for k in range(200)} <= set(map(tuple, found.tolist()))
    assert len(found) <= 2 * len(vectors)


def test_copies_across_sets(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)
        stu = datasets.load("stu", trees.stu(tmp_path))
        trees.save(tmp_path / "plain" / "images" / "copy.png", datasets.read_image(stu[0].image))
        trees.save(tmp_path / "plain" / "masks" / "copy.png", trees.blob((32, 32)))
        both = datasets.concatenate(stu, datasets.load("folder", tmp_path / "plain"))
    assert both.ids[-1] == "folder:copy" and both.groups[0].startswith("stu:")
    assert both.folds()[:4].tolist() == stu.folds().tolist()
    pairs = datasets.audit(both).pairs
    assert ("stu:Test_Image_1", "folder:copy") in set(zip(pairs["id_a"], pairs["id_b"], strict=True))


@pytest.mark.parametrize("key", trees.TREES)
def test_check_counts_every_tree(tmp_path, key):
    report = datasets.check(key, trees.TREES[key](tmp_path))
    assert report.ok and report.n_images == int(report.table["found"].iloc[-1])
    assert report.key == key
    said = " ".join(problem.message for problem in report.problems)
    assert key == "folder" or "differs from the published set" in said
    if key == "busi":
        assert "identical pixels" in said
    if key == "bus-uclm":
        assert "left out" in said and "occur twice" in said


def test_check_lists_every_fault_instead_of_stopping(tmp_path):
    root = trees.busi(tmp_path)
    home = root / "Dataset_BUSI_with_GT" / "benign"
    trees.cut_short(home / "benign (1).png")
    (home / "benign (2)_mask.png").unlink()
    trees.save(home / "benign (3)_mask.png", trees.blob((20, 64)))
    report = datasets.check("busi", root)
    assert not report.ok
    fatal = [problem.message for problem in report.problems if problem.fatal]
    assert len(fatal) == 3 and report.problems[0].fatal
    for number in (1, 2, 3):
        assert any(f"benign ({number})" in message for message in fatal)


def test_check_names_empty_masks_and_normals_with_a_lesion(tmp_path):
    root = trees.busi(tmp_path)
    home = root / "Dataset_BUSI_with_GT"
    trees.save(home / "benign" / "benign (1)_mask.png", np.zeros((49, 64), bool))
    trees.save(home / "normal" / "normal (1)_mask.png", trees.blob((49, 72)))
    report = datasets.check("busi", root)
    said = [problem.message for problem in report.problems if "its mask" in problem.message]
    assert report.ok and len(said) == 2
    assert "benign (1) is benign" in said[0] and "empty" in said[0]
    assert "normal (1) is normal" in said[1] and "lesion" in said[1]


@pytest.mark.parametrize(
    ("rows", "is_said"),
    [
        ("x0,benign,p1\nx1,benign,p1\nx2,benign,p2", True),  # in two groups
        ("x0,benign,p1\nx1,benign,p1\nx2,malignant,p1", True),  # under two labels
        ("x0,benign,p1\nx1,benign,p2\nx2,benign,p1", False),
    ],
)
def test_check_names_identical_pixels_under_two_labels_or_in_two_groups(tmp_path, rows, is_said):
    trees.folder(tmp_path)
    for name in ("x0.png", "x2.png"):
        trees.save(tmp_path / "images" / name, trees.picture(seed=9))
    (tmp_path / "images" / "x2.bmp").unlink()
    (tmp_path / "labels.csv").write_text(f"id,label,group\n{rows}\n")
    report = datasets.check("folder", tmp_path)
    said = [problem.message for problem in report.problems]
    assert report.ok and len(said) == is_said
    assert all("x0" in message and "x2" in message and "identical pixels" in message for message in said)


def test_info_and_catalogue_are_plain_values():
    import json

    for key in datasets.CARDS:
        assert json.loads(json.dumps(datasets.info(key)))["key"] == key
    table = datasets.catalogue_table().set_index("key")
    assert table.loc["udiat", "get"] == "by hand" and table.loc["busi", "get"] == "fetch"
    assert table.loc["busi", "folds shipped"] and not table.loc["oasbud", "folds shipped"]


@pytest.mark.realdata
def test_real_busi_recall_against_the_published_list(data_root):
    from importlib import resources

    with (resources.files("busutils.datasets") / "busi_published_groups.csv").open() as stream:
        published = pd.read_csv(stream)
    busi = datasets.load("busi", data_root)
    report = datasets.audit(busi)
    assert against(report.pairs, published)["recall"] >= 0.92
    # What it finds beyond the list was looked at and is in the groups: no pair is parted.
    group = datasets.shipped_folds("busi")["group"]
    assert (group[report.pairs["id_a"]].to_numpy() == group[report.pairs["id_b"]].to_numpy()).all()


@pytest.mark.realdata
@pytest.mark.parametrize(("key", "images", "masks"), [("busi", 780, 798), ("stu", 42, 42)])
def test_real_sets_are_whole(data_root, key, images, masks):
    report = datasets.check(key, data_root)
    assert report.ok and (report.n_images, report.n_masks) == (images, masks)
