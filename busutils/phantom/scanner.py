"""Scanner model of the phantoms: from scatterers and attenuation to a B-mode image.

The simulation runs at baseband: complex scatterers are convolved with the complex envelope of the pulse, and the
magnitude is the echo envelope. A radio-frequency model gives the same image at ten times the cost.

References
----------
Wagner et al. 1983, "Statistics of speckle in ultrasound B-scans", 10.1109/T-SU.1983.31404
Gao et al. 2009, "A fast convolution-based methodology to simulate 2-D/3-D cardiac ultrasound images" (COLE),
10.1109/TUFFC.2009.1067
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage, sparse

SPEED_OF_SOUND = 1.54
"""Speed of sound in soft tissue, mm per microsecond."""

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian of unit standard deviation."""

# Lateral width over which the beam mixes neighbouring paths, mm.
_BEAM_WIDTH = 2.0

# Shares of an interface's amplitude that scatter diffusely and coherently.
_ROUGH, _SMOOTH = 1.6, 0.3

# Grey level below which the map leaves its straight line.
_TOE = np.float32(0.06)


@dataclass(frozen=True)
class Scanner:
    """A linear-array scanner and its image settings.

    Parameters
    ----------
    name : str
        Name of the preset.
    frequency : float
        Centre frequency of the received pulse, MHz.
    bandwidth : float
        Two-way −6 dB bandwidth as a fraction of the centre frequency.
    aperture : float
        Largest active aperture, mm.
    f_number : float
        Smallest receive F-number: the receive aperture grows with depth until `aperture` is used up.
    focus : float
        Transmit focus, mm.
    lines_per_mm : float
        Scan lines per millimetre; the image between them is interpolated.
    looks : int
        Independent looks that are compounded; more looks reduce speckle.
    noise : float
        Electronic noise at the skin, dB relative to glandular tissue; time-gain compensation amplifies it.
    tgc_slope : float
        Residual of the time-gain compensation, dB per millimetre (negative: deep tissue is too dark).
    dynamic_range : float
        Range from black to white, dB.
    brightness : float
        Grey level in [0, 1] of the 90th percentile of the image.
    gamma : float
        Exponent of the grey map; below 1 brightens dark tones.
    smooth : float
        Speckle reduction: standard deviation of a filter on the log image, mm (lateral; 0.7 of it axially).
    sharpen : float
        Strength of edge enhancement (unsharp mask).
    convex : float
        Share of images in virtual-convex format, whose upper corners are black.
    """

    name: str
    frequency: float = 8.5
    bandwidth: float = 0.42
    aperture: float = 18.0
    f_number: float = 1.8
    focus: float = 18.0
    lines_per_mm: float = 5.0
    looks: int = 3
    noise: float = -75.0
    tgc_slope: float = -0.5
    dynamic_range: float = 56.0
    brightness: float = 0.58
    gamma: float = 1.0
    smooth: float = 0.12
    sharpen: float = 0.3
    convex: float = 0.06


# fmt: off
PRESETS = {
    "clinic": Scanner("clinic"),
    "portable": Scanner(
        "portable", frequency=7.0, bandwidth=0.45, aperture=11.0, f_number=2.6, focus=14.0, lines_per_mm=2.8, looks=1,
        noise=-62.0, tgc_slope=-0.45, dynamic_range=48.0, brightness=0.72, smooth=0.0, sharpen=0.0, convex=0.0,
    ),
    "highend": Scanner(
        "highend", frequency=13.0, bandwidth=0.7, aperture=26.0, f_number=1.4, focus=22.0, lines_per_mm=7.0, looks=4,
        noise=-92.0, tgc_slope=-0.3, dynamic_range=70.0, brightness=0.6, gamma=1.15, smooth=0.1, sharpen=0.7, convex=0.1,
    ),
    "vintage": Scanner(
        "vintage", frequency=5.0, bandwidth=0.4, aperture=12.0, f_number=2.8, focus=12.0, lines_per_mm=2.0, looks=1,
        noise=-60.0, tgc_slope=1.8, dynamic_range=50.0, brightness=0.8, smooth=0.0, sharpen=0.0, convex=0.0,
    ),
}
# fmt: on
"""The named scanners: a mid-range clinic machine, a hand-held one, a current premium one, and an older one with a low
frequency, coarse speckle and strong time-gain compensation."""

MIXED = ("clinic", "portable", "highend")
"""The scanners of a mixed set. ``vintage`` is not among them: no shipped network was trained on it."""


def vary(scanner: Scanner, rng: np.random.Generator) -> Scanner:
    """Draw the settings of one examination around those of a scanner: focus, gain, dynamic range and so on."""
    return replace(
        scanner,
        focus=scanner.focus * float(np.exp(0.25 * rng.standard_normal())),
        frequency=scanner.frequency * (1 + 0.1 * rng.uniform(-1, 1)),
        tgc_slope=scanner.tgc_slope + 0.28 * rng.standard_normal(),
        dynamic_range=scanner.dynamic_range * (1 + 0.15 * rng.uniform(-1, 1)),
        brightness=float(np.clip(scanner.brightness + 0.1 * rng.standard_normal(), 0.35, 0.9)),
        gamma=scanner.gamma * float(np.exp(0.1 * rng.standard_normal())),
        noise=scanner.noise + 4 * rng.standard_normal(),
    )


def lateral_fwhm(scanner: Scanner, depth: np.ndarray) -> np.ndarray:
    """Lateral two-way width of the point-spread function at half its maximum, mm.

    The transmit beam is Gaussian with its waist at the focus; the receive beam is focused at every depth with
    an aperture that grows until it is used up. Their product is as wide as the harmonic sum of squares.

    Parameters
    ----------
    scanner : Scanner
    depth : float or ndarray
        Depth, mm.
    """
    depth = np.maximum(np.asarray(depth, dtype=float), 1.0)
    wavelength = SPEED_OF_SOUND / scanner.frequency
    waist = wavelength * scanner.focus / min(scanner.aperture, scanner.focus / scanner.f_number)
    # Rayleigh length of a Gaussian beam written with the FWHM of its amplitude (w = FWHM / sqrt(4 ln 2) ...).
    rayleigh = math.pi * waist**2 / (4 * math.log(2) * wavelength)
    transmit = waist * np.sqrt(1 + ((depth - scanner.focus) / rayleigh) ** 2)
    receive = wavelength * np.maximum(scanner.f_number, depth / scanner.aperture)
    return 1 / np.sqrt(1 / transmit**2 + 1 / receive**2)


def convolve(scatterers: np.ndarray, scanner: Scanner, spacing: tuple[float, float]) -> np.ndarray:
    """Convolve complex scatterers with the depth-dependent point-spread function at baseband.

    Parameters
    ----------
    scatterers : (H, W) complex ndarray
        Complex scattering amplitude of each cell; row 0 lies at the skin.
    scanner : Scanner
    spacing : (float, float)
        Cell height and width, mm.

    Returns
    -------
    (H, W) complex64 ndarray
        Complex echo. Scaled so that white scatterers of unit mean power keep unit mean power at every depth.
    """
    height, width = scatterers.shape
    dz, dx = spacing
    # A Gaussian pulse whose amplitude spectrum falls to one half at the edges of the band b f lasts 4 ln 2 / (pi b f)
    # and covers half the distance that sound travels in that time.
    axial_fwhm = SPEED_OF_SOUND / 2 * 4 * math.log(2) / (math.pi * scanner.bandwidth * scanner.frequency)
    sigma_z = axial_fwhm / FWHM / dz
    sigma_x = (lateral_fwhm(scanner, (np.arange(height) + 0.5) * dz) / FWHM / dx).astype(np.float32)
    pad_z = math.ceil(4 * sigma_z)
    pad_x = math.ceil(4 * float(sigma_x.max()))
    rows, columns = fft.next_fast_len(height + pad_z), fft.next_fast_len(width + pad_x)
    # Lateral first: its width belongs to the depth at which the echo arises. A transfer function that differs
    # from row to row makes the width change with depth continuously, without bands.
    kx = fft.fftfreq(columns).astype(np.float32)
    transfer_x = np.exp(np.float32(-2 * math.pi**2) * (sigma_x[:, None] * kx) ** 2)
    transfer_x /= np.sqrt(np.mean(transfer_x**2, axis=1, keepdims=True))
    spectrum = fft.fft(scatterers.astype(np.complex64, copy=False), n=columns, axis=1)
    spectrum *= transfer_x
    # The axial transform does not touch the lateral frequencies: both products are applied in one pass.
    kz = fft.fftfreq(rows).astype(np.float32)
    transfer_z = np.exp(np.float32(-2 * math.pi**2 * sigma_z**2) * kz**2)
    transfer_z /= math.sqrt(float(np.mean(transfer_z**2)))
    lateral = fft.ifft(spectrum, axis=1, overwrite_x=True)[:, :width]
    spectrum = fft.fft(lateral, n=rows, axis=0)
    spectrum *= transfer_z[:, None]
    return fft.ifft(spectrum, axis=0, overwrite_x=True)[:height]


def scan(
    echo_db: np.ndarray,
    specular: np.ndarray,
    excess: np.ndarray,
    scanner: Scanner,
    spacing: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Scan a scene: one linear envelope and the compounded one.

    Parameters
    ----------
    echo_db : (H, W) float32 ndarray
        Diffuse backscatter, dB relative to glandular tissue.
    specular : (H, W) float32 ndarray
        Coherent amplitude of interfaces, linear on the same scale.
    excess : (H, W) float32 ndarray
        Two-way attenuation beyond what the time-gain compensation corrects, dB per millimetre; negative values (fluid)
        give enhancement.
    scanner : Scanner
    spacing : (float, float)
    rng : numpy.random.Generator

    Returns
    -------
    envelope, compounded : (H, W) float32 ndarray
        Linear envelope of a single look (fully developed speckle), and the mean of all looks.
    """
    height, width = echo_db.shape
    # Amplitude that is left after the losses along the beam, whose width mixes neighbouring paths.
    loss = np.cumsum(excess, axis=0, dtype=np.float32) * np.float32(spacing[0])
    loss = ndimage.gaussian_filter1d(loss, _BEAM_WIDTH / FWHM / spacing[1], axis=1, mode="nearest")
    pass_factor = np.exp(loss * np.float32(-math.log(10) / 20))
    depth = (np.arange(height, dtype=np.float32) + 0.5) * spacing[0]
    # Time-gain compensation of 0.5 dB/(cm MHz), down and back, amplifies the noise too.
    noise = 10 ** ((scanner.noise + 2 * 0.05 * scanner.frequency * depth) / 20)
    # Interfaces are rough: part of their echo is coherent, part adds to the diffuse power.
    power = np.exp(echo_db * np.float32(math.log(10) / 10)) + (np.float32(_ROUGH) * specular) ** 2
    # Noise adds to the power of the scatterers: the receive filter then applies to it, and no second draw is needed.
    amplitude = np.sqrt(power * pass_factor**2 + (noise**2)[:, None].astype(np.float32))
    coherent = np.float32(_SMOOTH) * specular * pass_factor
    envelopes = []
    for _ in range(scanner.looks):
        # Many scatterers a cell: circular complex Gaussian numbers of unit mean power.
        pairs = rng.standard_normal((height, width, 2), dtype=np.float32) * np.float32(math.sqrt(0.5))
        scatterers = pairs.view(np.complex64)[..., 0]
        envelopes.append(np.abs(convolve(amplitude * scatterers + coherent, scanner, spacing)))
    return envelopes[0], sum(envelopes) / np.float32(scanner.looks)


def to_lines(width: int, lines: int) -> sparse.csr_array:
    """Sparse matrix ``(width, width)`` that samples a row at scan lines and interpolates it back linearly."""

    def interpolation(targets, sources):
        place = np.clip((targets - sources[0]) / (sources[1] - sources[0]), 0, len(sources) - 1)
        left = np.minimum(place.astype(np.int32), len(sources) - 2)
        weights = np.stack([1 - (place - left), place - left], axis=1)
        columns = np.stack([left, left + 1], axis=1)
        rows = np.arange(0, 2 * len(targets) + 1, 2)
        return sparse.csr_array((weights.ravel(), columns.ravel(), rows), shape=(len(targets), len(sources)))

    pixels = np.arange(width, dtype=float)
    positions = np.linspace(0, width - 1, max(lines, 2))
    return (interpolation(pixels, positions) @ interpolation(positions, pixels)).astype(np.float32)


def display(envelope: np.ndarray, scanner: Scanner, spacing: tuple[float, float]) -> np.ndarray:
    """Turn a linear envelope into grey levels: log compression, scan conversion, filters, grey map.

    Parameters
    ----------
    envelope : (H, W) ndarray
        Linear envelope.
    scanner : Scanner
    spacing : (float, float)

    Returns
    -------
    (H, W) uint8 ndarray
    """
    height, width = envelope.shape
    dz, dx = spacing
    level = np.log(np.maximum(envelope, np.float32(1e-7))) * np.float32(20 / math.log(10))
    level += np.float32(scanner.tgc_slope) * (np.arange(height, dtype=np.float32)[:, None] * np.float32(dz))
    lines = round(scanner.lines_per_mm * width * dx)
    if lines < width:
        level = np.ascontiguousarray((to_lines(width, lines) @ level.T).T)
    if scanner.smooth > 0:
        level = ndimage.gaussian_filter(level, (0.7 * scanner.smooth / dz, scanner.smooth / dx), mode="nearest")
    if scanner.sharpen > 0:
        blurred = ndimage.gaussian_filter(level, (0.35 / dz, 0.35 / dx), mode="nearest", truncate=3)
        level += np.float32(scanner.sharpen) * (level - blurred)
    white = np.percentile(level[::4, ::4], 90) - scanner.brightness * scanner.dynamic_range
    grey = (level - np.float32(white)) / np.float32(scanner.dynamic_range)
    # A soft toe instead of a hard cut: weak echoes stay just above black, as in clinical grey maps.
    grey = np.where(grey < _TOE, _TOE * np.exp(np.minimum(grey, _TOE) / _TOE - 1), np.minimum(grey, 1))
    if scanner.gamma != 1:
        grey **= np.float32(scanner.gamma)
    return np.rint(grey * 255).astype(np.uint8)


def visible_area(size: int, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Draw the format of the image: pixels of the virtual-convex or rectangular field of view, (size, size) bool."""
    drawn, top, floor = rng.random(3)
    if drawn >= scanner.convex:
        return np.ones((size, size), bool)
    across = np.abs((np.arange(size) + 0.5) / size * 2 - 1)
    down = (np.arange(size) + 0.5) / size
    half = 0.7 + 0.2 * top
    return across[None, :] < half + (1 - half) * down[:, None] / (0.4 + 0.6 * floor)
