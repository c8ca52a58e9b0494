"""Train, save and describe the weights that travel with the package.

``python tools/ship_weights.py busi-light`` trains on BUSI's folds 1 to 4 (or loads that training from the cache), writes
``busutils/models/weights/busi-light.npz`` in half precision, loads it back, scores it on fold 5, and writes the card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from busutils import datasets, evaluation, models

FOLDER = Path(models.__file__).parent / "weights"
FOLD = 5
SETTINGS = {"busi-light": ("busi", models.UNetSegmenter())}

CARD = """# {name}

A light U-Net ({size}², channels {filters}) trained from scratch. **For teaching and research only; not a medical device.**

- **Trained on**: {title}, folds 1 to 4 of `datasets/folds/{key}.csv` ({n_train} images). Fold 5 was held out, so that
  anyone can verify the score. Epoch and threshold ({threshold:.3f}) were chosen on validation groups within folds 1 to 4.
- **Command**: `python tools/ship_weights.py {name}`; seed {seed}, {epochs} epochs, settings in the file itself.
- **Scores on fold 5** at 256², {n:.0f} lesion images of {groups:.0f} groups, 95 % bootstrap interval over groups: mean Dice
  {dice:.3f} [{dice_low:.3f}, {dice_high:.3f}], mean IoU {iou:.3f}, median Dice {dice_median:.3f}, lesions missed
  (Dice below 0.1) {missed:.1%}. Something is drawn on {false_alarms:.1%} of its {n_normal:.0f} normal images. One training,
  one seed: the interval does not cover the chance of training.
- **Limits**: one hospital, two scanners of one maker, no patient identities in the set, so that images of one woman may
  stand on both sides. It marks something in nearly every image, lesion or not. Scores fall on other scanners.
- **Licences**: the weights are Apache-2.0 as this package. Licence of the training images: {licence}.
  Whether that bears on weights is unsettled.
- **Cite**: {citation}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SETTINGS)
    parser.add_argument("--root", help="folder of the published folders; BUSUTILS_DATA_DIR by default")
    args = parser.parse_args()
    key, settings = SETTINGS[args.name]
    train, test = datasets.load(key, root=args.root).split(FOLD)
    path = models.fit_on(settings, train, progress=True).save(FOLDER / f"{args.name}.npz", half=True)
    shipped = models.load(path)
    scores = evaluation.summarise(evaluation.evaluate(shipped, test)).iloc[0].to_dict()
    about = datasets.card(key)
    card = CARD.format(
        name=args.name,
        key=key,
        title=about.title,
        licence=about.licence,
        citation=f"{about.citation} doi:{about.doi}",
        n_train=len(train),
        threshold=shipped.threshold_,
        **shipped.get_params(),
        **scores,
    )
    path.with_suffix(".md").write_text(card, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps({"dataset": key, "fold": FOLD, **scores}, indent=1) + "\n")
    print(card)


if __name__ == "__main__":
    main()
