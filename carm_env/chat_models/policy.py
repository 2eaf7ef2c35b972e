"""A chat model as a policy: it is shown each X-ray, and its answers are carried out."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import ALIGNED, MoveLattice
from carm_env.chat_models.interface import ChatModel, ModelError
from carm_env.chat_models.served import ServedModel
from carm_env.chat_models.specification import ModelSpecification
from carm_env.evaluation.policy import Decision, Policy, Usage, task_lattice
from carm_env.language.advice import Advice
from carm_env.language.advice_reader import read_advice
from carm_env.language.answers import AnswerError, Question
from carm_env.language.chat import Conversation, Message
from carm_env.language.objections import advised_move, objects
from carm_env.language.prompts import TaskFacts, prompt_hash
from carm_env.language.reasons import with_article
from carm_env.system.messages import announce
from carm_env.transcripts.records import Exchange


class ChatPolicy(Policy):
    """A policy that asks a chat model for each step, with the paper's prompts and history.

    If the model declares an alignment although a clinician has just said that the target is elsewhere, the policy makes
    the move that the clinician asked for (`carm_env.language.objections`), or asks for the direction.

    Args:
        model: ``http://HOST:PORT/v1#MODEL``, also with settings as ``?SETTING=VALUE&..``; a specification; or a
            `ChatModel`.
        lattice: the moves of the environment; by default the moves of the evaluated suite.
        **settings: settings of `ModelSpecification`; they override the settings in `model`.

    Attributes:
        specification: how the model is asked.

    Raises:
        ModelError: the model cannot be used.
        UnknownNameError: an unknown setting; the message names the nearest one.
        SpecificationError: a setting is out of range.
    """

    packages: ClassVar[tuple[str, ...]] = ("openai", "anthropic")

    def __init__(
        self,
        model: str | Path | ModelSpecification | ChatModel = "",
        lattice: MoveLattice | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(model, (str, Path)):
            model = ModelSpecification.parse(str(model))
        if isinstance(model, ModelSpecification):
            self.specification = model.changed(settings)
            self._model = self.make_model(self.specification)
        else:
            self.specification = ModelSpecification.from_settings(settings)
            self._model = model
        self.reading = self.specification.reading or self.default_reading(self.specification, self._model)
        self._lattice = lattice
        self._conversation: Conversation | None = None
        self._exchange: Exchange | None = None
        self._served_by: dict[str, None] = {}
        self._heard: tuple[Advice, ...] = ()
        self._has_declared = False

    @staticmethod
    def make_model(specification: ModelSpecification) -> ChatModel:
        """Makes the model of a specification."""
        if not specification.is_served:
            raise ModelError(
                f"model {specification.name!r} is not the URL of a server, expected http://HOST:PORT/v1#MODEL: local "
                "models run with the policy mllm of the repository."
            )
        return ServedModel(specification)

    @staticmethod
    def default_reading(specification: ModelSpecification, model: ChatModel) -> str:
        """Returns how answers are parsed if the specification does not say: lenient, the model was not trained here."""
        return "lenient"

    @property
    def concurrency(self) -> int:
        """Number of episodes that may run at the same time."""
        return self.specification.concurrency if self.specification.is_served else 1

    def for_episode(self) -> ChatPolicy:
        """Returns a policy for one episode that shares the model with this one."""
        policy = copy.copy(self)
        policy._conversation, policy._exchange, policy._served_by = None, None, {}
        policy._heard, policy._has_declared = (), False
        if isinstance(self._model, ServedModel):
            policy._model = self._model.for_episode()
        return policy

    def description(self) -> dict[str, Any]:
        """Returns the settings of the model that differ from the defaults, the reading, and the server's model name."""
        served = {"server_model": ", ".join(sorted(self._served_by))} if self._served_by else {}
        return {**self.specification.described(), "style": self._model.style, "reading": self.reading, **served}

    def reset(self, seed: int | None = None) -> None:
        """Starts a new conversation with the next X-ray."""
        self._conversation, self._exchange, self._served_by = None, None, {}
        self._heard, self._has_declared = (), False
        if seed is not None:
            self._model.seed(seed)

    def prompts(self) -> str:
        """Returns the hash of the prompts of the model's style."""
        return prompt_hash(self._model.style)

    def last_exchange(self) -> Exchange | None:
        """Returns the messages and the answer behind the last decision."""
        return self._exchange

    def begin(self, info: Mapping[str, Any]) -> None:
        """Starts a new conversation about a task, in the middle of an episode: feedback can come before an answer."""
        target, kept = int(info["target_landmark"]), self.specification.kept_exchanges
        facts = TaskFacts.from_info(info)
        self._conversation = Conversation(target, self._model.style, task_lattice(info, self._lattice), kept, facts)

    def feedback(self, text: str) -> None:
        """Adds a clinician's feedback to the next prompt.

        Raises:
            RuntimeError: no episode has begun.
            ValueError: the text may not enter a prompt.
        """
        if self._conversation is None:
            raise RuntimeError("no conversation has started: call act() before feedback().")
        self._conversation.feedback(text)
        self._heard += read_advice(text)

    def messages(self, conversation: Conversation, image: NDArray[np.uint8], info: Mapping[str, Any]) -> list[Message]:
        """Shows an X-ray in the conversation, and returns what the model receives; a subclass may add to it."""
        return conversation.show(image, info)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Shows the X-ray to the model and decides as it answers; an answer that cannot be read is invalid."""
        if self._conversation is None:
            self.begin(info)
        assert self._conversation is not None
        self._conversation.retarget(int(info["target_landmark"]))
        messages = self.messages(self._conversation, _image_of(observation), info)
        (generation,) = self._model.generate([messages], "navigation")
        self._exchange = Exchange(
            messages, generation.text, tokens=generation.tokens or None, prompt_tokens=generation.prompt_tokens or None,
            seconds=generation.seconds, cost=generation.cost or None,
            model=generation.model or self.specification.name,
        )  # fmt: skip
        if generation.model:
            self._served_by[generation.model] = None
        usage = Usage(generation.prompt_tokens, generation.tokens, generation.seconds, generation.cost)
        try:
            step = self._conversation.answer(generation.text, self.reading)
        except AnswerError as error:
            message = str(error)
            if generation.is_cut_off:
                message += f" The answer was cut off at {self.specification.max_tokens} tokens (setting max_tokens)."
                _announce_cut_off(self.specification.max_tokens)
            self._exchange = replace(self._exchange, fault=error.fault.value, message=message)
            return Decision(ALIGNED, rationale=message, invalid=True, usage=usage)
        lenient = not self._conversation.is_strict
        heard, has_declared = self._heard, self._has_declared
        self._heard, self._has_declared = (), isinstance(step, Question) or step.move.is_aligned
        if isinstance(step, Question):
            return Decision(
                ALIGNED, rationale=step.text, abstain=True, question=step.text, lenient=lenient, usage=usage
            )
        rationale, move = f"{step.reason_x} {step.reason_y}", step.move
        target = self._conversation.target
        if move.is_aligned and objects(heard, target.id, has_declared):
            lattice = task_lattice(info, self._lattice)
            move = advised_move(heard, target.id, lattice, info.get("action_mask")) or ALIGNED
            if move.is_aligned:
                asked = f"I see no better position for {with_article(target.name)}. Which way is it?"
                return Decision(
                    ALIGNED, (step.context,), asked, abstain=True, question=asked, lenient=lenient, usage=usage
                )
            # The next prompt states the move that was made.
            self._conversation.start_after(replace(step, move=move))
            self._has_declared, rationale = False, "The clinician says that the target lies there."
        return Decision(move, (step.context,), rationale, lenient=lenient, usage=usage)


@functools.cache
def _announce_cut_off(max_tokens: int) -> None:
    """Says once that answers are too long: a model that thinks before it answers needs more tokens."""
    announce(f"an unreadable answer was cut off at max_tokens={max_tokens}: raise it, for instance ?max_tokens=4000.")


def _image_of(observation: Any) -> NDArray[np.uint8]:
    return np.asarray(observation["image"] if isinstance(observation, Mapping) else observation)
