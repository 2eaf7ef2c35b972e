"""Language formats of the paper: answers and their parser, prompts, reasons, and episodes as chats."""

from carm_env.language.answers import (
    AnswerError,
    BodyParts,
    Box,
    Correction,
    Fault,
    ImageClass,
    Navigation,
    Pair,
    Question,
    Ranking,
    render,
)
from carm_env.language.grammar import ANSWER_KINDS, parse

__all__ = [
    "ANSWER_KINDS", "AnswerError", "BodyParts", "Box", "Correction", "Fault", "ImageClass", "Navigation", "Pair",
    "Question", "Ranking", "parse", "render",
]  # fmt: skip
