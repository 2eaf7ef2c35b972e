"""Demonstrations for a language model: training views that resemble an X-ray, with the true answers about them.

Source: LoFi, section 2, "Retrieval-Based In-Context Learning for Grounding". The same pool serves localisation,
navigation and grounding; the answers are computed from the labels of the views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import MoveLattice
from carm_env.chat_models.interface import ChatModel, ContextError, ModelError
from carm_env.landmarks import landmark
from carm_env.language.answers import Pair, Ranking, render
from carm_env.language.chat import Conversation, Message, question, text_part
from carm_env.language.reasons import Situation, navigation_answer
from carm_env.reports.box_text import render_boxes
from carm_env.system.errors import UnknownNameError
from carm_env.views.read import ViewImages, read_views
from policies.lofi.encoder import LofiEncoder
from policies.lofi.index import EmbeddingIndexError, load_index
from policies.lofi.search import SEARCHES

FORMS = ("images", "text")
"""Demonstrations are turns with the X-ray and the answer, or the answers alone, as text before the question."""
TASKS = ("localize", "pair", "box", "navigate")
_BEFORE_ANSWERS = "Answers to this question for the most similar X-rays of other patients, the most similar one last:"


class Demonstrations:
    """The training views that resemble an X-ray most, as turns of a conversation before the question about it.

    The most similar view comes last, closest to the question.

    Args:
        folder: folder of an index of `training/lofi_index.py`.
        k: number of demonstrations.
        form: one of `FORMS`.
        search: how the pool is searched, one of `policies.lofi.search.SEARCHES`.
        encoder: folder of the encoder; by default the one that the index names.

    Raises:
        FileNotFoundError: there is no index, no encoder, or no dataset of the views.
        EmbeddingIndexError: the index is damaged, of another encoder or of other views, or smaller than `k`.
        UnknownNameError: an unknown form or search.
    """

    def __init__(
        self, folder: str | Path, k: int, form: str = FORMS[0], search: str = SEARCHES[0], encoder: str | Path = ""
    ) -> None:
        if form not in FORMS:
            raise UnknownNameError("form of demonstrations", form, FORMS)
        self.index, self.k, self.form = load_index(folder).searched_with(search), k, form
        self.index.nearest(self.index.embeddings[:1], k)
        self._encoder = LofiEncoder(encoder or self.index.model)
        self.index.check_encoder(self._encoder.fingerprint)
        if form == "images":
            self._images: ViewImages = self._read_images()
        self._question: list[Message] = []

    def _read_images(self) -> ViewImages:
        views = read_views(Path(self.index.views), "train", lazily=True)
        if views.names != self.index.names or not np.array_equal(views.closest_landmarks, self.index.closest_landmarks):
            raise EmbeddingIndexError(
                f"the views in {self.index.views} are not those of the index: build the index again."
            )
        return views.images

    def described(self) -> dict[str, str | int]:
        """Returns facts for results, as JSON."""
        return {"demonstrations": self.k, "form": self.form, "index": self.index.fingerprint}

    def before(
        self,
        messages: Sequence[Message],
        image: NDArray[np.uint8],
        task: str,
        style: str,
        target: int | None = None,
        lattice: MoveLattice | None = None,
    ) -> list[Message]:
        """Returns the messages of a question with demonstrations before it.

        Args:
            messages: the system prompt, earlier exchanges and the question.
            image: ``(H, W)`` or ``(H, W, 1)`` the X-ray of the question.
            task: one of `TASKS`.
            style: style of the prompts.
            target: id of the landmark that ``box`` and ``navigate`` are about.
            lattice: the moves, for ``navigate``.

        Raises:
            EmbeddingIndexError: fewer than `k` views of the pool can answer the question.
        """
        self._question = list(messages)
        grey = np.asarray(image).reshape(1, *np.shape(image)[:2])
        rows, what = self._answering(task, target)
        chosen, _ = self.index.nearest(self._encoder.embed_images(grey), self.k, rows, what)
        order = chosen[0][::-1].tolist()
        answers = [self._answer(row, task, target, lattice) for row in order]
        if self.form == "text":
            return self._with_answers(messages, answers)
        turns: list[Message] = []
        for row, answer in zip(order, answers, strict=True):
            turns.append(self._shown(row, task, style, target, lattice))
            turns.append({"role": "assistant", "content": [text_part(answer)]})
        start = int(messages[0]["role"] == "system")
        return [*messages[:start], *turns, *messages[start:]]

    @contextmanager
    def fitting(self, model: ChatModel) -> Iterator[None]:
        """Tells how many demonstrations fit if the model's context is too small for the last question."""
        try:
            yield
        except ContextError as error:
            count = getattr(model, "count_tokens", None)
            alone = count(self._question) if count is not None else 0
            each = max((error.tokens - alone) / self.k, 1)
            fitting = max(int((error.limit - error.answer - alone) // each), 0)
            raise ModelError(
                f"the question with {self.k} demonstrations has {error.tokens} tokens and the answer may have "
                f"{error.answer}, but the model's context is {error.limit}: about {fitting} demonstrations fit "
                f"(?k={fitting}), form=text needs fewer tokens, and max_tokens allows for a shorter answer."
            ) from error

    @cached_property
    def _distances_are_known(self) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.index.displacement_mm).all(2))

    def _answering(self, task: str, target: int | None) -> tuple[NDArray[np.int64], str]:
        """Returns the views of the pool that can answer a question, and what they are."""
        if task in ("localize", "pair"):
            count = 3 if task == "localize" else 2
            return np.flatnonzero(self.index.closest_landmarks[:, count - 1] > 0), f"views with {count} landmarks"
        assert target is not None
        item = landmark(target)
        if task == "box":
            return np.flatnonzero(np.isfinite(self.index.boxes[:, item.index, 0])), f"views that show {item.name}"
        return np.flatnonzero(self._distances_are_known[:, item.index]), f"views of patients with {item.name}"

    def _answer(self, row: int, task: str, target: int | None, lattice: MoveLattice | None) -> str:
        if task in ("localize", "pair"):
            ids = tuple(int(key) for key in self.index.closest_landmarks[row])
            return render(Ranking(ids)) if task == "localize" else render(Pair((ids[0], ids[1])))
        assert target is not None
        if task == "box":
            left, top, right, bottom = self.index.boxes[row, landmark(target).index].tolist()
            return render_boxes([(left, top, right, bottom)])
        situation = Situation(self.index.displacement_mm[row].astype(float), np.isfinite(self.index.boxes[row]).all(1))
        # The wordings of a view are the same whenever it is shown.
        rng = np.random.default_rng([row, target])
        return render(navigation_answer(situation, target, lattice or MoveLattice(), rng))

    def _shown(self, row: int, task: str, style: str, target: int | None, lattice: MoveLattice | None) -> Message:
        image = self._images[row]
        if task == "navigate":
            assert target is not None
            return Conversation(target, style, lattice).show(image)[-1]
        values = {"target": landmark(target).name} if target is not None else {}
        return question(task, image, style, **values)[-1]

    def _with_answers(self, messages: Sequence[Message], answers: Sequence[str]) -> list[Message]:
        listed = "\n".join([_BEFORE_ANSWERS, *answers, ""])
        *rest, last = messages
        # A single text part, because chat templates join parts without a separator.
        content = [
            text_part(f"{listed}\n{part['text']}") if part["type"] == "text" else part for part in last["content"]
        ]
        return [*rest, {**last, "content": content}]
