"""Measure the audit of the image sets: what it finds, what it costs, and how many near-duplicates a random split leaks.

- BUSI: seconds; recall against the published list of near-duplicates; precision by the recorded verdicts of a person who
  looked at every pair that is not on the list.
- Random 80/20 splits of BUSI's lesion images, 100 seeds: share of test images with a near-duplicate in training; the same
  for the shipped folds, and for all sets of the data folder together.
- The complete audit (reading, candidates, registration) of 1 000, 10 000 and 100 000 simulated frames, each in a new
  process: wall and processor seconds, peak memory. A frame is layered speckle, 280 to 360 pixels high, generated from its
  number when read; one in ten is a copy of another (even numbers shrunk to 4/5, odd ones cropped to 85-97 %, with more
  gain and a bright bar).
- Simulated images with known burnt-in marks: recall and false positives of the flag.
- Reading BUSI at 256² without and from the cache; ``check`` on every folder.

Writes figures/datasets_audit.csv: what, set, n, value, sd.

Usage: python benchmarks/datasets_audit.py [--data DIR] [--only busi scale …] [--scales 1000 10000 100000]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_table
from scipy import ndimage

from busutils import datasets, jobs, phantom
from busutils.datasets import LesionDataset, Record
from busutils.datasets.audit import _BURNT_PX, audit, burnt_in

Row = dict[str, object]
HEIGHTS, WIDTHS = (280, 320, 360), (320, 400, 480)


@dataclass(frozen=True)
class Frame:
    """A frame of layers and speckle, drawn from its number; coarse speckle is drawn small and grown."""

    scene: int
    copy: bool

    def read(self) -> np.ndarray:
        """Draw the pixels (H, W) uint8."""
        rng = np.random.default_rng(self.scene)
        shape = int(rng.choice(HEIGHTS)), int(rng.choice(WIDTHS))
        small = tuple(side * 2 // 5 for side in shape)
        parts = (
            ndimage.gaussian_filter(rng.standard_normal(small, np.float32), (1.2, 1.6), truncate=2.5) for _ in "ab"
        )
        grain = np.hypot(*parts)
        layers = datasets.resize_map(rng.standard_normal((9, 4), np.float32), small)
        depth = np.linspace(1.2, 0.5, small[0], dtype=np.float32)[:, None]
        echo = grain / grain.mean() * np.clip(1 + 0.45 * layers, 0.1, None) * depth * 45
        image = datasets.resize_image(np.clip(echo, 0, 255).astype(np.uint8), shape)
        return self._copied(image) if self.copy else image

    def _copied(self, image: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([self.scene, 1])
        height, width = (round(side * rng.uniform(0.85, 0.97)) for side in image.shape)
        top, left = (int(rng.integers(0, a - b + 1)) for a, b in zip(image.shape, (height, width), strict=True))
        if self.scene % 2:
            image = image[top : top + height, left : left + width]
        else:
            image = datasets.resize_image(image, tuple(side * 4 // 5 for side in image.shape))
        image = np.clip(image * 1.2 + 5, 0, 255).astype(np.uint8)
        image[-24:-18, 20:100] = 245
        return image


def frames(n: int) -> LesionDataset:
    """Nine scenes in ten, and copies of the first ninth of them."""
    scenes = n - n // 10
    numbers = [(k, False) for k in range(scenes)] + [(k, True) for k in range(n // 10)]
    records = [
        Record(f"s{k}{'-copy' * copy}", Frame(k, copy), (), "normal", f"s{k}{'-copy' * copy}", "made-up")
        for k, copy in numbers
    ]
    return LesionDataset(records, name="made-up")


def pairs_of(report: datasets.AuditReport) -> set[tuple[str, str]]:
    return {tuple(sorted(pair)) for pair in zip(report.pairs["id_a"], report.pairs["id_b"], strict=True)}


def scale(n: int) -> None:
    """Audit n frames and print what it took; runs in a process of its own."""
    start, used = time.perf_counter(), time.process_time()
    report = audit(frames(n))
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    want = {tuple(sorted((f"s{k}", f"s{k}-copy"))) for k in range(n // 10)}
    found = pairs_of(report)
    peak = jobs.peak_memory_mb()
    out = {"seconds": wall, "cpu_seconds": cpu, "peak_mb": peak, "compared_pairs": report.n_candidates}
    print(json.dumps({**out, "recall": len(found & want) / len(want), "false_pairs": len(found - want)}))


def scaling(scales: list[int]) -> Iterator[Row]:
    for n in scales:
        # One thread a library call: the audit brings its own two workers.
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--one-scale", str(n)]
        text = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
        for what, value in json.loads(text).items():
            yield {"what": f"scaling {what}", "set": "made-up", "n": n, "value": value}


def leak(groups: np.ndarray, is_test: np.ndarray) -> float:
    """Share of test images whose group is in train too."""
    return float(np.isin(groups[is_test], groups[~is_test]).mean())


def against(pairs: pd.DataFrame, published: pd.DataFrame) -> dict[str, float]:
    """Pairs of an audit compared with a list of ids and groups: pairs of the list, how many were found, pairs beyond it."""
    listed = {frozenset(pair) for _, ids in published.groupby("group")["id"] for pair in itertools.combinations(ids, 2)}
    own = {frozenset(pair) for pair in zip(pairs["id_a"], pairs["id_b"], strict=True)}
    found = len(own & listed)
    return {"published": len(listed), "found": found, "recall": found / len(listed), "beyond": len(own - listed)}


def busi(root: Path) -> Iterator[Row]:
    dataset = datasets.load("busi", root)
    start, used = time.perf_counter(), time.process_time()
    report = audit(dataset)
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    home = resources.files("busutils.datasets")
    published = pd.read_csv(str(home / "busi_published_groups.csv"))
    verdicts = pd.read_csv(str(home / "busi_verdicts.csv"))
    judged = {tuple(sorted(row[:2])): row[2] for row in verdicts[["id_a", "id_b", "verdict"]].itertuples(index=False)}
    listed = published.set_index("id")["group"].to_dict()
    verdict = [
        "same" if a in listed and listed[a] == listed.get(b) else judged.get((a, b), "unseen")
        for a, b in pairs_of(report)
    ]
    counts = {"pairs": len(verdict), "unseen_pairs": verdict.count("unseen"), "different": verdict.count("different")}
    compared = against(report.pairs, published)
    images = report.images["findings"]
    rows = {
        "audit seconds": wall,
        "audit cpu_seconds": cpu,
        "published_pairs": compared["published"],
        "published_pairs_found": compared["found"],
        "recall": compared["recall"],
        "pairs_beyond_the_list": compared["beyond"],
        **counts,
        "precision": 1 - (counts["different"] + counts["unseen_pairs"]) / max(len(verdict), 1),
        "images_with_burnt_in_marks": int(images.str.contains("burnt-in").sum()),
        "images_with_colour": int(images.str.contains("colour").sum()),
    }
    for what, value in rows.items():
        yield {"what": what, "set": "busi", "n": len(dataset), "value": value}
    lesions = dataset.lesions()
    for name, groups in (
        ("published list", np.array([listed.get(id_, id_) for id_ in lesions.ids.tolist()])),
        ("list and audit", lesions.groups),
    ):
        shares = []
        for seed in range(100):
            order = np.random.default_rng(seed).permutation(len(lesions))
            shares.append(leak(groups, order < round(0.2 * len(lesions))))
        row = {"what": f"leak of a random split, {name}", "set": "busi", "n": len(lesions)}
        yield {**row, "value": np.mean(shares), "sd": np.std(shares, ddof=1)}
    worst = max(leak(lesions.groups, lesions.folds() == fold) for fold in range(1, 6))
    yield {"what": "leak of the shipped folds, list and audit", "set": "busi", "n": len(lesions), "value": worst}


def across(root: Path) -> Iterator[Row]:
    """One audit of all sets together: pairs between sets, and what they leak."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = datasets.concatenate(*(datasets.load(key, root) for key in ("busi", "bus-bra", "stu")))
    report = audit(whole)
    source = report.pairs[["id_a", "id_b"]].map(lambda id_: id_.split(":")[0])
    row = {"set": whole.name, "n": len(whole)}
    yield {**row, "what": "pairs", "value": len(report.pairs)}
    yield {**row, "what": "pairs between sets", "value": int((source["id_a"] != source["id_b"]).sum())}
    between = report.pairs["groups_differ"]
    yield {**row, "what": "pairs between groups", "value": int(between.sum())}
    folds = pd.Series(whole.folds(), index=whole.ids)
    parted = report.pairs[folds[report.pairs["id_a"]].to_numpy() != folds[report.pairs["id_b"]].to_numpy()]
    yield {**row, "what": "pairs in two folds", "value": len(parted)}
    joined = report.groups.loc[whole.ids].to_numpy()
    worst = max(leak(joined, whole.folds() == fold) for fold in range(1, 6))
    yield {**row, "what": "leak of the shipped folds, own audit", "value": worst}


def marks() -> Iterator[Row]:
    """The flag for burnt-in marks on phantoms with calipers, with text, with neither."""
    for kind, options in (("calipers", {"calipers": 1.0}), ("text", {"text": 1.0}), ("none", {})):
        hits = []
        for scanner in phantom.MIXED:
            for size, n in ((256, 40), (512, 10)):
                made = (phantom.simulate(i, seed=23, scanner=scanner, size=size, **options) for i in range(n))
                hits += [burnt_in(p.image).sum() >= _BURNT_PX for p in made if kind == "none" or p.marks.any()]
        yield {"what": f"flagged, marks: {kind}", "set": "phantom", "n": len(hits), "value": np.mean(hits)}


def copies() -> Iterator[Row]:
    """Copies of phantoms: cut out, stretched to the old size, another gain."""
    made = datasets.load("phantom", n=300, copies=0.3)
    report = audit(made)
    want = {
        tuple(sorted(pair))
        for group in set(made.groups)
        for pair in itertools.combinations(made.ids[made.groups == group].tolist(), 2)
    }
    found = pairs_of(report)
    yield {"what": "recall of copies", "set": "phantom", "n": len(want), "value": len(found & want) / len(want)}
    yield {"what": "false pairs", "set": "phantom", "n": len(made), "value": len(found - want)}


def loading(root: Path) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BUSUTILS_CACHE_DIR"] = folder
        for what in ("cold", "cached"):
            start, used = time.perf_counter(), time.process_time()
            images, _ = datasets.load("busi", root).load_arrays(256)
            row = {"set": "busi", "n": len(images)}
            yield {**row, "what": f"loading at 256, {what}, seconds", "value": time.perf_counter() - start}
            yield {**row, "what": f"loading at 256, {what}, cpu_seconds", "value": time.process_time() - used}
        yield {**row, "what": "cache, MB", "value": datasets.cache_info().bytes / 1e6}
        del os.environ["BUSUTILS_CACHE_DIR"]


def checks(root: Path) -> Iterator[Row]:
    for key, folder in (("busi", ""), ("bus-bra", "BUSBRA"), ("bus-bra", "BUSBRA_rest"), ("stu", "")):
        report = datasets.check(key, root / folder)
        row = {"set": folder or key, "n": report.n_images}
        fatal = sum(problem.fatal for problem in report.problems)
        values = {"images": report.n_images, "masks": report.n_masks, "groups": report.n_groups, "fatal": fatal}
        for what, value in {**values, "said": len(report.problems)}.items():
            yield {**row, "what": f"check {what}", "value": value}
        for label, found in zip(report.table["label"], report.table["found"], strict=True):
            yield {**row, "what": f"check {label}", "value": int(found)}


def main() -> None:
    parts = ("busi", "across", "marks", "copies", "loading", "checks", "scale")
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("BUSUTILS_DATA_DIR"))
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--scales", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--one-scale", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_scale:
        scale(given.one_scale)
        return
    makers = {
        "busi": lambda: busi(given.data),
        "across": lambda: across(given.data),
        "marks": marks,
        "copies": copies,
        "loading": lambda: loading(given.data),
        "checks": lambda: checks(given.data),
        "scale": lambda: scaling(given.scales),
    }
    path = FIGURES / "datasets_audit.csv"
    old = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["part", "what", "set", "n", "value", "sd"])
    for part in given.only:
        rows = [{"part": part, **row} for row in makers[part]()]
        new = pd.DataFrame(rows).reindex(columns=["part", "what", "set", "n", "value", "sd"])
        print(new.to_string(index=False, header=False), flush=True)
        kept = old[(old["part"] != part) | ((part == "scale") & ~old["n"].isin(new["n"]))]
        old = pd.concat([frame for frame in (kept, new) if len(frame)])
        old = old.sort_values("part", key=lambda names: names.map(parts.index), kind="stable")
        write_table(old.round(4), path)


if __name__ == "__main__":
    main()
