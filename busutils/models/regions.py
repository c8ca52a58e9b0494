"""Dark regions of an image as lesion candidates: finding, describing, ranking and outlining them.

Everything here works without a reference mask. The one exception is :func:`oracle`, which exists to show the
ceiling: how good a choice among the candidates could be at best.

Lengths are shares of the image's side, so that one description fits every size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from busutils.errors import BusutilsError
from busutils.metrics import dice
from busutils.models.segmenter import fill_holes

__all__ = [
    "FEATURES",
    "Region",
    "Trees",
    "candidate_regions",
    "oracle",
    "random_walker_contour",
    "region_features",
    "score_regions",
]


class Region(NamedTuple):
    """A connected region of an image: where its bounding box starts, and its mask inside the box.

    Attributes
    ----------
    top, left : int
        First row and column of the bounding box, in pixels.
    crop : (h, w) bool ndarray
        The region inside its bounding box.
    shape : (int, int)
        Height and width of the whole image.
    """

    top: int
    left: int
    crop: np.ndarray
    shape: tuple[int, int]

    @property
    def area(self) -> int:
        """Pixels of the region."""
        return int(np.count_nonzero(self.crop))

    def mask(self) -> np.ndarray:
        """Return the region as a mask (H, W) of the whole image."""
        full = np.zeros(self.shape, bool)
        height, width = self.crop.shape
        full[self.top : self.top + height, self.left : self.left + width] = self.crop
        return full


def _disk(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= (radius + 0.5) ** 2


def candidate_regions(
    image: np.ndarray,
    thresholds: Iterable[float],
    *,
    openings: Sequence[int] = (1,),
    min_area: float = 0.003,
    max_area: float = 0.5,
) -> list[Region]:
    """Find the connected dark regions below each of several thresholds.

    Each threshold gives a mask of dark pixels. Opening cuts thin bridges between a lesion and its
    surroundings, holes are filled, and every connected part is one candidate.

    Parameters
    ----------
    image : (H, W) ndarray
        Filtered image of any numeric type; lesions are dark.
    thresholds : iterable of float
        Pixels **at or below** a threshold count as dark.
    openings : sequence of int, default (1,)
        Radii of the opening in pixels, each one tried; 0 leaves the mask as it is.
    min_area, max_area : float
        Regions outside these shares of the image are dropped.

    Returns
    -------
    list of Region
        Without repetitions, in a fixed order. Empty where nothing is dark.

    Examples
    --------
    >>> image = np.full((20, 20), 100)
    >>> image[4:10, 5:12] = 20
    >>> [region.area for region in candidate_regions(image, [50])]
    [42]
    """
    found: dict[bytes, Region] = {}
    smallest, largest = min_area * image.size, max_area * image.size
    levels = sorted(set(thresholds))
    for radius in openings:
        # Opening what is dark below every threshold is closing the image once.
        closed = ndimage.grey_closing(image, footprint=_disk(radius)) if radius else image
        for level in levels:
            labels, _ = ndimage.label(fill_holes(closed <= level))
            for index, box in enumerate(ndimage.find_objects(labels), start=1):
                # The box bounds the area: most specks are dropped here without a further look.
                if (box[0].stop - box[0].start) * (box[1].stop - box[1].start) < smallest:
                    continue
                crop = labels[box] == index
                if not smallest <= np.count_nonzero(crop) <= largest:
                    continue
                region = Region(box[0].start, box[1].start, crop, image.shape)
                key = np.array([region.top, region.left, *crop.shape]).tobytes() + np.packbits(crop).tobytes()
                found.setdefault(key, region)
    return list(found.values())


def _solidity(crop: np.ndarray) -> float:
    """Area over the area of the convex hull of the pixels' corners."""
    height, width = crop.shape
    first = crop.argmax(axis=1)
    last = width - crop[:, ::-1].argmax(axis=1)
    rows = np.arange(height)
    # Every row of a connected region has a pixel; its first and last corners are all the hull can need.
    corners = np.empty((4 * height, 2))
    corners[:, 0] = np.concatenate([rows, rows, rows + 1, rows + 1])
    corners[:, 1] = np.concatenate([first, last, first, last])
    try:
        return float(np.count_nonzero(crop) / ConvexHull(corners).volume)
    except QhullError:
        return 1.0


# Name → what it measures. The order is that of the feature table.
FEATURES: dict[str, str] = {
    "log_area": "natural logarithm of the area as a share of the image",
    "log_area_squared": "its square: with log_area a preferred size",
    "height": "height of the bounding box as a share of the image's: shadows are long",
    "width": "width of the bounding box as a share of the image's: fat layers are wide",
    "log_width_to_height": "logarithm of the bounding box's width over height; above 0 is wider than tall",
    "depth": "row of the centroid, 0 at the skin and 1 at the bottom",
    "depth_squared": "its square: with depth a preferred depth",
    "off_centre_squared": "squared distance of the centroid's column from the middle",
    "touch_top": "share of the image's upper edge that the region touches",
    "touch_bottom": "share of the lower edge",
    "touch_sides": "share of the left and right edges",
    "touches": "number of the image's edges that the region touches",
    "contrast": "mean of a ring around the region minus mean inside, in units of 100 grey levels",
    "contrast_wide": "the same with a ring three times as wide",
    "contrast_top": "contrast with the ring's upper part only",
    "contrast_bottom": "contrast with the lower part: low above an acoustic shadow, high above enhancement",
    "contrast_sides": "contrast with the left or the right part, whichever is less",
    "leak": "share of the ring that is darker than half-way between inside and ring",
    "edge": "mean gradient magnitude on the outline, in grey levels per 1/100 of the side",
    "edge_weak": "its lower quartile: how sharp the blurred parts of the outline are",
    "spread": "standard deviation inside, in units of 100 grey levels",
    "darkness": "how much darker than the image's mean the inside is, in units of 100 grey levels",
    "rank": "share of the image that is darker than the mean inside",
    "echo": "mean inside before background subtraction over the image's mean",
    "echo_squared": "its square: with echo a preferred brightness",
    "black": "share of nearly black pixels inside before background subtraction",
    "solidity": "area over area of the convex hull",
    "compactness": "4π area over perimeter², 1 for a disk",
}


def region_features(regions: Sequence[Region], flat: np.ndarray, filtered: np.ndarray) -> dict[str, np.ndarray]:
    """Describe candidate regions by place, size, shape and contrast.

    Parameters
    ----------
    regions : sequence of Region
        Candidates of one image.
    flat : (H, W) ndarray
        Image without speckle and background, in grey levels: contrast is measured on it.
    filtered : (H, W) ndarray
        Image without speckle only: tells black from dark.

    Returns
    -------
    dict of str to (n_regions,) float ndarray
        One array for each name of `FEATURES`.

    Examples
    --------
    >>> image = np.full((20, 20), 100.0)
    >>> image[4:10, 5:12] = 20
    >>> features = region_features(candidate_regions(image, [50]), image, image)
    >>> float(features["contrast"][0]), float(features["solidity"][0])
    (0.8, 1.0)
    """
    if not regions:
        return {name: np.zeros(0) for name in FEATURES}
    height, width = flat.shape
    side, n_pixels = max(height, width), flat.size
    smooth = ndimage.gaussian_filter(np.asarray(flat, dtype=np.float32), side / 128)
    slope = (np.hypot(*np.gradient(smooth)) * side / 100).ravel()
    flat, filtered = flat.astype(float).ravel(), filtered.astype(float).ravel()
    masks = np.stack([region.mask() for region in regions])
    h, w = np.array([region.crop.shape for region in regions]).T

    # The pixels of all masks stand in one list: `owner` is the number of a pixel's mask, `place` where it is in the image.
    def pixels(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.divmod(np.flatnonzero(masks), n_pixels)

    def mean(owner: np.ndarray, values: np.ndarray, empty: np.ndarray | float = 0.0) -> np.ndarray:
        count = np.bincount(owner, minlength=len(regions))
        return np.where(count, np.bincount(owner, values, len(regions)) / np.maximum(count, 1), empty)

    owner, place = pixels(masks)
    area = np.bincount(owner)
    inside = mean(owner, flat[place])
    spread = np.sqrt(mean(owner, (flat[place] - inside[owner]) ** 2))
    echo = mean(owner, filtered[place]) / max(filtered.mean(), 1.0)
    black = mean(owner, filtered[place] <= 8)
    cy, cx = (mean(owner, row_or_column) + 0.5 for row_or_column in np.divmod(place, width))

    owner, place = pixels(_grow(masks, max(4, round(0.09 * side))) & ~masks)
    contrast_wide = mean(owner, flat[place], inside) - inside

    owner, place = pixels(_grow(masks, max(2, round(0.03 * side))) & ~masks)
    ring = flat[place]
    contrast = mean(owner, ring, inside) - inside
    leak = mean(owner, ring < (inside + contrast / 2)[owner], 1.0)
    # Diagonals through the centre, scaled to the box, part the ring into four.
    row, column = np.divmod(place, width)
    dy, dx = (row + 0.5 - cy[owner]) / h[owner], (column + 0.5 - cx[owner]) / w[owner]
    vertical = np.abs(dy) > np.abs(dx)
    quarters = vertical & (dy < 0), vertical & (dy > 0), ~vertical & (dx < 0), ~vertical & (dx > 0)
    top, bottom, left, right = (mean(owner[part], ring[part], inside) - inside for part in quarters)

    owner, place = pixels(masks & ~_shrink(masks))
    edge = mean(owner, slope[place])
    # Each outline pixel is about one pixel of length; diagonal steps make this a little short.
    perimeter = np.bincount(owner)
    rising = slope[place][np.lexsort((slope[place], owner))]
    edge_weak = rising[np.cumsum(perimeter) - perimeter + perimeter // 4]

    log_area = np.log(area / n_pixels)
    borders = masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]
    touching = np.stack([border.mean(axis=1) for border in borders])
    return {
        "log_area": log_area,
        "log_area_squared": log_area**2,
        "height": h / height,
        "width": w / width,
        "log_width_to_height": np.log(w / h),
        "depth": cy / height,
        "depth_squared": (cy / height) ** 2,
        "off_centre_squared": (cx / width - 0.5) ** 2,
        "touch_top": touching[0],
        "touch_bottom": touching[1],
        "touch_sides": touching[2] + touching[3],
        "touches": np.count_nonzero(touching, axis=0).astype(float),
        "contrast": contrast / 100,
        "contrast_wide": contrast_wide / 100,
        "contrast_top": top / 100,
        "contrast_bottom": bottom / 100,
        "contrast_sides": np.minimum(left, right) / 100,
        "leak": leak,
        "edge": edge,
        "edge_weak": edge_weak.astype(float),
        "spread": spread / 100,
        "darkness": (flat.mean() - inside) / 100,
        "rank": np.searchsorted(np.sort(flat), inside) / n_pixels,
        "echo": echo,
        "echo_squared": echo**2,
        "black": black,
        "solidity": np.array([_solidity(region.crop) for region in regions]),
        "compactness": np.minimum(4 * np.pi * area / perimeter**2, 1.0),
    }


def _grow(masks: np.ndarray, distance: int) -> np.ndarray:
    """Dilate each mask of a stack by a square of side 2 × distance + 1."""
    grown = np.pad(masks, ((0, 0), (distance, distance), (distance, distance)))
    width = 1
    while width <= 2 * distance:  # a window of this width becomes up to twice as wide
        step = min(width, 2 * distance + 1 - width)
        grown = grown[:, step:] | grown[:, :-step]
        grown = grown[:, :, step:] | grown[:, :, :-step]
        width += step
    return grown


def _shrink(masks: np.ndarray) -> np.ndarray:
    """Pixels whose four neighbours are in the mask too; beyond the image is outside."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    return masks & padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]


class Trees(NamedTuple):
    """Gradient-boosted regression trees as plain arrays: a row is a tree, its first node the root.

    Attributes
    ----------
    feature : (n_trees, n_nodes) int ndarray
        Place in `FEATURES` of the feature that a node looks at; -1 at a leaf.
    threshold : (n_trees, n_nodes) float ndarray
        Values at or below it go to the left.
    left, right : (n_trees, n_nodes) int ndarray
        The next node.
    value : (n_trees, n_nodes) float ndarray
        What a leaf adds.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    def sum(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Sum over the trees of what each adds for every region.

        Parameters
        ----------
        features : mapping of str to (n,) ndarray
            From :func:`region_features`.

        Returns
        -------
        (n,) float ndarray

        Examples
        --------
        >>> stump = Trees(
        ...     *(np.array([row]) for row in ([0, -1, -1], [-3.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1.0, 2.0]))
        ... )
        >>> stump.sum(dict.fromkeys(FEATURES, np.array([-4.0, -2.0]))).tolist()
        [1.0, 2.0]
        """
        table = np.stack([features[name] for name in FEATURES], axis=1)
        tree, region = np.arange(len(self.feature))[:, None], np.arange(len(table))
        node = np.zeros((len(self.feature), len(table)), int)
        while (inner := (asked := self.feature[tree, node]) >= 0).any():
            left = table[region, asked] <= self.threshold[tree, node]
            node = np.where(inner, np.where(left, self.left[tree, node], self.right[tree, node]), node)
        return self.value[tree, node].sum(axis=0)


def score_regions(
    features: Mapping[str, np.ndarray], weights: Mapping[str, float], trees: Trees | None = None
) -> np.ndarray:
    """Score candidate regions by a weighted sum of their features, and what trees add, as an expected Dice.

    Parameters
    ----------
    features : mapping of str to (n,) ndarray
        From :func:`region_features`; further features may be added.
    weights : mapping of str to float
        Weight of each feature, and of the constant ``"intercept"``. Features without a weight do not count.
    trees : Trees, optional
        Whose sum is added.

    Returns
    -------
    (n,) float ndarray
        In [0, 1]: the weighted sum through the logistic function.

    Raises
    ------
    ValueError
        If there is a weight for an unknown feature.

    Examples
    --------
    >>> score_regions({"solidity": np.array([0.5, 1.0])}, {"solidity": 4, "intercept": -2})
    array([0.5       , 0.88079708])
    """
    if unknown := sorted(set(weights) - set(features) - {"intercept"}):
        raise BusutilsError(f"no such feature: {', '.join(unknown)}; there are {', '.join(sorted(features))}")
    total = sum((weight * features[name] for name, weight in weights.items() if name != "intercept"), start=0.0)
    n_regions = len(next(iter(features.values()), ()))
    total = np.broadcast_to(np.asarray(total, dtype=float) + weights.get("intercept", 0.0), (n_regions,))
    if trees is not None:
        total = total + trees.sum(features)
    return 1 / (1 + np.exp(-np.clip(total, -50, 50)))


def random_walker_contour(
    image: np.ndarray, mask: np.ndarray, *, inner: float = 0.016, outer: float = 0.03, beta: float = 1000.0
) -> np.ndarray:
    """Redraw a region's contour with a random walker between its core and its far surroundings.

    The core is the region eroded by `inner`, the surroundings begin `outer` beyond it. Between the two, every
    pixel goes to whichever a random walk would reach first that is unlikely to cross an edge of the image.

    Parameters
    ----------
    image : (H, W) ndarray
        Filtered image in grey levels.
    mask : (H, W) bool ndarray
        Region to be refined.
    inner, outer : float
        Distances as shares of the image's longer side.
    beta : float, default 1000
        How much an edge hinders the walk.

    Returns
    -------
    (H, W) bool ndarray
        Empty where `mask` is empty.

    References
    ----------
    Grady 2006, Random walks for image segmentation, IEEE TPAMI 28:1768, doi:10.1109/TPAMI.2006.233.

    Examples
    --------
    >>> y, x = np.ogrid[:64, :64]
    >>> image = np.where((y - 32) ** 2 + (x - 32) ** 2 < 15**2, 40.0, 120.0)
    >>> rough = (y - 32) ** 2 + (x - 32) ** 2 < 14**2
    >>> refined = random_walker_contour(image, rough)
    >>> bool((refined == (image < 80)).mean() > 0.99)
    True
    """
    from skimage.segmentation import random_walker

    if not mask.any():
        return mask.copy()
    side = max(mask.shape)
    depth = ndimage.distance_transform_edt(mask)
    away = ndimage.distance_transform_edt(~mask)
    # A small region keeps the deepest half of itself as core.
    core = depth > min(inner * side, depth.max() / 2)
    far = away > max(outer * side, 2.0)
    undecided = ~core & ~far
    if not undecided.any() or not far.any():
        return mask.copy()
    rows = np.flatnonzero(undecided.any(axis=1))
    cols = np.flatnonzero(undecided.any(axis=0))
    # One pixel of margin, so that the surroundings are in the crop.
    box = (
        slice(max(rows[0] - 1, 0), rows[-1] + 2),
        slice(max(cols[0] - 1, 0), cols[-1] + 2),
    )
    labels = np.where(core, 1, np.where(far, 2, 0))[box]
    values = np.asarray(image, dtype=float)[box]
    if np.ptp(values) == 0 or not (labels == 2).any():
        return mask.copy()
    values = values / 255.0
    refined = np.zeros_like(mask)
    refined[box] = random_walker(values, labels, beta=beta, mode="bf") == 1
    return fill_holes(refined)


def oracle(regions: Sequence[Region], mask: np.ndarray) -> tuple[int, float]:
    """Find the candidate closest to a reference mask: the ceiling of any choice among them, not a method.

    Parameters
    ----------
    regions : sequence of Region
        Candidates of one image.
    mask : (H, W) bool ndarray
        Reference mask, of the candidates' image shape.

    Returns
    -------
    index : int
        Of the best candidate; -1 if there is none.
    score : float
        Its Dice; 0 if there is none, nan if the reference is empty.

    Examples
    --------
    >>> image = np.full((20, 20), 100)
    >>> image[4:10, 5:12] = 20
    >>> oracle(candidate_regions(image, [50]), image == 20)
    (0, 1.0)
    """
    if not mask.any():
        return -1, float("nan")
    scores = [dice(mask, region.mask()) for region in regions]
    if not scores:
        return -1, 0.0
    best = int(np.argmax(scores))
    return best, scores[best]
