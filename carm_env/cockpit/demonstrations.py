"""A person's moves as answers of a language model, so that transcripts of the cockpit can be trained on.

`training/sft.py` and `training/dpo.py` read the answers to X-rays that a transcript holds as prompt and text. A move
that a person makes is written in the same form: the prompt that a model of this style would have received, and the move
in the paper's words. The closest landmark, which the form asks for and a person does not name, is the true one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from carm_env.actions import Move, MoveLattice
from carm_env.language.answers import Navigation, render
from carm_env.language.chat import Conversation
from carm_env.language.prompts import STYLES, TaskFacts, prompt_hash
from carm_env.language.reasons import conclusion
from carm_env.transcripts.records import Exchange

PERSON = "person"
"""Name of the model in the transcript of a person's move."""


def style_of(prompts: str) -> str:
    """Returns the style of the prompts with a hash; the first style for prompts of no style.

    >>> style_of("")
    'full'
    """
    return next((style for style in STYLES if prompt_hash(style) == prompts), STYLES[0])


def demonstration(
    move: Move, observation: Mapping[str, Any], info: Mapping[str, Any], lattice: MoveLattice, style: str
) -> Exchange:
    """Returns a person's move as an exchange with a language model.

    Args:
        move: the move.
        observation: the observation that the person saw.
        info: the environment's info before the move, with the facts of the task.
        lattice: the moves of the environment.
        style: style of the prompts.
    """
    conversation = Conversation(int(info["target_landmark"]), style, lattice, facts=TaskFacts.from_info(info))
    messages = conversation.show(np.asarray(observation["image"]))
    reasons = [
        f"A person judges that {conclusion(axis, step)}." for axis, step in enumerate((move.x_step, move.y_step))
    ]
    answer = Navigation(int(info["closest_landmarks"][0]), move, *reasons)
    return Exchange(messages, render(answer), model=PERSON)
