"""Two classifiers that tell two kinds of images apart, and their accuracy on people that they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks._support.roc import area_under_curve

Rows = NDArray[np.intp]
Classifier = Callable[[Rows, NDArray[np.bool_], Rows], NDArray[np.float64]]
"""Trains on rows ``(n,)`` with labels ``(n,)`` and returns the scores of other rows; positive means true."""
_PENALTY, _ITERATIONS = 1e-2, 60
_CHANNELS = (12, 24, 48, 48)
_CROP = 0.75
"""Side of the random crops that the CNN is trained on, as a share of the image's side."""
_BATCH = 32
_LEARNING_RATE = 3e-3


@dataclass(frozen=True, eq=False)
class Group:
    """Images of one person on the voxels, and at the positions, of one CT.

    Attributes:
        person: name of the person.
        ct: name of the CT.
        rows: ``(n,)`` numbers of the images.
    """

    person: str
    ct: str
    rows: Rows


@dataclass(frozen=True)
class Score:
    """How well a person of the first kind, who was left out of the training, is told from people of the second kind.

    Attributes:
        person: the person.
        balanced_accuracy: mean of the shares of the images of each kind that are recognised.
        auc: area under the ROC curve.
        images: number of different images that were tested.
    """

    person: str
    balanced_accuracy: float
    auc: float
    images: int


def leave_one_out(
    first: Sequence[Group], second: Sequence[Group], classify: Classifier, *, matched: bool = True
) -> list[Score]:
    """Tells two kinds of people apart. No person is trained on and tested.

    Each person of the first kind is left out in turn, together with one half of the people of the second kind whose
    images can be compared, then with the other half.

    Args:
        first: groups of the first kind.
        second: groups of the second kind.
        classify: the classifier.
        matched: use the images of the second kind only on the voxels of the same CTs as those of the first kind, in
            the training and in the test.

    Returns:
        The score of each person of the first kind, the mean over both halves.

    Raises:
        ValueError: fewer than two people of a kind that can be compared, or a person of both kinds.
    """
    people, others = (list(dict.fromkeys(group.person for group in kind)) for kind in (first, second))
    if len(people) < 2 or set(people) & set(others):
        raise ValueError(
            f"the people are {', '.join(people)} and {', '.join(others)}, expected two or more of each kind, and "
            "nobody in both."
        )
    scores = []
    for person in people:
        tested = [group for group in first if group.person == person]
        trained = [group for group in first if group.person != person]
        comparable = list(dict.fromkeys(group.person for group in _like(second, tested, matched)))
        if len(comparable) < 2:
            raise ValueError(f"{person} is compared with {len(comparable)} people, expected two or more: name more.")
        positive, own = _rows(trained), _rows(tested)
        accuracies, areas, images = [], [], len(own)
        for half in (comparable[::2], comparable[1::2]):
            negative = _rows([group for group in _like(second, trained, matched) if group.person not in half])
            other = _rows([group for group in _like(second, tested, matched) if group.person in half])
            labels = np.arange(len(positive) + len(negative)) < len(positive)
            scored = classify(np.concatenate([positive, negative]), labels, np.concatenate([own, other]))
            of_own, of_other = np.split(scored, [len(own)])
            accuracies.append(((of_own > 0).mean() + (of_other <= 0).mean()) / 2)
            areas.append(area_under_curve(of_other, of_own))
            images += len(other)
        scores.append(Score(person, float(np.mean(accuracies)), float(np.mean(areas)), images))
    return scores


def _rows(groups: Sequence[Group]) -> Rows:
    return np.concatenate([group.rows for group in groups])


def _like(groups: Sequence[Group], others: Sequence[Group], matched: bool) -> list[Group]:
    cts = {group.ct for group in others}
    return [group for group in groups if not matched or group.ct in cts]


def halves(people: Sequence[str]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yields every division of people into two halves once; the first person is in the first half.

    >>> list(halves("abcd"))
    [(('a', 'b'), ('c', 'd')), (('a', 'c'), ('b', 'd')), (('a', 'd'), ('b', 'c'))]
    """
    for half in combinations(people, len(people) // 2):
        if people[0] in half:
            yield half, tuple(person for person in people if person not in half)


def linear_probe(features: NDArray[np.floating]) -> Classifier:
    """Returns a logistic regression on features ``(n, d)``, standardised on the rows that it is trained on.

    Both kinds have the same weight. The penalty is 0.005 times the squared norm of the coefficients.
    """

    def classify(rows: Rows, labels: NDArray[np.bool_], tested: Rows) -> NDArray[np.float64]:
        mean, std = features[rows].mean(0), features[rows].std(0) + 1e-6
        inputs, others = (torch.from_numpy((features[part] - mean) / std).double() for part in (rows, tested))
        target, weight = _targets(labels)
        coefficients = torch.zeros(features.shape[1] + 1, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([coefficients], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            output = inputs @ coefficients[1:] + coefficients[0]
            loss = functional.binary_cross_entropy_with_logits(output, target.double(), weight.double())
            loss = loss + _PENALTY / 2 * coefficients[1:].square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            result: NDArray[np.float64] = (others @ coefficients[1:] + coefficients[0]).numpy()
        return result

    return classify


def small_cnn(images: NDArray[np.float32], steps: int, seed: int) -> Classifier:
    """Returns a CNN of four convolutions, trained from scratch on random crops of images ``(n, s, s)``.

    Some crops are mirrored. Both kinds have the same weight. Images are tested whole.
    """
    scaled = torch.from_numpy((images - images.mean()) / images.std())[:, None].float()
    crop = round(_CROP * images.shape[-1])

    def classify(rows: Rows, labels: NDArray[np.bool_], tested: Rows) -> NDArray[np.float64]:
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip((1, *_CHANNELS), _CHANNELS, strict=False)):
            side = 3 if number else 5
            layers += [nn.Conv2d(before, after, side, 2, side // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_CHANNELS[-1], 1))
        target, weight = _targets(labels)
        optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=max(steps, 2))
        for _ in range(steps):
            part = rng.choice(len(rows), min(_BATCH, len(rows)), replace=False)
            top, left = rng.integers(images.shape[-1] - crop + 1, size=2)
            inputs = scaled[rows[part], :, top : top + crop, left : left + crop]
            if rng.random() < 0.5:
                inputs = inputs.flip(-1)
            output = network(inputs)[:, 0]
            loss = functional.binary_cross_entropy_with_logits(output, target[part], weight[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.inference_mode():
            result: NDArray[np.float64] = network(scaled[tested])[:, 0].double().numpy()
        return result

    return classify


def _targets(labels: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Returns labels as numbers, and weights ``(n,)`` of mean 1 whose sums are equal for both labels."""
    share = labels.mean()
    weight = np.where(labels, 0.5 / share, 0.5 / (1 - share))
    return torch.from_numpy(labels.astype(np.float32)), torch.from_numpy(weight.astype(np.float32))
