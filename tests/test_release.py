import csv
import io
import json
import re
import runpy
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import check_release

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup():
    pytest.importorskip("setuptools")
    return runpy.run_path(str(ROOT / "setup.py"))


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


def test_a_wheel_that_is_too_large_is_refused(tmp_path, monkeypatch):
    write_archives(tmp_path, TRACKED[:2], TRACKED[:3])
    monkeypatch.setattr(check_release, "MAX_WHEEL_BYTES", 10)
    assert "is larger than 10 bytes" in check_release.find_faults(tmp_path, "v1.2.0", TRACKED)[0]


def test_links_of_the_long_description_are_addresses_of_files_that_exist(setup):
    text = setup["absolute_links"]((ROOT / "README.md").read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'<img src="([^"]+)', text)
    assert [link for link in links if not link.startswith("https://")] == []
    own = [re.fullmatch(rf"{setup['REPOSITORY']}/(blob|raw)/main/(.+)", link) for link in links]
    own = [match for match in own if match]
    assert len(own) > 30
    for match in own:
        assert (ROOT / match[2]).is_file()
        assert (match[1] == "raw") == match[2].endswith(".png")


def test_the_wheel_s_lessons_have_all_that_they_name(setup, tmp_path):
    setup["copy_lessons"](tmp_path / "files")
    notebooks = sorted((tmp_path / "files" / "notebooks").rglob("*.ipynb"))
    assert len(notebooks) == 16
    tables = set()
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                links = re.findall(r"\]\(([^)#]+)", text)
                assert [link for link in links if "://" not in link and not (path.parent / link).is_file()] == []
            tables |= set(re.findall(r'read_table\(\s*"(\w+)"', text))
    assert len(tables) > 8
    for name in tables:
        whole, copy = (
            list(csv.DictReader((home / "figures" / f"{name}.csv").open(encoding="utf-8")))
            for home in (ROOT, tmp_path / "files")
        )
        assert [{key: row[key] for key in copy[0]} for row in whole] == copy
        assert set(whole[0]) - set(copy[0]) <= setup["UNREAD"]
