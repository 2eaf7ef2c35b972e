"""Every reader of files of others, each with a small valid file and the kinds of damage that fit it."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from carm_env.landmarks import LANDMARKS
from carm_env.patient import Patient, load_saved_patient, read_description, save_patient
from carm_env.patients.reference import PatientRef
from carm_env.system.extras import is_installed
from carm_env.system.files import content_hash, file_hash, write_json
from carm_env.volume import Volume
from tests.reliability.damage import (
    Damage,
    change_tree,
    in_bytes,
    in_characters,
    in_elements,
    in_fields,
    in_lines,
    in_tree,
    in_words,
)

VOLUME = Volume.from_origin(np.zeros((30, 30, 30), np.int16), 20.0, (-300.0, -300.0, -300.0))
_NIFTI_FIELDS = (
    (0, "<i"), *((offset, "<h") for offset in range(40, 56, 2)), (70, "<h"), (72, "<h"),
    *((offset, "<f") for offset in range(76, 120, 4)), (123, "<b"), (252, "<h"), (254, "<h"),
    *((offset, "<f") for offset in range(256, 328, 4)), (344, "<i"),
)  # fmt: skip
_NPY_FIELDS = ((6, "<b"), (7, "<b"), (8, "<h"))
_MISSING = FileNotFoundError


@dataclass(frozen=True)
class Reader:
    """A reader with a valid file.

    Attributes:
        name: name in the report.
        share: share of all inputs, relative to the other readers; larger for fast ones.
        path: the file that is damaged.
        content: its valid content.
        kinds: kinds of damage.
        read: reads the file.
        allowed: builtin errors that the reader documents.
    """

    name: str
    share: int
    path: Path
    content: bytes
    kinds: Sequence[Damage]
    read: Callable[[Path], object]
    allowed: tuple[type[Exception], ...] = ()


def write_files(folder: Path) -> None:
    """Writes the valid files of all readers whose packages are installed."""
    _write_landmark_files(folder)
    _write_saved_patient(folder)
    _write_texts(folder)
    _write_images(folder)
    if _reads_cts():
        _write_cts(folder)
    if _reads_checkpoints():
        _write_checkpoint(folder)
    if is_installed("pyarrow"):
        _write_views(folder)


def make_readers(folder: Path) -> list[Reader]:
    """Returns the readers of the files that `write_files` has written."""
    readers = [*_landmark_readers(folder), *_patient_readers(folder), *_text_readers(folder), *_image_readers(folder)]
    if _reads_cts():
        readers += _ct_readers(folder)
    if _reads_checkpoints():
        readers += _checkpoint_readers(folder)
    if is_installed("pyarrow"):
        readers += _view_readers(folder)
    return readers


def _reads_cts() -> bool:
    return is_installed("SimpleITK") and is_installed("pydicom")


def _reads_checkpoints() -> bool:
    return is_installed("torch") and is_installed("safetensors")


def _reader(
    name: str,
    share: int,
    path: Path,
    kinds: Sequence[Damage],
    read: Callable[[Path], object],
    *allowed: type[Exception],
) -> Reader:
    return Reader(name, share, path, path.read_bytes(), kinds, read, allowed)


def _of_folder(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read(path.parent)


def _write_landmark_files(folder: Path) -> None:
    from carm_env.ct.landmark_files import write_landmarks

    points = {item.id: np.array([7.5 * item.id, -3.0, 10.0 * item.id]) for item in LANDMARKS}
    rows = {key: point.tolist() for key, point in points.items()}
    texts = {
        "a.fcsv": "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        + "".join(f"v{key},{x},{y},{z},0,0,0,1,1,1,0,{key},,\n" for key, (x, y, z) in rows.items()),
        "a.csv": "landmark,x_mm,y_mm,z_mm,coordinate_system\n"
        + "".join(f"{key},{x},{y},{z},RAS\n" for key, (x, y, z) in rows.items()),
        "p.csv": ",file_path,x_ct,y_ct,z_ct,case_number,part,landmark\n"
        + "".join(f"{key},a.png,{z},{x},91,case-1,upper,{key}\n" for key, (x, y, z) in rows.items()),
    }
    write_landmarks(folder / "a.mrk.json", points)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _landmark_readers(folder: Path) -> list[Reader]:
    from carm_env.ct.landmark_files import read_landmarks

    def read(path: Path) -> object:
        return read_landmarks(path, volume=VOLUME)

    tables = {"landmarks, fiducials": "a.fcsv", "landmarks, table": "a.csv", "landmarks, table of the paper": "p.csv"}
    return [
        _reader("landmarks, markups", 100, folder / "a.mrk.json", (in_bytes, in_tree), read),
        *(_reader(name, 100, folder / file, (in_bytes, in_lines, in_words), read) for name, file in tables.items()),
    ]


def _write_saved_patient(folder: Path) -> None:
    from carm_env.patients.manifest import MANIFEST_FORMAT

    points = {item.id: np.array([10.0 * item.id, 20.0, 30.0]) for item in LANDMARKS}
    patient = Patient("imported:p", Volume.from_origin(np.zeros((6, 6, 6), np.int16), 30.0, (0, 0, 0)), points)
    for name in ("described", "whole", "stored"):
        save_patient(patient, folder / name)
    manifest = {
        "format": MANIFEST_FORMAT, "cohort": "standard", "version": 1, "options": "", "date": "2026-01-01T00:00:00",
        "patients": [{"name": f"virtual:{n}", "split": "train", "volume_sha256": "0" * 64} for n in range(3)],
    }  # fmt: skip
    write_json(folder / "cohort" / "manifest.json", {**manifest, "manifest_sha256": content_hash(manifest)})


def _patient_readers(folder: Path) -> list[Reader]:
    from carm_env.patients.manifest import read_manifest

    description = json.loads((folder / "stored" / "patient.json").read_text(encoding="utf-8"))
    del description["description_sha256"]

    def read_volume(path: Path) -> object:
        # With the right hash, so that the damage reaches numpy.
        value = {**description, "volume_sha256": file_hash(path)}
        text = json.dumps({**value, "description_sha256": content_hash(value)})
        (path.parent / "patient.json").write_text(text, encoding="utf-8")
        return load_saved_patient(path.parent)

    names = ("described", "whole", "cohort")
    described, whole, cohort = (_of_folder(read) for read in (read_description, load_saved_patient, read_manifest))
    of_patients = (in_bytes, in_tree, _rehashed("description_sha256"))
    of_cohorts = (in_bytes, in_tree, _rehashed("manifest_sha256"))
    files = [folder / name / ("manifest.json" if name == "cohort" else "patient.json") for name in names]
    volume = folder / "stored" / "volume.npy"
    return [
        _reader("patient, description", 30, files[0], of_patients, described, _MISSING),
        _reader("patient, whole", 20, files[1], of_patients, whole, _MISSING),
        _reader("patient, volume", 8, volume, (in_bytes, in_fields(*_NPY_FIELDS)), read_volume, _MISSING),
        _reader("manifest", 70, files[2], of_cohorts, cohort, _MISSING),
    ]


def _rehashed(key: str) -> Damage:
    """Returns a damage of JSON values whose document still matches its own hash."""

    def damage(content: bytes, rng: Random) -> bytes:
        tree = json.loads(content)
        del tree[key]
        tree = change_tree(tree, rng)
        tree[key] = content_hash(tree)
        return json.dumps(tree).encode("utf-8", "surrogatepass")

    return damage


@dataclass(frozen=True)
class _Settings:
    """Arguments of a script.

    Attributes:
        policies: names.
        steps: a number.
        rate: a number.
        resume: a flag.
    """

    policies: tuple[str, ...] = ()
    steps: int = 1
    rate: float = 0.5
    resume: bool = False


def _write_texts(folder: Path) -> None:
    from carm_env.evaluation.results import EpisodeResult, append_result
    from carm_env.evaluation.suite import load_suite

    suite = load_suite("smoke")
    samples = {"str": "x", "int": 1, "float": 0.5, "bool": True, "dict": {}, "list": []}
    values: dict[str, Any] = {
        item.name: samples[str(item.type).partition("[")[0]] if item.default is dataclasses.MISSING else item.default
        for item in dataclasses.fields(EpisodeResult)
        if item.default_factory is dataclasses.MISSING
    }
    for _ in range(2):
        append_result(folder / "results.jsonl", EpisodeResult(**values))
    texts = {
        "suite.yaml": suite.to_yaml(),
        "values.yaml": json.dumps(suite.to_json()),
        "config.yaml": '{"policies": ["a", "b"], "steps": 3, "rate": 0.5, "resume": true}\n',
        "name.txt": "virtual:3?age=80&arms=sides&findings=pacemaker+pneumothorax:right",
        "feedback.txt": "Move it a little to the left of [11: Carina].\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _text_readers(folder: Path) -> list[Reader]:
    from carm_env.evaluation.results import read_results
    from carm_env.evaluation.suite import load_suite
    from carm_env.language.chat import check_feedback
    from carm_env.system.command_line import _config_flags

    def read_suite(path: Path) -> object:
        return load_suite(str(path))

    def read_flags(path: Path) -> object:
        return _config_flags(path, _Settings)

    def as_text(read: Callable[[str], object]) -> Callable[[Path], object]:
        return lambda path: read(path.read_bytes().decode("utf-8", "surrogateescape"))

    by_line, by_character = (in_bytes, in_lines, in_words), (in_bytes, _in_text)
    name, feedback = as_text(PatientRef.parse), as_text(check_feedback)
    return [
        _reader("suite, YAML", 10, folder / "suite.yaml", by_line, read_suite, ValueError),
        _reader("suite, values", 10, folder / "values.yaml", (in_tree,), read_suite, ValueError),
        _reader("results", 100, folder / "results.jsonl", (in_bytes, in_lines, _in_first_line), read_results),
        _reader("configuration", 60, folder / "config.yaml", (in_bytes, in_tree), read_flags, ValueError),
        _reader("name of a patient", 40, folder / "name.txt", by_character, name, ValueError, _MISSING),
        _reader("feedback", 120, folder / "feedback.txt", by_character, feedback, ValueError),
    ]


def _in_first_line(content: bytes, rng: Random) -> bytes:
    first, _, rest = content.partition(b"\n")
    return in_tree(first, rng) + b"\n" + rest


def _in_text(content: bytes, rng: Random) -> bytes:
    return in_characters(content.decode("utf-8", "replace"), rng).encode("utf-8", "surrogatepass")


def _write_cts(folder: Path) -> None:
    import SimpleITK as sitk

    from carm_env.ct.label_maps import CLASSES
    from tests.carm_env.ct import dicom_series

    hu = np.full((8, 8, 8), -1000, np.int16)
    hu[2:6, 2:6, 2:6] = 40
    hu[3:5, 3:5, 3:5] = np.random.default_rng(0).integers(300, 1500, (2, 2, 2))
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((12.0, 12.0, 12.0))
    classes = np.zeros((16, 16, 16), np.int16)
    classes[5:7, 6:10, 6:10], classes[9:11, 6:10, 6:10] = CLASSES["vertebrae_T12"], CLASSES["vertebrae_T1"]
    labels = sitk.GetImageFromArray(classes)
    labels.SetSpacing((10.0, 10.0, 10.0))
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mha"):
        sitk.WriteImage(image, str(folder / name))
    sitk.WriteImage(image, str(folder / "z.mha"), useCompression=True)
    sitk.WriteImage(labels, str(folder / "labels.nii"))
    size, dicom_series.SHAPE = dicom_series.SHAPE, (20, 24)
    pixel, dicom_series.SPACING_MM = dicom_series.SPACING_MM, (4.0, 3.0)
    try:
        slices = dicom_series.write_series(folder / "series", count=3, step_mm=12.0)
    finally:
        dicom_series.SHAPE, dicom_series.SPACING_MM = size, pixel
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in slices:
            archive.write(path, path.name)
        archive.writestr("report.txt", "x" * 2000)


def _write_images(folder: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (36, 40), np.uint8)
    Image.fromarray(grey).save(folder / "xray.png")
    Image.fromarray(grey).save(folder / "xray.jpg")
    if _reads_cts():
        from tests.carm_env.ct import dicom_series

        size, dicom_series.SHAPE = dicom_series.SHAPE, (36, 40)
        try:
            dicom_series.write_series(folder / "xray", count=1)
        finally:
            dicom_series.SHAPE = size


def _image_readers(folder: Path) -> list[Reader]:
    from carm_env.ct.radiographs import read_radiograph

    readers = [
        _reader(f"X-ray image, {name}", 20, folder / file, (in_bytes,), read_radiograph)
        for name, file in (("PNG", "xray.png"), ("JPEG", "xray.jpg"))
    ]
    if _reads_cts():
        (dicom,) = (folder / "xray").iterdir()
        readers.append(_reader("X-ray image, DICOM", 6, dicom, (in_bytes, in_elements), read_radiograph))
    return readers


def _ct_readers(folder: Path) -> list[Reader]:
    import SimpleITK as sitk

    from carm_env.ct.importer import ImportOptions, read_ct
    from carm_env.ct.label_maps import landmarks_from_labels

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    options = ImportOptions(spacing_mm=6.0)

    def read(path: Path) -> object:
        return read_ct(path, options)

    header, text, allowed = in_fields(*_NIFTI_FIELDS), (in_bytes, in_lines, in_words), (_MISSING, MemoryError)
    dicom = min((folder / "series").iterdir())
    return [
        _reader("NIfTI", 60, folder / "a.nii", (in_bytes, header, header), read, *allowed),
        _reader("NIfTI, compressed", 25, folder / "a.nii.gz", (in_bytes, _in_gzip(header)), read, *allowed),
        _reader("NRRD", 60, folder / "a.nrrd", text, read, *allowed),
        _reader("MetaImage", 60, folder / "a.mha", text, read, *allowed),
        _reader("MetaImage, compressed", 20, folder / "z.mha", text, read, *allowed),
        _reader("label map", 10, folder / "labels.nii", (in_bytes, header), landmarks_from_labels, *allowed),
        _reader("DICOM", 6, dicom, (in_bytes, in_elements, in_elements), _of_folder(read), *allowed),
        _reader("archive", 8, folder / "a.zip", (in_bytes, _in_archive), read, *allowed),
    ]


def _in_gzip(damage: Damage) -> Damage:
    def inside(content: bytes, rng: Random) -> bytes:
        return gzip.compress(damage(gzip.decompress(content), rng), 1)

    return inside


def _in_archive(content: bytes, rng: Random) -> bytes:
    """Packs an archive again with odd names, types and damaged members."""
    names = (
        "../x.dcm", "/x.dcm", "a\\b.dcm", "C:x", "a/" * 200 + "x", ".", "x\0y", "con", "\u202ex", "a", "A", "a/a",
        "x.zip", "x.gz",
    )  # fmt: skip
    packed = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as before, zipfile.ZipFile(packed, "w") as after:
        for entry in before.infolist():
            data = before.read(entry)
            info = zipfile.ZipInfo(rng.choice(names) if rng.random() < 0.3 else entry.filename)
            info.external_attr = rng.choice((0, 0o120777 << 16, 0o040755 << 16, 0o010644 << 16, 0x10))
            info.compress_type = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            after.writestr(info, in_bytes(data, rng) if rng.random() < 0.3 else data)
    return packed.getvalue()


def _write_checkpoint(folder: Path) -> None:
    import torch

    from policies.checkpoint import save_checkpoint

    config = {"kind": "cnn", "image_size": 64}
    for name in ("config", "weights"):
        save_checkpoint(folder / name, config, {"a.weight": torch.ones(3, 3)}, "A card.")


def _checkpoint_readers(folder: Path) -> list[Reader]:
    from policies.checkpoint import load_checkpoint

    read = _of_folder(lambda path: load_checkpoint(path, "cnn", ("image_size",)))
    weights = folder / "weights" / "model.safetensors"
    return [
        _reader("checkpoint, settings", 70, folder / "config" / "config.json", (in_bytes, in_tree), read, _MISSING),
        _reader("checkpoint, weights", 70, weights, (in_bytes, in_fields((0, "<q"), (4, "<i"))), read, _MISSING),
    ]


def _write_views(folder: Path) -> None:
    from carm_env.patient_store import save_imported
    from carm_env.views.sample import ViewOptions
    from carm_env.views.write import write_view_dataset

    hu = np.full((50, 25, 80), -1000, np.int16)
    hu[5:45, 5:20, 5:75] = 40
    points = {item.id: np.array([100.0 + 200 * (item.id % 2), 96.0, 60.0 + 35 * item.id]) for item in LANDMARKS}
    save_imported(Patient("imported:views", Volume.from_origin(hu, 8.0, (0, 0, 0)), points))
    options = ViewOptions(views_per_patient=2, size=16)
    for name in ("views", "images"):
        write_view_dataset(folder / name, {"train": ["imported:views"]}, options)


def _view_readers(folder: Path) -> list[Reader]:
    from carm_env.views.read import read_description as read_options
    from carm_env.views.read import read_views

    def read_images(path: Path) -> object:
        return read_views(folder / "images", "train", lazily=False)

    (shard,) = (folder / "images" / "data" / "train").glob("*.parquet")
    return [
        _reader("views, options", 50, folder / "views" / "views.json", (in_bytes, in_tree), _of_folder(read_options)),
        _reader("views, images", 2, shard, (in_bytes,), read_images),
    ]
