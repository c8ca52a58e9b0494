"""Who may import whom, and what stays free of TensorFlow."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "busutils"

# From the bottom to the top; a module may import from those before it.
ORDER = (
    "errors",
    "jobs",
    "metrics",
    "io",
    "phantom",
    "datasets",
    "models",
    "evaluation",
    "explain",
    "plotting",
    "benchmark",
    "predict",
    "app",
    "lessons",
    "cli",
)
RANK = {module: rank for rank, module in enumerate(ORDER)}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "busutils":
                yield from (f"busutils.{alias.name}" for alias in node.names)
            else:
                yield node.module


def module_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    module = module_of(path)
    if module == "__init__":
        return
    for name in imports_of(path):
        if name.startswith("busutils."):
            other = name.split(".")[1]
            assert other == module or RANK[other] < RANK[module], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_engines_are_imported_in_models_and_explain_only(path):
    engines = {"keras", "tensorflow", "torch", "jax"}
    found = {name.split(".")[0] for name in imports_of(path)} & engines
    where = path.relative_to(PACKAGE).as_posix()
    allowed = {"models/backend.py": {"keras", "tensorflow"}, "explain/activation.py": {"tensorflow"}}
    assert found <= allowed.get(where, set())


@pytest.mark.parametrize(
    "statement",
    [
        "import busutils",
        "import busutils.datasets",
        "import busutils.evaluation",
        "import busutils.models; busutils.models.KMeansSegmenter",
        "import busutils.models; busutils.models.UNetSegmenter()",
        "import busutils.explain",
        "import busutils.plotting",
        "import busutils.cli",
    ],
)
def test_importing_stays_free_of_tensorflow(statement):
    code = f"{statement}\nimport sys\nassert not {{'keras', 'tensorflow'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


UNIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def test_every_module_is_imported_where_unix_modules_are_missing():
    code = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({UNIX_ONLY - {"posix"}!r}))
import busutils
for module in pkgutil.walk_packages(busutils.__path__, "busutils."):
    importlib.import_module(module.name)
assert str(busutils.jobs.peak_memory_mb()) == "nan"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unix_modules_are_imported_in_one_function():
    files = [*FILES, *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("tests/*.py")]
    found = {path.name: UNIX_ONLY & set(imports_of(path)) for path in files}
    # The interpreters of the peers have no busutils.
    allowed = {"jobs.py": {"resource"}, "unet_peers.py": {"resource"}}
    assert {name: modules for name, modules in found.items() if modules} == allowed


def test_conda_environment_agrees_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, lines = environment["dependencies"]
    # repo2docker, which builds for Binder, reads the version by this pattern and takes its own default for any other text.
    version = re.fullmatch(r"python=(3\.\d+)", python)
    assert version and SpecifierSet(project["requires-python"]).contains(version[1])
    assert pip == "pip"
    (line,) = lines["pip"]
    assert line.startswith("-e .[")
    extras = line.removeprefix("-e .[").removesuffix("]").split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    assert "tf" in extras
    assert "tf-cpu" not in extras


def test_tested_versions_satisfy_the_declared_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {}
    for line in lines:
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            pinned[requirement.name.lower().replace("_", "-")] = specifier.version
    extras = ("tf", "tf-cpu", "lessons", "export", "dev")
    wanted = project["dependencies"] + [r for extra in extras for r in project["optional-dependencies"][extra]]
    for text in wanted:
        requirement = Requirement(text)
        if requirement.name != "busutils":
            assert pinned[requirement.name.lower().replace("_", "-")] in requirement.specifier, text
