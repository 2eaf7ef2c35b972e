import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.volume import Volume


def make(shape=(4, 5, 6), spacing=(1.0, 2.0, 3.0), origin=(-7.0, 8.0, 9.0)):
    hu = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    return Volume.from_origin(hu, spacing, origin)


@given(st.tuples(*[st.floats(-100, 100)] * 3))
def test_index_and_lps_are_inverses(point):
    volume = make()
    np.testing.assert_allclose(volume.lps_from_index(volume.index_from_lps(point)), point, atol=1e-9)


def test_hu_at_reads_the_nearest_voxel_and_air_outside():
    volume = make()
    assert volume.hu_at(volume.lps_from_index([1, 2, 3])) == volume.hu[1, 2, 3]
    assert volume.hu_at([[1000, 0, 0], volume.origin_lps_mm]).tolist() == [-1000, 0]


def test_a_volume_cannot_be_changed():
    volume = make()
    with pytest.raises(ValueError):
        volume.hu[0, 0, 0] = 1
    with pytest.raises(ValueError):
        volume.affine_lps_mm[0, 0] = 1


def test_bad_volumes_are_refused():
    with pytest.raises(ValueError, match="int16"):
        Volume(np.zeros((3, 3, 3)), np.eye(4))
    with pytest.raises(ValueError, match="two voxels or more"):
        Volume(np.zeros((3, 1, 3), np.int16), np.eye(4))
    with pytest.raises(ValueError, match="finite"):
        Volume(np.zeros((3, 3, 3), np.int16), np.full((4, 4), np.nan))
    flipped = np.diag([-1.0, 1, 1, 1])
    with pytest.raises(ValueError, match="positive spacings"):
        Volume(np.zeros((3, 3, 3), np.int16), flipped)
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    with pytest.raises(ValueError, match="resample"):
        Volume(np.zeros((3, 3, 3), np.int16), sheared)
