"""Train, save and describe the weights that travel with the package.

``python tools/ship_weights.py busi-light`` trains (or loads that training from the cache), writes
``busutils/models/weights/busi-light.npz`` in half precision, loads it back, scores it on images it never saw, and writes
the card.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from busutils import datasets, evaluation, models
from busutils.datasets import phantom

FOLDER = Path(models.__file__).parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """How weights are made, and on what they are scored: fold 5 of a set, or the whole of another one."""

    trained_on: str
    scored_on: str
    fold: int | None
    segmenter: models.Segmenter
    data: str
    limits: str


RECIPES = {
    "busi-light": Recipe(
        "busi",
        "busi",
        5,
        models.UNetSegmenter(),
        "BUSI, folds 1 to 4 of `datasets/folds/busi.csv`. Fold 5 was held out, so that anyone can verify the score",
        "one hospital, two scanners of one maker, no patient identities in the set, so that images of one woman may "
        "stand on both sides. It marks something in nearly every image, lesion or not. Scores fall on other scanners.",
    ),
    "phantom-light": Recipe(
        "phantom?n=600&scanner=mixed&seed=7&calipers=0.3&text=0.3",
        "busi",
        None,
        models.UNetSegmenter(epochs=24),
        "simulated images alone, all three scanners. No real image was used for any choice",
        "it has never seen a body. BUSI's statistics (lesion areas, grey values, texture) guided the simulator's design; no BUSI image or score chose anything in the training.",
    ),
}

CARD = """# {name}

A light U-Net ({size}², channels {filters}) trained from scratch. **For teaching and research only; not a medical device.**

- **Trained on**: {data}. {n_train} images (`{trained_on}`). Epoch and threshold ({threshold:.3f}) were chosen on
  validation groups among them.
- **Command**: `python tools/ship_weights.py {name}`; seed {seed}, {epochs} epochs, settings in the file itself.
- **Scores on {test_name}** at 256², {n:.0f} lesion images of {groups:.0f} groups, 95 % bootstrap interval over groups:
  mean Dice {dice:.3f} [{dice_low:.3f}, {dice_high:.3f}], mean IoU {iou:.3f}, median Dice {dice_median:.3f}, lesions
  missed (Dice below 0.1) {missed:.1%}. Something is drawn on {false_alarms:.1%} of the {n_normal:.0f} normal images. One
  training, one seed: the interval does not cover the chance of training.
- **Limits**: {limits}
- **Licences**: the weights are Apache-2.0 as this package. Licence of the training images: {licence}.
  Whether that bears on weights is unsettled.
- **Phantom generator**: {generator}
- **Cite**: {citation}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--root", help="folder of the published folders; BUSUTILS_DATA_DIR by default")
    args = parser.parse_args()
    recipe = RECIPES[args.name]
    key, _ = datasets.parse_spec(recipe.trained_on)
    train = datasets.load(recipe.trained_on, root=args.root if key != "phantom" else None)
    if recipe.fold:
        train, test = train.split(recipe.fold)
    else:
        test = datasets.load(recipe.scored_on, root=args.root)
    path = models.fit_on(recipe.segmenter, train, progress=True).save(FOLDER / f"{args.name}.npz", half=True)
    shipped = models.load(path)
    scores = evaluation.summarise(evaluation.evaluate(shipped, test)).iloc[0].to_dict()
    about = datasets.card(key)
    generator = phantom.GENERATOR_VERSION if key == "phantom" else None
    card = CARD.format(
        name=args.name,
        data=recipe.data,
        trained_on=recipe.trained_on,
        limits=recipe.limits,
        test_name=f"{recipe.scored_on}, fold {recipe.fold}" if recipe.fold else f"all of {recipe.scored_on}",
        licence=about.licence,
        citation=f"{about.citation} doi:{about.doi}" if about.doi else "this package",
        generator=f"version {generator}" if generator else "not used",
        n_train=len(train),
        threshold=shipped.threshold_,
        **shipped.get_params(),
        **scores,
    )
    facts = {"dataset": recipe.scored_on, "fold": recipe.fold, "generator_version": generator, **scores}
    path.with_suffix(".md").write_text(card, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    print(card)


if __name__ == "__main__":
    main()
