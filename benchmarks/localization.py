"""Score what a localiser names: the paper's static metrics on views of patients that were never trained on.

    python benchmarks/localization.py --policy cnn --json l.json
    python benchmarks/localization.py --policy cnn:runs/cnn/checkpoint --patients my-ct --out runs/static

Two kinds of view: spread over the workspace (P@K, R@K, H@K, exact closest), and with a landmark at the centre, give or
take some millimetres (centred H@1 and H@2). Intervals are clustered by patient. Writes ``confusion.png`` (the paper's
Fig. 3a) to the folder of ``--out``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import (
    Estimate,
    centred_estimates,
    confusion_matrix,
    retrieval_estimates,
    save_confusion_matrix,
)
from benchmarks.provenance import provenance
from carm_env.catalogue import expand_patients
from carm_env.errors import MissingExtraError, UnknownNameError
from carm_env.files import write_json
from carm_env.geometry import CArmPlace
from carm_env.preparation import default_workers, prepare_patients
from carm_env.scene import load_scene
from carm_env.views import ViewOptions, render_views

Localize = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""Pictures ``(n, H, W)`` to ids ``(n, 3)``, the closest first."""

PAPER = {
    "P@1": 0.995, "P@2": 0.91, "P@3": 0.76, "H@1 centred": 0.81, "H@2 centred": 0.92,
}  # fmt: skip
"""The paper's conventional network on real patients' rendered views."""
LOCALISERS = ("cnn", "conformal")
_CENTRED_VIEWS, _CENTRED_WITHIN_MM = 4, 5.0
_SIZE = 256
_BATCH = 128


def make_localizer(name: str) -> Localize:
    """The localiser called `name`: ``cnn`` or ``conformal``, with ``:CHECKPOINT`` or the weights that ship.

    Raises:
        UnknownNameError: no such localiser.
        FileNotFoundError, CheckpointError, MissingExtraError: as of the policy.
    """
    kind, _, folder = name.partition(":")
    if kind not in LOCALISERS:
        raise UnknownNameError("localiser", kind, LOCALISERS)
    if kind == "cnn":
        from policies.cnn import LandmarkClassifier

        return LandmarkClassifier(folder or None).localize
    from policies.conformal import DisplacementRegressor

    return DisplacementRegressor(folder or None).localize


def centred_views(name: str, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures ``(n, H, W)`` with a landmark at the centre, a few of each, and its ids ``(n,)``."""
    scene = load_scene(name)
    rng = np.random.default_rng([seed, 2])
    images, targets = [], []
    for key, point in scene.patient.landmarks_lps_mm.items():
        for _ in range(_CENTRED_VIEWS):
            off = rng.uniform(-_CENTRED_WITHIN_MM, _CENTRED_WITHIN_MM, 2)
            place = CArmPlace((point[0] + off[0], scene.patient.mid_depth_mm, point[2] + off[1]))
            images.append(scene.camera.image(place, _SIZE, int(rng.integers(2**31))))
            targets.append(key)
    return np.stack(images), np.array(targets)


def measure(localize: Localize, patients: Sequence[str], views: int, seed: int) -> dict[str, Any]:
    """The estimates by name, and the confusion matrix, over `views` views of each patient."""
    answers, relevant, owners = [], [], []
    centred_answers, centred_targets, centred_owners = [], [], []
    for name in patients:
        taken = list(render_views(name, ViewOptions(views, _SIZE, seed=seed)))
        answers.append(_in_batches(localize, np.stack([view.image for view in taken])))
        for view in taken:
            closest = view.labels.closest_landmarks
            relevant.append(list(closest) + [0] * (3 - len(closest)))
        owners += [name] * len(taken)
        images, targets = centred_views(name, seed)
        centred_answers.append(_in_batches(localize, images))
        centred_targets.append(targets)
        centred_owners += [name] * len(images)
    ranked, wanted = np.concatenate(answers), np.array(relevant)
    estimates = retrieval_estimates(ranked, wanted, owners)
    centred = centred_estimates(np.concatenate(centred_answers), np.concatenate(centred_targets), centred_owners)
    estimates |= {f"{key} centred": value for key, value in centred.items()}
    return {"estimates": estimates, "confusion": confusion_matrix(ranked[:, 0], wanted[:, 0])}


def _in_batches(localize: Localize, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.concatenate([localize(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)])


def json_name(metric: str) -> str:
    """A metric's name in the JSON file.

    >>> json_name("H@1 centred"), json_name("P@3"), json_name("exact")
    ('centred_h_at_1', 'p_at_3', 'closest_exact')
    """
    if metric == "exact":
        return "closest_exact"
    name = metric.removesuffix(" centred").lower().replace("@", "_at_")
    return f"centred_{name}" if metric.endswith(" centred") else name


def table(estimates: dict[str, Estimate]) -> str:
    """The figures with their intervals, beside the paper's."""
    lines = [f"{'metric':12} {'value':>6}  {'95 % interval':15} {'paper':>6} {'views':>6}"]
    for name, found in estimates.items():
        paper = f"{PAPER[name]:.3g}" if name in PAPER else ""
        lines.append(f"{name:12} {found.value:6.3f}  {found.low:.3f} - {found.high:.3f}   {paper:>6} {found.views:6}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policy", default="cnn", help=f"{' or '.join(LOCALISERS)}, with :CHECKPOINT (default cnn)")
    parser.add_argument("--patients", nargs="+", default=["standard/test"], metavar="NAME")
    parser.add_argument("--views", type=int, default=256, help="of each patient (default 256; the paper 1024)")
    parser.add_argument("--seed", type=int, default=1, help="of the views (default 1; training uses 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/localization"), help="folder for the heat map")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    try:
        localize = make_localizer(options.policy)
        names = expand_patients(options.patients)
        prepare_patients(names, default_workers())
        found = measure(localize, names, options.views, options.seed)
        print(table(found["estimates"]))
        path = save_confusion_matrix(options.out / "confusion.png", found["confusion"], options.policy)
        print(path)
        if options.json:
            figures = {json_name(name): value._asdict() for name, value in found["estimates"].items()}
            write_json(
                options.json,
                {"policy": options.policy, "patients": names, **figures, "confusion": found["confusion"].tolist(),
                 "run": provenance(options.seed)},
            )  # fmt: skip
    except (ValueError, OSError, MemoryError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
