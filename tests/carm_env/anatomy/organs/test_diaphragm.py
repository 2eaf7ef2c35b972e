"""Which point of a dome is the highest one, for a patient who lies askew."""

import numpy as np
import pytest

from carm_env.anatomy.organs.thorax import landmark_points, make_thorax
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import pose_body
from carm_env.anatomy.table_pose import make_table_pose
from carm_env.landmarks import landmark

SIDES = (("r", "Right"), ("l", "Left"))


@pytest.mark.parametrize("askew_deg", [-10.0, 0.0, 10.0])
def test_a_dome_is_highest_at_its_landmark_on_the_table(skeleton, askew_deg):
    parameters = PatientParameters(askew_deg=askew_deg, roll_deg=4.0)
    body = pose_body(parameters, skeleton)
    thorax, pose = make_thorax(body, parameters), make_table_pose(body, parameters)
    points = landmark_points(body, thorax)
    for side, title in SIDES:
        point = points[landmark(f"{title} hemidiaphragm").id]
        assert np.abs(point[[0, 2]] - body.target_mm(f"{title} hemidiaphragm")).max() < 4.0
        around = np.arange(-20.0, 21.0, 1.0)
        x, y = point[0] + around[:, None], point[1] + around[None, :]
        surface = np.stack(np.broadcast_arrays(x, y, thorax.diaphragm.height_mm(x, y)), axis=-1)
        assert pose.apply(surface)[..., 2].max() < pose.apply(point)[2] + 0.3, side
