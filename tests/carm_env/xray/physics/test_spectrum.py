import numpy as np
import pytest

from carm_env.xray.physics import spectrum
from carm_env.xray.physics.polychromatic import MAX_BONE_G_CM2, MAX_SOFT_G_CM2, AttenuationTable
from carm_env.xray.physics.spectrum import beam_path, load_beam


@pytest.fixture(scope="module")
def beam():
    return load_beam()


@pytest.fixture(scope="module")
def table(beam):
    return AttenuationTable.of_beam(beam)


def test_the_default_beam_is_a_filtered_90_kv_beam(beam):
    assert beam.fluence.sum() == pytest.approx(1)
    assert beam.energies_kev.max() < 90
    # 4 mm of aluminium take the soft part away; Birch and Marshall (IPEM 78) give about 48 keV.
    assert 45 < beam.mean_energy_kev < 52
    assert beam.fluence[beam.energies_kev < 20].sum() < 0.01
    assert 1 < beam.noise_factor < 1.3


def test_more_filtration_and_more_kilovolts_harden_the_beam(beam):
    assert load_beam(90, 8).mean_energy_kev > beam.mean_energy_kev
    assert load_beam(70, 4).mean_energy_kev < beam.mean_energy_kev


@pytest.mark.parametrize(
    ("beam", "message"),
    [
        ((10, 4), "kvp"),
        ((500, 4), "kvp"),
        ((float("nan"), 4), "kvp"),
        ((90, -1), "aluminium_mm"),
        ((90, 1e9), "aluminium_mm"),
        ((90, 4, -0.1), "copper_mm"),
        ((90, 4, 30), "copper_mm"),
    ],
)
def test_an_impossible_beam_is_an_error(beam, message):
    with pytest.raises(ValueError, match=message):
        load_beam(*beam)


@pytest.mark.parametrize("damage", [b"", b"not a zip file", None])
def test_a_damaged_cache_is_rebuilt(beam, damage):
    path = beam_path(90, 4)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    load_beam.cache_clear()
    rebuilt = load_beam()
    np.testing.assert_allclose(rebuilt.fluence, beam.fluence)
    load_beam.cache_clear()
    np.testing.assert_array_equal(load_beam().fluence, rebuilt.fluence)


def test_a_cached_beam_of_another_shape_is_rebuilt(beam):
    np.savez(beam_path(90, 4), energies_kev=np.ones(3), fluence=np.ones(2), attenuation_cm2_g=np.ones(2))
    load_beam.cache_clear()
    np.testing.assert_allclose(load_beam().fluence, beam.fluence)


def test_a_cached_beam_needs_neither_spekpy_nor_xraydb(beam, monkeypatch):
    load_beam.cache_clear()
    monkeypatch.setattr(spectrum, "_compute", lambda *_: pytest.fail("the beam is in the cache"))
    np.testing.assert_array_equal(load_beam().energies_kev, beam.energies_kev)


def test_copper_hardens_the_beam(beam):
    import xraydb

    filtered = load_beam(90, 4, 0.3)
    kept = np.exp(-0.03 * 8.96 * xraydb.mu_elam("Cu", filtered.energies_kev * 1000))
    fluence = np.interp(filtered.energies_kev, beam.energies_kev, beam.fluence) * kept
    np.testing.assert_allclose(filtered.fluence, fluence / fluence.sum(), atol=2e-4)
    assert filtered.photons_per_mm2_mas / beam.photons_per_mm2_mas == pytest.approx(fluence.sum(), rel=0.01)
    assert filtered.mean_energy_kev > beam.mean_energy_kev + 5


def test_kerma_is_the_fluence_times_energy_and_absorption(beam):
    import xraydb

    # NIST mass energy-absorption coefficients of dry air, cm^2/g (Hubbell and Seltzer, NISTIR 5632, table 4);
    # reading between so few of them costs a percent or two.
    energies = [10, 15, 20, 30, 40, 50, 60, 80, 100]
    absorption = [4.742, 1.334, 0.5389, 0.1537, 0.06833, 0.04098, 0.03041, 0.02407, 0.02325]
    mu_en = np.exp(np.interp(np.log(beam.energies_kev), np.log(energies), np.log(absorption)))
    kev_per_gram = 100 * beam.photons_per_mm2_mas * (beam.fluence * beam.energies_kev * mu_en).sum()
    joule_per_kilogram = kev_per_gram * 1.602177e-16 * 1000
    assert beam.air_kerma_mgy_per_mas == pytest.approx(1000 * joule_per_kilogram, rel=0.03)
    assert xraydb.mu_elam("Al", 30000) == pytest.approx(1.128, rel=0.01)


def test_without_a_cache_the_beam_is_computed(beam, monkeypatch, tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("", encoding="utf-8")
    monkeypatch.setenv("CARM_ENV_CACHE", str(blocked))
    load_beam.cache_clear()
    np.testing.assert_allclose(load_beam().fluence, beam.fluence)
    load_beam.cache_clear()


def test_transmission_follows_beer_and_lambert(beam):
    thickness = np.linspace(0, 40, 81)
    for masses in (np.stack([thickness, 0 * thickness]), np.stack([0 * thickness, thickness])):
        transmission = beam.transmission(masses)
        assert transmission[0] == pytest.approx(1)
        assert (np.diff(transmission) < 0).all()
        # The beam hardens: each further centimetre takes a smaller share.
        assert (np.diff(np.log(transmission), 2) > 0).all()
    lightest, heaviest = beam.attenuation_cm2_g[0].min(), beam.attenuation_cm2_g[0].max()
    assert np.exp(-heaviest * 10) < beam.transmission(np.array([10.0, 0.0])) < np.exp(-lightest * 10)


def test_the_table_agrees_with_the_integral_over_the_spectrum(beam, table):
    random = np.random.default_rng(0)
    masses = np.stack([random.uniform(0, 60, (200, 200)), random.uniform(0, 20, (200, 200))]).astype(np.float32)
    error = np.exp(-table.log_image(masses)) / beam.transmission(masses.astype(float)) - 1
    assert np.abs(error).max() < 3e-4
    assert np.abs(error).mean() < 1e-4


def test_the_table_is_monotone_and_ends_flat(table):
    assert (np.diff(table.values, axis=0) > 0).all()
    assert (np.diff(table.values, axis=1) > 0).all()
    masses = np.array([[[0, -1, MAX_SOFT_G_CM2, 1e6]], [[0, -1, MAX_BONE_G_CM2, 1e6]]], np.float32)
    values = table.log_image(masses)[0]
    assert values[:2] == pytest.approx(0, abs=1e-6)
    assert values[2] == pytest.approx(values[3], rel=1e-4)
    assert values[3] == pytest.approx(table.values[-1, -1], rel=1e-3)


def test_masses_of_the_wrong_shape_are_an_error(table):
    with pytest.raises(ValueError, match="expected"):
        table.log_image(np.zeros((3, 4, 4), np.float32))


def test_air_kerma_is_plausible_and_follows_inverse_square_law():
    beam = load_beam(80.0, 3.0)
    # Diagnostic tubes give about 0.04 to 0.09 mGy/mAs at 1 m at 80 kV and 3 mm Al (IPEM Report 78 spectra).
    assert 0.04 < beam.air_kerma_mgy(1.0, 1000.0) < 0.09
    assert beam.air_kerma_mgy(1.0, 500.0) == pytest.approx(4 * beam.air_kerma_mgy(1.0, 1000.0))
    assert beam.air_kerma_mgy(3.0, 700.0) == pytest.approx(3 * beam.air_kerma_mgy(1.0, 700.0))
    assert load_beam(110.0, 3.0).air_kerma_mgy_per_mas > 1.5 * beam.air_kerma_mgy_per_mas
    assert load_beam(80.0, 6.0).air_kerma_mgy_per_mas < 0.8 * beam.air_kerma_mgy_per_mas


def test_the_table_of_a_beam_is_computed_once(beam):
    assert AttenuationTable.of_beam(beam) is AttenuationTable.of_beam(beam)
