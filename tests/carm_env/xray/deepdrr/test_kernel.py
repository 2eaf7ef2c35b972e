"""DeepDRR's own kernel, compiled for the CPU, against our projector and on an impulse."""

import shutil
import subprocess

import numpy as np
import pytest

from carm_env.envs.episode import start_isocenter_lps_mm
from carm_env.envs.scene import load_scene
from carm_env.geometry import CArmGeometry, CArmPose, ProjectionGeometry
from carm_env.volume import Volume
from carm_env.xray.cpu.reference import MarchProjector
from carm_env.xray.cpu.separable import SeparableProjector
from carm_env.xray.deepdrr import DeepDRRRenderer
from carm_env.xray.physics.polychromatic import AttenuationTable
from carm_env.xray.physics.spectrum import load_beam

VIEWS = [(0, 0, "AP"), (0, 0, "PA"), (35, 25, "AP"), (-30, 0, "PA")]


def centroid(image):
    """``(u, v)`` of what the image shows."""
    rows, columns = np.indices(image.shape)
    return np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()


def impulse(voxel=(4, 9, 14)):
    hu = np.full((19, 23, 27), -1000, np.int16)
    hu[voxel] = 2000
    return Volume.from_origin(hu, (2.0, 2.5, 3.0), (-30.0, 40.0, 900.0)), voxel


@pytest.mark.parametrize(("alpha", "beta", "projection"), VIEWS)
def test_it_agrees_with_the_cpu_backend(running_cupy, phantom, view, agreement, alpha, beta, projection):
    geometry = view(alpha, beta, projection, 64)
    beam = load_beam()
    exact = beam.transmission(MarchProjector(phantom, step_mm=0.3).path_masses(geometry))
    fast = np.exp(-AttenuationTable.of_beam(beam).log_image(SeparableProjector(phantom).path_masses(geometry)))
    with DeepDRRRenderer(phantom) as renderer:
        image = np.exp(-renderer.log_image(geometry))
    for ours in (exact, fast):
        # Behind the body little is left of the intensity; its logarithm, as a share of the largest, sees that.
        logarithms = agreement(np.log(image) / np.log(ours).min(), np.log(ours) / np.log(ours).min())
        assert logarithms["mean"] <= 5e-3
        assert logarithms["p99"] <= 1.5e-2
        found = agreement(image, ours)
        assert found["shift"] < 0.05
        assert found["ncc"] >= 0.9995
        assert found["mean"] <= 5e-3
        assert found["p99"] <= 1.5e-2


@pytest.mark.parametrize(("alpha", "beta", "projection"), VIEWS)
def test_impulse_appears_where_the_geometry_projects_it(running_cupy, alpha, beta, projection):
    volume, voxel = impulse()
    point = volume.lps_from_index(voxel)
    geometry = ProjectionGeometry.from_pose(CArmPose(tuple(point), alpha, beta, projection), CArmGeometry(), 256)
    with DeepDRRRenderer(volume) as renderer:
        found = centroid(renderer.log_image(geometry))
    np.testing.assert_allclose(found, geometry.project(point), atol=0.1)


def test_without_correction_impulse_is_one_voxel_off(running_cupy):
    volume, voxel = impulse()
    point = volume.lps_from_index(voxel)
    shifted = volume.lps_from_index(np.add(voxel, 1))
    for alpha in (0, 90):
        geometry = ProjectionGeometry.from_pose(CArmPose(tuple(point), alpha), CArmGeometry(), 256)
        with DeepDRRRenderer(volume, correct_voxel_shift=False) as renderer:
            found = centroid(renderer.log_image(geometry))
        np.testing.assert_allclose(found, geometry.project(shifted), atol=0.1)
        assert np.abs(found - geometry.project(point)).min() > 3


def test_truncated_body_fades_out_as_in_our_projector(running_cupy, agreement):
    hu = np.full((20, 20, 20), 40, np.int16)
    volume = Volume.from_origin(hu, 4.0, (0.0, 0.0, 0.0))
    geometry = ProjectionGeometry.from_pose(CArmPose((38.0, 38.0, 38.0), 20, 10), CArmGeometry(), 64)
    with DeepDRRRenderer(volume) as renderer:
        image = np.exp(-renderer.log_image(geometry))
    found = agreement(image, load_beam().transmission(MarchProjector(volume).path_masses(geometry)))
    assert found["shift"] < 0.01
    assert found["p99"] <= 3e-3


def test_open_field_is_zero_without_open_air(running_cupy, phantom, view):
    geometry = view(size=32, offset=(60, 0, 0))
    with DeepDRRRenderer(phantom) as renderer:
        assert abs(renderer.log_image(geometry)[:, -1]).max() < 1e-4
    with DeepDRRRenderer(phantom, open_air=True) as renderer:
        assert renderer.log_image(geometry)[:, 20].min() > 5e-4


def test_images_are_fresh_and_of_any_size(running_cupy, phantom, view):
    with DeepDRRRenderer(phantom, step_mm=1.0) as renderer:
        first = renderer.log_image(view(size=16))
        kept = first.copy()
        assert renderer.log_image(view(30, size=24)).shape == (24, 24)
        again = renderer.log_image(view(size=16))
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, again)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile DeepDRR's kernels with")
def test_nvcc_compiles_the_kernels(running_cupy, phantom, tmp_path):
    before = len(running_cupy.modules)
    DeepDRRRenderer(phantom).close()
    modules = running_cupy.modules[before:]
    assert len(modules) == 2
    for module in modules:
        source = tmp_path / "kernel.cu"
        source.write_text(module.code, encoding="utf-8")
        command = ["nvcc", "--cubin", "-arch=sm_80", *module.options, "-o", str(tmp_path / "kernel.cubin"), str(source)]
        process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        assert process.returncode == 0, process.stderr


def test_image_behind_metal_is_finite(running_cupy):
    volume = Volume.from_origin(np.full((20, 20, 20), 32767, np.int16), 4.0, (0.0, 0.0, 0.0))
    geometry = ProjectionGeometry.from_pose(CArmPose((38.0, 38.0, 38.0)), CArmGeometry(), 16)
    with DeepDRRRenderer(volume, step_mm=1.0) as renderer:
        image = renderer.log_image(geometry)
    assert np.isfinite(image).all() and image.max() > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "beta", "projection", "up_mm"),
    [(0, 0, "AP", 0), (0, 0, "PA", 150), (35, 25, "AP", -100), (90, 0, "AP", 100)],
)
def test_it_agrees_on_a_virtual_patient(running_cupy, agreement, virtual_patient, alpha, beta, projection, up_mm):
    low, high = virtual_patient.workspace_mm
    isocenter = start_isocenter_lps_mm(tuple((low + high) / 2), virtual_patient) + np.array([0, 0, up_mm])
    geometry = ProjectionGeometry.from_pose(CArmPose(tuple(isocenter), alpha, beta, projection), CArmGeometry(), 96)
    ours = load_beam().transmission(MarchProjector(virtual_patient.volume, step_mm=0.4).path_masses(geometry))
    with DeepDRRRenderer(virtual_patient.volume) as renderer:
        found = agreement(np.exp(-renderer.log_image(geometry)), ours)
    print(projection, alpha, beta, found)
    assert found["shift"] < 0.05
    assert found["ncc"] >= 0.9995
    assert found["mean"] <= 5e-3
    assert found["p99"] <= 1.5e-2


@pytest.fixture(scope="module")
def virtual_patient():
    return load_scene("virtual:0").patient
