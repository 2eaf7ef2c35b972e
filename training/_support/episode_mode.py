"""The multi-turn mode of `training/grpo.py`: from its arguments to an `EpisodeTrainer`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.registration import MAX_EPISODE_STEPS
from policies.vision_cache import VisionCache
from training._support.arguments import DepthArguments
from training._support.episode_trainer import EpisodeTrainer, episode_rows
from training._support.grpo_checks import check_batches, check_images
from training._support.multi_turn import HISTORIES, EpisodeSettings
from training.rewards import RewardWeights


@dataclass(frozen=True)
class EpisodeArguments(DepthArguments):
    """Arguments of the multi-turn mode.

    Attributes:
        history: what a prompt of multi_turn shows: bounded (the last X-ray, as in the paper) or whole (all of them)
        max_answers: largest number of answers of an episode in multi_turn
        max_answer_tokens: limit of an answer in multi_turn; 0 for the longest usual one and a quarter
        turn_credit: weight of the rewards of single answers in multi_turn, besides that of the episode
        outcome_only: reward episodes of multi_turn by 1 for a success and 0 for a failure
    """

    history: str = HISTORIES[0]
    max_answers: int = MAX_EPISODE_STEPS
    max_answer_tokens: int = 0
    turn_credit: float = 1.0
    outcome_only: bool = False

    @property
    def kept_exchanges(self) -> int:
        """Earlier exchanges that a prompt of multi_turn has."""
        return 0 if self.history == HISTORIES[0] else self.max_answers

    def check(self) -> None:
        """Raises ValueError for a wrong value; the settings check the others."""
        if self.max_answer_tokens < 0:
            raise ValueError(f"max_answer_tokens is {self.max_answer_tokens}, expected 0 or more.")
        if not (math.isfinite(self.turn_credit) and self.turn_credit >= 0):
            raise ValueError(f"turn_credit is {self.turn_credit}, expected 0 or more.")


def make_episode_trainer(
    arguments: EpisodeArguments,
    training: Any,
    model: Any,
    processor: Any,
    *,
    name: str,
    style: str,
    patients: Sequence[str],
    image_size: int,
    weights: RewardWeights,
    vision: VisionCache | None = None,
    **options: Any,
) -> EpisodeTrainer:
    """Makes the trainer of whole episodes, after checking what can be wrong with its arguments.

    Args:
        arguments: arguments of the mode.
        training: TRL's arguments of the training.
        model: the model.
        processor: its processor.
        name: name of the model, for messages.
        style: style of the prompts.
        patients: names of patients to draw episodes from.
        image_size: side of the X-rays, pixels.
        weights: weights of the reward.
        vision: cache of the frozen vision tower.
        **options: further arguments of `GRPOTrainer`.

    Raises:
        ModelError: the chat template leaves out the X-ray.
        ValueError: groups and batches do not divide each other, or an episode does not fit.
    """
    arguments.check()
    per_generation = training.steps_per_generation * training.num_iterations
    check_batches(training, per_generation // math.gcd(per_generation, training.gradient_accumulation_steps))
    make_env = partial(
        CArmNavEnv, patients=list(patients), image_size=image_size,
        domain_randomization=arguments.domain.chain_settings, isocenter_depth_mm=arguments.isocenter_depth_mm,
    )  # fmt: skip
    settings = EpisodeSettings(
        make_env, weights, style, arguments.history, arguments.max_answers, arguments.outcome_only
    )
    check_images(processor, model, settings.make_chat().reset(seed=training.seed), name)
    groups = training.generation_batch_size // training.num_generations
    generations = -(-training.max_steps * training.gradient_accumulation_steps // per_generation)
    seeds = np.random.SeedSequence(training.seed).generate_state(groups * generations)
    return EpisodeTrainer(
        model, training, processor, settings,
        image_size=image_size, max_answer_tokens=arguments.max_answer_tokens, turn_credit=arguments.turn_credit,
        vision=vision, train_dataset=episode_rows(settings, [int(seed >> 1) for seed in seeds]), **options,
    )  # fmt: skip
