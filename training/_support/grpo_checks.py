"""Checks before a GRPO training begins: each names what does not fit, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from carm_env.actions import MoveLattice
from carm_env.chat_models.interface import ModelError
from carm_env.language.answers import render
from carm_env.language.chat import Message
from carm_env.language.prompts import PROMPT_VERSIONS, prompt_hash
from carm_env.language.reasons import Situation, navigation_answer

_MARGIN_TOKENS = 1
"""The token that ends an answer."""


def check_start(name: str, settings: Mapping[str, Any], style: str) -> None:
    """Checks that a model was fine-tuned with the prompts of this version.

    Raises:
        ModelError: it was fine-tuned with other prompts.
    """
    if not settings:
        print(
            f"{name} was not fine-tuned on these prompts: it will hardly give answers that can be read. Fine-tune it "
            "with training/sft.py first.",
            flush=True,
        )
        return
    trained = {"style": settings.get("style"), "prompt_version": settings.get("prompt_version"),
               "prompts": settings.get("prompts")}  # fmt: skip
    current = {"style": style, "prompt_version": PROMPT_VERSIONS[style], "prompts": prompt_hash(style)}
    for what, value in trained.items():
        if value == current[what]:
            continue
        remedy = "Fine-tune it again with training/sft.py, or use the version of carm-env that trained it."
        if what == "style":
            remedy = f"Leave out --style, or give --style {value}."
        raise ModelError(
            f"{name} was fine-tuned with other prompts: its {what} is {value!r}, here it is {current[what]!r}. {remedy}"
        )


def check_batches(training: Any, refresh_steps: int) -> int:
    """Checks that groups, batches and pools of states divide each other.

    Args:
        training: TRL's arguments of the training.
        refresh_steps: optimizer steps that use one pool of states.

    Returns:
        The number of batches of generation that use one pool.

    Raises:
        ValueError: they do not; the message names the arguments.
    """
    if training.max_steps < 1:
        raise ValueError(
            f"max_steps is {training.max_steps}, expected the number of optimizer steps, at least 1. Give --max_steps, "
            "or --config, such as training/configs/grpo_gemma3_4b.yaml: with --model_name_or_path alone, none is read."
        )
    rows = training.per_device_train_batch_size * training.steps_per_generation
    if rows % training.num_generations:
        raise ValueError(
            f"num_generations is {training.num_generations}, which does not divide the {rows} answers that a process "
            f"samples at a time (per_device_train_batch_size {training.per_device_train_batch_size} times "
            f"steps_per_generation {training.steps_per_generation}): a group must be in one process. Change one of "
            "them."
        )
    per_generation = training.steps_per_generation * training.num_iterations
    micro_steps = refresh_steps * training.gradient_accumulation_steps
    if refresh_steps < 1 or micro_steps % per_generation:
        raise ValueError(
            f"refresh_steps is {refresh_steps}, expected a number of optimizer steps that uses whole batches of "
            f"generation, which is a multiple of {_smallest(per_generation, training.gradient_accumulation_steps)}."
        )
    saves = str(getattr(training.save_strategy, "value", training.save_strategy)) == "steps"
    if saves and (training.save_steps < 1 or training.save_steps % refresh_steps):
        raise ValueError(
            f"save_steps is {training.save_steps:g}, expected a multiple of refresh_steps, which is {refresh_steps}: "
            "a training is resumed where new states are visited."
        )
    return int(micro_steps // per_generation)


def _smallest(per_generation: int, accumulation: int) -> int:
    return per_generation // int(np.gcd(per_generation, accumulation))


def check_images(processor: Any, model: Any, messages: Sequence[Message], name: str) -> None:
    """Checks that the prompt of a state holds its image.

    Raises:
        ModelError: the chat template leaves it out.
    """
    token = getattr(model.config, "image_token_id", None)
    try:
        ids = processor.apply_chat_template(
            [list(messages)], add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"][0]
    except Exception as error:  # templates and processors raise many kinds
        raise ModelError(
            f"{name}: its chat template does not place the X-ray in the prompt ({str(error)[:200]}): use the template "
            "of the original model."
        ) from error
    if token is not None and token not in ids:
        raise ModelError(
            f"{name}: its chat template leaves out the X-ray, so that the model would be blind: use the template of "
            "the original model."
        )


def check_answer_length(processor: Any, situations: Sequence[tuple[Situation, int]], limit: int) -> None:
    """Checks that true answers are not longer than `limit` tokens.

    Args:
        processor: processor of the model.
        situations: views with their targets.
        limit: ``max_completion_length``.

    Raises:
        ValueError: one is.
    """
    lattice, rng = MoveLattice(), np.random.default_rng(0)
    texts = [render(navigation_answer(situation, target, lattice, rng)) for situation, target in situations]
    longest = max(len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    if longest + _MARGIN_TOKENS > limit:
        raise ValueError(
            f"max_completion_length is {limit}, but an answer has up to {longest + _MARGIN_TOKENS} tokens in this "
            f"model's tokenizer: set --max_completion_length {round(1.25 * longest) + _MARGIN_TOKENS} or more."
        )
