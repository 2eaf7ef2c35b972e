"""Evaluate LoFi's grounding: the boxes of a phrase in an X-ray.

    python benchmarks/grounding.py --json g.json
    python benchmarks/grounding.py --model runs/lofi/checkpoint --phrases 0 --patients standard/test
    python benchmarks/grounding.py --only-landmarks
    python benchmarks/grounding.py --policy retrieval:mllm

Sentences with boxes are drawn from the reports of views. The figures are precision, recall and F at an intersection
over union of 0.5, and RoDeO's scores of localisation and shape (extra ``lofi``), with intervals clustered by patient.
In the JSON file each figure stands under its name, and ``intervals`` holds the same with their bounds. ``--policy``
asks a localiser for the landmarks of the phrases of ``--only-landmarks`` instead of LoFi for the phrases.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from benchmarks._support.lofi import LofiEvaluationArguments, measured, print_estimates, reported_views
from carm_env.evaluation.intervals import Estimate
from carm_env.evaluation.localization import IMAGE_SIZE, PooledLocalizer
from carm_env.evaluation.provenance import save_measurement
from carm_env.patients.catalogue import expand_patients
from carm_env.system.command_line import run_script
from policies.localizers import make_localizer
from policies.lofi.encoder import LofiEncoder
from policies.lofi.evaluation import MAX_PHRASES, GroundingLocalizer, grounding, grounding_of_landmarks


@dataclass(frozen=True)
class Arguments(LofiEvaluationArguments):
    """Arguments of this script.

    Attributes:
        phrases: phrases of each image, drawn at random; 0 for all
        only_landmarks: only phrases about one landmark
        policy: localiser to ask for these landmarks instead of LoFi: conformal, knn:INDEX, mllm, mllm_grpo or
            retrieval:MODEL
    """

    phrases: int = MAX_PHRASES
    only_landmarks: bool = False
    policy: str = ""


def of_lofi(arguments: Arguments) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Returns LoFi's figures and what they are about."""
    encoder = LofiEncoder(arguments.model)
    images, reports, names = reported_views(arguments, encoder.size)
    found = grounding(
        encoder, images, reports, arguments.seed, arguments.phrases, only_landmarks=arguments.only_landmarks
    )
    about = {"phrases": arguments.phrases, "only_landmarks": arguments.only_landmarks}
    return found, measured(about, names, len(images), encoder.fingerprint)


def of_localizer(arguments: Arguments) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Returns the figures of a localiser and what they are about.

    Raises:
        ValueError: the localiser marks no regions, or a patient is in its pool.
    """
    localizer = make_localizer(arguments.policy)
    if not isinstance(localizer, GroundingLocalizer):
        raise ValueError(
            f"policy is {arguments.policy!r}, which marks no regions: expected conformal, knn:INDEX, mllm, "
            "mllm_grpo or retrieval:MODEL."
        )
    names = expand_patients(arguments.patients)
    if isinstance(localizer, PooledLocalizer):
        localizer.check_patients([str(name) for name in names])
    images, reports, shown = reported_views(arguments, IMAGE_SIZE)
    found = grounding_of_landmarks(localizer, images, reports, arguments.seed, arguments.phrases)
    about = {"policy": arguments.policy, "phrases": arguments.phrases, "only_landmarks": True}
    return found, measured(about, shown, len(images))


def run(arguments: Arguments) -> None:
    """Evaluates, prints and saves."""
    if arguments.phrases < 0:
        raise ValueError(f"phrases is {arguments.phrases}, expected 0 or more.")
    found, about = of_localizer(arguments) if arguments.policy else of_lofi(arguments)
    print_estimates(found)
    values = {name: value.value for name, value in found.items()}
    intervals = {name: value._asdict() for name, value in found.items()}
    save_measurement(arguments.json, {**about, **values, "intervals": intervals}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
