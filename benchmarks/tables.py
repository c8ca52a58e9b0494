"""Tables of the documentation, computed from the CSV files that the benchmarks write: one function for each table.

``tools/write_readme.py`` puts them into README.md, docs/ and benchmarks/README.md, between marks with their names (``TABLES``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from busutils import benchmark, evaluation

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
RESULTS = FIGURES / "matrix.csv"
STRATA = FIGURES / "matrix_strata.csv"
FOLDS = FIGURES / "busi_folds.csv"
TRANSFER = FIGURES / "transfer.csv"
PRETRAINING = FIGURES / "unet_pretraining.csv"
EXTERNAL = FIGURES / "unet_external.csv"
LEAK = FIGURES / "unet_leak.csv"
ABLATION = FIGURES / "unet_ablation.csv"
PEERS = FIGURES / "unet_peers.csv"
WORKERS = FIGURES / "workers.csv"
SPEED = FIGURES / "inference.csv"
VISITORS = FIGURES / "page_load.json"
WEB = FIGURES / "web_load.json"
ENTRIES = ROOT / "benchmarks" / "entries"
WEIGHTS = ROOT / "busutils" / "models" / "weights"

# Told apart by stratum.
STRATA_OF = ("K-Means, best", "U-Net, busi-light", "U-Net, busi-encoder", "U-Net, bus-all")


def common_images() -> pd.DataFrame:
    """The rows of images that every method was scored on: a method's own training images are not among its rows."""
    table = pd.read_csv(RESULTS)
    scored_by = table.groupby(["target", "id"])["method"].transform("nunique")
    return table[scored_by == table["method"].nunique()]


def summary_table() -> str:
    """The README's table: mean Dice on three sets, difference to the best K-Means, missed lesions, specificity."""
    table, best = common_images(), "K-Means, best"
    on_busi = table[table["target"] == "busi"]
    summary = evaluation.summarise(table, ["target", "method"]).set_index(["target", "method"])
    targets = table["target"].unique()
    sizes = summary.groupby("target", sort=False)["n"].first()
    heads = ["Trained on", *(f"Dice, {target} (n = {sizes[target]:.0f})" for target in targets)]
    heads += ["busi, less K-Means, best", "Missed", f"Specificity (n = {summary.loc['busi', 'n_normal'].iloc[0]:.0f})"]
    lines = [f"| Method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method, source in table.groupby("method", sort=False)["source"].first().fillna("").items():
        sets = dict.fromkeys(part.partition("?")[0].strip() for part in source.split(" + ") if part)
        busi = summary.loc[("busi", method)]
        rows = [summary.loc[(target, method)] for target in targets]
        cells = [", ".join(sets).replace("phantom", "simulated") or "nothing"]
        cells += [f"{row.dice:.2f} [{row.dice_low:.2f}, {row.dice_high:.2f}]" for row in rows]
        less = ""
        if method != best:
            change = evaluation.paired_difference(on_busi, "method", method, best)
            less = f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
        cells += [less, f"{busi.missed:.0%}", f"{busi.normal_specificity:.0%}"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def results_table() -> str:
    """Methods in rows, test sets in columns."""
    table = common_images()
    summary = evaluation.summarise(table, ["target", "method"]).set_index(["target", "method"])
    ranks = {
        target: evaluation.rank_methods(part).set_index("method")
        for target, part in table.groupby("target", sort=False)
    }
    sizes = summary.groupby("target", sort=False)[["n", "groups", "n_normal"]].first()
    lines = [
        "Test images: "
        + "; ".join(
            f"{target} {row.n:.0f} lesion images of {row.groups:.0f} groups"
            + (f" and {row.n_normal:.0f} without a lesion" if row.n_normal else "")
            for target, row in sizes.iterrows()
        )
        + ".",
        "",
        "| Method | "
        + " | ".join(f"Dice on {t}" for t in sizes.index)
        + " | IoU on busi | Missed | Specificity | Rank |",
        "|---" * (len(sizes) + 5) + "|",
    ]
    for method in table["method"].unique():
        busi = summary.loc[("busi", method)]
        scores = [summary.loc[(target, method)] for target in sizes.index]
        cells = [f"{row.dice:.3f} [{row.dice_low:.3f}, {row.dice_high:.3f}]" for row in scores]
        cells += [f"{busi.iou:.3f}", f"{busi.missed:.1%}", f"{busi.normal_specificity:.1%}"]
        spans = [ranks[target].loc[method, ["rank_low", "rank_high"]] for target in sizes.index]
        cells.append(", ".join(f"{low}–{high}" if low < high else f"{low}" for low, high in spans))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def strata_table(target: str = "bus-bra") -> str:
    """Where methods fail on one set: by class, size, contrast and scanner."""
    table = pd.read_csv(STRATA)
    table = table[table["target"] == target]
    lines = [f"| Lesions of {target} | Images | {' | '.join(STRATA_OF)} |", "|---" * (len(STRATA_OF) + 2) + "|"]
    for (by, stratum), part in table.groupby(["by", "stratum"], sort=False):
        cells = [dice_of(row) for _, row in part.set_index("method").loc[list(STRATA_OF)].iterrows()]
        lines.append(f"| {by}: {stratum} | {part['n'].iloc[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def weights_table() -> str:
    """What the shipped weights score on held-out images, from the files beside them."""
    lines = [
        "| Weights | Scored on | Lesions | Mean Dice [95 % interval] | Specificity on normal images |",
        "|---|---|---|---|---|",
    ]
    for path in sorted(WEIGHTS.glob("*.json")):
        name = f"[{path.stem}](../busutils/models/weights/{path.stem}.md)"
        for row in json.loads(path.read_text())["scores"]:
            where = row["dataset"] + (f", fold {row['fold']}" if row["fold"] else "")
            silent = (
                "" if row["normal_specificity"] is None else f"{row['normal_specificity']:.1%} of {row['n_normal']:.0f}"
            )
            lines.append(
                f"| {name} | {where} | {row['n']:.0f} | {row['dice']:.3f} [{row['dice_low']:.3f}, {row['dice_high']:.3f}] "
                f"| {silent} |"
            )
            name = ""
    return "\n".join(lines)


def folds_table() -> str:
    """The U-Net over five folds of BUSI, as a whole, by class and by lesion size."""
    table = pd.read_csv(FOLDS)
    table = evaluation.add_size_band(table.drop(columns="seed")[table["method"].str.startswith("U-Net")])
    scores = ("dice", "iou", "hd95", "nsd")
    lesions = table[table["mask_area"] > 0].assign(all="all lesions")
    lines = [
        "| Method | Lesions | Images | Dice | IoU | HD95, px | NSD | Missed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for by in ("all", "label", "size"):
        ordered = lesions.sort_values(by, kind="stable")
        for row in evaluation.summarise(ordered, ["method", by], scores=scores).to_dict("records"):
            cells = [f"{row[s]:.3f} [{row[s + '_low']:.3f}, {row[s + '_high']:.3f}]" for s in scores]
            cells[2] = f"{row['hd95']:.0f} [{row['hd95_low']:.0f}, {row['hd95_high']:.0f}]"
            lines.append(f"| {row['method']} | {row[by]} | {row['n']} | {' | '.join(cells)} | {row['missed']:.1%} |")
    normals = table[table["mask_area"] == 0]
    for name, part in table.groupby("method", sort=False):
        alone = (normals["pred_area"] == 0)[normals["method"] == name]
        dice = part[part["mask_area"] > 0].groupby("fold")["dice"].mean()
        silent = alone.groupby(normals["fold"]).mean()
        by_fold = f"Dice {', '.join(dice.map('{:.3f}'.format))}; specificity {', '.join(silent.map('{:.0%}'.format))}"
        lines += [
            "",
            f"{name}: {alone.mean():.1%} of {len(alone)} normal images without a false-positive region. Fold by fold: {by_fold}.",
        ]
    return "\n".join(lines)


def dice_of(row: pd.Series) -> str:
    """Mean Dice with its interval, from a row of a summary."""
    return f"{row['dice']:.3f} [{row['dice_low']:.3f}, {row['dice_high']:.3f}]"


def dice_by(table: pd.DataFrame, column: str) -> list[str]:
    """Mean Dice for every value of a column, with intervals over groups and trainings."""
    return [dice_of(row) for _, row in evaluation.summarise(table, column).iterrows()]


def told(more: evaluation.Interval) -> str:
    """A difference with its interval, signs shown."""
    return f"{more.mean:+.3f} [{more.low:+.3f}, {more.high:+.3f}]"


def pretraining_table() -> str:
    """What a start from simulated images is worth, by the number of real ones."""
    table = pd.read_csv(PRETRAINING)
    table = table[table["mask_area"] > 0]
    lines = ["| Real images | From scratch | Phantoms first | Difference | Trainings each |", "|---|---|---|---|---|"]
    for n, part in table.groupby("n_train"):
        cells = dice_by(part, "setting")
        more = evaluation.paired_difference(part, "setting", "phantoms first", "from scratch")
        lines.append(f"| {n} | {' | '.join(cells)} | {told(more)} | {part['seed'].nunique()} |")
    return "\n".join(lines)


def leak_table() -> str:
    """What near-duplicates in training do, to test images that have one and to those that have none."""
    table = pd.read_csv(LEAK)
    lines = ["| Test image | Images | Duplicates in training | No duplicates | Difference |", "|---|---|---|---|---|"]
    for image, part in table.groupby("image"):
        cells = dice_by(part.sort_values("setting", kind="stable"), "setting")
        more = told(evaluation.paired_difference(part, "setting", "copies in training", "no copies"))
        lines.append(f"| {image} | {part['id'].nunique()} | {' | '.join(cells)} | {more} |")
    return "\n".join(lines)


def ablation_table() -> str:
    """Which part of the recipe transfers from one hospital to the other."""
    table = pd.read_csv(ABLATION)
    table = table[table["threshold"] == 0.5]
    ways = list(dict.fromkeys(zip(table["source"], table["target"], strict=True)))
    heads = [f"{what}, {source} → {target}" for source, target in ways for what in ("Dice", "missed")]
    lines = [f"| Setting | {' | '.join(heads)} | Specificity |", "|---" * (len(heads) + 2) + "|"]
    for setting, part in table.groupby("setting", sort=False):
        means = part.groupby(["source", "target"])[["dice", "missed"]].mean()
        cells = [text for way in ways for text in (f"{means.loc[way, 'dice']:.3f}", f"{means.loc[way, 'missed']:.1%}")]
        lines.append(f"| {setting} | {' | '.join(cells)} | {part['specificity'].mean():.1%} |")
    return "\n".join(lines)


def peers_table() -> str:
    """How soon each network reaches a Dice on the validation groups; a lower bound where it was not reached."""
    table = pd.read_csv(PEERS)
    levels = (0.5, 0.6, 0.65, 0.7)
    heads = ["Network", "Backend", "Weights, million", "Images/s", "Memory, MB", "Epochs", "Best Dice"]
    heads += [f"min to {level}" for level in levels]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (engine, peer), part in table.groupby(["engine", "peer"], sort=False):
        last, minutes = part.iloc[-1], part["seconds"] / 60
        reached = [minutes[part["val_dice"] >= level].min() for level in levels]
        cells = [peer, engine, f"{last['parameters'] / 1e6:.1f}", f"{last['images_per_second']:.1f}"]
        cells += [f"{part['peak_mb'].max():.0f}", f"{len(part)}", f"{part['val_dice'].max():.3f}"]
        cells += [f"> {minutes.max():.1f}" if pd.isna(m) else f"{m:.1f}" for m in reached]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


RECIPE = "geometry and grey values"  # the package's own


def external_table() -> str:
    """Which training helps in another hospital."""
    table = pd.read_csv(EXTERNAL)
    targets = list(table["target"].unique())
    heads = [f"Dice on {target}" for target in targets] + [f"Difference on {target}" for target in targets]
    lines = [f"| Training on BUSI | {' | '.join(heads)} | Trainings |", "|---" * (len(heads) + 2) + "|"]
    for setting, part in table.groupby("setting", sort=False):
        cells = dice_by(part, "target")
        for target in targets:
            there = table[table["target"] == target]
            cells.append(
                "" if setting == RECIPE else told(evaluation.paired_difference(there, "setting", setting, RECIPE))
            )
        lines.append(f"| {setting} | {' | '.join(cells)} | {part['seed'].nunique()} |")
    return "\n".join(lines)


def transfer_table() -> str:
    """Training sets in rows, test sets in columns; of BUS-BRA all images, and fold 5, which was read as published."""
    table = pd.read_csv(TRANSFER)
    fold = set(table.loc[(table["source"] == "bus-bra") & (table["target"] == "bus-bra"), "id"])
    fold = table[table["id"].isin(fold)].assign(target="bus-bra, fold 5")
    table = pd.concat([table, fold])
    targets = ["busi", "bus-bra", "bus-bra, fold 5", "stu"]
    lines = ["| Trained on | " + " | ".join(f"Dice on {t}" for t in targets) + " | Trainings |"]
    lines += ["|---" * (len(targets) + 2) + "|"]
    for source, part in table.groupby("source", sort=False):
        rows = evaluation.summarise(part, "target").set_index("target")
        cells = [f"{dice_of(row)}, n = {row['n']:.0f}" for _, row in rows.loc[targets].iterrows()]
        if source == "bus-bra":
            cells[1] = ""  # fold 5 is all that may be scored
        lines.append(f"| {source} | {' | '.join(cells)} | {part['seed'].nunique()} |")
    return "\n".join(lines)


def entries_table() -> str:
    """All methods on BUSI's fold 5, those of the package and those that were entered, best first; then what was entered."""
    paths = sorted(ENTRIES.glob("*.csv"))
    entries = [entry for entry in map(benchmark.check_entry, paths) if entry["target"].iloc[0] == "busi"]
    ours = pd.read_csv(RESULTS)
    ours = ours.assign(id=ours["id"].str.removeprefix("busi:"), group=ours["group"].str.removeprefix("busi:"))
    ours = ours[(ours["target"] == "busi") & ours["id"].isin(entries[0]["id"])]
    table = pd.concat([ours, *entries], ignore_index=True)
    if (table.groupby("id")["mask_area"].agg(np.ptp) > 1e-6).any():
        sys.exit("an entry was scored on other reference masks: score it by the steps of this page")
    scores = ("dice", "iou", "hd95", "nsd")
    summary = evaluation.summarise(table, "method", scores=scores).set_index("method")
    lines = [
        "| Rank | Method | Images | Dice | IoU | HD95, px | NSD | Missed | Specificity |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for rank in evaluation.rank_methods(table).itertuples():
        row = summary.loc[rank.method]
        digits = [(score, 1 if score == "hd95" else 3) for score in scores]
        cells = [f"{row[s]:.{d}f} [{row[s + '_low']:.{d}f}, {row[s + '_high']:.{d}f}]" for s, d in digits]
        span = f"{rank.rank_low}–{rank.rank_high}" if rank.rank_low < rank.rank_high else f"{rank.rank_low}"
        name = rank.method.replace("|", "/")  # a bar would end its cell
        lines.append(
            f"| {span} | {name} | {row['n']:.0f} + {row['n_normal']:.0f} | {' | '.join(cells)} | {row['missed']:.1%} | "
            f"{row['normal_specificity']:.1%} |"
        )
    lines.append("")
    for path in paths:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        lines.append(
            f"- [{path.name}](entries/{path.name}), {about['method']}: {about['code']}; trained on {about['trained_on']}; "
            f"chosen: {about['chosen_on']}; trainings: {about['seeds']}; fold 5 scored: {about['scored']}."
        )
    return "\n".join(lines)


def workers_line() -> str:
    """How much faster several processes make the K-Means part of the matrix."""
    alone, *more = pd.read_csv(WORKERS).to_dict("records")
    rows = (f"with {row['processes']} in {row['seconds']:.0f} s ({row['speed_up']:.2f} times as fast)" for row in more)
    sets = " and ".join(alone["targets"].split())
    return f"The K-Means part on {sets}, from empty caches: with one process in {alone['seconds']:.0f} s, {', '.join(rows)}."


def maps_table() -> str:
    """Which maps lie inside the lesion and depend on what was learned, and whether uncertainty finds the errors, on BUSI's fold 5."""
    parts = ("energy", "survival", "uncertainty", "band", "context", "domain", "cost")
    energy, survival, uncertainty, band, context, domain, cost = (
        pd.read_csv(FIGURES / f"explain_busi_{part}.csv") for part in parts
    )
    edges = energy[energy["map"] == "edges"].set_index("id")["inside"]
    last = survival[survival["layer"] == survival["layer"].iloc[-1]]
    left = last.assign(alike=last["similarity"].abs().fillna(0.0), empty=last["similarity"].isna())
    left = left.groupby(["map", "region", "shown"]).agg(alike=("alike", "mean"), empty=("empty", "sum"))
    regions = list(dict.fromkeys(last["region"]))
    passes = cost[cost["network"] == cost["network"].iloc[0]].set_index("method")["forward_passes"]
    lines = [
        "| Map | Share inside the lesion | Less the edge filter's | "
        + " | ".join(f"Similarity, weights shuffled, region: {region}" for region in regions)
        + " | Forward passes |",
        "|---" * (4 + len(regions)) + "|",
    ]
    for name, part in energy.groupby("map", sort=False):
        gain = evaluation.compare(part["inside"], edges[part["id"]], part["group"].to_numpy()).difference
        told = "" if name == "edges" else f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        likes = []
        for region in regions:
            if (name, region, "same") not in left.index:
                likes.append("not measured")
                continue
            alike, n_empty = left.loc[(name, region, "same")]
            empty = f", {n_empty:.0f} empty" if n_empty else ""
            control = left.loc[(name, region, "another"), "alike"]
            likes.append(f"{alike:.2f}{empty}; another image {control:.2f}")
        took = f"{passes[name]:.1f}" if passes.get(name, 0) > 0.5 else ""
        lines.append(
            f"| {name} | {evaluation.bootstrap_mean(part['inside'], part['group'])} | {told} | {' | '.join(likes)} | {took} |"
        )
    auc = evaluation.bootstrap_mean(uncertainty["auc_entropy"], uncertainty["group"])
    less = evaluation.compare(
        uncertainty["auc_entropy"], uncertainty["auc_nearness"], uncertainty["group"].to_numpy()
    ).difference
    kept = uncertainty.sort_values("uncertainty", kind="stable").head(round(0.8 * len(uncertainty)))
    value = band.set_index("measure")["value"]
    ece = [f"{name.removeprefix('ECE, ')} {value[name]:.3f}" for name in value.index if name.startswith("ECE")]
    moved = []
    for name, part in context.groupby("change", sort=False):
        change = evaluation.compare(part["dice_after"], part["dice_before"], part["group"].to_numpy()).difference
        moved.append(f"{name} {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
    abroad = []
    for name, part in domain.groupby("set", sort=False):
        poor = part["dice"] < 0.5
        auroc = f"AUROC {roc_auc_score(poor, part['uncertainty']):.2f}" if poor.any() else "none below 0.5"
        abroad.append(
            f"{name} {part['uncertainty'].mean():.2f} bit, Dice {part['dice'].mean():.2f}, {auroc}, n = {len(part)}"
        )
    bins = pd.read_csv(FIGURES / "explain_busi_domain_bins.csv")
    errors = bins.groupby(["set", "temperature"], sort=False)[list(bins)].apply(evaluation.expected_calibration_error)
    calibrated = [
        f"{name} {part.iloc[0]:.3f}, then {part.iloc[1]:.3f}" for name, part in errors.groupby("set", sort=False)
    ]
    lines += [
        "",
        f"{energy['id'].nunique()} images whose lesion was found; {last['image'].nunique()} for the shuffling, where 1 is the same "
        "map, 0 an unrelated or an empty one. Two maps of one region may be similar for that reason alone: what is left with *another "
        "image* does not come from the image. Costs are those of one 256² image and the network as shipped, which works on 160².",
        "",
        f"- Pixels: within 10 px of the contours, entropy separates wrong from right pixels with an AUROC of {auc}, {less.mean:+.3f} "
        f"[{less.low:+.3f}, {less.high:+.3f}] against the distance to the predicted contour.",
        f"- Images: the 80 % with the least uncertainty have a mean Dice of {kept['dice'].mean():.3f}, all {len(uncertainty)} lesion images "
        f"{uncertainty['dice'].mean():.3f}.",
        f"- Expected calibration error: {'; '.join(ece)}.",
        f"- Change of Dice: {'; '.join(moved)}.",
        f"- The same error in the band by set, as it is and with the temperature fitted on BUSI: {'; '.join(calibrated)}.",
        f"- Uncertainty by set, and its AUROC for a Dice below 0.5: {'; '.join(abroad)}.",
    ]
    return "\n".join(lines)


ENGINE_NAMES = {
    "keras": "Keras",
    "onnx": "ONNX Runtime",
    "int8": "ONNX Runtime, 8-bit integers",
    "monai": "MONAI's U-Net on PyTorch",
}


def speed_table() -> str:
    """How long masks take: from file to file, and the network alone."""
    table = pd.read_csv(SPEED)
    files = table[table["part"] == "files"].set_index("what")
    lines = [
        f"| From PNG to mask PNG, {files['images'].max()} images of BUSI | ms an image | processor time, ms | memory, MB |",
        "|---|---|---|---|",
    ]
    for row in files.itertuples():
        name = row.Index.removeprefix("busutils, ")
        name = (
            f"`busutils predict`, {ENGINE_NAMES[name]}"
            if name in ENGINE_NAMES
            else name.replace("loop", "Keras in a loop")
        )
        lines.append(f"| {name} | {row.ms:.1f} | {row.cpu_ms:.1f} | {row.peak_mb} |")
    ours = files[files.index.str.startswith("busutils")].sort_values("ms").iloc[0]
    engine, cores = ENGINE_NAMES[ours.name.removeprefix("busutils, ")], files["cores"].max()
    times = {name: f"{files['ms'][name] / ours['ms']:.2f}" for name in ("loop, batches of 8", "loop, one by one")}
    stages = table[table["part"] == "stages"].sort_values("cpu_ms", ascending=False)
    alone = ours["ms"] / files["ms"]["network alone, all cores"], ours["ms"] / files["ms"]["network alone, one core"]
    lines += [
        "",
        f"- {engine} makes `busutils predict` {times['loop, batches of 8']} times as fast as a plain loop over Keras' `predict` in "
        f"batches of 8 with the same reading and writing, {times['loop, one by one']} times as fast as one image at a time.",
        f"- The whole takes {alone[0]:.2f} times as long as the network alone on all {cores} cores, the slowest stage, and "
        f"{alone[1]:.2f} times as long as on one core. It keeps {ours['cpu_ms'] / ours['ms']:.2f} cores busy. One after the "
        f"other on one core, in ms: " + ", ".join(f"{row.what} {row.cpu_ms:.1f}" for row in stages.itertuples()) + ".",
    ]
    memory = table[table["part"] == "memory"].sort_values("images")
    if len(memory) > 1:
        few, many = memory.iloc[0], memory.iloc[-1]
        lines.append(
            f"- Memory for {many['images']:,} files is {many['peak_mb'] / few['peak_mb']:.2f} times that for {few['images']:,}."
        )
    network = table[table["part"] == "network"]
    columns = list(network[["size", "batch"]].drop_duplicates().itertuples(index=False))
    lines += [
        "",
        "| Network alone, ms an image | " + " | ".join(f"{c.size}², {c.batch} a call" for c in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for engine, part in network.groupby("what", sort=False):
        ms = part.set_index(["size", "batch"])["ms"]
        lines.append(f"| {ENGINE_NAMES[engine]} | " + " | ".join(f"{ms[c.size, c.batch]:.1f}" for c in columns) + " |")
    return "\n".join(lines)


def visitors_line() -> str:
    """What many visitors of the page at once met with."""
    told = json.loads(VISITORS.read_text())
    after = ", then ".join(str(mb) for mb in told["memory_after_each_round_mb"])
    return (
        f"{told['users']} visitors at once, {told['rounds']} times {told['seconds'] / 60:.0f} minutes on {told['cores']} cores: "
        f"{told['answers']} answers, {told['answers_of_another_image']} of another visitor's image, {told['errors']} errors; "
        f"{told['median_wait_s']:.1f} s to an answer (median), {told['longest_wait_s']:.1f} s at most; memory of the server, in MB: "
        f"{told['memory_before_mb']} before, {told['memory_peak_mb']} at most, {after} after."
    )


def web_line() -> str:
    """What a visit to the page that segments in the browser costs."""
    told = json.loads(WEB.read_text())
    return (
        f"{told['browser']} on {told['cores']} cores (load average {told['load_average']}), medians of {told['visits']} visits: "
        f"{told['downloaded_mb']:.1f} MB on the first visit, {told['network_mb']:.1f} MB of them the network, and "
        f"{told['downloaded_again_mb']:.1f} MB on later ones; {told['first_mask_s']:.1f} s to the first mask, "
        f"{told['first_mask_again_s']:.1f} s on a later visit; {told['image_s']:.2f} s an image."
    )


def int8_table() -> str:
    """Exports in single precision and in 8-bit integers side by side."""
    lines = ["| Weights | Precision | Dice, fold 5 of BUSI | Specificity | MB |", "|---|---|---|---|---|"]
    for row in pd.read_csv(FIGURES / "int8.csv").itertuples():
        dice = f"{row.dice:.3f} [{row.dice_low:.3f}, {row.dice_high:.3f}], n = {row.n}"
        specificity = f"{row.normal_specificity:.0%} of {row.n_normal}"
        lines.append(f"| {row.weights} | {row.precision} | {dice} | {specificity} | {row.megabytes:.1f} |")
    return "\n".join(lines)


TABLES = {
    "summary": summary_table,
    "results": results_table,
    "strata": strata_table,
    "folds": folds_table,
    "ablation": ablation_table,
    "peers": peers_table,
    "pretraining": pretraining_table,
    "leak": leak_table,
    "transfer": transfer_table,
    "external": external_table,
    "maps": maps_table,
    "weights": weights_table,
    "speed": speed_table,
    "int8": int8_table,
    "visitors": visitors_line,
    "web": web_line,
    "entries": entries_table,
    "workers": workers_line,
}
