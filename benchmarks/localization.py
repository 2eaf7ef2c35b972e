"""Evaluate a localiser: the paper's static metrics on views of patients that were not used for training.

    python benchmarks/localization.py --policy cnn --json l.json
    python benchmarks/localization.py --policy cnn:runs/cnn/checkpoint --patients my-ct --out runs/static
    python benchmarks/localization.py --policy mllm_grpo:runs/grpo --baseline mllm

Views over the whole workspace give P@K, R@K, H@K and the share of exact closest landmarks; views with a landmark within
5 mm of the centre give the centred H@1 and H@2. For a language model also: the share of answers that cannot be parsed
(they count as misses), and the share of true reasons for a move towards a drawn target. Intervals are clustered by
patient. With ``--baseline``, another localiser sees the same views, and the paired differences have intervals, too.
Writes ``confusion.png`` (the paper's Fig. 3a) to the folder of ``--out``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.evaluation.intervals import Estimate
from carm_env.evaluation.localization import (
    Localizer,
    LocalizerEvaluation,
    PooledLocalizer,
    evaluate_localizer,
    evaluate_views,
)
from carm_env.evaluation.metrics import save_confusion_matrix
from carm_env.evaluation.plots import drawing
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import interval_cell
from carm_env.evaluation.view_suite import load_view_suite
from carm_env.language.grammar import READINGS
from carm_env.language.prompts import prompt_hash
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.system.command_line import run_script
from policies.localizers import make_localizer

PAPER = {"P@1": "0.995", "P@2": "0.91", "P@3": "0.76", "H@1 centred": "0.81", "H@2 centred": "0.92"}
"""The paper's conventional network on rendered views of real patients."""
PAPER_MLLM = {
    "P@1": "0.95-0.96", "P@2": "0.91-0.93", "P@3": "0.82-0.85", "H@1 centred": "0.55-0.74", "H@2 centred": "0.65-0.85",
}  # fmt: skip
"""The paper's fine-tuned language models."""
_JSON_NAMES = {"exact": "closest_exact", "invalid": "invalid_rate", "reasons true": "reasons_true"}


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policy: cnn, conformal, mllm or mllm_grpo, with :CHECKPOINT for other weights; knn:INDEX; or retrieval:MODEL,
            with settings as ?index=FOLDER&k=20.
        baseline: another localiser, to which it is compared on the same views.
        patients: names of patients, or COHORT/SPLIT.
        views: views over the workspace per patient; the paper uses 1024.
        seed: seed of the views; training uses 0.
        suite: suites of frozen views instead: retrieval, centred, or YAML files (`carm_env.evaluation.view_suite`).
        reading: how answers of a language model are parsed, strict or lenient.
        constrained: restrict the output of a local language model to valid answers.
        out: folder for the confusion matrix.
        json: file for the results.
    """

    policy: str = "cnn"
    baseline: str = ""
    patients: tuple[str, ...] = ("standard/test",)
    views: int = 256
    seed: int = 1
    suite: tuple[str, ...] = ()
    reading: str = READINGS[0]
    constrained: bool = False
    out: Path = Path("runs/localization")
    json: Path | None = None


def json_name(metric: str) -> str:
    """Returns a metric's name in the JSON file.

    >>> json_name("H@1 centred"), json_name("P@3"), json_name("exact")
    ('centred_h_at_1', 'p_at_3', 'closest_exact')
    """
    if metric in _JSON_NAMES:
        return _JSON_NAMES[metric]
    name = metric.removesuffix(" centred").lower().replace("@", "_at_").replace(" ", "_")
    return f"centred_{name}" if metric.endswith(" centred") else name


def table(estimates: Mapping[str, Estimate], paper: Mapping[str, str]) -> str:
    """Formats the estimates with their intervals and the paper's values."""
    width = max(map(len, estimates))
    lines = [f"{'metric':{width}} {'value':>6}  {'95 % interval':15} {'paper':>9} {'views':>6}"]
    for name, found in estimates.items():
        interval = interval_cell((found.low, found.high), found.patients, "{:.3f} - {:.3f}")
        lines.append(f"{name:{width}} {found.value:6.3f}  {interval:15} {paper.get(name, ''):>9} {found.views:6}")
    return "\n".join(lines)


def difference_table(differences: Mapping[str, Estimate], policy: str, baseline: str) -> str:
    """Formats paired differences in percentage points."""
    width = max(map(len, differences))
    lines = [f"{policy} - {baseline} on the same views, percentage points"]
    for name, found in differences.items():
        interval = interval_cell((100 * found.low, 100 * found.high), found.patients, "{:+.1f} to {:+.1f}")
        lines.append(f"{name:{width}} {100 * found.value:+6.1f}  {interval}")
    return "\n".join(lines)


def run(arguments: Arguments) -> None:
    """Evaluates, prints and saves."""
    options: dict[str, Any] = {"reading": arguments.reading} if arguments.reading != READINGS[0] else {}
    if arguments.constrained:
        options["constrained"] = True
    localizer = make_localizer(arguments.policy, **options)
    # A wrong name is reported before the first image.
    baseline = make_localizer(arguments.baseline) if arguments.baseline else None
    suites = [load_view_suite(name) for name in arguments.suite]
    names = list(dict.fromkeys(name for suite in suites for name in suite.patients)) or expand_patients(
        arguments.patients
    )
    for one in (localizer, baseline):
        if isinstance(one, PooledLocalizer):
            one.check_patients([str(name) for name in names])
    prepare_patients(names, default_workers())

    def evaluated(one: Localizer) -> LocalizerEvaluation:
        if not suites:
            return evaluate_localizer(one, names, arguments.views, arguments.seed)
        views = (suite.render(name) for name in names for suite in suites if name in suite.patients)
        return evaluate_views(one, views, arguments.seed)

    found = evaluated(localizer)
    estimates = found.estimates
    style = getattr(getattr(localizer, "model", None), "style", None)
    print(table(estimates, PAPER_MLLM if style else PAPER))
    about: dict[str, Any] = {"policy": arguments.policy, "patients": names, **options}
    if suites:
        about["suites"] = {suite.name: {"version": suite.version, "hash": suite.hash} for suite in suites}
    if style:
        about |= {"style": style, "prompts": prompt_hash(style)}
    if callable(described := getattr(localizer, "described", None)):
        about |= described()
    values: dict[str, Any] = {json_name(name): value._asdict() for name, value in estimates.items()}
    if baseline is not None:
        other = evaluated(baseline)
        differences = found.differences(other)
        print(f"\n{difference_table(differences, arguments.policy, arguments.baseline)}")
        values["differences"] = {json_name(name): value._asdict() for name, value in differences.items()}
        about["baseline"] = arguments.baseline
    save_measurement(arguments.json, {**about, **values, "confusion": found.confusion.tolist()}, arguments.seed)
    with drawing("confusion.png"):
        print(save_confusion_matrix(arguments.out / "confusion.png", found.confusion, arguments.policy))


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
