import io
import sys
import tarfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import check_release

TRACKED = ["busutils/__init__.py", "busutils/datasets/folds/busi.csv", "tests/trees.py", ".ci/run"]


def write_archives(folder, wheel, source):
    with zipfile.ZipFile(folder / "busutils-1.2.0-py3-none-any.whl", "w") as archive:
        for name in wheel:
            archive.writestr(name, "")
    with tarfile.open(folder / "busutils-1.2.0.tar.gz", "w:gz") as archive:
        for name in source:
            archive.addfile(tarfile.TarInfo(f"busutils-1.2.0/{name}"), io.BytesIO())


def test_what_an_archive_lacks_is_named(tmp_path):
    assert "one wheel and one source archive" in check_release.find_faults(tmp_path, "v1.2.0", TRACKED)[0]
    write_archives(tmp_path, TRACKED[:2], TRACKED[:3])
    assert check_release.find_faults(tmp_path, "v1.2.0", TRACKED) == []
    write_archives(tmp_path, TRACKED[:1], TRACKED[:2])
    faults = check_release.find_faults(tmp_path, "v1.2.0", TRACKED)
    assert faults == [f"the wheel lacks {TRACKED[1]}", f"the source archive lacks {TRACKED[2]}"]
    assert any("version 1.3" in fault for fault in check_release.find_faults(tmp_path, "v1.3", TRACKED))
