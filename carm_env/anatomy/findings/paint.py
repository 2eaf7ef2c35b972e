"""Paints a patient's findings, each at its stage of the build."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from carm_env.anatomy.finding_names import TUBES, Finding, parse_finding
from carm_env.anatomy.findings.electrodes import paint_ecg_leads
from carm_env.anatomy.findings.fractures import break_rib
from carm_env.anatomy.findings.material import Site
from carm_env.anatomy.findings.nails import paint_hip_screw, paint_humeral_nail
from carm_env.anatomy.findings.pacemaker import paint_pacemaker
from carm_env.anatomy.findings.pleura import paint_effusion, paint_pneumothorax
from carm_env.anatomy.findings.tubes import (
    paint_central_line,
    paint_chest_tube,
    paint_endotracheal_tube,
    paint_nasogastric_tube,
)
from carm_env.anatomy.findings.wires import paint_sternal_wires
from carm_env.anatomy.skeleton.fracture import Fracture

_PLEURAL = {"pleural_effusion": paint_effusion, "pneumothorax": paint_pneumothorax}
_FOREIGN_BODIES: dict[str, Callable[[Site, Finding], None]] = {
    "humeral_nail": lambda site, finding: paint_humeral_nail(site, finding.letter),
    "hip_screw": lambda site, finding: paint_hip_screw(site, finding.letter),
    "sternal_wires": lambda site, finding: paint_sternal_wires(site),
    "pacemaker": lambda site, finding: paint_pacemaker(site, finding.letter),
    "endotracheal_tube": lambda site, finding: paint_endotracheal_tube(site),
    "central_line": lambda site, finding: paint_central_line(site, finding.letter),
    "nasogastric_tube": lambda site, finding: paint_nasogastric_tube(site),
    "chest_tube": lambda site, finding: paint_chest_tube(site, finding.letter),
    "ecg_leads": lambda site, finding: paint_ecg_leads(site),
}


def resolve(findings: Iterable[str]) -> tuple[Finding, ...]:
    """Parses findings, replaces ``tubes`` by the four tubes and drops duplicates."""
    names = (name for text in findings for name in (TUBES if text == "tubes" else (text,)))
    return tuple(dict.fromkeys(map(parse_finding, names)))


def fractures(site: Site, findings: Iterable[Finding]) -> list[Fracture]:
    """Returns the rib fractures among the findings; `paint_bones` builds the broken ribs."""
    return [break_rib(site.body, site.thorax, item.letter) for item in findings if item.name == "rib_fracture"]


def paint_pleural_findings(site: Site, findings: Iterable[Finding]) -> None:
    """Paints fluid and air in the pleural space. Call it before airways and bone are painted."""
    for item in findings:
        if item.name in _PLEURAL:
            _PLEURAL[item.name](site, item.letter)


def paint_foreign_bodies(site: Site, findings: Iterable[Finding]) -> None:
    """Paints implants, tubes and cables. Call it after all tissue is painted."""
    for item in findings:
        if item.name in _FOREIGN_BODIES:
            _FOREIGN_BODIES[item.name](site, item)
