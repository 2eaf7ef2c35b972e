"""Arguments of `training/grpo.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from carm_env.geometry import check_image_size, check_isocenter_depth
from carm_env.language.prompts import STYLES
from carm_env.patients.catalogue import expand_patients
from carm_env.patients.separation import TRAINED_ON, check_separate, check_trainable
from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import optional_imports
from policies.model_folders import without_hub
from training._support.episode_mode import EpisodeArguments
from training._support.perception import MIN_STATES
from training._support.start_models import resolve_shipped
from training._support.trl_arguments import read_trl_arguments
from training.rewards import RewardWeights

with optional_imports("grpo", "Reinforcement learning of a language model"), without_hub():
    from trl import GRPOConfig, ModelConfig

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "grpo_embedded.yaml"
MULTI_TURN_CONFIG = DEFAULT_CONFIG.with_name("grpo_embedded_multi_turn.yaml")
MODES = ("step_wise", "multi_turn")


@dataclass(frozen=True)
class GrpoArguments(EpisodeArguments):
    """States, rewards and evaluation of the training, besides TRL's own arguments.

    Attributes:
        mode: step_wise (every state is a prompt) or multi_turn (whole episodes are rollouts)
        style: style of the prompts; by default the one that the start was fine-tuned with, or full
        train: patients to visit states of, separated by commas
        calibration: patients for the evaluations during training
        test: patients for the comparison with the start, never trained on
        image_size: side of the X-rays, pixels; the model's processor resizes them
        refresh_steps: optimizer steps after which the model visits new states
        start_share: share of uniform starts of episodes among the states
        min_spread: rewards of a group that differ by less count as equal
        equal_groups_kept: share of the groups with equal rewards that stay in the update
        rewards: YAML file with the weights of the reward; by default those of training/configs/rewards.yaml
        wrong_stop: cost of a wrong "aligned" in exposures; by default that of the weights
        constrained: sample only answers of the wanted form
        freeze_vision: do not train the vision tower; its outputs are then computed once
        eval_every: evaluate in closed loop at first and every so many optimizer steps; 0 or more than max_steps: never
        eval_episodes: episodes of each evaluation
        perception_every: optimizer steps between checks of perception and of answers that are not rewarded; 0 for never
        perception_states: states of each of these checks
        stop_when_blind: stop with an error if the model no longer looks
        example_episodes: episodes of each evaluation to save as GIF and to show in the tracker of --report_to
        test_episodes: episodes of the comparison with the start at the end; 0 for no comparison
        json: file to write the results to
    """

    mode: str = "step_wise"
    style: str = ""
    train: str = "diverse/calibration"
    calibration: str = "standard/calibration"
    test: str = "standard/test"
    image_size: int = 256
    refresh_steps: int = 4
    start_share: float = 0.25
    min_spread: float = 0.0
    equal_groups_kept: float = 0.0
    rewards: str = ""
    wrong_stop: int = 0
    constrained: bool = False
    freeze_vision: bool = True
    eval_every: int = 25
    eval_episodes: int = 60
    perception_every: int = 25
    perception_states: int = 64
    stop_when_blind: bool = False
    example_episodes: int = 1
    test_episodes: int = 100
    json: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UnknownNameError("mode", self.mode, MODES)
        if self.style and self.style not in STYLES:
            raise UnknownNameError("style of prompts", self.style, STYLES)
        check_image_size(self.image_size)
        check_isocenter_depth(self.isocenter_depth_mm)
        _ = self.domain
        for name in ("wrong_stop", "eval_every", "perception_every", "example_episodes", "test_episodes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more.")
        for name in ("refresh_steps", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1.")
        if self.perception_states < MIN_STATES:
            raise ValueError(f"perception_states is {self.perception_states}, expected at least {MIN_STATES}.")
        splits = {name: expand_patients(getattr(self, name).split(",")) for name in (*TRAINED_ON, "test")}
        check_separate(splits)
        for split in TRAINED_ON:
            check_trainable(splits[split], f"--{split}")
        if not self.min_spread >= 0:
            raise ValueError(f"min_spread is {self.min_spread}, expected 0 or more.")
        for name in ("start_share", "equal_groups_kept"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1.")


def read_arguments(given: Sequence[str]) -> tuple[GrpoArguments, GRPOConfig, ModelConfig]:
    """Reads our arguments and TRL's, see `read_trl_arguments`; also raises ValueError for groups that are not whole."""
    words = [word for text in given for word in text.split("=", 1)]
    is_multi_turn = ("--mode", MODES[1]) in zip(words, words[1:], strict=False)
    config = MULTI_TURN_CONFIG if is_multi_turn else DEFAULT_CONFIG
    try:
        arguments, training, model = read_trl_arguments(given, GrpoArguments, GRPOConfig, config)
    except ValueError as error:
        if "must be divisible by num_generations" not in str(error):
            raise
        raise ValueError(
            f"{error} Change num_generations, the size of a group, or per_device_train_batch_size: the answers that "
            "are sampled at a time must be whole groups."
        ) from error
    resolve_shipped(model)
    return arguments, training, model


def reward_weights(arguments: GrpoArguments) -> RewardWeights:
    """Returns the weights of the reward."""
    weights = RewardWeights.from_yaml(Path(arguments.rewards)) if arguments.rewards else RewardWeights()
    return replace(weights, wrong_stop=arguments.wrong_stop) if arguments.wrong_stop else weights
