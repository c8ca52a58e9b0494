"""Measure the speed-up by two processes: the K-Means part of the matrix, from empty caches, in one run.

Images are decoded beforehand, so that both runs start with the same cache, and their tables are compared to the last digit.
Writes figures/workers.csv: ``processes, seconds, speed_up, targets``.

Usage: python benchmarks/workers.py [--processes 1 2] [--targets busi stu]
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pandas as pd
from _common import FIGURES, command_line, write_table

from busutils import benchmark, datasets


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--targets", nargs="+", help="test sets; those of the matrix by default")
    given = parser.parse_args()
    matrix = benchmark.BenchmarkSpec.read(Path(__file__).with_name("matrix.yaml"))
    kmeans = {name: method for name, method in matrix.methods.items() if method["kind"] == "kmeans"}
    targets = given.targets or matrix.targets
    spec = benchmark.BenchmarkSpec(kmeans, matrix.sources, targets, matrix.seeds, matrix.folds, matrix.size)
    rows, first = [], None
    for processes in given.processes:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["BUSUTILS_CACHE_DIR"] = cache
            for target in spec.targets:
                datasets.load(target).load_arrays(spec.size)
            start = time.perf_counter()
            table = benchmark.run_benchmark(spec, n_jobs=processes, progress=True)
            seconds = time.perf_counter() - start
        if first is None:
            first = table
        pd.testing.assert_frame_equal(table, first, check_exact=True)
        rows.append({"processes": processes, "seconds": round(seconds, 1)})
        rows[-1] |= {"speed_up": round(rows[0]["seconds"] / seconds, 2), "targets": " ".join(spec.targets)}
        print(rows[-1], flush=True)
    write_table(pd.DataFrame(rows), FIGURES / "workers.csv")


if __name__ == "__main__":
    main()
