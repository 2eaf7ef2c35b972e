"""What the small router is trained on: images, their statistics, and dialogues of the three stages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from carm_env.language.chat import Message
from carm_env.system.extras import optional_imports
from carm_env.system.files import atomic_write, content_hash
from policies.checkpoint import fingerprint
from policies.images import batches
from policies.routing import made_images
from policies.routing.cards import NO_FIT, NOT_MEDICAL, CardRepository
from policies.routing.made_images import HAND, HELD_OUT_PLANE, INVERTED, LATERAL, PLANES, REGIONS, MadeImage
from policies.routing.prompts import card_messages, finding_messages, modality_messages

with optional_imports("llm", "Training the router"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

STYLE = "compact"
FINDINGS = (*REGIONS, INVERTED, LATERAL, HAND, "Normal")
"""Findings that images have been made of."""
_STAGE_SHARES = (0.5, 0.3, 0.2)
_HIDDEN_SHARE = 0.2
"""Share of the dialogues in which the right modality or card is not among the choices."""
_LABELS = ("modality", "finding", "kind", "group")
_STATISTICS_VERSION = 2
"""Increases with every change of the statistics, so that kept ones are computed again."""
_TOWER_BATCH = 96
_BLANK = Image.new("RGB", (8, 8))


@dataclass(frozen=True)
class Dialogue:
    """A request of a stage and its right answer.

    Attributes:
        messages: the request; its image is a placeholder.
        answer: the right answer.
        image: number of the image; None for stage 3.
    """

    messages: list[Message]
    answer: str
    image: int | None


def training_images(
    patients: Sequence[str], raised: Sequence[str], count: int, seed: int, domain: float
) -> list[MadeImage]:
    """Returns the images to train on.

    Args:
        patients: patients of X-rays and CT slices.
        raised: patients with raised arms, of whom the hands are taken.
        count: images of each region of a patient; the other kinds follow from it.
        seed: seed of the images.
        domain: severity of the domain randomisation of the X-ray system.
    """
    planes = [plane for plane in PLANES if plane != HELD_OUT_PLANE]
    found: list[MadeImage] = []
    for name in patients:
        found += made_images.frontal_views(name, count, seed, domain)
        found += made_images.workspace_views(name, 2 * count, seed, domain)
        found += made_images.inverted_views(name, count, seed)
        found += made_images.chest_radiographs(name, 2 * count, seed)
        found += made_images.lateral_views(name, 3 * count, seed)
        found += made_images.ct_slices(name, count, seed, planes)
    for name in raised:
        found += made_images.hands(name, 4 * count, seed)
    found += made_images.drawings(count * max(1, len(patients)), seed, held_out=False)
    return found


def kept_images(
    path: Path, description: Mapping[str, Any], make: Callable[[], list[MadeImage]], tower: Any, processor: Any
) -> tuple[list[MadeImage], Tensor]:
    """Returns images and their statistics; reads them from a file if it holds the same ones.

    Args:
        path: an ``.npz`` file, which is written otherwise.
        description: what the images depend on, as JSON.
        make: makes the images.
        tower: the vision tower, whose statistics depend on its frozen backbone alone.
        processor: processor of the model.
    """
    key = content_hash([_STATISTICS_VERSION, dict(description), fingerprint(tower.backbone.state_dict())])
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) == key:
                labels = zip(*(file[name].tolist() for name in _LABELS), strict=True)
                images = [MadeImage(one, *about) for one, about in zip(file["images"], labels, strict=True)]
                return images, torch.from_numpy(file["statistics"])
    images = make()
    statistics = statistics_of(tower, processor, images)
    arrays: dict[str, Any] = {name: np.array([getattr(image, name) for image in images]) for name in _LABELS}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        pixels = np.stack([image.image for image in images])
        np.savez_compressed(file, key=key, images=pixels, statistics=statistics.numpy(), **arrays)
    return images, statistics


def statistics_of(tower: Any, processor: Any, images: Sequence[MadeImage]) -> Tensor:
    """Returns the statistics ``(n, n_statistics)`` of images, as the tower computes them in use."""
    found = []
    for part in batches(len(images), 32):
        shown = [image.as_rgb for image in images[part]]
        pixels = processor.image_processor(images=shown, return_tensors="pt")["pixel_values"]
        found.append(tower.statistics(pixels))
    return torch.cat(found)


def dialogues(images: Sequence[MadeImage], repository: CardRepository, rng: np.random.Generator) -> Iterator[Dialogue]:
    """Yields dialogues of the three stages without end.

    Images are drawn so that each right answer of a stage is equally frequent. In a part of the dialogues the right
    choice is not offered, so that the model reads the choices.
    """
    by_modality = _by(images, lambda image: image.modality, images)
    of_cards = [image for image in images if image.modality not in (NOT_MEDICAL, NO_FIT)]
    by_finding = _by(images, lambda image: f"{image.modality} {image.finding}", of_cards)
    while True:
        stage = rng.choice(len(_STAGE_SHARES), p=_STAGE_SHARES)
        if stage == 0:
            yield _modality_dialogue(images, _drawn(by_modality, rng), repository, rng)
        elif stage == 1:
            number = _drawn(by_finding, rng)
            yield Dialogue(finding_messages(_BLANK, STYLE), images[number].finding, number)
        else:
            yield card_dialogue(repository, rng)


def _modality_dialogue(
    images: Sequence[MadeImage], number: int, repository: CardRepository, rng: np.random.Generator
) -> Dialogue:
    truth, offered = images[number].modality, list(repository.modalities)
    if truth in offered and len(offered) > 1 and rng.random() < _HIDDEN_SHARE:
        offered.remove(truth)
        truth = NO_FIT
    return Dialogue(modality_messages(_BLANK, offered, STYLE), truth, number)


def card_dialogue(repository: CardRepository, rng: np.random.Generator) -> Dialogue:
    """Returns a dialogue of stage 3 about a drawn modality and finding."""
    modality = str(rng.choice(repository.modalities))
    meant = sorted({finding for card in repository.of_modality(modality) for finding in card.findings})
    finding = str(rng.choice(meant if meant and rng.random() < 0.8 else FINDINGS))
    cards = list(repository.of_modality(modality))
    chosen = repository.card_for(modality, finding)
    rng.shuffle(cards)
    if chosen is not None and len(cards) > 1 and rng.random() < _HIDDEN_SHARE:
        cards.remove(chosen)
        chosen = None
    answer = f"{chosen.id}: for {finding} in a {modality}" if chosen else NOT_MEDICAL
    return Dialogue(card_messages(cards, modality, finding, STYLE), answer, None)


def _by(images: Sequence[MadeImage], key: Any, kept: Sequence[MadeImage]) -> dict[str, dict[str, list[int]]]:
    """Returns the numbers of the kept images by key and kind."""
    chosen = {id(image) for image in kept}
    found: dict[str, dict[str, list[int]]] = {}
    for number, image in enumerate(images):
        if id(image) in chosen:
            found.setdefault(key(image), {}).setdefault(image.kind, []).append(number)
    return found


def _drawn(groups: Mapping[str, Mapping[str, Sequence[int]]], rng: np.random.Generator) -> int:
    kinds = groups[list(groups)[int(rng.integers(len(groups)))]]
    numbers = kinds[list(kinds)[int(rng.integers(len(kinds)))]]
    return numbers[int(rng.integers(len(numbers)))]


def fit_tower(tower: Any, statistics: Tensor, images: Sequence[MadeImage], seed: int, steps: int = 500) -> None:
    """Trains the tower's hidden layer to tell modalities and findings apart, before the language model exists.

    Two linear layers, which are discarded, answer from the hidden layer: seconds, where the language model would need
    many minutes to teach the tower the same.

    Args:
        tower: the tower, whose statistics are standardised.
        statistics: ``(n, n_statistics)`` of the images.
        images: the images.
        seed: seed of the batches.
        steps: steps of training.
    """
    torch.manual_seed(seed)
    of_cards = [image.modality not in (NOT_MEDICAL, NO_FIT) for image in images]
    targets, heads = [], []
    for answers in ([one.modality for one in images], [one.finding for one in images]):
        names = sorted(set(answers))
        targets.append(torch.tensor([names.index(answer) for answer in answers]))
        heads.append(nn.Linear(tower.config.features, len(names)))
    weights = [_balanced(targets[0], None), _balanced(targets[1], torch.tensor(of_cards))]
    trained = [*tower.hidden.parameters(), *(value for head in heads for value in head.parameters())]
    optimizer = torch.optim.AdamW(trained, 1e-3, weight_decay=0.05)
    tower.train()
    for _ in range(steps):
        loss = torch.zeros(())
        for target, head, weight in zip(targets, heads, weights, strict=True):
            rows = torch.multinomial(weight, _TOWER_BATCH, replacement=True)
            answers = head(tower.hidden_of(statistics[rows]))
            loss = loss + functional.cross_entropy(answers, target[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The language model learns what the layer says, and does not change it: it would learn the images by heart.
    tower.hidden.requires_grad_(False)
    tower.eval()


def _balanced(targets: Tensor, kept: Tensor | None) -> Tensor:
    """Returns weights with which the kept images of each answer are drawn equally often."""
    mask = torch.ones(len(targets)) if kept is None else kept.float()
    counts = torch.bincount(targets, mask)
    return mask / counts[targets].clamp_min(1)


class DialogueEncoder:
    """Turns dialogues into tensors.

    Args:
        processor: processor of the model.
        statistics: ``(n, n_statistics)`` of all images, which stand for them.
    """

    def __init__(self, processor: Any, statistics: Tensor) -> None:
        self._processor, self._statistics = processor, statistics
        ids = processor.tokenizer.convert_tokens_to_ids
        self._pad, self._end, self._image = (
            ids(token) for token in ("<pad>", "<end_of_turn>", "<image_soft_token>")
        )  # fmt: skip
        # Many dialogues have the same text.
        self._tokens = functools.cache(self._tokenized)

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return tuple(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt(self, dialogue: Dialogue) -> tuple[int, ...]:
        """Returns the tokens of a request, with the places of the image tokens."""
        text = self._processor.apply_chat_template(dialogue.messages, add_generation_prompt=True, tokenize=False)
        return self._tokens(text.replace(self._processor.boi_token, self._processor.full_image_sequence))

    def batch(self, dialogues: Sequence[Dialogue]) -> dict[str, Tensor]:
        """Returns the tensors of a batch, padded on the left; the loss covers the answers."""
        prompts = [self.prompt(dialogue) for dialogue in dialogues]
        answers = [(*self._tokens(dialogue.answer), self._end) for dialogue in dialogues]
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        shape = (len(dialogues), max(lengths))
        tokens, labels = torch.full(shape, self._pad), torch.full(shape, -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            tokens[row, shape[1] - lengths[row] :] = torch.tensor([*prompt, *answer])
            labels[row, shape[1] - len(answer) :] = torch.tensor(answer)
        images = [dialogue.image for dialogue in dialogues if dialogue.image is not None]
        tensors = {
            "input_ids": tokens,
            "attention_mask": (torch.arange(shape[1]) >= shape[1] - torch.tensor(lengths)[:, None]).long(),
            "token_type_ids": (tokens == self._image).long(),
            "labels": labels,
        }
        return {**tensors, "pixel_values": self._statistics[images]} if images else tensors
