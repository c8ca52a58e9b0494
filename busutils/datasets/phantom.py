"""Simulated B-mode images of the breast whose truth is known.

A scene (layers, lesions, distractors) becomes maps of scatterers and losses (`phantom_tissue`), the maps
become an echo at baseband, an envelope and grey levels (`phantom_scanner`), and calipers may be burnt in
(`phantom_marks`).

It is a convolution model: fully developed speckle from complex scatterers, a point-spread function that
follows frequency, bandwidth, aperture and focus, losses along the beam, log compression. It needs NumPy and
SciPy only and takes a few hundredths of a second an image. Scores on phantoms say how a method works, never
how well it does in patients.

Examples
--------
>>> from busutils.datasets import phantom
>>> one = phantom.simulate(0, size=128)
>>> one.image.shape, one.mask.dtype, one.label
((128, 128), dtype('bool'), 'benign')
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from busutils.datasets import phantom_marks, phantom_scanner, phantom_tissue
from busutils.datasets.lesions import LesionDataset, Record
from busutils.datasets.phantom_scanner import PRESETS, Scanner
from busutils.datasets.phantom_tissue import KINDS
from busutils.datasets.pixels import resize_image, resize_mask

__all__ = ["GENERATOR_VERSION", "KINDS", "PRESETS", "Phantom", "Scanner", "load", "simulate", "structures", "write"]

GENERATOR_VERSION = 3
"""Changes whenever the same seed gives other pixels; travels with records and with trained weights."""

# Shares of BUSI's classes: 437 benign, 210 malignant, 133 normal.
_CLASSES = (("benign", 437 / 780), ("malignant", 210 / 780), ("normal", 133 / 780))
_GOLDEN = 0.6180339887498949

# Separate streams, so that a change of one stage leaves the draws of the others alone.
_SCENE, _SETTINGS, _TISSUE, _SPECKLE, _MARKS = range(5)


@dataclass(frozen=True)
class Phantom:
    """One simulated image and everything that is known about it.

    Attributes
    ----------
    image : (H, W) uint8 ndarray
        B-mode picture.
    mask : (H, W) bool ndarray
        Exact lesion mask.
    reflectivity : (H, W) float32 ndarray
        Scattering amplitude before the scan, linear; glandular tissue is near 1.
    envelope : (H, W) float32 ndarray
        Linear echo envelope of one look, before gain and log compression.
    marks : (H, W) bool ndarray
        Burnt-in calipers and text.
    label : {'benign', 'malignant', 'normal'}
    kind : str
        One of `KINDS`.
    descriptors : dict of str
        BI-RADS words: shape, margin, orientation, echo_pattern, posterior, calcifications, composition; the
        lesion's words are ``"none"`` in normal images.
    mm_per_px : (float, float)
        Height and width of a pixel, mm.
    scanner : Scanner
        The settings this image was made with.
    scene : phantom_tissue.Scene
        Layers, lesions and distractors before the scan.
    generator_version : int
    """

    image: np.ndarray
    mask: np.ndarray
    reflectivity: np.ndarray
    envelope: np.ndarray
    marks: np.ndarray
    label: str
    kind: str
    descriptors: dict[str, str]
    mm_per_px: tuple[float, float]
    scanner: Scanner
    scene: phantom_tissue.Scene = field(repr=False)
    generator_version: int = GENERATOR_VERSION


def label_of_index(index: int) -> str:
    """Class of the image with this number: BUSI's class mix, evenly interleaved, the same for every seed."""
    u = (0.5 + index * _GOLDEN) % 1.0
    for label, share in _CLASSES:
        if u < share:
            return label
        u -= share
    return _CLASSES[-1][0]


def _generator(seed: int, index: int, stream: int, *more: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, GENERATOR_VERSION, stream, *more])


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share between 0 and 1, got {value!r}")
    return float(value)


def _scene(index: int, seed: int, kind: str | None) -> phantom_tissue.Scene:
    rng = _generator(seed, index, _SCENE)
    drawn = phantom_tissue.draw_kind(label_of_index(index), rng)
    return phantom_tissue.draw_scene(drawn if kind is None else kind, rng)


def _descriptors(scene: phantom_tissue.Scene) -> dict[str, str]:
    names = ("shape", "margin", "orientation", "echo_pattern", "posterior", "calcifications")
    words = scene.lesions[0].descriptors if scene.lesions else {}
    return {name: words.get(name, "none") for name in names} | {"composition": scene.composition}


def _check(seed: int, size: int, scanner: str | Scanner, kind: str | None) -> tuple[int, int, Scanner]:
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    return _whole("seed", seed, 0), _whole("size", size, 32), phantom_scanner.scanner_preset(scanner)


def simulate(
    index: int,
    *,
    seed: int = 0,
    scanner: str | Scanner = "clinic",
    size: int = 256,
    kind: str | None = None,
    copy: int = 0,
    calipers: float = 0.0,
    text: float = 0.0,
) -> Phantom:
    """Simulate one image.

    The image depends on its arguments alone, not on other images: any subset can be made in any order and
    process.

    Parameters
    ----------
    index : int
        Number of the image in its set; it sets the class (BUSI's mix) and, with `seed`, everything else.
    seed : int
        Seed of the set.
    scanner : str or Scanner
        A preset (``"clinic"``, ``"portable"``, ``"highend"``) or own settings. The same anatomy seen by two
        scanners is one domain shift away.
    size : int
        Pixels a side, at least 32. The picture is a square whatever the field of view, as networks see it.
    kind : str, optional
        One of `KINDS`; by default drawn.
    copy : int
        Above 0: a near-copy of the scene with other gain and another crop, one for every number.
    calipers, text : float
        Probability of burnt-in calipers (on lesion images) and of text.

    Returns
    -------
    Phantom

    Raises
    ------
    ValueError
        If an option is out of its range or an unknown name.
    """
    seed, size, preset = _check(seed, size, scanner, kind)
    index, copy = _whole("index", index, 0), _whole("copy", copy, 0)
    calipers, text = _share("calipers", calipers), _share("text", text)
    scene = _scene(index, seed, kind)
    rng = _generator(seed, index, _SETTINGS)
    settings = phantom_scanner.vary(preset, rng)
    visible = phantom_scanner.visible_area(size, preset, rng)
    mm_per_px = (scene.depth / size, scene.width / size)
    maps = phantom_tissue.draw_maps(scene, size, _generator(seed, index, _TISSUE))
    envelope, compounded = phantom_scanner.scan(
        maps.echo_db, maps.specular, maps.excess, settings, mm_per_px, _generator(seed, index, _SPECKLE)
    )
    reflectivity = np.hypot(np.exp(maps.echo_db * np.float32(np.log(10) / 20)), maps.specular)
    mask = maps.mask
    if copy:
        # Same scene, same speckle: another hand on the gain knob, and the picture cut out a little tighter.
        rng = _generator(seed, index, _SETTINGS, copy)
        settings = phantom_scanner.vary(settings, rng)
    image = phantom_scanner.display(compounded, settings, mm_per_px)
    if visible is not None:
        image[~visible] = 0
        mask &= visible
    if copy:
        height, width = (round(size * float(rng.uniform(0.86, 0.97))) for _ in range(2))
        top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
        window = np.s_[top : top + height, left : left + width]
        image, reflectivity, envelope = (resize_image(a[window], size) for a in (image, reflectivity, envelope))
        mask = resize_mask(mask[window], size)
        mm_per_px = (mm_per_px[0] * height / size, mm_per_px[1] * width / size)
    marks = phantom_marks.draw_marks(image, mask, _generator(seed, index, _MARKS, copy), calipers=calipers, text=text)
    return Phantom(
        image=image,
        mask=mask,
        reflectivity=reflectivity.astype(np.float32, copy=False),
        envelope=envelope,
        marks=marks,
        label=scene.label,
        kind=scene.kind,
        descriptors=_descriptors(scene),
        mm_per_px=mm_per_px,
        scanner=settings,
        scene=scene,
    )


def structures(made: Phantom, *, visible_db: float = 3.0) -> dict[str, np.ndarray]:
    """Tell where the structures of a simulated image lie, from the scene and not from its grey values.

    Parameters
    ----------
    made : Phantom
        From :func:`simulate`.
    visible_db : float
        How many dB the lesion must take from, or leave to, the echoes below it for a shadow or an enhancement.

    Returns
    -------
    dict of str to (H, W) bool ndarray
        ``lesion``; ``border``, within 1 % of the image's height of its contour; ``shadow`` and ``enhancement`` below
        it; ``calipers``, the burnt-in marks. A structure that the image lacks is an empty mask.

    Raises
    ------
    ValueError
        If the image is a near-copy, whose crop is not known.

    Examples
    --------
    >>> from busutils.datasets import phantom
    >>> found = phantom.structures(phantom.simulate(0, kind="cyst", size=64))
    >>> bool(found["enhancement"].any()), bool(found["shadow"].any())
    (True, False)
    """
    height, width = made.mask.shape
    cell = (made.scene.depth / height, made.scene.width / width)
    if not np.allclose(cell, made.mm_per_px):
        raise ValueError("the structures of a near-copy are not known: simulate it with copy=0")
    loss = phantom_tissue.lesion_loss(made.scene, (height, width))
    outside = ndimage.distance_transform_edt(~made.mask) if made.mask.any() else np.full(made.mask.shape, np.inf)
    inside = ndimage.distance_transform_edt(made.mask)
    return {
        "lesion": made.mask.copy(),
        "border": outside + inside <= max(0.01 * height, 1),
        "shadow": (loss >= visible_db) & ~made.mask,
        "enhancement": (loss <= -visible_db) & ~made.mask,
        "calipers": made.marks.copy(),
    }


# ---------------------------------------------------------------------------------------------------- sets


@functools.lru_cache(maxsize=16)
def _pixels(index: int, options: tuple[tuple[str, object], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask; the small cache spares a second simulation when the mask is read next."""
    made = simulate(index, **dict(options))
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
        return f"phantom v{GENERATOR_VERSION} {self.part} {self.index} {self.options!r}"

    def read(self) -> np.ndarray:
        """Simulate and return the pixels: (H, W) uint8 for an image, (H, W) bool for a mask."""
        return _pixels(self.index, self.options)[self.part == "mask"].copy()


def load(
    n: int = 120,
    seed: int = 0,
    scanner: str | Scanner = "clinic",
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
    scanner : str or Scanner
        ``"clinic"``, ``"portable"``, ``"highend"``, ``"mixed"`` (the three in turn), or own settings.
    size : int
        Pixels a side.
    kind : str, optional
        Only this kind, one of `KINDS`.
    copies : float
        Share of images that are near-copies (other gain, other crop) of the image before them, in its group:
        the leak that random splits fall for.
    calipers, text : float
        Share of images with burnt-in calipers and with text.
    start : int
        Number of the first image.

    Returns
    -------
    LesionDataset
        Records have ids such as ``phantom-clinic-0-0007``; their `extras` hold scanner, kind, BI-RADS words,
        the two sides of a pixel in mm and the generator version.

    Raises
    ------
    ValueError
        If an option is out of its range or an unknown name.

    Examples
    --------
    >>> small = load(n=4, size=64)
    >>> small.ids[:2].tolist(), len(small)
    (['phantom-clinic-0-0000', 'phantom-clinic-0-0001'], 4)
    """
    n, start = _whole("n", n, 1), _whole("start", start, 0)
    copies, calipers, text = _share("copies", copies), _share("calipers", calipers), _share("text", text)
    mixed = scanner == "mixed"
    _check(seed, size, "clinic" if mixed else scanner, kind)
    name = scanner if isinstance(scanner, str) else scanner.name
    records: list[Record] = []
    original, turn = start, 0
    for index in range(start, start + n):
        # Every (1 / copies)-th image repeats the last original.
        is_copy = int((index - start + 1) * copies) > int((index - start) * copies) and index > start
        original, turn = (original, turn + 1) if is_copy else (index, 0)
        machine = list(PRESETS)[original % len(PRESETS)] if mixed else scanner
        options = tuple(
            {
                "seed": int(seed),
                "scanner": machine,
                "size": int(size),
                "kind": kind,
                "copy": turn,
                "calipers": calipers,
                "text": text,
            }.items()
        )
        scene = _scene(original, int(seed), kind)
        sides = (scene.depth / size, scene.width / size)
        records.append(
            Record(
                id=f"phantom-{name}-{seed}-{index:04d}",
                image=PhantomSource(original, options, "image"),
                masks=(PhantomSource(original, options, "mask"),),
                label=scene.label,
                # One scene through two scanners is one group: its truth is the same.
                group=f"phantom-{seed}-{original:04d}",
                source="phantom",
                mm_per_px=float(np.sqrt(sides[0] * sides[1])),
                notes=("near-copy of the image before",) if is_copy else (),
                extras={
                    "kind": scene.kind,
                    **_descriptors(scene),
                    "scanner": machine if isinstance(machine, str) else machine.name,
                    "mm_per_px_axial": sides[0],
                    "mm_per_px_lateral": sides[1],
                    "generator_version": GENERATOR_VERSION,
                },
            )
        )
    return LesionDataset(records, name="phantom" if name == "clinic" else f"phantom-{name}", key="phantom")


def write(dataset: LesionDataset, out: str | os.PathLike) -> Path:
    """Write a set in BUSI's folder layout: ``Dataset_BUSI_with_GT/benign/benign (1).png``, ``benign
    (1)_mask.png``, …

    Every lesion of an image gets a mask file of its own (``_mask.png``, ``_mask_1.png``, …) and normal images
    a black one, as in BUSI. ``phantoms.csv`` beside the folder says which file is which phantom. The folder
    appears when it is complete.

    Parameters
    ----------
    dataset : LesionDataset
        Any set, such as ``load(n=20)``.
    out : path
        Folder that will hold ``Dataset_BUSI_with_GT``.

    Returns
    -------
    Path
        The folder ``Dataset_BUSI_with_GT``.

    Raises
    ------
    ValueError
        If that folder is there already.
    """
    out = Path(out)
    target = out / "Dataset_BUSI_with_GT"
    if target.exists():
        raise ValueError(f"{target} is there already: give another folder or remove it")
    out.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".phantoms-", dir=out))
    try:
        count: dict[str, int] = {}
        files = []
        for position, record in enumerate(dataset):
            count[record.label] = count.get(record.label, 0) + 1
            stem = f"{record.label} ({count[record.label]})"
            folder = fresh / target.name / record.label
            folder.mkdir(parents=True, exist_ok=True)
            image, mask = dataset.load_native(position)
            Image.fromarray(image).save(folder / f"{stem}.png")
            parts, found = ndimage.label(mask)
            for number in range(1, max(found, 1) + 1):
                ending = "_mask.png" if number == 1 else f"_mask_{number - 1}.png"
                Image.fromarray(np.uint8(255) * (parts == number)).save(folder / f"{stem}{ending}")
            files.append(f"{record.label}/{stem}.png")
        table = dataset.table()
        table.insert(0, "file", files)
        table.to_csv(fresh / "phantoms.csv", index=False)
        os.replace(fresh / "phantoms.csv", out / "phantoms.csv")
        os.replace(fresh / target.name, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target
