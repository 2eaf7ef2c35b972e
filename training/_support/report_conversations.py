"""Conversations about what a view shows besides its landmarks: its finding, and the region of a phrase.

``findings`` asks which finding an X-ray shows; half of the views show none, and the findings that the patients have
are drawn equally often. ``grounding`` asks for the region that a sentence of the view's report is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from carm_env.language.answers import ImageClass, render
from carm_env.language.chat import Message, text_part
from carm_env.language.image_tasks import ask_class, ask_region
from carm_env.reports.box_text import render_boxes
from carm_env.reports.view_questions import FINDINGS, FindingPools, ViewQuestions
from carm_env.views.read import ViewImages
from training._support.conversations import without_images

REPORT_TASKS = ("findings", "grounding")


class ReportConversations:
    """An infinite sequence of examples; each depends on the seed and its number alone.

    Args:
        images: ``(n, s, s)`` uint8.
        questions: what may be asked about each.
        shares: share of each of `REPORT_TASKS`, above 0.
        style: style of the prompts.
        seed: seed of the examples.

    Raises:
        ValueError: a task can use none of the views.
    """

    def __init__(
        self, images: ViewImages, questions: Sequence[ViewQuestions], shares: Mapping[str, float], style: str, seed: int
    ) -> None:
        self._images, self._questions, self._style, self._seed = images, questions, style, seed
        self._tasks = tuple(shares)
        self._shares = np.array(list(shares.values())) / sum(shares.values())
        if "findings" in shares:
            self._findings = FindingPools([one.finding for one in questions])
        self._with_phrases = np.flatnonzero([bool(one.phrases) for one in questions])
        if "grounding" in shares and not len(self._with_phrases):
            raise ValueError(f"none of {len(questions)} views can be used for 'grounding': take more views.")

    def example(self, number: int) -> dict[str, Any]:
        """Returns example `number` in TRL's format: keys prompt, completion and images; besides, task and view."""
        rng = np.random.default_rng([self._seed, number, 1])
        task = self._tasks[int(rng.choice(len(self._tasks), p=self._shares))]
        view, messages, answer = getattr(self, f"_{task}_example")(rng)
        prompt, images = without_images(messages)
        return {
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": [text_part(answer)]}],
            "images": images,
            "task": task,
            "view": view,
        }

    def stream(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the examples from number `start` up to `stop`."""
        for number in range(start, stop):
            yield self.example(number)

    def _findings_example(self, rng: Generator) -> tuple[int, list[Message], str]:
        view = self._findings.draw(rng)
        answer = render(ImageClass(self._questions[view].finding))
        return view, ask_class(FINDINGS, self._images[view], self._style), answer

    def _grounding_example(self, rng: Generator) -> tuple[int, list[Message], str]:
        view = int(self._with_phrases[int(rng.integers(len(self._with_phrases)))])
        phrases = self._questions[view].phrases
        phrase, box = phrases[int(rng.integers(len(phrases)))]
        return view, ask_region(phrase, self._images[view], self._style), render_boxes([box])
