"""Sphinx reads the repository itself: lessons as they were executed, the pages beside them, the package's docstrings.

``make site`` calls ``sphinx-build -c docs . build/site``. The source folder is the repository, so that a link which works
in a checkout works on the site too. Nothing is executed, and no page asks another host for anything.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

import busutils
from busutils.lessons import LESSONS

ROOT = Path(__file__).parents[1]
with open(ROOT / "pyproject.toml", "rb") as file:
    REPOSITORY = tomllib.load(file)["project"]["urls"]["Repository"]

project = "busutils"
author = "The busutils developers"
copyright = "The busutils developers, Apache-2.0"
version = release = busutils.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**.md",
    "notebooks/**.ipynb",
    "figures/README.md",
    "benchmarks/README.md",
    "deploy/README.md",
    "busutils/models/weights/*.md",
]
exclude_patterns = [".*", "**/.*", "build", "dist", "tests", "*.egg-info"]

nb_execution_mode = "off"
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 4

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types with shapes and units
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    # scikit-learn adds these to every estimator; their texts link into its own manual.
    "exclude-members": "set_fit_request, set_predict_request, set_predict_proba_request, set_score_request",
}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = [
    # A notebook's language_info is stripped to its name, since the rest changes with every version of Python.
    "mystnb.lexer",
]

linkcheck_anchors = False  # pages that are made by a script show theirs to browsers only
linkcheck_timeout = 30
linkcheck_ignore = [
    r"http://(localhost|127\.0\.0\.1)",
    re.escape(REPOSITORY),
    r"https://(mybinder\.org|colab\.research\.google\.com)/",
]

html_theme = "sphinx_book_theme"
html_title = "busutils"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_sidebars = {  # the theme's own, and a link to the page that segments, which Sphinx does not make
    "**": ["navbar-logo.html", "icon-links.html", "search-button-field.html", "browser.html", "sbt-sidebar-nav.html"]
}
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_copy_source = False
html_theme_options = {
    "repository_url": REPOSITORY,
    "use_repository_button": True,
    "use_download_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the menu holds the search already
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def pages(pattern: str) -> list[str]:
    """Names of pages by a pattern of files."""
    return [path.relative_to(ROOT).with_suffix("").as_posix() for path in sorted(ROOT.glob(pattern))]


# The README holds no list of pages, since a reader on the web sees its links; the site's menu is made here.
MENU = {
    "Lessons": [f"notebooks/{lesson}" for lesson in LESSONS],
    "Beside the lessons": ["docs/glossary", "docs/teachers", "docs/run_elsewhere"],
    "Results": ["docs/results", "docs/speed", "figures/README", "benchmarks/README"],
    "The package": ["docs/datasets", "docs/weights", "docs/deployment", "docs/reference/index", "deploy/README"],
    "Trained weights": pages("busutils/models/weights/*.md"),
    "The project": ["CONTRIBUTING", "CHANGELOG"],
    "Solutions of the exercises": pages("notebooks/solutions/*.ipynb"),
}


def adapt(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give the front page the menu, and turn HTML anchors into targets that Sphinx can check links against;
    the text that a lesson gives its pictures goes where the reader of notebooks looks for it.
    """
    if docname == root_doc:
        for caption, names in MENU.items():
            if names:
                entries = "\n".join(f"/{name}" for name in names)
                source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"
    elif docname == "figures/README":  # a table of files becomes one of pictures
        source[0] = re.sub(r"^\| \[(\w+\.png)\]\(\1\) \|", r"| ![\1](\1) `\1` |", source[0], flags=re.M)
    elif docname.startswith("notebooks/"):
        notebook = json.loads(re.sub(r'<a id=\\"([\w-]+)\\"></a>', r"(\1)=", source[0]))
        for cell in notebook["cells"]:
            if alt := cell["metadata"].get("alt"):  # nbconvert reads it as it is
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
        name = Path(docname).name
        if name in LESSONS:
            notebook["cells"][0]["source"] += [f"\n\n{{download}}`Download this lesson <{name}.ipynb>`"]
        source[0] = json.dumps(notebook)


def add_front_page(app: Sphinx, error: Exception | None) -> None:
    """A visitor of the folder sees the README."""
    if error is None and app.builder.format == "html":
        shutil.copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def look_up_doi(app: Sphinx, uri: str) -> str | None:
    """Ask the register whether a DOI exists, not the publisher, who answers robots with an error."""
    return (
        uri.replace("https://doi.org/", "https://doi.org/api/handles/") if uri.startswith("https://doi.org/") else None
    )


def setup(app: Sphinx) -> None:
    """Connect the hooks above."""
    app.connect("source-read", adapt)
    app.connect("build-finished", add_front_page)
    app.connect("linkcheck-process-uri", look_up_doi)
