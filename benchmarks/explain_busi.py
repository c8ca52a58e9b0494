"""Test explanations and uncertainty on real images: shipped weights on BUSI's fold 5, which they never saw.

- ``energy``: share of each map's sum inside the reference, compared with an edge filter and a flat map, on images whose
  lesion was found (Dice of 0.5 or more), because the map of a wrong prediction need not lie inside the lesion;
- ``survival``: rank correlation of each map with itself after the weights were shuffled from the output back to a layer,
  for two regions (predicted lesion, whole image), and as a control with the map of another image;
- ``context``: change of the prediction when calipers are burnt in, or the shadow below the lesion is removed;
- ``uncertainty``: uncertainty of each lesion image by entropy, test-time changes, MC dropout, and disagreement of two shipped
  networks that never saw the fold; AUROC (area under the ROC curve) of pixel entropy for wrong pixels within 10 pixels of
  both contours, compared with the distance to the predicted contour;
- ``band``: both AUROCs over all pixels of that band, and the expected calibration error before and after a temperature
  that was fitted on the validation groups of the training; ``bins`` holds the reliability diagrams behind it;
- ``domain``: uncertainty, and the expected calibration error in the band with and without BUSI's temperature, on the sets
  of two other hospitals; ``domain_bins`` holds the reliability diagrams behind it;
- ``cost``: time of each method divided by that of a forward pass measured beside it (medians within this run), and the
  peak memory of the process so far, including TensorFlow.

Writes figures/explain_busi_<part>.csv.

Usage: python benchmarks/explain_busi.py [PART ...] [--weights busi-light] [--images 30]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_table
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from busutils import datasets, evaluation, explain, jobs, metrics, models, plotting
from busutils.models.training import validation_groups

SIZE = 256
SHUFFLES = 3  # shuffled networks per layer

Map = Callable[[models.Segmenter, np.ndarray, np.ndarray], np.ndarray]


def _large(values: np.ndarray) -> np.ndarray:
    return datasets.resize_map(np.abs(values), (SIZE, SIZE))


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
    """Shuffle weights layer by layer and look at what is left of each map.

    Both networks explain the same region: the predicted lesion, or the whole image, which points at no place. Two maps of
    one region may be similar for that reason alone. As a control, the shuffled network is also given another image.
    """
    lesions = test.lesions()
    images, _ = lesions.load_arrays(SIZE)
    preds = segmenter.predict(images)
    found = [i for i in range(len(lesions)) if preds[i].any()]
    order = np.random.default_rng(0).permutation(found)
    _, first = np.unique(lesions.groups[order], return_index=True)  # so that another image shows another lesion
    chosen = order[np.sort(first)][: max(n // 2, 2)].tolist()
    others = [*chosen[1:], chosen[0]]
    everything = np.ones((SIZE, SIZE), bool)
    rows = []
    for name in tqdm(
        ("Seg-Grad-CAM, bottleneck", "Seg-Grad-CAM, dec1", "HiRes-CAM, bottleneck", "integrated gradients", "edges"),
        desc="survival",
        unit="map",
    ):
        draw = MAPS[name]
        before = {
            "lesion": [draw(segmenter, images[i], preds[i]) for i in chosen],
            "whole image": [draw(segmenter, images[i], everything) for i in chosen],
        }
        for layer in ("logits", "dec1_conv_a", "dec3_conv_a", "bottleneck_conv_a", "enc1_conv_a"):
            for seed in range(SHUFFLES):
                shuffled = explain.randomise(segmenter, layer, seed=seed)
                whole = [draw(shuffled, images[i], everything) for i in chosen]
                after = {
                    ("lesion", "same"): [draw(shuffled, images[i], preds[i]) for i in chosen],
                    ("lesion", "another"): [
                        draw(shuffled, images[j], preds[i]) for i, j in zip(chosen, others, strict=True)
                    ],
                    ("whole image", "same"): whole,
                    ("whole image", "another"): [*whole[1:], whole[0]],
                }
                for (region, shown), maps in after.items():
                    for index, pair in enumerate(zip(before[region], maps, strict=True)):
                        rows.append((index, layer, explain.map_similarity(*pair), name, seed, region, shown))
    table = pd.DataFrame(rows, columns=["image", "layer", "similarity", "map", "shuffle", "region", "shown"])
    # The sign does not matter, and nothing is left in a map of zeros.
    alike = table.assign(similarity=table["similarity"].abs().fillna(0.0))
    means = alike.groupby(["map", "region", "shown", "layer"], sort=False)["similarity"].mean()
    print(means.unstack(sort=False).round(2).to_string())
    return table


def _band(mask: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The band of both contours, and every pixel's nearness to the predicted one."""
    inside, outside = (
        ndimage.distance_transform_edt(part) if part.any() else np.full(pred.shape, SIZE) for part in (pred, ~pred)
    )
    return evaluation.contour_band(mask, pred), -np.maximum(inside * pred, outside * ~pred)


def uncertainty(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Score the uncertainty of pixels and of images."""
    lesions = test.lesions()
    images, masks = lesions.load_arrays(SIZE)
    probs = segmenter.predict_proba(images)
    preds = segmenter.masks_from(probs)
    blind = [models.load_weights(name) for name in ("busi-light", "busi-encoder")]  # neither saw the fold
    blind[1].tta = "none"
    spreads = {
        "changes": explain.tta_proba(segmenter, images)[1],
        "dropout": explain.dropout_proba(segmenter, images, samples=6)[1],
        "disagreement": explain.ensemble_proba(blind, images)[1],
    }
    rows = []
    for i, record in enumerate(lesions):
        band, nearness = _band(masks[i], preds[i])
        errors, bits = (masks[i] != preds[i])[band], explain.entropy(probs[i])[band]
        both = 0 < errors.mean() < 1 if band.any() else False
        candidates = probs[i] >= segmenter.threshold_ / 2
        rows.append(
            {
                "id": record.id,
                "group": record.group,
                "dice": metrics.dice(masks[i], preds[i]),
                "uncertainty": explain.mean_entropy(probs[i], segmenter.threshold_),
                **{
                    name: float(maps[i][candidates].mean()) if candidates.any() else 1.0
                    for name, maps in spreads.items()
                },
                "auc_entropy": roc_auc_score(errors, bits) if both else np.nan,
                "auc_nearness": roc_auc_score(errors, nearness[band]) if both else np.nan,
            }
        )
    table = pd.DataFrame(rows)
    gain = evaluation.compare(table["auc_entropy"], table["auc_nearness"], table["group"].to_numpy())
    print(
        f"AUROC image by image: entropy {evaluation.bootstrap_mean(table['auc_entropy'], table['group'])}, "
        f"less nearness {gain.difference}"
    )
    for name in ("uncertainty", *spreads):
        kept = table.sort_values(name, kind="stable").head(round(0.8 * len(table)))
        poor = roc_auc_score(table["dice"] < 0.5, table[name])
        print(
            f"mean Dice {table['dice'].mean():.3f}; of the 80 % with the least {name} {kept['dice'].mean():.3f}; "
            f"AUROC for a Dice below 0.5 {poor:.3f}"
        )
    return table


def _in_bands(segmenter: models.Segmenter, lesions: datasets.LesionDataset) -> tuple[list, ...]:
    """Truth, probability, error and nearness of the pixels in each image's band; and whole masks and probabilities."""
    images, masks = lesions.load_arrays(SIZE)
    probs = segmenter.predict_proba(images)
    truth, inside, wrong, near = [], [], [], []
    for mask, prob, pred in zip(masks, probs, segmenter.masks_from(probs), strict=True):
        band, nearness = _band(mask, pred)
        truth.append(mask[band])
        inside.append(prob[band])
        wrong.append((mask != pred)[band])
        near.append(nearness[band])
    return truth, inside, wrong, near, list(masks), list(probs)


def _in_domain_temperature(segmenter: models.Segmenter) -> float:
    """Temperature fitted in the bands of the training's own validation groups."""
    train, _ = datasets.load("busi").split(5)
    truth, inside, *_ = _in_bands(segmenter, train.subset(validation_groups(train.groups, 0.15, 0)).lesions())
    return evaluation.fit_temperature(truth, inside)


def band(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Errors and calibration over all pixels near a contour."""
    temperature = _in_domain_temperature(segmenter)
    truth, inside, wrong, near, masks, probs = _in_bands(segmenter, test.lesions())
    pairs = {
        ("band", 1.0): (truth, inside),
        ("band", temperature): (truth, [evaluation.with_temperature(p, temperature) for p in inside]),
        ("whole images", 1.0): (masks, probs),
    }
    bins = pd.concat(
        [evaluation.reliability(*pair).assign(where=where, temperature=used) for (where, used), pair in pairs.items()],
        ignore_index=True,
    )
    write_table(bins.round(5), FIGURES / "explain_busi_bins.csv")
    errors = np.concatenate(wrong)
    rows = {
        "images": len(masks),
        "pixels in the band": len(errors),
        "share of wrong pixels": errors.mean(),
        "AUROC of entropy for wrong pixels": roc_auc_score(errors, explain.entropy(np.concatenate(inside))),
        "AUROC of nearness to the predicted contour": roc_auc_score(errors, np.concatenate(near)),
        "temperature": temperature,
    }
    for (where, used), part in bins.groupby(["where", "temperature"], sort=False):
        rows[f"ECE, {where}, temperature {used:.2f}"] = evaluation.expected_calibration_error(part)
    table = pd.DataFrame({"measure": rows.keys(), "value": rows.values()})
    print(table.to_string(index=False))
    return table


def domain(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Compare uncertainty and calibration in-domain with those on two external sets."""
    temperature = _in_domain_temperature(segmenter)
    others = {"busi, fold 5": test.lesions(), "stu": datasets.load("stu").lesions()}
    bus_bra = datasets.load("bus-bra").lesions()
    few = sorted(np.random.default_rng(0).permutation(len(bus_bra))[:100])
    others["bus-bra"] = bus_bra.subset([bus_bra.ids[i] for i in few])
    tables, bins = [], []
    for name, lesions in others.items():
        truth, inside, _, _, masks, probs = _in_bands(segmenter, lesions)
        for used in (1.0, temperature):
            part = evaluation.reliability(truth, [evaluation.with_temperature(p, used) for p in inside])
            error = evaluation.expected_calibration_error(part)
            bins.append(part.assign(set=name, temperature=used))
            print(f"{name:14s} temperature {used:.2f}: expected calibration error in the band {error:.3f}")
        scores = [metrics.dice(m, p) for m, p in zip(masks, segmenter.masks_from(probs), strict=True)]
        uncertainties = [explain.mean_entropy(prob, segmenter.threshold_) for prob in probs]
        tables.append(
            pd.DataFrame(
                {"set": name, "id": lesions.ids, "group": lesions.groups, "dice": scores, "uncertainty": uncertainties}
            )
        )
    write_table(pd.concat(bins, ignore_index=True).round(5), FIGURES / "explain_busi_domain_bins.csv")
    table = pd.concat(tables, ignore_index=True)
    home = table[table["set"] == "busi, fold 5"]
    for name, part in table.groupby("set", sort=False):
        both = pd.concat([home, part])
        away = np.arange(len(both)) >= len(home)
        print(
            f"{name:14s} n {len(part)}, Dice {part['dice'].mean():.3f}, uncertainty {part['uncertainty'].mean():.3f}; AUROC of "
            f"uncertainty for the set {roc_auc_score(away, both['uncertainty']):.3f}, for a Dice below 0.5 "
            f"{roc_auc_score(part['dice'] < 0.5, part['uncertainty']) if (part['dice'] < 0.5).any() else np.nan:.3f}"
        )
    return table


def context(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Change what surrounds the lesion."""
    lesions = test.lesions()
    images, masks = lesions.load_arrays(SIZE)
    changes = {"calipers added": explain.with_calipers, "shadow removed": explain.without_shadow}
    tables = []
    for name, change in changes.items():
        found = explain.context_test(segmenter, images, masks, change)
        gain = evaluation.compare(found["dice_after"], found["dice_before"], lesions.groups)
        print(f"{name}: Dice {gain.difference}; agreement {found['agreement'].mean():.3f}")
        tables.append(found.assign(change=name, id=lesions.ids, group=lesions.groups))
    return pd.concat(tables, ignore_index=True)


def cost(segmenter: models.Segmenter, test: datasets.LesionDataset, n: int) -> pd.DataFrame:
    """Time each method against a forward pass, for the network as shipped and at the image's own size."""
    import matplotlib.pyplot as plt

    from busutils.models.unet import unet

    images, masks = test.lesions().subset([0]).load_arrays(SIZE)
    image, mask = images[0], masks[0]
    # The same convolutions on every pixel of the image.
    whole = models.UNetSegmenter(size=SIZE, filters=segmenter.filters)
    whole.network_ = unet(SIZE, filters=segmenter.filters)
    whole.network_.set_weights(segmenter.network_.get_weights())
    whole.fitted_ = True

    def seconds(call: Callable[[], object], forward: Callable[[], object], times: int) -> tuple[float, float, float]:
        """Of the first call, which builds what the others use; median of the others; median of their ratios to a pass.

        Each call has a forward pass of its own beside it: whatever else the machine does then slows both.
        """
        start = time.perf_counter()
        call()
        first = time.perf_counter() - start
        spent = []
        for _ in range(times):
            start = time.perf_counter()
            forward()
            middle = time.perf_counter()
            call()
            spent.append((middle - start, time.perf_counter() - middle))
        return first, statistics.median(s for _, s in spent), statistics.median(s / f for f, s in spent)

    def draw(asked: models.Segmenter) -> None:
        maps = explain.feature_maps(asked, image)
        ranked = {name: explain.rank_channels(found, mask).head(8) for name, found in maps.items()}
        figure = plotting.activation_levels(
            {name: maps[name][best["channel"]] for name, best in ranked.items()},
            scores={name: best["iou"].tolist() for name, best in ranked.items()},
        )
        figure.canvas.draw()
        plt.close(figure)

    rows = []
    for asked in (segmenter, whole):

        def forward(asked: models.Segmenter = asked) -> np.ndarray:
            return asked.predict_proba(images)

        calls = {"forward pass": (forward, 10)}
        for name, tell in MAPS.items():
            slow = name in ("integrated gradients", "occlusion")  # they need many passes; once tells enough
            if not slow or asked is segmenter:
                calls[name] = (lambda asked=asked, tell=tell: tell(asked, image, mask), 1 if slow else 10)
        calls["feature maps of all levels"] = (lambda asked=asked: explain.feature_maps(asked, image), 10)
        calls["grid of the whole network, ranked and drawn"] = (lambda asked=asked: draw(asked), 3)
        for name, (call, times) in calls.items():
            first, took, ratio = seconds(call, forward, times)
            peak = jobs.peak_memory_mb()
            rows.append((f"{asked.size}²", name, first, took, ratio, round(peak)))
    table = pd.DataFrame(rows, columns=["network", "method", "first_seconds", "seconds", "forward_passes", "peak_mib"])
    print(table.round(3).to_string(index=False))
    return table


PARTS = {
    "energy": energy,
    "survival": survival,
    "context": context,
    "uncertainty": uncertainty,
    "band": band,
    "domain": domain,
    "cost": cost,
}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--weights", default="busi-light")
    parser.add_argument("--images", type=int, default=30)
    given = parser.parse_args()
    segmenter = models.load_weights(given.weights)
    _, test = datasets.load("busi").split(5)
    for part in given.parts:
        table = PARTS[part](segmenter, test, given.images).round(5)
        write_table(table, FIGURES / f"explain_busi_{part}.csv")


if __name__ == "__main__":
    main()
