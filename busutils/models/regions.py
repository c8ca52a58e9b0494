"""Dark regions of an image as lesion candidates: finding, describing, scoring and outlining them.

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

from busutils.metrics import dice

__all__ = [
    "FEATURES",
    "Region",
    "candidate_regions",
    "oracle",
    "random_walker_contour",
    "region_features",
    "score_regions",
]

_DIAMOND = ndimage.generate_binary_structure(2, 1)
_SQUARE = np.ones((3, 3), bool)


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
    for threshold in sorted(set(thresholds)):
        dark = image <= threshold
        for radius in openings:
            opened = ndimage.binary_opening(dark, structure=_disk(radius)) if radius else dark
            labels, _ = ndimage.label(opened)
            for index, box in enumerate(ndimage.find_objects(labels), start=1):
                crop = labels[box] == index
                # The box bounds the area: most specks are dropped here without a further look.
                if crop.size < smallest:
                    continue
                crop = ndimage.binary_fill_holes(crop)
                if not smallest <= np.count_nonzero(crop) <= largest:
                    continue
                region = Region(box[0].start, box[1].start, crop, image.shape)
                key = np.array([region.top, region.left, *crop.shape]).tobytes() + np.packbits(crop).tobytes()
                found.setdefault(key, region)
    return list(found.values())


def _solidity(crop: np.ndarray) -> float:
    """Area over the area of the convex hull of the pixels' corners."""
    rows = np.flatnonzero(crop.any(axis=1))
    first = crop[rows].argmax(axis=1)
    last = crop.shape[1] - crop[rows][:, ::-1].argmax(axis=1)
    corners = np.concatenate([np.stack([rows + dy, side], axis=1) for dy in (0, 1) for side in (first, last)])
    try:
        return float(np.count_nonzero(crop) / ConvexHull(corners).volume)
    except QhullError:
        return 1.0


# Name → what a larger value means. The order is that of the feature table.
FEATURES: dict[str, str] = {
    "log_area": "natural logarithm of the area as a share of the image",
    "log_area_squared": "its square: with log_area a preferred size",
    "depth": "row of the centroid, 0 at the skin and 1 at the bottom",
    "depth_squared": "its square: with depth a preferred depth",
    "off_centre_squared": "squared distance of the centroid's column from the middle",
    "contrast": "mean of a ring around the region minus mean inside, in units of 100 grey levels",
    "contrast_top": "the same with the ring's upper part only",
    "contrast_bottom": "the same with the lower part: negative above an acoustic shadow",
    "contrast_sides": "the same with the left or the right part, whichever is less",
    "edge": "mean gradient magnitude on the contour, in grey levels per 1/100 of the side",
    "spread": "standard deviation inside, in units of 100 grey levels",
    "darkness": "how much darker than the image's mean, in units of 100 grey levels",
    "black": "share of pixels that were (nearly) black in the original image: outside the field or a cyst",
    "solidity": "area over area of the convex hull",
    "compactness": "4π area over perimeter², 1 for a disk",
    "log_width_to_height": "logarithm of the bounding box's width over height; above 0 is wider than tall",
    "touch_top": "share of the image's upper edge that the region touches",
    "touch_bottom": "share of the lower edge",
    "touch_sides": "share of the left and right edges",
    "touches": "number of the image's edges that the region touches",
}


def region_features(
    regions: Sequence[Region], flat: np.ndarray, filtered: np.ndarray
) -> dict[str, np.ndarray]:
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
    height, width = flat.shape
    flat = np.asarray(flat, dtype=np.float32)
    black = (np.asarray(filtered) <= 8).astype(np.float32)
    smooth = ndimage.gaussian_filter(flat, max(height, width) / 128)
    gradient = np.hypot(*np.gradient(smooth)) * (height + width) / 200
    mean = float(flat.mean())
    ring_width = max(2, round(0.03 * max(height, width)))

    rows = np.empty((len(regions), len(FEATURES)), dtype=float)
    for index, region in enumerate(regions):
        h, w = region.crop.shape
        area = region.area
        ys, xs = np.nonzero(region.crop)
        cy, cx = region.top + ys.mean() + 0.5, region.left + xs.mean() + 0.5
        # The box with a margin for the ring, cut at the image's edges.
        y0, x0 = max(region.top - ring_width, 0), max(region.left - ring_width, 0)
        y1, x1 = min(region.top + h + ring_width, height), min(region.left + w + ring_width, width)
        mask = np.zeros((y1 - y0, x1 - x0), bool)
        mask[region.top - y0 : region.top - y0 + h, region.left - x0 : region.left - x0 + w] = region.crop
        values = flat[y0:y1, x0:x1]
        grown = mask.view(np.uint8)
        for axis in (0, 1):
            grown = ndimage.maximum_filter1d(grown, 2 * ring_width + 1, axis=axis)
        ring = (grown > 0) & ~mask
        inside = values[mask]
        inner = float(inside.mean())
        ring_y, ring_x = np.nonzero(ring)
        ring_values = values[ring]
        # Diagonals through the centre, scaled to the box, part the ring into four.
        dy, dx = (ring_y + y0 + 0.5 - cy) / h, (ring_x + x0 + 0.5 - cx) / w
        parts = {
            "top": dy < -np.abs(dx),
            "bottom": dy > np.abs(dx),
            "left": dx < -np.abs(dy),
            "right": dx > np.abs(dy),
        }
        around = {side: _mean(ring_values[part], inner) - inner for side, part in parts.items()}
        outline = mask & ~ndimage.binary_erosion(mask, structure=_DIAMOND, border_value=0)
        # Each outline pixel is about one pixel of length; corners make this a little short.
        perimeter = max(np.count_nonzero(outline), 1)
        crop = region.crop
        touch_top = crop[0].sum() / width if region.top == 0 else 0.0
        touch_bottom = crop[-1].sum() / width if region.top + h == height else 0.0
        touch_left = crop[:, 0].sum() / height if region.left == 0 else 0.0
        touch_right = crop[:, -1].sum() / height if region.left + w == width else 0.0
        log_area = np.log(area / flat.size)
        depth = cy / height
        rows[index] = (
            log_area,
            log_area**2,
            depth,
            depth**2,
            (cx / width - 0.5) ** 2,
            (_mean(ring_values, inner) - inner) / 100,
            around["top"] / 100,
            around["bottom"] / 100,
            min(around["left"], around["right"]) / 100,
            gradient[y0:y1, x0:x1][outline].mean(),
            inside.std() / 100,
            (mean - inner) / 100,
            black[y0:y1, x0:x1][mask].mean(),
            _solidity(crop),
            min(4 * np.pi * area / perimeter**2, 1.0),
            np.log(w / h),
            touch_top,
            touch_bottom,
            touch_left + touch_right,
            sum(t > 0 for t in (touch_top, touch_bottom, touch_left, touch_right)),
        )
    return dict(zip(FEATURES, rows.T, strict=True))


def _mean(values: np.ndarray, empty: float) -> float:
    return float(values.mean()) if values.size else empty


def score_regions(features: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Score candidate regions by a weighted sum of their features, as an expected Dice.

    Parameters
    ----------
    features : mapping of str to (n,) ndarray
        From :func:`region_features`; further features may be added.
    weights : mapping of str to float
        Weight of each feature, and of the constant ``"intercept"``. Features without a weight do not count.

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
        raise ValueError(f"no such feature: {', '.join(unknown)}; there are {', '.join(sorted(features))}")
    total = sum(
        (weight * features[name] for name, weight in weights.items() if name != "intercept"), start=0.0
    )
    n_regions = len(next(iter(features.values()), ()))
    total = np.broadcast_to(np.asarray(total, dtype=float) + weights.get("intercept", 0.0), (n_regions,))
    return 1 / (1 + np.exp(-np.clip(total, -50, 50)))


def random_walker_contour(
    image: np.ndarray, mask: np.ndarray, *, inner: float = 0.016, outer: float = 0.055, beta: float = 300.0
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
    beta : float, default 300
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
    >>> rough = (y - 32) ** 2 + (x - 32) ** 2 < 13**2
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
    return ndimage.binary_fill_holes(refined)


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
