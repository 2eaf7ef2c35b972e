"""The articulated skeleton: myo-sim's full body, posed by MuJoCo.

myo-sim's axes are already LPS; its midline lies 25 mm to the right of x = 0 and is moved there.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.meshes import Mesh

MIDLINE_MM = np.array([25.0, 0.0, 0.0])
"""Moves myo-sim's midline to x = 0."""

SIDES = ("r", "l")
SIDE_SIGN = {"r": -1.0, "l": 1.0}
"""Direction of the patient's right and left along x."""

RIB_CAGE = "torso_geom_13_ribcage_s"
SKULL = "hat_skull"
MANDIBLE = "hat_jaw"
CERVICAL_SPINE = "hat_cervical"
PELVIS = ("r_pelvis", "l_pelvis")
SACRUM = "sacrum_geom_1_sacrum"

_LEG_PARTS = ("tibia", "fibula", "talus", "foot", "patella", "calc", "toe")
_FEWEST_RIB_FACES, _LOGO_FACES = 90, 5000
_SHORTEST_RIB_MM = 40.0
_VERTEBRA_BODY_DEPTH_MM, _VERTEBRA_DEPTH_MM = 28.0, 62.0
"""Of a whole vertebra from front to back, the body takes the first part."""


def thoracic(number: int) -> str:
    """Mesh name of a thoracic vertebra, 1 to 12."""
    return f"torso_geom_{13 - number}_thoracic{number}_s"


def lumbar(number: int) -> str:
    """Mesh name of a lumbar vertebra, 1 to 5."""
    return f"lumbar{number}_geom_1_lumbar{number}"


THORACOLUMBAR = tuple([lumbar(n) for n in range(5, 0, -1)] + [thoracic(n) for n in range(12, 0, -1)])
"""Mesh names from L5 up to T1."""


class Skeleton:
    """A MuJoCo model of the skeleton whose joints can be set by name; lengths in mm, LPS."""

    def __init__(self) -> None:
        import mujoco
        import myo_sim

        self._mujoco = mujoco
        # Its remarks about name prefixes concern only saving a model, and MuJoCo would log them to a file.
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._model = myo_sim.load_model("myofullbody")
        finally:
            mujoco.set_mju_user_warning(None)
        self._data = mujoco.MjData(self._model)
        self.update()

    def has_joint(self, name: str) -> bool:
        """Whether a joint of this name exists."""
        return self._number("JOINT", name) >= 0

    def set_joint(self, name: str, degrees: float) -> None:
        """Turn a hinge joint; takes effect at the next `update`."""
        number = self._number("JOINT", name)
        if number < 0:
            raise KeyError(f"the skeleton has no joint {name!r}")
        self._data.qpos[self._model.jnt_qposadr[number]] = np.deg2rad(degrees)

    def update(self) -> None:
        """Move the bodies to the joints' present angles."""
        self._mujoco.mj_kinematics(self._model, self._data)

    def position(self, body: str) -> NDArray[np.float64]:
        """``(3,)`` origin of a body (its proximal joint), LPS mm."""
        return self._data.xpos[self._body(body)] * 1000 + MIDLINE_MM

    def orientation(self, body: str) -> NDArray[np.float64]:
        """``(3, 3)`` axes of a body in LPS."""
        return self._data.xmat[self._body(body)].reshape(3, 3).copy()

    def meshes(self) -> list[Mesh]:
        """All bones from the skull to the thighs in the present pose."""
        model, data = self._model, self._data
        kind = self._mujoco.mjtObj
        found = []
        for geom in np.flatnonzero(model.geom_type == self._mujoco.mjtGeom.mjGEOM_MESH):
            number = model.geom_dataid[geom]
            name = self._mujoco.mj_id2name(model, kind.mjOBJ_MESH, number)
            if any(part in name for part in _LEG_PARTS):
                continue
            body = self._mujoco.mj_id2name(model, kind.mjOBJ_BODY, model.geom_bodyid[geom])
            first, count = model.mesh_vertadr[number], model.mesh_vertnum[number]
            local = model.mesh_vert[first : first + count].astype(float)
            placed = (local @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]) * 1000 + MIDLINE_MM
            first, count = model.mesh_faceadr[number], model.mesh_facenum[number]
            found.append(Mesh(name, body, placed, model.mesh_face[first : first + count].astype(np.int64)))
        return found

    def _number(self, kind: str, name: str) -> int:
        return self._mujoco.mj_name2id(self._model, getattr(self._mujoco.mjtObj, f"mjOBJ_{kind}"), name)

    def _body(self, name: str) -> int:
        number = self._number("BODY", name)
        if number < 0:
            raise KeyError(f"the skeleton has no body {name!r}")
        return number


def vertebral_body_centre(mesh: Mesh) -> NDArray[np.float64]:
    """``(3,)`` centre of the vertebral body, the front part of a vertebra's mesh, LPS mm."""
    vertices = mesh.vertices_mm
    depth = _VERTEBRA_BODY_DEPTH_MM * np.ptp(vertices[:, 1]) / _VERTEBRA_DEPTH_MM
    front = vertices[vertices[:, 1] < vertices[:, 1].min() + depth]
    return (front.min(0) + front.max(0)) / 2


def rib_cage_shells(cage: Mesh) -> tuple[list[Mesh], Mesh]:
    """The ribs and the sternum (with its costal cartilage) of the rib-cage mesh.

    The mesh also holds its authors' logo, a shell of 15,180 faces over the sternum, and tiny
    shells that belong to it; they are left out.
    """
    shells = [
        shell
        for shell in cage.shells()
        if _FEWEST_RIB_FACES < len(shell.faces) < _LOGO_FACES
        and np.ptp(shell.vertices_mm, axis=0).max() > _SHORTEST_RIB_MM
    ]
    sternum = max(shells, key=lambda shell: len(shell.faces))
    return [shell for shell in shells if shell is not sternum], sternum
