"""Evaluate LoFi's grounding: the boxes of a phrase in an X-ray.

    python benchmarks/grounding.py --json g.json
    python benchmarks/grounding.py --model runs/lofi/checkpoint --phrases 0 --patients standard/test

Sentences with boxes are drawn from the reports of views. The figures are precision, recall and F at an intersection
over union of 0.5, and RoDeO's scores of localisation and shape (extra ``lofi``), with intervals clustered by patient.
In the JSON file each figure stands under its name, and ``intervals`` holds the same with their bounds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from benchmarks._support.lofi import LofiEvaluationArguments, measured, print_estimates, reported_views
from carm_env.evaluation.provenance import save_measurement
from carm_env.system.command_line import run_script
from policies.lofi.encoder import LofiEncoder
from policies.lofi.evaluation import MAX_PHRASES, grounding


@dataclass(frozen=True)
class Arguments(LofiEvaluationArguments):
    """Arguments of this script.

    Attributes:
        phrases: phrases of each image, drawn at random; 0 for all
    """

    phrases: int = MAX_PHRASES


def run(arguments: Arguments) -> None:
    """Evaluates, prints and saves."""
    if arguments.phrases < 0:
        raise ValueError(f"phrases is {arguments.phrases}, expected 0 or more.")
    encoder = LofiEncoder(arguments.model)
    images, reports, names = reported_views(arguments, encoder.size)
    found = grounding(encoder, images, reports, arguments.seed, arguments.phrases)
    print_estimates(found)
    values = {name: value.value for name, value in found.items()}
    intervals = {name: value._asdict() for name, value in found.items()}
    about = measured({"phrases": arguments.phrases}, names, len(images), encoder.fingerprint)
    save_measurement(arguments.json, {**about, **values, "intervals": intervals}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
