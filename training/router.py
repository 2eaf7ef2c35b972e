"""Train the router's small vision-language model on images that are made here.

    python training/router.py
    python training/router.py --train standard/train --images 16 --steps 3000

The model answers the three stages of `policies/routing` about the cards of ``--cards``: the modality of an image, its
finding or region, and the card that is meant for both. It learns from X-rays and CT slices of the patients of
``--train``, and from noise and drawings; photographs, sagittal slices and some kinds of drawings are kept for the test.
The statistics of the frozen vision tower are computed once. Train it again whenever the cards change. Cutoffs come from
`training/cutoffs.py`; `benchmarks/router.py` measures the whole router.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from carm_env.chat_models.specification import ModelSpecification
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.patients.separation import check_separate, check_trainable
from carm_env.system.extras import optional_imports
from carm_env.system.files import atomic_folder, write_json, write_text
from policies.local_model import LocalModel
from policies.model_loading import SETTINGS_FILE
from policies.routing.cards import CARDS, CardRepository, read_repository
from policies.routing.cutoffs import Cutoffs
from policies.routing.embedded import build_router_model, build_router_tokenizer, standardise
from policies.routing.evaluation import accuracy, final_samples, stage_samples
from policies.routing.local_top_two import LocalTopTwo
from policies.routing.made_images import MadeImage, sample_images
from policies.routing.router import Router
from policies.routing.selection import STAGES
from training._support.card import model_card
from training._support.router_dialogues import (
    STYLE,
    Dialogue,
    DialogueEncoder,
    card_dialogue,
    dialogues,
    fit_tower,
    kept_images,
    training_images,
)
from training._support.script import TrainingResult, run_training

with optional_imports("llm", "Training the router"):
    import torch
    from transformers import get_cosine_schedule_with_warmup

_CORPUS_DIALOGUES, _REPEATS = 600, 3
_WARM_UP = 0.05


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        cards: folder of the model cards
        train: patients whose X-rays and CT slices are learnt, separated by commas; at most max_patients of them
        test: patients of the test, never trained on
        raised: patients with raised arms, of whom the hands are learnt
        test_raised: the same for the test
        max_patients: patients that are taken of train and of test, at most
        images: images of each region of a patient; the numbers of the other kinds follow from it
        test_images: the same for the test; 0 for no test
        domain: severity of the domain randomisation of half of the X-rays, 0 to 1
        steps: steps of training
        batch_size: dialogues of a step
        learning_rate: highest learning rate
        weight_decay: weight decay
        hidden: width of the language model, a multiple of 32
        layers: layers of the language model
        seed: seed of images, weights and dialogues
        output_dir: folder of the checkpoint
        json: file to write the results to
    """

    cards: str = str(CARDS)
    train: str = "standard/train"
    test: str = "standard/test"
    raised: str = "virtual:0?arms=raised,virtual:1?arms=raised"
    test_raised: str = "virtual:2?arms=raised"
    max_patients: int = 16
    images: int = 10
    test_images: int = 3
    domain: float = 0.7
    steps: int = 700
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    hidden: int = 64
    layers: int = 2
    seed: int = 0
    output_dir: str = "runs/router"
    json: str = ""

    def check(self) -> None:
        """Raises ValueError for a wrong value, a test patient that is learnt, and a person of training and test."""
        for name in ("max_patients", "images", "steps", "batch_size", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1.")
        if self.hidden < 32 or self.hidden % 32:
            raise ValueError(f"hidden is {self.hidden}, expected a multiple of 32.")
        learnt, tested = (
            [*self.patients(name), *self.patients(raised)]
            for name, raised in (("train", "raised"), ("test", "test_raised"))
        )
        check_trainable(learnt, "--train or --raised")
        check_separate({"train": learnt, "test": tested}, ("train",))

    def patients(self, split: str) -> list[str]:
        """Returns the names of the patients of ``train``, ``test``, ``raised`` or ``test_raised``."""
        given = [name for name in getattr(self, split).split(",") if name]
        return list(expand_patients(given))[: self.max_patients] if given else []


def fit(
    model: Any,
    encoder: DialogueEncoder,
    images: Sequence[MadeImage],
    repository: CardRepository,
    arguments: Arguments,
) -> float:
    """Trains the model; returns the mean loss of the last tenth of the steps."""
    rng = np.random.default_rng(arguments.seed)
    drawn = dialogues(images, repository, rng)
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, arguments.learning_rate, weight_decay=arguments.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(_WARM_UP * arguments.steps), arguments.steps)
    losses = []
    model.train()
    for _ in tqdm(range(arguments.steps), unit="step"):
        batch = encoder.batch([next(drawn) for _ in range(arguments.batch_size)])
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.eval()
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def corpus(images: Sequence[MadeImage], repository: CardRepository, seed: int) -> list[str]:
    """Returns texts like those of the dialogues, for the tokenizer."""
    rng = np.random.default_rng(seed)
    drawn = dialogues(images, repository, rng)
    samples = [next(drawn) for _ in range(_CORPUS_DIALOGUES)] + [card_dialogue(repository, rng) for _ in range(200)]
    return [text for sample in samples for text in (*_texts(sample), sample.answer)] * _REPEATS


def _texts(sample: Dialogue) -> list[str]:
    return [part["text"] for message in sample.messages for part in message["content"] if part["type"] == "text"]


def figures_of(router: Router, images: Sequence[MadeImage]) -> dict[str, float]:
    """Returns the accuracy of each stage and of the final card, without cutoffs."""
    samples = list(stage_samples(router, images))
    final = list(final_samples(router, images))
    others = [one for one in final if not one.image.is_medical]
    return {
        **{f"{stage}_accuracy": accuracy(samples, stage, Cutoffs()) for stage in STAGES},
        "final_accuracy": float(np.mean([one.is_right for one in final])),
        "non_medical_rejected": float(np.mean([one.is_right for one in others])),
    }


def train(arguments: Arguments, words: Sequence[str]) -> TrainingResult:
    """Trains, writes the checkpoint and evaluates it."""
    started = time.monotonic()
    repository = read_repository(Path(arguments.cards))
    splits = {name: arguments.patients(name) for name in ("train", "raised", "test", "test_raised")}
    wanted = [name for names in splits.values() for name in names]
    prepare_patients(wanted if arguments.test_images else [*splits["train"], *splits["raised"]], default_workers())
    folder = Path(arguments.output_dir)
    about = {name: splits[name] for name in ("train", "raised")}
    about |= {name: getattr(arguments, name) for name in ("images", "seed", "domain")}

    def make() -> list[MadeImage]:
        return training_images(about["train"], about["raised"], arguments.images, arguments.seed, arguments.domain)

    # The statistics do not depend on the tokenizer, which is trained on dialogues about the images.
    model, processor = build_router_model(build_router_tokenizer(["modality"]), arguments.hidden, arguments.layers)
    images, statistics = kept_images(folder / "images.npz", about, make, model.model.vision_tower, processor)
    print(f"{len(images)} images, {len(repository.cards)} cards", flush=True)
    tokenizer = build_router_tokenizer(corpus(images, repository, arguments.seed))
    model, processor = build_router_model(tokenizer, arguments.hidden, arguments.layers, arguments.seed)
    standardise(model, statistics)
    fit_tower(model.model.vision_tower, statistics, images, arguments.seed)
    loss = fit(model, DialogueEncoder(processor, statistics), images, repository, arguments)
    test: dict[str, float] = {}
    if arguments.test_images:
        specification = replace(ModelSpecification(), name="router")
        asked = LocalTopTwo(LocalModel.of_loaded(model, processor, specification, STYLE))
        held_out = sample_images(
            splits["test"], splits["test_raised"], arguments.test_images, arguments.seed + 1, held_out=True
        )
        test = figures_of(Router(asked, repository), held_out)
    minutes = (time.monotonic() - started) / 60
    _save(folder / "checkpoint", model, processor, repository, test, arguments, words, minutes)
    return TrainingResult(test, {"loss": loss, "minutes": minutes}, {"repository": repository.fingerprint})


def _save(
    folder: Path, model: Any, processor: Any, repository: CardRepository, test: dict[str, float], arguments: Arguments,
    words: Sequence[str], minutes: float,
) -> None:  # fmt: skip
    settings = {"style": STYLE, "repository": repository.fingerprint, "steps": arguments.steps, "seed": arguments.seed}
    card = model_card(
        "Router",
        "A small vision-language model that finds the model card for an image: modality, finding, card.",
        "training/router.py", words, settings, test, minutes, task="image-routing",
        data="X-rays and CT slices of virtual patients of carm-env, all made from one skeleton model, and drawings; no "
        "images of people",
        limits="It knows the cards and the kinds of images that it was trained on, and no others: scans of people were "
        "not shown to it. What its modalities look like outside of this simulation is unknown to it.",
    )  # fmt: skip
    with atomic_folder(folder) as temporary:
        model.half().save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_json(temporary / SETTINGS_FILE, settings)
        write_text(temporary / "README.md", card)
    model.float()


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_training(train, Arguments, __doc__, "", given)


if __name__ == "__main__":
    sys.exit(main())
