"""The model of a running GRPO training as a chat model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from carm_env.chat_models.interface import Generation
from carm_env.chat_models.specification import ModelSpecification
from carm_env.language.chat import Message
from carm_env.system.extras import optional_imports, require_versions
from policies.local_model import LocalModel
from policies.model_folders import without_hub
from training._support.sharding import whole_weights

_PURPOSE = "Reinforcement learning of a language model"
require_versions("grpo", _PURPOSE, trl="1.16", transformers="5.24")
with optional_imports("grpo", _PURPOSE), without_hub():
    import torch
    from trl.models.utils import unwrap_model_for_generation


@contextmanager
def model_for_answers(trainer: Any) -> Iterator[Any]:
    """Yields the model of a `GRPOTrainer` without its wrappers, in evaluation mode."""
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        with (
            whole_weights(trainer.model),
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
        ):
            yield model
    finally:
        trainer.model.train(was_training)


class AnsweringModel:
    """The model of a `GRPOTrainer` as a `ChatModel` that answers with the likeliest tokens.

    Args:
        trainer: the trainer.
        style: style of the prompts.
        max_tokens: longest answer.
        batch: largest number of answers at the same time.
        timed: returns a context manager around the answers of a call.
    """

    def __init__(
        self,
        trainer: Any,
        style: str,
        max_tokens: int,
        batch: int = 64,
        timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.style = style
        self._trainer, self._batch, self._timed = trainer, batch, timed
        self._specification = ModelSpecification(max_tokens=max_tokens)

    def seed(self, value: int) -> None:
        """Does nothing: nothing is sampled."""

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        """Answers all conversations."""
        trainer = self._trainer
        found: list[Generation] = []
        with self._timed(), model_for_answers(trainer) as model:
            loaded = LocalModel.of_loaded(model, trainer.processing_class, self._specification, self.style)
            for start in range(0, len(conversations), self._batch):
                found += loaded.generate(conversations[start : start + self._batch], kind)
        return found
