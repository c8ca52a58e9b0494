"""K-Means from the textbook to the best that classical steps around it can do.

The textbook's way, two clusters of grey levels of which the darker is "the lesion", fails on B-mode images:
fat is dark, shadow is dark, and everything darkens with depth. What helps is less the clustering than what
comes before and after it, all of it together:

1. a median filter against speckle (:func:`speckle_filter`),
2. subtraction of the background, which evens out depth and shadow (:func:`flatten_background`),
3. K-Means on the grey levels with several k, solved exactly (:func:`kmeans_1d`),
4. the connected parts of the dark clusters as candidates (:func:`busutils.models.regions.candidate_regions`),
5. their ranking by place, size, shape and contrast: by hand-set rules, or by weights that were fitted with masks
   (:func:`busutils.models.regions.score_regions`, :class:`busutils.models.regions.Trees`),
6. a vote of those ranked first, and a contour drawn anew around what they agree on
   (:func:`busutils.models.regions.random_walker_contour`).

Only ``textbook`` and ``rules`` use no mask; ``improved`` and ``best`` are K-Means candidates with a learned ranking.
Each step is an option of :class:`KMeansSegmenter`, so that an ablation is a loop over options.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import ndimage

from busutils.errors import BusutilsError
from busutils.io import resize_image, resize_map
from busutils.models.regions import (
    Region,
    Trees,
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
    "speckle_filter",
    "vote_weights",
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


# Fitted by benchmarks/kmeans_weights.py ("plain", "full" and the trees that are added to it) and kmeans_presence.py
# ("presence", the chance that the candidates that vote are a lesion at all).
_FITTED = json.loads(Path(__file__).with_name("kmeans_ranking.json").read_text(encoding="utf-8"))
TREES = Trees(*(np.array(_FITTED["trees"][name]) for name in Trees._fields))
WEIGHTS: dict[str, dict[str, float]] = {
    # Set by hand: dark for its surroundings on all sides, compact, in the middle, not small, and away from the edges.
    "rules": {
        "contrast": 2.0,
        "contrast_sides": 2.0,
        "solidity": 4.0,
        "off_centre_squared": -10.0,
        "touches": -1.0,
        "log_area": 0.5,
    },
    **_FITTED["weights"],
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
_TEXTBOOK: dict[str, Any] = {
    "median": 0,
    "background": 0.0,
    "k": (2,),
    "choice": "cluster",
    "openings": (0,),
    "areas": (0.003, 0.5),
    "weights": "plain",
    "voters": 1,
    "contour": "none",
    "reject": 0.0,
}
_IMPROVED = {**_TEXTBOOK, "median": 9, "background": 50.0, "k": (3, 4, 5), "choice": "score", "openings": (4,)}
_BEST = {
    **_IMPROVED,
    "median": 5,
    "background": (50.0, 20.0),
    "k": (3, 5, 7),
    "openings": (4, 8),
    "weights": "full",
    "voters": 30,
    "contour": "walker",
    "reject": 0.07,
}
PRESETS: dict[str, dict[str, Any]] = {
    "textbook": _TEXTBOOK,
    "rules": {**_BEST, "weights": "rules", "voters": 1, "reject": 0.0},
    "improved": _IMPROVED,
    "best": _BEST,
}

_CHOICES = ("cluster", "largest", "score")
_CONTOURS = ("none", "hull", "walker")


def vote_weights(scores: np.ndarray) -> np.ndarray:
    """Weigh candidates in a vote: the odds of each score over those of the first, to the power 3.3.

    Parameters
    ----------
    scores : (n,) ndarray
        In [0, 1], best first.

    Returns
    -------
    (n,) float ndarray

    Examples
    --------
    >>> vote_weights(np.array([0.8, 0.5])).round(2)
    array([1.  , 0.01])
    """
    odds = scores / np.maximum(1 - scores, 1e-12)
    return (odds / odds[0]) ** 3.3


class KMeansSegmenter(Segmenter):
    """K-Means on grey levels, with every step around it that makes it find lesions.

    It is not trained on the images it is used on: :meth:`fit` only checks its input, and :meth:`predict` works without it. But
    the ranking of ``improved`` and ``best`` was fitted once, with masks: see :attr:`provenance`. An option left at None is
    what the preset says.

    Parameters
    ----------
    preset : {"textbook", "rules", "improved", "best"}
        ``textbook``: two clusters of raw grey levels, the darker one whole. ``improved``: median, background subtraction,
        several k, the connected part that a short learned ranking puts first. ``best``: more candidates, a richer learned
        ranking, a vote of the best candidates, and a contour drawn by a random walker. ``rules``: the candidates of
        ``best``, ranked by hand-set rules; nothing is learned.
    size : int, default 256
        Side of the square, in pixels, to which every image is resized.
    median : int, optional
        Window of the speckle filter in pixels at 256²; 0 for none. All lengths scale with `size`.
    background : float or sequence of float, optional
        Sigma of the background in pixels at 256²; 0 for no subtraction. Each of several gives candidates; they are
        measured after subtraction of the first.
    k : tuple of int, optional
        Numbers of clusters; the dark clusters of all of them make candidates.
    choice : {"cluster", "largest", "score"}, optional
        The darkest cluster as it is; its largest connected part; or the best-scored part of all dark
        clusters.
    openings : tuple of int, optional
        Radii, in pixels at 256², of the openings that part candidates from their surroundings.
    areas : (float, float), optional
        Smallest and largest candidate, as shares of the image.
    weights : {"rules", "plain", "full"} or dict, optional
        Weights of the score: a name of `WEIGHTS`, or a mapping of features to weights. ``full`` adds boosted trees.
    voters : int, optional
        So many of the best-scored candidates vote on every pixel, each with a power of the odds of its score; what has at
        least half of the most votes is taken.
    contour : {"none", "hull", "walker"}, optional
        The region as it is, its convex hull, or an outline drawn anew by a random walker.
    reject : float, optional
        Where the candidates that vote are a lesion with less than this chance, by the mean of their features and
        ``WEIGHTS["presence"]``, the answer is "nothing found"; 0 always answers. What it costs and spares is in
        figures/kmeans_presence.csv.

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
        background: float | Sequence[float] | None = None,
        k: Sequence[int] | None = None,
        choice: str | None = None,
        openings: Sequence[int] | None = None,
        areas: Sequence[float] | None = None,
        weights: str | Mapping[str, float] | None = None,
        voters: int | None = None,
        contour: str | None = None,
        reject: float | None = None,
    ) -> None:
        self.preset = preset
        self.size = size
        self.median = median
        self.background = background
        self.k = k
        self.choice = choice
        self.openings = openings
        self.areas = areas
        self.weights = weights
        self.voters = voters
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
        for name, allowed in (("choice", _CHOICES), ("contour", _CONTOURS)):
            if options[name] not in allowed:
                raise BusutilsError(f"{name} must be one of {', '.join(allowed)}, got {options[name]!r}")
        sigmas = options["background"]
        options["background"] = tuple(sigmas) if isinstance(sigmas, Sequence) else (sigmas,)
        for name, value in [("background", sigma) for sigma in options["background"]] + [
            (name, options[name]) for name in ("median", "reject", "voters")
        ]:
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise BusutilsError(f"{name} must be a number from 0 up, got {value!r}")
        if not options["background"] or options["voters"] < 1:
            raise BusutilsError("background needs at least one value, and voters must be at least 1")
        if not options["k"] or min(options["k"]) < 2:
            raise BusutilsError(f"k must name numbers of clusters from 2 up, such as (3, 4, 5), got {options['k']!r}")
        if len(options["areas"]) != 2 or not 0 <= options["areas"][0] < options["areas"][1] <= 1:
            raise BusutilsError(f"areas must be two rising shares of the image, got {options['areas']!r}")
        options["trees"] = None
        if isinstance(options["weights"], str):
            if options["weights"] not in WEIGHTS:
                raise BusutilsError(
                    f"weights must be one of {', '.join(WEIGHTS)} or a mapping, got {options['weights']!r}"
                )
            options["trees"] = TREES if options["weights"] == "full" else None
            options["weights"] = WEIGHTS[options["weights"]]
        return options

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Sets whose masks shaped the weights in use, and the fold that was left out of each, or None.

        What was fitted is no test: :func:`busutils.benchmark.run_benchmark` does not score it.
        """
        options = self.options()
        fitted = options["weights"] in (WEIGHTS["plain"], WEIGHTS["full"])
        score = FITTED_ON["score"] if fitted and options["choice"] == "score" else ()
        presence = FITTED_ON["presence"] if options["reject"] > 0 else ()
        used = dict.fromkeys(score + presence)
        return {"sets": [name for name, _ in used], "folds": [fold for _, fold in used]}

    @provenance.setter
    def provenance(self, value: Mapping[str, Any]) -> None:
        """A file cannot change what shaped this method: its options say so."""

    # -- the steps; a subclass may put another in its place --------------------------------------------------

    def _thresholds(self, flat: np.ndarray, k: int) -> np.ndarray:
        """Grey levels that part the k clusters."""
        return kmeans_1d(flat, k).thresholds

    def _features(self, regions: list[Region], flat: np.ndarray, filtered: np.ndarray) -> dict[str, np.ndarray]:
        """Describe the candidates; add entries to use a feature of your own in `weights`."""
        return region_features(regions, flat, filtered)

    def _run(self, image: np.ndarray) -> dict[str, Any]:
        """All results of all steps for one square image."""
        options = self.options()
        scale = self.size / _REFERENCE_SIDE
        filtered = speckle_filter(image, round(options["median"] * scale)) if options["median"] else image.copy()
        flats = [flatten_background(filtered, sigma * scale) for sigma in options["background"]]
        thresholds = [{k: self._thresholds(flat, k) for k in options["k"]} for flat in flats]
        nothing = np.zeros(image.shape, bool)
        done: dict[str, Any] = {
            "image": image,
            "filtered": filtered,
            "flattened": flats[0],
            "clusters": np.searchsorted(thresholds[0][max(options["k"])], flats[0], side="left").astype(np.uint8),
            "candidates": np.zeros((0, *image.shape), bool),
            "scores": np.zeros(0),
            "presence": np.float64(0.0 if options["choice"] == "score" else np.nan),
            "chosen": nothing,
            "refined": nothing,
        }
        if options["choice"] == "cluster":
            # One grey level only: there is no darker part, hence no lesion.
            darkest = [levels[0] for levels in thresholds[0].values() if levels.size]
            done["chosen"] = done["refined"] = flats[0] <= max(darkest, default=-1)
            return done
        grid = min(_GRID, self.size)
        coarse = [resize_image(flat, grid) for flat in flats]
        radii = [round(radius * grid / _REFERENCE_SIDE) for radius in options["openings"]]
        smallest, largest = options["areas"]
        used = slice(None) if options["choice"] == "score" else slice(1)
        regions = [
            region
            for values, found in zip(coarse, thresholds, strict=True)
            for region in candidate_regions(
                values,
                np.concatenate([levels[used] for levels in found.values()]),
                openings=radii,
                min_area=smallest,
                max_area=largest,
            )
        ]
        if not regions:
            return done
        done["regions"] = regions
        if options["choice"] == "largest":
            scores = np.array([region.area / coarse[0].size for region in regions])
        else:
            done["features"] = self._features(regions, coarse[0], resize_image(filtered, grid))
            scores = score_regions(done["features"], options["weights"], options["trees"])
        done["scores"] = scores
        voters = np.argsort(-scores, kind="stable")[: options["voters"]]
        weights = vote_weights(scores[voters])
        if options["choice"] == "score":
            mean = {
                name: np.average(values[voters], weights=weights)[None] for name, values in done["features"].items()
            }
            done["presence"] = score_regions(mean, WEIGHTS["presence"])[0]
            if done["presence"] < options["reject"]:
                return done
        done["chosen"] = self._enlarged(regions[voters[0]].mask())
        vote = np.tensordot(weights, [regions[index].mask() for index in voters], 1)
        agreed = done["chosen"] if len(voters) == 1 else self._enlarged(vote >= 0.5 * vote.max())
        done["refined"] = self._outline(filtered, agreed, options["contour"])
        return done

    @staticmethod
    def _outline(filtered: np.ndarray, mask: np.ndarray, contour: str) -> np.ndarray:
        if contour == "walker":
            return random_walker_contour(filtered, mask)
        if contour == "hull":
            from skimage.morphology import convex_hull_image

            return convex_hull_image(mask)
        return mask

    def _enlarged(self, mask: np.ndarray) -> np.ndarray:
        return resize_map(mask.astype(np.float32), self.size) >= 0.5

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
            ``candidates`` (n, S, S) bool and ``scores`` (n,) float, best first; ``presence``, one float, the chance
            that the candidates that vote are a lesion (nan where none is chosen by score); ``chosen`` and ``refined``
            (S, S) bool, empty where `presence` is below `reject`. Without a choice among regions there is no candidate.

        Raises
        ------
        ValueError
            If the image is malformed.

        Examples
        --------
        >>> image = np.full((64, 64), 120, np.uint8)
        >>> image[20:40, 24:44] = 30
        >>> list(KMeansSegmenter("textbook", size=64).steps(image))
        ['image', 'filtered', 'flattened', 'clusters', 'candidates', 'scores', 'presence', 'chosen', 'refined']
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

    def postprocess(self, mask: np.ndarray) -> np.ndarray:
        """Return the mask as it is: its outline was drawn before."""
        return mask

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return np.stack([self._run(square)["refined"] for square in squares]).astype(np.float32)
