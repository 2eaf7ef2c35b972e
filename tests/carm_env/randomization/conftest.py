import numpy as np
import pytest

from carm_env.patient import Patient
from carm_env.volume import Volume

POINTS = {10: (20.0, 60.0, 300.0), 11: (0.0, 64.0, 240.0), 14: (-16.0, 70.0, 120.0), 6: (-90.0, 50.0, 150.0),
          1: (10.0, 60.0, 380.0)}  # fmt: skip


@pytest.fixture(scope="session")
def phantom():
    """A patient of water in voxels of 2 mm, with a bright cube of 14 mm at each of five landmarks."""
    hu = np.full((110, 60, 220), -1000, np.int16)
    hu[5:-5, 8:-8, 4:-4] = 20
    volume = Volume.from_origin(hu, 2.0, (-110.0, 0.0, 0.0))
    for point in POINTS.values():
        i, j, k = np.rint(volume.index_from_lps(point)).astype(int)
        hu[i - 3 : i + 4, j - 3 : j + 4, k - 3 : k + 4] = 1200
    return Patient("imported:phantom", volume, {key: np.array(point) for key, point in POINTS.items()})
