"""Train an agent with stable-baselines3 or sb3-contrib.

    python training/rl.py --algo ppo
    python training/rl.py --algo ppo --timesteps 200 --no-evaluate
    python training/rl.py --algo maskable_ppo --seeds 0 1 2
    python training/rl.py --algo ppo --features backbone --no-freeze
    python training/rl.py --algo ppo --features pixels

By default the agent observes the displacement to its target as predicted by the shipped displacement network
(`policies/conformal.py`), which is learnt in minutes on a CPU. It is trained on patients that this network was not
trained on: on those the agent would learn to trust the network too much. With ``--features backbone`` the agent
observes the features of the network, frozen or not. With ``--features pixels`` it learns from images and rewards alone,
with a network of random weights and no knowledge of landmarks. The X-rays have the field of view that the network
knows. The agent is evaluated on the calibration patients during training.

Each seed writes to ``OUT/seed-N``: ``checkpoint`` (safetensors and JSON, for the policy ``ppo:OUT/seed-N/checkpoint``),
``evaluations.npz``, and ``model.zip`` to resume from, with a replay buffer for algorithms that have one. The archive
and the buffer are pickles of stable-baselines3: never load them from a source that you do not trust.
``OUT/learning_curve.png`` shows all seeds.
"""

from __future__ import annotations

import copy
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import carm_env  # noqa: F401  registers the environment
from carm_env.evaluation.provenance import save_measurement
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.landmarks import N_LANDMARKS
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.patients.separation import check_separate, check_trainable
from carm_env.randomization.naming import with_scans
from carm_env.system.command_line import INTERRUPTED, run_script
from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import optional_imports
from carm_env.system.leftovers import UNFINISHED, hidden_path
from carm_env.system.output_folders import lock_output
from carm_env.system.structured_files import read_yaml_mapping
from carm_env.system.threads import limit_threads
from policies.checkpoint import SHIPPED, fingerprint, save_checkpoint
from policies.conformal import KIND as CONFORMAL
from policies.conformal import DisplacementRegressor
from policies.networks import DisplacementNetwork, as_input, find_architecture
from policies.sb3 import ACTIVATIONS, FEATURES, SHIPPED_BACKBONE, shipped_backbone
from training._support.agent_training import DAMAGED, EVALUATIONS, check_clock, learn, load, restore_evaluations
from training._support.arguments import DomainArguments
from training._support.card import model_card
from training._support.curves import save_learning_curve
from training._support.target_env import TargetVecEnv

with optional_imports("rl", "Training an agent"):
    import torch
    from sb3_contrib import QRDQN, MaskablePPO
    from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
    from stable_baselines3 import DQN, PPO
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecTransposeImage
    from torch import Tensor, nn

ALGORITHMS = {"ppo": PPO, "dqn": DQN, "qrdqn": QRDQN, "maskable_ppo": MaskablePPO}
HYPERPARAMETERS = Path(__file__).parent / "hyperparameters"
ENVIRONMENT = "CArmNav-v0"
PIXELS = "pixels"
_FEATURES = (*FEATURES, PIXELS)
_PIXELS_ARCHITECTURE = "small"
_STEPS_PER_PATIENT = 100
"""In a short run no more patients are built than have this number of steps each."""


@dataclass(frozen=True)
class RlArguments(DomainArguments):
    """Training of agents.

    Attributes:
        algo: ppo, maskable_ppo, dqn or qrdqn
        patients: patients to train on, unknown to the displacement network
        eval_patients: patients for the evaluations during training
        eval_episodes: episodes of each evaluation
        evaluations: evaluations during training
        evaluate: evaluate the agent during training
        timesteps: environment steps; by default the number in the hyperparameters
        seeds: seeds; one agent is trained for each
        features: target (the predicted displacement), backbone (features of the network) or pixels (features of a
            network with random weights, which is trained)
        freeze: do not train the backbone
        regressor: checkpoint of training/conformal.py; by default the shipped one
        hyperparameters: YAML file; by default training/hyperparameters/ALGO.yml, or ALGO_pixels.yml for pixels
        out: output folder; by default runs/ALGO, or runs/ALGO_pixels for pixels
        resume: continue from OUT/seed-N/model.zip
        json: file to write the results to
    """

    algo: str = "ppo"
    patients: tuple[str, ...] = ("diverse/calibration",)
    eval_patients: tuple[str, ...] = ("standard/calibration",)
    eval_episodes: int = 100
    evaluations: int = 5
    evaluate: bool = True
    timesteps: int | None = None
    seeds: tuple[int, ...] = (0,)
    features: str = "target"
    freeze: bool = True
    regressor: Path | None = None
    hyperparameters: Path | None = None
    out: Path | None = None
    resume: bool = False
    json: Path | None = None

    def check(self) -> None:
        """Raises ValueError for a wrong value, or for a clock with which no model can be saved."""
        check_clock()
        if self.algo not in ALGORITHMS:
            raise UnknownNameError("algorithm", self.algo, ALGORITHMS)
        if self.features not in _FEATURES:
            raise UnknownNameError("features", self.features, _FEATURES)
        if self.features == PIXELS and self.regressor is not None:
            raise ValueError(f"regressor is {self.regressor}, but features pixels use no network: leave it out.")
        for name in ("eval_episodes", "evaluations", "timesteps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1.")
        _ = self.domain
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds are {self.seeds}, expected at least one, all 0 or more.")
        splits = {
            "--patients": expand_patients(self.patients),
            "--eval-patients": expand_patients(self.eval_patients),
        }
        for flag, names in splits.items():
            check_trainable(names, flag)
        if self.evaluate:
            check_separate(splits, trained_on=("--patients",))

    @property
    def name(self) -> str:
        """Name of the agent: the algorithm, and ``_pixels`` if it learns from pixels alone."""
        return f"{self.algo}_{PIXELS}" if self.features == PIXELS else self.algo

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.out or Path("runs") / self.name


def read_hyperparameters(path: Path) -> dict[str, Any]:
    """Reads the hyperparameters of ``CArmNav-v0`` from a file in rl-zoo3's format; ``lin_X`` is a linear schedule.

    Raises:
        ValueError: the file cannot be read, or has none for this environment.
    """
    try:
        values = dict(read_yaml_mapping(path)[ENVIRONMENT])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} has no hyperparameters of {ENVIRONMENT} ({error}): see training/hyperparameters."
        ) from error
    for name, value in values.items():
        if isinstance(value, str) and value.startswith("lin_"):
            values[name] = _linear_schedule(float(value.removeprefix("lin_")))
    return values


def _linear_schedule(initial: float) -> Callable[[float], float]:
    def schedule(remaining: float) -> float:
        return remaining * initial

    return schedule


def needed_patients(names: Sequence[str], timesteps: int) -> list[str]:
    """Returns the names of the patients, but no more than a training of `timesteps` steps needs."""
    return list(expand_patients(list(names)))[: max(timesteps // _STEPS_PER_PATIENT, 1)]


def make_environments(
    patients: Sequence[str],
    count: int,
    seed: int,
    image_size: int,
    regressor: DisplacementRegressor | None = None,
    options: Mapping[str, Any] | None = None,
) -> VecEnv:
    """Makes a vector of monitored environments.

    Args:
        patients: names of patients.
        count: number of environments.
        seed: seed of the environments.
        image_size: side of the images, pixels.
        regressor: if given, observations are `policies.features.TargetFeatures` of its predictions.
        options: further arguments of the environment (``env_kwargs`` of the hyperparameters).
    """

    def make() -> gym.Env[Any, Any]:
        env = gym.make(
            ENVIRONMENT, patients=list(patients), image_size=image_size, disable_env_checker=True, **(options or {})
        )
        return Monitor(env, info_keywords=("is_success",))

    venv = DummyVecEnv([make] * count)
    venv.seed(seed)
    return VecTransposeImage(venv) if regressor is None else TargetVecEnv(venv, regressor)


@dataclass(frozen=True, eq=False)
class Vision:
    """What an agent sees with.

    Attributes:
        network: the network whose features or predictions it observes.
        architecture: name of its architecture.
        image_size: side of its input, pixels.
        isocenter_depth_mm: depth of the isocentre in the images that it knows.
        regressor: predicts displacements; None if the network is untrained.
    """

    network: DisplacementNetwork
    architecture: str
    image_size: int
    isocenter_depth_mm: float
    regressor: DisplacementRegressor | None

    @classmethod
    def trained(cls, folder: Path | None) -> Vision:
        """Returns the first network of a checkpoint of `training/conformal.py`; None for the shipped one."""
        found = DisplacementRegressor(folder, members=1)
        return cls(found.networks[0], found.architecture, found.image_size, found.isocenter_depth_mm, found)

    @classmethod
    def untrained(cls, seed: int) -> Vision:
        """Returns a network with random weights."""
        torch.manual_seed(seed)
        name = _PIXELS_ARCHITECTURE
        size = find_architecture(name).image_size
        return cls(DisplacementNetwork(name), name, size, DEFAULT_ISOCENTER_DEPTH_MM, None)


class BackboneExtractor(BaseFeaturesExtractor):
    """Features of the image from a displacement network, and the one-hot target.

    Args:
        space: observation space.
        backbone: the network; a copy is used.
        image_size: side of its input, pixels.
        freeze: do not train it.
    """

    def __init__(self, space: gym.Space[Any], backbone: DisplacementNetwork, image_size: int, freeze: bool) -> None:
        super().__init__(space, backbone.n_features + N_LANDMARKS)
        self.backbone = copy.deepcopy(backbone)
        self._image_size, self._freeze = image_size, freeze
        if freeze:
            self.backbone.requires_grad_(False)

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Returns ``(n, n_features + 14)``."""
        if self._freeze:
            self.backbone.eval()
        images = observations["image"]
        # stable-baselines3 moves channels first and scales images to 0-1.
        grey = images[:, 0] if images.shape[1] == 1 else images[..., 0]
        features = self.backbone.features(as_input(255 * grey, self._image_size))
        return torch.cat([features, observations["target"].flatten(1)], 1)


def _policy_and_kwargs(
    hyperparameters: dict[str, Any], vision: Vision, arguments: RlArguments
) -> tuple[str, dict[str, Any]]:
    """Takes the policy's name and arguments out of the hyperparameters, adapted to the features."""
    policy, kwargs = hyperparameters.pop("policy", "MlpPolicy"), hyperparameters.pop("policy_kwargs", {})
    if arguments.features == "target":
        return policy, kwargs
    kwargs["features_extractor_class"] = BackboneExtractor
    kwargs["features_extractor_kwargs"] = {
        "backbone": vision.network, "image_size": vision.image_size,
        "freeze": arguments.freeze and vision.regressor is not None,
    }  # fmt: skip
    if "ppo" in arguments.algo:
        # Orthogonal initialisation, the default of actors and critics, would overwrite the trained backbone.
        kwargs["ortho_init"] = False
    return "MultiInputPolicy", kwargs


def export(
    model: BaseAlgorithm, arguments: RlArguments, vision: Vision, folder: Path, card: str, seed: int, steps: int
) -> None:  # fmt: skip
    """Writes the checkpoint: the perceptron, and the backbone unless it is the shipped one."""
    policy, algo = model.policy, arguments.algo
    if algo in ("ppo", "maskable_ppo"):
        layers = [*policy.mlp_extractor.policy_net, policy.action_net]
        extractor: Any = policy.pi_features_extractor
    else:
        network = policy.quantile_net if algo == "qrdqn" else policy.q_net
        layers = list(network.quantile_net if algo == "qrdqn" else network.q_net)
        extractor = network.features_extractor
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    used = [name for name, kind in ACTIVATIONS.items() if any(isinstance(layer, kind) for layer in layers)]
    backbone = vision.network if arguments.features == "target" else extractor.backbone
    known = fingerprint(backbone.state_dict())
    is_shipped = (SHIPPED / CONFORMAL).is_dir() and known == fingerprint(shipped_backbone())
    tensors = {} if is_shipped else {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    for number, layer in enumerate(linear):
        tensors |= {f"head.{2 * number}.{name}": value for name, value in layer.state_dict().items()}
    config = {
        "kind": algo,
        "features": "backbone" if arguments.features == PIXELS else arguments.features,
        "architecture": vision.architecture,
        "image_size": vision.image_size,
        "isocenter_depth_mm": vision.isocenter_depth_mm,
        "layers": [linear[0].in_features, *(layer.out_features for layer in linear)],
        "activation": used[0] if used else "tanh",
        "quantiles": model.n_quantiles if algo == "qrdqn" else 1,
        "masked": algo == "maskable_ppo",
        "seed": seed,
        "steps": steps,
        **({SHIPPED_BACKBONE: known} if is_shipped else {}),
    }
    save_checkpoint(folder, config, tensors, card)


def train(arguments: RlArguments, seed: int, words: Sequence[str] = ()) -> dict[str, float]:
    """Trains one agent, exports it, and returns the results of its last evaluation and the minutes of training.

    Args:
        arguments: settings of the training.
        seed: seed of the agent.
        words: words of the command line, for the model card.
    """
    limit_threads(1)
    folder = arguments.folder / f"seed-{seed}"
    with lock_output(folder, "--out"):
        return _train(arguments, seed, words, folder)


def _train(arguments: RlArguments, seed: int, words: Sequence[str], folder: Path) -> dict[str, float]:
    algorithm, archive = ALGORITHMS[arguments.algo], folder / "model.zip"
    vision = Vision.untrained(seed) if arguments.features == PIXELS else Vision.trained(arguments.regressor)
    hyperparameters = read_hyperparameters(arguments.hyperparameters or HYPERPARAMETERS / f"{arguments.name}.yml")
    count, default_steps = int(hyperparameters.pop("n_envs", 1)), int(hyperparameters.pop("n_timesteps"))
    steps = arguments.timesteps or default_steps
    policy, policy_kwargs = _policy_and_kwargs(hyperparameters, vision, arguments)
    depth = {"isocenter_depth_mm": vision.isocenter_depth_mm}
    options = {**depth, **hyperparameters.pop("env_kwargs", {})}
    observer = vision.regressor if arguments.features == "target" else None
    patients, eval_patients = (needed_patients(names, steps) for names in (arguments.patients, arguments.eval_patients))
    domain = arguments.domain
    if domain.severity:
        patients = with_scans(patients, domain)
        options = {**options, "domain_randomization": domain.chain_settings}
    prepare_patients([*patients, *(eval_patients if arguments.evaluate else ())], default_workers())
    venv = make_environments(patients, count, seed, vision.image_size, observer, options)
    segment = max(steps // arguments.evaluations // count, 1)
    evaluation = None
    # The callback writes a file of its own, which a kill would leave incomplete.
    log_folder = hidden_path(folder / "evaluation-log", UNFINISHED)
    if arguments.evaluate:
        eval_venv = make_environments(eval_patients, min(count, 4), 10_000 + seed, vision.image_size, observer, depth)
        callback = MaskableEvalCallback if arguments.algo == "maskable_ppo" else EvalCallback
        evaluation = callback(
            eval_venv, n_eval_episodes=arguments.eval_episodes, eval_freq=segment, log_path=str(log_folder), verbose=0
        )
    started = time.perf_counter()
    if arguments.resume and archive.is_file():
        model = load(algorithm, archive, venv)
        if evaluation is not None:
            restore_evaluations(evaluation, folder / EVALUATIONS, model.num_timesteps)
        print(f"seed {seed}: resuming after {model.num_timesteps} steps")
    else:
        if arguments.resume:
            print(f"seed {seed}: {archive} does not exist yet, so the training begins")
        model = algorithm(policy, venv, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **hyperparameters)
    try:
        learn(model, steps, evaluation, segment * count, seed, archive)
    finally:
        shutil.rmtree(log_folder, ignore_errors=True)
    minutes = (time.perf_counter() - started) / 60
    figures = _last_evaluation(folder) if evaluation is not None else {}
    sight = ", from pixels alone" if arguments.features == PIXELS else ""
    description = f"Drives the C-arm to a landmark; trained with {arguments.algo}{sight}."
    title, config = f"{arguments.name} agent", {"steps": steps, "seed": seed}
    card = model_card(title, description, "training/rl.py", words, config, figures, minutes)
    export(model, arguments, vision, folder / "checkpoint", card, seed, steps)
    venv.close()
    if evaluation is not None:
        evaluation.eval_env.close()
    results = {**figures, "minutes": minutes}
    shown = ", ".join(f"{name} {value:.3f}" for name, value in results.items())
    print(f"seed {seed}: {model.num_timesteps} steps, {shown}", flush=True)
    return results


def _last_evaluation(folder: Path) -> dict[str, float]:
    try:
        with np.load(folder / EVALUATIONS, allow_pickle=False) as kept:
            return {"success": float(kept["successes"][-1].mean()), "reward": float(kept["results"][-1].mean()),
                    "steps": float(kept["ep_lengths"][-1].mean())}  # fmt: skip
    except DAMAGED:
        return {}


def run(arguments: RlArguments, words: Sequence[str] = ()) -> None:
    """Trains the agents of all seeds and writes their learning curve and results."""
    arguments.check()
    results = {f"seed_{seed}": train(arguments, seed, words) for seed in arguments.seeds}
    if arguments.json is not None:
        save_measurement(arguments.json, {"algo": arguments.name, **results}, arguments.seeds[0])
    folders = [arguments.folder / f"seed-{seed}" for seed in arguments.seeds]
    save_learning_curve(folders, arguments.folder / "learning_curve.png", arguments.name)
    print(f"\npolicy: {arguments.algo}:{folders[0]}/checkpoint")


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    words = sys.argv[1:] if given is None else given
    status = run_script(lambda arguments: run(arguments, words), RlArguments, __doc__, words)
    if status == INTERRUPTED:
        print("Run the same command with --resume to continue after the last saved model.", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
