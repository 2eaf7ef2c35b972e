"""Short runs of everything that a user starts, on four small patients: none of them may use the network."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EPISODE = (
    "import gymnasium as gym, carm_env; env = gym.make('CArmNav-v0', patients='imported:one', image_size=32); "
    "env.reset(seed=0); env.step(0); env.close()"
)
SUITE = (
    "{name: tiny, version: 1, description: test, max_steps: 3, environment: {image_size: 16}, episodes: ["
    "{patient: 'imported:one', target: 1, start: 4}]}"
)
TASK = """task: tiny_questions
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list:
  - metric: acc
"""


def prepare(folder: Path) -> None:
    """Writes the patients, a backbone, a suite, hyperparameters and a task that the runs use."""
    os.environ["CARM_ENV_DATA"] = str(folder / "data")
    import numpy as np

    from carm_env import patient_store
    from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
    from policies.checkpoint import save_checkpoint
    from policies.networks import DisplacementNetwork
    from tests.conftest import NAMES, small_patient

    for seed, name in enumerate(NAMES):
        patient_store.save_imported(small_patient(name, seed))
    tensors = {f"0.{name}": value for name, value in DisplacementNetwork("tiny").state_dict().items()}
    config = {"kind": "conformal", "architecture": "tiny", "image_size": 32, "members": 1, "levels": [0.9],
              "radius": np.ones((1, 14)).tolist(), "isocenter_depth_mm": DEFAULT_ISOCENTER_DEPTH_MM}  # fmt: skip
    save_checkpoint(folder / "backbone", config, tensors, "#")
    (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
    settings = {"n_envs": 2, "n_timesteps": 32, "policy": "MlpPolicy", "n_steps": 16, "batch_size": 16, "n_epochs": 1}
    (folder / "h.yml").write_text(json.dumps({"CArmNav-v0": settings}), encoding="utf-8")
    data = folder / "questions.jsonl"
    data.write_text(
        "".join(json.dumps({"question": f"Is {n} even?", "answer": n % 2}) + "\n" for n in range(4)), encoding="utf-8"
    )
    (folder / "task.yaml").write_text(TASK.format(data=data), encoding="utf-8")


def commands(folder: Path) -> dict[str, list[str]]:
    """Returns the command line of each run."""
    splits = ["--train", "imported:one,imported:two", "--test", "imported:four"]
    networks = [*splits, "--calibration", "imported:three", "--views-per-patient", "40", "--workers", "1",
                "--architecture", "tiny", "--batch-size", "32", "--epochs", "1"]  # fmt: skip
    language = [*splits, "--views_per_patient", "40", "--workers", "1", "--config",
                str(ROOT / "training" / "configs" / "sft_embedded.yaml"), "--backbone", str(folder / "backbone"),
                "--hidden", "64", "--layers", "1", "--max_steps", "2", "--test_views", "2", "--image_size", "32",
                "--per_device_train_batch_size", "4", "--tasks", "localize=1,navigate=1"]  # fmt: skip
    scripts = {
        "leaderboard": ["benchmarks/leaderboard.py", "--policies", "oracle", "mllm", "conformal", "--suite",
                        str(folder / "suite.yaml"), "--workers", "1", "--out", "leaderboard", "--no-figures"],
        "cnn": ["training/cnn.py", *networks, "--output-dir", "cnn"],
        "conformal": ["training/conformal.py", *networks, "--members", "1", "--output-dir", "conformal"],
        "rl": ["training/rl.py", "--algo", "ppo", "--hyperparameters", str(folder / "h.yml"), "--patients",
               "imported:one", "--eval-patients", "imported:two", "--regressor", str(folder / "backbone"),
               "--no-evaluate", "--out", "rl"],
        "sft": ["training/sft.py", *language, "--output_dir", "sft"],
        "general": ["benchmarks/general.py", "--model", "sft", "--tasks", str(folder / "task.yaml"), "--shots", "0"],
    }  # fmt: skip
    return {
        "import": [sys.executable, "-c", "import carm_env, policies, training, benchmarks"],
        "environment": [sys.executable, "-c", EPISODE],
        **{name: [sys.executable, str(ROOT / words[0]), *words[1:]] for name, words in scripts.items()},
    }
