"""A `GRPOTrainer` whose rollouts are whole episodes.

TRL's own loop over tool calls stops only when a model calls no tool, shows the whole conversation, and loses the line
break after an answer in Gemma's templates. `EpisodeTrainer` replaces this loop. With the bounded history, the tokens of
a rollout are its prompts and answers in turn, and each prompt begins anew; the loss sees each prompt with its answer as
a sequence of its own, as fine-tuning and inference do.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from carm_env.system.extras import optional_imports
from policies.model_folders import without_hub
from policies.vision_cache import VisionCache
from training._support.episode_budget import episode_budget
from training._support.episode_prompts import (
    IMAGE_INPUTS,
    Encoded,
    PromptEncoder,
    suppressed_in_vllm,
    suppressed_tokens,
    with_tool_turns,
)
from training._support.multi_turn import OUTCOMES, EpisodeEnvironment, EpisodeSettings, total_reward
from training._support.sharding import whole_weights
from training._support.trl_models import CopiesReference, ResumesWholeModel
from training._support.turn_sequences import TurnSequences
from training.rewards import PARTS

with optional_imports("llm", "Reinforcement learning of a language model"), without_hub():
    import torch
    from accelerate.utils import gather_object
    from datasets import Dataset
    from torch import Tensor
    from trl import GRPOConfig, GRPOTrainer

_SMALLEST_STD = 1e-4


def episode_rows(settings: EpisodeSettings, seeds: Sequence[int]) -> Dataset:
    """Returns a dataset with one episode per seed; the first X-ray comes with `EpisodeEnvironment.reset`.

    Args:
        settings: what all rollouts have in common.
        seeds: seeds of the episodes.
    """
    chat = settings.make_chat()
    system = chat.reset(seed=int(seeds[0]))[0]
    prompt = [system, {"role": "user", "content": []}]
    return Dataset.from_dict({"prompt": [prompt] * len(seeds), "seed": [int(seed) for seed in seeds]})


class EpisodeTrainer(CopiesReference, ResumesWholeModel, GRPOTrainer):
    """Trains a language model on whole episodes.

    The advantage of an answer is that of its episode, plus `turn_credit` times that of the answer's own reward, both
    relative to the group: all answers of the episodes that begin at the same X-ray. The loss covers the tokens that
    the model wrote, and nothing else.

    Args:
        model: the model.
        args: TRL's arguments; ``generation_kwargs`` are completed, and a ``max_completion_length`` of 0 becomes that of
            the longest episode.
        processor: processor of the model.
        settings: what all rollouts have in common.
        image_size: side of the X-rays, pixels.
        max_answer_tokens: limit of an answer; 0 for the longest usual one and a quarter.
        turn_credit: weight of the rewards of single answers; 0 for the reward of the episode alone.
        vision: cache of the frozen vision tower.
        **options: further arguments of `GRPOTrainer`.

    Attributes:
        budget: the tokens of an episode.

    Raises:
        ValueError: an episode does not fit into ``max_completion_length`` or the model's context.
    """

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        processor: Any,
        settings: EpisodeSettings,
        *,
        image_size: int = 256,
        max_answer_tokens: int = 0,
        turn_credit: float = 1.0,
        vision: VisionCache | None = None,
        **options: Any,
    ) -> None:
        ours = with_tool_turns(processor)
        stops = end_tokens(model, processor)
        self._settings, self._turn_credit, self._vision = settings, turn_credit, vision
        self._encoder = PromptEncoder(ours, model.config.image_token_id, stops)
        self.budget = episode_budget(
            self._encoder, settings.style, settings.max_answers, image_size, settings.is_bounded, max_answer_tokens
        )
        args.max_completion_length = args.max_completion_length or self.budget.completion
        self.budget.check(args.max_completion_length, _max_positions(model))
        limits = {"max_tokens": self.budget.answer, **suppressed_in_vllm(ours, stops)} if args.use_vllm else {
            "max_new_tokens": self.budget.answer, "suppress_tokens": suppressed_tokens(ours, stops),
        }  # fmt: skip
        args.generation_kwargs = {**limits, **(args.generation_kwargs or {})}
        with warnings.catch_warnings():
            # The interface is experimental, and therefore tested here.
            warnings.filterwarnings("ignore", message="You are using 'environment_factory'")
            super().__init__(
                model=model, args=args, processing_class=ours, reward_funcs=[total_reward],
                environment_factory=partial(EpisodeEnvironment, settings), **options,
            )  # fmt: skip
        self._cut_answers = self._failures = 0
        # TRL looks for the names of other models' image tokens.
        self._image_pad_token_id = model.config.image_token_id

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], list[list[Any]], dict[str, Any]]:
        encoded = self._encoder.encode(prompts)
        return encoded.ids, encoded.images, encoded.fields

    def _tool_call_loop(
        self, prompts: Any, prompt_ids: Any, completion_ids: Any, completions: Any, logprobs: Any, images: Any,
        multimodal_fields: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Lets every environment carry out the model's answers until its episode ends.

        Returns:
            Mask of the model's tokens, messages, tokens and their log-probabilities (None unless vLLM generates),
            number of answers, number of failures, and the X-rays after the first one, each per rollout.
        """
        count = len(prompt_ids)
        masks = [[1] * len(ids) for ids in completion_ids]
        messages: list[list[Any]] = [[] for _ in range(count)]
        later_images: list[list[Any]] = [[] for _ in range(count)]
        answers, running = dict(enumerate(completion_ids)), list(range(count))
        calls = 0
        while running:
            calls += len(running)
            running = [row for row in running if self._carry_out(row, answers[row], messages[row])]
            added = {row: self._between(self.environments[row], answers[row]) for row in running}
            for row in running:
                if len(completion_ids[row]) + len(added[row]) + self.budget.answer > self.max_completion_length:
                    self.environments[row]._run_out_of_tokens()
            running = [row for row in running if not self.environments[row].outcome]
            if not running:
                break
            for row in running:
                content = self.environments[row]._content()
                messages[row].append({"role": "tool", "name": "answer", "content": content})
                later_images[row] += [part["image"] for part in content if part["type"] == "image"]
                completion_ids[row] = completion_ids[row] + added[row]
                masks[row] += [0] * len(added[row])
            prompt = self._prompts(running, prompt_ids, completion_ids, images, later_images)
            new_ids, new_logprobs = self._generate_single_turn(prompt.ids, prompt.images, prompt.fields, 1)
            for number, row in enumerate(running):
                answers[row] = new_ids[number]
                completion_ids[row] = completion_ids[row] + new_ids[number]
                masks[row] += [1] * len(new_ids[number])
                if logprobs is not None:
                    logprobs[row] = logprobs[row] + [0.0] * len(added[row]) + new_logprobs[number]
        failures = sum(environment.outcome == "failed" for environment in self.environments)
        return masks, messages, completion_ids, logprobs, calls, failures, later_images

    def _carry_out(self, row: int, ids: Sequence[int], messages: list[Any]) -> bool:
        """Carries out an answer; returns whether the episode goes on."""
        environment, text = self.environments[row], self._encoder.decode(ids)
        messages.append({"role": "assistant", "content": text})
        environment.answer(text)
        self._cut_answers += not self._has_ended(ids)
        return not environment.outcome

    def _has_ended(self, answer: Sequence[int]) -> bool:
        return bool(answer) and answer[-1] in self._encoder.stops

    def _between(self, environment: EpisodeEnvironment, answer: Sequence[int]) -> list[int]:
        """Returns the tokens between an answer and the next one."""
        if self._settings.is_bounded:
            return self._encoder.encode([environment.messages]).ids[0]
        return self._encoder.turn(environment.messages[-1], after_end=self._has_ended(answer))

    def _prompts(
        self, rows: Sequence[int], prompt_ids: Any, completion_ids: Any, images: Any, later_images: Any
    ) -> Encoded:
        """Returns what the model sees before its next answer in each of `rows`."""
        if self._settings.is_bounded:
            return self._encoder.encode([self.environments[row].messages for row in rows])
        ids = [prompt_ids[row] + completion_ids[row] for row in rows]
        seen = [images[row] + later_images[row] for row in rows]
        fields: dict[str, Any] = dict(self._encoder.image_fields([image for shown in seen for image in shown]))
        if self._encoder.type_key:
            fields[self._encoder.type_key] = [self._encoder.types(row) for row in ids]
        return Encoded(ids, seen, fields)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        if self._vision is not None:
            self._vision.clear()
        with whole_weights(self.model, self.ref_model):
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        written = output["completion_mask"] * output["tool_mask"]
        credits = self._turn_advantages(self.num_generations if mode == "train" else self.num_generations_eval)
        output["advantages"] = spread(output["advantages"], credits, written)
        self._count(mode)
        return output

    def _turn_advantages(self, group_size: int) -> list[list[float]]:
        """Returns the advantage of each answer's own reward, for the rollouts of this process."""
        found = [environment._reward() for environment in self.environments]
        own = [[] if reward is None else reward.turns.tolist() for reward in found]
        everyone = gather_object(own)
        first = self.accelerator.process_index * len(own)
        whole_std = _std([reward for rewards in everyone for reward in rewards])
        credits = []
        for row in range(first, first + len(own)):
            start = row // group_size * group_size
            group = [reward for rewards in everyone[start : start + group_size] for reward in rewards]
            std = {"group": _std(group), "batch": whole_std}.get(str(self.scale_rewards), 1.0 - _SMALLEST_STD)
            mean = float(np.mean(group)) if group else 0.0
            credits.append([self._turn_credit * (reward - mean) / (std + _SMALLEST_STD) for reward in everyone[row]])
        return credits

    def _count(self, mode: str) -> None:
        """Logs how the episodes of all processes ended, and the parts of the rewards of their answers."""
        own = [(env.outcome, env.answers, env.invalid, env.questions, env.parts) for env in self.environments]
        cut, self._cut_answers = sum(gather_object([self._cut_answers])), 0
        ends, metrics = gather_object(own), self._metrics[mode]
        outcomes, answers = Counter(end[0] for end in ends), max(sum(end[1] for end in ends), 1)
        for outcome in OUTCOMES:
            metrics[f"episodes/{outcome}"].append(outcomes[outcome] / len(ends))
        self._failures += outcomes["failed"]
        # A count, of which the log must not take the mean.
        metrics["environment_failures"] = [float(self._failures)]
        metrics["episodes/answers"].append(answers / len(ends))
        metrics["answers/invalid"].append(sum(end[2] for end in ends) / answers)
        metrics["answers/questions"].append(sum(end[3] for end in ends) / answers)
        metrics["answers/cut"].append(cut / answers)
        for name in PARTS:
            metrics[f"answers/{name}"].append(sum(end[4][name] for end in ends) / answers)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int,
        batch_size: int | None = None, compute_entropy: bool = False, compute_aux_loss: bool = False, **inputs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        given = {key: value for key, value in inputs.items() if key in IMAGE_INPUTS and value is not None}
        options = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss}
        if not self._settings.is_bounded:
            if self._encoder.type_key:
                given[self._encoder.type_key] = (input_ids == self._encoder.image_token).long()
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, num_images=inputs["num_images"],
                **options, **given,
            )  # fmt: skip
        turns = TurnSequences.split(input_ids, attention_mask, inputs["num_images"], self._tokenizer.pad_token_id)
        given = turns.image_inputs(given)
        if self._encoder.type_key:
            given[self._encoder.type_key] = (turns.ids == self._encoder.image_token).long()
        logps, entropies, loss = super()._get_per_token_logps_and_entropies(
            model, turns.ids, turns.mask, turns.ids.shape[1] - 1, batch_size, num_images=[1] * len(turns.ids),
            **options, **given,
        )  # fmt: skip
        back = partial(turns.join, kept=logits_to_keep)
        return back(logps), None if entropies is None else back(entropies), loss


def end_tokens(model: Any, processor: Any) -> list[int]:
    """Returns the ids of the tokens that end an answer."""
    found = model.generation_config.eos_token_id
    ids = found if isinstance(found, list) else [] if found is None else [found]
    return sorted({*ids, processor.tokenizer.eos_token_id} - {None})


def spread(episodes: Tensor, answers: Sequence[Sequence[float]], written: Tensor) -> Tensor:
    """Returns the advantage of each token.

    Args:
        episodes: ``(n,)`` advantage of each episode.
        answers: advantage of each answer of each episode, in order; fewer than there are answers if it failed.
        written: ``(n, length)`` 1 for each token that the model wrote; answers are separated by others.

    Returns:
        ``(n, length)``; 0 where the model wrote nothing.
    """
    table = torch.zeros(len(answers), max(map(len, answers), default=0) + 1, device=written.device)
    for row, values in enumerate(answers):
        table[row, : len(values)] = torch.tensor(values)
    mask = written.bool()
    begins = mask & ~torch.nn.functional.pad(mask, (1, -1))
    # Tokens beyond the known answers use the last column, which is 0.
    number = (begins.long().cumsum(1) - 1).clamp(0, table.shape[1] - 1)
    return torch.where(mask, episodes[:, None] + table.gather(1, number), torch.zeros_like(episodes[:, None]))


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _max_positions(model: Any) -> int | None:
    config = model.config.get_text_config()
    found: int | None = getattr(config, "max_position_embeddings", None)
    return found
