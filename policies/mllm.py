"""A multimodal language model as a policy and as a localizer of landmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import MoveLattice
from carm_env.chat_models.interface import ChatModel, ScoringModel
from carm_env.chat_models.policy import ChatPolicy
from carm_env.chat_models.served import ServedModel
from carm_env.chat_models.specification import ModelSpecification
from carm_env.evaluation.label_metrics import NO_ANSWER
from carm_env.evaluation.localization import STEP_FLAGS, Localization
from carm_env.landmarks import N_CLOSEST, N_LANDMARKS, landmark
from carm_env.language.advice_reader import read_advice
from carm_env.language.answers import BOX_SCALE, AnswerError
from carm_env.language.chat import Conversation, Message, check_feedback, question
from carm_env.language.grammar import READINGS, parse
from carm_env.language.reasons import Situation, reasons_are_relevant, reasons_are_true
from carm_env.xray_datasets.grounded import Box as ImageBox
from policies.advised_names import advised_probabilities, locates
from policies.images import batches

KIND, GRPO_KIND = "mllm", "mllm_grpo"
"""Folders of the models that ship: fine-tuned, and then trained by reinforcement learning."""


def make_chat_model(specification: ModelSpecification, shipped: str = KIND) -> ChatModel:
    """Makes a `ServedModel` for a specification with a URL, and a `LocalModel` otherwise.

    Args:
        specification: the model; without a name, the weights of the policy that ship.
        shipped: name of the policy.

    Raises:
        FileNotFoundError: the specification has no name, and no weights of the policy ship.
    """
    if specification.is_served:
        return ServedModel(specification)
    # Imported here: a served model needs no torch.
    from policies.checkpoint import SHIPPED
    from policies.local_model import LocalModel

    if specification.name:
        return LocalModel(specification)
    folder = SHIPPED / shipped
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no weights of {shipped} ship with this version: train them with `python training/grpo.py`, and give "
            f"their folder: {shipped}:FOLDER."
        )
    return LocalModel(specification.changed({"name": str(folder)}))


class MllmPolicy(ChatPolicy):
    """A policy that asks a local or served language model for each step.

    Args:
        model: local folder, id on the hub, ``http://HOST:PORT/v1#MODEL``, each with settings as ``?SETTING=VALUE&..``,
            a specification, or a `ChatModel`; by default the model that ships.
        lattice: the moves of the environment.
        **settings: settings of `ModelSpecification`; they override the settings in `model`.
    """

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "openai", "anthropic")

    @staticmethod
    def make_model(specification: ModelSpecification) -> ChatModel:
        """Makes the model of a specification."""
        return make_chat_model(specification)

    @staticmethod
    def default_reading(specification: ModelSpecification, model: ChatModel) -> str:
        """Returns strict for a model that was fine-tuned on the formats here, and lenient for any other."""
        return "strict" if is_trained_here(specification) else "lenient"


class MllmGrpoPolicy(MllmPolicy):
    """`MllmPolicy` with the weights that ship from `training/grpo.py` as its default."""

    @staticmethod
    def make_model(specification: ModelSpecification) -> ChatModel:
        """Makes the model of a specification."""
        return make_chat_model(specification, GRPO_KIND)


def is_trained_here(specification: ModelSpecification) -> bool:
    """Returns whether a local model was fine-tuned by `training/sft.py`, or is the one that ships."""
    if specification.is_served:
        return False
    from policies.local_model import trained_style

    return not specification.name or trained_style(specification) is not None


class MllmLocalizer:
    """A language model that is asked for the landmarks in an X-ray.

    Args:
        model: see `MllmPolicy`.
        reading: ``strict``, or ``lenient`` to evaluate models that were not trained on this form of answer.
        shipped: the policy whose shipped weights are taken without a `model`.
        hears_alone: the model alone answers to a clinician's words, which are not combined with its probabilities.
        **settings: settings of `ModelSpecification`; they override the settings in `model`.

    Attributes:
        model: the chat model.
        questions_at_once: most questions in a batch.

    Raises:
        UnknownNameError: an unknown reading or setting.
    """

    questions_at_once: ClassVar[int] = 128

    def __init__(
        self,
        model: str | Path | ChatModel = "",
        reading: str = READINGS[0],
        shipped: str = KIND,
        hears_alone: bool = False,
        **settings: Any,
    ) -> None:
        settings = {"reading": reading, **settings}
        if isinstance(model, (str, Path)):
            specification = ModelSpecification.parse(str(model)).changed(settings)
            self.model = make_chat_model(specification, shipped)
        else:
            specification, self.model = ModelSpecification.from_settings(settings), model
        self._reading, self._hears_alone = specification.reading, hears_alone

    def closest(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Asks for the three closest landmarks.

        Args:
            images: ``(n, H, W)``.

        Returns:
            ``(n, 3)`` ids, nearest first; a row of zeros where the answer cannot be parsed.
        """
        return self._ask(images, "localize", "ranking", 3)

    def centred(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Asks for the two closest landmarks; returns ``(n, 2)`` ids like `closest`."""
        return self._ask(images, "pair", "pair", 2)

    def _ask(self, images: NDArray[np.uint8], task: str, kind: str, count: int) -> NDArray[np.int64]:
        def prompt(row: int) -> list[Message]:
            return self._complete(question(task, images[row], self.model.style), images[row], task)

        return self._landmarks(len(images), prompt, kind, count)

    def _complete(
        self, messages: list[Message], image: NDArray[np.uint8], task: str, target: int | None = None
    ) -> list[Message]:
        """Returns what the model receives for a question about an image; a subclass may add to it."""
        return messages

    def ground(self, images: NDArray[np.uint8], targets: Sequence[int]) -> list[tuple[ImageBox, ...]]:
        """Asks for the region of a landmark in each image.

        Args:
            images: ``(n, H, W)``.
            targets: id of the landmark in each image.

        Returns:
            One box for each image, as shares of its width and height; none where the answer cannot be parsed.
        """

        def prompt(row: int) -> list[Message]:
            messages = question("box", images[row], self.model.style, target=landmark(targets[row]).name)
            return self._complete(messages, images[row], "box", targets[row])

        found: list[tuple[ImageBox, ...]] = [()] * len(images)
        for row, answer in self._parsed(len(images), prompt, "box"):
            left, top, right, bottom = (corner / BOX_SCALE for corner in answer.corners)
            found[row] = ((left, top, right, bottom),)
        return found

    def correct(
        self, images: NDArray[np.uint8], before: Sequence[tuple[int, int]], feedback: Sequence[str]
    ) -> NDArray[np.int64]:
        """Asks again after an answer and feedback on it.

        Where the words say something about names (`policies.advised_names.locates`), they are combined with the
        probabilities of a model that gives these (`ScoringModel`), unless `hears_alone`.

        Args:
            images: ``(n, H, W)``.
            before: the first answer for each image, two ids.
            feedback: text of the feedback for each image.

        Returns:
            ``(n, 2)`` ids; a row of zeros where the answer cannot be parsed.

        Raises:
            ValueError: not one feedback for each image, or one that may not enter a prompt
                (`carm_env.language.chat.check_text`).
        """
        if len(feedback) != len(images):
            raise ValueError(f"feedback has {len(feedback)} texts, expected one for each of {len(images)} images.")
        for text in feedback:
            check_feedback(text)

        def prompt(row: int) -> list[Message]:
            first, second = before[row]
            answer = f"[{int(first)},{int(second)}]"
            return question("correct", images[row], self.model.style, answer=answer, feedback=feedback[row])

        advice = [read_advice(text) for text in feedback]
        is_combined = [
            isinstance(self.model, ScoringModel) and not self._hears_alone and locates(one) for one in advice
        ]
        found = np.zeros((len(images), 2), np.int64)
        alone, combined = np.flatnonzero(np.logical_not(is_combined)), np.flatnonzero(is_combined)
        found[alone] = self._landmarks(len(alone), lambda row: prompt(int(alone[row])), "correction", 2)
        probabilities = self._probabilities(images[combined])
        for row, own in zip(combined.tolist(), probabilities, strict=True):
            found[row] = 1 + np.argsort(-advised_probabilities(own, before[row][0], advice[row]), kind="stable")[:2]
        return found

    def _probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the probability ``(n, 14)`` that the model names each landmark first in each image."""
        texts = [f"[{key}," for key in range(1, N_LANDMARKS + 1)]
        found = np.zeros((len(images), N_LANDMARKS))
        for part in batches(len(images)):
            asked = [question("pair", image, self.model.style) for image in images[part]]
            found[part] = cast(ScoringModel, self.model).probabilities(asked, texts)
        return found

    def _landmarks(
        self, n_images: int, prompt: Callable[[int], list[Message]], kind: str, n_landmarks: int
    ) -> NDArray[np.int64]:
        landmarks = np.zeros((n_images, n_landmarks), np.int64)
        for row, answer in self._parsed(n_images, prompt, kind):
            landmarks[row, : len(answer.landmarks)] = answer.landmarks
        return landmarks

    def _parsed(self, count: int, prompt: Callable[[int], list[Message]], kind: str) -> Iterator[tuple[int, Any]]:
        """Yields the row and the parsed answer of each prompt whose answer can be parsed."""
        for part in batches(count, self.questions_at_once):
            rows = range(count)[part]
            generations = self.model.generate([prompt(row) for row in rows], kind)
            for row, generation in zip(rows, generations, strict=True):
                try:
                    answer = parse(kind, generation.text, self._reading)
                except AnswerError:
                    continue
                yield row, answer

    def body_parts(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Asks for the two likeliest body parts.

        Args:
            images: ``(n, H, W)``.

        Returns:
            ``(n, 2)`` numbers, the likelier first; a row of -1 where the answer cannot be parsed.
        """
        numbers = np.full((len(images), 2), NO_ANSWER)
        for row, answer in self._parsed(
            len(images), lambda row: question("body_parts", images[row], self.model.style), "body_parts"
        ):
            numbers[row] = answer.numbers
        return numbers

    def steps(
        self, images: NDArray[np.uint8], targets: Sequence[int], situations: Sequence[Situation]
    ) -> dict[str, NDArray[np.bool_]]:
        """Asks for a first step towards a target in each view.

        Args:
            images: ``(n, H, W)``.
            targets: id of the target in each view.
            situations: true positions of the landmarks in each view.

        Returns:
            `STEP_FLAGS`, each ``(n,)``: whether the answer can be parsed, whether its reasons are true in the view,
            whether they imply the move there, and whether the move is the one that comes closest to the target.
        """

        def prompt(row: int) -> list[Message]:
            messages = Conversation(targets[row], self.model.style).show(images[row])
            return self._complete(messages, images[row], "navigate", targets[row])

        found = {name: np.zeros(len(images), bool) for name in STEP_FLAGS}
        lattice = MoveLattice()
        for row, step in self._parsed(len(images), prompt, "navigation"):
            found["readable"][row] = True
            found["reasons_true"][row] = reasons_are_true(step, situations[row], targets[row])
            found["reasons_relevant"][row] = reasons_are_relevant(step, situations[row], targets[row], lattice)
            found["best_move"][row] = step.move == lattice.closest_move(situations[row].position_mm(targets[row]))
        return found


class SampledLocalizer(MllmLocalizer):
    """A language model that is asked several times; the shares of its answers are taken for probabilities.

    Args:
        model: see `MllmPolicy`; a temperature of 0 is replaced by 1, unless a `ChatModel` is given.
        shipped: see `MllmLocalizer`.
        answers: number of answers for each image.

    Raises:
        UnknownNameError: an unknown setting.
    """

    def __init__(self, model: str | Path | ChatModel = "", shipped: str = KIND, answers: int = 10) -> None:
        if isinstance(model, (str, Path)):
            specification = ModelSpecification.parse(str(model))
            reading = specification.reading or ("strict" if is_trained_here(specification) else "lenient")
            temperature = 1.0 if specification.temperature == 0 else specification.temperature
            super().__init__(model, reading, shipped, temperature=temperature)
        else:
            super().__init__(model)
        self._answers = answers

    def locate(self, images: NDArray[np.uint8]) -> Localization:
        """Asks for the three closest landmarks in images ``(n, H, W)``, with the same seed for each call.

        The probability of a landmark is the share of the readable answers that name it first.
        """
        self.model.seed(0)
        answers = self.closest(np.repeat(images, self._answers, 0)).reshape(len(images), self._answers, 3)
        first, named = np.zeros((2, len(images), N_LANDMARKS + 1))
        rows = np.arange(len(images))
        for answer in range(self._answers):
            for rank in range(3):
                named[rows, answers[:, answer, rank]] += 1 / (rank + 1)
            first[rows, answers[:, answer, 0]] += 1
        readable = first[:, 1:].sum(1, keepdims=True)
        probabilities = first[:, 1:] / np.maximum(readable, 1)
        # Landmarks that are named first equally often are ranked by all places in the answers.
        order = np.lexsort((-named[:, 1:], -probabilities), axis=1)[:, :N_CLOSEST]
        closest = np.where(np.take_along_axis(named[:, 1:], order, 1) > 0, order + 1, 0)
        return Localization(closest, probabilities)
