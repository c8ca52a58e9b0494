"""K-Means from the textbook to the best a chain of classical steps can do, without any training.

The textbook's way, two clusters of grey levels of which the darker is "the lesion", fails on B-mode images:
fat is dark, shadow is dark, and everything darkens with depth. What helps is less the clustering than what
comes before and after it:

1. a median filter against speckle (:func:`speckle_filter`),
2. subtraction of the background, which evens out depth and shadow (:func:`flatten_background`),
3. K-Means on the grey levels with several k, solved exactly (:func:`kmeans_1d`), or on vectors of grey level,
   place and texture (:func:`kmeans_vectors`),
4. the connected parts of the dark clusters as candidates (:func:`busutils.models.regions.candidate_regions`),
5. the choice of one by place, size, shape and contrast (:func:`busutils.models.regions.score_regions`),
6. a contour drawn anew around it (:func:`busutils.models.regions.random_walker_contour`).

Each step is an option of :class:`KMeansSegmenter`, so that an ablation is a loop over options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import ndimage

from busutils.errors import BusutilsError
from busutils.io import resize_image, resize_map
from busutils.models.regions import (
    Region,
    candidate_regions,
    random_walker_contour,
    region_features,
    score_regions,
)
from busutils.models.segmenter import Segmenter

__all__ = [
    "PRESETS",
    "WEIGHTS",
    "Clusters",
    "KMeansSegmenter",
    "flatten_background",
    "kmeans_1d",
    "kmeans_vectors",
    "local_texture",
    "speckle_filter",
]

# Lengths in the options are in pixels of an image of this side; other sizes scale them.
_REFERENCE_SIDE = 256
# Candidates are found and measured on a coarser grid: their outline is redrawn or smoothed afterwards.
_GRID = 128


class Clusters(NamedTuple):
    """Result of :func:`kmeans_1d`.

    Attributes
    ----------
    centres : (k,) float ndarray
        Mean grey level of each cluster, from dark to bright.
    thresholds : (k - 1,) float ndarray
        Largest grey level of each cluster but the last: a pixel at or below ``thresholds[0]`` is in the
        darkest.
    inertia : float
        Sum over all pixels of the squared distance to the centre of their cluster.
    """

    centres: np.ndarray
    thresholds: np.ndarray
    inertia: float


def kmeans_1d(values: np.ndarray, k: int) -> Clusters:
    """Cluster grey levels into k groups with the least possible inertia.

    In one dimension the clusters are intervals, so that dynamic programming over the 256 grey levels finds
    the best of all partitions. No random start, no iteration, and the cost does not depend on the number of
    pixels.

    Parameters
    ----------
    values : (H, W) uint8 ndarray or (256,) ndarray of counts
        An image, or its histogram (any one-dimensional array of counts: index = grey level).
    k : int
        Number of clusters. Where there are fewer distinct grey levels, there are only as many clusters.

    Returns
    -------
    Clusters
        Centres, thresholds and inertia.

    Raises
    ------
    ValueError
        If k < 1, an image is not uint8, or there is no pixel.

    References
    ----------
    Wang and Song 2011, Ckmeans.1d.dp, The R Journal 3(2):29, doi:10.32614/RJ-2011-015.

    Examples
    --------
    >>> image = np.array([[10, 12], [200, 202]], np.uint8)
    >>> centres, thresholds, inertia = kmeans_1d(image, 2)
    >>> centres, thresholds, inertia
    (array([ 11., 201.]), array([12.]), 4.0)
    """
    if k < 1:
        raise BusutilsError(f"k must be at least 1, got {k}")
    values = np.asarray(values)
    if values.ndim == 2:
        if values.dtype != np.uint8:
            raise BusutilsError(f"an image must be uint8 (0 to 255), got {values.dtype}: give a histogram instead")
        counts = np.bincount(values.ravel(), minlength=256)
    elif values.ndim == 1:
        counts = values
    else:
        raise BusutilsError(f"give an image (H, W) or a histogram of counts, got shape {values.shape}")
    levels = np.flatnonzero(counts)
    if not levels.size:
        raise BusutilsError("there is no pixel to cluster")
    weights = counts[levels].astype(float)
    n = levels.size
    k = min(k, n)
    # Levels are shifted to their mean: sums of squares then lose no digits.
    shift = float(weights @ levels / weights.sum())
    x = levels - shift
    zero = np.zeros(1)
    mass = np.concatenate([zero, np.cumsum(weights)])
    first = np.concatenate([zero, np.cumsum(weights * x)])
    second = np.concatenate([zero, np.cumsum(weights * x * x)])
    # cost[i, j]: inertia of one cluster of the levels i … j - 1.
    start, stop = np.arange(n)[:, None], np.arange(1, n + 1)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = second[stop] - second[start] - (first[stop] - first[start]) ** 2 / (mass[stop] - mass[start])
    cost = np.where(stop > start, np.maximum(cost, 0.0), np.inf)

    # best[j]: least inertia of the first j + 1 levels in the clusters so far; opening[c][j]: where the last
    # begins.
    best = cost[0]
    opening = []
    for _ in range(k - 1):
        total = np.concatenate([zero + np.inf, best[:-1]])[:, None] + cost
        opening.append(total.argmin(axis=0))
        best = total[opening[-1], np.arange(n)]
    bounds = [n]
    for begins in reversed(opening):
        bounds.append(int(begins[bounds[-1] - 1]))
    bounds = [0, *reversed(bounds)] if bounds[-1] else list(reversed(bounds))
    sums = np.diff(first[bounds]) / np.diff(mass[bounds]) + shift
    return Clusters(sums, levels[np.array(bounds[1:-1], dtype=int) - 1].astype(float), float(best[-1]))


def local_texture(image: np.ndarray, size: int = 9) -> np.ndarray:
    """Standard deviation of the grey levels in a square window: how coarse the speckle is.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        Grey image before the speckle filter.
    size : int, default 9
        Side of the window in pixels.

    Returns
    -------
    (H, W) float32 ndarray
        In grey levels.

    Examples
    --------
    >>> image = np.zeros((8, 8), np.uint8)
    >>> image[:, 4:] = np.indices((8, 4)).sum(axis=0) % 2 * 200
    >>> float(local_texture(image, 3)[4, 1]), bool(local_texture(image, 3)[4, 6] > 90)
    (0.0, True)
    """
    values = image.astype(np.float64)
    mean = ndimage.uniform_filter(values, size, mode="nearest")
    square = ndimage.uniform_filter(values * values, size, mode="nearest")
    return np.sqrt(np.maximum(square - mean * mean, 0)).astype(np.float32)


def kmeans_vectors(flat: np.ndarray, texture: np.ndarray, k: int, *, position: float = 0.5) -> np.ndarray:
    """Cluster pixels by grey level, texture and place together, with scikit-learn's K-Means.

    In more than one dimension there is no exact solution at hand: Lloyd's iteration finds the best of four
    seeded starts.

    Parameters
    ----------
    flat : (H, W) ndarray
        Grey levels.
    texture : (H, W) ndarray
        From :func:`local_texture`.
    k : int
        Number of clusters; fewer where there are fewer distinct vectors.
    position : float, default 0.5
        Weight of row and column. All four are brought to unit variance first.

    Returns
    -------
    (H, W) uint8 ndarray
        Clusters numbered from 0 for the one whose mean grey level is lowest. A flat image is one cluster, as
        clusters of nothing but place are none.

    Examples
    --------
    >>> flat = np.full((32, 32), 120.0)
    >>> flat[8:20, 8:20] = 30
    >>> labels = kmeans_vectors(flat, np.zeros_like(flat), 2, position=0)
    >>> bool(((labels == 0) == (flat == 30)).all())
    True
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if np.ptp(flat) == 0:
        return np.zeros(flat.shape, np.uint8)
    rows, columns = np.indices(flat.shape)
    vectors = np.stack([flat, texture, rows, columns], axis=-1).reshape(-1, 4).astype(np.float64)
    vectors = (vectors - vectors.mean(axis=0)) / np.maximum(vectors.std(axis=0), 1e-9)
    vectors[:, 2:] *= position
    # Some thousand vectors place the centres as well as all of them do.
    some = vectors[:: max(1, len(vectors) // 4096)]
    k = min(k, len(np.unique(some, axis=0)))
    # So little work is slower on many threads than on one, and on a busy machine by far.
    with threadpool_limits(1):
        labels = KMeans(k, n_init=4, random_state=0).fit(some).predict(vectors)
    counts = np.bincount(labels, minlength=k)
    grey = np.bincount(labels, weights=flat.ravel().astype(float), minlength=k) / np.maximum(counts, 1)
    # A cluster that no pixel is in comes last.
    order = np.argsort(np.where(counts > 0, grey, np.inf), kind="stable")
    return order.argsort()[labels].reshape(flat.shape).astype(np.uint8)


def speckle_filter(image: np.ndarray, size: int = 9) -> np.ndarray:
    """Smooth speckle by the median of a square window, which keeps edges.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        Grey image.
    size : int, default 9
        Side of the window in pixels; even sizes grow by one, below 2 nothing is filtered.

    Returns
    -------
    (H, W) uint8 ndarray

    Examples
    --------
    >>> image = np.full((9, 9), 50, np.uint8)
    >>> image[4, 4] = 255
    >>> speckle_filter(image, 3).max()
    np.uint8(50)
    """
    from skimage.filters import rank

    if size < 2:
        return image.copy()
    size |= 1
    # rank.median slides a histogram: many times faster than sorting every window.
    padded = np.pad(image, size // 2, mode="edge")
    return rank.median(padded, np.ones((size, size), bool))[size // 2 : -(size // 2), size // 2 : -(size // 2)]


def flatten_background(image: np.ndarray, sigma: float = 50.0) -> np.ndarray:
    """Subtract the slowly varying background: what is left is dark or bright for its surroundings.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        Grey image, best without speckle.
    sigma : float, default 50
        Standard deviation in pixels of the Gaussian that makes the background; 0 subtracts nothing.

    Returns
    -------
    (H, W) uint8 ndarray
        The difference plus the image's mean, cut to 0 … 255.

    Examples
    --------
    >>> ramp = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[:, None], 100, axis=1)
    >>> bool(np.ptp(flatten_background(ramp, 10)[40:60].astype(int)) <= 1 < np.ptp(ramp[40:60]))
    True
    """
    if sigma <= 0:
        return image.copy()
    values = image.astype(np.float32)
    # Three box filters in a row are a Gaussian to within a few per cent, at a cost that does not grow with
    # sigma.
    width = max(1, round(float(np.sqrt(4 * sigma**2 + 1))))
    background = values
    for _ in range(3):
        background = ndimage.uniform_filter(background, width, mode="nearest")
    return np.clip(np.rint(values - background + values.mean()), 0, 255).astype(np.uint8)


# "plain" and "full" weigh the candidates against each other, fitted with benchmarks/kmeans_weights.py on the folds 1
# to 4 of BUS-BRA. "presence" is the chance that the chosen one is a lesion at all, fitted with
# benchmarks/kmeans_presence.py on the same folds and on phantoms, with and without lesions.
WEIGHTS: dict[str, dict[str, float]] = {
    "plain": {
        "log_area": 0.2422,
        "log_area_squared": -0.04301,
        "depth": 1.849,
        "depth_squared": -3.484,
        "off_centre_squared": -12.23,
        "contrast": 2.941,
        "solidity": 2.413,
        "touches": -1.114,
        "intercept": -1.389,
    },
    "full": {
        "log_area": 0.2262,
        "log_area_squared": -0.02845,
        "height": 0.505,
        "width": -0.1048,
        "log_width_to_height": 0.01432,
        "depth": 0.328,
        "depth_squared": -1.465,
        "off_centre_squared": -8.687,
        "touch_top": -0.6715,
        "touch_bottom": -0.1126,
        "touch_sides": -2.215,
        "touches": -0.413,
        "contrast": 1.356,
        "contrast_wide": -0.1186,
        "contrast_top": -0.1653,
        "contrast_bottom": -0.263,
        "contrast_sides": 2.636,
        "leak": -0.4199,
        "edge": -0.01263,
        "edge_weak": 0.0468,
        "spread": -2.816,
        "darkness": -0.03011,
        "rank": -0.4608,
        "echo": -0.153,
        "echo_squared": -0.1831,
        "black": -0.1997,
        "solidity": -0.2487,
        "compactness": 1.03,
        "intercept": 0.548,
    },
    "presence": {
        "log_area": 0.7914,
        "log_area_squared": -0.1002,
        "height": 7.525,
        "width": -1.209,
        "log_width_to_height": -0.6484,
        "depth": 5.295,
        "depth_squared": -13.69,
        "off_centre_squared": -40.74,
        "touch_top": -2.459,
        "touch_bottom": 4.621,
        "touch_sides": -12.44,
        "touches": -0.8822,
        "contrast": 2.958,
        "contrast_wide": 1.352,
        "contrast_top": -0.183,
        "contrast_bottom": 2.895,
        "contrast_sides": 6.585,
        "leak": -9.025,
        "edge": -0.02165,
        "edge_weak": -0.006403,
        "spread": -14.79,
        "darkness": -7.192,
        "rank": -11.38,
        "echo": 0.7811,
        "echo_squared": -1.773,
        "black": -0.6679,
        "solidity": -0.639,
        "compactness": 4.483,
        "intercept": 3.05,
    },
}

# Each with the fold that was left out, or None.
FITTED_ON: dict[str, tuple[tuple[str, int | None], ...]] = {
    "score": (("bus-bra", 5),),
    "presence": (
        ("bus-bra", 5),
        ("phantom?n=400&scanner=mixed&seed=11", None),
        ("phantom?n=300&scanner=mixed&seed=12&kind=normal", None),
    ),
}

# What each preset does; an option given to the segmenter takes precedence.
PRESETS: dict[str, dict[str, Any]] = {
    "textbook": {
        "median": 0,
        "background": 0.0,
        "clustering": "grey",
        "k": (2,),
        "choice": "cluster",
        "openings": (0,),
        "areas": (0.003, 0.5),
        "weights": "plain",
        "contour": "none",
        "reject": 0.0,
    },
    "improved": {
        "median": 9,
        "background": 50.0,
        "clustering": "grey",
        "k": (3, 4, 5),
        "choice": "score",
        "openings": (4,),
        "areas": (0.003, 0.5),
        "weights": "plain",
        "contour": "none",
        "reject": 0.0,
    },
    "best": {
        "median": 9,
        "background": 50.0,
        "clustering": "grey",
        "k": (3, 5, 7),
        "choice": "score",
        "openings": (4, 8),
        "areas": (0.003, 0.5),
        "weights": "full",
        "contour": "walker",
        "reject": 0.06,
    },
}

_CLUSTERINGS = ("grey", "vectors")
_CHOICES = ("cluster", "largest", "score")
_CONTOURS = ("none", "hull", "walker")


class KMeansSegmenter(Segmenter):
    """K-Means on grey levels, with every step around it that makes it find lesions.

    It learns nothing from the images it is used on and never sees a mask of theirs: :meth:`fit` only checks its input,
    and :meth:`predict` works without it. The score that chooses among candidates, though, has weights that were fitted
    once, with masks: see :attr:`provenance`. An option left at None is what the preset says.

    Parameters
    ----------
    preset : {"textbook", "improved", "best"}
        ``textbook``: two clusters of raw grey levels, the darker one whole. ``improved``: median, background
        subtraction, several k, the best-scored connected part. ``best``: more candidates, a richer score,
        and a contour drawn by a random walker.
    size : int, default 256
        Side of the square, in pixels, to which every image is resized.
    median : int, optional
        Window of the speckle filter in pixels at 256²; 0 for none. All lengths scale with `size`.
    background : float, optional
        Sigma of the background in pixels at 256²; 0 for no subtraction.
    clustering : {"grey", "vectors"}, optional
        Exact clusters of grey levels, or scikit-learn's of vectors of grey level, place and texture.
    k : tuple of int, optional
        Numbers of clusters; the dark clusters of all of them make candidates.
    choice : {"cluster", "largest", "score"}, optional
        The darkest cluster as it is; its largest connected part; or the best-scored part of all dark
        clusters.
    openings : tuple of int, optional
        Radii, in pixels at 256², of the openings that part candidates from their surroundings.
    areas : (float, float), optional
        Smallest and largest candidate, as shares of the image.
    weights : {"plain", "full"} or dict, optional
        Weights of the score: a name of `WEIGHTS`, or a mapping of features to weights.
    contour : {"none", "hull", "walker"}, optional
        How the chosen region is outlined anew.
    reject : float, optional
        Where the chosen region is a lesion with less than this chance, by ``WEIGHTS["presence"]``, the answer is
        "nothing found"; 0 always answers. On held-out images of BUS-BRA and on normal phantoms, 0.06 costs 0.01 of
        Dice and rejects a third of what is drawn where there is no lesion, 0.2 costs 0.03 and rejects two thirds.
        On BUSI: 0.006 and one in seven, 0.025 and three in eight.

    Examples
    --------
    >>> image = np.full((1, 64, 64), 120, np.uint8)
    >>> image[:, 20:40, 24:44] = 30
    >>> KMeansSegmenter("textbook", size=64).predict(image).sum()
    np.int64(400)
    """

    supervised: ClassVar[bool] = False
    thread_safe: ClassVar[bool] = True

    def __init__(
        self,
        preset: str = "textbook",
        *,
        size: int = 256,
        median: int | None = None,
        background: float | None = None,
        clustering: str | None = None,
        k: Sequence[int] | None = None,
        choice: str | None = None,
        openings: Sequence[int] | None = None,
        areas: Sequence[float] | None = None,
        weights: str | Mapping[str, float] | None = None,
        contour: str | None = None,
        reject: float | None = None,
    ) -> None:
        self.preset = preset
        self.size = size
        self.median = median
        self.background = background
        self.clustering = clustering
        self.k = k
        self.choice = choice
        self.openings = openings
        self.areas = areas
        self.weights = weights
        self.contour = contour
        self.reject = reject

    def options(self) -> dict[str, Any]:
        """Return the options in force: the preset's, with those that were given in their place.

        Raises
        ------
        ValueError
            If the preset or an option has a value that does not exist.

        Examples
        --------
        >>> KMeansSegmenter("textbook", median=5).options()["median"]
        5
        """
        if self.preset not in PRESETS:
            raise BusutilsError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.size < 8:
            raise BusutilsError(f"size must be at least 8 pixels, got {self.size}")
        given = {name: value for name, value in self.get_params(deep=False).items() if name in PRESETS[self.preset]}
        options = PRESETS[self.preset] | {name: value for name, value in given.items() if value is not None}
        for name, allowed in (("clustering", _CLUSTERINGS), ("choice", _CHOICES), ("contour", _CONTOURS)):
            if options[name] not in allowed:
                raise BusutilsError(f"{name} must be one of {', '.join(allowed)}, got {options[name]!r}")
        for name in ("median", "background", "reject"):
            if not isinstance(options[name], int | float) or not 0 <= options[name] < math.inf:
                raise BusutilsError(f"{name} must be a number from 0 up, got {options[name]!r}")
        if not options["k"] or min(options["k"]) < 2:
            raise BusutilsError(f"k must name numbers of clusters from 2 up, such as (3, 4, 5), got {options['k']!r}")
        if len(options["areas"]) != 2 or not 0 <= options["areas"][0] < options["areas"][1] <= 1:
            raise BusutilsError(f"areas must be two rising shares of the image, got {options['areas']!r}")
        if isinstance(options["weights"], str):
            if options["weights"] not in WEIGHTS:
                raise BusutilsError(
                    f"weights must be one of {', '.join(WEIGHTS)} or a mapping, got {options['weights']!r}"
                )
            options["weights"] = WEIGHTS[options["weights"]]
        return options

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Sets whose masks shaped the weights in use, and the fold that was left out of each, or None.

        What was fitted is no test: :func:`busutils.benchmark.run_benchmark` does not score it.
        """
        options = self.options()
        own = options["weights"] in WEIGHTS.values()
        score = FITTED_ON["score"] if own and options["choice"] == "score" else ()
        presence = FITTED_ON["presence"] if options["reject"] > 0 else ()
        used = dict.fromkeys(score + presence)
        return {"sets": [name for name, _ in used], "folds": [fold for _, fold in used]}

    @provenance.setter
    def provenance(self, value: Mapping[str, Any]) -> None:
        """A file cannot change what shaped this method: its options say so."""

    # -- the steps; a subclass may put another in its place
    # ----------------------------------------------------

    def _thresholds(self, flat: np.ndarray, k: int) -> np.ndarray:
        """Grey levels that part the k clusters."""
        return kmeans_1d(flat, k).thresholds

    def _partition(self, flat: np.ndarray, texture: np.ndarray, k: int) -> np.ndarray:
        """Numbers of the k clusters of vectors, 0 for the darkest."""
        return kmeans_vectors(flat, texture, k)

    def _features(self, regions: list[Region], flat: np.ndarray, filtered: np.ndarray) -> dict[str, np.ndarray]:
        """Describe the candidates; add entries to use a feature of your own in `weights`."""
        return region_features(regions, flat, filtered)

    def _run(self, image: np.ndarray) -> dict[str, Any]:
        """All results of all steps for one square image."""
        options = self.options()
        scale = self.size / _REFERENCE_SIDE
        filtered = speckle_filter(image, round(options["median"] * scale)) if options["median"] else image.copy()
        flat = flatten_background(filtered, options["background"] * scale)
        grid = self.size if options["choice"] == "cluster" else min(_GRID, self.size)
        coarse, coarse_filtered = resize_image(flat, grid), resize_image(filtered, grid)
        # Clusters of grey levels are thresholds of one image; other clusters are images of their own numbers.
        sources: list[tuple[np.ndarray, np.ndarray]]
        used = slice(None) if options["choice"] == "score" else slice(1)
        most = max(options["k"])
        if options["clustering"] == "grey":
            thresholds = {k: self._thresholds(flat, k) for k in options["k"]}
            sources = [(coarse, np.concatenate([levels[used] for levels in thresholds.values()]))]
            clusters = np.searchsorted(thresholds[most], flat, side="left").astype(np.uint8)
        else:
            texture = resize_map(local_texture(image, max(3, round(9 * scale))), grid)
            labels = {k: self._partition(coarse, texture, k) for k in options["k"]}
            sources = [(numbers, np.arange(int(numbers.max()))[used]) for numbers in labels.values()]
            nearest = np.arange(self.size) * grid // self.size
            clusters = labels[most][np.ix_(nearest, nearest)]
        done: dict[str, Any] = {
            "image": image,
            "filtered": filtered,
            "flattened": flat,
            "clusters": clusters,
            "candidates": np.zeros((0, *image.shape), bool),
            "scores": np.zeros(0),
            "chosen": np.zeros(image.shape, bool),
        }
        if options["choice"] == "cluster":
            # One grey level only: there is no darker part, hence no lesion.
            for values, levels in sources:
                if len(levels):
                    done["chosen"] |= values <= levels.max()
            done["refined"] = done["chosen"]
            return done
        smallest, largest = options["areas"]
        radii = [round(radius * grid / _REFERENCE_SIDE) for radius in options["openings"]]
        regions = [
            region
            for values, levels in sources
            for region in candidate_regions(values, levels, openings=radii, min_area=smallest, max_area=largest)
        ]
        done["regions"] = regions
        if not regions:
            done["refined"] = done["chosen"]
            return done
        if options["choice"] == "largest":
            scores = np.array([region.area / coarse.size for region in regions])
        else:
            features = self._features(regions, coarse, coarse_filtered)
            done["features"] = features
            scores = score_regions(features, options["weights"])
        done["scores"] = scores
        best = int(scores.argmax())
        if options["choice"] == "score" and options["reject"] > 0:
            its = {name: values[[best]] for name, values in features.items()}
            if score_regions(its, WEIGHTS["presence"])[0] < options["reject"]:
                done["refined"] = done["chosen"]
                return done
        done["chosen"] = resize_map(regions[best].mask().astype(np.float32), self.size) >= 0.5
        done["refined"] = self._outline(filtered, done["chosen"], options["contour"])
        return done

    @staticmethod
    def _outline(filtered: np.ndarray, mask: np.ndarray, contour: str) -> np.ndarray:
        if contour == "walker":
            return random_walker_contour(filtered, mask)
        if contour == "hull" and mask.any():
            from skimage.morphology import convex_hull_image

            return convex_hull_image(mask)
        return mask

    def steps(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Show what every step makes of one image.

        Parameters
        ----------
        image : (H, W) uint8 ndarray
            One grey image of any size.

        Returns
        -------
        dict of str to ndarray
            In the order of the steps, with S the segmenter's `size`: ``image``, ``filtered``, ``flattened``
            and ``clusters`` (S, S) uint8, clusters numbered from 0 for the darkest with the largest `k`;
            ``candidates`` (n, S, S) bool and ``scores`` (n,) float, best first; ``chosen`` and ``refined``
            (S, S) bool. Without a choice among regions there is no candidate.

        Raises
        ------
        ValueError
            If the image is malformed.

        Examples
        --------
        >>> image = np.full((64, 64), 120, np.uint8)
        >>> image[20:40, 24:44] = 30
        >>> list(KMeansSegmenter("textbook", size=64).steps(image))
        ['image', 'filtered', 'flattened', 'clusters', 'candidates', 'scores', 'chosen', 'refined']
        """
        from busutils.models.segmenter import check_images

        [image] = check_images([image])
        done = self._run(resize_image(image, self.size))
        regions = done.pop("regions", [])
        done.pop("features", None)
        order = np.argsort(-done["scores"], kind="stable")
        done["scores"] = done["scores"][order]
        if regions:
            masks = [resize_map(regions[index].mask().astype(np.float32), self.size) >= 0.5 for index in order]
            done["candidates"] = np.stack(masks)
        return done

    # -- the protocol ----------------------------------------------------------------------------------

    def check_settings(self) -> None:
        """Refuse a preset or an option that does not exist."""
        self.options()

    def _fit(self, images: list[np.ndarray], masks: list[np.ndarray] | None, **options: Any) -> None:
        self.check_settings()

    def postprocess(self, mask: np.ndarray, prob: np.ndarray) -> np.ndarray:
        """Return the mask as it is: its outline was drawn before."""
        return mask

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return np.stack([self._run(square)["refined"] for square in squares]).astype(np.float32)
