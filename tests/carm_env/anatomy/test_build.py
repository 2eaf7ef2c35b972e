from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings

import numpy as np
import pytest

from carm_env.anatomy import build
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.population import VirtualPatient
from carm_env.anatomy.table_pose import add_table
from carm_env.patient import Patient
from carm_env.system.errors import UnknownNameError
from carm_env.volume import Volume


def tiny_patient(virtual: VirtualPatient) -> Patient:
    """A patient of a few voxels that depends on the parameters."""
    hu = np.full((4, 5, 6), -1000, np.int16)
    hu[1:3, 1:4, 1:5] = int(virtual.parameters.fat_mm)
    return Patient(build.patient_id(virtual), Volume.from_origin(hu, 2.0, (0, 0, 0)), {11: np.zeros(3)}, {"a": 1})


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """A cache in a temporary folder, and the list of patients that are built."""
    calls = []

    def fake(virtual):
        calls.append(virtual)
        return tiny_patient(virtual)

    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "build_patient", fake)
    return calls


def test_a_patient_is_built_once_and_then_read_from_the_cache(builds):
    first = build.virtual_patient(0)
    second = build.virtual_patient(0)
    assert len(builds) == 1
    np.testing.assert_array_equal(first.volume.hu, second.volume.hu)
    assert second.id == "virtual:0"


def test_other_parameters_are_cached_separately(builds):
    ids = {build.virtual_patient(seed, **options).id for seed, options in ((0, {}), (1, {}), (0, {"arms": "sides"}))}
    assert ids == {"virtual:0", "virtual:1", "virtual:0?arms=sides"}
    assert len(builds) == 3


def test_a_new_anatomy_version_is_built_again(builds, monkeypatch):
    build.virtual_patient(0)
    monkeypatch.setattr(build, "ANATOMY_VERSION", "another")
    build.virtual_patient(0)
    assert len(builds) == 2


@pytest.mark.parametrize("damage", ["cut", "alter", "description", "missing"])
def test_a_damaged_cached_patient_is_built_again(builds, damage):
    build.virtual_patient(0)
    folder = build.cache_folder(VirtualPatient())
    volume = folder / "volume.npy"
    content = volume.read_bytes()
    if damage == "cut":
        volume.write_bytes(content[:-7])
    elif damage == "alter":
        volume.write_bytes(content[:-2] + b"\x01\x02")
    elif damage == "description":
        (folder / "patient.json").write_text('{"format": 1', encoding="utf-8")
    else:
        volume.unlink()
    with pytest.warns(UserWarning, match="damaged and is built again"):
        rebuilt = build.virtual_patient(0)
    assert len(builds) == 2
    np.testing.assert_array_equal(rebuilt.volume.hu, tiny_patient(VirtualPatient()).volume.hu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build.virtual_patient(0)
    assert len(builds) == 2


def test_a_build_is_announced_on_standard_error(builds, capsys):
    build.virtual_patient(0, arms="sides")
    announcement = "carm-env: building virtual patient virtual:0?arms=sides (once, about 30 s) ...\n"
    assert capsys.readouterr().err == announcement
    build.virtual_patient(0, arms="sides")
    build.virtual_patient(1, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_failed_build_leaves_nothing_in_the_cache(builds, monkeypatch, tmp_path):
    def broken(virtual):
        raise RuntimeError("stopped")

    monkeypatch.setattr(build, "build_patient", broken)
    with pytest.raises(RuntimeError, match="stopped"):
        build.virtual_patient(0)
    assert not build.cache_folder(VirtualPatient()).exists()


def test_an_unknown_option_is_refused_before_a_build(builds):
    with pytest.raises(UnknownNameError, match="Did you mean 'belly_mm'"):
        build.virtual_patient(0, bely_mm=3)
    assert not builds


def test_the_id_contains_the_options_that_are_set():
    virtual = VirtualPatient(4, arms="sides", fat_mm=20.0)
    assert build.patient_id(virtual) == "virtual:4?arms=sides&fat_mm=20.0"


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, carm_env.anatomy\n"
        "heavy = {'mujoco', 'myo_sim', 'scipy', 'numba'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr


def fork_and_load(barrier, queue):
    barrier.wait()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hu = build.virtual_patient(0).volume.hu
    queue.put((int(hu.sum()), len(caught)))


@pytest.mark.skipif(sys.platform != "linux", reason="the fake builder is inherited by fork")
def test_concurrent_processes_get_the_same_patient(builds):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(6), context.Queue()
    processes = [context.Process(target=fork_and_load, args=(barrier, queue)) for _ in range(6)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert results == [(int(tiny_patient(VirtualPatient()).volume.hu.sum()), 0)] * 6


def test_an_unwritable_cache_is_a_warning(builds, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="set CARM_ENV_CACHE"):
        patient = build.virtual_patient(0)
    assert patient.id == "virtual:0" and len(builds) == 1


def test_a_file_at_the_path_of_the_patient_is_replaced(builds):
    folder = build.cache_folder(VirtualPatient())
    folder.parent.mkdir(parents=True)
    folder.write_text("a file", encoding="utf-8")
    build.virtual_patient(0)
    assert folder.is_dir() and len(builds) == 1
    assert [item.name for item in folder.parent.iterdir() if item.name.startswith(".")] == []


def test_a_table_does_not_move_the_middle_of_the_body(patient):
    volume = patient.volume
    lattice = Lattice(volume.origin_lps_mm, float(volume.spacing_mm[0]), volume.hu.shape)
    hu, wide = add_table(volume.hu, lattice)
    lying = Patient(
        "test:lying", Volume.from_origin(hu, wide.spacing_mm, wide.origin_mm), {}, {"parameters": {"table": True}}
    )
    assert wide.end_mm[1] > lattice.end_mm[1] + 30.0
    assert lying.mid_depth_mm == pytest.approx(patient.mid_depth_mm, abs=2.0)
