"""What a GRPO training shows while it runs: progress, success in closed loop, and example episodes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from carm_env.chat_models.interface import ChatModel
from carm_env.evaluation.episode_images import save_episode_gif
from carm_env.evaluation.plots import drawing
from carm_env.language.chat import Message
from carm_env.system.extras import optional_imports
from carm_env.system.files import write_json
from carm_env.system.structured_files import StructuredFileError, read_json_mapping
from policies.model_folders import without_hub
from training._support.closed_loop import ClosedLoopSuite
from training._support.curves import save_perception_curve, save_success_curve
from training._support.perception import PerceptionCheck, check_perception
from training._support.processes import TrainingError
from training.rewards import State

with optional_imports("grpo", "Reinforcement learning of a language model"), without_hub():
    from transformers import TrainerCallback

CURVE, PERCEPTION = "calibration.json", "perception.json"
_ALARMING_SHARE = 0.9
_SHOWN = {
    "reward": "reward {:.3f}", "best_move": "best moves {:.0%}", "groups_kept": "groups that differ {:.0%}",
    "frac_reward_zero_std": "frac_reward_zero_std {:.2f}", "entropy": "entropy {:.2f}", "kl": "KL {:.4f}",
    "environment_failures": "failed episodes {:.0f}", "episodes/success": "episodes won {:.0%}",
    "episodes/misaligned": "stopped at the wrong place {:.0%}", "answers/invalid": "unreadable answers {:.0%}",
    "reward/question": "questions {:.0%}", "answers/questions": "questions {:.0%}",
    "answers/cut": "answers cut at max_answer_tokens {:.0%}",
    "episodes/out_of_tokens": "episodes cut at max_completion_length {:.0%}",
}  # fmt: skip


class Progress(TrainerCallback):
    """Prints a line at every logging step, with the time left, and stops a training whose numbers are not finite."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Starts the clock."""
        self._started, self._first = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **others: Any) -> None:
        """Prints the figures.

        Raises:
            TrainingError: the loss, the norm of the gradient or the reward is not finite.
        """
        figures = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        for name in ("loss", "grad_norm", "reward"):
            if not math.isfinite(figures.get(name, 0.0)):
                raise TrainingError(
                    f"{name} is {figures[name]} at step {state.global_step}: lower --learning_rate or "
                    "--max_grad_norm, or raise --beta; with --fp16 use --bf16."
                )
        if not state.is_world_process_zero or "reward" not in figures:
            return
        done = state.global_step - self._first
        left_s = (time.perf_counter() - self._started) / max(done, 1) * (state.max_steps - state.global_step)
        shown = [text.format(figures[name]) for name, text in _SHOWN.items() if figures.get(name)]
        print(f"step {state.global_step}/{state.max_steps}: {', '.join(shown)}, {left_s / 60:.0f} min left", flush=True)
        equal = max(figures.get("frac_reward_zero_std", 0.0), 1 - figures.get("groups_kept", 1.0))
        if equal > _ALARMING_SHARE:
            print(
                f"WARNING: in {equal:.0%} of the groups all rewards are equal, so they teach "
                "nothing: raise --temperature or --num_generations, or start from a model that was fine-tuned "
                "by training/sft.py.",
                flush=True,
            )


@dataclass
class Evaluation(TrainerCallback):
    """Evaluates the model in closed loop on the calibration patients, before training and every few steps.

    A training that is shorter than that is not evaluated.

    Args:
        model: the model of the trainer.
        suite: the episodes.
        steps: evaluate every so many optimizer steps; 0 for never.
        folder: output folder, for the curve and the example episodes.
        examples: number of episodes to save as GIF at each evaluation.
        log: adds figures to those of the next logging step.
        report: receives the name, the file and the step of each example episode.
    """

    model: ChatModel
    suite: ClosedLoopSuite
    steps: int
    folder: Path
    examples: int
    log: Callable[[str, float], None]
    report: Callable[[str, Path, int], None]

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Evaluates the start; a resumed training keeps the curve up to its checkpoint."""
        known = _read_curve(self.folder / CURVE) if state.global_step else []
        self._curve = [point for point in known if point["step"] <= state.global_step]
        self._is_short = state.max_steps < self.steps
        if self._is_short and state.is_world_process_zero:
            print(f"no evaluation: the training is shorter than --eval_every, {self.steps} steps", flush=True)
        if self.steps and not self._is_short and not self._curve:
            self._evaluate(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Evaluates the model every few steps."""
        is_due = self.steps and (state.global_step % self.steps == 0 or state.global_step == state.max_steps)
        if is_due and not self._is_short:
            self._evaluate(state)

    def _evaluate(self, state: Any) -> None:
        results = self.suite.results(self.model)
        successes = sum(result.success for result in results)
        figures = {
            "success": successes / max(len(results), 1),
            "exposures_per_success": sum(result.exposures for result in results) / max(successes, 1),
        }
        for name, value in figures.items():
            self.log(f"calibration/{name}", value)
        if not state.is_world_process_zero:
            return
        self._curve.append({"step": state.global_step, **figures})
        write_json(self.folder / CURVE, {"points": self._curve})
        save_success_curve(self._curve, self.folder / "learning_curve.png")
        print(
            f"step {state.global_step}: success {figures['success']:.1%} on {len(results)} episodes of calibration "
            f"patients, {figures['exposures_per_success']:.1f} exposures per success",
            flush=True,
        )
        for result in results[: self.examples]:
            path = self.folder / "episodes" / f"step-{state.global_step:05d}-episode-{result.episode}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            with drawing(str(path)):
                save_episode_gif(path, self.suite.suite, result)
                self.report(f"episode-{result.episode}", path, state.global_step)


def _read_curve(path: Path) -> list[dict[str, Any]]:
    try:
        return list(read_json_mapping(path)["points"])
    except (OSError, KeyError, StructuredFileError):
        return []


@dataclass
class PerceptionAlarm(TrainerCallback):
    """Checks before training and every few steps whether the model's moves depend on the X-ray.

    Args:
        model: the model of the trainer.
        prompts: prompts of a sample of states.
        states: the states.
        steps: check every so many optimizer steps.
        stop: raise an error if the model no longer looks.
        folder: output folder, for the curve.
        log: adds figures to those of the next logging step.
    """

    model: ChatModel
    prompts: Sequence[list[Message]]
    states: Sequence[State]
    steps: int
    stop: bool
    folder: Path
    log: Callable[[str, float], None]

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Checks the start; a resumed training keeps the curve up to its checkpoint."""
        known = _read_curve(self.folder / PERCEPTION) if state.global_step else []
        self._curve = [point for point in known if point["step"] <= state.global_step]
        if not self._curve:
            self._check(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Checks the model every few steps.

        Raises:
            TrainingError: the model no longer looks, and the training is to stop then.
        """
        if state.global_step % self.steps == 0 or state.global_step == state.max_steps:
            self._check(state)

    def _check(self, state: Any) -> None:
        found = check_perception(self.model, self.prompts, self.states)
        for name, value in found.metrics().items():
            self.log(f"perception/{name}", value)
        self._curve.append({"step": state.global_step, **found.metrics()})
        if state.is_world_process_zero:
            write_json(self.folder / PERCEPTION, {"points": self._curve})
            names = [item.name for item in fields(PerceptionCheck)]
            checks = [PerceptionCheck(**{name: point[name] for name in names}) for point in self._curve]
            save_perception_curve([point["step"] for point in self._curve], checks, self.folder / "perception.png")
            alarm = "" if found.looks else "WARNING: "
            print(f"step {state.global_step}: {alarm}{found}", flush=True)
        if self.stop and state.global_step and not found.looks:
            raise TrainingError(
                f"step {state.global_step}: {found} The training stops, as --stop_when_blind asks: continue from an "
                "earlier checkpoint with a lower --learning_rate or a higher --beta."
            )
