"""Runs everything that needs an NVIDIA GPU, in at most 9 minutes, and writes one JSON file and one page.

    make gpu-evidence
    python benchmarks/gpu_evidence.py --dry-run

The parts are the GPU tests, the speed of our renderer next to nanodrr, FlashDRR and DeepDRR (those that are installed),
200 steps of each supervised training and of the agents, and 20 steps of GRPO of a larger embedded model. Each part runs
in a process of its own with its own time limit, and the failure of one does not stop the others. Without a GPU the
parts that need one are skipped.

Writes ``gpu_evidence.json`` and ``gpu_evidence.md`` to ``benchmarks/results/DATE/``.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks._support.evidence import Part, PartResult, run_part
from carm_env.evaluation.provenance import PACKAGES, provenance
from carm_env.evaluation.report import markdown_table
from carm_env.system.command_line import run_script
from carm_env.system.files import write_json, write_text

ROOT = Path(__file__).parents[1]
TOTAL_S = 540
STEPS, GRPO_STEPS = 200, 20
BATCH_SIZE = 64
# 200 steps are 10 epochs of these views.
PATIENTS = ("virtual:1000", "virtual:1001")
VIEWS_PER_PATIENT, EPOCHS = 640, 10
EXTRA_PACKAGES = ("torch", "triton", "nanodrr", "flashdrr", "deepdrr", "transformers", "trl", "stable-baselines3")


@dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        out: folder for the JSON file and the page; by default benchmarks/results/DATE.
        work: folder for logs, views and trained models.
        dry_run: print the commands and their time limits only.
    """

    out: Path | None = None
    work: Path = Path("runs/gpu_evidence")
    dry_run: bool = False


def cuda_device() -> dict[str, Any] | None:
    """Returns the name and properties of the CUDA device of torch, or None without one."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    from benchmarks._support.roofline import device_facts

    return device_facts(torch.device("cuda"))


def list_parts(work: Path, has_gpu: bool) -> list[Part]:
    """Returns the parts in the order in which they run; those that need a GPU are skipped without one."""
    reason = "" if has_gpu else "no CUDA device"
    python, views = sys.executable, str(work / "views")

    def script(name: str, path: str, limit_s: float, *words: str) -> Part:
        figures = work / f"{name.replace(' ', '_')}.json"
        command = (python, str(ROOT / path), *words, "--json", str(figures))
        return Part(name, command, limit_s, figures, reason)

    def training(name: str, *words: str) -> Part:
        return script(f"train {name}", f"training/{name}.py", 75, *words)

    network = ("--dataset", views, "--epochs", str(EPOCHS), "--patience", str(EPOCHS), "--batch_size", str(BATCH_SIZE))
    splits = (f"train={','.join(PATIENTS)}", "calibration=virtual:1002", "test=virtual:1003")
    render = (python, "-m", "carm_env.cli", "render-dataset", "--out", views, "--split", *splits)
    larger = ("--hidden", "512", "--layers", "8")
    patients = ("--train", ",".join(PATIENTS), "--calibration", "virtual:1002", "--test", "virtual:1003")
    agent = ("--patients", *PATIENTS, "--eval-patients", "virtual:1003", "--evaluations", "1", "--eval-episodes", "4")
    return [
        Part("tests", (python, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")), 120, None, reason),
        script("speed", "benchmarks/gpu_speed.py", 150),
        Part("views", (*render, "--size", "96", "--views-per-patient", str(VIEWS_PER_PATIENT)), 90, None, reason),
        training("cnn", *network, "--output_dir", str(work / "cnn")),
        training("conformal", *network, "--output_dir", str(work / "conformal")),
        training("rl", *agent, "--timesteps", str(STEPS), "--out", str(work / "rl")),
        training("sft", "--dataset", views, "--max_steps", str(STEPS), "--test_views", "16", *larger,
                 "--output_dir", str(work / "sft"), "--report_to", "none"),
        training("grpo", "--config", str(ROOT / "training/configs/grpo_embedded.yaml"),
                 "--model_name_or_path", str(work / "sft"), *patients, "--max_steps", str(GRPO_STEPS),
                 "--eval_every", "0", "--perception_every", "0", "--test_episodes", "0",
                 "--output_dir", str(work / "grpo"), "--report_to", "none"),
    ]  # fmt: skip


def page(results: Sequence[PartResult], device: dict[str, Any] | None, run: dict[str, Any]) -> str:
    """Returns the Markdown page."""
    name = device["name"] if device else "no CUDA device"
    rows = [(result.name, result.status, f"{result.seconds:.0f}", result.reason) for result in results]
    parts = [
        "# Evidence on a GPU",
        f"{name}; {run['processor']}, {run['cpus']} CPUs; commit {run['git']}; {run['date'][:10]}.",
        markdown_table(("part", "status", "seconds", "reason"), rows),
    ]
    for result in results:
        if result.log:
            log = "\n".join(result.log)
            parts.append(f"## {result.name[0].upper()}{result.name[1:]}\n\n`{result.command}`\n\n```\n{log}\n```")
    return "\n\n".join(parts) + "\n"


def run(arguments: Arguments) -> int:
    """Runs the parts and writes the result; the exit status is 1 if a part failed."""
    started = time.perf_counter()
    device = cuda_device()
    parts = list_parts(arguments.work, device is not None or arguments.dry_run)
    if arguments.dry_run:
        for part in parts:
            print(f"{part.name} (at most {part.limit_s:.0f} s): {' '.join(part.command)}")
        return 0
    # Scripts of a clone import the clone.
    environment = {"PYTHONPATH": str(ROOT)}
    results = []
    for part in parts:
        print(f"== {part.name} (at most {part.limit_s:.0f} s)", flush=True)
        result = run_part(part, arguments.work, TOTAL_S - (time.perf_counter() - started), environment)
        print(f"   {result.status} after {result.seconds:.0f} s {result.reason}", flush=True)
        results.append(result)
    facts = provenance(0, (*PACKAGES, *EXTRA_PACKAGES))
    out = arguments.out or ROOT / "benchmarks" / "results" / datetime.date.today().isoformat()
    evidence = {"device": device, "parts": [asdict(result) for result in results], "run": facts}
    write_json(out / "gpu_evidence.json", evidence)
    write_text(out / "gpu_evidence.md", page(results, device, facts))
    print(f"{out / 'gpu_evidence.md'}: {time.perf_counter() - started:.0f} s")
    return int(any(result.status in ("failed", "timeout") for result in results))


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
