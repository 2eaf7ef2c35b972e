"""Fine-tune a multimodal language model on X-rays: to name landmarks, correct itself and drive the C-arm.

    python training/sft.py
    python training/sft.py --max_steps 20 --test_views 0
    python training/sft.py --tasks closest_three box navigation
    python training/sft.py --config training/configs/sft_gemma3_4b.yaml
    python training/sft.py --config training/configs/sft_gemma3_4b.yaml --model_name_or_path runs/my_model --max_steps 1
    accelerate launch training/sft.py --config training/configs/sft_qwen2_5_vl_7b.yaml
    python training/sft.py --config training/configs/sft_gemma3_12b_real.yaml --data unifesp
    python training/sft.py --config training/configs/sft_medgemma_4b_specialty.yaml --data breastmnist.npz,DeepLesion

The script runs TRL's `SFTTrainer` with its arguments (`SFTConfig`, `ModelConfig`), read from flags or ``--config``; a
configuration can name another one as its ``base``. Without arguments the embedded model is trained on a CPU
(`training/configs/sft_embedded.yaml`); the other files there are the paper's recipes. Before training, one sample of
each task is rendered to check that the loss covers the answer and nothing else. The model is saved in ``OUTPUT_DIR``;
its name as a policy is ``mllm:OUTPUT_DIR``. With ``--data`` a model learns to name the body parts in X-rays of people
instead (the layouts of the UNIFESP data, of MURA and of FleXray), or answers questions about medical images with
classes and boxes (MedMNIST, DeepLesion, PolypSet). All of these are yours to bring.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.label_metrics import is_valid
from carm_env.evaluation.provenance import save_measurement
from carm_env.language.prompts import (
    BODY_PART_PROMPT_VERSIONS,
    IMAGE_PROMPT_VERSIONS,
    PROMPT_VERSIONS,
    STYLES,
    body_part_prompt_hash,
    image_prompt_hash,
    prompt_hash,
)
from carm_env.patients.catalogue import expand_patients
from carm_env.reports.view_questions import ViewQuestions, questions_of_dataset
from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import optional_imports
from carm_env.system.files import write_json, write_text
from carm_env.system.threads import limit_threads
from carm_env.views.read import ViewArrays, read_views
from policies.checkpoint import SHIPPED, fill_network, load_checkpoint
from policies.checkpoint_config import trained_depth_mm
from policies.conformal import KIND as CONFORMAL
from policies.conformal import DisplacementRegressor, ensemble_prediction, member_tensors
from policies.embedded_vlm import build_model, build_tokenizer
from policies.mllm import MllmLocalizer
from policies.model_folders import without_hub
from policies.model_loading import SETTINGS_FILE, ModelError, check_fit
from policies.vision_cache import ImageCache, vision_tower
from policies.vision_tower import LandmarkVisionModel
from training._support.arguments import ViewArguments
from training._support.body_parts import TASK as BODY_PARTS
from training._support.body_parts import BodyPartConversations, BodyPartData, label_figures, load_images
from training._support.card import model_card
from training._support.conversations import TASKS, Conversations, as_iterable_dataset, misjudged
from training._support.image_conversations import (
    ImageConversations,
    asked_image_paths,
    image_figures,
    of_split,
    read_all,
)
from training._support.language_metrics import language_metrics
from training._support.processes import is_main_process, one_training
from training._support.report_conversations import REPORT_TASKS, ReportConversations
from training._support.script import TrainingResult, print_result
from training._support.sharding import is_sharded
from training._support.task_shares import of_kind, task_shares
from training._support.trainer_checkpoints import checkpoint_to_resume, files_at_once
from training._support.transcripts import Examples, MixedExamples, TranscriptExamples
from training._support.trl_arguments import EMBEDDED, read_trl_arguments
from training._support.trl_models import ResumesWholeModel, load_pretrained, new_adapter
from training._support.trl_training import fit, run_trl_script
from training._support.views import check_depth, check_model_depth, load_views, views_folder

# bitsandbytes, which trl imports, would fetch a compiled kernel from the hub for some processors.
with optional_imports("llm", "Fine-tuning"), without_hub():
    from trl import ModelConfig, SFTConfig, SFTTrainer

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "sft_embedded.yaml"
_CORPUS_EXAMPLES = 4000


@dataclass(frozen=True)
class SftArguments(ViewArguments):
    """Data and evaluation of the fine-tuning, besides TRL's own arguments.

    Attributes:
        image_size: side of the views, pixels; the model's processor resizes them
        style: style of the prompts: full, or compact for small models
        tasks: tasks, with shares or in equal shares, such as localize=0.3 navigate=0.7, or box findings grounding; by
            default a mixture of localize, pair, box, correct and navigate
        examples: conversations per epoch; 0 for the number of views
        transcripts: folder of transcripts of episodes to train on as well
        transcript_share: share of examples from transcripts
        question_share: share of the steps that are questions, with prompts of the style full; they are about views that
            the network of --backbone misjudges. The embedded model asks about all views that it misjudges itself
        backbone: checkpoint of training/conformal.py for the embedded model, also for one that was trained with an
            earlier backbone and is trained further; or of a network that tells what other models ask about; by default
            the shipped one, or that of the model which is trained further
        hidden: width of the embedded model
        layers: layers of the embedded model
        test_views: views of the test patients to evaluate each task on after training; 0 for no evaluation
        data: folder of the UNIFESP data (with train.csv), of MURA, or with masks as for FleXray (with dataset.yml), to
            train on the question for body parts instead of on views; or data sets with classes and boxes, separated by
            commas: MedMNIST (.npz), DeepLesion, PolypSet
        split: CSV file with the columns SOPInstanceUID and mode (train or test) that divides these images; by default
            they are divided by patient
        split_seed: seed of their division
        json: file to write the results to
    """

    image_size: int = 256
    style: str = "full"
    tasks: list[str] = field(default_factory=list)
    examples: int = 0
    transcripts: str = ""
    transcript_share: float = 0.3
    question_share: float = 0.02
    backbone: str = ""
    hidden: int = 192
    layers: int = 4
    test_views: int = 512
    data: str = ""
    split: str = ""
    split_seed: int = 0
    json: str = ""

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UnknownNameError("style of prompts", self.style, STYLES)
        for name in ("examples", "test_views", "split_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more.")
        self.view_options("train", 128)
        for name in ("transcript_share", "question_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1.")
        for name in ("dataset", "tasks", "transcripts", "backbone", "domain_randomization"):
            if self.data and getattr(self, name):
                raise ValueError(f"data and {name} are given, expected one of them: {name} is about views.")
        if self.split and not self.data:
            raise ValueError("split is given without data, expected the folder of the images that it divides.")

    def weights(self) -> dict[str, float]:
        """Returns the share of each task; raises as `training._support.task_shares.task_shares`."""
        return task_shares(self.tasks)


def read_arguments(given: Sequence[str]) -> tuple[SftArguments, SFTConfig, ModelConfig]:
    """Reads our arguments and TRL's, see `read_trl_arguments`."""
    return read_trl_arguments(given, SftArguments, SFTConfig, DEFAULT_CONFIG)


def make_examples(
    arguments: SftArguments,
    views: ViewArrays,
    seed: int,
    predicted_mm: NDArray[np.floating] | None = None,
    asked: NDArray[np.bool_] | None = None,
    questions: Sequence[ViewQuestions] = (),
) -> Examples:
    """Returns the examples of the training: conversations about views, mixed with transcripts if these are given.

    Args:
        arguments: data of the fine-tuning.
        views: labelled views.
        seed: seed of the examples.
        predicted_mm: positions in the views as the model's vision tower predicts them, see `Conversations`.
        asked: views and targets to ask about, see `Conversations`.
        questions: what may be asked about the views besides landmarks, for the tasks findings and grounding.

    Raises:
        TranscriptError: the transcripts cannot be used, for instance because the test patients are in them.
    """
    conversations = _about_views(arguments, views, seed, predicted_mm, asked, questions)
    if not arguments.transcripts:
        return conversations
    held_out = read_views(Path(arguments.dataset), "test", lazily=True).names if arguments.dataset else ()
    held_out += expand_patients(arguments.test.split(","))
    transcripts = TranscriptExamples([Path(arguments.transcripts)], arguments.style, seed, held_out)
    print(f"{len(transcripts)} answers from {arguments.transcripts}", flush=True)
    return MixedExamples(conversations, transcripts, arguments.transcript_share)


def _about_views(
    arguments: SftArguments,
    views: ViewArrays,
    seed: int,
    predicted_mm: NDArray[np.floating] | None,
    asked: NDArray[np.bool_] | None,
    questions: Sequence[ViewQuestions],
) -> Examples:
    shares = arguments.weights()
    landmarks, reported = of_kind(shares, TASKS), of_kind(shares, REPORT_TASKS)
    if not landmarks:
        return ReportConversations(views.images, questions, reported, arguments.style, seed)
    conversations = Conversations(
        views, landmarks, arguments.style, seed, predicted_mm=predicted_mm, asked=asked,
        question_share=arguments.question_share,
    )  # fmt: skip
    if not reported:
        return conversations
    others = ReportConversations(views.images, questions, reported, arguments.style, seed)
    return MixedExamples(conversations, others, sum(reported.values()) / sum(shares.values()))


def backbone_predictions(arguments: SftArguments, views: ViewArrays) -> NDArray[np.float64]:
    """Returns the positions ``(n, 14, 2)`` in views as the backbone of the embedded model predicts them, mm."""
    regressor = DisplacementRegressor(_backbone(arguments))
    return ensemble_prediction(regressor.networks[:1], views.images, regressor.image_size).mean_mm


def replace_backbone(tower: LandmarkVisionModel, arguments: SftArguments) -> None:
    """Gives the vision tower of a trained embedded model the backbone of another checkpoint, where one is named.

    Raises:
        CheckpointError: the checkpoint is of another architecture.
        ValueError: it knows another depth of the isocentre.
    """
    if not arguments.backbone:
        return
    config, tensors = load_checkpoint(arguments.backbone, CONFORMAL, ("architecture",))
    check_depth(arguments, trained_depth_mm(config), f"the weights of the backbone {arguments.backbone}")
    fill_network(tower.backbone, member_tensors(tensors, 0), arguments.backbone)


def views_to_ask_about(arguments: SftArguments, views: ViewArrays) -> NDArray[np.bool_] | None:
    """Returns the views and targets ``(n, 14)`` that the backbone misjudges; None if there shall be no questions."""
    if arguments.style != "full" or not arguments.question_share:
        return None
    regressor = DisplacementRegressor(_backbone(arguments), members=1)
    if regressor.isocenter_depth_mm != arguments.isocenter_depth_mm:
        print(
            f"no questions are trained: isocenter_depth_mm is {arguments.isocenter_depth_mm:g}, but the network that "
            f"tells what to ask about knows {regressor.isocenter_depth_mm:g}. Name another one with --backbone.",
            flush=True,
        )
        return None
    prediction = ensemble_prediction(regressor.networks, views.images, regressor.image_size)
    return misjudged(prediction.mean_mm, views.displacement_mm)


def _backbone(arguments: SftArguments) -> Path:
    return Path(arguments.backbone) if arguments.backbone else SHIPPED / CONFORMAL


def build_embedded(source: Examples, arguments: SftArguments, seed: int) -> tuple[Any, Any]:
    """Builds the embedded model and its processor, with a trained backbone and a tokenizer of the conversations."""
    origin = _backbone(arguments)
    config, tensors = load_checkpoint(origin, CONFORMAL, ("architecture",))
    corpus = (
        part["text"]
        for example in source.stream(0, _CORPUS_EXAMPLES)
        for message in (*example["prompt"], *example["completion"])
        for part in message["content"]
        if part["type"] == "text"
    )
    tokenizer = build_tokenizer(corpus)
    backbone = member_tensors(tensors, 0)
    depth = trained_depth_mm(config)
    check_depth(arguments, depth, f"the weights of the backbone {origin}")
    return build_model(tokenizer, backbone, config["architecture"], arguments.hidden, arguments.layers, seed, depth)


def check_loss_mask(collate: Any, processor: Any, source: Examples) -> None:
    """Renders one sample of each task as the trainer does.

    Raises:
        ModelError: the loss would cover more or less than the answer.
    """
    seen: set[str] = set()
    for example in source.stream(0, 200):
        if example["task"] in seen:
            continue
        seen.add(example["task"])
        answer = example["completion"][0]["content"][0]["text"]
        labels = collate([{key: example[key] for key in ("prompt", "completion", "images")}])["labels"][0]
        learnt = processor.tokenizer.decode(labels[labels != -100], skip_special_tokens=True).strip()
        if learnt != answer.strip():
            raise ModelError(
                f"the chat template of this model does not fit: for {example['task']!r} the loss covers "
                f"{learnt[:200]!r}, expected {answer[:200]!r} and nothing else."
            )


class ResumableTrainer(ResumesWholeModel, SFTTrainer):
    """A trainer that resumes a whole model."""


def train(
    arguments: SftArguments, training: SFTConfig, model_arguments: ModelConfig, words: Sequence[str] = ()
) -> TrainingResult:
    """Fine-tunes and saves the model, and evaluates it on the test patients.

    Args:
        arguments: data and evaluation.
        training: TRL's arguments of the training.
        model_arguments: TRL's arguments of the model.
        words: words of the command line, for the model card.
    """
    with one_training(Path(training.output_dir), "--output_dir"):
        return _train(arguments, training, model_arguments, words)


@dataclass(frozen=True)
class _Prepared:
    """A model and what it is trained and evaluated on.

    Attributes:
        model: the model.
        processor: its processor.
        source: the conversations.
        count: number of views or images that they are about.
        evaluate: returns the metrics of the saved model on what was not trained on, and the number of its answers.
        settings: what the folder of the model states.
        card: title, description and data of the model card.
    """

    model: Any
    processor: Any
    source: Examples
    count: int
    evaluate: Callable[[], tuple[dict[str, float], int]]
    settings: Mapping[str, Any]
    card: Mapping[str, str]


def _prepare_views(
    arguments: SftArguments, training: SFTConfig, model_arguments: ModelConfig, max_views: int | None
) -> _Prepared:
    folder, name = Path(training.output_dir), model_arguments.model_name_or_path
    views = load_views(arguments, "train", folder, arguments.image_size, max_views)
    questions: Sequence[ViewQuestions] = ()
    if of_kind(arguments.weights(), REPORT_TASKS):
        questions = questions_of_dataset(views_folder(arguments, "train", folder), "train", training.seed, len(views))
    if name == EMBEDDED:
        predicted = backbone_predictions(arguments, views)
        source = make_examples(arguments, views, training.seed, predicted, questions=questions)
        model, processor = build_embedded(source, arguments, training.seed)
    else:
        model, processor = load_pretrained(model_arguments)
        check_model_depth(arguments, model, name)
        tower = vision_tower(model)
        if isinstance(tower, LandmarkVisionModel):
            replace_backbone(tower, arguments)
            predicted = ensemble_prediction([tower.backbone], views.images, tower.config.image_size).mean_mm
            source = make_examples(arguments, views, training.seed, predicted, questions=questions)
        else:
            asked = views_to_ask_about(arguments, views)
            source = make_examples(arguments, views, training.seed, asked=asked, questions=questions)

    def evaluate() -> tuple[dict[str, float], int]:
        test_views = load_views(arguments, "test", folder, arguments.image_size, max_views)
        figures = language_metrics(MllmLocalizer(folder), test_views, arguments.test_views)
        return figures, 3 * min(arguments.test_views, len(test_views))

    style = arguments.style
    settings = {"style": style, "prompt_version": PROMPT_VERSIONS[style], "prompts": prompt_hash(style),
                "tasks": arguments.weights()}  # fmt: skip
    if questions:
        settings |= {"image_prompt_version": IMAGE_PROMPT_VERSIONS[style], "image_prompts": image_prompt_hash(style)}
    card = {
        "title": "Language model for C-arm navigation",
        "description": "Answers which landmarks are near the middle of a frontal X-ray and where to drive the C-arm.",
    }
    return _Prepared(model, processor, source, len(views), evaluate, settings, card)


def _prepare_body_parts(
    arguments: SftArguments, training: SFTConfig, model_arguments: ModelConfig, max_images: int | None
) -> _Prepared:
    style, size = arguments.style, arguments.image_size
    if model_arguments.model_name_or_path == EMBEDDED:
        _model_for_people(model_arguments)
    data = BodyPartData.load(arguments.data, arguments.split, arguments.split_seed, quiet=not is_main_process())
    model, processor = _model_for_people(model_arguments)
    # Nothing is stopped early or calibrated.
    chosen = data.train_images(max_images, calibration=True)
    images = load_images(chosen, size, arguments.workers)
    source = BodyPartConversations(images, [image.labels for image in chosen], style, training.seed)

    def evaluate() -> tuple[dict[str, float], int]:
        test = data.split.test[: arguments.test_views]
        answers = MllmLocalizer(Path(training.output_dir)).body_parts(load_images(test, size, arguments.workers))
        return {**label_figures(answers, test), "invalid_rate": float((~is_valid(answers)).mean())}, len(test)

    settings = {
        "style": style, "prompt_version": BODY_PART_PROMPT_VERSIONS[style], "prompts": body_part_prompt_hash(style),
        "tasks": {BODY_PARTS: 1.0}, **data.described(),
    }  # fmt: skip
    card = {
        "title": "Language model for body parts in X-rays",
        "description": "Answers which of 22 body parts an X-ray shows.",
        **data.card(len(chosen)),
    }
    return _Prepared(model, processor, source, len(chosen), evaluate, settings, card)


def _prepare_asked_images(
    arguments: SftArguments, training: SFTConfig, model_arguments: ModelConfig, max_images: int | None
) -> _Prepared:
    style = arguments.style
    images = read_all(asked_image_paths(arguments.data))
    chosen, test = of_split(images, "train"), of_split(images, "test")
    model, processor = _model_for_people(model_arguments)
    # Short runs see all tasks.
    order = np.random.default_rng(0).permutation(len(chosen))[:max_images]
    source = ImageConversations([chosen[number] for number in order], style, training.seed)
    tasks = sorted({image.task for image in images})

    def evaluate() -> tuple[dict[str, float], int]:
        asked = np.random.default_rng(0).permutation(len(test))[: arguments.test_views]
        model = MllmLocalizer(Path(training.output_dir)).model
        return image_figures(model, [test[number] for number in asked]), len(asked)

    settings = {
        "style": style, "prompt_version": IMAGE_PROMPT_VERSIONS[style], "prompts": image_prompt_hash(style),
        "tasks": dict.fromkeys(tasks, 1.0), "data": "images",
    }  # fmt: skip
    card = {
        "title": "Language model for medical images",
        "description": f"Answers questions about images: {', '.join(tasks)}.",
        "data": f"{len(chosen)} images with questions, which the user brought",
        "weights_license": "other",
        "task": "image-text-to-text",
    }
    return _Prepared(model, processor, source, len(order), evaluate, settings, card)


def _model_for_people(model_arguments: ModelConfig) -> tuple[Any, Any]:
    """Loads a model for images of people; raises ValueError for the embedded model."""
    name = model_arguments.model_name_or_path
    if name != EMBEDDED:
        model, processor = load_pretrained(model_arguments)
        if not isinstance(vision_tower(model), LandmarkVisionModel):
            return model, processor
    raise ValueError(
        f"{name}: the embedded model knows the views of the C-arm only. Give another --model_name_or_path."
    )


def _prepare(
    arguments: SftArguments, training: SFTConfig, model_arguments: ModelConfig, max_images: int | None
) -> _Prepared:
    if asked_image_paths(arguments.data):
        return _prepare_asked_images(arguments, training, model_arguments, max_images)
    prepare = _prepare_body_parts if arguments.data else _prepare_views
    return prepare(arguments, training, model_arguments, max_images)


def _train(
    arguments: SftArguments, training: SFTConfig, model_arguments: ModelConfig, words: Sequence[str]
) -> TrainingResult:
    folder, name = Path(training.output_dir), model_arguments.model_name_or_path
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, folder, is_main_process())
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    max_views = training.max_steps * per_step if training.max_steps > 0 else None
    prepared = _prepare(arguments, training, model_arguments, max_views)
    model, processor = prepared.model, prepared.processor
    check_fit(model, processor, name)
    tower = vision_tower(model)
    if isinstance(tower, LandmarkVisionModel):
        tower.backbone.by_landmark = ImageCache(tower.backbone.by_landmark)
        if training.use_cpu:
            # The matrices are small: several threads would wait for each other more than they work.
            limit_threads(1)
    if max_views is None:
        training.max_steps = math.ceil((arguments.examples or prepared.count) * training.num_train_epochs / per_step)
    total = training.max_steps * per_step
    trainer = ResumableTrainer(
        model=model,
        args=training,
        train_dataset=as_iterable_dataset(prepared.source, total),
        processing_class=processor,
        peft_config=new_adapter(model, model_arguments),
    )
    check_loss_mask(trainer.data_collator, processor, prepared.source)
    count = sum(value.numel() for value in model.parameters())
    print(f"{name}: {count / 1e6:.1f} M parameters, {total} conversations over {prepared.count} images", flush=True)
    started = time.perf_counter()
    figures = {"train_loss": loss} if (loss := fit(trainer, checkpoint)) is not None else {}
    minutes = (time.perf_counter() - started) / 60
    figures |= {"samples_per_s": total / (60 * minutes), "minutes": minutes}
    save_model(trainer, processor, folder, prepared.settings)
    if not trainer.accelerator.is_main_process:
        return TrainingResult(training=figures)
    test: dict[str, float] = {}
    if arguments.test_views:
        started = time.perf_counter()
        test, answers = prepared.evaluate()
        figures["ms_per_answer"] = 1e3 * (time.perf_counter() - started) / answers
    config = {"kind": "mllm", "base": name, "style": arguments.style, "views": prepared.count, "conversations": total,
              "seed": training.seed, **({} if loss is None else {"train_loss": round(loss, 4)})}  # fmt: skip
    card = model_card(
        script="training/sft.py", words=words, config=config, figures=test, minutes=minutes, **prepared.card
    )
    write_text(folder / "README.md", card)
    about = {
        key: prepared.settings[key] for key in ("style", "prompts", "data", "test_split") if key in prepared.settings
    }
    return TrainingResult(test, figures, about)


def save_model(trainer: SFTTrainer, processor: Any, folder: Path, settings: Mapping[str, Any]) -> None:
    """Saves the model or its adapter, the processor and the settings; all processes call it, and one writes."""
    if not trainer.accelerator.is_main_process:
        # Takes part in gathering the weights, and writes nothing.
        trainer.save_model(str(folder))
        return
    with files_at_once(folder) as temporary:
        if isinstance(vision_tower(trainer.model), LandmarkVisionModel) and not is_sharded():
            # Float16, as in the other shipped checkpoints.
            trainer.accelerator.unwrap_model(trainer.model).half().save_pretrained(temporary)
        else:
            trainer.save_model(str(temporary))
            # A pickle of the arguments that nothing needs.
            (temporary / "training_args.bin").unlink(missing_ok=True)
        processor.save_pretrained(temporary)
        write_json(temporary / SETTINGS_FILE, settings)


def run(words: Sequence[str]) -> None:
    """Trains with the arguments of a command line, and prints and writes the results."""
    arguments, training, model = read_arguments(words)
    result = train(arguments, training, model, words)
    print_result(result)
    if arguments.json:
        save_measurement(Path(arguments.json), {**result.about, **result.training, **result.test}, training.seed)
    print(f"\npolicy: mllm:{training.output_dir}")


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_trl_script(run, given)


if __name__ == "__main__":
    sys.exit(main())
