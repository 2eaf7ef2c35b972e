"""What a GRPO training shows while it runs: progress, success in closed loop, and example episodes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.chat_models.interface import ChatModel
from carm_env.evaluation.episode_images import save_episode_gif
from carm_env.evaluation.plots import drawing
from carm_env.system.extras import optional_imports
from carm_env.system.files import write_json
from carm_env.system.structured_files import StructuredFileError, read_json_mapping
from policies.model_folders import without_hub
from training._support.closed_loop import ClosedLoopSuite
from training._support.processes import TrainingError

with optional_imports("llm", "Training a language model"), without_hub():
    from transformers import TrainerCallback

CURVE = "calibration.json"
_ALARMING_SHARE = 0.9
_SHOWN = {
    "reward": "reward {:.3f}", "best_move": "best moves {:.0%}", "groups_kept": "groups that differ {:.0%}",
    "frac_reward_zero_std": "frac_reward_zero_std {:.2f}", "entropy": "entropy {:.2f}", "kl": "KL {:.4f}",
    "environment_failures": "failed episodes {:.0f}", "episodes/success": "episodes won {:.0%}",
    "episodes/misaligned": "stopped at the wrong place {:.0%}", "answers/invalid": "unreadable answers {:.0%}",
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
        if figures.get("frac_reward_zero_std", 0.0) > _ALARMING_SHARE:
            print(
                f"WARNING: in {figures['frac_reward_zero_std']:.0%} of the groups all rewards are equal, so they teach "
                "nothing: raise --temperature or --num_generations, or start from a model that was fine-tuned "
                "by training/sft.py.",
                flush=True,
            )


@dataclass
class Evaluation(TrainerCallback):
    """Evaluates the model in closed loop on the calibration patients, before training and every few steps.

    Args:
        model: the model of the trainer.
        suite: the episodes.
        steps: evaluate every so many optimizer steps; 0 for never.
        folder: output folder, for the curve and the example episodes.
        examples: number of episodes to save as GIF at each evaluation.
        log: adds figures to those of the next logging step.
    """

    model: ChatModel
    suite: ClosedLoopSuite
    steps: int
    folder: Path
    examples: int
    log: Callable[[str, float], None]

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Evaluates the start; a resumed training keeps the curve up to its checkpoint."""
        known = _read_curve(self.folder / CURVE) if state.global_step else []
        self._curve = [point for point in known if point["step"] <= state.global_step]
        if self.steps and not self._curve:
            self._evaluate(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Evaluates the model every few steps."""
        if self.steps and (state.global_step % self.steps == 0 or state.global_step == state.max_steps):
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


def _read_curve(path: Path) -> list[dict[str, float]]:
    try:
        return list(read_json_mapping(path)["points"])
    except (OSError, KeyError, StructuredFileError):
        return []
