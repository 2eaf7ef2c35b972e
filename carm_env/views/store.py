"""Write labelled views to object storage, or from several machines.

The folder has the same files as a local dataset (`carm_env.views.write`): copied to a local folder, it is one. Each
file is rendered to a temporary folder of the machine that renders it, and appears in the storage complete or not at
all. ``views.json`` names finished files only and is written last.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from carm_env.anatomy.build import ANATOMY_VERSION, myo_sim_version
from carm_env.patients.build import default_workers, is_built
from carm_env.patients.machines import check_machines
from carm_env.patients.reference import PatientName, PatientRef
from carm_env.system.cluster import Cluster
from carm_env.system.files import remove_folder, write_json, write_text
from carm_env.system.object_storage import StorageError, StorageFolder
from carm_env.system.processes import run_in_processes
from carm_env.system.structured_files import parse_json
from carm_env.views.read import OPTIONS_FILE, ViewDatasetError, check_description, import_pyarrow
from carm_env.views.sample import ViewOptions
from carm_env.views.shards import Shard, count_rows, patient_of, shard_name, shard_prefix, write_shard
from carm_env.views.write import check_options, checked_splits, dataset_card, describe, kept_files

_PACKAGES = ("carm-env", "numba", "numpy", "scipy", "mujoco", "myo-sim", "pillow", "pyarrow")
"""Packages that the bytes of a file depend on."""
_ANATOMY = "anatomy"
"""Key of ``views.json``: what builds the virtual patients."""
_REQUESTS = 16
"""Files that are looked at at the same time."""

SplitFiles: TypeAlias = "dict[str, list[str]]"
"""From the name of a split to the names of its files."""


@dataclass(frozen=True)
class StoredViews:
    """The files of a dataset in object storage.

    Attributes:
        files: names of the files of the rendered splits.
        rendered: number of files that this call rendered.
        nbytes: size of the files of the rendered splits.
    """

    files: Mapping[str, Sequence[str]]
    rendered: int
    nbytes: int


@dataclass(frozen=True)
class _Task:
    """One file to render.

    Attributes:
        url: URL of the dataset.
        split: split of the patient.
        ref: the patient.
        options: the views of the patient.
        stored: names of complete files of the patient, perhaps of earlier builds.
        discard: remove the patient from the cache afterwards, if it was built for this file.
    """

    url: str
    split: str
    ref: PatientRef
    options: ViewOptions
    stored: tuple[str, ...]
    discard: bool


@dataclass(frozen=True)
class _Stored:
    """The stored file of a patient, and whether this run rendered it."""

    task: _Task
    name: str
    is_new: bool


def store_view_dataset(
    url: str,
    splits: Mapping[str, Sequence[PatientName]],
    options: ViewOptions,
    workers: int | None = None,
    cluster: Cluster | None = None,
    *,
    discard_patients: bool = False,
) -> StoredViews:
    """Renders the views of patients and stores them; files that exist already are kept.

    Patients are built where their views are rendered. If the call is interrupted, another one continues. Splits that
    the dataset holds and `splits` does not name stay, as for `carm_env.views.write.write_view_dataset`. One call at a
    time writes to a URL: two render the same files, but the list of one of them wins.

    Args:
        url: URL of the dataset (`carm_env.system.object_storage.StorageFolder`).
        splits: from the name of a split to its patients, cohorts or cohort splits.
        options: the views of each patient.
        workers: number of processes; by default one per CPU. With ``memory://`` it has to be 1.
        cluster: renders on these machines instead.
        discard_patients: remove each virtual patient that was built for its views from the cache when they are stored.

    Raises:
        UnknownNameError, SharedPersonError, HeldOutPatientError: as for `carm_env.views.write.write_view_dataset`.
        ViewDatasetError: the URL holds a dataset with other options.
        MissingExtraError: pyarrow, fsspec or its package for this kind of storage is not installed.
        StorageError: the storage cannot be read or written, or machines do not share it.
        MachineError: a machine of the cluster lacks a patient, or has another one, or other packages.
    """
    import_pyarrow()
    folder = StorageFolder(url)
    patients = checked_splits(splits)
    if cluster is not None:
        check_machines(cluster, _PACKAGES, _fingerprints(patients))
    anatomy = f"{ANATOMY_VERSION}, myo-sim {myo_sim_version()}"
    description = {**describe(options), _ANATOMY: anatomy}
    existing = _existing(folder)
    if existing is not None:
        check_options(url, existing, options)
    same_anatomy = (existing or {}).get(_ANATOMY) == anatomy
    finished, tasks = _plan(folder, patients, options, same_anatomy, discard_patients)
    needed = {split: [(ref, options.views_per_patient) for ref in refs] for split, refs in patients.items()}

    others = {
        split: kept_files(split, names, {}, needed, lambda split, name: _patient_of(folder, split, name))
        for split, names in ((existing or {}).get("files") or {}).items()
        if split not in patients
    }

    def listed() -> SplitFiles:
        files = {split: [finished[ref] for ref in refs if ref in finished] for split, refs in patients.items()}
        here = {name for names in files.values() for name in names}
        kept = {split: [name for name in names if name not in here] for split, names in others.items()}
        return {**{split: names for split, names in kept.items() if names}, **files}

    _write_json(folder, OPTIONS_FILE, {**description, "files": listed()})
    rendered = 0
    try:
        with tqdm(total=len(finished) + len(tasks), initial=len(finished), unit="patient", desc="views",
                  disable=not tasks) as bar:  # fmt: skip
            for stored in _results(tasks, workers, cluster):
                path = f"data/{stored.task.split}/{stored.name}"
                if not folder.exists(path):
                    raise StorageError(
                        f"{path} was written to {url}, but this process does not find it there: choose a "
                        "URL or a folder that all processes and machines share."
                    )
                finished[stored.task.ref] = stored.name
                rendered += stored.is_new
                bar.update()
    finally:
        files = listed()
        _write_json(folder, OPTIONS_FILE, {**description, "files": files})
    for split in patients:
        folder.remove_unfinished(f"data/{split}")
    views = {split: len(names) * options.views_per_patient for split, names in files.items()}
    _write_text(folder, "README.md", dataset_card(files, views, options))
    sizes = {split: folder.sizes(f"data/{split}") for split in patients}
    nbytes = sum(sizes[split][name] for split in patients for name in files[split])
    return StoredViews({split: files[split] for split in patients}, rendered, nbytes)


def _plan(
    folder: StorageFolder,
    patients: Mapping[str, Sequence[PatientRef]],
    options: ViewOptions,
    same_anatomy: bool,
    discard_patients: bool,
) -> tuple[dict[PatientRef, str], list[_Task]]:
    """Returns the files that are finished, by patient, and the tasks of the others."""
    finished: dict[PatientRef, str] = {}
    tasks = []
    for split, refs in patients.items():
        stored = _complete_files(folder, split, options.views_per_patient)
        for ref in refs:
            own = tuple(stored.get(shard_prefix(ref), ()))
            # A virtual patient is the same if the same anatomy built it; another kind has to be looked at.
            if same_anatomy and ref.virtual is not None and len(own) == 1:
                finished[ref] = own[0]
            else:
                tasks.append(_Task(folder.url, split, ref, options, own, discard_patients))
    return finished, tasks


def _complete_files(folder: StorageFolder, split: str, rows: int) -> dict[str, list[str]]:
    """Returns the names of the files with this many rows, by how the names of a patient's files begin."""
    names = [name for name in folder.sizes(f"data/{split}") if name.endswith(".parquet") and name[0] != "."]

    def is_complete(name: str) -> bool:
        with folder.open(f"data/{split}/{name}") as file:
            return count_rows(file) == rows

    found: dict[str, list[str]] = {}
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for name, complete in zip(names, pool.map(is_complete, names), strict=True):
            if complete:
                found.setdefault(f"{name.rpartition('-')[0]}-", []).append(name)
    return found


def _results(tasks: Sequence[_Task], workers: int | None, cluster: Cluster | None) -> Iterator[_Stored]:
    if cluster is not None:
        return cluster.run(_store_shard, tasks, lambda task: f"patient {task.ref}")
    limit = default_workers() if workers is None else workers
    return run_in_processes(_store_shard, tasks, max(1, min(limit, len(tasks))))


def _store_shard(task: _Task) -> _Stored:
    """Renders and stores the file of a patient, unless it is there."""
    discard = task.discard and task.ref.virtual is not None and not is_built(task.ref)
    name = shard_name(task.ref)
    is_new = name not in task.stored
    if is_new:
        with tempfile.TemporaryDirectory(prefix="carm-env-views-") as temporary:
            path = Path(temporary) / name
            write_shard(Shard(task.ref, task.options.views_per_patient, path, task.options))
            StorageFolder(task.url).write(f"data/{task.split}/{name}", path)
    if discard:
        # Windows keeps the files of a volume that is still in memory; another process may have removed them.
        with contextlib.suppress(OSError):
            remove_folder(task.ref.folder)
    return _Stored(task, name, is_new)


def _fingerprints(patients: Mapping[str, Sequence[PatientRef]]) -> dict[str, str]:
    """Returns the fingerprints of the patients that no machine can build."""
    refs = dict.fromkeys(replace(ref, scan=None) for refs in patients.values() for ref in refs if ref.kind != "virtual")
    return {str(ref): ref.load().fingerprint for ref in refs}


def _existing(folder: StorageFolder) -> dict[str, Any] | None:
    """Returns the description of the dataset that the folder holds; None if it holds none."""
    where = f"{folder.url}/{OPTIONS_FILE}"
    try:
        with folder.open(OPTIONS_FILE) as file:
            return check_description(parse_json(file.read().decode(), where))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ViewDatasetError(
            f"{where} is damaged, so the options of the views beside it are unknown: remove {folder.url} and render "
            f"again ({error})."
        ) from error


def _patient_of(folder: StorageFolder, split: str, name: str) -> str:
    try:
        with folder.open(f"data/{split}/{name}") as file:
            return patient_of(file)
    except FileNotFoundError:
        return ""


def _write_json(folder: StorageFolder, name: str, value: Any) -> None:
    _write(folder, name, lambda path: write_json(path, value))


def _write_text(folder: StorageFolder, name: str, text: str) -> None:
    _write(folder, name, lambda path: write_text(path, text))


def _write(folder: StorageFolder, name: str, write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="carm-env-views-") as temporary:
        path = Path(temporary) / name
        write(path)
        folder.write(name, path)
