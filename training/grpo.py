"""Train a language model by reinforcement learning, in the loop of X-rays and moves, from a fine-tuned start.

    python training/grpo.py
    python training/grpo.py --max_steps 10 --test_episodes 0
    python training/grpo.py --mode multi_turn --max_steps 2
    python training/grpo.py --config training/configs/grpo_qwen2_5_vl_7b.yaml --model_name_or_path runs/sft
    accelerate launch training/grpo.py --config training/configs/grpo_gemma3_4b.yaml

The script runs TRL's `GRPOTrainer` with its arguments (`GRPOConfig`, `ModelConfig`), read from flags or ``--config``; a
configuration can name another one as its ``base``. Without arguments the embedded model is trained on a CPU, from the
weights that ship (`training/configs/grpo_embedded.yaml`).

Step by step (the default), every state is a prompt of its own, with the paper's history: the model plays episodes, and
the states that it visits are the prompts of the next steps. The simulator knows the exact value of every move
(`training/rewards.py`). With ``--mode multi_turn``, whole episodes are rollouts.

During training the model is evaluated in closed loop on the calibration patients. At the end it is compared with its
start on the same episodes of the test patients. The model is saved in ``OUTPUT_DIR``; its name as a policy is
``mllm:OUTPUT_DIR``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.chat_models.specification import ModelSpecification
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.scene import load_scene
from carm_env.evaluation.provenance import save_measurement
from carm_env.geometry import CArmGeometry
from carm_env.patient import Patient
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.randomization.draw import DomainRandomization
from carm_env.randomization.naming import with_scans
from carm_env.system.extras import optional_imports
from carm_env.system.files import write_text
from carm_env.system.threads import limit_threads
from carm_env.xray.settings import XRaySettings
from policies.local_model import LocalModel
from policies.mllm import KIND
from policies.model_folders import without_hub
from policies.vision_cache import TOWERS, VisionCache, can_be_cached, vision_tower
from training._support.answering import AnsweringModel
from training._support.card import model_card
from training._support.closed_loop import ClosedLoopSuite
from training._support.conversations import without_images
from training._support.episode_budget import answer_tokens
from training._support.episode_mode import make_episode_trainer
from training._support.episode_reports import report_episode
from training._support.episode_trainer import EpisodeTrainer
from training._support.grpo_arguments import MODES, GrpoArguments, read_arguments, reward_weights
from training._support.grpo_callbacks import Evaluation, PerceptionAlarm, Progress
from training._support.grpo_checks import check_answer_length, check_batches, check_images
from training._support.grpo_comparison import compare_models
from training._support.grpo_states import StateSource, uniform_suite
from training._support.grpo_trainer import StepwiseTrainer
from training._support.other_answers import OtherAnswers
from training._support.processes import is_main_process, one_training
from training._support.script import TrainingResult, print_result
from training._support.sharding import is_sharded, whole_weights
from training._support.start_models import SMALL_PARAMETERS, Start, load_start, save_model
from training._support.trainer_checkpoints import checkpoint_step, checkpoint_to_resume
from training._support.trl_models import new_adapter
from training._support.trl_training import fit, run_trl_script
from training._support.views import check_model_depth
from training.rewards import State, step_rewards

with optional_imports("grpo", "Reinforcement learning of a language model"), without_hub():
    from accelerate.utils import gather_object
    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOConfig, GRPOTrainer, ModelConfig

_CALIBRATION_SEED, _TEST_SEED = 101, 12
_VIEWS_FOR_LENGTH = 32
_VIEWS_FOR_OTHER_ANSWERS = 16


class Patients(Mapping[str, Patient]):
    """Patients by name, each loaded when it is asked for, in memory that environments share.

    Args:
        names: names separated by commas; patients that are not built yet are built.
        domain: if given, the patients are scanned by other CT scanners.
    """

    def __init__(self, names: str, domain: DomainRandomization | None = None) -> None:
        self._names = with_scans(expand_patients(names.split(",")), domain or DomainRandomization())
        prepare_patients(self._names, default_workers())

    def __getitem__(self, name: str) -> Patient:
        """Returns a patient."""
        return load_scene(name, CArmGeometry(), XRaySettings()).patient

    def __iter__(self) -> Iterator[str]:
        """Returns the names, in order."""
        return iter(self._names)

    def __len__(self) -> int:
        """Returns the number of patients."""
        return len(self._names)


def make_step_wise_trainer(
    arguments: GrpoArguments, training: GRPOConfig, model_arguments: ModelConfig, start: Start
) -> GRPOTrainer:
    """Makes the trainer of the step-wise mode, after checking what can be wrong with its arguments."""
    generations = check_batches(training, arguments.refresh_steps)
    groups = training.generation_batch_size // training.num_generations
    source = StateSource(
        State.of_environment, Patients(arguments.train, arguments.domain), groups * generations, arguments.start_share,
        arguments.image_size, training.seed,
        environment=partial(
            CArmNavEnv, domain_randomization=arguments.domain.chain_settings,
            isocenter_depth_mm=arguments.isocenter_depth_mm,
        ),
    )  # fmt: skip
    views = source.starts(_VIEWS_FOR_LENGTH, start.style)
    check_images(start.processor, start.model, views[0].messages, start.name)
    # 0 stands for the longest usual answer and a quarter.
    training.max_completion_length = training.max_completion_length or answer_tokens(start.processor.tokenizer)
    situations = [(view.truth.situation, view.truth.target) for view in views]
    check_answer_length(start.processor, situations, training.max_completion_length)
    return StepwiseTrainer(
        source,
        start.style,
        partial(step_rewards, weights=reward_weights(arguments)),
        arguments.min_spread,
        arguments.equal_groups_kept,
        arguments.constrained,
        vision_cache(arguments, start),
        model=start.model,
        args=training,
        processing_class=start.processor,
        peft_config=adapter_config(arguments, model_arguments, start),
    )


def make_multi_turn_trainer(
    arguments: GrpoArguments, training: GRPOConfig, model_arguments: ModelConfig, start: Start
) -> GRPOTrainer:
    """Makes the trainer of the multi-turn mode.

    Raises:
        ValueError: an argument that this mode lacks.
    """
    if arguments.constrained:
        raise ValueError("constrained is true, which multi_turn lacks: leave it out, or use --mode step_wise.")
    return make_episode_trainer(
        arguments, training, start.model, start.processor,
        name=start.name, style=start.style, patients=list(Patients(arguments.train, arguments.domain)),
        image_size=arguments.image_size, weights=reward_weights(arguments), vision=vision_cache(arguments, start),
        peft_config=adapter_config(arguments, model_arguments, start),
    )  # fmt: skip


def vision_cache(arguments: GrpoArguments, start: Start) -> VisionCache | None:
    """Returns a cache of the outputs of the vision tower, if it is frozen."""
    if is_sharded():
        # All processes must ask the tower equally often.
        return None
    tower = vision_tower(start.model)
    return VisionCache(tower) if arguments.freeze_vision and can_be_cached(tower) else None


def adapter_config(arguments: GrpoArguments, model_arguments: ModelConfig, start: Start) -> Any:
    """Returns the configuration of a new adapter; None to train the whole model, or the adapter that it has."""
    if hasattr(start.model, "peft_config"):
        return None
    return new_adapter(start.model, model_arguments, TOWERS if arguments.freeze_vision else ())


def train(
    arguments: GrpoArguments, training: GRPOConfig, model_arguments: ModelConfig, words: Sequence[str] = ()
) -> TrainingResult:
    """Trains and saves the model, and compares it with its start on the test patients.

    Args:
        arguments: states, rewards and evaluation.
        training: TRL's arguments of the training.
        model_arguments: TRL's arguments of the model.
        words: words of the command line, for the model card.
    """
    with one_training(Path(training.output_dir), "--output_dir"):
        return _train(arguments, training, model_arguments, words)


def _train(
    arguments: GrpoArguments, training: GRPOConfig, model_arguments: ModelConfig, words: Sequence[str]
) -> TrainingResult:
    folder = Path(training.output_dir)
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, folder, is_main_process())
    start = load_start(model_arguments, arguments.style, arguments.freeze_vision)
    check_model_depth(arguments, start.model, start.name)
    if training.use_cpu and start.parameters < SMALL_PARAMETERS:
        # The matrices are small: several threads would wait for each other more than they work.
        limit_threads(1)
    make_trainer = {"step_wise": make_step_wise_trainer, "multi_turn": make_multi_turn_trainer}[arguments.mode]
    trainer = make_trainer(arguments, training, model_arguments, start)
    add_reports(trainer, arguments, training, start)
    learning = sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
    print(
        f"{start.name}: {start.parameters / 1e6:.1f} M parameters, {learning / 1e6:.1f} M of them are trained",
        flush=True,
    )
    started = time.perf_counter()
    # Read now: a training can remove the checkpoint from which it goes on.
    first = checkpoint_step(checkpoint) if checkpoint else 0
    fit(trainer, checkpoint)
    minutes = (time.perf_counter() - started) / 60
    figures = {"minutes": minutes, **speed(trainer.state.global_step - first, getattr(trainer, "seconds", {}))}
    save_model(trainer, start, folder, "grpo")
    if not trainer.accelerator.is_main_process:
        return TrainingResult(training=figures)
    test = compare_with_start(arguments, model_arguments, start, folder) if arguments.test_episodes else {}
    config = {"kind": KIND, "start": Path(start.name).name, "mode": arguments.mode, "style": start.style,
              "steps": training.max_steps, "num_generations": training.num_generations, "beta": training.beta,
              "learning_rate": training.learning_rate, "seed": training.seed}  # fmt: skip
    description = "Drives the C-arm to a landmark; trained by GRPO in closed loop, from a fine-tuned model."
    card = model_card(
        "Language model for C-arm navigation, after reinforcement learning", description, "training/grpo.py", words,
        config, test, minutes,
    )  # fmt: skip
    write_text(folder / "README.md", card)
    return TrainingResult(test, figures)


def add_reports(trainer: GRPOTrainer, arguments: GrpoArguments, training: GRPOConfig, start: Start) -> None:
    """Adds the progress, the evaluations in closed loop, the perception alarm and the check of other answers."""
    accelerator, folder = trainer.accelerator, Path(training.output_dir)
    # Our own lines have the time left.
    for kind in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(kind)
    trainer.add_callback(Progress())
    if not (arguments.eval_every or arguments.perception_every):
        return
    patients = Patients(arguments.calibration)
    size, depth_mm = arguments.image_size, arguments.isocenter_depth_mm
    suite = uniform_suite("calibration", patients, arguments.eval_episodes, _CALIBRATION_SEED, size, depth_mm)
    gather = gather_object if accelerator.num_processes > 1 else list
    episodes = ClosedLoopSuite(
        suite, rank=accelerator.process_index, world=accelerator.num_processes, gather=gather,
        kept_exchanges=arguments.kept_exchanges if arguments.mode == MODES[1] else 0,
        around=lambda: whole_weights(trainer.model),
    )  # fmt: skip
    model = AnsweringModel(trainer, start.style, answer_limit(trainer))

    def log(name: str, value: float) -> None:
        trainer._metrics["train"][name].append(value)

    if arguments.eval_every:
        report = partial(report_episode, trainer)
        trainer.add_callback(
            Evaluation(model, episodes, arguments.eval_every, folder, arguments.example_episodes, log, report)
        )
    if arguments.perception_every:
        count = arguments.perception_states
        source = StateSource(
            State.of_environment, patients, count, 1.0, size, _CALIBRATION_SEED,
            environment=partial(CArmNavEnv, isocenter_depth_mm=depth_mm),
        )  # fmt: skip
        views = source.starts(count, start.style)
        # Grey images, with three equal channels in prompts.
        images = [np.asarray(without_images(view.messages)[1][-1])[..., 0] for view in views[:_VIEWS_FOR_OTHER_ANSWERS]]
        trainer.add_callback(OtherAnswers(model, images, arguments.perception_every, log))
        trainer.add_callback(
            PerceptionAlarm(
                model,
                [view.messages for view in views],
                [view.truth for view in views],
                arguments.perception_every,
                arguments.stop_when_blind,
                folder,
                log,
            )  # fmt: skip
        )


def answer_limit(trainer: GRPOTrainer) -> int:
    """Returns the largest number of tokens of an answer in evaluations."""
    # In the multi-turn mode, a completion is a whole episode.
    return int(trainer.budget.answer if isinstance(trainer, EpisodeTrainer) else trainer.args.max_completion_length)


def speed(steps: int, seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the optimizer steps per second, without evaluations, and the shares of the parts of a training."""
    total = sum(seconds.values())
    if not total:
        return {}
    return {"steps_per_s": steps / total, **{f"share of {name}": value / total for name, value in seconds.items()}}


def compare_with_start(
    arguments: GrpoArguments, model_arguments: ModelConfig, start: Start, folder: Path
) -> dict[str, float]:
    """Runs the trained model and its start on the same episodes of the test patients."""
    suite = uniform_suite(
        "test", Patients(arguments.test), arguments.test_episodes, _TEST_SEED, arguments.image_size,
        arguments.isocenter_depth_mm,
    )  # fmt: skip
    revision = model_arguments.model_revision or ""
    kept = arguments.kept_exchanges if arguments.mode == MODES[1] else 0
    bits = "8bit" if model_arguments.load_in_8bit else "4bit" if model_arguments.load_in_4bit else "none"
    asked = ModelSpecification(style=start.style, quantisation=bits)
    models = {
        "start": LocalModel(asked.changed({"name": start.name, "revision": revision})),
        "trained": LocalModel(asked.changed({"name": str(folder)})),
    }
    return compare_models(suite, models, "start", folder / "comparison", kept)


def run(words: Sequence[str]) -> None:
    """Trains with the arguments of a command line, and prints and writes the results."""
    arguments, training, model = read_arguments(words)
    result = train(arguments, training, model, words)
    if not is_main_process():
        return
    print_result(result)
    if arguments.json:
        save_measurement(Path(arguments.json), {**result.training, **result.test}, training.seed)
    print(f"\npolicy: {KIND}:{training.output_dir}")


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_trl_script(run, given)


if __name__ == "__main__":
    sys.exit(main())
