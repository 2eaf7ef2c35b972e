"""Words: the paper's forms of answer, the prompts that ask for them, true reasons, and an episode as a chat."""

from carm_env.language.answers import (
    AnswerError,
    Box,
    Correction,
    Fault,
    Navigation,
    Pair,
    Ranking,
    render,
)
from carm_env.language.grammar import ANSWER_KINDS, parse

__all__ = [
    "ANSWER_KINDS",
    "AnswerError",
    "Box",
    "Correction",
    "Fault",
    "Navigation",
    "Pair",
    "Ranking",
    "parse",
    "render",
]
