"""Readers on made-up trees: each quirk of a card is handled and reported."""

import warnings

import numpy as np
import pytest
import trees
from PIL import Image

from busutils import datasets
from busutils.datasets import DatasetError, DatasetWarning


def load(key, root=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)
        return datasets.load(key, root, **options)


@pytest.mark.parametrize("key", trees.TREES)
def test_every_tree_reads_and_keeps_shapes(tmp_path, key):
    data = load(key, trees.TREES[key](tmp_path))
    assert len(data) >= 3
    images, masks = data.load_arrays(32, use_cache=False)
    assert images.shape == masks.shape == (len(data), 32, 32)
    assert images.dtype == np.uint8 and masks.dtype == bool
    for i, record in enumerate(data):
        image, mask = data.load_native(i)
        assert image.shape == mask.shape and image.dtype == np.uint8 and mask.dtype == bool
        assert mask.any() == masks[i].any() == (record.label != "normal")
        assert record.source == key


@pytest.mark.parametrize("key", trees.TREES)
def test_published_folder_itself_is_a_root_too(tmp_path, key):
    root = trees.TREES[key](tmp_path)
    whole = load(key, root)
    folder = datasets.find_folder(key, root)
    assert load(key, folder).ids.tolist() == whole.ids.tolist()


@pytest.mark.parametrize("key", [key for key in trees.TREES if key not in ("folder",)])
def test_another_folder_is_refused_in_one_sentence(tmp_path, key):
    (tmp_path / "holiday.txt").write_text("sea")
    with pytest.raises(DatasetError, match=r"is not an? .* folder") as caught:
        datasets.load(key, tmp_path)
    assert "\n" not in str(caught.value)


def test_no_folder_empty_folder_unknown_key_unknown_option(tmp_path, monkeypatch):
    monkeypatch.delenv("BUSUTILS_DATA_DIR", raising=False)
    with pytest.raises(DatasetError, match=r"no data folder is known.*fetch busi"):
        datasets.load("busi")
    with pytest.raises(DatasetError, match="is empty"):
        datasets.load("busi", tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        datasets.load("busi", tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no data set 'bussi'.*busi"):
        datasets.load("bussi", tmp_path)
    trees.busi(tmp_path)
    with pytest.raises(DatasetError, match="busi has no option 'colour'"):
        datasets.load("busi?colour=red", tmp_path)
    monkeypatch.setenv("BUSUTILS_DATA_DIR", str(tmp_path))
    assert len(load("busi")) == 12


def test_busi_joins_masks_and_groups_one_scene_under_two_labels(tmp_path):
    data = load("busi", trees.busi(tmp_path))
    assert data.labels.tolist().count("normal") == 3
    four = data.ids.tolist().index("benign (4)")
    assert len(data[four].masks) == 3 and data[four].notes == ("3 masks joined",)
    _, mask = data.load_native(four)
    parts = [datasets.read_mask(path) > 127 for path in data[four].masks]
    assert (mask == np.logical_or.reduce(parts)).all() and mask.sum() > parts[0].sum()
    twins = [record for record in data if record.id in ("benign (433)", "malignant (145)")]
    assert twins[0].group == twins[1].group and twins[0].label != twins[1].label
    assert all("same pixels under two labels" in record.notes[0] for record in twins)


def test_busi_partial_copy_is_reported_with_names(tmp_path):
    with pytest.warns(DatasetWarning, match=r"partial copy \(5 of 437 benign.*missing: benign \(5\)"):
        data = datasets.load("busi", trees.busi(tmp_path))
    assert any("partial copy" in message for message in data.warnings)


def test_busi_image_without_mask_raises_but_a_mask_without_image_warns(tmp_path):
    root = trees.busi(tmp_path)
    home = root / "Dataset_BUSI_with_GT"
    (home / "benign" / "benign (2).png").unlink()
    with pytest.warns(DatasetWarning, match="mask without its image"):
        assert "benign (2)" not in datasets.load("busi", root).ids
    (home / "benign" / "benign (1)_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"benign \(1\).png has no mask"):
        load("busi", root)


def test_stu_larger_masks_are_averaged_not_sampled(tmp_path):
    data = load("stu", trees.stu(tmp_path))
    assert data.ids.tolist() == ["Test_Image_1", "Test_Image_2", "Test_Image_3", "Test_Image_4"]
    _, mask = data.load_native(0)
    assert mask.shape == (32, 32)
    level = np.asarray(Image.open(data[0].masks[0])).reshape(32, 4, 32, 4).mean(axis=(1, 3)) / 255
    assert (mask == (level >= 0.5)).all()


def test_bus_bra_groups_are_cases_and_missing_images_are_named(tmp_path):
    root = trees.bus_bra(tmp_path, leave_out=("bus_0002-l",))
    with pytest.warns(DatasetWarning, match=r"partial copy.*missing: bus_0002-l"):
        data = datasets.load("bus-bra", root)
    assert data.groups.tolist() == ["1", "1", "3", "4", "4"]
    assert data[0].extras["birads"] == "4"
    (root / "BUSBRA" / "bus_data.csv").unlink()  # cases and labels then come from the shipped folds
    with pytest.warns(DatasetWarning, match="bus_0003-s.png is not listed"):
        assert datasets.load("bus-bra", root).groups.tolist() == ["1", "1", "4", "4"]


def test_bus_uclm_colours_sizes_patients_and_table(tmp_path):
    root = trees.bus_uclm(tmp_path)
    with pytest.warns(DatasetWarning) as caught:
        data = datasets.load("bus-uclm", root)
    said = " ".join(str(w.message) for w in caught)
    assert "HESN_000" in said and "left out" in said
    assert "XXAA_000 = XXBB_000" in said
    by_id = {record.id: record for record in data}
    assert "HESN_000" not in by_id
    assert by_id["ANFO_000"].label == "malignant" and by_id["ALWI_001"].label == "normal"
    red = data.load_native(data.ids.tolist().index("ANFO_000"))[1]
    green = data.load_native(data.ids.tolist().index("ALWI_000"))[1]
    assert (red == trees.blob()).all() and (green == trees.blob()).all()
    assert by_id["CHCO_000"].group == by_id["CHVI_000"].group
    assert by_id["XXAA_000"].group == by_id["XXBB_000"].group
    assert by_id["ALWI_000"].group == by_id["ALWI_001"].group == "ALWI"
    assert by_id["VITR_000"].notes == ("doppler",)
    next(root.rglob("INFO.csv")).unlink()
    without = {record.id: record.label for record in load("bus-uclm", root)}
    assert without == {id_: record.label for id_, record in by_id.items()}


def test_breast_workbook_spacing_further_lesions_and_normals(tmp_path):
    root = trees.breast(tmp_path)
    data = load("breast", root)
    assert data.labels.tolist() == ["benign", "malignant", "normal"]
    assert data[0].mm_per_px == pytest.approx(0.0793)
    assert data[1].notes == ("2 masks joined",) and data[2].masks == ()
    image, _ = data.load_native(0)
    assert (image == trees.picture(seed=0)).all(), "transparency must not darken the image"
    both, tumour = (load(f"breast?other={flag}", root).load_native(1)[1] for flag in ("true", "false"))
    assert both.sum() > tumour.sum() > 0
    (root / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx").unlink()
    (root / "BrEaST-Lesions_USG-images_and_masks" / "case045.png").unlink()
    with pytest.warns(DatasetWarning, match="no workbook of cases"):
        assert set(datasets.load("breast", root).labels) == {"unknown"}


@pytest.mark.parametrize("table", ["xlsx", "txt", None])
def test_udiat_classes_come_from_any_list(tmp_path, table):
    data = load("udiat", trees.udiat(tmp_path, table=table))
    assert data.labels.tolist() == (["benign", "malignant", "benign"] if table else ["unknown"] * 3)


def test_oasbud_b_mode_views_and_groups(tmp_path):
    data = load("oasbud", trees.oasbud(tmp_path))
    assert data.ids.tolist() == ["22rw_1", "22rw_2", "23rw_1", "23rw_2"]
    assert data.groups.tolist() == ["22rw", "22rw", "23rw", "23rw"]
    assert data.labels.tolist() == ["benign", "benign", "malignant", "malignant"]
    image, mask = data.load_native(0)
    assert image.shape == (200, 30) and image.max() == 255
    assert image[mask].mean() > image[~mask].mean() + 20, "four times the amplitude is 12 dB brighter"
    first = data.load_arrays(16)
    again = data.load_arrays(16)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    trees.cut_short(tmp_path / "OASBUD" / "OASBUD.mat", 0.4)
    with pytest.raises(DatasetError, match=r"OASBUD.mat.*cut short"):
        load("oasbud", tmp_path)


def test_bus_uc_does_not_read_doubles_and_keeps_ids_apart(tmp_path):
    data = load("bus-uc", trees.bus_uc(tmp_path / "a"))
    assert data.ids.tolist() == ["benign-001", "benign-002", "malignant-001", "malignant-002"]
    assert set(load("bus-uc", trees.bus_uc(tmp_path / "b", classes=False)).labels) == {"unknown"}


@pytest.mark.parametrize("flat", [False, True])
def test_plain_folder(tmp_path, flat):
    data = load("folder", trees.folder(tmp_path, flat=flat))
    assert data.ids.tolist() == ["x0", "x1", "x2"]
    assert data.labels.tolist() == ["benign", "malignant", "benign"]
    assert data.groups.tolist() == ["p1", "p1", "p2"]
    assert len(data[0].masks) == (2 if flat else 1)
    _, mask = data.load_native(1)
    assert (mask == trees.blob()).all()


def test_broken_pictures_and_masks_of_another_size_name_the_file(tmp_path):
    root = trees.busi(tmp_path)
    home = root / "Dataset_BUSI_with_GT" / "benign"
    trees.cut_short(home / "benign (1).png")
    with pytest.raises(DatasetError, match=r"benign \(1\).png is broken or cut short"):
        load("busi", root).load_arrays(16, use_cache=False)
    (home / "benign (1).png").write_bytes(b"hello")
    with pytest.raises(DatasetError, match=r"benign \(1\).png is not a picture"):
        load("busi", root).load_native(0)
    trees.save(home / "benign (1).png", trees.picture((49, 64)))
    trees.save(home / "benign (1)_mask.png", trees.blob((20, 64)))
    with pytest.raises(DatasetError, match=r"benign \(1\)_mask.png has 20 x 64 .* image has 49 x 64"):
        load("busi", root).load_native(0)
    trees.save(home / "benign (1)_mask.png", trees.blob((48, 65)), "1")  # a pixel off is rounding
    assert load("busi", root).load_native(0)[1].shape == (49, 64)


def test_size_limit_stops_before_decoding(tmp_path, monkeypatch):
    root = trees.busi(tmp_path)
    monkeypatch.setattr(datasets.pixels, "MAX_PIXELS", 100)
    with pytest.raises(DatasetError, match="more than the limit of 100"):
        load("busi", root).load_native(0)


def test_two_images_of_one_name_are_refused(tmp_path):
    trees.folder(tmp_path)
    trees.save(tmp_path / "images" / "x0.bmp", trees.picture())
    records = [*load("folder", tmp_path), load("folder", tmp_path)[0]]
    with pytest.raises(DatasetError, match="'x0' occurs more than once"):
        datasets.LesionDataset(records, name="twice")
