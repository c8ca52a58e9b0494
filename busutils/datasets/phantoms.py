"""Sets of simulated images."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from busutils import phantom
from busutils.datasets.lesions import LesionDataset, Record
from busutils.phantom.simulator import check_count, check_options, check_share


@functools.lru_cache(maxsize=16)
def _pixels(index: int, options: tuple[tuple[str, Any], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask; the small cache spares a second simulation when the mask is read next."""
    made = phantom.simulate(index, **dict(options))
    return made.image, made.mask


@dataclass(frozen=True)
class PhantomSource:
    """Pixels of one phantom, simulated when they are read.

    Parameters
    ----------
    index : int
    options : tuple of (str, object)
        Further arguments of `simulate`.
    part : {'image', 'mask'}
    """

    index: int
    options: tuple[tuple[str, object], ...]
    part: str

    @property
    def key(self) -> str:
        """Name of the content: generator version and every argument."""
        return f"phantom v{phantom.GENERATOR_VERSION} {self.part} {self.index} {self.options!r}"

    @property
    def side(self) -> int:
        """Side of the square in pixels, known before anything is simulated."""
        return int(dict(self.options)["size"])  # type: ignore[call-overload]

    def read(self) -> np.ndarray:
        """Simulate and return the pixels: (H, W) uint8 for an image, (H, W) bool for a mask."""
        return _pixels(self.index, self.options)[self.part == "mask"].copy()


def load_phantoms(
    n: int = 120,
    seed: int = 0,
    scanner: str | phantom.Scanner = "clinic",
    size: int = 256,
    *,
    kind: str | None = None,
    copies: float = 0.0,
    calipers: float = 0.0,
    text: float = 0.0,
    start: int = 0,
) -> LesionDataset:
    """Open a set of simulated images; pixels are made when they are read.

    Parameters
    ----------
    n : int
        Number of images, 437 : 210 : 133 benign, malignant and normal, evenly interleaved.
    seed : int
        Another seed, other patients.
    scanner : str or phantom.Scanner
        ``"clinic"``, ``"portable"``, ``"highend"``, ``"vintage"``, ``"mixed"`` (the first three in turn), or own settings.
    size : int
        Pixels a side.
    kind : str, optional
        Only this kind, one of `KINDS`.
    copies : float
        Share of images that are near-duplicates (other gain, other crop) of the image before them, in its group:
        the data leakage that random splits fall for.
    calipers, text : float
        Share of images with burnt-in calipers and with text.
    start : int
        Number of the first image.

    Returns
    -------
    LesionDataset
        Records have ids such as ``phantom-clinic-0-0007``; their `extras` hold scanner, kind, BI-RADS words
        and the generator version.

    Raises
    ------
    ValueError
        If an option is out of its range or an unknown name.

    Examples
    --------
    >>> small = load_phantoms(n=4, size=64)
    >>> small.ids[:2].tolist(), len(small)
    (['phantom-clinic-0-0000', 'phantom-clinic-0-0001'], 4)
    """
    n, start = check_count("n", n, 1), check_count("start", start, 0)
    copies, calipers, text = check_share("copies", copies), check_share("calipers", calipers), check_share("text", text)
    mixed = scanner == "mixed"
    check_options(seed, size, "clinic" if mixed else scanner, kind)
    name = scanner if isinstance(scanner, str) else scanner.name
    shared = {"seed": int(seed), "size": int(size), "kind": kind, "calipers": calipers, "text": text}
    records: list[Record] = []
    original, turn = start, 0
    for index in range(start, start + n):
        # Every (1 / copies)-th image repeats the last original.
        is_copy = int((index - start + 1) * copies) > int((index - start) * copies) and index > start
        original, turn = (original, turn + 1) if is_copy else (index, 0)
        machine = phantom.MIXED[original % len(phantom.MIXED)] if mixed else scanner
        options = tuple({**shared, "scanner": machine, "copy": turn}.items())
        scene = phantom.scene_of(original, seed=int(seed), kind=kind)
        records.append(
            Record(
                id=f"phantom-{name}-{seed}-{index:04d}",
                image=PhantomSource(original, options, "image"),
                masks=(PhantomSource(original, options, "mask"),),
                label=scene.label,
                # One scene through two scanners is one group: its truth is the same.
                group=f"phantom-{seed}-{original:04d}",
                source="phantom",
                # A near-duplicate is cut out a little tighter, by an amount that only its simulation knows.
                spacing=None if turn else (scene.depth / size, scene.width / size),
                notes=("near-duplicate of the image before",) if is_copy else (),
                extras={
                    "kind": scene.kind,
                    **scene.descriptors,
                    "scanner": machine if isinstance(machine, str) else machine.name,
                    "generator_version": phantom.GENERATOR_VERSION,
                },
            )
        )
    return LesionDataset(records, name="phantom" if name == "clinic" else f"phantom-{name}", key="phantom")
