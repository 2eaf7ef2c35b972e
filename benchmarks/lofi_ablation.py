"""Measure what each loss of LoFi brings: the ablations of the paper's Fig. 4.

    python benchmarks/lofi_ablation.py --json lofi_ablation.json
    python benchmarks/lofi_ablation.py --variants all captioning sigmoid --seeds 0 1 2 --epochs 4

Variants are trained from the same start on the same images, each with the same number of optimizer steps: with all
losses (``all``), without the losses about boxes (``captioning``), with the sigmoid loss alone (``sigmoid``), and with
other weights of the autoregressive loss (``lambda:WEIGHT``; ``all`` has 5). Each is evaluated on patients that it was
not trained on: R@1 in both directions, and F@0.5 of the boxes of landmarks, averaged over the k nearest training images
that show them (the paper shows these images to a large language model). Differences from ``all`` are paired by query,
averaged over the seeds, with intervals clustered by patient.

Views and reports are made once. An evaluated variant is not trained again, and an interrupted training continues after
its last epoch, if the same command is given. The figure is ``lofi_ablation.png`` in the folder of ``--out``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._support.lofi_ablation import (
    MAIN_METRICS,
    Hits,
    Queries,
    difference,
    hits_of,
    pool_of,
    save_ablation,
    scores,
)
from carm_env.evaluation.plots import drawing
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.system.command_line import run_script
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import content_hash, write_json
from carm_env.system.output_folders import lock_output
from carm_env.system.structured_files import read_json_mapping
from policies.checkpoint import fingerprint
from policies.lofi.encoder import LofiEncoder
from training._support.lofi.arguments import LofiArguments
from training._support.lofi.build import build_lofi, initial_backbone
from training._support.lofi.fit import fit_lofi, known_data
from training._support.lofi.sources import LofiData, load_data

ALL, CAPTIONING, SIGMOID, LAMBDA = "all", "captioning", "sigmoid", "lambda:"
LOSSES = {ALL: "c,g,d", CAPTIONING: "c", SIGMOID: ""}
"""Autoregressive losses of the variants of Fig. 4 (a) to (d)."""
VARIANTS = (*LOSSES, f"{LAMBDA}1", f"{LAMBDA}2", f"{LAMBDA}10")


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        variants: which of all, captioning, sigmoid and lambda:WEIGHT; all is always among them.
        seeds: seeds of the trainings.
        train: patients to train on, separated by commas.
        calibration: patients that select the best epoch.
        test: patients to evaluate on.
        views_per_patient: views of each patient.
        evaluated_images: views of each test patient to evaluate on.
        epochs: passes over the training views; with the views and the batch size the budget of every training.
        batch_size: images per optimizer step.
        learning_rate: peak of the learning rate.
        image_size: side of the images, pixels; a multiple of 16.
        queries: image tokens of the language model.
        out: folder for views, trainings and the figure.
        json: file for the results.
    """

    variants: tuple[str, ...] = VARIANTS
    seeds: tuple[int, ...] = (0, 1, 2)
    train: str = "standard/train"
    calibration: str = "standard/calibration"
    test: str = "standard/test"
    views_per_patient: int = 128
    evaluated_images: int = 32
    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 1e-3
    image_size: int = 128
    queries: int = 16
    out: Path = Path("runs/lofi_ablation")
    json: Path | None = None

    def check(self) -> None:
        """Raises ValueError for a wrong value."""
        for name in self.variants:
            self.training(name, 0).check()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds is {self.seeds}, expected different seeds, at least one.")

    def training(self, variant: str, seed: int) -> LofiArguments:
        """Returns the arguments of the training of a variant.

        Raises:
            UnknownNameError: an unknown variant.
            ValueError: a value out of range.
        """
        folder = self.out / f"{variant.replace(':', '-')}-seed-{seed}"
        settings = LofiArguments(
            train=self.train, calibration=self.calibration, test=self.test, views_per_patient=self.views_per_patient,
            evaluated_images=self.evaluated_images, epochs=self.epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate, image_size=self.image_size, queries=self.queries, seed=seed,
            patience=self.epochs, output_dir=str(folder), resume=True, evaluate=False,
        )  # fmt: skip
        return replace(settings, losses=LOSSES.get(variant, LOSSES[ALL]), autoregressive_weight=weight_of(variant))


def weight_of(variant: str) -> float:
    """Returns the weight of the autoregressive loss of a variant; raises UnknownNameError for an unknown variant.

    >>> weight_of("lambda:10"), weight_of("all")
    (10.0, 5.0)
    """
    if variant in LOSSES:
        return LofiArguments.autoregressive_weight
    try:
        if variant.startswith(LAMBDA):
            return float(variant.removeprefix(LAMBDA))
    except ValueError:
        pass
    raise UnknownNameError("variant", variant, VARIANTS)


def check_plan(arguments: Arguments) -> dict[str, Any]:
    """Writes the settings that all variants share into the folder of ``--out``; returns them.

    Raises:
        ValueError: the folder holds trainings with other settings.
    """
    own = ("variants", "seeds", "out", "json")
    settings: dict[str, Any] = {name: value for name, value in asdict(arguments).items() if name not in own}
    path = arguments.out / "plan.json"
    earlier = read_json_mapping(path) if path.is_file() else settings
    if other := [name for name, value in settings.items() if earlier.get(name) != value]:
        raise ValueError(
            f"{arguments.out} holds an ablation with {other[0]} {earlier.get(other[0])}, expected "
            f"{settings[other[0]]}: take another --out, or give the same settings to continue it."
        )
    write_json(path, settings)
    return settings


def evaluated(arguments: Arguments, variant: str, seed: int, data: LofiData, queries: Queries) -> Hits:
    """Returns what a variant does on each query; trains it unless an earlier run has."""
    given = arguments.training(variant, seed)
    folder = Path(given.output_dir)
    settings = {name: value for name, value in asdict(given).items() if name not in ("output_dir", "resume", "workers")}
    backbone = initial_backbone(given)
    initial = fingerprint(backbone) if backbone else ""
    key = content_hash([settings, known_data(data.train), initial])[:16]
    path = folder / "hits.json"
    if path.is_file() and (found := read_json_mapping(path)).get("key") == key:
        return dict(found["hits"])
    print(f"\n{variant}, seed {seed}", flush=True)
    lofi = build_lofi(given, data.train.reports, backbone)
    minutes = fit_lofi(lofi, data, given, folder)
    encoder = LofiEncoder(lofi)
    pool = pool_of(encoder, data.train.images, data.train.reports)
    hits = hits_of(encoder, queries, pool, "g" in given.tasks)
    write_json(path, {"key": key, "minutes": minutes, "hits": hits})
    return hits


def measure(arguments: Arguments) -> dict[str, Any]:
    """Trains and evaluates all variants; returns their scores, the differences from ``all`` and the budget."""
    variants = dict.fromkeys([ALL, *arguments.variants])
    data = load_data(replace(arguments.training(ALL, 0), output_dir=str(arguments.out)), arguments.image_size)
    test = data.test().some(arguments.evaluated_images)
    queries = Queries.of(np.asarray(test.images), test.reports, seed=1)
    runs: dict[str, dict[int, Hits]] = {}
    # Seed by seed, so that an interrupted run has compared all variants on the first seeds.
    for seed in arguments.seeds:
        for variant in variants:
            runs.setdefault(variant, {})[seed] = evaluated(arguments, variant, seed, data, queries)
    steps = len(data.train) // arguments.batch_size * arguments.epochs
    budget = {"steps": steps, "images": steps * arguments.batch_size, "training_images": len(data.train)}
    compared = {name: difference(runs[ALL], runs[name], queries) for name in variants if name != ALL}
    if {CAPTIONING, SIGMOID} <= set(variants):
        compared["captioning - sigmoid"] = difference(runs[CAPTIONING], runs[SIGMOID], queries)
    return {
        "budget": budget,
        "seeds": list(arguments.seeds),
        "variants": {name: scores(own, queries) for name, own in runs.items()},
        "differences": {name if " - " in name else f"{ALL} - {name}": found for name, found in compared.items()},
    }


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]], as_difference: bool) -> str:
    """Formats scores or differences in percent: a row for each variant, a column for each main metric."""
    form = "{:+.1f} ({:+.1f} to {:+.1f})" if as_difference else "{:.1f} ({:.1f} - {:.1f})"

    def cell(score: Mapping[str, Any] | None) -> str:
        if score is None:
            return "-"
        return form.format(*(100 * score[part] for part in ("value", "low", "high")))

    rows = [(name, *(cell(scores.get(metric)) for metric in MAIN_METRICS)) for name, scores in found.items()]
    return markdown_table(("variant", *MAIN_METRICS), rows)


def run(arguments: Arguments) -> None:
    """Trains, evaluates, prints, saves and draws."""
    arguments.check()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with lock_output(arguments.out, "--out"):
        settings = check_plan(arguments)
        found = measure(arguments)
        budget = found["budget"]
        print(f"\n{budget['steps']} steps, {budget['images']} images for each training; %, intervals by patient\n")
        print(table(found["variants"], False))
        if found["differences"]:
            print(f"\ndifferences on the same queries\n\n{table(found['differences'], True)}")
        save_measurement(arguments.json, {**found, "settings": settings}, arguments.seeds[0])
        weights = {name: weight_of(name) for name in found["variants"] if name == ALL or name.startswith(LAMBDA)}
        with drawing("lofi_ablation.png"):
            save_ablation(arguments.out / "lofi_ablation.png", found["variants"], tuple(LOSSES), weights)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
