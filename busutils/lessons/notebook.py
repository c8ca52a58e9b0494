"""What a notebook calls: keep a lesson's numbers and figures, and read tables of real images."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from busutils import jobs

RESULTS_VARIABLE = "BUSUTILS_RESULTS_DIR"
FIGURES_VARIABLE = "BUSUTILS_FIGURES_DIR"
#: Folders that may hold ``notebooks`` and ``figures``: of an installed package, and of a checkout.
HOMES = (Path(__file__).with_name("files"), Path(__file__).parents[2])


def record(lesson: str, **numbers: Any) -> dict[str, Any]:
    """Save a lesson's numbers; the last cell of every lesson calls this.

    Parameters
    ----------
    lesson : str
        Its name.
    **numbers
        Plain values, or NumPy scalars. Undefined ones (``nan``) become ``None``.

    Returns
    -------
    dict
        The numbers, floats rounded to 4 decimals. The runner finds them as ``<lesson>.json`` among its results;
        run by hand, nothing is written.

    Examples
    --------
    >>> record("00_start_here", n_images=3, dice=0.123456)
    {'n_images': 3, 'dice': 0.1235}
    """
    plain: dict[str, Any] = {}
    for name, value in numbers.items():
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, float):
            value = round(value, 4) if math.isfinite(value) else None
        plain[name] = value
    if folder := os.environ.get(RESULTS_VARIABLE):
        with jobs.atomic_path(Path(folder) / f"{lesson}.json") as temporary:
            temporary.write_text(json.dumps(plain, indent=1) + "\n")
    return plain


def publish(name: str, figure: Any, table: pd.DataFrame | None = None, *, caption: str = "") -> None:
    """Save a figure outside the lesson, beside the table it was drawn from.

    Written only by ``busutils lessons refresh``; run by hand, a lesson's figures stay in the lesson.

    Parameters
    ----------
    name : str
        Of the files, such as ``"lesson_02_scores"``.
    figure : matplotlib.figure.Figure
        The picture.
    table : pandas.DataFrame, optional
        The numbers it shows.
    caption : str
        What to see.
    """
    if not (folder := os.environ.get(FIGURES_VARIABLE)):
        return
    with jobs.atomic_path(Path(folder) / f"{name}.png") as temporary:
        figure.savefig(temporary, dpi=90, metadata={"Software": None, "Description": caption})
    if table is not None:
        with jobs.atomic_path(Path(folder) / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.4g")


def slider(draw: Callable[..., None], **ranges: tuple[float, ...]) -> None:
    """Draw a picture with a slider for each of its parameters; draw it once where nobody can move one.

    That is so in runs without a person (the runner, the tests), and where the library ipywidgets is not installed.

    Parameters
    ----------
    draw : callable
        Shows the picture; its parameters have defaults, at which the sliders start.
    **ranges
        Lowest value, highest value and, if given, step of each parameter.
    """
    still = not {RESULTS_VARIABLE, "PYTEST_VERSION"}.isdisjoint(os.environ)
    try:
        from ipywidgets import interact
    except ImportError:
        still = True
    if still:
        draw()
    else:
        interact(draw, **ranges)


def read_table(name: str) -> pd.DataFrame | None:
    """Numbers measured on real images, from ``figures/``; the lessons draw and discuss them.

    Parameters
    ----------
    name : str
        Of the file without its suffix, such as ``"matrix"``.

    Returns
    -------
    pandas.DataFrame or None
        None, after one sentence on the screen, if there is no such table. An installed package holds those that the
        lessons read, without the columns that they do not.

    Examples
    --------
    >>> read_table("no_such_table")
    figures/no_such_table.csv is not here: an installed package holds the tables of the lessons only.
    """
    for home in (Path(), Path(".."), *HOMES):
        if (file := home / "figures" / f"{name}.csv").is_file():
            return pd.read_csv(file)
    print(f"figures/{name}.csv is not here: an installed package holds the tables of the lessons only.")
    return None
