import numpy as np
import pytest

from carm_env.xray.materials import (
    AIR_TO_SOFT_ATTENUATION,
    COMPOSITIONS,
    DensityTable,
    density_from_hu,
    mass_attenuation,
    soft_and_bone,
)


@pytest.mark.parametrize(
    ("material", "energy_kev", "expected"),
    [
        # mu/rho in cm^2/g, NIST X-ray mass attenuation coefficients (Hubbell and Seltzer, NISTIR 5632), table 4.
        ("water", 30, 0.3756),
        ("water", 60, 0.2059),
        ("water", 100, 0.1707),
        ("soft", 30, 0.3790),
        ("soft", 60, 0.2048),
        ("soft", 100, 0.1693),
        ("bone", 30, 1.331),
        ("bone", 60, 0.3148),
        ("bone", 100, 0.1855),
        ("air", 60, 0.1875),
    ],
)
def test_attenuation_agrees_with_nist(material, energy_kev, expected):
    assert mass_attenuation(material, [energy_kev])[0] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("material", COMPOSITIONS)
def test_compositions_add_up(material):
    assert sum(COMPOSITIONS[material].values()) == pytest.approx(1, abs=1e-3)


def test_air_attenuates_as_its_share_of_soft_tissue():
    energies = np.arange(40, 90)
    ratio = mass_attenuation("air", energies) / mass_attenuation("soft", energies)
    np.testing.assert_allclose(ratio, AIR_TO_SOFT_ATTENUATION, atol=0.02)


def test_density_rises_with_hu():
    density = density_from_hu(np.arange(-1100, 4000))
    assert (np.diff(density) >= 0).all()
    assert density[0] == 0
    assert density_from_hu(0) == pytest.approx(1.03)


def test_every_voxel_belongs_to_one_material():
    table = soft_and_bone()
    assert table.materials == ("soft", "bone")
    assert ((table.density > 0).sum(0) <= 1).all()
    hu = np.array([-2000, -1000, -971, -820, -700, 40, 350, 351, 1200, 32767], np.int16)
    soft, bone = table.of(hu)
    assert (soft > 0).tolist() == [False, False, False, True, True, True, True, False, False, False]
    assert (bone > 0).tolist() == [False] * 7 + [True] * 3
    assert soft[5] == pytest.approx(density_from_hu(40))
    assert bone[-1] == 4.0


def test_a_table_of_the_wrong_shape_is_an_error():
    with pytest.raises(ValueError, match=r"expected \(1, 65536\)"):
        DensityTable(("soft",), np.zeros((1, 100), np.float32))
