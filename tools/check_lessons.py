"""Check the anatomy of the lessons: their sections, exercises and outputs, and errors that nbval does not notice."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import exercises

from busutils.lessons import LESSONS, checks, code_hash, parameter_names, profiles

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
GOLDEN = "# NBVAL_CHECK_OUTPUT"
MAX_BYTES = 1_000_000
MIN_ALT = 15  # characters that say something
MAX_COLUMNS = 88  # wider code scrolls sideways on the site
LOCAL_PATH = re.compile(r"(?<![\w./])(/(home|root|tmp|Users|work|mnt)/\w+|[A-Z]:\\\\)")

# Calls that draw from a generator nobody seeded, or from the one that all code shares.
UNSEEDED = re.compile(
    r"\b(?:default_rng|RandomState|Random)\(\s*\)"
    r"|\bnp\.random\.(?:rand|randn|randint|random|random_sample|choice|shuffle|permutation|normal|uniform|poisson)\("
    r"|(?<![\w.])random\.(?:random|randint|choice|choices|sample|shuffle|uniform|gauss)\("
)
DECIMAL = re.compile(r"(?<![\w.\[/:#-])\d+\.\d+(?![\w.]*\d)")
SENTENCE_END = re.compile(r"(?<=[.;:!?])\s+(?=[A-Z*`>])")
# A reference's number, a link or code: the sentence says where its numbers come from.
SOURCE = re.compile(r"\[\d|\]\(|`")


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def find_anchors(path: Path) -> set[str]:
    """What may follow # in a link to a notebook or a page: its anchors, and its headings as JupyterLab and GitHub write them."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if path.suffix == ".ipynb":
        text = "\n".join(source(c) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    headings = [heading.strip() for heading in re.findall(r"^#+ (.*)$", text, re.M)]
    jupyter = {heading.replace(" ", "-") for heading in headings}
    named = set(re.findall(r'<a id="([^"]+)">', text))
    return named | jupyter | {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
        if len(alt) < MIN_ALT:
            faults.append(f"the picture {target} needs alt text that says what it shows")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", whole):
        if re.match(r"[a-z]+:", target):
            continue
        path = FOLDER / (target or f"{name}.ipynb")
        if not path.exists():
            faults.append(f"the link to {target} leads nowhere")
        elif anchor and anchor not in find_anchors(path):
            faults.append(f"the link to {target}#{anchor} leads to no heading there")
    return faults


def check_teachers_guide(name: str, cells: list[dict]) -> list[str]:
    """A teacher finds the answer to every question in the guide's table of that lesson."""
    asked = sum(source(c).count("> **Predict first.**") for c in cells if c["cell_type"] == "markdown")
    guide = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")
    part = next((p for p in re.split(r"^## ", guide, flags=re.M) if p.startswith(f"{name[:2]} ·")), "")
    answered = max(len(re.findall(r"^\|", part, re.M)) - 2, 0)  # without the table's head
    return [f"asks for {asked} predictions; docs/teachers.md answers {answered}"] if asked != answered else []


def text_of_outputs(cells: list[dict]) -> str:
    """All that the lesson printed, tables included."""
    parts = []
    for cell in cells:
        for output in cell.get("outputs", []):
            parts.append("".join(output.get("text", "")))
            parts += ["".join(v) for kind, v in output.get("data", {}).items() if kind in ("text/plain", "text/html")]
    return re.sub(r"<[^>]*>", " ", " ".join(parts))


def check_prose_numbers(cells: list[dict]) -> list[str]:
    """Every decimal number in prose is one the lesson printed or recorded, or its sentence cites a source.

    Tables, headings, exercises and references are left out: they hold given numbers.
    """
    stored = [float(number) for number in re.findall(r"\d+\.?\d*(?:e-?\d+)?", text_of_outputs(cells))]
    faults = []
    for cell in cells:
        if cell["cell_type"] != "markdown":
            continue
        prose = re.split(r"^(?:### Exercise|### Check yourself|## References)", source(cell), flags=re.M)[0]
        for paragraph in prose.split("\n\n"):
            if paragraph.startswith(("#", "|")):
                continue
            for sentence in SENTENCE_END.split(paragraph):
                for number in [] if SOURCE.search(sentence) else DECIMAL.findall(sentence):
                    step = 10.0 ** -len(number.split(".")[1])
                    # Percentages are printed as shares, too; 1e-9 keeps a half that binary numbers round away.
                    if not any(abs(f * s - float(number)) <= step / 2 + 1e-9 for s in stored for f in (1, 100)):
                        faults.append(f"the number {number} in prose is in no output of the lesson and has no source")
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
        if wide := next((line for line in source(cell).splitlines() if len(line) > MAX_COLUMNS), None):
            faults.append(f"code wider than {MAX_COLUMNS} columns: {wide.strip()[:40]!r} …")
        if GOLDEN in source(cell) and not source(cell).startswith(GOLDEN):
            faults.append("a golden mark must be the first line of its cell")
        if unseeded := UNSEEDED.search(source(cell)):
            faults.append(f"randomness without a seed: {unseeded.group()}")
        if re.search(r"^\s*[!%]", source(cell), re.M):
            faults.append(f"shell or magic command: {source(cell).splitlines()[0]!r}")
        pictures = any("image/png" in output.get("data", {}) for output in cell["outputs"])
        if pictures and len(cell["metadata"].get("alt", "")) < MIN_ALT:
            start = source(cell).splitlines()[0]
            faults.append(
                f"the picture of the cell {start!r} … needs alt text that says what it shows (cell metadata: alt)"
            )
        for output in cell["outputs"]:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                faults.append("holds an error or stderr output")
    return faults


def check_folded(cells: list[dict]) -> list[str]:
    """What follows a question is folded until the reader opens it, in JupyterLab and on the site."""
    faults, asked = [], False
    for cell in cells:
        if cell["cell_type"] == "markdown":
            asked = "> **Predict first.**" in source(cell)
        elif asked and cell["outputs"] and "exercise" not in cell["metadata"]:
            folded = cell["metadata"].get("jupyter", {}).get("outputs_hidden") and "hide-output" in tags(cell)
            if not folded:
                faults.append(f"the output of {source(cell).splitlines()[0]!r} … follows a question, but is not folded")
    return faults


def check_quiz(name: str, cells: list[dict]) -> list[str]:
    """Two or three questions with three answers each; the hidden answer begins with the letter that the check knows."""
    whole = "\n".join(source(c) for c in cells if c["cell_type"] == "markdown")
    letters = re.findall(r"<details><summary>Answer to Q\d</summary>([A-C])\.", whole)
    expected = checks.QUIZ.get(name[:2], "")
    if not 2 <= len(letters) <= 3 or "".join(letters) != expected:
        return [f"the quiz has the answers {''.join(letters)!r}, busutils.lessons.checks.QUIZ {expected!r}"]
    if not any(f'checks.check_quiz("{name[:2]}"' in source(c) for c in cells):
        return ["has no cell that checks the quiz"]
    return []


def check(name: str) -> list[str]:
    path = FOLDER / f"{name}.ipynb"
    if not path.is_file():
        return ["is missing"]
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    cells = notebook["cells"]
    faults = check_text(name, cells) + check_code(name, cells) + check_prose_numbers(cells)
    faults += check_folded(cells) + check_quiz(name, cells)
    faults += check_teachers_guide(name, cells) + exercises.find_faults(name, FOLDER)
    if notebook["metadata"].get("outputs_of") != code_hash(cells):
        faults.append("stale outputs: the code was changed after it was run: busutils lessons refresh")
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
