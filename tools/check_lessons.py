"""Check the anatomy of the lessons: what every reader may rely on, and what nbval alone would let pass."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from busutils.lessons import LESSONS, parameter_names, profiles

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
GOLDEN = "# NBVAL_CHECK_OUTPUT"
MAX_BYTES = 1_000_000
LOCAL_PATH = re.compile(r"(?<![\w./])(/(home|root|tmp|Users|work|mnt)/\w+|[A-Z]:\\\\)")


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def check_text(name: str, cells: list[dict]) -> list[str]:
    prose = [source(c) for c in cells if c["cell_type"] == "markdown"] or [""]
    whole = "\n\n".join(prose)
    faults = []
    titles = re.findall(r"^# .*$", whole, re.M)
    if len(titles) != 1 or not prose[0].startswith(f"# {name[:2]} · "):
        faults.append(f"needs one first-level heading, '# {name[:2]} · …', in its first cell")
    position = LESSONS.index(name)
    for neighbour in LESSONS[max(position - 1, 0) : position + 2]:
        if neighbour != name and f"({neighbour}.ipynb)" not in prose[0]:
            faults.append(f"the first cell does not link to {neighbour}")
    for words in ("**You will learn**", "**Time**", "**Data**", "Not a medical device", "> **Predict first.**",
                  "**Read it.**", "### Exercise", "## In practice", "## Summary", "## References"):  # fmt: skip
        if words not in whole:
            faults.append(f"lacks {words!r}")
    for alt, target in re.findall(r"!\[(.*?)\]\((.*?)\)", whole):
        if len(alt) < 15:
            faults.append(f"the picture {target} needs alt text that says what it shows")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", whole):
        if not re.match(r"[a-z]+:", target) and not (FOLDER / target).exists():
            faults.append(f"the link to {target} leads nowhere")
    return faults


def check_code(name: str, cells: list[dict]) -> list[str]:
    code = [c for c in cells if c["cell_type"] == "code"]
    faults = []
    parameters = [c for c in code if "parameters" in tags(c)]
    if len(parameters) != 1:
        faults.append("needs exactly one cell tagged 'parameters'")
    else:
        for line in source(parameters[0]).splitlines():
            if not re.match(r"\w+: \w+ = .+  # .+", line):
                faults.append(f"parameter without type or comment: {line!r}")
    if tags(code[-1]) != ["results"] or f'"{name}"' not in source(code[-1]):
        faults.append("the last cell must be tagged 'results' and record the lesson's numbers under its name")
    golden = [c for c in code if source(c).startswith(GOLDEN)]
    if not 2 <= len(golden) <= 4:
        faults.append(f"needs two to four golden cells ({GOLDEN}), has {len(golden)}")
    faults += ["a golden cell has no stored output: nbval would let it pass" for c in golden if not c["outputs"]]
    counts = [c["execution_count"] for c in code if source(c).strip()]
    if counts != list(range(1, len(counts) + 1)):
        faults.append("was not executed from top to bottom: busutils lessons refresh")
    for cell in code:
        if GOLDEN in source(cell) and not source(cell).startswith(GOLDEN):
            faults.append("a golden mark must be the first line of its cell")
        if re.search(r"^\s*[!%]", source(cell), re.M):
            faults.append(f"shell or magic command: {source(cell).splitlines()[0]!r}")
        for output in cell["outputs"]:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                faults.append("holds an error or stderr output")
    return faults


def check(name: str) -> list[str]:
    path = FOLDER / f"{name}.ipynb"
    if not path.is_file():
        return ["is missing"]
    text = path.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    faults = check_text(name, cells) + check_code(name, cells)
    if len(text.encode()) > MAX_BYTES:
        faults.append(f"has {len(text.encode())} bytes; {MAX_BYTES} are allowed")
    if match := LOCAL_PATH.search(text):
        faults.append(f"holds a path of one machine: {match.group()}")
    for profile, lessons in profiles().items():
        for parameter in sorted(set(lessons.get(name, {})) - set(parameter_names(path))):
            faults.append(f"does not know the parameter {parameter!r} of profile {profile!r}")
    return faults


def main() -> int:
    faults = [f"{name}: {fault}" for name in LESSONS for fault in check(name)]
    known = {f"{name}.ipynb" for name in LESSONS}
    faults += [f"{p.name}: is no lesson" for p in FOLDER.glob("*.ipynb") if p.name not in known]
    print("\n".join(faults) or f"{len(LESSONS)} lessons have the right anatomy")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
