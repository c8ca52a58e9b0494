"""Records, arrays, subsets, cache, folds."""

import os
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from busutils import datasets
from busutils.datasets import DatasetError, DatasetWarning, LeakError, LesionDataset, Record, cache, splits


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def busi(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)
        return datasets.load("busi", trees.busi(tmp_path / "data"))


@dataclass(frozen=True)
class Flat:
    """A pixel source without a file."""

    value: int
    key: str | None = None

    def read(self):
        return np.full((20, 10), self.value, np.uint8)


def made_up(n=10, key=None):
    records = [Record(f"i{k}", Flat(k, key and f"{key}{k}"), (), "unknown", f"g{k // 2}", "made-up") for k in range(n)]
    return LesionDataset(records, name="made-up")


# ---- pixels
# --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
def test_resizing_keeps_range_and_constant_and_shrinking_keeps_the_mean(shape, size, seed):
    image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    before = image.copy()
    out = datasets.resize_image(image, size)
    assert out.shape == size and out.dtype == np.uint8
    assert image.min() <= out.min() and out.max() <= image.max()
    assert (datasets.resize_image(np.full(shape, 77, np.uint8), size) == 77).all()
    if size[0] <= shape[0] and size[1] <= shape[1]:
        smooth = datasets.resize_map(image, size)
        assert smooth.mean() == pytest.approx(image.mean(), abs=1e-2)
    assert (image == before).all() and out is not image


def test_shrinking_is_by_area_also_at_odd_ratios():
    image = np.array([[0, 90, 240]], np.uint8)  # 3 pixels into 2: each takes one and a half
    assert datasets.resize_image(image, (1, 2)).tolist() == [[30, 190]]


def test_growing_is_linear():
    assert datasets.resize_image(np.array([[0, 100]], np.uint8), (1, 4)).tolist() == [[0, 25, 75, 100]]


def test_masks_resize_by_nearest_or_by_area():
    fine = np.zeros((4, 4), bool)
    fine[:2, :2] = True
    fine[0, 2] = True
    assert datasets.resize_mask(fine, 2, image_shape=(2, 2)).tolist() == [[True, False], [False, False]]
    grey = np.array([[100, 140], [0, 255]], np.uint8)
    assert datasets.resize_mask(grey, 2).tolist() == [[False, True], [False, True]]
    thin = np.zeros((6, 6), bool)
    thin[1] = True  # a thin line survives nearest neighbour as whole pixels, or not at all
    assert set(datasets.resize_mask(thin, 3).sum(axis=1).tolist()) <= {0, 3}
    with pytest.raises(ValueError, match="bool or uint8"):
        datasets.resize_mask(np.zeros((2, 2)), 2)
    with pytest.raises(ValueError, match="two axes"):
        datasets.resize_image(np.zeros((2, 2, 3)), 2)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_every_picture_mode_reads_the_same(tmp_path, mode):
    from PIL import Image

    grey = np.where(trees.blob(), 255, 0).astype(np.uint8)
    picture = Image.fromarray(grey)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "x.png")
    assert (datasets.read_image(tmp_path / "x.png") == grey).all()
    assert (datasets.read_mask(tmp_path / "x.png") == grey).all()


def test_colour_becomes_luma_in_images_and_any_lesion_in_masks(tmp_path):
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[0, 0] = (255, 0, 0)
    rgb[1, 1] = (0, 255, 0)
    trees.save(tmp_path / "x.png", rgb)
    assert datasets.read_image(tmp_path / "x.png").tolist() == [[76, 0], [0, 150]]
    assert datasets.read_mask(tmp_path / "x.png").tolist() == [[255, 0], [0, 255]]


# ---- sets
# ----------------------------------------------------------------------------------------------------


def test_subsets_by_mask_ids_and_positions(busi):
    by_mask = busi.subset(busi.labels == "benign")
    by_ids = busi.subset(by_mask.ids)
    by_position = busi.subset(np.flatnonzero(busi.labels == "benign"))
    assert by_mask.ids.tolist() == by_ids.ids.tolist() == by_position.ids.tolist()
    assert len(busi.subset([])) == 0
    with pytest.raises(KeyError, match="has no image 'nobody'"):
        busi.subset(["nobody"])
    with pytest.raises(ValueError, match="the set has 12"):
        busi.subset(np.ones(3, bool))
    assert "normal" not in busi.lesions().labels
    table = busi.table()
    assert table["id"].tolist() == busi.ids.tolist() and table["fold"].tolist() == busi.folds().tolist()


def test_label_is_checked():
    with pytest.raises(ValueError, match="must be one of"):
        Record("a", Flat(0), (), "cancer", "a", "made-up")


def test_cache_is_used_and_a_changed_file_is_read_again(busi):
    first = busi.load_arrays(24)
    assert datasets.cache_info().entries == 1 and datasets.cache_info().bytes > 0
    path = busi[1].image
    stat = path.stat()
    trees.save(path, 255 - datasets.read_image(path))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    second = busi.load_arrays(24)
    assert (first[0][0] == second[0][0]).all() and (first[0][1] != second[0][1]).any()
    assert datasets.cache_info().entries == 2


def test_cached_arrays_equal_fresh_ones_and_do_not_share_memory(busi):
    fresh = busi.load_arrays(20, use_cache=False)
    busi.load_arrays(20)
    cached = busi.load_arrays(20)
    cached[0][:] = 0
    cached[1][:] = True
    again = busi.load_arrays(20)
    assert all((a == b).all() for a, b in zip(fresh, again, strict=True))
    part = busi.subset([3, 1])
    assert (part.load_arrays(20)[0] == fresh[0][[3, 1]]).all()
    assert datasets.cache_info().entries == 1, "a subset is served from the arrays of its set"


def test_small_subset_does_not_read_the_whole_set(busi):
    trees.cut_short(busi[11].image)
    images, _ = busi.subset([0, 1]).load_arrays(16)
    assert images.shape == (2, 16, 16)
    assert datasets.cache_info().entries == 0


def test_damaged_cache_is_made_again(busi):
    good = busi.load_arrays(16)
    for file in cache.cache_dir().glob("*.npz"):
        trees.cut_short(file, 0.3)
    again = busi.load_arrays(16)
    assert all((a == b).all() for a, b in zip(good, again, strict=True))


def test_cache_without_a_place_to_write_is_no_error(busi, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / "file"))
    assert busi.load_arrays(16)[0].shape == (12, 16, 16)


def test_the_users_home_in_the_cache_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", "~/kept")
    assert datasets.cache_dir() == tmp_path / "kept" / "arrays"
    made_up(key="v1-").load_arrays(8)
    assert datasets.cache_info().entries == 1


def test_sources_with_a_key_are_cached_others_are_not():
    made_up().load_arrays(8)
    assert datasets.cache_info().entries == 0
    made_up(key="v1-").load_arrays(8)
    made_up(key="v1-").load_arrays(8)
    assert datasets.cache_info().entries == 1
    made_up(key="v2-").load_arrays(8)
    assert datasets.cache_info().entries == 2


def test_a_simulated_set_is_simulated_once_for_all_sizes():
    data = datasets.load("phantom?n=12&size=48&calipers=0.5")
    for size in (32, 48, 96):
        fresh = data.load_arrays(size, use_cache=False)
        assert all((a == b).all() for a, b in zip(fresh, data.load_arrays(size), strict=True))
    assert datasets.cache_info().entries == 1


# ---- folds
# ---------------------------------------------------------------------------------------------------


def test_a_subset_keeps_its_folds_and_a_split_does_not_leak():
    data = made_up(20)
    part = data.subset(np.arange(20) % 3 == 0)
    assert (part.folds() == data.folds()[np.arange(20) % 3 == 0]).all()
    for fold in range(1, 6):
        train, test = data.split(fold)
        assert not set(train.groups) & set(test.groups) and len(train) + len(test) == 20
    with pytest.raises(ValueError, match="no fold 9"):
        data.split(9)


def test_an_image_that_the_shipped_folds_do_not_list_is_refused_by_name(tmp_path):
    root = trees.busi(tmp_path)
    known = datasets.load("busi", root)
    home = root / "Dataset_BUSI_with_GT" / "benign"
    trees.save(home / "benign (999).png", trees.picture(seed=99))
    trees.save(home / "benign (999)_mask.png", trees.blob())
    grown = datasets.load("busi", root)
    for refused in (grown.folds, lambda: grown.split(5), lambda: grown.subset(grown.labels == "benign").folds()):
        with pytest.raises(DatasetError, match=r"benign \(999\)"):
            refused()
    assert grown.table()["fold"].isna().all()
    listed = grown.subset(known.ids)
    assert listed.folds().tolist() == known.folds().tolist()


def test_a_set_that_grows_keeps_its_folds():
    small, large = (datasets.load("phantom", n=n, size=64) for n in (100, 101))
    assert small.folds().tolist() == large.folds()[:100].tolist()
    assert made_up(20).folds().tolist() == made_up(30).folds()[:20].tolist()


@pytest.mark.parametrize("n", [24, 60, 120, 600])
def test_folds_by_group_alone_are_even_where_groups_are_numbered(n):
    for seed in range(3):
        data = datasets.load("phantom", n=n, size=64, seed=seed)
        for part in (data, data.lesions()):
            counts = np.bincount(part.folds(), minlength=6)[1:]
            assert counts.max() - counts.min() <= max(3, 0.02 * n), (seed, counts)


@given(st.text(max_size=20))
def test_the_fold_of_any_group_name_is_valid(group):
    assert 1 <= splits.fold_of_group(group) <= 5


def test_a_leaking_fold_list_is_refused(monkeypatch):
    data = made_up(10)
    monkeypatch.setattr(LesionDataset, "folds", lambda self: np.arange(10) % 5 + 1)
    with pytest.raises(LeakError, match=r"groups? (is|are) on both sides"):
        data.split(1)


@pytest.mark.parametrize(("key", "n"), [("busi", 780), ("stu", 42), ("bus-bra", 1875)])
def test_shipped_folds_hold_their_contract(key, n):
    table = splits.shipped_folds(key)
    assert len(table) == n == datasets.card(key).n_images
    assert table.index.is_unique and sorted(table["fold"].unique()) == [1, 2, 3, 4, 5]
    assert list(table.columns) == ["label", "group", "fold"]
    assert table["label"].value_counts().to_dict() == dict(datasets.card(key).counts)
    assert (table.groupby("group")["fold"].nunique() == 1).all()


def test_busi_groups_hold_the_published_list_and_the_verdicts():
    from importlib import resources

    import pandas as pd

    home = resources.files("busutils.datasets")
    group = splits.shipped_folds("busi")["group"]
    with (home / "busi_published_groups.csv").open() as stream:
        published = pd.read_csv(stream)
    for _, members in published.groupby("group"):
        assert group[members["id"]].nunique() == 1
    with (home / "busi_verdicts.csv").open() as stream:
        verdicts = pd.read_csv(stream)
    together = verdicts[verdicts["verdict"] != "different"]
    assert len(together) >= 30
    assert (group[together["id_a"]].to_numpy() == group[together["id_b"]].to_numpy()).all()
    assert group["benign (433)"] == group["malignant (145)"]


def test_spec_strings():
    assert datasets.parse_spec("BUS_BRA") == ("bus-bra", {})
    assert datasets.parse_spec("x?a=1&b=0.5&c=true&d=portable") == (
        "x",
        {"a": 1, "b": 0.5, "c": True, "d": "portable"},
    )
    with pytest.raises(DatasetError, match="write it as"):
        datasets.parse_spec("phantom?n")


def test_names_and_paths_in_a_description_stay_text(tmp_path):
    assert datasets.parse_spec("folder?root=2024&name=7") == ("folder", {"root": "2024", "name": "7"})
    assert datasets.parse_spec("folder?root=a+b")[1] == {"root": "a+b"}
    root = trees.folder(tmp_path / "a+b")
    data = datasets.load(f"folder?root={root}&name=2024")
    assert data.name == data.key == "2024" and len(data) == 3
    assert datasets.load("phantom?n=4&size=64&name=mine").name == "mine"
    with pytest.raises(DatasetError, match="name= is empty"):
        datasets.load(f"folder?root={root}&name=")
    with pytest.raises(DatasetError, match="name=busi is that of a published set"):
        datasets.load(f"folder?root={root}&name=busi")


def test_a_folder_is_checked_as_it_is_loaded(tmp_path):
    root = trees.folder(tmp_path)
    report = datasets.check(f"folder?root={root}&name=mine")
    assert report.n_images == 3 and report.ok and report.folder == root


@pytest.mark.parametrize("part", [[1, 2], list(range(11))])
def test_a_broken_file_that_a_subset_left_out_does_not_matter(busi, part):
    trees.cut_short(busi[11].image)
    images, _ = busi.subset(part).load_arrays(16)
    assert len(images) == len(part)
    with pytest.raises(DatasetError, match="broken or cut short"):
        busi.load_arrays(16)
    with pytest.raises(DatasetError, match="broken or cut short"):
        busi.subset([10, 11]).load_arrays(16)


def test_a_set_whose_masks_are_all_empty_is_refused(tmp_path):
    root = trees.folder(tmp_path, labels=False)
    for file in (root / "masks").iterdir():
        trees.save(file, np.zeros((48, 64), np.uint8))
    data = datasets.load("folder", root)
    for part in (data, data.subset([0])):
        with pytest.raises(DatasetError, match="no mask shows a lesion"):
            part.load_arrays(16)
    assert not datasets.check("folder", root).ok
    (root / "labels.csv").write_text("id,label\nx0,normal\nx1,normal\nx2,normal\n")
    assert not datasets.load("folder", root).load_arrays(16)[1].any()


def test_one_empty_mask_is_no_error(tmp_path):
    root = trees.folder(tmp_path)
    trees.save(root / "masks" / "x0.png", np.zeros((48, 64), np.uint8))
    assert datasets.load("folder", root).subset(["x0"]).load_arrays(16)[1].sum() == 0


def test_empty_masks_of_a_subset_are_no_error_where_a_file_outside_it_is_broken(tmp_path):
    root = trees.folder(tmp_path)
    trees.save(root / "masks" / "x0.png", np.zeros((48, 64), np.uint8))
    trees.cut_short(root / "images" / "x1.jpg")
    assert not datasets.load("folder", root).subset(["x0"]).load_arrays(16)[1].any()


@pytest.mark.parametrize("mask", [np.full((48, 64), 255, np.uint8), 255 - 255 * trees.blob().astype(np.uint8)])
def test_masks_that_look_inverted_are_reported(tmp_path, mask):
    root = trees.folder(tmp_path)
    trees.save(root / "masks" / "x1.png", mask)
    data = datasets.load("folder", root)
    with pytest.warns(DatasetWarning, match=r"x1.*invert"):
        data.load_arrays(32)
    assert [p.message.split()[3] for p in datasets.check("folder", root).problems if "inverted" in p.message] == ["x1"]
