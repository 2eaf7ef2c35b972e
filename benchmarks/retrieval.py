"""Evaluate LoFi's retrieval: which report belongs to an X-ray, and which X-ray to a report.

    python benchmarks/retrieval.py --json r.json
    python benchmarks/retrieval.py --model runs/lofi/checkpoint --patients standard/test diverse/test --views 64

Reports are divided into parts of five sentences, as in the paper. The figures are R@K for K = 1, 5, 10, 20 and 40 in
both directions, with intervals clustered by patient. In the JSON file ``image_to_text`` and ``text_to_image`` hold the
values, and ``intervals`` the same with their bounds.
"""

from __future__ import annotations

import sys

from benchmarks._support.lofi import LofiEvaluationArguments, measured, print_estimates, reported_views
from carm_env.evaluation.provenance import save_measurement
from carm_env.system.command_line import run_script
from policies.lofi.encoder import LofiEncoder
from policies.lofi.evaluation import retrieval


def run(arguments: LofiEvaluationArguments) -> None:
    """Evaluates, prints and saves."""
    encoder = LofiEncoder(arguments.model)
    images, reports, names = reported_views(arguments, encoder.size)
    found = retrieval(encoder, images, reports)
    for direction, estimates in found.items():
        print(f"\n{direction.replace('_', ' ')}, {len(images)} images")
        print_estimates(estimates)
    values = {
        direction: {name: value.value for name, value in estimates.items()} for direction, estimates in found.items()
    }
    intervals = {
        direction: {name: value._asdict() for name, value in estimates.items()}
        for direction, estimates in found.items()
    }
    about = measured({}, names, len(images), encoder.fingerprint)
    save_measurement(arguments.json, {**about, **values, "intervals": intervals}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, LofiEvaluationArguments, __doc__))
