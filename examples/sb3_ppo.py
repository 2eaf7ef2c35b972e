"""Train PPO of stable-baselines3 on image and target, then evaluate it.

pip install -e ".[rl]"
python examples/sb3_ppo.py --timesteps 200000
"""

import argparse
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import carm_env  # noqa: F401  registers CArmNav-v0
from carm_env.patients.catalogue import expand_patients
from carm_env.patients.separation import check_trainable


def main() -> None:
    """Train, save and evaluate one agent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=200_000)
    parser.add_argument("--envs", type=int, default=8, help="number of environments")
    parser.add_argument("--steps", type=int, default=128, help="steps of each environment per update")
    parser.add_argument("--patients", nargs="+", default=["virtual:0"], help="for real use a cohort: standard/train")
    parser.add_argument("--episodes", type=int, default=50, help="episodes of the evaluation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/sb3_ppo/agent.zip"))
    options = parser.parse_args()

    check_trainable(expand_patients(options.patients), "--patients")
    kwargs = {"patients": options.patients, "image_size": 64}
    envs = make_vec_env("CArmNav-v0", n_envs=options.envs, seed=options.seed, env_kwargs=kwargs)
    # MultiInputPolicy sees {"image": ..., "target": ...}. With obs_type="image" and one target, use "CnnPolicy".
    model = PPO(
        "MultiInputPolicy",
        envs,
        n_steps=options.steps,
        batch_size=options.envs * options.steps // 4,
        gamma=0.9,
        ent_coef=0.01,
        seed=options.seed,
        verbose=1,
    )
    model.learn(options.timesteps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model.save(options.out)
    mean, std = evaluate_policy(model, envs, n_eval_episodes=options.episodes)
    print(f"return {mean:.2f} (std {std:.2f}) over {options.episodes} episodes; saved to {options.out}")


if __name__ == "__main__":
    main()
