"""TRL's `GRPOTrainer` over states that the model visits itself, each a prompt of its own."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.language.patterns import answer_pattern
from carm_env.system.extras import optional_imports
from policies.constrained import PatternConstraint
from policies.group_sampling import SamplingOptions, sample_groups, shares_prompts
from policies.model_folders import without_hub
from policies.prompt_safety import control_tokens
from policies.vision_cache import VisionCache
from training._support.answering import AnsweringModel, model_for_answers
from training._support.closed_loop import KIND
from training._support.episode_prompts import suppressed_in_vllm
from training._support.episode_trainer import end_tokens
from training._support.grpo_states import StateSource, VisitedState, seed_of
from training._support.processes import TrainingError
from training._support.sharding import whole_weights
from training._support.trl_models import CopiesReference, ResumesWholeModel

with optional_imports("grpo", "Reinforcement learning of a language model"), without_hub():
    import torch
    from accelerate.utils import gather_object
    from datasets import Dataset
    from torch import Tensor
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

Rewards = Callable[[Sequence[str], Sequence[Any]], Mapping[str, NDArray[np.float64]]]
TOTAL = "total"
_MAX_EQUAL_GENERATIONS = 8
_PLAIN_SAMPLING: dict[str, tuple[Any, ...]] = {
    "top_p": (1,), "top_k": (None, 0), "min_p": (None, 0), "repetition_penalty": (1,), "generation_kwargs": (None, {}),
}  # fmt: skip
"""Options of sampling besides the temperature, and their values without effect."""


class StepwiseTrainer(CopiesReference, ResumesWholeModel, GRPOTrainer):
    """Trains on groups of answers to states of `StateSource`, and rewards them.

    A pool of states serves a few batches of generation; then the current model plays again. Groups
    whose rewards are all equal teach nothing and are left out of the update, except for a share.

    Args:
        source: gives the states.
        style: style of the prompts.
        rewards: maps answers and the true states that they are about to rewards and their parts, by name; the reward is
            ``total``, and ``regret`` is a part.
        min_spread: rewards of a group that differ by less count as equal.
        equal_groups_kept: share of the groups with equal rewards that stay in the update.
        constrained: sample only answers of the wanted form.
        vision: cache of the frozen vision tower.
        **options: arguments of `GRPOTrainer`.

    Raises:
        ValueError: options of sampling that have no effect on answers of the wanted form.

    Attributes:
        seconds: time spent on rendering, generation, rewards and the update; evaluations do not count.
    """

    def __init__(
        self,
        source: StateSource,
        style: str,
        rewards: Rewards,
        min_spread: float = 0.0,
        equal_groups_kept: float = 0.0,
        constrained: bool = False,
        vision: VisionCache | None = None,
        **options: Any,
    ) -> None:
        args: GRPOConfig = options["args"]
        self.source, self.style, self._rewards = source, style, rewards
        self._min_spread, self._equal_groups_kept = min_spread, equal_groups_kept
        self._constrained, self._vision = constrained, vision
        special = special_sampling(args)
        self._has_plain_sampling = not special
        if constrained and not args.use_vllm and (without_effect := [*{*special} - {"repetition_penalty"}]):
            raise ValueError(
                f"constrained is true, with which {without_effect[0]} has no effect, but it is "
                f"{getattr(args, without_effect[0])}: leave out one of them."
            )
        self._pool: list[VisitedState] = []
        self._pool_number = -1
        self._numbers: list[int] = []
        self._sampled_logps: Tensor | None = None
        self._fields: dict[str, Any] = {}
        self._equal_generations = 0
        self.seconds: dict[str, float] = defaultdict(float)
        groups = args.generation_batch_size // args.num_generations
        per_generation = args.steps_per_generation * args.num_iterations
        generations = -(-args.max_steps * args.gradient_accumulation_steps // per_generation)
        args.shuffle_dataset = False
        if args.use_vllm:
            stops = end_tokens(options["model"], options["processing_class"])
            bans = suppressed_in_vllm(options["processing_class"], stops)
            args.generation_kwargs = {**bans, **(args.generation_kwargs or {})}
            if constrained:
                args.vllm_structured_outputs_regex = answer_pattern(KIND)
        super().__init__(
            reward_funcs=self.reward,
            train_dataset=Dataset.from_dict({"number": list(range(groups * generations))}),
            **options,
        )
        self._stops = tuple(self.eos_token_ids)
        self._banned = tuple(sorted(set(control_tokens(self.processing_class)) - set(self._stops)))
        if not self.use_vllm:
            # A sampled token of an image would mismatch the images, one of a turn would end it.
            banned = sorted({*self._banned, *self.generation_kwargs["suppress_tokens"]})
            self.generation_kwargs["suppress_tokens"] = self.generation_config.suppress_tokens = banned
        accelerator = self.accelerator
        gather = gather_object if accelerator.num_processes > 1 else list
        source.distribute(accelerator.process_index, accelerator.num_processes, gather)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the time of the block to `seconds`, without that of the timed blocks in it."""
        started, before = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            inner = sum(self.seconds.values()) - before
            self.seconds[name] += time.perf_counter() - started - inner

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with whole_weights(self.model, self.ref_model):
            return self._score_states(inputs)

    def _score_states(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._numbers = [int(row["number"]) for row in inputs]
        self._refresh_pool()
        states = [self._pool[number % len(self._pool)] for number in self._numbers]
        if self._vision is not None:
            self._vision.clear()
        rows = [{"prompt": state.messages, "state": state.truth} for state in states]
        try:
            output = super()._generate_and_score_completions(rows)
        finally:
            self._sampled_logps = None
        return self._informative(self._with_images(output))

    def _with_images(self, output: dict[str, Any]) -> dict[str, Any]:
        """Adds the processed images of `_tokenize_prompts`, if TRL has not processed them again."""
        fields, self._fields = self._fields, {}
        if not fields or "pixel_values" in output:
            return output
        prompts, answers = output["prompt_ids"].shape[1], output["completion_ids"]
        rows = [[0] * (prompts - len(row)) + list(row) for row in fields["token_type_ids"]]
        types = torch.tensor(rows, device=answers.device)
        return {
            **output,
            "pixel_values": torch.as_tensor(np.stack(fields["pixel_values"]), device=answers.device),
            "token_type_ids": torch.cat([types, torch.zeros_like(answers)], 1),
            "num_images": [1] * len(answers),
        }

    def _refresh_pool(self) -> None:
        number = self._numbers[0] // self.source.size
        if number != self._pool_number:
            timed_answers = partial(self.timed, "generation")
            model = AnsweringModel(self, self.style, self.max_completion_length, timed=timed_answers)
            # Nearly all of the environment's time is rendering.
            with self.timed("rendering"):
                self._pool = self.source.pool(number, model)
            self._pool_number = number
        # A count, of which the log must not take the mean.
        self._metrics["train"]["environment_failures"] = [float(self.source.failures)]

    def reward(self, completion_ids: list[list[int]], state: Sequence[Any], **others: Any) -> list[float]:
        """Returns the rewards of answers, and logs their parts; called by `GRPOTrainer`."""
        with self.timed("reward"):
            texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
            # Many answers of a group are equal.
            keys = [(id(truth), text) for truth, text in zip(state, texts, strict=True)]
            first = {key: row for row, key in reversed(list(enumerate(keys)))}
            asked = {key: place for place, key in enumerate(first)}
            found = self._rewards([texts[row] for row in first.values()], [state[row] for row in first.values()])
            places = [asked[key] for key in keys]
            rewards = {name: np.asarray(values)[places] for name, values in found.items()}
        total = rewards.pop(TOTAL)
        for name, values in rewards.items():
            others["log_metric"](f"reward/{name}", float(values.mean()))
        others["log_metric"]("best_move", float((rewards["regret"] == 0).mean()))
        self._rewards_of_batch = torch.as_tensor(total, dtype=torch.float32)
        return [float(value) for value in total]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        if not self._shares_prompts():
            found: tuple[list[list[int]], Any, dict[str, Any]] = super()._tokenize_prompts(prompts)
            return found
        copies = self.num_generations
        ids, images, fields = super()._tokenize_prompts(prompts[::copies])
        fields.pop("num_crops", None)
        fields = {name: [row for row in value for _ in range(copies)] for name, value in fields.items()}
        self._fields = fields
        # Without images, TRL does not process them a second time for the loss: `_with_images` adds them.
        images = None if self.beta == 0 else [row for row in images for _ in range(copies)]
        return [row for row in ids for _ in range(copies)], images, fields

    def _shares_prompts(self) -> bool:
        if self.use_vllm or self.is_deepspeed_enabled or self.is_fsdp_enabled or not self._has_plain_sampling:
            return False
        return shares_prompts(self.accelerator.unwrap_model(self.model))

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: dict[str, Any], *more: Any, **options: Any
    ) -> tuple[list[list[int]], Any]:
        with self.timed("generation"):
            if not self._shares_prompts():
                torch.manual_seed(seed_of(self.args.seed, self._numbers[0], self.accelerator.process_index))
                with self._constrained_decoding(max(map(len, prompt_ids))):
                    found: tuple[list[list[int]], Any] = super()._generate_single_turn(
                        prompt_ids, images, multimodal_fields, *more, **options
                    )
                return found
            copies = self.num_generations
            fields = {name: value[::copies] for name, value in multimodal_fields.items()}
            inputs = self._padded(prompt_ids[::copies], fields)
            seeds = [seed_of(self.args.seed, number, row % copies) for row, number in enumerate(self._numbers)]
            with model_for_answers(self) as model:
                answers, logps = sample_groups(
                    model, inputs, copies, self._sampling(self.temperature), seeds,
                    self._constraint(inputs["input_ids"].shape[1]),
                )  # fmt: skip
            longest = max(map(len, logps))
            padded = torch.tensor([row + [0.0] * (longest - len(row)) for row in logps])
            self._sampled_logps = padded.to(self.accelerator.device)
            return answers, None

    def _padded(self, prompt_ids: Sequence[Sequence[int]], fields: dict[str, Any]) -> dict[str, Tensor]:
        longest, pad = max(map(len, prompt_ids)), self._tokenizer.pad_token_id

        def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
            return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows])

        inputs = {"input_ids": padded(prompt_ids, pad), "attention_mask": padded([[1] * len(r) for r in prompt_ids], 0)}
        for name, rows in fields.items():
            inputs[name] = padded(rows, 0) if isinstance(rows[0], list) else torch.as_tensor(np.stack(rows))
        return {name: value.to(self.accelerator.device) for name, value in inputs.items()}

    def _sampling(self, temperature: float) -> SamplingOptions:
        pad = self._tokenizer.pad_token_id
        return SamplingOptions(self.max_completion_length, temperature, self._stops, self._banned, pad)

    def _constraint(self, prompt_length: int) -> PatternConstraint | None:
        if not self._constrained or self.use_vllm:
            return None
        return PatternConstraint(self._tokenizer, answer_pattern(KIND), prompt_length, list(self._stops))

    @contextmanager
    def _constrained_decoding(self, prompt_length: int) -> Iterator[None]:
        constraint = self._constraint(prompt_length)
        if constraint is None:
            yield
            return
        model = self.accelerator.unwrap_model(self.model)
        generate = model.generate
        processors = [_Noise(self.temperature), constraint]
        model.generate = lambda **inputs: generate(**inputs, do_sample=False, logits_processor=processors)
        try:
            yield
        finally:
            del model.generate

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *more: Any, **options: Any
    ) -> Any:
        sampled = None if model is not self.model or torch.is_grad_enabled() else self._sampled_logps
        if sampled is not None:
            # The sampler has computed them, with the same weights.
            return torch.nn.functional.pad(sampled, (0, logits_to_keep - sampled.shape[1])), None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *more, **options
        )

    def _informative(self, output: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch without the groups whose rewards are all equal, and counts these.

        Equal answers of a group are one row with the sum of their advantages, where this gives the same loss.
        """
        copies, parts = self.num_generations, self.args.steps_per_generation
        rewards = self._rewards_of_batch.view(-1, copies)
        differ = rewards.amax(1) - rewards.amin(1) > self._min_spread
        equal = (~differ).nonzero()[:, 0].tolist()
        self._count_equal(differ)
        kept = differ.nonzero()[:, 0].tolist() + equal[: round(self._equal_groups_kept * len(equal))]
        rows = [group * copies + copy for group in sorted(kept) for copy in range(copies)]
        tokens = output["completion_mask"][rows].sum()
        rows, advantages = self._merged(rows, output) if self._can_merge else (rows, output["advantages"].clone())
        # Every step of the batch needs as many rows, at least one; the added ones have no advantage.
        rest = [row for row in range(len(advantages)) if row not in set(rows)]
        added = rest[: max(-len(rows) % parts, parts - len(rows))]
        advantages[rest] = 0.0
        if self.beta:
            # Their divergence from the reference is a part of the loss, which is a mean over the tokens.
            tokens = tokens + output["completion_mask"][added].sum()
        rows += added
        split = split_pixel_values_by_grid({**output, "advantages": advantages})
        chosen = {name: _rows(value, rows) for name, value in split.items()}
        chosen["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        whole: dict[str, Any] = unsplit_pixel_values_by_grid(chosen)
        return whole

    @property
    def _can_merge(self) -> bool:
        # A loss that is a sum over tokens, each in proportion to the advantage.
        return bool(
            self.loss_type == "dapo" and self.beta == 0 and self.importance_sampling_level == "token"
            and self.top_entropy_quantile == 1.0 and not self._entropy_bonus_enabled and not self.use_vllm
            and self.off_policy_mask_threshold is None
        )  # fmt: skip

    def _merged(self, rows: list[int], output: dict[str, Any]) -> tuple[list[int], Tensor]:
        """Returns the first row of each answer of each group, and the advantages, those of equal answers added up."""
        advantages = output["advantages"].clone()
        answers, masks = output["completion_ids"].tolist(), output["completion_mask"].sum(1).tolist()
        first: dict[tuple[int, ...], int] = {}
        for row in rows:
            key = (row // self.num_generations, *answers[row][: masks[row]])
            if (known := first.setdefault(key, row)) != row:
                advantages[known] += advantages[row]
        return list(first.values()), advantages

    def _count_equal(self, differ: Tensor) -> None:
        share = self.accelerator.gather(differ.float().mean()).mean().item()
        self._metrics["train"]["groups_kept"].append(share)
        self._equal_generations = 0 if share else self._equal_generations + 1
        if self._equal_generations >= _MAX_EQUAL_GENERATIONS:
            raise TrainingError(
                f"the rewards of every group were equal in {_MAX_EQUAL_GENERATIONS} batches of generation, so nothing "
                "is learnt: start from a model that was fine-tuned by training/sft.py, or raise --temperature or "
                "--num_generations."
            )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Takes a step; raises TrainingError if the loss is not finite."""
        with self.timed("update"):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: lower --learning_rate or "
                "--max_grad_norm, or raise --beta; with --fp16 use --bf16."
            )
        return loss


def special_sampling(args: GRPOConfig) -> list[str]:
    """Returns the names of the options with which answers are not sampled from the model's own distribution."""
    return [name for name, plain in _PLAIN_SAMPLING.items() if getattr(args, name) not in plain]


class _Noise:
    """A logits processor that adds Gumbel noise, so that the likeliest token is a sample."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self._temperature - torch.empty_like(scores).exponential_().log()


def _rows(value: Any, rows: list[int]) -> Any:
    if isinstance(value, list):
        return [value[row] for row in rows]
    if isinstance(value, torch.Tensor) and value.ndim:
        return value[rows]
    return value
