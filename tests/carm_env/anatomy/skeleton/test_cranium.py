"""The skull landmark of anatomy 5 is the centre of the vault by the rule for label maps of CTs."""

import numpy as np
import pytest

from carm_env.anatomy.population import VirtualPatient
from carm_env.anatomy.skeleton.body import pose_body
from carm_env.anatomy.skeleton.cranium import vault_centre_mm
from carm_env.anatomy.skeleton.model import SKULL


def test_the_rule_gives_the_centre_of_a_ball():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20000, 3))
    ball = 75.0 * points / np.linalg.norm(points, axis=1, keepdims=True) + [3.0, -20.0, 1500.0]
    below = ball[:2000] * [0.5, 1.4, 1.0] - [0.0, 0.0, 170.0]
    np.testing.assert_allclose(vault_centre_mm(np.concatenate([ball, below])), [3.0, -20.0, 1500.0], atol=1.0)


@pytest.fixture(scope="module", params=[0, 3001])
def bodies(request, skeleton):
    """The same person in both versions; the second lies askew with the head turned."""
    return {name: pose_body(VirtualPatient(request.param, anatomy=name).parameters, skeleton) for name in "45"}


def test_only_the_landmark_moves_and_the_head_stays(bodies):
    skulls = {name: body.meshes[SKULL].vertices_mm for name, body in bodies.items()}
    # Bones of anatomy 5 are reshaped by two millimetres or so.
    assert np.abs(skulls["5"].max(0) - skulls["4"].max(0)).max() < 4.0
    above = bodies["5"].landmarks_mm["Skull"] - bodies["4"].landmarks_mm["Skull"]
    assert 14.0 < above[2] < 25.0 and np.abs(above[:2]).max() < 6.0


def test_the_landmark_is_half_of_the_breadth_below_the_vertex(bodies):
    skull, point = bodies["5"].meshes[SKULL].vertices_mm, bodies["5"].landmarks_mm["Skull"]
    vault = skull[skull[:, 2] > skull[:, 2].max() - 90.0]
    breadth = np.ptp(vault[:, 0])
    assert (skull[:, 2].max() - point[2]) / breadth == pytest.approx(0.5, abs=0.001)
    assert np.abs(point[:2] - (vault.min(0) + vault.max(0))[:2] / 2).max() < 0.1
    np.testing.assert_allclose(bodies["5"].moved_landmarks_mm(lambda points: points)["Skull"], point)


def test_version_4_keeps_its_landmark(bodies):
    body = bodies["4"]
    np.testing.assert_allclose(body.landmarks_mm["Skull"], body.head_point(0.0, 205.0, 1664.0))
