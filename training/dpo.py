"""Let a fine-tuned language model learn from corrections, by direct preference optimisation.

    python training/dpo.py
    python training/dpo.py --max_steps 2 --corrections 16 --test_views 0
    python training/dpo.py --transcripts runs/transcripts --corrections 0
    python training/dpo.py --config training/configs/dpo_gemma3_4b.yaml --model_name_or_path runs/sft

The script runs TRL's `DPOTrainer` with its arguments (`DPOConfig`, `ModelConfig`), read from flags or ``--config``.
The model is asked about views of training patients; where it is wrong, a simulated clinician corrects it. Transcripts
of episodes with a clinician give further pairs (`training/_support/preferences.py`). Without arguments the embedded
model is trained on a CPU, from the weights that ship (`training/configs/dpo_embedded.yaml`). At the end the model is
compared with its start on the same views of the test patients. It is saved in ``OUTPUT_DIR``; its name as a policy is
``mllm:OUTPUT_DIR``.

Source of the method: Rafailov et al., "Direct Preference Optimization", NeurIPS 2023.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.chat_models.specification import ModelSpecification
from carm_env.evaluation.provenance import save_measurement
from carm_env.language.prompts import STYLES
from carm_env.patients.catalogue import expand_patients
from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import optional_imports
from carm_env.system.files import write_text
from carm_env.system.threads import limit_threads
from carm_env.views.read import read_views
from policies.local_model import LocalModel
from policies.mllm import KIND, MllmLocalizer
from policies.model_folders import without_hub
from policies.vision_cache import TOWERS
from training._support.arguments import ViewArguments
from training._support.card import model_card
from training._support.language_metrics import language_metrics
from training._support.preferences import KINDS, simulated_corrections, transcript_corrections
from training._support.processes import is_main_process, one_training
from training._support.script import TrainingResult, print_result
from training._support.start_models import SMALL_PARAMETERS, Start, load_start, resolve_shipped, save_model
from training._support.trainer_checkpoints import checkpoint_to_resume
from training._support.trl_arguments import read_trl_arguments
from training._support.trl_models import ResumesWholeModel, new_adapter
from training._support.trl_training import fit, run_trl_script
from training._support.views import check_model_depth, load_views

with optional_imports("llm", "Learning from corrections"), without_hub():
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, ModelConfig

_COLUMNS = ("prompt", "chosen", "rejected", "images")
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "dpo_embedded.yaml"


@dataclass(frozen=True)
class DpoArguments(ViewArguments):
    """Corrections and evaluation, besides TRL's own arguments.

    Attributes:
        image_size: side of the views, pixels; the model's processor resizes them
        style: style of the prompts; by default the one that the start was fine-tuned with, or full
        corrections: simulated corrections to collect; 0 to learn from transcripts alone
        kinds: what the model is asked for the simulated corrections, separated by commas: pair, navigate
        kept_share: pairs from right answers for each simulated correction, so that these stay right
        transcripts: folder of transcripts of episodes with a clinician
        freeze_vision: do not train the vision tower
        test_views: views of the test patients to evaluate each task on, before and after; 0 for no evaluation
        json: file to write the results to
    """

    image_size: int = 256
    style: str = ""
    corrections: int = 2000
    kinds: str = ",".join(KINDS)
    kept_share: float = 0.0
    transcripts: str = ""
    freeze_vision: bool = True
    test_views: int = 512
    json: str = ""

    def __post_init__(self) -> None:
        if self.style and self.style not in STYLES:
            raise UnknownNameError("style of prompts", self.style, STYLES)
        for name in ("corrections", "test_views"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more.")
        if not self.kept_share >= 0:
            raise ValueError(f"kept_share is {self.kept_share}, expected 0 or more.")
        for kind in self.asked:
            if kind not in KINDS:
                raise UnknownNameError("kind of correction", kind, KINDS)
        if not self.corrections and not self.transcripts:
            raise ValueError("corrections is 0 and there are no --transcripts: expected at least one of both.")
        self.view_options("train", 128)

    @property
    def asked(self) -> tuple[str, ...]:
        """The kinds of simulated corrections."""
        return tuple(kind.strip() for kind in self.kinds.split(","))


class ResumableTrainer(ResumesWholeModel, DPOTrainer):
    """A trainer that resumes a whole model."""


def collect(arguments: DpoArguments, start: Start, folder: Path, seed: int, most: int | None) -> list[dict[str, Any]]:
    """Returns the preference pairs.

    Args:
        arguments: what to collect.
        start: the model that is corrected.
        folder: output folder, for the views.
        seed: draws the views.
        most: most pairs that the training uses; None for no limit.

    Raises:
        ValueError: there are none.
    """
    held_out = read_views(Path(arguments.dataset), "test", lazily=True).names if arguments.dataset else ()
    held_out += expand_patients(arguments.test.split(","))
    pairs: list[dict[str, Any]] = []
    if arguments.transcripts:
        pairs = transcript_corrections([Path(arguments.transcripts)], start.style, held_out)
        print(f"{len(pairs)} corrections from {arguments.transcripts}", flush=True)
    if arguments.corrections:
        count = min(arguments.corrections, most or arguments.corrections)
        views = load_views(arguments, "train", folder, arguments.image_size, None if most is None else 8 * count)
        asked = LocalModel.of_loaded(start.model, start.processor, ModelSpecification(), start.style)
        corrected, kept, answers = simulated_corrections(
            asked, views, count, arguments.asked, seed, arguments.kept_share
        )
        print(f"{len(corrected)} of {answers} answers were wrong and are corrected, {len(kept)} right ones are kept",
              flush=True)  # fmt: skip
        pairs += corrected + kept
    if not pairs:
        raise ValueError("there is no correction to learn from: take more views, or other transcripts.")
    return pairs


def train(
    arguments: DpoArguments, training: DPOConfig, model_arguments: ModelConfig, words: Sequence[str] = ()
) -> TrainingResult:
    """Trains and saves the model, and compares it with its start on the test patients.

    Args:
        arguments: corrections and evaluation.
        training: TRL's arguments of the training.
        model_arguments: TRL's arguments of the model.
        words: words of the command line, for the model card.
    """
    with one_training(Path(training.output_dir), "--output_dir"):
        return _train(arguments, training, model_arguments, words)


def _train(
    arguments: DpoArguments, training: DPOConfig, model_arguments: ModelConfig, words: Sequence[str]
) -> TrainingResult:
    folder = Path(training.output_dir)
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, folder, is_main_process())
    start = load_start(model_arguments, arguments.style, arguments.freeze_vision)
    check_model_depth(arguments, start.model, start.name)
    if training.use_cpu and start.parameters < SMALL_PARAMETERS:
        # The matrices are small: several threads would wait for each other more than they work.
        limit_threads(1)
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    most = training.max_steps * per_step if training.max_steps > 0 else None
    pairs = collect(arguments, start, folder, training.seed, most)
    has_adapter = hasattr(start.model, "peft_config")
    adapter = (
        None if has_adapter else new_adapter(start.model, model_arguments, TOWERS if arguments.freeze_vision else ())
    )
    # TRL would read the files of a whole model anew, without the names that `load_model` knows.
    reference = None if has_adapter or adapter is not None else copy.deepcopy(start.model)
    trainer = ResumableTrainer(
        model=start.model,
        ref_model=reference,
        args=training,
        train_dataset=Dataset.from_list([{name: pair[name] for name in _COLUMNS} for pair in pairs]),
        processing_class=start.processor,
        peft_config=adapter,
    )
    corrections = sum(pair["is_correction"] for pair in pairs)
    print(f"{start.name}: {start.parameters / 1e6:.1f} M parameters, {len(pairs)} pairs", flush=True)
    started = time.perf_counter()
    figures = {"train_loss": loss} if (loss := fit(trainer, checkpoint)) is not None else {}
    minutes = (time.perf_counter() - started) / 60
    figures |= {"minutes": minutes, "corrections": float(corrections), "pairs": float(len(pairs))}
    save_model(trainer, start, folder, "dpo")
    if not trainer.accelerator.is_main_process:
        return TrainingResult(training=figures)
    test = compare(arguments, start, folder) if arguments.test_views else {}
    config = {"kind": KIND, "start": Path(start.name).name, "style": start.style, "corrections": corrections,
              "pairs": len(pairs), "beta": training.beta, "learning_rate": training.learning_rate,
              "seed": training.seed}  # fmt: skip
    description = "Drives the C-arm to a landmark and names landmarks; it has learnt from corrections of its answers."
    title = "Language model for C-arm navigation, after corrections"
    write_text(folder / "README.md", model_card(title, description, "training/dpo.py", words, config, test, minutes))
    return TrainingResult(test, figures)


def compare(arguments: DpoArguments, start: Start, folder: Path) -> dict[str, float]:
    """Returns the metrics of the trained model, those of its start with the suffix ``_before``, and no others."""
    views = load_views(arguments, "test", folder, arguments.image_size)
    before, after = (
        language_metrics(MllmLocalizer(name), views, arguments.test_views) for name in (start.name, str(folder))
    )
    return {**after, **{f"{name}_before": value for name, value in before.items()}}


def run(words: Sequence[str]) -> None:
    """Trains with the arguments of a command line, and prints and writes the results."""
    arguments, training, model = read_trl_arguments(words, DpoArguments, DPOConfig, DEFAULT_CONFIG)
    resolve_shipped(model)
    result = train(arguments, training, model, words)
    if not is_main_process():
        return
    print_result(result)
    if arguments.json:
        save_measurement(Path(arguments.json), {**result.training, **result.test}, training.seed)
    print(f"\npolicy: mllm:{training.output_dir}")


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_trl_script(run, given)


if __name__ == "__main__":
    sys.exit(main())
