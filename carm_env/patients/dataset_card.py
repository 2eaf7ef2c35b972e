"""Dataset card of a cohort: a Hugging Face README made from its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from carm_env.landmarks import LANDMARKS
from carm_env.patients.cohorts import SPLITS, Cohort
from carm_env.patients.manifest import make_manifest
from carm_env.patients.reference import PatientRef
from carm_env.system.structured_files import dump_yaml

_TEMPLATE = Path(__file__).with_suffix(".md")
Described = tuple[str, Mapping[str, Any]]
"""A split, and the person and parameters of one of its patients."""
_UNWARPED = "Every patient has the same skeleton, scaled, bent and posed, and synthetic tissue."
_WARPED = "Every patient has the same skeleton, scaled, bent, posed and smoothly deformed, and synthetic tissue."
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"))


def cohort_card(cohort: Cohort) -> str:
    """Returns the card of a cohort with the parameters of all its patients, of which none need be built."""
    described = []
    for split in cohort.splits:
        for ref in PatientRef.expand(cohort.names(split)):
            assert ref.virtual is not None
            described.append((split, {**ref.virtual.person, **ref.virtual.parameters.to_json()}))
    return dataset_card(make_manifest(cohort), described)


def dataset_card(manifest: dict[str, Any], described: Sequence[Described] | None = None) -> str:
    """Returns the card of a manifest (`carm_env.patients.manifest.make_manifest`): Markdown with YAML front matter.

    Args:
        manifest: the manifest.
        described: split and parameters of each patient of the table; by default the patients that have been built.
    """
    patients = manifest["patients"]
    if described is None:
        # The person first; the parameters of the model repeat some of the values.
        described = [(entry["split"], {**entry["person"], **entry["parameters"]}) for entry in patients]
    name = f"carm-env {manifest['cohort']}"
    header = {
        "pretty_name": name,
        "license": "mit",
        "task_categories": ["reinforcement-learning", "robotics"],
        "tags": ["medical", "x-ray", "ct", "c-arm", "synthetic", "landmark-localization"],
        "size_categories": [next(text for limit, text in _SIZES if len(patients) < limit)],
        "language": ["en"],
        "annotations_creators": ["machine-generated"],
    }
    splits = [split for split in SPLITS if manifest["sizes"][split]]
    counts = ", ".join(f"{manifest['built'][split]} of {manifest['sizes'][split]} {split}" for split in splits)
    options = f" Options of every patient: `{manifest['options']}`." if manifest["options"] else ""
    query = f"?{manifest['options']}" if manifest["options"] else ""
    voxels = sorted({f"{entry['spacing_mm'][0]:g}" for entry in patients})
    size = sum(entry["bytes"] for entry in patients)
    values = {
        **manifest,
        "name": name,
        "header": dump_yaml(header).rstrip(),
        "counts": counts,
        "voxels": ", ".join(voxels) or "-",
        "gigabytes": f"{size / 1e9:.2f}",
        "anatomy_version": ", ".join(manifest["anatomy_version"]) or "-",
        "packages": ", ".join(f"{key} {value}" for key, value in manifest["packages"].items() if value),
        "options": options,
        "query": query,
        "landmarks": ", ".join(item.name for item in LANDMARKS),
        "statistics": _statistics(described, splits),
        "purpose": manifest["purpose"],
        "split": splits[0],
        "skeleton": _WARPED if any(values.get("warp") for _, values in described) else _UNWARPED,
    }
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(values)


def _statistics(described: Sequence[Described], splits: Sequence[str]) -> str:
    lines = [
        "Numbers: mean ± standard deviation (minimum to maximum). Categories: number of patients.",
        "",
        f"| parameter | {' | '.join(splits)} |",
        f"|---|{'---|' * len(splits)}",
    ]
    for key in dict.fromkeys(key for _, values in described for key in values if key != "seed"):
        cells = [_summary(values[key] for at, values in described if at == split and key in values) for split in splits]
        if any(cells):
            lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _summary(values: Iterable[Any]) -> str:
    """Summarises a parameter over the patients of a split; empty for lists of numbers."""
    found = list(values)
    if found and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in found):
        return f"{np.mean(found):.4g} ± {np.std(found):.2g} ({min(found):.4g} to {max(found):.4g})"
    if all(isinstance(value, (str, bool)) or value is None for value in found):
        return ", ".join(f"{value} {count}" for value, count in sorted(Counter(map(str, found)).items()))
    if all(isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value) for value in found):
        counts = Counter(item for value in found for item in (value or ["none"]))
        return ", ".join(f"{value} {count}" for value, count in sorted(counts.items()))
    return ""
