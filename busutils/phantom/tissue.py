"""The anatomy half of the phantoms: what lies in the breast, drawn anew for every image.

A scene is described by three maps over depth and width in millimetres: diffuse backscatter in dB relative to
glandular tissue, the coherent amplitude of interfaces (septa, fasciae, capsules), and the attenuation beyond
what the scanner's gain over depth makes up for. Descriptors use the words of the ACR BI-RADS atlas for
ultrasound (5th edition, 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from busutils.errors import BusutilsError

KINDS = ("cyst", "fibroadenoma", "isoechoic", "multiple", "spiculated", "microlobulated", "normal")
"""What an image may show. The first four are benign, the next two malignant."""

BENIGN, MALIGNANT = KINDS[:4], KINDS[4:6]

# How often each kind appears within its class.
_SHARES = {
    "benign": {"cyst": 0.22, "fibroadenoma": 0.49, "isoechoic": 0.21, "multiple": 0.08},
    "malignant": {"spiculated": 0.65, "microlobulated": 0.35},
}


def label_of(kind: str) -> str:
    """Class of a kind: benign, malignant or normal."""
    return "normal" if kind == "normal" else "benign" if kind in BENIGN else "malignant"


def draw_kind(label: str, rng: np.random.Generator) -> str:
    """Draw a kind of the given class."""
    if label == "normal":
        return "normal"
    shares = _SHARES[label]
    return str(rng.choice(list(shares), p=list(shares.values())))


# ---------------------------------------------------------------------------------------------------- fields


def _spline_basis(coordinates: np.ndarray, spacing: float, shift: float) -> sparse.csr_array:
    """Cubic B-spline basis: one row a coordinate, one column a knot, four entries a row.

    Sparse, because a dense product would go through the linear-algebra library, whose threads get in each other's way
    when several images are made at once and whose rounding differs from processor to processor.
    """
    t = coordinates.astype(np.float32) / np.float32(spacing) + np.float32(shift)
    left = t.astype(np.int32)
    u = t - left
    v = 1 - u
    weights = np.stack([v**3 / 6, 2 / 3 - u**2 + u**3 / 2, 2 / 3 - v**2 + v**3 / 2, u**3 / 6], axis=1)
    columns = left[:, None] + np.arange(4, dtype=np.int32)
    rows = np.arange(0, 4 * len(t) + 1, 4, dtype=np.int32)
    shape = (len(t), int(left.max()) + 4)
    return sparse.csr_array((weights.astype(np.float32).ravel(), columns.ravel(), rows), shape=shape)


def random_field(z: np.ndarray, x: np.ndarray, scale_z: float, scale_x: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth Gaussian random field of mean 0 and variance 1.

    The knots belong to the tissue, not to the pixels: the same generator state gives the same field at every
    image size.

    Parameters
    ----------
    z, x : (H,), (W,) ndarray
        Depth and lateral position of the pixel centres, mm.
    scale_z, scale_x : float
        Distance of the knots, mm: about the length over which the field keeps its value.
    rng : numpy.random.Generator

    Returns
    -------
    (H, W) float32 ndarray
    """
    shift_z, shift_x = rng.uniform(0, 1, 2)
    basis_z = _spline_basis(z, scale_z, shift_z)
    basis_x = _spline_basis(x, scale_x, shift_x)
    knots = rng.standard_normal((basis_z.shape[1], basis_x.shape[1]), dtype=np.float32)
    # The squared spline basis sums to 151/315 on average along each axis.
    return np.ascontiguousarray((basis_x @ (basis_z @ knots).T).T) * np.float32(315 / 151)


def random_curve(x: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth random function of the lateral position, mean 0 and variance 1, (W,) float32."""
    basis = _spline_basis(x, scale, float(rng.uniform()))
    return basis @ rng.standard_normal(basis.shape[1], dtype=np.float32) * np.float32(math.sqrt(315 / 151))


def ridges(values: np.ndarray, width: float, spacing: tuple[float, float]) -> np.ndarray:
    """Thin sheets along the zero crossings of a field: 1 on the crossing, 0 away from it.

    Dividing by the gradient makes the sheets equally thin (`width` mm) wherever the field is steep or flat.
    """
    dz, dx = np.float32(spacing[0]), np.float32(spacing[1])
    gz, gx = np.empty_like(values), np.empty_like(values)
    gz[1:-1] = (values[2:] - values[:-2]) * (0.5 / dz)
    gz[0], gz[-1] = gz[1], gz[-2]
    gx[:, 1:-1] = (values[:, 2:] - values[:, :-2]) * (0.5 / dx)
    gx[:, 0], gx[:, -1] = gx[:, 1], gx[:, -2]
    squared = values**2 / (gz**2 + gx**2 + np.float32(1e-3))
    sheet = np.exp(squared * np.float32(-1 / width**2))
    # Sheets that face the beam send more of it back.
    facing = gz**2 / (gz**2 + gx**2 + np.float32(1e-6))
    return sheet * (np.float32(0.12) + np.float32(0.88) * facing**2)


def _step(values: np.ndarray, width: float) -> np.ndarray:
    """Smooth step from 0 to 1 over about two widths around zero."""
    return np.float32(0.5) + np.float32(0.5) * np.tanh(values * np.float32(1 / width))


# ---------------------------------------------------------------------------------------------------- lesions


@dataclass
class Lesion:
    """Shape and acoustic properties of one lesion; lengths in mm, levels in dB.

    Parameters
    ----------
    kind : str
        Kind of this lesion (never ``multiple``).
    centre : (float, float)
        Depth and lateral position, mm.
    radii : (float, float)
        Half axes along and across the long direction of the lesion, before the contour is modulated, mm.
    angle : float
        Angle of the first axis from the lateral direction, radians.
    contour : (M, 2) ndarray
        Cosine and sine coefficients of the relative radius over the angle, from order 2 on.
    echo : float
        Diffuse level of the inside, dB.
    relative : bool
        Whether `echo` is relative to the tissue around (isoechoic lesions) or absolute.
    texture : float
        Standard deviation of the slow variation of the inside, dB.
    edge : float
        Width of the transition at the margin, mm.
    capsule : float
        Coherent amplitude of the capsule; 0 for none.
    halo : float
        Level of the echogenic rim above its surroundings, dB; 0 for none.
    attenuation : float
        Excess two-way attenuation inside, dB a millimetre.
    edge_shadow : float
        Excess attenuation at the lateral borders (refraction), dB a millimetre.
    septa : float
        Coherent amplitude of septa inside; 0 for none.
    spicules : int
        Number of spicules.
    calcifications : int
        Number of bright specks inside.
    descriptors : dict
        Words of the BI-RADS atlas.
    """

    kind: str
    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    contour: np.ndarray
    echo: float
    relative: bool = False
    texture: float = 1.5
    edge: float = 0.15
    capsule: float = 0.0
    halo: float = 0.0
    attenuation: float = 0.0
    edge_shadow: float = 0.0
    septa: float = 0.0
    spicules: int = 0
    calcifications: int = 0
    descriptors: dict[str, str] = field(default_factory=dict)


def _contour(rng: np.random.Generator, orders: int, strength: float, decay: float) -> np.ndarray:
    """Random Fourier coefficients of the relative radius for the orders 2, 3, …"""
    order = np.arange(2, orders + 2)
    return strength * rng.standard_normal((orders, 2)) * (order[:, None] / 2.0) ** -decay


def draw_lesion(kind: str, area: float, rng: np.random.Generator) -> Lesion:
    """Draw shape and acoustics of a lesion of one kind.

    Parameters
    ----------
    kind : str
        ``cyst``, ``fibroadenoma``, ``isoechoic``, ``spiculated`` or ``microlobulated``.
    area : float
        Area of the lesion, mm².
    rng : numpy.random.Generator

    Returns
    -------
    Lesion
        With its centre at the origin.
    """
    radius = math.sqrt(area / math.pi)
    if kind in BENIGN:
        ratio = float(np.exp(rng.uniform(math.log(1.15), math.log(2.2))))
        angle = math.radians(float(rng.normal(0, 14)))
    elif kind == "microlobulated":
        ratio = float(np.exp(rng.uniform(0, math.log(1.6))))
        angle = math.radians(float(rng.normal(0, 35)))
    else:
        ratio = float(np.exp(rng.uniform(math.log(0.6), math.log(1.7))))
        angle = math.radians(float(rng.normal(0, 20)))
    radii = (radius * math.sqrt(ratio), radius / math.sqrt(ratio))
    lesion = Lesion(kind, (0.0, 0.0), radii, angle, np.zeros((1, 2)), -20.0)
    words = lesion.descriptors
    if kind == "cyst":
        lesion.contour = _contour(rng, 4, 0.05, 1.5)
        complicated = rng.random() < 0.25
        lesion.echo = float(rng.uniform(-26, -18) if complicated else rng.uniform(-45, -32))
        lesion.texture = 2.0 if complicated else 0.5
        lesion.capsule = float(rng.uniform(0.5, 3))
        lesion.attenuation = -float(rng.uniform(0.8, 2.2))
        lesion.edge_shadow = float(rng.uniform(0, 1.2))
        words |= {
            "shape": "round" if ratio < 1.2 else "oval",
            "margin": "circumscribed",
            "echo_pattern": "complicated cyst" if complicated else "anechoic",
            "posterior": "enhancement",
        }
    elif kind == "fibroadenoma":
        lobulated = rng.random() < 0.35
        lesion.contour = _contour(rng, 6, 0.10 if lobulated else 0.04, 1.0)
        lesion.echo = float(np.clip(rng.normal(-17.5, 4), -28, -11))
        lesion.texture = float(rng.uniform(1.0, 4.5))
        lesion.edge = float(rng.uniform(0.1, 0.35))
        lesion.capsule = float(rng.uniform(0.3, 2.5))
        lesion.attenuation = float(rng.normal(-0.95, 0.6))
        lesion.edge_shadow = float(rng.uniform(0, 1.5))
        lesion.calcifications = int(rng.integers(1, 6)) if rng.random() < 0.12 else 0
        lesion.septa = float(rng.uniform(0.05, 0.35)) if rng.random() < 0.5 else 0.0
        words |= {
            "shape": "oval",
            "margin": "circumscribed",
            "echo_pattern": "hypoechoic",
        }
    elif kind == "isoechoic":
        lesion.contour = _contour(rng, 5, 0.05, 1.2)
        lesion.relative = True
        lesion.echo = float(rng.uniform(-4.5, 2.5))
        lesion.texture = 1.2
        lesion.edge = float(rng.uniform(0.15, 0.4))
        lesion.capsule = float(rng.uniform(0.8, 2.5))
        lesion.attenuation = float(rng.normal(0, 0.12))
        words |= {"shape": "oval", "margin": "circumscribed", "echo_pattern": "isoechoic"}
    elif kind == "spiculated":
        lesion.contour = _contour(rng, 14, 0.14, 1.35)
        lesion.echo = float(np.clip(rng.normal(-16, 5), -30, -7))
        lesion.texture = float(rng.uniform(2, 4.8))
        lesion.edge = float(rng.uniform(0.3, 1.3))
        lesion.septa = float(rng.uniform(0.03, 0.2)) if rng.random() < 0.4 else 0.0
        lesion.halo = float(rng.uniform(2, 9)) if rng.random() < 0.75 else 0.0
        lesion.attenuation = float(rng.uniform(0.4, 1.9)) if rng.random() < 0.8 else float(rng.uniform(-0.1, 0.2))
        lesion.spicules = int(rng.integers(5, 14))
        lesion.calcifications = int(rng.integers(3, 15)) if rng.random() < 0.3 else 0
        words |= {
            "shape": "irregular",
            "margin": "spiculated",
            "echo_pattern": "hypoechoic" if lesion.texture < 3.6 else "heterogeneous",
        }
    elif kind == "microlobulated":
        # Triple-negative cancers often look like this: round, lobulated, very dark, no shadow.
        lesion.contour = _contour(rng, 10, 0.075, 0.8)
        lesion.echo = float(np.clip(rng.normal(-18, 4), -32, -10))
        lesion.texture = float(rng.uniform(1.2, 4))
        lesion.edge = float(rng.uniform(0.2, 0.7))
        lesion.halo = float(rng.uniform(1, 5)) if rng.random() < 0.3 else 0.0
        lesion.attenuation = float(rng.normal(-0.2, 0.4))
        words |= {
            "shape": "irregular" if ratio > 1.3 else "round",
            "margin": "microlobulated",
            "echo_pattern": "hypoechoic",
        }
    else:
        raise BusutilsError(f"unknown kind of lesion {kind!r}: choose one of {', '.join(KINDS)}")
    words.setdefault(
        "posterior",
        "enhancement" if lesion.attenuation < -0.2 else "shadowing" if lesion.attenuation > 0.3 else "none",
    )
    tall = radii[0] * abs(math.sin(angle)) + radii[1] * abs(math.cos(angle))
    wide = radii[0] * abs(math.cos(angle)) + radii[1] * abs(math.sin(angle))
    words["orientation"] = "not parallel" if tall > wide else "parallel"
    words["calcifications"] = "in a mass" if lesion.calcifications else "none"
    return lesion


def _polar(lesion: Lesion, z: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relative radius (1 on the contour), angle, and local radius in mm of every pixel."""
    dz = (z - lesion.centre[0]).astype(np.float32)[:, None]
    dx = (x - lesion.centre[1]).astype(np.float32)[None, :]
    c, s = np.float32(math.cos(lesion.angle)), np.float32(math.sin(lesion.angle))
    u = (c * dx + s * dz) / np.float32(lesion.radii[0])
    v = (c * dz - s * dx) / np.float32(lesion.radii[1])
    rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
    angle = np.arctan2(v, u)
    # Tabulated over the angle: a few hundred cosines instead of some for every pixel.
    table_angle = np.linspace(-math.pi, math.pi, 721)
    order = np.arange(2, len(lesion.contour) + 2)
    waves = np.cos(order[:, None] * table_angle) * lesion.contour[:, :1]
    waves += np.sin(order[:, None] * table_angle) * lesion.contour[:, 1:]
    limit = np.exp(np.clip(waves.sum(0), -0.6, 0.5))
    limit /= math.sqrt(float(np.mean(limit**2)))  # keeps the area that was asked for
    index = (angle + np.float32(math.pi)) * np.float32(720 / (2 * math.pi))
    bound = np.interp(index.ravel(), np.arange(721), limit).reshape(index.shape).astype(np.float32)
    reach = np.sqrt(dx * dx + dz * dz)
    return rho / bound, angle, reach


# ---------------------------------------------------------------------------------------------------- anatomy


@dataclass
class Scene:
    """Everything that can be known of an image before it is scanned.

    Attributes
    ----------
    kind, label : str
    depth, width : float
        Field of view, mm.
    composition : str
        Background echotexture: ``fat``, ``fibroglandular`` or ``heterogeneous``.
    lesions : list of Lesion
    layers : dict of float
        Mean depths of skin, fat, gland and muscle borders, mm.
    distractors : dict of float
        Vessel, ribs, shadows; what is in the picture and is no lesion.
    """

    kind: str
    label: str
    depth: float
    width: float
    composition: str
    lesions: list[Lesion]
    layers: dict[str, float]
    distractors: dict[str, float]

    @property
    def descriptors(self) -> dict[str, str]:
        """BI-RADS words of the first lesion (``"none"`` without one), and the composition."""
        names = ("shape", "margin", "orientation", "echo_pattern", "posterior", "calcifications")
        words = self.lesions[0].descriptors if self.lesions else {}
        return {name: words.get(name, "none") for name in names} | {"composition": self.composition}


def draw_scene(kind: str, rng: np.random.Generator) -> Scene:
    """Draw field of view, layers, lesions and distractors.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    rng : numpy.random.Generator

    Returns
    -------
    Scene
    """
    label = label_of(kind)
    depth = float(np.clip(rng.normal(34, 7), 22, 55))
    width = depth * float(np.clip(np.exp(rng.normal(0.2, 0.15)), 0.95, 1.75))
    composition = str(rng.choice(["fat", "fibroglandular", "heterogeneous"], p=[0.3, 0.3, 0.4]))
    skin = float(rng.uniform(0.8, 2.2))
    fat = skin + depth * float(rng.uniform(0.02, 0.12) if composition == "fibroglandular" else rng.uniform(0.08, 0.34))
    gland = fat + depth * float(rng.uniform(0.05, 0.25) if composition == "fat" else rng.uniform(0.25, 0.65))
    retro = gland + depth * float(rng.uniform(0.0, 0.12))
    muscle = retro + depth * float(rng.uniform(0.2, 0.6))
    layers = {"skin": skin, "fat": fat, "gland": gland, "retro": retro, "muscle": muscle}

    lesions: list[Any] = []
    if kind != "normal":
        # Log-normal shares of the picture: median 3.8 % for benign lesions and 12 % for malignant ones.
        share = (
            0.038 * np.exp(1.0 * rng.standard_normal())
            if label == "benign"
            else 0.12 * np.exp(0.75 * rng.standard_normal())
        )
        share = float(np.clip(share, 0.004, 0.38))
        kinds = [kind]
        if kind == "multiple":
            kinds = [str(rng.choice(["cyst", "fibroadenoma"]))] * int(rng.integers(2, 4))
            share = float(np.clip(share * 1.4, 0.012, 0.2))
        for one in kinds:
            lesion = draw_lesion(one, share * depth * width / len(kinds), rng)
            _place(lesion, lesions, depth, width, skin, rng)
            lesions.append(lesion)
    distractors = {
        "ribs": float(rng.random() < 0.18),
        "vessel": float(rng.random() < 0.18),
        "lobules": float(rng.random() < 0.5),
        "streaks": float(rng.uniform(0, 1) ** 2),
        "contact": float(rng.random() < 0.3),
    }
    return Scene(kind, label, depth, width, composition, lesions, layers, distractors)


def _place(
    lesion: Lesion, others: list[Lesion], depth: float, width: float, skin: float, rng: np.random.Generator
) -> None:
    """Put a lesion where sonographers put it: upper middle, clear of skin and other lesions."""
    half = max(lesion.radii)
    tall = math.hypot(lesion.radii[0] * math.sin(lesion.angle), lesion.radii[1] * math.cos(lesion.angle))
    for _ in range(20):
        z = depth * float(rng.normal(0.32, 0.1))
        x = width * float(rng.normal(0.49, 0.14))
        z = min(max(z, skin + tall * 1.08 + 0.3), max(depth - 0.7 * tall, skin + tall))
        x = min(max(x, 0.35 * half), width - 0.35 * half)
        lesion.centre = (z, x)
        if all(
            math.dist(lesion.centre, o.centre)
            > 1.15 * (math.sqrt(math.prod(lesion.radii)) + math.sqrt(math.prod(o.radii)))
            for o in others
        ):
            return


@dataclass
class Maps:
    """A scene on the pixel grid.

    Attributes
    ----------
    echo_db : (H, W) float32 ndarray
        Diffuse backscatter, dB relative to glandular tissue.
    specular : (H, W) float32 ndarray
        Coherent amplitude of interfaces.
    excess : (H, W) float32 ndarray
        Excess two-way attenuation, dB a millimetre.
    mask : (H, W) bool ndarray
        Lesions.
    """

    echo_db: np.ndarray
    specular: np.ndarray
    excess: np.ndarray
    mask: np.ndarray


def lesion_loss(scene: Scene, shape: tuple[int, int]) -> np.ndarray:
    """What the lesions alone take from the echoes below them.

    Parameters
    ----------
    scene : Scene
    shape : (int, int)
        Pixels.

    Returns
    -------
    (H, W) float32 ndarray
        Two-way loss from the skin down to each pixel, dB; negative below fluid.
    """
    dz, dx = scene.depth / shape[0], scene.width / shape[1]
    z = ((np.arange(shape[0]) + 0.5) * dz).astype(np.float32)
    x = ((np.arange(shape[1]) + 0.5) * dx).astype(np.float32)
    echo, specular, excess = (np.zeros(shape, np.float32) for _ in range(3))
    for lesion in scene.lesions:
        # Any generator will do: it roughens soft margins, which moves the loss by a fraction of a pixel.
        own = np.random.default_rng(0)
        mask = np.zeros(shape, bool)
        _draw_lesion(lesion, scene.layers["skin"], echo, specular, excess, mask, z, x, (dz, dx), own)
    return np.cumsum(excess, axis=0) * np.float32(dz)


def _shift_rows(image: np.ndarray, index: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Take every pixel from a fractional row of its own column; `index` counts into the flattened image."""
    flat = image.ravel()
    upper = flat.take(index)
    return upper + fraction * (flat.take(index + image.shape[1]) - upper)


def draw_maps(scene: Scene, size: int, rng: np.random.Generator) -> Maps:
    """Draw the tissue of a scene on a square grid of pixels.

    Parameters
    ----------
    scene : Scene
    size : int
        Pixels a side.
    rng : numpy.random.Generator

    Returns
    -------
    Maps
    """
    dz, dx = scene.depth / size, scene.width / size
    z = ((np.arange(size) + 0.5) * dz).astype(np.float32)
    x = ((np.arange(size) + 0.5) * dx).astype(np.float32)
    echo, specular, excess = _draw_tissue(scene, z, x, (dz, dx), rng)
    echo, specular, excess = _bend(scene, (echo, specular, excess), z, x, (dz, dx), rng)
    _draw_skin(scene, echo, specular, z, x, rng)
    _draw_shadows(scene, echo, specular, excess, z, x, rng)
    mask = np.zeros((size, size), bool)
    for lesion in scene.lesions:
        _draw_lesion(lesion, scene.layers["skin"], echo, specular, excess, mask, z, x, (dz, dx), rng)
    return Maps(echo, specular, excess, mask)


def _draw_tissue(scene, z, x, spacing, rng):
    """Layers before they are bent: fat with septa, gland with strands and lobules, muscle with striations."""
    layers = scene.layers

    def border(depth, wave, scale):
        return depth + wave * random_curve(x, scale, rng)[None, :]

    column = z[:, None]
    in_gland = _step(column - border(layers["fat"], 1.5, 5.0), 0.4)
    in_retro = _step(column - border(layers["gland"], 1.4, 6.0), 0.4)
    in_muscle = _step(column - border(layers["retro"], 0.6, 12.0), 0.25)
    beyond = _step(column - border(layers["muscle"], 0.6, 14.0), 0.4)

    # Where sheets are strong and where they fade; a low mean leaves most of them as broken strokes.
    fade = np.exp(np.float32(0.75) * random_field(z, x, 1.2, 4.0, rng))

    lobules = random_field(z, x, float(rng.uniform(1.2, 2.4)), float(rng.uniform(6, 11)), rng)
    fat_level = float(rng.normal(-10, 2)) + 1.2 * random_field(z, x, 2, 5, rng)
    fat_septa = ridges(lobules, float(rng.uniform(0.12, 0.2)), spacing)

    # Fibrous texture at two scales: long strokes and a short weave.
    strands = random_field(z, x, float(rng.uniform(0.5, 0.9)), float(rng.uniform(2.5, 5.5)), rng)
    weave = random_field(z, x, float(rng.uniform(0.35, 0.6)), float(rng.uniform(0.9, 2.0)), rng)
    fibrous = float(rng.uniform(1.5, 4.0))
    gland_level = fibrous * strands + float(rng.uniform(0.5, 3.0)) * weave + 2.0 * random_field(z, x, 1.8, 4.5, rng)
    if scene.composition == "heterogeneous" or scene.distractors["lobules"]:
        islands = random_field(z, x, float(rng.uniform(1.0, 2.5)), float(rng.uniform(2.5, 6)), rng)
        depth_of_islands = float(rng.uniform(5, 13))
        gland_level -= depth_of_islands * _step(islands - np.float32(rng.uniform(0.2, 1.2)), 0.3)
    gland_strands = ridges(strands, 0.14, spacing)

    striae = random_field(z, x, float(rng.uniform(0.45, 0.8)), float(rng.uniform(6, 14)), rng)
    muscle_level = float(rng.normal(-10, 2)) + 2.5 * striae + random_field(z, x, 2, 8, rng)
    muscle_striae = ridges(striae, 0.12, spacing)

    echo = fat_level + float(rng.uniform(0.3, 1.0)) * weave
    echo += (gland_level - echo) * in_gland
    echo += (fat_level - echo) * (in_retro * np.float32(0.7))
    echo += (muscle_level - echo) * in_muscle
    echo += (float(rng.normal(-18, 4)) + 1.5 * weave + 2.0 * striae - echo) * beyond
    strength = [float(np.exp(rng.normal(m, 0.4))) for m in (0.25, 0.15, -0.15)]
    specular = strength[0] * fat_septa * (1 - in_gland + in_retro * (1 - in_muscle))
    specular += strength[1] * gland_strands * in_gland * (1 - in_retro)
    specular += strength[2] * muscle_striae * in_muscle * (1 - beyond)
    specular *= fade
    # Fascia on the muscle: the steepest place of the step is its surface.
    specular += float(rng.uniform(0.3, 2.0)) * (4 * in_muscle * (1 - in_muscle)) ** 2 * np.minimum(fade, 2)
    excess = np.full_like(echo, float(rng.normal(0.0, 0.05)))
    excess += np.float32(0.12) * in_gland * (1 - in_retro)
    excess += np.float32(0.25) * beyond
    return echo, specular, excess


def _bend(scene, maps, z, x, spacing, rng):
    """Bend the layers: tilt, slow waves, and masses that push the tissue aside."""
    dz = spacing[0]
    tilt = float(rng.normal(0, 0.1)) * (x - scene.width / 2)
    wave = random_field(z, x, scene.depth / 3, scene.width / 4, rng) * float(abs(rng.normal(0, 1.0)))
    wave += random_field(z, x, 3.0, 4.0, rng) * float(rng.uniform(0.1, 0.6))
    shift = tilt[None, :] * np.minimum(z / 8, 1)[:, None] + wave
    for lesion in scene.lesions:
        if lesion.kind in ("spiculated",):
            continue
        relative_z = (z - lesion.centre[0])[:, None] / (1.6 * lesion.radii[1])
        relative_x = (x - lesion.centre[1])[None, :] / (1.4 * lesion.radii[0])
        shift += (-0.45 * 1.6 * lesion.radii[1]) * relative_z * np.exp(-(relative_z**2) - relative_x**2)
    source = np.arange(len(z), dtype=np.float32)[:, None] + (shift / np.float32(dz)).astype(np.float32)
    # Mirrored at skin and floor: repeating the last row would draw vertical bars.
    source = np.abs(source)
    source = np.clip(np.float32(len(z) - 1.001) - np.abs(np.float32(len(z) - 1.001) - source), 0, None)
    row = source.astype(np.intp)
    fraction = source - row.astype(np.float32)
    index = row * len(x) + np.arange(len(x))
    return [_shift_rows(image.astype(np.float32, copy=False), index, fraction) for image in maps]


def _draw_skin(scene, echo, specular, z, x, rng):
    """Gel, epidermis and dermis: a grey band between two bright lines."""
    skin = scene.layers["skin"]
    surface = float(rng.uniform(0.1, 0.4))
    rows = z < skin + 0.6
    depth = z[rows, None]
    wave = 0.12 * random_curve(x, 10.0, rng)[None, :]
    inside = _step(skin + wave - depth, 0.12)
    level = float(rng.uniform(-3, 5))
    echo[rows] += (level - echo[rows]) * inside
    specular[rows] *= 1 - inside
    lines = np.exp(-(((depth - surface) / 0.14) ** 2)) * float(rng.uniform(1, 4))
    lines = lines + np.exp(-(((depth - skin - wave) / 0.12) ** 2)) * float(rng.uniform(0.8, 3.5))
    specular[rows] += lines.astype(np.float32)


def _draw_shadows(scene, echo, specular, excess, z, x, rng):
    """Distractors: shadowing ligaments, poor contact at the sides, ribs with their shadow, vessels."""
    d = scene.distractors
    depth = z[:, None]
    streak = np.maximum(random_curve(x, float(rng.uniform(2, 5)), rng) - 0.4, 0) * d["streaks"]
    start = scene.layers["fat"] + 2.0 * random_curve(x, 5.0, rng)
    excess += np.float32(0.4) * streak[None, :] * _step(depth - start[None, :], 1.5)
    if d["contact"]:
        side = x if rng.random() < 0.5 else scene.width - x
        reach = scene.width * float(rng.uniform(0.03, 0.14))
        excess[: max(len(z) // 12, 1)] += (float(rng.uniform(4, 20)) / max(scene.depth / 12, 1)) * np.exp(
            -((side / reach) ** 2)
        )
    if d["vessel"]:
        centre = scene.layers["skin"] + float(rng.uniform(0.15, 0.7)) * (scene.depth - scene.layers["skin"])
        radius = float(rng.uniform(0.5, 1.3))
        length = float(rng.uniform(1, 5)) * radius
        path = centre + 0.25 * (x - x.mean()) * float(rng.normal(0, 0.6))
        middle = float(rng.uniform(0.1, 0.9)) * scene.width
        inside = _step(1 - ((depth - path[None, :]) / radius) ** 2 - ((x - middle)[None, :] / length) ** 2, 0.2)
        echo += (np.float32(-25) - echo) * inside
        specular *= 1 - inside
    if d["ribs"] and scene.layers["muscle"] < scene.depth * 0.95:
        middle = float(rng.uniform(0, 1)) * scene.width
        half = float(rng.uniform(6, 11))
        top = scene.layers["muscle"] - float(rng.uniform(0, 2))
        arc = top + float(rng.uniform(0.5, 2.0)) * ((x - middle) / half) ** 2 + 0.3 * random_curve(x, 3.0, rng)
        near = np.exp(-(((x - middle) / half) ** 4)).astype(np.float32)
        specular += 4.0 * near[None, :] * np.exp(-(((depth - arc[None, :]) / 0.35) ** 2)).astype(np.float32)
        excess += 4.0 * near[None, :] * _step(depth - arc[None, :] - 0.5, 0.4)


def _draw_lesion(lesion, skin, echo, specular, excess, mask, z, x, spacing, rng):
    """Draw one lesion into the maps: halo and spicules around, margin, inside, losses."""
    rho, angle, reach = _polar(lesion, z, x)
    mean_radius = math.sqrt(lesion.radii[0] * lesion.radii[1])
    distance = (rho - 1) * (reach / rho)
    soft = lesion.edge
    if soft > 0.25:
        distance = distance + np.float32(0.5 * soft) * random_field(z, x, 1.0, 1.0, rng)
    # A lesion may reach the skin but does not grow out of it.
    below_skin = _step(z - np.float32(skin), 0.1)[:, None]
    inside = _step(-distance, soft) * below_skin

    if lesion.halo:
        width = 0.12 * mean_radius + 0.6
        rim = np.exp(-((np.maximum(distance, 0) / np.float32(width)) ** 2)) * (1 - inside)
        level = np.float32(lesion.halo) * np.exp(np.float32(0.3) * random_field(z, x, 2, 2, rng))
        echo += (np.maximum(level - 2, echo) - echo + 1) * rim
    if lesion.spicules:
        phase = rng.uniform(-math.pi, math.pi, lesion.spicules)
        extent = mean_radius * rng.uniform(0.15, 0.6, lesion.spicules)
        table = np.linspace(-math.pi, math.pi, 721)
        away = np.abs((table[:, None] - phase + math.pi) % (2 * math.pi) - math.pi)
        length = (extent * np.exp(-((away / 0.09) ** 2))).max(1)
        index = (angle + np.float32(math.pi)) * np.float32(720 / (2 * math.pi))
        local = length[index.astype(np.intp)].astype(np.float32)
        spike = _step(local - np.maximum(distance, 0), 0.3) * (local > 0.15) * (1 - inside) * below_skin
        echo += (np.float32(0.5 * lesion.echo - 2) - echo) * spike * np.float32(0.7)

    target = np.float32(lesion.echo)
    grain = float(rng.uniform(0.9, 2.2))
    variation = np.float32(lesion.texture) * random_field(z, x, grain, 1.5 * grain, rng)
    if lesion.relative:
        ring = (distance > 0.3) & (distance < 2.5)
        target = target + np.float32(np.median(echo[ring])) if ring.any() else target - np.float32(10)
    echo += (target + variation - echo) * inside
    specular *= 1 - inside
    if lesion.septa:
        specular += np.float32(lesion.septa) * inside * ridges(random_field(z, x, 1.5, 3.0, rng), 0.14, spacing)
    if lesion.capsule:
        facing = np.abs(np.sin(angle)) ** 2 * 0.85 + 0.15
        specular += np.float32(lesion.capsule) * facing * np.exp(-((distance / np.float32(0.18)) ** 2))
    if lesion.calcifications:
        for _ in range(lesion.calcifications):
            a, r = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(0, 0.6))
            row = round((lesion.centre[0] + r * lesion.radii[1] * math.sin(a)) / spacing[0] - 0.5)
            col = round((lesion.centre[1] + r * lesion.radii[0] * math.cos(a)) / spacing[1] - 0.5)
            if 0 <= row < len(z) and 0 <= col < len(x):
                specular[row, col] += float(rng.uniform(1.5, 5))
    # Loss per length follows 1/size for large lesions, so that even these leave some light behind them.
    strength = lesion.attenuation * min(1.0, 5.0 / mean_radius)
    excess += np.float32(strength) * inside
    if lesion.edge_shadow:
        tangential = np.abs(np.cos(angle)) ** 12
        excess += np.float32(lesion.edge_shadow) * tangential * np.exp(-((distance / np.float32(0.4)) ** 2))
    mask |= (rho < 1) & (z > skin)[:, None]
