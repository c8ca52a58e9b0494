"""Check the archives of a release: all tracked files of the package in the wheel, and of the repository in the source.

Usage: python tools/check_release.py dist v0.1.0
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 25_000_000
ELSEWHERE = (".ci/", ".github/", ".gitignore", ".pre-commit-config.yaml", "web/")  # of use in a checkout only


def find_faults(folder: Path, tag: str, tracked: list[str]) -> list[str]:
    """What is wrong with the two archives of a folder, in sentences."""
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        return [f"{folder} must hold one wheel and one source archive, not {len(wheels)} and {len(sources)}"]
    version = tag.removeprefix("v")
    faults = [
        f"{path.name} is not of version {version}" for path in (*wheels, *sources) if f"-{version}" not in path.name
    ]
    if wheels[0].stat().st_size > MAX_WHEEL_BYTES:
        faults.append(f"{wheels[0].name} is larger than {MAX_WHEEL_BYTES:,} bytes")
    with zipfile.ZipFile(wheels[0]) as wheel:
        held = set(wheel.namelist())
    wanted = [name for name in tracked if name.startswith("busutils/")]
    wanted += [
        f"busutils/lessons/files/{name}"
        for name in tracked
        if name.startswith("notebooks/") and name.endswith(".ipynb")
    ]
    faults += [f"the wheel lacks {name}" for name in wanted if name not in held]
    with tarfile.open(sources[0]) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    faults += [f"the source archive lacks {n}" for n in tracked if n not in held and not n.startswith(ELSEWHERE)]
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("tag", help="such as v0.1.0")
    given = parser.parse_args()
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    faults = find_faults(given.folder, given.tag, tracked)
    print("\n".join(faults) or "both archives are complete")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
