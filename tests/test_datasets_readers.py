"""Readers on made-up trees: each quirk of a card is handled and reported."""

import shutil
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import trees
from PIL import Image

from busutils import datasets
from busutils.datasets import DatasetError, DatasetWarning, catalogue, loading, oasbud, tables


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
    folder = loading.find_folder(key, root)
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
    with pytest.raises(DatasetError, match=r"no data set 'bussi' \(did you mean 'busi'\?\); the keys are"):
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
    assert len(data[four].masks) == 3
    _, mask = data.load_native(four)
    parts = [datasets.read_mask(path) > 127 for path in data[four].masks]
    assert (mask == np.logical_or.reduce(parts)).all() and mask.sum() > parts[0].sum()
    squares = [datasets.resize_mask(part, 32) for part in parts]
    assert (data.load_arrays(32, use_cache=False)[1][four] == np.logical_or.reduce(squares)).all()
    twins = [record for record in data if record.id in ("benign (433)", "malignant (145)")]
    assert twins[0].group == twins[1].group and twins[0].label != twins[1].label


def test_busi_partial_copy_is_reported_with_names(tmp_path):
    with pytest.warns(DatasetWarning, match=r"differs .*\(5 of 437 benign.*missing: benign \(5\)"):
        data = datasets.load("busi", trees.busi(tmp_path))
    assert any("5 of 437 benign" in message for message in data.warnings)


def test_busi_image_without_mask_raises_but_a_mask_without_image_warns(tmp_path):
    root = trees.busi(tmp_path)
    home = root / "Dataset_BUSI_with_GT"
    (home / "benign" / "benign (2).png").unlink()
    with pytest.warns(DatasetWarning, match=r"left out \(benign \(2\)_mask\.png\)"):
        assert "benign (2)" not in datasets.load("busi", root).ids
    (home / "benign" / "benign (1)_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"benign \(1\).png has no mask"):
        load("busi", root)


def test_busi_normal_image_without_a_mask_counts_as_empty(tmp_path):
    root = trees.busi(tmp_path)
    home = root / "Dataset_BUSI_with_GT"
    (home / "normal" / "normal (1)_mask.png").unlink()
    data = load("busi", root)
    assert not data.load_native(data.ids.tolist().index("normal (1)"))[1].any()


def test_busi_file_of_another_name_is_left_out_and_said_so(tmp_path):
    root = trees.busi(tmp_path)
    trees.save(root / "Dataset_BUSI_with_GT" / "benign" / "holiday.png", trees.picture())
    with pytest.warns(DatasetWarning, match=r"left out \(holiday\.png\)"):
        assert len(datasets.load("busi", root)) == 12


def test_stu_larger_masks_are_averaged_not_sampled(tmp_path):
    data = load("stu", trees.stu(tmp_path))
    assert data.ids.tolist() == ["Test_Image_1", "Test_Image_2", "Test_Image_3", "Test_Image_4"]
    _, mask = data.load_native(0)
    assert mask.shape == (32, 32)
    level = np.asarray(Image.open(data[0].masks[0])).reshape(32, 4, 32, 4).mean(axis=(1, 3)) / 255
    assert (mask == (level >= 0.5)).all()
    assert not data.load_native(2)[1][:, 0].any(), "a thin line of a larger mask is averaged away"
    small = data.load_arrays(16, use_cache=False)[1]
    assert small[1].any() and not small[1, 0, 0], "an anti-aliased mask of the image's own size is averaged too"


def test_bus_bra_folds_are_the_sets_own(tmp_path):
    data = load("bus-bra", trees.bus_bra(tmp_path, leave_out=("bus_0003-s",)))
    own = datasets.shipped_folds("bus-bra").loc[data.ids, "fold"]
    assert data.folds().tolist() == own.tolist() and own.nunique() > 1


def test_bus_bra_groups_are_cases_and_missing_images_are_named(tmp_path):
    root = trees.bus_bra(tmp_path, leave_out=("bus_0002-l",))
    with pytest.warns(DatasetWarning, match=r"missing: bus_0002-l"):
        data = datasets.load("bus-bra", root)
    assert data.groups.tolist() == ["1", "1", "3", "4", "4"]
    assert data[0].extras["birads"] == "4"
    trees.save(root / "BUSBRA" / "Images" / "bus_0099-l.png", trees.picture())
    with pytest.warns(DatasetWarning, match=r"bus_data.csv and are left out: bus_0099-l"):
        assert "bus_0099-l" not in datasets.load("bus-bra", root).ids
    (root / "BUSBRA" / "bus_data.csv").unlink()
    with pytest.raises(DatasetError, match=r"bus_data.csv is missing"):
        load("bus-bra", root)


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
    assert by_id["VITR_000"].extras["doppler"] == "Yes" and by_id["ANFO_000"].extras["marks"] == "Yes"
    next(root.rglob("INFO.csv")).unlink()
    with pytest.raises(DatasetError, match=r"INFO.csv is missing"):
        load("bus-uclm", root)


def test_breast_workbook_spacing_further_lesions_and_normals(tmp_path):
    root = trees.breast(tmp_path)
    data = load("breast", root)
    assert data.labels.tolist() == ["benign", "malignant", "normal"]
    assert data[0].spacing == pytest.approx((0.0793, 0.0793)) and data[1].spacing == pytest.approx((0.1, 0.1))
    assert len(data[1].masks) == 2 and data[2].masks == ()
    assert data[1].extras == {"caseid": "2", "pixel_size": "0,01", "birads": "5", "classification": "malignant"}
    image, _ = data.load_native(0)
    assert (image == trees.picture(seed=0)).all(), "transparency must not darken the image"
    trees.save(root / "BrEaST-Lesions_USG-images_and_masks" / "case099_tumor.png", trees.blob())
    with pytest.warns(DatasetWarning, match=r"left out \(case099_tumor.png\)"):
        assert "case099" not in datasets.load("breast", root).ids
    (root / "BrEaST-Lesions_USG-images_and_masks" / "case002_tumor.png").unlink()
    (root / "BrEaST-Lesions_USG-images_and_masks" / "case002_other1.png").unlink()
    with pytest.raises(DatasetError, match=r"case002.png has no mask"):
        load("breast", root)
    (root / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx").unlink()
    with pytest.raises(DatasetError, match="no workbook of cases"):
        load("breast", root)


def _edit_breast_workbook(root, edit):
    file = root / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx"
    header, *rows = tables.read_xlsx(file)
    trees.workbook(file, [header, *edit(rows)])


def _edit_csv(name, old, new):
    def edit(root):
        file = next(root.rglob(name))
        text = file.read_text("utf-8-sig")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8-sig")

    return edit


@pytest.mark.parametrize(
    ("key", "spoil", "id_"),
    [
        ("bus-bra", _edit_csv("bus_data.csv", "bus_0002-l,2,cyst,benign", "bus_0002-l,2,cyst,bening"), "bus_0002-l"),
        ("bus-uclm", _edit_csv("INFO.csv", "ANFO_000.png;No;Yes;Malignant", "ANFO_000.png;No;Yes;?"), "ANFO_000"),
        (
            "breast",
            lambda root: _edit_breast_workbook(root, lambda rows: [[*rows[0][:-1], "cancer"], *rows[1:]]),
            "case001",
        ),
    ],
)
def test_a_label_that_a_table_misspells_is_unknown(tmp_path, key, spoil, id_):
    root = trees.TREES[key](tmp_path)
    known = load(key, root)
    spoil(root)
    with pytest.warns(DatasetWarning, match=rf"no known label.*{id_}") as caught:
        data = datasets.load(key, root)
    assert sum("no known label" in str(warning.message) for warning in caught) == 1
    assert data.ids.tolist() == known.ids.tolist()
    changed = data.labels != known.labels
    assert data.ids[changed].tolist() == [id_] and data.labels[changed].tolist() == ["unknown"]
    assert data.subset([id_]).load_arrays(16, use_cache=False)[1].any()


@pytest.mark.parametrize(
    ("key", "spoil", "id_"),
    [
        ("bus-bra", _edit_csv("bus_data.csv", "bus_0002-l", "bus_0001-l"), "bus_0001-l"),
        ("bus-uclm", _edit_csv("INFO.csv", "ALWI_001", "ALWI_000"), "ALWI_000"),
        ("breast", lambda root: _edit_breast_workbook(root, lambda rows: [*rows, rows[0]]), "case001"),
    ],
)
def test_two_rows_of_one_image_are_refused(tmp_path, key, spoil, id_):
    root = trees.TREES[key](tmp_path)
    spoil(root)
    with pytest.raises(DatasetError, match=f"several rows for {id_}"):
        datasets.load(key, root)


def test_workbooks_of_other_programs_too_large_ones_and_broken_ones(tmp_path, monkeypatch):
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    cells = '<c r="A1" t="inlineStr"><is><t>ca</t><t>se</t></is></c><c r="C1"><v>7</v></c>'
    with zipfile.ZipFile(tmp_path / "inline.xlsx", "w") as book:
        sheet = f'<worksheet xmlns="{main}"><sheetData><row r="1">{cells}</row></sheetData></worksheet>'
        book.writestr("xl/worksheets/sheet1.xml", sheet)
    assert tables.read_xlsx(tmp_path / "inline.xlsx") == [["case", "", "7"]]
    (tmp_path / "broken.xlsx").write_bytes(b"PK no workbook")
    with pytest.raises(DatasetError, match=r"broken.xlsx is not a workbook that can be read"):
        tables.read_xlsx(tmp_path / "broken.xlsx")
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10)
    with pytest.raises(DatasetError, match="too large for a table of cases"):
        tables.read_xlsx(tmp_path / "inline.xlsx")


@pytest.mark.parametrize("table", ["xlsx", "txt", None])
def test_udiat_classes_come_from_any_list(tmp_path, table):
    data = load("udiat", trees.udiat(tmp_path, table=table))
    assert data.labels.tolist() == (["benign", "malignant", "benign"] if table else ["unknown"] * 3)
    if table is None:
        assert any("no list of classes" in message and "labels are unknown" in message for message in data.warnings)


def test_udiat_copy_that_counts_its_classes_otherwise_is_reported(tmp_path):
    home = trees.udiat(tmp_path, table=None) / "BUS"
    for number in range(4, 164):
        trees.save(home / "original" / f"{number:06d}.png", trees.picture((8, 8)))
        trees.save(home / "GT" / f"{number:06d}.png", trees.blob((8, 8)))
    kinds = ["Benign"] * 110 + ["Malignant"] * 53
    (home / "classes.csv").write_text("\n".join(f"{k},{kind}" for k, kind in enumerate(kinds, 1)))
    said = [problem.message for problem in datasets.check("udiat", tmp_path).problems]
    assert any("110 of 109 benign, 53 of 54 malignant" in message for message in said)
    (home / "original" / "000163.png").unlink()
    said = [problem.message for problem in datasets.check("udiat", tmp_path).problems]
    assert any("52 of 54 malignant" in message for message in said)


def test_a_file_too_large_for_a_list_of_classes_is_skipped(tmp_path, monkeypatch):
    root = trees.udiat(tmp_path, table="txt")
    (root / "BUS" / "a_log.txt").write_text("000001.png malignant\n" * 100)
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 500)
    assert load("udiat", root).labels.tolist() == ["benign", "malignant", "benign"]


def test_oasbud_b_mode_views_and_groups(tmp_path):
    data = load("oasbud", trees.oasbud(tmp_path))
    assert data.ids.tolist() == ["22rw_1", "22rw_2", "23rw_1", "23rw_2"]
    assert data.groups.tolist() == ["22rw", "22rw", "23rw", "23rw"]
    assert data.labels.tolist() == ["benign", "benign", "malignant", "malignant"]
    image, mask = data.load_native(0)
    assert image.shape == (200, 30) and image.max() == 255
    assert image[mask].mean() > image[~mask].mean() + 20, "four times the amplitude is 12 dB brighter"
    other, other_mask = data.load_native(1)
    assert (other != image).any() and (other_mask != mask).any(), "the second view is another frame"
    first = data.load_arrays(16)
    again = data.load_arrays(16)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    trees.cut_short(tmp_path / "OASBUD" / "OASBUD.mat", 0.4)
    with pytest.raises(DatasetError, match=r"OASBUD.mat.*cut short"):
        load("oasbud", tmp_path)


def test_b_mode_is_the_envelope_in_decibels():
    waves = np.cos(np.arange(400) * 0.9)[:, None] * 10 ** (np.array([0, -20, -40, -60]) / 20)
    image = oasbud.b_mode((waves * 1e6).astype(np.int32))[20:-20]  # the ends of a cut wave have no envelope
    assert np.ptp(image, axis=0).max() <= 6, "the wave itself is gone"
    level = image.mean(axis=0)
    assert -np.diff(level)[:2] == pytest.approx(255 * 20 / 50, abs=2), "50 dB span the grey levels"
    assert level[0] > 240 and level[3] == 0


def test_oasbud_ids_that_occur_twice_and_masks_of_another_size(tmp_path):
    trees.oasbud(tmp_path)
    file = tmp_path / "OASBUD" / "OASBUD.mat"
    data = scipy.io.loadmat(file)["data"]
    data[0, 1]["id"] = "22rw"
    data[0, 1]["roi2"] = np.ones((5, 5))
    scipy.io.savemat(file, {"data": data})
    with pytest.warns(DatasetWarning, match="22rw-2, view 2: image and mask differ in size; left out"):
        records = datasets.load("oasbud", tmp_path)
    assert records.ids.tolist() == ["22rw-1_1", "22rw-1_2", "22rw-2_1"]


def test_bus_uc_equal_files_share_a_group(tmp_path):
    home = trees.bus_uc(tmp_path) / "BUS_UC"
    (home / "Malignant" / "images" / "002.png").write_bytes((home / "Benign" / "images" / "001.png").read_bytes())
    with pytest.warns(DatasetWarning, match="benign-001 = malignant-002"):
        data = datasets.load("bus-uc", tmp_path)
    assert data.groups[3] == data.groups[0] != data.groups[1]


def test_bus_uc_does_not_read_doubles_and_keeps_ids_apart(tmp_path):
    data = load("bus-uc", trees.bus_uc(tmp_path / "a"))
    assert data.ids.tolist() == ["benign-001", "benign-002", "malignant-001", "malignant-002"]


@pytest.mark.parametrize(("key", "folder"), [("bus-uc", "Malignant"), ("busi", "malignant")])
def test_ids_do_not_depend_on_the_class_folders_that_are_there(tmp_path, key, folder):
    root = trees.TREES[key](tmp_path)
    whole = load(key, root)
    shutil.rmtree(loading.find_folder(key, root) / folder)
    assert load(key, root).ids.tolist() == whole.ids[whole.labels != "malignant"].tolist()


@pytest.mark.parametrize("flat", [False, True])
def test_plain_folder(tmp_path, flat):
    data = load("folder", trees.folder(tmp_path, flat=flat))
    assert data.ids.tolist() == ["x0", "x1", "x2"]
    assert data.labels.tolist() == ["benign", "malignant", "benign"]
    assert data.groups.tolist() == ["p1", "p1", "p2"]
    assert len(data[0].masks) == (2 if flat else 1)
    _, mask = data.load_native(1)
    assert (mask == trees.blob()).all()


def test_plain_folder_says_what_is_wrong(tmp_path):
    root = trees.folder(tmp_path)
    (root / "labels.csv").write_text("id,label\nx0,cancer\n")
    with pytest.raises(DatasetError, match="label 'cancer' of x0 is none of benign"):
        load("folder", root)
    (root / "labels.csv").write_text("name,label\nx0,benign\n")
    with pytest.raises(DatasetError, match="has no column 'id'"):
        load("folder", root)
    (root / "labels.csv").unlink()
    (root / "masks" / "x1.png").unlink()
    with pytest.raises(DatasetError, match=r"x1.jpg has no mask: put one of the same name into masks/"):
        load("folder", root)


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
    trees.save(home / "benign (1)_mask.png", trees.blob((16, 21)))
    with pytest.raises(DatasetError, match="has 16 x 21"):  # smaller, though of the same proportions
        load("busi", root).load_native(0)
    trees.save(home / "benign (1)_mask.png", trees.blob((48, 65)), "1")  # a pixel off is rounding
    assert load("busi", root).load_native(0)[1].shape == (49, 64)


def test_size_limit_stops_before_decoding(tmp_path, monkeypatch):
    root = trees.busi(tmp_path)
    monkeypatch.setattr("busutils.io.image.MAX_PIXELS", 100)
    with pytest.raises(DatasetError, match="more than the limit of 100"):
        load("busi", root).load_native(0)


def test_two_images_of_one_name_are_refused(tmp_path):
    trees.folder(tmp_path)
    records = [*load("folder", tmp_path), load("folder", tmp_path)[0]]
    with pytest.raises(DatasetError, match="'x0' occurs more than once"):
        datasets.LesionDataset(records, name="twice")
    for place, picture in (("masks", trees.blob()), ("images", trees.picture())):
        trees.save(tmp_path / place / "x0.bmp", picture)
        with pytest.raises(DatasetError, match=r"x0\.bmp and x0\.png have one name"):
            load("folder", tmp_path)
        (tmp_path / place / "x0.bmp").unlink()


def test_plain_folder_says_what_it_leaves_out(tmp_path):
    root = trees.folder(tmp_path)
    trees.save(root / "masks" / "gone.png", trees.blob())
    trees.save(root / "images" / "more" / "x9.png", trees.picture())
    with pytest.warns(DatasetWarning) as caught:
        assert len(datasets.load("folder", root)) == 3
    told = " ".join(str(w.message) for w in caught)
    assert "1 masks without their image are left out: gone.png" in told
    assert "1 pictures of a subfolder are left out" in told


def test_a_mask_without_its_image_is_no_image(tmp_path):
    root = trees.folder(tmp_path, flat=True)
    trees.save(root / "gone_mask.png", trees.blob())
    with pytest.warns(DatasetWarning, match=r"without their image are left out: gone_mask\.png"):
        assert datasets.load("folder", root).ids.tolist() == ["x0", "x1", "x2"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("id,label,group\nX0,benign,a\nx1,benign,a\nx2,benign,b\n", r"lists 1 images that are not there \(X0\)"),
        ("id,label,group\n0,benign,a\nx1,benign,a\nx2,benign,b\n", r"not there \(0\)"),
        ("id,label,patient\nx0,benign,a\n", "column 'patient'"),
        ("id,label,groups\nx0,benign,a\n", "column 'groups'"),
        ("id,group\nx0,a\nx1,a\n", r"no group to 1 images \(x2\)"),
        ("id,group\nx0,a\nx1,a\nx2,\n", r"no group to 1 images \(x2\)"),
        ("id,group\nx0,a\nx0.png,b\nx1,a\nx2,b\n", "two rows for x0"),
        ("", "labels.csv is not a CSV table"),
        ("id,label\nx0,gutartig für uns\n".encode("latin-1"), "labels.csv is not a CSV table in UTF-8"),
    ],
)
def test_a_table_that_does_not_fit_its_folder_is_refused(tmp_path, table, words):
    root = trees.folder(tmp_path)
    (root / "labels.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(DatasetError, match=words) as caught:
        load("folder", root)
    assert "labels.csv" in str(caught.value)


def test_ids_of_a_table_may_have_spaces_around_them_endings_and_dots(tmp_path):
    for number in range(2):
        trees.save(tmp_path / "images" / f"scan.{number:03d}.png", trees.picture(seed=number))
        trees.save(tmp_path / "masks" / f"scan.{number:03d}.png", trees.blob())
    (tmp_path / "labels.csv").write_text("ID, Label ,group\n scan.000 ,benign,a\nscan.001.png, malignant,b\n")
    data = load("folder", tmp_path)
    assert data.ids.tolist() == ["scan.000", "scan.001"]
    assert data.labels.tolist() == ["benign", "malignant"] and data.groups.tolist() == ["a", "b"]


def test_unknown_groups_are_reported(tmp_path):
    root = trees.folder(tmp_path, labels=False)
    with pytest.warns(DatasetWarning, match="every image is its own group"):
        datasets.load("folder", root)
    (root / "labels.csv").write_text("id,label\nx0,benign\n")
    with pytest.warns(DatasetWarning, match=r"does not list x1, x2"):
        datasets.load("folder", root)


def test_a_complete_bus_uclm_is_complete(tmp_path, monkeypatch):
    root = trees.bus_uclm(tmp_path)
    counts = {"benign": 6, "malignant": 2, "normal": 1}  # with the image that the reader leaves out
    monkeypatch.setitem(catalogue.CARDS, "bus-uclm", replace(catalogue.CARDS["bus-uclm"], counts=counts))
    report = datasets.check("bus-uclm", root)
    assert report.ok and not any("published" in problem.message for problem in report.problems)
    next(root.rglob("images/ALWI_000.png")).unlink()
    assert any("5 of 6 benign" in problem.message for problem in datasets.check("bus-uclm", root).problems)


def test_missing_mask_files_of_a_complete_set_are_noticed(tmp_path, monkeypatch):
    root = trees.busi(tmp_path)
    whole = load("busi", root)
    counts = {label: int((whole.labels == label).sum()) for label in ("benign", "malignant", "normal")}
    n_masks = sum(len(record.masks) for record in whole)
    monkeypatch.setitem(catalogue.CARDS, "busi", replace(catalogue.CARDS["busi"], counts=counts, n_masks=n_masks))
    assert datasets.check("busi", root).ok
    (root / "Dataset_BUSI_with_GT" / "benign" / "benign (4)_mask_2.png").unlink()
    report = datasets.check("busi", root)
    assert not report.ok and f"{n_masks - 1} of {n_masks}" in report.problems[0].message
    with pytest.warns(DatasetWarning, match=f"{n_masks - 1} of {n_masks} mask files"):
        datasets.load("busi", root)


def test_pictures_and_masks_in_webp_are_read(tmp_path):
    root = trees.folder(tmp_path)
    for place in ("images", "masks"):
        file = next((root / place).glob("x1.*"))
        Image.open(file).convert("RGB").save(file.with_suffix(".webp"), lossless=True)
        file.unlink()
    _, mask = load("folder", root).load_native(1)
    assert (mask == trees.blob()).all()


def test_a_new_set_of_pairs_needs_a_card_only(tmp_path, monkeypatch):
    home = tmp_path / "NEW"
    for number in range(3):
        trees.save(home / "scans" / f"p{number}.png", trees.picture(seed=number))
        trees.save(home / "drawn" / f"p{number}_lesion.png", trees.blob())
    card = replace(
        catalogue.CARDS["udiat"],
        key="new",
        folder="NEW",
        counts={"unknown": 3},
        pairs=catalogue.Pairs("scans", "drawn", "(p.*)", "(p.*)_lesion"),
    )
    monkeypatch.setitem(catalogue.CARDS, "new", card)
    data = datasets.load("new", tmp_path)
    assert data.ids.tolist() == ["p0", "p1", "p2"] and not data.warnings
    assert data.load_arrays(16)[1].any(axis=(1, 2)).all()
