"""Held-out questions of the tasks of a specialty model, with their true answers.

The classes are the nearest landmark for the tasks ``localize`` (the three closest landmarks), ``pair`` (the two
closest in views that are centred on a landmark) and ``correct`` (a second answer, after a wrong one was rejected), the
best move of 49 for ``navigate``, and the finding for ``findings``. ``box`` and ``grounding`` have a true box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from carm_env.actions import MoveLattice
from carm_env.landmarks import landmark
from carm_env.language.answers import BOX_SCALE
from carm_env.language.chat import Conversation, Message, question
from carm_env.language.image_tasks import ask_class, ask_region
from carm_env.language.landmark_boxes import bounding_box
from carm_env.language.prompts import WRONG_FEEDBACK
from carm_env.language.reasons import Situation
from carm_env.patients.separation import person_of
from carm_env.reports.view_questions import FINDINGS, FindingPools, ViewQuestions, questions_of_dataset
from carm_env.views.read import ViewArrays, read_views
from carm_env.xray_datasets.grounded import Box

CENTRED_MM = 25.0
"""A view is centred on a landmark that is closer to its middle than this."""


@dataclass(frozen=True)
class Asked:
    """A question and its true answer.

    Attributes:
        messages: the question.
        patient: the person whose X-ray is shown.
        label: number of the true class; None for a box task.
        box: the true box; None for a task with classes.
    """

    messages: list[Message]
    patient: str
    label: int | None = None
    box: Box | None = None


class HeldOut:
    """Views of held-out patients, and the questions about them.

    Args:
        folder: folder of the views.
        split: name of the split.
        style: style of the prompts.
        seed: seed of the questions.
    """

    def __init__(self, folder: Path, split: str, style: str, seed: int) -> None:
        self._folder, self._split, self._style, self._seed = folder, split, style, seed
        self._views: ViewArrays = read_views(folder, split)
        self._persons = [person_of(name) for name in self._views.names]

    def ask(self, task: str, count: int) -> list[Asked]:
        """Returns `count` questions of a task; fewer if there are not enough views.

        Raises:
            ValueError: the task can use none of the views.
        """
        rng = np.random.default_rng([self._seed, *task.encode()])
        views = self._drawn(task, count, rng)
        if not len(views):
            raise ValueError(f"none of {len(self._views)} views can be used for {task!r}: take more views.")
        return [_ASK[task](self, int(view), rng) for view in views]

    def _drawn(self, task: str, count: int, rng: Generator) -> NDArray[np.int64]:
        if task == "findings":
            pools = FindingPools([one.finding for one in self._reported])
            return np.array([pools.draw(rng) for _ in range(count)])
        views, distances = self._views, np.hypot(*np.moveaxis(self._views.displacement_mm, -1, 0))
        complete = views.closest_landmarks[:, -1] > 0
        usable: Mapping[str, Any] = {
            "localize": complete,
            "pair": complete & (np.nanmin(distances, 1) < CENTRED_MM),
            "box": views.visible.any(1),
            "correct": complete,
            "navigate": np.ones(len(views), bool),
        }
        if task == "grounding":
            pool = np.flatnonzero([bool(one.phrases) for one in self._reported])
        else:
            pool = np.flatnonzero(usable[task])
        return np.sort(rng.choice(pool, min(count, len(pool)), replace=False))

    @cached_property
    def _reported(self) -> Sequence[ViewQuestions]:
        return questions_of_dataset(self._folder, self._split, self._seed)

    def _asked(self, view: int, messages: list[Message], label: int | None = None, box: Box | None = None) -> Asked:
        return Asked(messages, self._persons[int(self._views.patients[view])], label, box)

    def _situation(self, view: int) -> Situation:
        return Situation(self._views.displacement_mm[view].astype(float), self._views.visible[view])

    def _nearest(self, task: str, view: int) -> Asked:
        messages = question(task, self._views.images[view], self._style)
        return self._asked(view, messages, int(self._views.closest_landmarks[view, 0]))

    def _localize(self, view: int, rng: Generator) -> Asked:
        return self._nearest("localize", view)

    def _pair(self, view: int, rng: Generator) -> Asked:
        return self._nearest("pair", view)

    def _box(self, view: int, rng: Generator) -> Asked:
        index = int(rng.choice(np.flatnonzero(self._views.visible[view])))
        corners = bounding_box(self._views.pixels[view, index], self._views.images.shape[1])
        messages = question("box", self._views.images[view], self._style, target=landmark(index + 1).name)
        left, top, right, bottom = (value / BOX_SCALE for value in corners)
        return self._asked(view, messages, box=(left, top, right, bottom))

    def _correct(self, view: int, rng: Generator) -> Asked:
        best, *others = self._situation(view).closest()
        first, other = rng.choice(others[:4], 2, replace=False).tolist()
        # If the second landmark were always the right one, it could be copied.
        wrong = f"[{first},{best if rng.random() < 0.5 else other}]"
        image = self._views.images[view]
        messages = question("correct", image, self._style, answer=wrong, feedback=WRONG_FEEDBACK)
        return self._asked(view, messages, best)

    def _navigate(self, view: int, rng: Generator) -> Asked:
        situation = self._situation(view)
        target = int(rng.choice(situation.closest()))
        messages = Conversation(target, self._style).show(self._views.images[view])
        return self._asked(view, messages, MoveLattice().closest_move(situation.position_mm(target)).index)

    def _findings(self, view: int, rng: Generator) -> Asked:
        messages = ask_class(FINDINGS, self._views.images[view], self._style)
        return self._asked(view, messages, self._reported[view].finding)

    def _grounding(self, view: int, rng: Generator) -> Asked:
        phrases = self._reported[view].phrases
        phrase, box = phrases[int(rng.integers(len(phrases)))]
        return self._asked(view, ask_region(phrase, self._views.images[view], self._style), box=box)


_ASK: Mapping[str, Callable[[HeldOut, int, Generator], Asked]] = {
    "localize": HeldOut._localize,
    "pair": HeldOut._pair,
    "box": HeldOut._box,
    "correct": HeldOut._correct,
    "navigate": HeldOut._navigate,
    "findings": HeldOut._findings,
    "grounding": HeldOut._grounding,
}
TASKS = tuple(_ASK)
BOX_TASKS = ("box", "grounding")
