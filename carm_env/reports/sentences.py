"""Sentences about a view in the English of radiology reports, each true of the view and with its boxes.

Right and left are the patient's, as in every report; upper and lower are towards head and feet. The wordings vary, and
are drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator

from carm_env.landmarks import LANDMARKS, landmark
from carm_env.reports.view_facts import Extent, ViewFacts
from carm_env.xray_datasets.grounded import GroundedSentence

CENTRED_MM = 20.0
"""A view is centered on a landmark that is closer to its middle."""
LEVEL_MM = 8.0
"""Pairs of landmarks are level if their heights differ by less."""
INCLUDED, PARTLY_INCLUDED = 0.97, 0.15
"""Least share of a structure in the image of which a report says that it is included, or partially included."""
FULL_FIELD, PART_FIELD = 0.97, 0.8
"""Share of the field that shows the body: full from the first, partial up to the second."""
ANGULATED_DEG = 1.0
_MAX_ABSENT = 3
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("right", "central", "left")
_PAIRS = ("humeral head", "scapular inferior angle", "hemidiaphragm")
_FINDINGS: dict[str, str] = {
    "pleural_effusion": "{Side} pleural effusion",
    "pneumothorax": "{Side} pneumothorax",
    "rib_fracture": "{Side} rib fracture",
    "humeral_nail": "Intramedullary nail in the {side} humerus",
    "hip_screw": "Dynamic hip screw in the {side} femur",
    "sternal_wires": "Median sternotomy wires",
    "pacemaker": "{Side}-sided pacemaker with its leads",
    "endotracheal_tube": "Endotracheal tube",
    "central_line": "{Side}-sided central venous line",
    "nasogastric_tube": "Nasogastric tube",
    "chest_tube": "{Side} chest tube",
    "tubes": "Endotracheal tube, central venous line, nasogastric tube and chest tube",
    "ecg_leads": "ECG leads",
}


def report_sentences(facts: ViewFacts, seed: int | list[int]) -> tuple[GroundedSentence, ...]:
    """Writes the report of a view: what it is centered on, findings, lungs, landmarks, and the quality of the view.

    Args:
        facts: what is true of the view.
        seed: seed of the wordings and of which absent landmarks are named.
    """
    rng = np.random.default_rng(seed)
    parts = (_center(facts, rng), _findings(facts, rng), _lungs(facts, rng), _landmarks(facts, rng),
             _pairs(facts, rng), _spine(facts), _arms(facts), _absent(facts, rng), _quality(facts, rng))  # fmt: skip
    return tuple(sentence for part in parts for sentence in part)


def name_of(key: int) -> str:
    """Returns the name of a landmark within a sentence, with its article.

    >>> name_of(11), name_of(10)
    ('the carina', 'T1')
    """
    name = landmark(key).name
    return name if name[1:2].isdigit() else f"the {name[0].lower()}{name[1:]}"


def zone(extent_or_point: Extent | tuple[float, float]) -> str:
    """Returns the ninth of the image that holds a point, or the middle of a box.

    >>> zone((0.1, 0.2)), zone((0.5, 0.5)), zone((0.9, 0.5))
    ('upper right zone', 'center', 'left middle zone')
    """
    if isinstance(extent_or_point, Extent):
        left, top, right, bottom = extent_or_point.box
        extent_or_point = (left + right) / 2, (top + bottom) / 2
    column, row = (min(max(int(3 * value), 0), 2) for value in extent_or_point)
    if (row, column) == (1, 1):
        return "center"
    words = (_COLUMNS[column], _ROWS[row]) if row == 1 else (_ROWS[row], _COLUMNS[column])
    return f"{words[0]} {words[1]} zone"


def _said(text: str, *extents: Extent) -> GroundedSentence:
    return GroundedSentence(text[0].upper() + text[1:] + ".", tuple(item.box for item in extents))


def _one_of(rng: Generator, *texts: str) -> str:
    return texts[int(rng.integers(len(texts)))]


def _center(facts: ViewFacts, rng: Generator) -> Iterator[GroundedSentence]:
    closest = facts.labels.closest_landmarks[:1]
    for key in closest:
        distance = float(np.hypot(*facts.labels.displacement_mm[landmark(key).index]))
        extents = [facts.regions[key]] if key in facts.regions else []
        if distance < CENTRED_MM:
            text = _one_of(rng, "the view is centered on {}", "the field is centered on {}")
        else:
            text = _one_of(rng, "the landmark closest to the center of the field is {}",
                           "of all landmarks, {} is closest to the center of the field")  # fmt: skip
        yield _said(text.format(name_of(key)), *extents)


def _findings(facts: ViewFacts, rng: Generator) -> Iterator[GroundedSentence]:
    for finding, found in facts.findings.items():
        if found.share < PARTLY_INCLUDED:
            continue
        text = finding_name(finding)
        end = "" if found.share >= INCLUDED else ", partially included"
        yield _said(f"{text} in the {zone(found)}{end}", found)
    if facts.no_findings and facts.organs:
        yield _said(_one_of(rng, "no pneumothorax, no pleural effusion", "no pleural effusion or pneumothorax"))
        yield _said(_one_of(rng, "no support device, tube or line", "no implanted device and no tube is seen"))


def finding_name(finding: str) -> str:
    """Returns how a report names a finding such as ``pneumothorax:right``.

    >>> finding_name("pneumothorax:right"), finding_name("pacemaker")
    ('Right pneumothorax', 'Left-sided pacemaker with its leads')
    """
    from carm_env.anatomy.finding_names import parse_finding

    parsed = parse_finding(finding)
    side = parsed.side or ""
    return _FINDINGS[parsed.name].format(side=side, Side=side.capitalize())


def _lungs(facts: ViewFacts, rng: Generator) -> Iterator[GroundedSentence]:
    whole = [name for name, found in facts.organs.items() if found.share >= INCLUDED]
    if len(whole) == 2:
        yield _said(_one_of(rng, "both lungs are included", "both lungs are completely imaged"),
                    *(facts.organs[name] for name in whole))  # fmt: skip
        return
    for name, found in facts.organs.items():
        if found.share >= INCLUDED:
            yield _said(_one_of(rng, f"the {name} is completely included", f"the whole {name} is imaged"), found)
        elif found.share >= PARTLY_INCLUDED and found.cut:
            margin = found.cut[int(rng.integers(len(found.cut)))]
            yield _said(f"the {name} is partially included, cut off at the {margin} margin", found)


def _landmarks(facts: ViewFacts, rng: Generator) -> Iterator[GroundedSentence]:
    for key in rng.permutation(sorted(facts.regions)).tolist():
        found, index = facts.regions[key], landmark(key).index
        choice = int(rng.integers(3))
        if choice == 0:
            yield _said(f"{name_of(key)} projects over the {_point_zone(facts, key)} of the image", found)
        elif choice == 1:
            yield _said(f"{name_of(key)} lies {offset(facts.labels.displacement_mm[index])}", found)
        else:
            yield _said(f"{name_of(key)} is seen in the {_point_zone(facts, key)}", found)
        if found.cut:
            margin = found.cut[int(rng.integers(len(found.cut)))]
            yield _said(f"{name_of(key)} is at the {margin} margin of the image", found)


def _point_zone(facts: ViewFacts, key: int) -> str:
    across, down = facts.positions[landmark(key).index].tolist()
    return zone((across, down))


def offset(displacement_mm: np.ndarray) -> str:
    """Returns where a landmark is, in whole centimetres from the center of the view.

    Args:
        displacement_mm: ``(2,)`` to the left and cranially.

    >>> offset(np.array([-31.0, 12.0])), offset(np.array([2.0, -3.0]))
    ('3 cm to the right of and 1 cm above the center', 'at the center of the field')
    """
    across, up = (round(float(value) / 10) for value in displacement_mm)
    sides = [f"{abs(across)} cm to the {'left' if across > 0 else 'right'} of"] if across else []
    heights = [f"{abs(up)} cm {'above' if up > 0 else 'below'}"] if up else []
    return f"{' and '.join(sides + heights)} the center" if sides or heights else "at the center of the field"


def _pairs(facts: ViewFacts, rng: Generator) -> Iterator[GroundedSentence]:
    for name in _PAIRS:
        keys = [landmark(f"{side} {name}").id for side in ("Right", "Left")]
        if not all(key in facts.regions for key in keys):
            continue
        right, left = (float(facts.labels.displacement_mm[landmark(key).index, 1]) for key in keys)
        extents = [facts.regions[key] for key in keys]
        if abs(right - left) < LEVEL_MM:
            yield _said(_one_of(rng, f"the {name}s are level", f"both {name}s are at the same height"), *extents)
        else:
            high, low = ("right", "left") if right > left else ("left", "right")
            upper, lower = f"the {high} {name} is higher than the {low}", f"the {low} {name} is lower than the {high}"
            yield _said(_one_of(rng, upper, lower), *extents)


def _spine(facts: ViewFacts) -> Iterator[GroundedSentence]:
    keys = [landmark(name).id for name in ("T1", "T12")]
    if all(key in facts.regions for key in keys):
        yield _said("the thoracic spine is included from T1 to T12", *(facts.regions[key] for key in keys))


def _arms(facts: ViewFacts) -> Iterator[GroundedSentence]:
    keys = [landmark(f"{side} wrist").id for side in ("Right", "Left")]
    if all(key in facts.regions for key in keys):
        right, left = (float(facts.labels.displacement_mm[landmark(key).index, 0]) for key in keys)
        if right > left:
            yield _said("the forearms are crossed in front of the body", *(facts.regions[key] for key in keys))


def _absent(facts: ViewFacts, rng: Generator) -> Iterator[GroundedSentence]:
    absent = [item.id for item in LANDMARKS if item.id not in facts.regions]
    for key in rng.permutation(absent)[:_MAX_ABSENT].tolist():
        yield _said(f"{name_of(key)} {_one_of(rng, 'is not included in the image', 'is outside the field')}")


def _quality(facts: ViewFacts, rng: Generator) -> Iterator[GroundedSentence]:
    angle = max(abs(facts.alpha_deg), abs(facts.beta_deg))
    if angle < ANGULATED_DEG:
        yield _said(_one_of(rng, "frontal projection", "straight frontal view without angulation"))
    else:
        yield _said(f"oblique projection, angulated by {round(angle)} degrees")
    if facts.body_share >= FULL_FIELD:
        yield _said(_one_of(rng, "the body fills the field", "no open field around the body"))
    elif facts.body_share <= PART_FIELD:
        yield _said(_one_of(rng, "part of the field is outside of the body", "the field includes air beside the body"))
