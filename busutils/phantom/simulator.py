"""Simulated B-mode images of the breast with exact lesion masks.

A scene (layers, lesions, distractors) becomes maps of scatterers and losses (`tissue`), the maps
become an echo at baseband, an envelope and grey levels (`scanner`), and calipers may be burnt in (`marks`).

It is a convolution model: fully developed speckle from complex scatterers, a point-spread function that
follows frequency, bandwidth, aperture and focus, losses along the beam, log compression. It needs NumPy and
SciPy only and takes a few hundredths of a second per image. Scores on phantoms show how a method works, not how well
it performs in patients.

Examples
--------
>>> from busutils import phantom
>>> one = phantom.simulate(0, size=128)
>>> one.image.shape, one.mask.dtype, one.label
((128, 128), dtype('bool'), 'benign')
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from busutils.errors import BusutilsError
from busutils.io import resize_image, resize_mask
from busutils.phantom import tissue
from busutils.phantom.marks import draw_marks
from busutils.phantom.scanner import PRESETS, Scanner, display, scan, vary, visible_area
from busutils.phantom.tissue import KINDS

GENERATOR_VERSION = 3
"""Changes whenever the same seed gives other pixels; stored with records and with trained weights."""

# Shares of BUSI's classes: 437 benign, 210 malignant, 133 normal.
_CLASSES = (("benign", 437 / 780), ("malignant", 210 / 780), ("normal", 133 / 780))
_GOLDEN = 0.6180339887498949

# Separate random streams, so that a change in one stage does not alter the random numbers of the others.
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
    spacing : (float, float)
        Height and width of a pixel, mm.
    scanner : Scanner
        The settings this image was made with.
    scene : tissue.Scene
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
    spacing: tuple[float, float]
    scanner: Scanner
    scene: tissue.Scene = field(repr=False)
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


def check_count(name: str, value: int, least: int) -> int:
    """Return an option as int; raise if it is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise BusutilsError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def check_share(name: str, value: float) -> float:
    """Return an option as float; raise if it is not between 0 and 1."""
    if not 0 <= value <= 1:
        raise BusutilsError(f"{name} is a share between 0 and 1, got {value!r}")
    return float(value)


def scene_of(index: int, *, seed: int = 0, kind: str | None = None) -> tissue.Scene:
    """Draw the scene of an image without scanning it; arguments as for :func:`simulate`."""
    rng = _generator(seed, index, _SCENE)
    drawn = tissue.draw_kind(label_of_index(index), rng)
    return tissue.draw_scene(drawn if kind is None else kind, rng)


def check_options(seed: int, size: int, scanner: str | Scanner, kind: str | None) -> tuple[int, int, Scanner]:
    """Refuse a seed, size, scanner or kind that cannot be simulated; return seed, size and the scanner's settings."""
    if kind is not None and kind not in KINDS:
        raise BusutilsError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if not isinstance(scanner, Scanner):
        if scanner not in PRESETS:
            raise BusutilsError(f"unknown scanner {scanner!r}: choose one of {', '.join(PRESETS)}, or pass a Scanner")
        scanner = PRESETS[scanner]
    return check_count("seed", seed, 0), check_count("size", size, 32), scanner


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
        A preset (``"clinic"``, ``"portable"``, ``"highend"``, ``"vintage"``) or own settings. The same anatomy seen by
        two scanners is a domain shift.
    size : int
        Pixels a side, at least 32. The image is square whatever the field of view, as networks see it.
    kind : str, optional
        One of `KINDS`; by default drawn.
    copy : int
        Above 0: a near-duplicate of the scene with other gain and another crop; each number gives another one.
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
    seed, size, preset = check_options(seed, size, scanner, kind)
    index, copy = check_count("index", index, 0), check_count("copy", copy, 0)
    calipers, text = check_share("calipers", calipers), check_share("text", text)
    scene = scene_of(index, seed=seed, kind=kind)
    rng = _generator(seed, index, _SETTINGS)
    settings = vary(preset, rng)
    visible = visible_area(size, preset, rng)
    spacing = (scene.depth / size, scene.width / size)
    maps = tissue.draw_maps(scene, size, _generator(seed, index, _TISSUE))
    envelope, compounded = scan(
        maps.echo_db, maps.specular, maps.excess, settings, spacing, _generator(seed, index, _SPECKLE)
    )
    reflectivity = np.hypot(np.exp(maps.echo_db * np.float32(np.log(10) / 20)), maps.specular)
    if copy:
        # Same scene and speckle; other scanner settings and a slightly tighter crop.
        rng = _generator(seed, index, _SETTINGS, copy)
        settings = vary(settings, rng)
    image = display(compounded, settings, spacing) * visible
    mask = maps.mask & visible
    if copy:
        height, width = (round(size * rng.uniform(0.86, 0.97)) for _ in range(2))
        top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
        window = np.s_[top : top + height, left : left + width]
        image, reflectivity, envelope = (resize_image(a[window], size) for a in (image, reflectivity, envelope))
        mask = resize_mask(mask[window], size)
        spacing = (spacing[0] * height / size, spacing[1] * width / size)
    marks = draw_marks(image, mask, _generator(seed, index, _MARKS, copy), calipers=calipers, text=text)
    return Phantom(
        image=image,
        mask=mask,
        reflectivity=reflectivity.astype(np.float32, copy=False),
        envelope=envelope,
        marks=marks,
        label=scene.label,
        kind=scene.kind,
        descriptors=scene.descriptors,
        spacing=spacing,
        scanner=settings,
        scene=scene,
    )


def structures(made: Phantom, *, visible_db: float = 3.0) -> dict[str, np.ndarray]:
    """Masks of the structures of a simulated image, computed from the scene, not from grey values.

    Parameters
    ----------
    made : Phantom
        From :func:`simulate`.
    visible_db : float
        Change of the echoes below the lesion, in dB, from which they count as shadow or enhancement.

    Returns
    -------
    dict of str to (H, W) bool ndarray
        ``lesion``; ``border``, within 1 % of the image's height of its contour; ``shadow`` and ``enhancement`` below
        it; ``calipers``, the burnt-in marks. A structure that the image lacks is an empty mask.

    Raises
    ------
    ValueError
        If the image is a near-duplicate, whose crop is not known.

    Examples
    --------
    >>> from busutils import phantom
    >>> found = phantom.structures(phantom.simulate(0, kind="cyst", size=64))
    >>> bool(found["enhancement"].any()), bool(found["shadow"].any())
    (True, False)
    """
    height, width = made.mask.shape
    cell = (made.scene.depth / height, made.scene.width / width)
    if not np.allclose(cell, made.spacing):
        raise BusutilsError("the structures of a near-duplicate are not known: simulate it with copy=0")
    loss = tissue.lesion_loss(made.scene, height)
    outside = ndimage.distance_transform_edt(~made.mask) if made.mask.any() else np.full(made.mask.shape, np.inf)
    inside = ndimage.distance_transform_edt(made.mask)
    return {
        "lesion": made.mask.copy(),
        "border": outside + inside <= max(0.01 * height, 1),
        "shadow": (loss >= visible_db) & ~made.mask,
        "enhancement": (loss <= -visible_db) & ~made.mask,
        "calipers": made.marks.copy(),
    }
