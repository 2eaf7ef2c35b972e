"""Build the index of training views that `knn` and retrieval search.

    python training/lofi_index.py
    python training/lofi_index.py --model runs/lofi/checkpoint --pool standard/train --views-per-patient 256

Each view of the pool is embedded by a trained LoFi and stored with its labels. Views are rendered in parallel; the
embeddings of each patient are kept as soon as they are computed, so that the same command continues an interrupted run.
``knn:OUTPUT_DIR/index`` is a policy and a localiser, and ``retrieval:mllm?index=OUTPUT_DIR/index`` shows the views to a
language model as demonstrations.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from carm_env.evaluation.localization import IMAGE_SIZE
from carm_env.geometry import DEFAULT_GEOMETRY, ProjectionGeometry
from carm_env.landmarks import N_LANDMARKS
from carm_env.patients.catalogue import expand_patients, load_patient
from carm_env.patients.separation import check_trainable
from carm_env.reports.view_facts import landmark_regions
from carm_env.reports.view_reports import read_poses
from carm_env.system.command_line import run_script
from carm_env.system.files import atomic_write, content_hash
from carm_env.system.output_folders import lock_output
from carm_env.views.read import ViewArrays, read_description, read_views
from carm_env.views.sample import ViewOptions, label_view
from carm_env.views.write import write_view_dataset
from policies.lofi.encoder import LofiEncoder
from policies.lofi.index import EmbeddingIndex
from policies.lofi.knn import DEFAULT_K


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        model: folder of a checkpoint of training/lofi.py
        pool: patients of the index, names or COHORT/SPLIT; none that is reserved for tests
        views_per_patient: views of each patient
        image_size: side of the images, pixels, which a language model is shown; the encoder resizes them
        seed: seed of the views
        workers: processes that render; 0 for one per CPU
        output_dir: folder of the index, the views and the parts
    """

    model: Path = Path("runs/lofi/checkpoint")
    pool: tuple[str, ...] = ("standard/train",)
    views_per_patient: int = 256
    image_size: int = IMAGE_SIZE
    seed: int = 0
    workers: int = 0
    output_dir: Path = Path("runs/lofi_index")


def embedded(encoder: LofiEncoder, views: ViewArrays, number: int, folder: Path) -> np.ndarray:
    """Returns the embeddings of the views of patient `number`, from an earlier run if it has computed them."""
    chosen = np.flatnonzero(views.patients == number)
    digest = content_hash([encoder.fingerprint, views.names[number], len(chosen)])[:16]
    path = folder / f"{digest}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    found = encoder.embed_images(views.images[chosen])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, found, allow_pickle=False)
    return found


def region_boxes(folder: Path) -> np.ndarray:
    """Returns the regions of the landmarks in the views of a dataset, ``(n, 14, 4)``; NaN for those not shown."""
    size = int(read_description(folder)["options"]["size"])
    poses = read_poses(folder, "train")
    boxes = np.full((len(poses), N_LANDMARKS, 4), np.nan, np.float32)
    load = lru_cache(1)(load_patient)
    for row, (name, pose) in enumerate(poses):
        patient = load(name)
        projection = ProjectionGeometry.from_pose(pose, DEFAULT_GEOMETRY, size)
        for key, extent in landmark_regions(patient, label_view(patient, pose, projection), projection).items():
            boxes[row, key - 1] = extent.box
    return boxes


def run(arguments: Arguments) -> None:
    """Renders, embeds and saves."""
    encoder = LofiEncoder(arguments.model)
    names = expand_patients(arguments.pool)
    check_trainable(names, "--pool")
    options = ViewOptions(
        arguments.views_per_patient, arguments.image_size, seed=arguments.seed,
        isocenter_depth_mm=encoder.isocenter_depth_mm,
    )  # fmt: skip
    folder = arguments.output_dir
    write_view_dataset(folder / "views", {"train": names}, options, arguments.workers or None)
    views = read_views(folder / "views", "train", lazily=True)
    if len(views) < DEFAULT_K:
        raise ValueError(f"the pool has {len(views)} views, expected at least {DEFAULT_K}: add patients or views.")
    parts = folder / f"parts-{content_hash(options.to_json())[:8]}"
    parts.mkdir(parents=True, exist_ok=True)
    with lock_output(folder, "--output-dir"):
        embeddings = np.empty((len(views), 0), np.float32)
        for number in tqdm(range(len(views.names)), unit="patient", desc="embeddings"):
            found = embedded(encoder, views, number, parts)
            if not embeddings.shape[1]:
                embeddings = np.empty((len(views), found.shape[1]), np.float32)
            embeddings[views.patients == number] = found
        EmbeddingIndex(
            embeddings, views.closest_landmarks, views.displacement_mm, region_boxes(folder / "views"), views.patients,
            views.names, encoder.fingerprint, str(arguments.model.resolve()), str((folder / "views").resolve()),
        ).save(folder / "index")  # fmt: skip
    print(f"{len(views)} views of {len(views.names)} patients\n\npolicies: knn:{folder}/index, "
          f"retrieval:mllm?index={folder}/index")  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
