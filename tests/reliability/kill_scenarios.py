"""What is killed: work that can be run again, and what it leaves when it is whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carm_env import patient_store as store
from carm_env.anatomy import build
from carm_env.anatomy.layout import landmark_layout
from carm_env.cli import main as carm_env
from carm_env.landmarks import LANDMARKS
from carm_env.patient import Patient
from carm_env.system.extras import is_installed
from carm_env.views.sample import ViewOptions
from carm_env.views.write import write_view_dataset
from carm_env.volume import Volume
from tests.reliability.killing import SAVES, Window

SPACING_MM = 8.0
IMPORTED = ("one", "two", "three", "four")
_VARIABLE = (
    "date", "latency_ms", "latency_ms_p50", "latency_ms_p95", "decision_ms", "run", "runs", "case", "manifest_sha256",
    "description_sha256",
)  # fmt: skip
"""Values that differ between two undisturbed runs: times, random keys, and hashes of both."""


@dataclass(frozen=True)
class Scenario:
    """Work that is killed, in a folder that `CARM_ENV_DATA` and `CARM_ENV_CACHE` point into.

    Attributes:
        name: name in the table.
        kills: number of kills.
        prepare: makes the state before the work.
        work: does the work, or what is left of it; returns its exit status.
        check: raises AssertionError if something that was finished is lost right after a kill.
        windows: calls inside its saves.
        resumed: must be in the output of the second run, if a file of this pattern was there after the kill.
        needs: packages that it needs.
        modules: modules that it imports.
        renders: whether it renders X-rays.
    """

    name: str
    kills: int
    prepare: Callable[[Path], Any]
    work: Callable[[Path], int | None]
    check: Callable[[Path], Any] = lambda root: None
    windows: Callable[[], Sequence[Window]] = lambda: SAVES
    resumed: tuple[str, str] | None = None
    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    renders: bool = True

    def is_possible(self) -> bool:
        """Returns whether the packages that it needs are installed."""
        return all(map(is_installed, self.needs))


def contents(root: Path) -> dict[str, Any]:
    """Returns what files of a folder hold, without values that differ between two undisturbed runs."""
    return {str(path.relative_to(root)): _content(path) for path in sorted(root.rglob("*")) if _is_result(path)}


def _is_result(path: Path) -> bool:
    # Beams are computed by whoever needs them first; how many earlier checkpoints are kept depends on the kill.
    return not {"beams", "hf"} & set(path.parts) and not re.search("checkpoint-[0-9]+", str(path))


def _content(path: Path) -> Any:
    if path.is_dir():
        return None
    if path.suffix == ".jsonl":
        return sorted(
            json.dumps(_constant(json.loads(line)), sort_keys=True)
            for line in path.read_text(encoding="utf-8").splitlines()
        )
    if path.suffix == ".json":
        return _constant(json.loads(path.read_text(encoding="utf-8")))
    if path.name == "evaluations.npz":
        with np.load(path) as values:
            return {name: values[name].tolist() for name in values}
    # Cards and pages state times; archives of torch and stable-baselines3 hold them; keys are random.
    return None if path.suffix in (".md", ".pt", ".zip", ".pkl", ".png", ".key") else path.read_bytes()


def _constant(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _constant(inner) for key, inner in value.items() if key not in _VARIABLE}
    return [_constant(inner) for inner in value] if isinstance(value, list) else value


def small_patient(name: str, seed: int) -> Patient:
    """Returns a patient of 8 mm voxels with landmarks about where people have them."""
    rng = np.random.default_rng(seed)
    plane = landmark_layout().mean_mm + rng.normal(0, 8, (len(LANDMARKS), 2))
    plane = plane - plane.min(0) + 90.0
    hu = np.full((*np.ceil((plane.max(0) + 90.0) / SPACING_MM).astype(int),), -1000, np.int16)
    hu = np.repeat(hu[:, None, :], 24, axis=1)
    hu[4:-4, 4:-4, 4:-4] = 20
    points = {}
    for item, (x, z) in zip(LANDMARKS, plane, strict=True):
        index = np.rint(np.array([x, 96.0, z]) / SPACING_MM).astype(int)
        hu[tuple(slice(number - 2, number + 3) for number in index)] = 300 + 80 * item.index
        points[item.id] = index * SPACING_MM
    return Patient(name, Volume.from_origin(hu, SPACING_MM, (0.0, 0.0, 0.0)), points)


def _import_small(root: Path) -> None:
    for seed, name in enumerate(IMPORTED):
        store.save_imported(small_patient(f"imported:{name}", seed))


def _build(root: Path) -> int:
    # The real builder takes ten seconds; saving is the same.
    build.build_patient = lambda virtual: small_patient(build.patient_id(virtual), virtual.seed)
    return carm_env(["patients", "build", "--patients", "4", "--workers", "1"])


def _check_built(root: Path) -> None:
    from carm_env.patients.report import DAMAGED, list_patients

    assert not [patient.id for patient in list_patients() if patient.kind == DAMAGED]


def _write_ct(root: Path, name: str, tissue: int) -> None:
    import SimpleITK

    rng = np.random.default_rng(tissue)
    z, y, x = np.indices((40, 40, 40)) - 20
    hu = np.full((40, 40, 40), -1000)
    hu[x**2 + y**2 < 300] = tissue
    hu[x**2 + (y + 8) ** 2 < 20] = 600
    hu = np.where(hu > -1000, hu + rng.normal(0, 10, hu.shape), hu).astype(np.int16)
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing((5.0, 5.0, 5.0))
    SimpleITK.WriteImage(image, str(root / f"{name}.nii.gz"))


def _prepare_import(root: Path) -> None:
    store.save_imported(small_patient("imported:other", 0))
    _write_ct(root, "new", 40)


def _import(root: Path) -> int:
    if "case" in store.imported_names():
        return 0
    return carm_env(["import", str(root / "new.nii.gz"), "--name", "case", "--spacing", "5"])


def _check_other(root: Path) -> None:
    assert store.load_imported("other").volume.hu.max() > 1000


def _prepare_replacement(root: Path) -> None:
    _prepare_import(root)
    _write_ct(root, "old", 60)
    assert carm_env(["import", str(root / "old.nii.gz"), "--name", "case", "--spacing", "5"]) == 0


def _replace(root: Path) -> int:
    return carm_env(["import", str(root / "new.nii.gz"), "--name", "case", "--spacing", "5", "--replace"])


def _check_replaced(root: Path) -> None:
    _check_other(root)
    assert store.imported_names() == ["case", "other"]
    tissue = np.median(store.load_imported("case").volume.hu[30:50, 30:50, 30:50:5])
    assert store.load_imported("case").landmarks_lps_mm == {} and -1000 <= tissue <= 700


def _render(root: Path) -> int:
    splits = ["train=imported:one,imported:two", "test=imported:three"]
    words = ["--views-per-patient", "8", "--size", "32", "--workers", "1"]
    return carm_env(["render-dataset", "--out", str(root / "views"), *words, "--split", *splits])


SUITE = {
    "name": "tiny", "version": 1, "description": "kills", "max_steps": 20, "environment": {"image_size": 16},
    "episodes": [{"patient": f"imported:{name}", "target": target, "start": 4}
                 for name in IMPORTED[:2] for target in (1, 5, 14)],
}  # fmt: skip


def _prepare_leaderboard(root: Path) -> None:
    _import_small(root)
    (root / "tiny.yaml").write_text(json.dumps(SUITE), encoding="utf-8")


def _evaluate(workers: int) -> Callable[[Path], int]:
    def work(root: Path) -> int:
        words = ["--policy", "oracle", "random", "--suite", str(root / "tiny.yaml"), "--workers", str(workers)]
        lines = root / "out" / "episodes.jsonl"
        kept = lines.read_bytes().splitlines()[:-1] if lines.exists() else []
        status = carm_env(["evaluate", *words, "--out", str(root / "out"), "--no-figures", "--resume"])
        assert lines.read_bytes().splitlines()[: len(kept)] == kept, "a finished episode is lost or changed"
        _drop_incomplete_lines(lines)
        return status

    return work


def _drop_incomplete_lines(path: Path) -> None:
    """Removes what a kill left of a line, which stays in the file: the results are compared without it."""
    whole = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    path.write_text("\n".join(whole) + "\n", encoding="utf-8")


def _prepare_training(root: Path) -> None:
    _import_small(root)
    splits = {"train": ["imported:one", "imported:two"], "calibration": ["imported:three"], "test": ["imported:four"]}
    write_view_dataset(root / "views", splits, ViewOptions(48, 32), 1)


def _prepare_with_network(root: Path) -> None:
    import torch

    from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
    from policies.checkpoint import save_checkpoint
    from policies.networks import DisplacementNetwork

    torch.manual_seed(0)
    tensors = {f"0.{name}": value for name, value in DisplacementNetwork("tiny").state_dict().items()}
    config = {"kind": "conformal", "architecture": "tiny", "image_size": 32, "members": 1, "levels": [0.9],
              "radius": np.full((1, 14), 2.0).tolist(), "isocenter_depth_mm": DEFAULT_ISOCENTER_DEPTH_MM}  # fmt: skip
    save_checkpoint(root / "network", config, tensors, "# card")
    _prepare_training(root)
    settings = {"n_envs": 2, "n_timesteps": 96, "policy": "MlpPolicy", "policy_kwargs": {"net_arch": [16]},
                "n_steps": 16, "batch_size": 16, "n_epochs": 1, "learning_rate": "lin_1e-3"}  # fmt: skip
    (root / "ppo.yml").write_text(json.dumps({"CArmNav-v0": settings}), encoding="utf-8")


def _network_words(root: Path) -> list[str]:
    return ["--dataset", str(root / "views"), "--output-dir", str(root / "out"), "--architecture", "tiny",
            "--batch-size", "32", "--epochs", "3", "--resume"]  # fmt: skip


def _train_cnn(root: Path) -> int:
    from training import cnn

    return cnn.main(_network_words(root))


def _train_conformal(root: Path) -> int:
    from training import conformal

    return conformal.main([*_network_words(root), "--members", "2", "--epochs", "2"])


def _train_rl(root: Path) -> int:
    from training import rl

    return rl.main([
        "--algo", "ppo", "--patients", "imported:one", "imported:two", "--eval-patients", "imported:three",
        "--regressor", str(root / "network"), "--eval-episodes", "2", "--evaluations", "3", "--out", str(root / "out"),
        "--hyperparameters", str(root / "ppo.yml"), "--resume",
    ])  # fmt: skip


def _train_sft(root: Path) -> int:
    from training import sft

    sft._CORPUS_EXAMPLES = 100  # of its tokenizer
    configuration = Path(sft.__file__).parent / "configs" / "sft_embedded.yaml"
    return sft.main([
        "--config", str(configuration), "--dataset", str(root / "views"), "--backbone", str(root / "network"),
        "--hidden", "32", "--layers", "1", "--per_device_train_batch_size", "4", "--output_dir", str(root / "out"),
        "--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "2",
        "--test_views", "0", "--disable_tqdm", "true", "--report_to", "none", "--resume_from_checkpoint", "true",
    ])  # fmt: skip


def _sft_windows() -> tuple[Window, ...]:
    """Returns the calls in which transformers writes a checkpoint, besides ours."""
    import torch
    from transformers import TrainerState, modeling_utils

    return (*SAVES, Window(torch, "save", 1), Window(modeling_utils, "safe_save_file", 1),
            Window(TrainerState, "save_to_json", 1))  # fmt: skip


def scenarios() -> list[Scenario]:
    """Returns all scenarios, 200 kills in total."""
    training = ("torch", "accelerate", "pyarrow", "datasets")
    saved_epoch, saved_model = ("out/**/state.pt", "resuming after epoch"), ("out/*/model.zip", "resuming after")
    ct = {"needs": ("SimpleITK",), "modules": ("carm_env.ct.importer", "SimpleITK"), "renders": False}
    evaluation = {"modules": ("carm_env.evaluation.leaderboard",)}
    return [
        Scenario("build", 34, lambda root: None, _build, _check_built, renders=False),
        Scenario("import", 32, _prepare_import, _import, _check_other, **ct),
        Scenario("replace", 46, _prepare_replacement, _replace, _check_replaced, **ct),
        Scenario("render-dataset", 28, _import_small, _render, needs=("pyarrow",), modules=("pyarrow.parquet",)),
        Scenario("leaderboard", 26, _prepare_leaderboard, _evaluate(1), **evaluation),
        Scenario("leaderboard, 2 workers", 5, _prepare_leaderboard, _evaluate(2), **evaluation),
        Scenario("cnn", 10, _prepare_training, _train_cnn, resumed=saved_epoch, needs=training,
                 modules=("training.cnn",)),
        Scenario("conformal", 8, _prepare_training, _train_conformal, resumed=saved_epoch, needs=training,
                 modules=("training.conformal",)),
        Scenario("rl", 10, _prepare_with_network, _train_rl, resumed=saved_model,
                 needs=("stable_baselines3", *training), modules=("training.rl",)),
        Scenario("sft", 8, _prepare_with_network, _train_sft, windows=_sft_windows, needs=("trl", *training),
                 modules=("training.sft",)),
    ]  # fmt: skip


def enter(root: Path) -> None:
    """Points the folders of patients into the folder of a scenario."""
    os.environ.update(CARM_ENV_DATA=str(root / "data"), CARM_ENV_CACHE=str(root / "cache"))
    os.chdir(root)
