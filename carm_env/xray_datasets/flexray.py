"""X-rays with masks of structures, in the layout from which FleXray packs its training data.

    dataset.yml
    images/patient-001-pa.png
    masks/patient-001-pa.png

The manifest names the structures and the files:

    schema_version: 1
    dataset_name: MyChestXrays
    dataset_type: xray-seg
    stored_labels: {0: background, 1: lungs, 2: heart}
    samples:
      - {sample_id: patient-001-pa, subject_id: patient-001, split: train,
         image: images/patient-001-pa.png, label: masks/patient-001-pa.png}

Masks hold one id for each pixel; or with ``label_names: [lungs, heart]`` instead of ``stored_labels``, they are
``.npy`` files with a channel for each structure. The labels of an image are the body parts whose structures its mask
shows (`carm_env.xray_datasets.structures`); structures without annotation give no label. Images without labels are
left out. The block ``preprocessing`` is not applied. The splits of the manifest are checked, but the images are
divided as those of other data sets are (`carm_env.xray_datasets.load`). The data are the user's to bring.

Source: Butoi et al., "FleXray: Universal Clinical X-ray Segmentation" (2026), arXiv 2609.26756; docs/datasets.md of
github.com/VictorButoi/FleXray.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from carm_env.system.errors import UnknownNameError, check_keys, shortened
from carm_env.system.structured_files import read_yaml_mapping
from carm_env.xray_datasets.labelled import DatasetError, LabelledDataset, LabelledImage
from carm_env.xray_datasets.structure_masks import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    channel_shares,
    dense_shares,
    image_shape,
)
from carm_env.xray_datasets.structures import BACKGROUND, BODY_PARTS_OF, LEAST_SHARE, PROTOCOL, shown_body_parts

KIND = "flexray"
MANIFESTS = ("dataset.yml", "dataset.yaml")
_MAX_BYTES = 16 << 20
"""Enough for about 80,000 images."""
_VERSION, _TYPE, _TYPE_OF_CTS = 1, "xray-seg", "ct-seg"
_REQUIRED = ("schema_version", "dataset_name", "dataset_type", "samples")
_KEYS = (*_REQUIRED, "stored_labels", "label_names", "protocol_name", "preprocessing")
_SAMPLE_KEYS = ("sample_id", "subject_id", "split", "image", "label", "metadata")
_MAX_NAME_CHARACTERS = 80
_FEW_MASKS = 200


@dataclass(frozen=True)
class _Sample:
    name: str
    patient: str
    split: str
    image: Path
    mask: Path


def is_flexray(folder: Path) -> bool:
    """Returns whether a folder holds a manifest."""
    return any((folder / name).is_file() for name in MANIFESTS)


def read_flexray(folder: Path) -> LabelledDataset:
    """Reads the manifest and every mask, one after the other; of the images only the size is read.

    Args:
        folder: folder with ``dataset.yml`` or ``dataset.yaml``.

    Raises:
        StructuredFileError: the manifest is not valid YAML.
        UnknownNameError: an unknown key.
        DatasetError: the manifest or a mask contradicts the layout, a file is missing or damaged, a structure has an
            unknown name, a subject is in two splits, or no image shows a body part.
        NpyFileError: a ``.npy`` file is damaged.
    """
    path = _manifest_path(folder)
    manifest = read_yaml_mapping(path, _MAX_BYTES, integer_keys=True)
    name = _check_manifest(path, manifest)
    names, read_shares = (
        (_stored_names(path, manifest["stored_labels"]), dense_shares)
        if manifest.get("stored_labels") is not None
        else (_channel_names(path, manifest["label_names"]), channel_shares)
    )
    samples = _read_samples(path, manifest["samples"])
    images = []
    for sample in tqdm(samples, unit="mask", disable=len(samples) < _FEW_MASKS):
        shares = read_shares(sample.mask, names, image_shape(sample.image))
        shares.pop(BACKGROUND, None)
        if labels := shown_body_parts(shares):
            images.append(LabelledImage(sample.name, sample.image, labels, sample.patient))
    if not images:
        raise DatasetError(
            f"{path}: no mask shows a structure of the 22 body parts on {LEAST_SHARE:.0%} of its image or more, "
            f"expected at least one: check the ids of the masks. The structures are {', '.join(names)}."
        )
    notes = []
    if left_out := len(samples) - len(images):
        notes.append(f"{left_out} images were left out, whose masks show hardly anything of the 22 body parts")
    return LabelledDataset(f"{KIND}:{name}", tuple(sorted(images, key=lambda image: image.name)), tuple(notes))


def _manifest_path(folder: Path) -> Path:
    paths = [folder / name for name in MANIFESTS if (folder / name).is_file()]
    if len(paths) != 1:
        found = " and ".join(path.name for path in paths) or "no manifest"
        raise DatasetError(f"{folder} holds {found}, expected one of {' and '.join(MANIFESTS)}.")
    size = paths[0].stat().st_size
    if size > _MAX_BYTES:
        raise DatasetError(f"{paths[0]} has {size:,} bytes, expected at most {_MAX_BYTES:,}: divide the data set.")
    return paths[0]


def _check_manifest(path: Path, manifest: Mapping[str, Any]) -> str:
    """Checks the keys and the kind of a manifest, and returns the name of the data set."""
    for key in _REQUIRED:
        if key not in manifest:
            raise DatasetError(f"{path} has no {key!r}, expected {', '.join(_REQUIRED)}: add it.")
    version, kind = manifest["schema_version"], manifest["dataset_type"]
    if type(version) is not int or version != _VERSION:
        raise DatasetError(
            f"{path}: schema_version is {shortened(version)}, expected {_VERSION}: export the data set in this version."
        )
    if kind == _TYPE_OF_CTS:
        raise DatasetError(
            f"{path}: dataset_type is {_TYPE_OF_CTS!r}, CT volumes, expected {_TYPE!r}: give a data set of X-rays. "
            "carm-env import reads CTs."
        )
    if kind != _TYPE:
        raise DatasetError(f"{path}: dataset_type is {shortened(kind)}, expected {_TYPE!r}.")
    check_keys(f"key of {path.name}", manifest, _KEYS)
    both = [key for key in ("stored_labels", "label_names") if manifest.get(key) is not None]
    if len(both) != 1:
        raise DatasetError(
            f"{path} has {'both' if both else 'neither'} of stored_labels and label_names, expected one of them: "
            "stored_labels for masks of ids, label_names for masks with a channel for each structure."
        )
    protocol = manifest.get("protocol_name")
    if protocol not in (None, PROTOCOL):
        raise DatasetError(
            f"{path}: protocol_name is {shortened(protocol)}, expected {PROTOCOL}: rename the structures to its names."
        )
    return " ".join(_text(str(path), manifest, "dataset_name").split())[:_MAX_NAME_CHARACTERS]


def _stored_names(path: Path, stored: Any) -> tuple[str, ...]:
    """Returns the name of each id of dense masks."""
    names: dict[int, Any] = {}
    for key, name in stored.items() if isinstance(stored, dict) else ():
        number = int(key) if key.isascii() and key.isdigit() and len(key) < 9 else -1
        if number in names:
            raise DatasetError(f"{path}: stored_labels has the id {number} twice: remove one.")
        names[number] = name
    if not names or sorted(names) != list(range(len(names))) or names[0] != BACKGROUND:
        raise DatasetError(
            f"{path}: stored_labels is {shortened(stored)}, expected a name for each id without gaps, from 0: "
            f"{BACKGROUND} on."
        )
    return _check_names(path, "stored_labels", [names[number] for number in range(len(names))])


def _channel_names(path: Path, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{path}: label_names is {shortened(names)}, expected a list of the structures.")
    return _check_names(path, "label_names", names)


def _check_names(path: Path, key: str, names: list[Any]) -> tuple[str, ...]:
    known = (BACKGROUND, *BODY_PARTS_OF)
    for number, name in enumerate(names):
        if name not in known:
            raise DatasetError(
                f"{path}: {UnknownNameError(f'structure of {PROTOCOL}', name, known)} Rename it in {key}; set what is "
                "none of these structures to background in the masks."
            )
        if name in names[:number]:
            raise DatasetError(
                f"{path}: {key} has {name!r} twice, expected different names: give its pixels one id or "
                "channel in the masks, left and right alike."
            )
    return tuple(names)


def _read_samples(path: Path, given: Any) -> list[_Sample]:
    if not isinstance(given, list) or not given:
        raise DatasetError(f"{path}: samples is {shortened(given)}, expected a list with at least one image.")
    samples: dict[str, _Sample] = {}
    splits: dict[str, _Sample] = {}
    for number, entry in enumerate(given, 1):
        sample = _read_sample(f"{path}, sample {number}", path.parent, entry)
        if sample.name in samples:
            raise DatasetError(
                f"{path}, sample {number}: sample_id is {sample.name!r}, as in an earlier sample: give each its own."
            )
        other = splits.setdefault(sample.patient, sample)
        if sample.split != other.split:
            raise DatasetError(
                f"{path}: the subject {sample.patient!r} is in the splits {other.split!r} ({other.name}) and "
                f"{sample.split!r} ({sample.name}), expected one split for each subject: move one of the samples."
            )
        samples[sample.name] = sample
    return list(samples.values())


def _read_sample(where: str, folder: Path, entry: Any) -> _Sample:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} is {shortened(entry)}, expected sample_id, subject_id, split, image and label.")
    check_keys(f"key of {where}", entry, _SAMPLE_KEYS)
    name, patient, split = (_text(where, entry, key) for key in ("sample_id", "subject_id", "split"))
    image = _file(where, folder, entry, "image", IMAGE_SUFFIXES)
    return _Sample(name, patient, split, image, _file(where, folder, entry, "label", MASK_SUFFIXES))


def _text(where: str, entry: Mapping[str, Any], key: str) -> str:
    if key not in entry:
        raise DatasetError(f"{where} has no {key!r}: add it.")
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise DatasetError(f"{where}: {key} is {shortened(value)}, expected text: write it in quotes.")
    return value.strip()


def _file(where: str, folder: Path, entry: Mapping[str, Any], key: str, suffixes: tuple[str, ...]) -> Path:
    """Returns the path of an image or a mask, which exists."""
    name = _text(where, entry, key)
    given = Path(name)
    if not given.is_absolute() and os.path.normpath(name).split(os.sep)[0] == os.pardir:
        raise DatasetError(
            f"{where}: {key} is {shortened(name)}, which leaves the folder of the manifest, expected a file in it: "
            "copy the file there, or give its absolute path."
        )
    if given.suffix.lower() not in suffixes:
        raise DatasetError(
            f"{where}: {key} is {shortened(name)}, expected a file of the kinds {', '.join(suffixes)}: convert it."
        )
    # Unlike Path.is_file, it does not raise for names that are too long.
    if not os.path.isfile(folder / given):
        raise DatasetError(
            f"{where}: {key} is {shortened(name)}, and there is no such file, expected a path relative to {folder}: "
            "copy the file there, or remove the sample."
        )
    return folder / given
