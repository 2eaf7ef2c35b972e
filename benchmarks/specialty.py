"""Compare one language model of all tasks with one model per task, for the same total number of conversations.

    python benchmarks/specialty.py --json specialty.json
    python benchmarks/specialty.py --tasks box findings --conversations 64 --questions 8 --json s.json
    python benchmarks/specialty.py --recipe training/configs/sft_medgemma_4b_specialty.yaml --size 896

All models are trained by `training/sft.py` from the same weights, on the same views and with the same settings: the
specialty model on all tasks in equal shares, each other model on its task, with the specialty model's share of it. On
held-out patients each question is put to the weights before the training, to the model of its task and to the specialty
model: accuracy, macro-F1 and weighted-F1 of classes (nearest landmark, best move, finding), and for boxes the share
that overlaps the true one by half (intersection over union) and the mean overlap, with intervals by patient. The
difference is paired. The same command continues an interrupted run: views, models and answers in ``--out`` are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._support.specialty_models import train_all, weight_bytes
from benchmarks._support.specialty_questions import BOX_TASKS, TASKS, Asked, HeldOut
from benchmarks._support.specialty_scores import SINGLE, SPECIALTY, START, Values, answer_values, compare
from carm_env.chat_models.specification import ModelSpecification
from carm_env.evaluation.intervals import Estimate
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import interval_cell, markdown_table
from carm_env.language.grammar import READINGS
from carm_env.patients.build import default_workers
from carm_env.patients.catalogue import expand_patients
from carm_env.system.command_line import read_config, run_script
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import write_json
from carm_env.system.structured_files import read_json_mapping
from carm_env.views.sample import ViewOptions
from carm_env.views.write import write_view_dataset
from policies.checkpoint import SHIPPED
from policies.mllm import KIND, make_chat_model
from policies.model_loading import read_settings

FINDINGS = ("pleural_effusion", "pneumothorax", "humeral_nail", "sternal_wires", "pacemaker")
GOAL = -0.02
"""Difference of the main metric down to which the specialty model is as good as a model for one task."""
_RUN_FILE = "run.json"
_EMBEDDED_RATE = 6e-4


def with_findings(persons: Sequence[str]) -> tuple[str, ...]:
    """Returns patients, each followed by the same person with one of `FINDINGS`, in turn.

    >>> with_findings(["virtual:1", "virtual:2"])[1:3]
    ('virtual:1?findings=pleural_effusion', 'virtual:2')
    """
    return tuple(
        name
        for number, person in enumerate(persons)
        for name in (person, f"{person}?findings={FINDINGS[number % len(FINDINGS)]}")
    )


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        tasks: tasks of the specialty model; each also gets a model of its own.
        start: folder or id of the model that all trainings start from; by default that of the recipe, or the embedded
            model that ships.
        recipe: configuration of `training/sft.py`; by default that of the embedded model.
        conversations: conversations of the specialty model, and of all other models together.
        learning_rate: peak of the learning rate; 0 for that of the recipe, and for the embedded model 6e-4.
        train: patients to train on; by default five of standard/calibration, without and with a finding.
        test: patients to evaluate on; by default standard/test, without and with a finding.
        views: views of each patient.
        size: side of the views, pixels.
        questions: held-out questions of each task.
        reading: how answers are parsed, strict or lenient.
        jobs: trainings at the same time.
        seed: seed of the trainings and the questions.
        out: folder for views, models and answers.
        json: file for the results.
    """

    tasks: tuple[str, ...] = TASKS
    start: str = ""
    recipe: str = ""
    conversations: int = 9800
    learning_rate: float = 0.0
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    views: int = 192
    size: int = 128
    questions: int = 300
    reading: str = READINGS[0]
    jobs: int = 2
    seed: int = 0
    out: Path = Path("runs/specialty")
    json: Path | None = None

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise UnknownNameError("task", task, TASKS)
        if len(set(self.tasks)) < max(len(self.tasks), 2):
            raise ValueError(f"--tasks is {' '.join(self.tasks)}, expected at least two different tasks.")
        if self.conversations < len(self.tasks):
            raise ValueError(f"--conversations is {self.conversations}, expected at least one for each task.")
        if self.questions < 1:
            raise ValueError(f"--questions is {self.questions}, expected at least 1.")
        if self.reading not in READINGS:
            raise UnknownNameError("reading", self.reading, READINGS)

    @property
    def start_model(self) -> str:
        """Folder or id of the model that all trainings start from."""
        if not self.start:
            return str(read_config(Path(self.recipe))["model_name_or_path"] if self.recipe else SHIPPED / KIND)
        return str(Path(self.start).resolve()) if Path(self.start).is_dir() else self.start

    def training(self, tasks: Sequence[str]) -> list[str]:
        """Returns the words of the command that trains a model on tasks, without the interpreter and the folder."""
        examples = self.conversations // len(self.tasks) * len(tasks)
        peak = self.learning_rate or (0.0 if self.recipe else _EMBEDDED_RATE)
        rate = ["--learning_rate", str(peak), "--warmup_steps", "0.05"] if peak else []
        config = ["--config", str(Path(self.recipe).resolve())] if self.recipe else []
        return [
            "training/sft.py", *config, "--model_name_or_path", self.start_model, "--tasks", *tasks,
            "--dataset", str((self.out / "views").resolve()), "--image_size", str(self.size),
            "--examples", str(examples), "--num_train_epochs", "1", *rate, "--seed", str(self.seed),
            "--test_views", "0", "--save_steps", "200", "--logging_steps", "50", "--disable_tqdm", "true",
        ]  # fmt: skip

    def model_folder(self, tasks: Sequence[str]) -> Path:
        """Returns the folder of the model of one task, or of the specialty model."""
        return self.out / "models" / (tasks[0] if len(tasks) == 1 else SPECIALTY)


def check_run(arguments: Arguments) -> None:
    """Notes the settings of a new run in its folder.

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    settings = {key: value for key, value in asdict(arguments).items() if key not in ("jobs", "out", "json")}
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    path = arguments.out / _RUN_FILE
    if not path.is_file():
        write_json(path, settings)
        return
    before = read_json_mapping(path)
    if changed := [key for key, value in settings.items() if before.get(key) != value]:
        raise ValueError(
            f"{arguments.out} holds a run with other {', '.join(changed)}: give the same settings, or another --out."
        )


def ask(
    arguments: Arguments, asked: Mapping[str, Sequence[Asked]], model: str, name: str, tasks: Sequence[str]
) -> dict[str, Values]:
    """Returns the values of a model's answers for tasks; answers that are in the folder of the run are kept.

    Args:
        arguments: arguments of the run.
        asked: the questions of each task.
        model: folder or id of the model.
        name: its name in the folder.
        tasks: tasks to ask about.
    """
    chat, found = None, {}
    for task in tasks:
        path = arguments.out / "answers" / f"{name}-{task}.json"
        if not path.is_file():
            chat = chat or make_chat_model(ModelSpecification.parse(model))
            values = answer_values(chat, task, asked[task], arguments.reading)
            write_json(path, {"values": values.tolist()})
            print(f"{name}: {len(values)} answers for {task}", flush=True)
        found[task] = np.array(read_json_mapping(path)["values"], float)
    return found


def main_metric(task: str) -> str:
    """Returns the metric by which models are compared: accuracy of classes or of boxes."""
    return "box_accuracy" if task in BOX_TASKS else "accuracy"


def report(compared: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> str:
    """Formats the metrics of each task and the differences with their intervals, in percentage points."""

    def points(found: Estimate) -> str:
        interval = interval_cell((100 * found.low, 100 * found.high), found.patients, "{:+.1f} to {:+.1f}")
        return f"{100 * found.value:+.1f} ({interval})"

    rows = [
        (
            task,
            name,
            *(f"{values[model].value:.3f}" for model in (START, SINGLE, SPECIALTY)),
            points(values["difference"]),
        )
        for task, scores in compared.items()
        for name, values in scores.items()
    ]
    return markdown_table(("task", "metric", "before", "one per task", "specialty", "difference, points"), rows)


def summary(arguments: Arguments, found: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, Any]:
    """Returns the figures of the JSON file: every metric with its interval, and the number and size of the models."""
    folders = [arguments.model_folder([task]) for task in arguments.tasks]
    whole = weight_bytes(arguments.model_folder(arguments.tasks))
    differences = {task: found[task][main_metric(task)]["difference"].value for task in found}
    return {
        "start": Path(arguments.start_model).name, "tasks": list(found), "conversations": arguments.conversations,
        "questions": arguments.questions, "views": arguments.views, "reading": arguments.reading,
        "specialty_models": 1, "single_models": len(folders), "specialty_bytes": whole,
        "single_bytes": sum(map(weight_bytes, folders)), "differences": differences,
        "tasks_within_goal": sum(value >= GOAL for value in differences.values()),
        "scores": {
            task: {name: {model: one._asdict() for model, one in values.items()} for name, values in scores.items()}
            for task, scores in found.items()
        },
    }  # fmt: skip


def run(arguments: Arguments) -> None:
    """Trains, asks, prints and saves."""
    train = arguments.train or with_findings(expand_patients(["standard/calibration"])[: len(FINDINGS)])
    test = arguments.test or with_findings(expand_patients(["standard/test"]))
    check_run(arguments)
    splits = {"train": expand_patients(train), "test": expand_patients(test)}
    write_view_dataset(arguments.out / "views", splits, ViewOptions(arguments.views, arguments.size), default_workers())
    groups = [list(arguments.tasks), *([task] for task in arguments.tasks)]
    train_all({arguments.model_folder(tasks): arguments.training(tasks) for tasks in groups}, arguments.jobs)
    style = str(read_settings(arguments.model_folder(groups[0])).get("style"))
    held_out = HeldOut(arguments.out / "views", "test", style, arguments.seed + 1)
    asked = {task: held_out.ask(task, arguments.questions) for task in arguments.tasks}
    values: dict[str, dict[str, Values]] = {
        START: ask(arguments, asked, arguments.start_model, START, arguments.tasks),
        SPECIALTY: ask(arguments, asked, str(arguments.model_folder(groups[0])), SPECIALTY, arguments.tasks),
        SINGLE: {},
    }
    for (task,) in groups[1:]:
        values[SINGLE] |= ask(arguments, asked, str(arguments.model_folder([task])), task, [task])
    found = {
        task: compare(asked[task], {model: own[task] for model, own in values.items()}) for task in arguments.tasks
    }
    print(f"\n{report(found)}\n")
    figures = summary(arguments, found)
    print(
        f"{figures['tasks_within_goal']} of {len(found)} tasks: at most {-100 * GOAL:.0f} points worse than one model"
    )
    print(f"1 model of {figures['specialty_bytes']:,} bytes, {len(found)} models of {figures['single_bytes']:,} bytes")
    save_measurement(arguments.json, figures, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
