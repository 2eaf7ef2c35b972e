"""Questions of an agent to the operator, in varied wordings."""

from __future__ import annotations

from numpy.random import Generator

from carm_env.landmarks import landmark
from carm_env.language.answers import Question
from carm_env.language.reasons import with_article

_QUESTIONS = (
    "I am not sure whether this is {name}. Is it?",
    "Is {name} at the center of the image?",
    "I may be wrong about {name}. Which way should I go?",
    "I cannot tell where {name} is. Which way is it?",
)


def question_about(target: int, rng: Generator) -> Question:
    """Returns a question about a landmark, whose wording is drawn.

    Args:
        target: id of the landmark.
        rng: draws the wording.
    """
    name = with_article(landmark(target).name)
    return Question(landmark(target).id, _QUESTIONS[int(rng.integers(len(_QUESTIONS)))].format(name=name))
