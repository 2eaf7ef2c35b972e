"""Measure the calibrated router over model cards on images that are made here, and on a folder of yours.

    python benchmarks/router.py --json r.json
    python benchmarks/router.py --model http://localhost:8000/v1#google/medgemma-4b-it --cards cards --images scans

Cutoffs are learned on the tuning split and measured on the held-out split, whose patients and kinds of images (kinds of
drawings, photographs, sagittal CT slices) the shipped router never saw. For each stage: accuracy with and without
cutoffs and their paired difference. For the final card: accuracy, share of non-medical images that are rejected, ECE
(10 equal-width, right-closed bins), and what early stopping saves. Writes ``reliability.png`` and ``selective.png`` to
``--out``. Photographs come from scikit-image, scikit-learn and matplotlib, as far as they are installed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._support.router_samples import (
    RememberedModel,
    Split,
    ask,
    final_figures,
    selective_curve,
    sensitivity,
    stage_figures,
    tuned,
    write_samples,
)
from carm_env.ct.radiographs import RadiographError, read_image
from carm_env.evaluation.external_images import find_images
from carm_env.evaluation.plots import drawing, new_figure, save_figure
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.uncertainty import save_risk_coverage
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.patients.separation import check_separate, check_trainable
from carm_env.system.command_line import run_script
from policies.routing.cards import CARDS, CardRepository, read_repository
from policies.routing.cutoffs import SHIPPED_MODEL, Cutoffs, read_cutoffs
from policies.routing.local_top_two import make_top_two_model
from policies.routing.made_images import sample_images
from policies.routing.router import Router


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        model: folder, id on the hub, or http://HOST:PORT/v1#MODEL; by default the small model that ships.
        cards: folder of the model cards.
        cutoffs: file of training/cutoffs.py; by default cutoffs are learned on the tuning split.
        ask_for_two: ask a served model without logprobs for two answers in words.
        tune: patients of the tuning split.
        tune_raised: the same with raised arms, for hands.
        test: patients of the held-out split.
        test_raised: the same with raised arms.
        max_patients: patients that are taken of tune and of test, at most.
        count: images of each region of a patient; the numbers of the other kinds follow from it.
        images: folders of your images, which are routed and counted by card.
        seed: seed of the images.
        csv: file for the tuning samples, as training/cutoffs.py reads them.
        out: folder for the plots.
        json: file for the results.
    """

    model: str = ""
    cards: Path = CARDS
    cutoffs: Path | None = None
    ask_for_two: bool = False
    tune: tuple[str, ...] = ("standard/calibration",)
    tune_raised: tuple[str, ...] = ("virtual:3?arms=raised",)
    test: tuple[str, ...] = ("standard/test",)
    test_raised: tuple[str, ...] = ("virtual:2?arms=raised",)
    max_patients: int = 4
    count: int = 3
    images: tuple[Path, ...] = ()
    seed: int = 1
    csv: Path | None = None
    out: Path = Path("runs/router_benchmark")
    json: Path | None = None

    def patients(self, given: Sequence[str]) -> list[str]:
        """Returns the first patients of some names or splits."""
        return list(expand_patients(list(given)))[: self.max_patients] if given else []


def measure(model: RememberedModel, repository: CardRepository, arguments: Arguments) -> dict[str, Any]:
    """Returns the figures of both splits; draws the plots."""
    name, given = arguments.model or SHIPPED_MODEL, None
    if arguments.cutoffs is not None:
        given = read_cutoffs(arguments.cutoffs, repository.fingerprint, name)
    tune, tune_raised = arguments.patients(arguments.tune), arguments.patients(arguments.tune_raised)
    test, test_raised = arguments.patients(arguments.test), arguments.patients(arguments.test_raised)
    check_trainable([*tune, *tune_raised], "--tune or --tune-raised")
    check_separate({"train": [*tune, *tune_raised], "test": [*test, *test_raised]}, ("train",))
    prepare_patients([*tune, *tune_raised, *test, *test_raised], default_workers())
    count, seed = arguments.count, arguments.seed
    tuning = ask(model, repository, sample_images(tune, tune_raised, count, seed, held_out=False), "tuning")
    held_out = ask(model, repository, sample_images(test, test_raised, count, seed + 1, held_out=True), "held-out")
    cutoffs = given or tuned(tuning.samples, repository, name)
    if arguments.csv is not None:
        write_samples(arguments.csv, tuning.samples)
    splits = {
        name: _figures(model, repository, split, cutoffs, arguments.out, name)
        for name, split in (("train", tuning), ("held_out", held_out))
    }
    own = splits["held_out"]
    return {
        **{key: own[key] for key in ("final_accuracy", "final_accuracy_without_cutoffs", "non_medical_rejected", "ece",
                                     "ece_without_cutoffs")},
        "cutoffs": {stage: value for stage, value in cutoffs.by_stage.items()},
        "repository": repository.fingerprint,
        "splits": splits,
        "sensitivity": sensitivity(tuning, held_out, repository, arguments.seed),
    }  # fmt: skip


def _figures(
    model: RememberedModel, repository: CardRepository, split: Split, cutoffs: Cutoffs, out: Path, name: str
) -> dict[str, Any]:
    figures, final = final_figures(Router(model, repository, cutoffs), split)
    without, _ = final_figures(Router(model, repository), split)
    with drawing("the plots"):
        save_reliability(out / f"reliability_{name}.png", {"with cutoffs": figures, "without": without})
        labels = "routed images, most certain first, %", "share of wrong cards"
        save_risk_coverage(out / f"selective_{name}.png", *selective_curve(final), *labels)
    return {
        **figures,
        "final_accuracy_without_cutoffs": without["final_accuracy"],
        "ece_without_cutoffs": without["ece"],
        "stages": stage_figures(split, cutoffs),
    }


def save_reliability(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Saves accuracy against confidence, with the ideal diagonal, as PNG."""
    figure, axes = new_figure(4.2, 4, dpi=120)
    axes.plot([0, 1], [0, 1], "--", color="grey", label="ideal")
    for name, figures in rows.items():
        points = figures["reliability"]
        axes.plot([one["confidence"] for one in points], [one["accuracy"] for one in points], "o-", label=name)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    save_figure(figure, path)


def route_folder(router: Router, folder: Path) -> dict[str, Any]:
    """Routes the images of a folder; returns the card of each, and the number of images of each card."""
    found, unreadable = {}, {}
    for path in find_images(folder)[0]:
        name = path.name if path == folder else path.relative_to(folder).as_posix()
        try:
            found[name] = router.route(read_image(path).image)
        except (RadiographError, OSError) as error:
            unreadable[name] = str(error)
    cards = Counter(route.card_id for route in found.values())
    modalities = Counter(route.answer("modality") for route in found.values())
    return {
        "cards": dict(cards), "modalities": dict(modalities), "unreadable": unreadable,
        "images": {name: {"card": one.card_id, "confidence": one.confidence} for name, one in found.items()},
    }  # fmt: skip


def report(found: dict[str, Any]) -> str:
    """Formats the figures of both splits."""
    lines = []
    for name, split in found["splits"].items():
        lines.append(f"{name}: {split['images']} images")
        for stage, one in split["stages"].items():
            lines.append(
                f"  {stage:9} {one['accuracy']['value']:.3f} with cutoffs, "
                f"{one['accuracy_without_cutoffs']['value']:.3f} without, ECE without cutoffs {one['ece']:.3f}"
            )
        rejected = "" if split["non_medical_rejected"] is None else (
            f", {split['non_medical_rejected']:.3f} of {split['non_medical']} non-medical images rejected"
        )  # fmt: skip
        lines.append(
            f"  final     {split['final_accuracy']:.3f} with cutoffs, {split['final_accuracy_without_cutoffs']:.3f} "
            f"without, ECE {split['ece']:.3f}{rejected}"
        )
        saved = split["early_stopping"]
        lines.append(
            f"  early stopping saved {saved['requests_saved']:.0f} requests and {saved['tokens_saved']:.0f} tokens "
            f"({saved['requests']} and {saved['tokens']} were needed)"
        )
    return "\n".join(lines)


def run(arguments: Arguments) -> None:
    """Measures, prints and saves."""
    repository = read_repository(arguments.cards)
    model = RememberedModel(make_top_two_model(arguments.model, arguments.ask_for_two))
    found = measure(model, repository, arguments)
    print(report(found))
    if arguments.images:
        router = Router(model, repository, Cutoffs(found["cutoffs"], repository.fingerprint))
        found["folders"] = {str(folder): route_folder(router, folder) for folder in arguments.images}
        for name, one in found["folders"].items():
            print(f"{name}: {one['cards']}, {len(one['unreadable'])} unreadable")
    save_measurement(arguments.json, {"model": arguments.model or SHIPPED_MODEL, **found}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
