"""Anatomy of the phantoms: layers, lesions and distractors, drawn at random for every image.

A scene becomes three maps over depth and width: diffuse backscatter in dB relative to glandular tissue, the coherent
amplitude of interfaces (septa, fasciae, capsules), and the attenuation in excess of what the scanner's time-gain
compensation corrects. Descriptors use the words of the ACR BI-RADS atlas for
ultrasound (5th edition, 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from busutils.errors import BusutilsError

# How often each kind appears within its class.
_SHARES = {
    "benign": {"cyst": 0.22, "fibroadenoma": 0.49, "isoechoic": 0.21, "multiple": 0.08},
    "malignant": {"spiculated": 0.65, "microlobulated": 0.35},
}

KINDS = (*_SHARES["benign"], *_SHARES["malignant"], "normal")
"""Kinds of images. The first four are benign, the next two malignant."""


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
    basis = _spline_basis(x, scale, rng.uniform())
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
        Excess two-way attenuation inside, dB per millimetre.
    edge_shadow : float
        Excess attenuation at the lateral borders (refraction), dB per millimetre.
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
    # Smallest and largest ratio of the axes, and how far the long axis tilts.
    form = {"microlobulated": (1.0, 1.6, 35), "spiculated": (0.6, 1.7, 20)}
    low, high, tilt = form.get(kind, (1.15, 2.2, 14))
    ratio = float(np.exp(rng.uniform(math.log(low), math.log(high))))
    angle = math.radians(rng.normal(0, tilt))
    radii = (radius * math.sqrt(ratio), radius / math.sqrt(ratio))
    lesion = Lesion(kind, (0.0, 0.0), radii, angle, np.zeros((1, 2)), -20.0)
    shape, margin, pattern = "oval", "circumscribed", "hypoechoic"
    if kind == "cyst":
        lesion.contour = _contour(rng, 4, 0.05, 1.5)
        complicated = rng.random() < 0.25
        lesion.echo = float(rng.uniform(-26, -18) if complicated else rng.uniform(-45, -32))
        lesion.texture = 2.0 if complicated else 0.5
        lesion.capsule = rng.uniform(0.5, 3)
        lesion.attenuation = -rng.uniform(0.8, 2.2)
        lesion.edge_shadow = rng.uniform(0, 1.2)
        shape = "round" if ratio < 1.2 else "oval"
        pattern = "complicated cyst" if complicated else "anechoic"
    elif kind == "fibroadenoma":
        lobulated = rng.random() < 0.35
        lesion.contour = _contour(rng, 6, 0.10 if lobulated else 0.04, 1.0)
        lesion.echo = float(np.clip(rng.normal(-17.5, 4), -28, -11))
        lesion.texture = rng.uniform(1.0, 4.5)
        lesion.edge = rng.uniform(0.1, 0.35)
        lesion.capsule = rng.uniform(0.3, 2.5)
        lesion.attenuation = rng.normal(-0.95, 0.6)
        lesion.edge_shadow = rng.uniform(0, 1.5)
        lesion.calcifications = int(rng.integers(1, 6)) if rng.random() < 0.12 else 0
        lesion.septa = rng.uniform(0.05, 0.35) if rng.random() < 0.5 else 0.0
    elif kind == "isoechoic":
        lesion.contour = _contour(rng, 5, 0.05, 1.2)
        lesion.relative = True
        lesion.echo = rng.uniform(-4.5, 2.5)
        lesion.texture = 1.2
        lesion.edge = rng.uniform(0.15, 0.4)
        lesion.capsule = rng.uniform(0.8, 2.5)
        lesion.attenuation = rng.normal(0, 0.12)
        pattern = "isoechoic"
    elif kind == "spiculated":
        lesion.contour = _contour(rng, 14, 0.14, 1.35)
        lesion.echo = float(np.clip(rng.normal(-16, 5), -30, -7))
        lesion.texture = rng.uniform(2, 4.8)
        lesion.edge = rng.uniform(0.3, 1.3)
        lesion.septa = rng.uniform(0.03, 0.2) if rng.random() < 0.4 else 0.0
        lesion.halo = rng.uniform(2, 9) if rng.random() < 0.75 else 0.0
        lesion.attenuation = rng.uniform(0.4, 1.9) if rng.random() < 0.8 else rng.uniform(-0.1, 0.2)
        lesion.spicules = int(rng.integers(5, 14))
        lesion.calcifications = int(rng.integers(3, 15)) if rng.random() < 0.3 else 0
        shape, margin = "irregular", kind
        pattern = "hypoechoic" if lesion.texture < 3.6 else "heterogeneous"
    elif kind == "microlobulated":
        # Typical of triple-negative cancers: round, lobulated, very hypoechoic, no shadow.
        lesion.contour = _contour(rng, 10, 0.075, 0.8)
        lesion.echo = float(np.clip(rng.normal(-18, 4), -32, -10))
        lesion.texture = rng.uniform(1.2, 4)
        lesion.edge = rng.uniform(0.2, 0.7)
        lesion.halo = rng.uniform(1, 5) if rng.random() < 0.3 else 0.0
        lesion.attenuation = rng.normal(-0.2, 0.4)
        shape, margin = "irregular" if ratio > 1.3 else "round", kind
    else:
        raise BusutilsError(f"unknown kind of lesion {kind!r}: choose one of {', '.join(KINDS)}")
    posterior = "enhancement" if lesion.attenuation < -0.2 else "none"
    if lesion.attenuation > 0.3:
        posterior = "shadowing"
    tall = radii[0] * abs(math.sin(angle)) + radii[1] * abs(math.cos(angle))
    wide = radii[0] * abs(math.cos(angle)) + radii[1] * abs(math.sin(angle))
    lesion.descriptors = {
        "shape": shape,
        "margin": margin,
        "orientation": "not parallel" if tall > wide else "parallel",
        "echo_pattern": pattern,
        "posterior": posterior,
        "calcifications": "in a mass" if lesion.calcifications else "none",
    }
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
    """Anatomy of an image before it is scanned.

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
        Strength of vessel, ribs, lobules, shadowing ligaments and poor contact: structures that are not lesions.
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
        words = self.lesions[0].descriptors if self.lesions else dict.fromkeys(names, "none")
        return words | {"composition": self.composition}


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
    label = next((label for label, shares in _SHARES.items() if kind in shares), "normal")
    depth = float(np.clip(rng.normal(34, 7), 22, 55))
    width = depth * float(np.clip(np.exp(rng.normal(0.2, 0.15)), 0.95, 1.75))
    composition = str(rng.choice(["fat", "fibroglandular", "heterogeneous"], p=[0.3, 0.3, 0.4]))
    skin = rng.uniform(0.8, 2.2)
    fat = skin + depth * float(rng.uniform(0.02, 0.12) if composition == "fibroglandular" else rng.uniform(0.08, 0.34))
    gland = fat + depth * float(rng.uniform(0.05, 0.25) if composition == "fat" else rng.uniform(0.25, 0.65))
    retro = gland + depth * rng.uniform(0.0, 0.12)
    muscle = retro + depth * rng.uniform(0.2, 0.6)
    layers = {"skin": skin, "fat": fat, "gland": gland, "retro": retro, "muscle": muscle}

    lesions: list[Lesion] = []
    if kind != "normal":
        # Log-normal shares of the picture: median 3.8 % for benign lesions and 12 % for malignant ones.
        median, sigma = (0.038, 1.0) if label == "benign" else (0.12, 0.75)
        share = float(np.clip(median * np.exp(sigma * rng.standard_normal()), 0.004, 0.38))
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
    """Place a lesion where sonographers centre it: upper middle, clear of skin and other lesions."""
    half = max(lesion.radii)
    tall = math.hypot(lesion.radii[0] * math.sin(lesion.angle), lesion.radii[1] * math.cos(lesion.angle))
    for _ in range(20):
        z = depth * rng.normal(0.32, 0.1)
        x = width * rng.normal(0.49, 0.14)
        z = min(max(z, skin + tall * 1.08 + 0.3), max(depth - 0.7 * tall, skin + tall))
        x = min(max(x, 0.35 * half), width - 0.35 * half)
        lesion.centre = (z, x)
        reach = [math.sqrt(math.prod(lesion.radii)) + math.sqrt(math.prod(other.radii)) for other in others]
        if all(math.dist(lesion.centre, o.centre) > 1.15 * r for o, r in zip(others, reach, strict=True)):
            return


@dataclass
class Maps:
    """A scene on a square grid of pixels.

    Attributes
    ----------
    z, x : (H,), (W,) float32 ndarray
        Depth and lateral position of the pixel centres, mm.
    spacing : (float, float)
        Height and width of a pixel, mm.
    echo_db : (H, W) float32 ndarray
        Diffuse backscatter, dB relative to glandular tissue.
    specular : (H, W) float32 ndarray
        Coherent amplitude of interfaces.
    excess : (H, W) float32 ndarray
        Excess two-way attenuation, dB per millimetre.
    mask : (H, W) bool ndarray
        Lesions.
    """

    z: np.ndarray
    x: np.ndarray
    spacing: tuple[float, float]
    echo_db: np.ndarray
    specular: np.ndarray
    excess: np.ndarray
    mask: np.ndarray


def _empty_maps(scene: Scene, size: int) -> Maps:
    dz, dx = scene.depth / size, scene.width / size
    z, x = (((np.arange(size) + 0.5) * step).astype(np.float32) for step in (dz, dx))
    echo, specular, excess = (np.zeros((size, size), np.float32) for _ in range(3))
    return Maps(z, x, (dz, dx), echo, specular, excess, np.zeros((size, size), bool))


def lesion_loss(scene: Scene, size: int) -> np.ndarray:
    """Attenuation of the echoes by the lesions alone.

    Parameters
    ----------
    scene : Scene
    size : int
        Pixels a side.

    Returns
    -------
    (H, W) float32 ndarray
        Two-way loss from the skin down to each pixel, dB; negative below fluid.
    """
    maps = _empty_maps(scene, size)
    for lesion in scene.lesions:
        # Any generator will do: it roughens soft margins, which moves the loss by a fraction of a pixel.
        _draw_lesion(maps, lesion, scene.layers["skin"], np.random.default_rng(0))
    return np.cumsum(maps.excess, axis=0) * np.float32(maps.spacing[0])


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
    maps = _empty_maps(scene, size)
    _draw_tissue(maps, scene, rng)
    _bend(maps, scene, rng)
    _draw_skin(maps, scene, rng)
    _draw_distractors(maps, scene, rng)
    for lesion in scene.lesions:
        _draw_lesion(maps, lesion, scene.layers["skin"], rng)
    return maps


def _draw_tissue(maps: Maps, scene: Scene, rng: np.random.Generator) -> None:
    """Draw the flat layers: fat with septa, gland with strands and lobules, muscle with striations."""
    z, x, spacing, layers = maps.z, maps.x, maps.spacing, scene.layers

    def border(depth, wave, scale):
        return depth + wave * random_curve(x, scale, rng)[None, :]

    column = z[:, None]
    in_gland = _step(column - border(layers["fat"], 1.5, 5.0), 0.4)
    in_retro = _step(column - border(layers["gland"], 1.4, 6.0), 0.4)
    in_muscle = _step(column - border(layers["retro"], 0.6, 12.0), 0.25)
    beyond = _step(column - border(layers["muscle"], 0.6, 14.0), 0.4)

    # Varies the strength of the sheets; a low mean leaves most of them as broken strokes.
    fade = np.exp(np.float32(0.75) * random_field(z, x, 1.2, 4.0, rng))

    lobules = random_field(z, x, rng.uniform(1.2, 2.4), rng.uniform(6, 11), rng)
    fat_level = rng.normal(-10, 2) + 1.2 * random_field(z, x, 2, 5, rng)
    fat_septa = ridges(lobules, rng.uniform(0.12, 0.2), spacing)

    # Fibrous texture at two scales: long strokes and a short weave.
    strands = random_field(z, x, rng.uniform(0.5, 0.9), rng.uniform(2.5, 5.5), rng)
    weave = random_field(z, x, rng.uniform(0.35, 0.6), rng.uniform(0.9, 2.0), rng)
    fibrous = rng.uniform(1.5, 4.0)
    gland_level = fibrous * strands + rng.uniform(0.5, 3.0) * weave + 2.0 * random_field(z, x, 1.8, 4.5, rng)
    if scene.composition == "heterogeneous" or scene.distractors["lobules"]:
        islands = random_field(z, x, rng.uniform(1.0, 2.5), rng.uniform(2.5, 6), rng)
        depth_of_islands = rng.uniform(5, 13)
        gland_level -= depth_of_islands * _step(islands - np.float32(rng.uniform(0.2, 1.2)), 0.3)
    gland_strands = ridges(strands, 0.14, spacing)

    striae = random_field(z, x, rng.uniform(0.45, 0.8), rng.uniform(6, 14), rng)
    muscle_level = rng.normal(-10, 2) + 2.5 * striae + random_field(z, x, 2, 8, rng)
    muscle_striae = ridges(striae, 0.12, spacing)

    echo = fat_level + rng.uniform(0.3, 1.0) * weave
    echo += (gland_level - echo) * in_gland
    echo += (fat_level - echo) * (in_retro * np.float32(0.7))
    echo += (muscle_level - echo) * in_muscle
    echo += (rng.normal(-18, 4) + 1.5 * weave + 2.0 * striae - echo) * beyond
    strength = [float(np.exp(rng.normal(m, 0.4))) for m in (0.25, 0.15, -0.15)]
    specular = strength[0] * fat_septa * (1 - in_gland + in_retro * (1 - in_muscle))
    specular += strength[1] * gland_strands * in_gland * (1 - in_retro)
    specular += strength[2] * muscle_striae * in_muscle * (1 - beyond)
    specular *= fade
    # Fascia on the muscle: the steepest place of the step is its surface.
    specular += rng.uniform(0.3, 2.0) * (4 * in_muscle * (1 - in_muscle)) ** 2 * np.minimum(fade, 2)
    maps.echo_db, maps.specular = echo, specular
    maps.excess += rng.normal(0.0, 0.05)
    maps.excess += np.float32(0.12) * in_gland * (1 - in_retro)
    maps.excess += np.float32(0.25) * beyond


def _bend(maps: Maps, scene: Scene, rng: np.random.Generator) -> None:
    """Bend the layers: tilt, slow waves, and masses that push the tissue aside."""
    z, x = maps.z, maps.x
    tilt = rng.normal(0, 0.1) * (x - scene.width / 2)
    wave = random_field(z, x, scene.depth / 3, scene.width / 4, rng) * float(abs(rng.normal(0, 1.0)))
    wave += random_field(z, x, 3.0, 4.0, rng) * rng.uniform(0.1, 0.6)
    shift = tilt[None, :] * np.minimum(z / 8, 1)[:, None] + wave
    for lesion in scene.lesions:
        if lesion.kind == "spiculated":
            continue
        relative_z = (z - lesion.centre[0])[:, None] / (1.6 * lesion.radii[1])
        relative_x = (x - lesion.centre[1])[None, :] / (1.4 * lesion.radii[0])
        shift += (-0.45 * 1.6 * lesion.radii[1]) * relative_z * np.exp(-(relative_z**2) - relative_x**2)
    source = np.arange(len(z), dtype=np.float32)[:, None] + (shift / np.float32(maps.spacing[0])).astype(np.float32)
    # Mirrored at the skin and at the lower edge: repeating the last row would draw vertical bars.
    last = np.float32(len(z) - 1.001)
    source = np.clip(last - np.abs(last - np.abs(source)), 0, None)
    row = source.astype(np.intp)
    fraction = source - row.astype(np.float32)
    index = row * len(x) + np.arange(len(x))

    def shifted(image: np.ndarray) -> np.ndarray:
        upper, lower = image.ravel().take(index), image.ravel().take(index + len(x))
        return upper + fraction * (lower - upper)

    maps.echo_db, maps.specular, maps.excess = shifted(maps.echo_db), shifted(maps.specular), shifted(maps.excess)


def _draw_skin(maps: Maps, scene: Scene, rng: np.random.Generator) -> None:
    """Draw gel, epidermis and dermis: a grey band between two bright lines."""
    skin = scene.layers["skin"]
    surface = rng.uniform(0.1, 0.4)
    rows = maps.z < skin + 0.6
    depth = maps.z[rows, None]
    wave = 0.12 * random_curve(maps.x, 10.0, rng)[None, :]
    inside = _step(skin + wave - depth, 0.12)
    level = rng.uniform(-3, 5)
    maps.echo_db[rows] += (level - maps.echo_db[rows]) * inside
    maps.specular[rows] *= 1 - inside
    lines = np.exp(-(((depth - surface) / 0.14) ** 2)) * rng.uniform(1, 4)
    lines = lines + np.exp(-(((depth - skin - wave) / 0.12) ** 2)) * rng.uniform(0.8, 3.5)
    maps.specular[rows] += lines.astype(np.float32)


def _draw_distractors(maps: Maps, scene: Scene, rng: np.random.Generator) -> None:
    """Draw shadowing ligaments, poor contact at the sides, vessels, and ribs with their shadow."""
    z, x, echo, specular, excess = maps.z, maps.x, maps.echo_db, maps.specular, maps.excess
    d = scene.distractors
    depth = z[:, None]
    streak = np.maximum(random_curve(x, rng.uniform(2, 5), rng) - 0.4, 0) * d["streaks"]
    start = scene.layers["fat"] + 2.0 * random_curve(x, 5.0, rng)
    excess += np.float32(0.4) * streak[None, :] * _step(depth - start[None, :], 1.5)
    if d["contact"]:
        side = x if rng.random() < 0.5 else scene.width - x
        reach = scene.width * rng.uniform(0.03, 0.14)
        loss = rng.uniform(4, 20) / max(scene.depth / 12, 1)
        excess[: max(len(z) // 12, 1)] += loss * np.exp(-((side / reach) ** 2))
    if d["vessel"]:
        centre = scene.layers["skin"] + rng.uniform(0.15, 0.7) * (scene.depth - scene.layers["skin"])
        radius = rng.uniform(0.5, 1.3)
        length = rng.uniform(1, 5) * radius
        path = centre + 0.25 * (x - x.mean()) * rng.normal(0, 0.6)
        middle = rng.uniform(0.1, 0.9) * scene.width
        inside = _step(1 - ((depth - path[None, :]) / radius) ** 2 - ((x - middle)[None, :] / length) ** 2, 0.2)
        echo += (np.float32(-25) - echo) * inside
        specular *= 1 - inside
    if d["ribs"] and scene.layers["muscle"] < scene.depth * 0.95:
        middle = rng.uniform(0, 1) * scene.width
        half = rng.uniform(6, 11)
        top = scene.layers["muscle"] - rng.uniform(0, 2)
        arc = top + rng.uniform(0.5, 2.0) * ((x - middle) / half) ** 2 + 0.3 * random_curve(x, 3.0, rng)
        near = np.exp(-(((x - middle) / half) ** 4)).astype(np.float32)
        specular += 4.0 * near[None, :] * np.exp(-(((depth - arc[None, :]) / 0.35) ** 2)).astype(np.float32)
        excess += 4.0 * near[None, :] * _step(depth - arc[None, :] - 0.5, 0.4)


def _draw_lesion(maps: Maps, lesion: Lesion, skin: float, rng: np.random.Generator) -> None:
    """Draw one lesion: halo and spicules around it, margin, interior, attenuation."""
    z, x, spacing, echo, specular, excess = maps.z, maps.x, maps.spacing, maps.echo_db, maps.specular, maps.excess
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
    grain = rng.uniform(0.9, 2.2)
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
    for _ in range(lesion.calcifications):
        a, r = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(0, 0.6))
        row = round((lesion.centre[0] + r * lesion.radii[1] * math.sin(a)) / spacing[0] - 0.5)
        col = round((lesion.centre[1] + r * lesion.radii[0] * math.cos(a)) / spacing[1] - 0.5)
        if 0 <= row < len(z) and 0 <= col < len(x):
            specular[row, col] += rng.uniform(1.5, 5)
    # Attenuation per length follows 1/size for large lesions, so that some signal remains below them.
    strength = lesion.attenuation * min(1.0, 5.0 / mean_radius)
    excess += np.float32(strength) * inside
    if lesion.edge_shadow:
        tangential = np.abs(np.cos(angle)) ** 12
        excess += np.float32(lesion.edge_shadow) * tangential * np.exp(-((distance / np.float32(0.4)) ** 2))
    maps.mask |= (rho < 1) & (z > skin)[:, None]
