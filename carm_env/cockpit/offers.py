"""What the page can choose from: patients, targets, suites, policies and localisers."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.cockpit.refusals import VALUE, RefusedError
from carm_env.evaluation.localization import Localizer, locate
from carm_env.evaluation.policy import Policy
from carm_env.evaluation.policy_loading import (
    BUILT_IN_POLICIES,
    CHECKPOINTS,
    construct,
    import_module_of,
)
from carm_env.evaluation.policy_specification import CHAT, SB3, PolicyLoadingError, PolicySpecification, parse_policy
from carm_env.evaluation.suite import load_suite, suite_names
from carm_env.landmarks import LANDMARKS, landmark
from carm_env.patient_store import IMPORTED, VIRTUAL, imported_names
from carm_env.patients.reference import PatientRef
from carm_env.patients.report import DAMAGED, OUTDATED, list_patients
from carm_env.system.errors import UnknownNameError, shortened

_REGISTRY = "policies.registry"
_LOCALIZERS = "policies.localizers:make_localizer"
LOCALIZERS = ("conformal", "cnn")
"""Localisers of the repository that are quick enough to draw on every X-ray."""
_NEED_MORE = (CHAT, SB3, "swapped_images")
"""Policies that the name alone does not construct."""
_KNOWN_PATIENT = re.compile(rf"(?:{VIRTUAL}|{IMPORTED}):[^/\\\0]+")
_SHOWN_PATIENTS = 200


def patient_ref(name: str) -> PatientRef:
    """Returns the reference of a patient by name; the page cannot name files.

    Raises:
        UnknownNameError: there is no such patient.
        ValueError: an option of the name has a bad value.
    """
    if not _KNOWN_PATIENT.fullmatch(name) and name not in imported_names():
        raise UnknownNameError(
            "patient", name, [f"{VIRTUAL}:0", *(f"{IMPORTED}:{found}" for found in imported_names())]
        )
    return PatientRef.parse(name)


class Offers:
    """The policies and localisers of one server; each localiser is loaded once.

    Args:
        more_policies: policies that the user names, besides those that are known.

    Raises:
        ValueError: a policy has no valid form.
    """

    def __init__(self, more_policies: Collection[str] = ()) -> None:
        self._known, self._checkpoints = _registry()
        names = [name for name in self._known if name not in _NEED_MORE]
        self._specifications: dict[str, PolicySpecification] = {
            found.name: found for found in (parse_policy(text, self._known) for text in (*names, *more_policies))
        }
        self._localizers: dict[str, Localizer] = {}
        self._lock = threading.Lock()

    @property
    def policies(self) -> list[str]:
        """Names of the policies."""
        return list(self._specifications)

    def make_policy(self, name: str) -> Policy:
        """Constructs one of the policies.

        Raises:
            UnknownNameError: it is none of the policies of this server.
            PolicyLoadingError, FileNotFoundError, MissingExtraError: it cannot be constructed.
        """
        if name not in self._specifications:
            raise UnknownNameError("policy", name, self._specifications)
        # One at a time: the modules of policies are large.
        with self._lock:
            return construct(self._specifications[name], self._known, self._checkpoints)

    def localizer_of(self, policy: str) -> str:
        """Returns the localiser that a policy follows; empty if it follows none."""
        head = policy.partition("?")[0]
        return head if head in LOCALIZERS else ""

    def located(self, name: str, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Returns what a localiser says of an X-ray: for each landmark its probability, position and region in mm.

        Args:
            name: one of `LOCALIZERS`.
            image: ``(H, W)``.

        Raises:
            UnknownNameError: another name.
            RefusedError: the localiser needs the repository.
        """
        if name not in LOCALIZERS:
            raise UnknownNameError("localizer", name, LOCALIZERS)
        with self._lock:
            if name not in self._localizers:
                self._localizers[name] = _make_localizer(name)
            found = locate(self._localizers[name], image[None])
        rows = []
        for item in LANDMARKS:
            row: dict[str, Any] = {"id": item.id, "name": item.name}
            if found.probabilities is not None:
                row["probability"] = round(float(found.probabilities[0, item.index]), 3)
            if found.displacement_mm is not None:
                row["at_mm"] = np.round(found.displacement_mm[0, item.index], 1).tolist()
            if found.region_mm is not None:
                row["region_mm"] = np.round(found.region_mm[0, item.index], 1).tolist()
            rows.append(row)
        return rows

    def listed(self) -> dict[str, Any]:
        """Returns everything that the page can choose from, as JSON."""
        patients = [
            {"id": row.id, "landmarks": row.landmarks} for row in list_patients() if row.kind not in (OUTDATED, DAMAGED)
        ]
        # Imported patients come first: there are few of them.
        patients.sort(key=lambda row: not row["id"].startswith(IMPORTED))
        suites = [load_suite(name) for name in suite_names()]
        return {
            "patients": patients[:_SHOWN_PATIENTS],
            "targets": [{"id": item.id, "name": item.name} for item in LANDMARKS],
            "suites": [
                {"name": suite.name, "episodes": len(suite.episodes), "description": suite.description}
                for suite in suites
            ],
            "policies": self.policies,
            "localizers": list(LOCALIZERS),
        }


def _registry() -> tuple[Mapping[str, str], Collection[str]]:
    """Returns the policies of the repository, where there is one, and those that take a checkpoint."""
    try:
        module, _ = import_module_of(f"{_REGISTRY}:POLICIES", [])
    except PolicyLoadingError:
        return BUILT_IN_POLICIES, CHECKPOINTS
    known = getattr(module, "POLICIES", BUILT_IN_POLICIES)
    return known, getattr(module, "CHECKPOINTS", CHECKPOINTS)


def _make_localizer(name: str) -> Localizer:
    try:
        module, attribute = import_module_of(_LOCALIZERS, LOCALIZERS)
    except PolicyLoadingError as error:
        raise RefusedError(
            VALUE,
            "Regions need the networks of the repository, which the package does not contain: clone the repository and "
            "run `pip install -e '.[train]'` there.",
        ) from error
    made: Localizer = getattr(module, attribute)(name)
    return made


def names_of(ids: Collection[int]) -> list[str]:
    """Returns the names of landmarks; ids that are none are shown as they are.

    >>> names_of([11, 99])
    ['Carina', '99']
    """
    return [landmark(key).name if key in range(1, len(LANDMARKS) + 1) else shortened(key) for key in ids]
