"""Do the maps show the lesion, and does doubt know the errors? Shipped weights on BUSI's fold 5, which they never saw.

- ``energy``: share of each map's sum inside the reference, against that of an edge filter and of a flat map, on images
  whose lesion was found (Dice of 0.5 or more), since a map of a wrong answer has no reason to lie inside the lesion;
- ``survival``: rank correlation of each map with itself after the weights were shuffled from the output back to a layer;
- ``doubt``: inside a band of 10 pixels round both contours, the area under the ROC curve of pixel entropy for wrong pixels,
  against that of the distance to the predicted contour; the expected calibration error there, before and after a
  temperature that was fitted on the validation groups of the training; and the mean Dice of the 80 % of lesion images with the
  least doubt, less that of all;
- ``cost``: seconds of each method over those of a forward pass, both the median of ten calls in this run.

Writes figures/explain_busi_<part>.csv.

Usage: python benchmarks/explain_busi.py [energy survival doubt cost] [--weights busi-light] [--images 40]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from busutils import datasets, evaluation, explain, jobs, metrics, models
from busutils.models.training import validation_groups

FIGURES = Path(__file__).parents[1] / "figures"
SIZE = 256

Map = Callable[[models.Segmenter, np.ndarray, np.ndarray], np.ndarray]


def _large(values: np.ndarray) -> np.ndarray:
    return datasets.pixels.resize_map(np.abs(values), (SIZE, SIZE))


MAPS: dict[str, Map] = {
    "Seg-Grad-CAM, bottleneck": lambda s, image, region: explain.seg_grad_cam(s, image, region=region),
    "Seg-Grad-CAM, dec1": lambda s, image, region: explain.seg_grad_cam(s, image, layer="dec1", region=region),
    "HiRes-CAM, bottleneck": lambda s, image, region: explain.hires_cam(s, image, region=region),
    "integrated gradients": lambda s, image, region: _large(
        explain.integrated_gradients(s, image, region=region, steps=16)
    ),
    "occlusion": lambda s, image, region: np.maximum(explain.occlusion(s, image, region=region), 0),
    "edges": lambda s, image, region: explain.edge_map(image),
    "flat": lambda s, image, region: np.ones(image.shape, np.float32),
}


def energy(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Score every map on every image whose lesion was found."""
    lesions = test.lesions()
    images, masks = lesions.load_arrays(SIZE)
    preds = segmenter.predict(images)
    found = [i for i in range(len(lesions)) if metrics.dice(masks[i], preds[i]) >= 0.5]
    chosen = sorted(np.random.default_rng(0).permutation(found)[:n])
    rows = []
    for i in tqdm(chosen, desc="energy", unit="image"):
        for name, tell in MAPS.items():
            inside = explain.energy_inside(tell(segmenter, images[i], preds[i]), masks[i])
            rows.append((lesions.ids[i], lesions.groups[i], name, inside))
    table = pd.DataFrame(rows, columns=["id", "group", "map", "inside"])
    for name, part in table.groupby("map", sort=False):
        edges = table[table["map"] == "edges"].set_index("id").loc[part["id"], "inside"]
        gain = evaluation.compare(part["inside"], edges, part["group"].to_numpy())
        print(f"{name:26s} {evaluation.bootstrap_mean(part['inside'], part['group'])}  less edges: {gain.difference}")
    return table


def survival(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Shuffle weights layer by layer and look at what is left of each map."""
    lesions = test.lesions()
    images, _ = lesions.load_arrays(SIZE)
    chosen = np.random.default_rng(0).permutation(len(lesions))[: max(n // 5, 2)]
    regions = {images[i].tobytes(): segmenter.predict(images[i : i + 1])[0] for i in chosen}
    tables = []
    for name in (
        "Seg-Grad-CAM, bottleneck",
        "Seg-Grad-CAM, dec1",
        "HiRes-CAM, bottleneck",
        "integrated gradients",
        "edges",
    ):

        def tell(s: models.Segmenter, image: np.ndarray, name: str = name) -> np.ndarray:
            region = regions[image.tobytes()]
            return MAPS[name](s, image, region if region.any() else np.ones(image.shape, bool))

        layers = [f"dec{level}_norm_a" for level in (1, 3)] + ["bottleneck_norm_a", "enc1_norm_a"]
        layers = [layer for layer in layers if any(layer == own.name for own in segmenter.network_.layers)]
        tables.append(explain.randomisation_curve(segmenter, tell, images[chosen], layers).assign(map=name))
    table = pd.concat(tables, ignore_index=True)
    print(table.groupby(["map", "layer"], sort=False)["similarity"].mean().unstack(sort=False).round(2).to_string())
    return table


def _band(mask: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The band of both contours, and every pixel's nearness to the predicted one."""
    inside, outside = (
        ndimage.distance_transform_edt(part) if part.any() else np.full(pred.shape, SIZE) for part in (pred, ~pred)
    )
    return evaluation.contour_band(mask, pred), -np.maximum(inside * pred, outside * ~pred)


def doubt(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Score doubt of pixels and of images."""
    train, _ = datasets.load("busi").split(5)
    home = train.subset(validation_groups(train.groups, 0.15, 0)).lesions()
    home_images, home_masks = home.load_arrays(SIZE)
    home_probs = segmenter.predict_proba(home_images)
    bands = [evaluation.contour_band(m, p) for m, p in zip(home_masks, segmenter.masks_from(home_probs), strict=True)]
    temperature = evaluation.fit_temperature(
        [m[b] for m, b in zip(home_masks, bands, strict=True)], [p[b] for p, b in zip(home_probs, bands, strict=True)]
    )
    lesions = test.lesions()
    images, masks = lesions.load_arrays(SIZE)
    probs = segmenter.predict_proba(images)
    preds = segmenter.masks_from(probs)
    _, spreads = explain.shaken_proba(segmenter, images)
    rows, wrong, sure, near, in_band, truth = [], [], [], [], [], []
    for record, image_mask, prob, pred, spread in zip(lesions, masks, probs, preds, spreads, strict=True):
        band, nearness = _band(image_mask, pred)
        errors, bits = (image_mask != pred)[band], explain.entropy(prob)[band]
        both = 0 < errors.mean() < 1 if band.any() else False
        rows.append(
            {
                "id": record.id,
                "group": record.group,
                "dice": metrics.dice(image_mask, pred),
                "doubt": explain.doubt(prob, segmenter.threshold_),
                "spread": float(spread[pred].mean()) if pred.any() else 1.0,
                "auc_entropy": roc_auc_score(errors, bits) if both else np.nan,
                "auc_nearness": roc_auc_score(errors, nearness[band]) if both else np.nan,
            }
        )
        wrong.append(errors), sure.append(bits), near.append(nearness[band]), in_band.append(prob[band])
        truth.append(image_mask[band])
    table = pd.DataFrame(rows)
    wrong_all = np.concatenate(wrong)
    print(f"pixels in the band: {len(wrong_all)}, wrong {wrong_all.mean():.3f}; temperature {temperature:.2f}")
    print(
        f"AUROC for errors, all pixels: entropy {roc_auc_score(wrong_all, np.concatenate(sure)):.3f}, "
        f"nearness {roc_auc_score(wrong_all, np.concatenate(near)):.3f}"
    )
    gain = evaluation.compare(table["auc_entropy"], table["auc_nearness"], table["group"].to_numpy())
    print(
        f"AUROC image by image: entropy {evaluation.bootstrap_mean(table['auc_entropy'], table['group'])}, "
        f"less nearness {gain.difference}"
    )
    for name, values in (
        ("before", in_band),
        ("after", [evaluation.with_temperature(p, temperature) for p in in_band]),
    ):
        reliability = evaluation.reliability([np.concatenate(truth)], [np.concatenate(values)])
        print(f"ECE in the band, {name} temperature: {evaluation.expected_calibration_error(reliability):.4f}")
    everywhere = evaluation.reliability(masks, probs)
    print(f"ECE of whole images: {evaluation.expected_calibration_error(everywhere):.4f}")
    for name in ("doubt", "spread"):
        kept = table.sort_values(name, kind="stable").head(round(0.8 * len(table)))
        print(f"mean Dice {table['dice'].mean():.3f}; of the 80 % with the least {name} {kept['dice'].mean():.3f}")
    return table


def cost(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Time each method against a forward pass."""
    images, masks = test.lesions().subset([0]).load_arrays(SIZE)

    def seconds(call: Callable[[], object]) -> float:
        call()
        spent = []
        for _ in range(10):
            start = time.perf_counter()
            call()
            spent.append(time.perf_counter() - start)
        return statistics.median(spent)

    forward = seconds(lambda: segmenter.predict_proba(images))
    rows = [("forward pass", forward, 1.0)]
    for name, tell in MAPS.items():
        took = seconds(lambda tell=tell: tell(segmenter, images[0], masks[0]))
        rows.append((name, took, took / forward))
    levels = ["enc1", "enc2", "enc3", "enc4", "bottleneck", "dec4", "dec3", "dec2", "dec1"]
    took = seconds(lambda: explain.feature_maps(segmenter, images[0], levels))
    rows.append(("feature maps of all levels", took, took / forward))
    table = pd.DataFrame(rows, columns=["method", "seconds", "forward_passes"]).round(4)
    print(table.to_string(index=False))
    return table


PARTS = {"energy": energy, "survival": survival, "doubt": doubt, "cost": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--weights", default="busi-light")
    parser.add_argument("--images", type=int, default=40)
    given = parser.parse_args()
    segmenter = models.load_weights(given.weights)
    _, test = datasets.load("busi").split(5)
    for part in given.parts:
        table = PARTS[part](segmenter, test, given.images).round(5)
        with jobs.atomic_path(FIGURES / f"explain_busi_{part}.csv") as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    main()
