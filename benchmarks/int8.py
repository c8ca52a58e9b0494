"""Compare exports in 8-bit integers with exports in single precision: Dice, specificity and size of the file.

Ranges are measured on simulated images and on every tenth training image of BUSI; scores are those on fold 5 of BUSI.
``python benchmarks/inference.py network`` measures the speed. Writes figures/int8.csv.

Usage: python benchmarks/int8.py [busi-light …] [--root FOLDER]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
from _common import FIGURES, command_line, write_table

from busutils import datasets, evaluation, models
from busutils.models.export import PRECISIONS


def main() -> None:
    parser = command_line(__doc__, "root")
    parser.add_argument(
        "weights", nargs="*", default=["busi-light", "bus-all"], help="busi-light and bus-all by default"
    )
    given = parser.parse_args()
    train, test = datasets.load("busi", root=given.root).split(5)
    images, _ = train.subset(range(0, len(train), 10)).load_arrays(256)
    tables, sizes = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for weights in given.weights:
            for precision in PRECISIONS:
                path = Path(folder, f"{weights}-{precision}.onnx")
                models.export_network(models.load_weights(weights), path, precision=precision, images=images)
                table = evaluation.evaluate(models.load(path), test)
                tables.append(table.assign(weights=weights, precision=precision))
                sizes[weights, precision] = round(path.stat().st_size / 1e6, 2)
    scores = evaluation.summarise(pd.concat(tables), ["weights", "precision"])
    scores["megabytes"] = [sizes[row.weights, row.precision] for row in scores.itertuples()]
    write_table(scores.round(4), FIGURES / "int8.csv")
    print(scores.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
