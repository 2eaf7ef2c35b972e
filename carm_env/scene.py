"""A patient under a C-arm: what the environments of one process share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from carm_env.catalogue import load_patient
from carm_env.geometry import CArmGeometry
from carm_env.patients import Patient
from carm_env.xray.backends import LogRenderer
from carm_env.xray.camera import XRayCamera
from carm_env.xray.projector import Projector
from carm_env.xray.settings import XRaySettings

MAX_RESIDENT_SCENES = 16
_PROJECTOR_FIELDS = ("backend", "fidelity")
_RENDERER_FIELDS = (*_PROJECTOR_FIELDS, "kvp", "aluminium_mm", "copper_mm")


@dataclass(frozen=True, eq=False)
class Scene:
    """A patient and the camera that takes its X-rays; safe to use from several threads."""

    patient: Patient
    camera: XRayCamera


class _SceneStore:
    """The scenes used last, so that environments of one process hold each patient once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._scenes: OrderedDict[tuple[str, CArmGeometry, XRaySettings], Scene] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, geometry: CArmGeometry, settings: XRaySettings) -> Scene:
        key = (name, geometry, settings)
        # Held while loading: a second thread that wants the same patient waits and then shares it.
        with self._lock:
            scene = self._scenes.get(key)
            if scene is None:
                patient = next((s.patient for k, s in self._scenes.items() if k[0] == name), None)
                patient = patient or load_patient(name)
                projector = self._shared_projector(name, settings)
                scene = Scene(patient, XRayCamera(patient.volume, geometry, settings, projector))
                self._scenes[key] = scene
            self._scenes.move_to_end(key)
            while len(self._scenes) > self._capacity:
                self._scenes.popitem(last=False)
            return scene

    def _shared_projector(self, name: str, settings: XRaySettings) -> Projector | LogRenderer | None:
        """The projector of the same patient under other settings: noise and window are not its business."""
        for (other, _, others_settings), scene in self._scenes.items():
            projector = scene.camera.projector
            # A renderer that does the physics itself depends on the beam as well.
            fields = _RENDERER_FIELDS if isinstance(projector, LogRenderer) else _PROJECTOR_FIELDS
            if other == name and all(getattr(others_settings, field) == getattr(settings, field) for field in fields):
                return projector
        return None


_store = _SceneStore(MAX_RESIDENT_SCENES)


def load_scene(name: str, geometry: CArmGeometry | None = None, settings: XRaySettings | None = None) -> Scene:
    """The scene of the patient called `name` (see `carm_env.catalogue`), loaded at first use and then shared."""
    return _store.get(name, geometry or CArmGeometry(), settings or XRaySettings())
