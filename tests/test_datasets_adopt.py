import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import trees

from busutils import cli, datasets
from busutils.datasets import DatasetError, DatasetWarning


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSUTILS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / "cache"))


# Noise has no near-duplicates, smooth pictures may.
def noise(seed, shape=(64, 80)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def square(number, shape=(64, 80)):
    mask = np.zeros(shape, bool)
    mask[10 : 30 + number, 20:50] = True
    return mask


def flat(home, n=10):
    for k in range(n):
        trees.save(home / f"p{k // 2}_{k % 2}.png", noise(k))
        trees.save(home / f"p{k // 2}_{k % 2}_mask.png", square(k))


def two_folders(home, n=10):
    for k in range(n):
        trees.save(home / "Images" / f"p{k // 2}_{k % 2}.png", noise(k))
        trees.save(home / "GT" / f"p{k // 2}_{k % 2}.png", square(k))


def class_folders(home, n=10):
    for k in range(n):
        kind = ("Benign", "carcinoma", "normal")[k % 3]
        trees.save(home / kind / f"p{k // 2}_{k % 2}.png", noise(k))
        if kind != "normal":
            trees.save(home / kind / f"p{k // 2}_{k % 2}_mask.png", square(k))


def nnunet(home, n=10):
    for k in range(n):
        trees.save(home / "imagesTr" / f"p{k // 2}_{k % 2}_0000.png", noise(k))
        trees.save(home / "labelsTr" / f"p{k // 2}_{k % 2}.png", square(k).astype(np.uint8))


def coco(home, n=10):
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "Malignant"}]}
    for k in range(n):
        trees.save(home / "images" / f"p{k // 2}_{k % 2}.png", noise(k))
        name = f"images\\0a1b2c3d-p{k // 2}_{k % 2}.png"  # as Label Studio writes it
        content["images"].append({"id": k, "file_name": name, "height": 64, "width": 80})
        corners = [20, 10, 49, 10, 49, 29 + k, 20, 29 + k]
        content["annotations"].append({"id": k, "image_id": k, "category_id": 1, "segmentation": [corners]})
    (home / "result.json").write_text(json.dumps(content))


@pytest.mark.parametrize("build", [flat, two_folders, class_folders, nnunet, coco], ids=lambda build: build.__name__)
def test_a_folder_of_a_usual_layout_is_adopted(tmp_path, build):
    build(tmp_path / "clinic")
    before = sorted(tmp_path.rglob("*"))
    adopted = datasets.adopt(tmp_path / "clinic", "mine", group=r"(p\d)_", classes={"carcinoma": "malignant"})
    data = datasets.load("mine")
    assert sorted(data.ids) == [f"p{k // 2}_{k % 2}" for k in range(10)]
    assert all(id_[:2] == group for id_, group in zip(data.ids, data.groups, strict=True))
    assert sorted(set(data.folds())) == [1, 2, 3, 4, 5]
    for fold in range(1, 6):
        data.split(fold)  # refuses a leak
    for index, id_ in enumerate(data.ids):
        image, mask = data.load_native(index)
        number = 2 * int(id_[1]) + int(id_[3])
        assert (image == noise(number)).all()
        assert (mask == (square(number) & (data.labels[index] != "normal"))).all()
    labels = {"class_folders": {"benign", "malignant", "normal"}, "coco": {"malignant"}}
    assert set(data.labels) == labels.get(build.__name__, {"unknown"})
    assert (adopted.folds() == data.folds()).all()
    assert [path for path in before if not path.exists()] == []
    assert len(datasets.catalogue_table()) == len(datasets.CARDS) + 1
    assert datasets.check("mine").ok


def test_near_duplicates_are_joined_and_stay_in_one_fold(tmp_path, caplog):
    caplog.set_level("INFO")
    home = tmp_path / "clinic"
    for k in range(8):
        trees.save(home / f"x{k}.png", noise(k // 2 if k < 4 else k, (120, 150)))
        trees.save(home / f"x{k}_mask.png", square(k, (120, 150)))
    adopted = datasets.adopt(home, "mine", group="(.+)")
    assert re.search(r"near-duplicates, joined: 2 \((x0 = x1, x2 = x3|x2 = x3, x0 = x1)\)", caplog.text)
    table = adopted.table().set_index("id")
    assert table["group"].nunique() == 6
    assert table.loc["x0", "fold"] == table.loc["x1", "fold"] and table.loc["x2", "fold"] == table.loc["x3", "fold"]
    apart = datasets.adopt(home, "apart", group="(.+)", search=False)
    assert len(set(apart.groups)) == 8


def test_nnunet_s_layout_is_written_and_read_back_without_loss(tmp_path):
    class_folders(tmp_path / "clinic", 12)
    data = datasets.adopt(tmp_path / "clinic", "mine", group=r"(p\d)_", classes={"*": "malignant"})
    home = datasets.write_nnunet(data, tmp_path / "raw", number=7)
    assert home.name == "Dataset007_Mine"
    with pytest.raises(DatasetError, match="nothing is overwritten"):
        datasets.write_nnunet(data, tmp_path / "raw", number=7)
    back = datasets.adopt(home, "back")
    order = [back.ids.tolist().index(id_) for id_ in data.ids]
    for part in ("ids", "groups", "labels"):
        assert getattr(back, part)[order].tolist() == getattr(data, part).tolist()
    assert back.folds()[order].tolist() == data.folds().tolist()
    for here, there in enumerate(order):
        for first, second in zip(data.load_native(here), back.load_native(there), strict=True):
            assert (first == second).all()
    splits = json.loads((home / "splits_final.json").read_text())
    assert [sorted(part["train"] + part["val"]) for part in splits] == [sorted(data.ids)] * 5
    assert json.loads((home / "dataset.json").read_text())["numTraining"] == 12
    (home / "labels.csv").unlink()
    with pytest.raises(DatasetError, match=r"separates images of one patient or scene \(all\)"):
        (home / "labels.csv").write_text("id,group\n" + "".join(f"{id_},all\n" for id_ in data.ids))
        datasets.adopt(home, "leaky")
    (home / "splits_final.json").write_text(json.dumps(splits[:4]))
    with pytest.raises(DatasetError, match="does not hold each image once"):
        datasets.adopt(home, "leaky")


def test_names_that_are_no_file_names_are_not_exported(tmp_path):
    with pytest.raises(DatasetError, match="'phantom:phantom-clinic-0-0000' cannot be the name of a file"):
        datasets.write_nnunet(datasets.concatenate(datasets.load("phantom", n=5, size=32)), tmp_path)


def test_an_export_appears_when_it_is_complete(tmp_path, monkeypatch):
    data = datasets.load("phantom", n=5, size=32)
    trees.save(tmp_path / "x.png", noise(0))
    trees.cut_short(tmp_path / "x.png")
    data.records = (*data.records[:4], replace(data[4], image=tmp_path / "x.png"))
    with pytest.raises(DatasetError, match="cut short"):
        datasets.write_nnunet(data, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def spoil_empty(home):
    shutil.rmtree(home)
    home.mkdir()


def spoil_no_masks(home):
    for file in home.glob("*_mask.png"):
        file.unlink()


def spoil_two_ways(home):
    two_folders(home)


def spoil_two_kinds(home):
    trees.save(home / "p0_0_seg.png", square(1))


def spoil_missing_mask(home):
    (home / "p0_0_mask.png").unlink()


def spoil_unread_table(home):
    (home / "patients.csv").write_text("name,patient\np0_0,7\n")


def spoil_few_groups(home):
    (home / "Labels.csv").write_text("id,group\n" + "".join(f"p{k // 2}_{k % 2},{k // 3}\n" for k in range(10)))


def spoil_other_picture(home):
    trees.save(home / "p0_0_mask.png", square(0)[:20])


def spoil_broken(home):
    trees.cut_short(home / "p0_0.png")


def spoil_label(home):
    (home / "labels.csv").write_text("id,label\np0_0,cyst\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_empty, "holds no image with a mask: put x_mask.png beside x.png"),
        (spoil_no_masks, "holds no image with a mask"),
        (
            spoil_two_ways,
            "can be read as images in Images/, masks in GT/, or as masks beside their images: choose with --images",
        ),
        (spoil_two_kinds, r"p0_0.png has masks of several kinds \(p0_0_mask.png, p0_0_seg.png\)"),
        (
            spoil_missing_mask,
            r"1 of 10 images have no mask \(p0_0.png\): .* --without-mask normal or --without-mask skip",
        ),
        (spoil_unread_table, r"holds patients.csv: if that names patients or classes, give it as --labels"),
        (spoil_few_groups, "mine has 4 groups of images; five folds need at least five"),
        (spoil_other_picture, "p0_0_mask.png has 20 x 80 pixels"),
        (spoil_broken, "p0_0.png is broken or cut short"),
        (spoil_label, 'what the classes cyst are is not known: .* --label "cyst=benign"'),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_wrong_and_ambiguous_folders_are_refused_in_one_sentence(tmp_path, capsys, spoil, words):
    flat(tmp_path / "clinic")
    spoil(tmp_path / "clinic")
    assert cli.main(["datasets", "adopt", str(tmp_path / "clinic"), "--name", "mine"]) == 2
    sentence = re.split(r"[\r\n]", capsys.readouterr().err.strip())[-1]
    assert re.search(words, sentence) and sentence.startswith("busutils: ")
    assert not (tmp_path / "data").exists()


def test_what_flags_say_is_taken(tmp_path):
    flat(tmp_path / "clinic")
    spoil_missing_mask(tmp_path / "clinic")
    spoil_unread_table(tmp_path / "clinic")
    known = datasets.adopt(tmp_path / "clinic", "known", group=r"(p\d)", without_mask="normal")
    assert (known.labels == "normal").sum() == 1 and len(known) == 10
    assert len(datasets.adopt(tmp_path / "clinic", "fewer", group=r"(p\d)", without_mask="skip")) == 9
    rows = "".join(f"p{k // 2}_{k % 2}.png,benign,{k}\n" for k in range(10))
    (tmp_path / "mine.csv").write_text(f"id,label,group\n{rows}")
    listed = datasets.adopt(tmp_path / "clinic", "listed", labels=tmp_path / "mine.csv", without_mask="skip")
    assert set(listed.labels) == {"benign"} and len(set(listed.groups)) == 9
    with pytest.raises(DatasetError, match=r"--group \(q\) finds no \(patient\) in 10 names: clinic/p0_0,"):
        datasets.adopt(tmp_path / "clinic", "q", group="(q)")
    with pytest.raises(DatasetError, match=r"finds no \(patient\)"):
        datasets.adopt(tmp_path / "clinic", "q", group="p")
    with pytest.raises(DatasetError, match=r"--group \(p is no regular expression"):
        datasets.adopt(tmp_path / "clinic", "q", group="(p")
    with pytest.raises(DatasetError, match="there is no table"):
        datasets.adopt(tmp_path / "clinic", "q", labels=tmp_path / "gone.csv")
    two_folders(tmp_path / "clinic")
    named = datasets.adopt(tmp_path / "clinic", "named", images="Images", masks="GT", group=r"(p\d)")
    assert named[0].image.parent.name == "Images"


def test_class_folders_may_lie_in_both_folders_and_share_names(tmp_path):
    for k in range(6):
        for part, pixels in (("images", noise(k)), ("masks", square(k))):
            trees.save(tmp_path / "clinic" / part / ("benign", "malignant")[k % 2] / f"{k // 2}.png", pixels)
    with pytest.warns(DatasetWarning, match="every image is its own group"):
        data = datasets.adopt(tmp_path / "clinic", "mine")
    assert sorted(data.ids) == ["benign-0", "benign-1", "benign-2", "malignant-0", "malignant-1", "malignant-2"]
    for index, record in enumerate(data):
        assert (data.load_native(index)[1] == square(2 * int(record.id[-1]) + (record.label == "malignant"))).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["images"][0].update(width=79), r"p0_0.png is 80 x 64 pixels large"),
        (lambda c: c["images"][0].update(file_name="gone.png"), r"0 pictures are called gone.png"),
        (lambda c: c["annotations"][0].update(segmentation={"counts": [1]}), "run-length encoded"),
        (lambda c: c["annotations"][0].pop("segmentation"), "does not fit the pictures as COCO's polygons"),
    ],
)
def test_polygons_that_do_not_fit_their_pictures_are_refused(tmp_path, change, words):
    coco(tmp_path / "clinic")
    file = tmp_path / "clinic" / "result.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=words):
        datasets.adopt(tmp_path / "clinic", "mine", group="(.+)")
    assert not list((tmp_path / "data").rglob("*.png"))


def test_a_name_is_taken_once_and_never_a_published_one(tmp_path):
    flat(tmp_path / "clinic")
    for name in ("busi", "My set", "../x", ""):
        with pytest.raises(DatasetError, match="no set of yours can be"):
            datasets.adopt(tmp_path / "clinic", name)
    datasets.adopt(tmp_path / "clinic", "mine", group=r"(p\d)")
    with pytest.raises(DatasetError, match="there is a set mine already, whose folds stay"):
        datasets.adopt(tmp_path / "clinic", "mine")
    with pytest.raises(DatasetError, match="is not a folder"):
        datasets.adopt(tmp_path / "gone", "other")
    table = tmp_path / "data" / "adopted" / "mine.csv"
    table.write_text("id,label\nx,benign\n")
    with pytest.raises(DatasetError, match="is no table of a set"):
        datasets.load("mine")


def test_commands_take_an_adopted_set_by_its_name(tmp_path, capsys, monkeypatch):
    class_folders(tmp_path / "clinic", 15)
    command = ["datasets", "adopt", str(tmp_path / "clinic"), "--name", "mine", "--group", r"(p\d)_"]
    assert cli.main([*command, "--label", "carcinoma"]) == 2 and "CLASS=LABEL" in capsys.readouterr().err
    assert cli.main([*command, "--label", "carcinoma=malignant"]) == 0
    out, told = capsys.readouterr()
    assert "15 images, 10 masks, 8 groups" in out and "p0_0.png: p0_0_mask.png; benign, group p0" in out
    assert "clinic: class folders Benign, carcinoma, normal" in told and "is kept in" in told
    assert cli.main(["evaluate", "--dataset", "mine", "--fold", "5", "--weights", "kmeans-textbook"]) == 0
    assert cli.main(["predict", "mine", "--weights", "kmeans-textbook", "--out", str(tmp_path / "masks")]) == 0
    assert cli.main(["evaluate", "--dataset", "mine", "--pred", str(tmp_path / "masks")]) == 0
    assert cli.main(["datasets", "info", "mine"]) == 0 and "your own" in capsys.readouterr().out
    assert cli.main(["datasets", "export", "mine", "--out", str(tmp_path / "raw")]) == 0
    assert capsys.readouterr().out.strip().endswith("Dataset501_Mine")
    assert len(pd.read_csv(tmp_path / "raw" / "Dataset501_Mine" / "labels.csv")) == 15
