"""Evaluate policies in closed loop on suites of frozen episodes.

    python benchmarks/leaderboard.py --policies oracle atlas random --suite smoke --out runs/smoke
    python benchmarks/leaderboard.py --suite uniform --patients MY_CT standard/test --out runs/mine
    python benchmarks/leaderboard.py --from runs/smoke runs/theirs.jsonl --out runs/all --html runs/all/site

Writes ``episodes.jsonl``, ``leaderboard.json``, ``leaderboard.md``, ``trajectories_SUITE.png`` and ``episode.gif`` to
the folder of ``--out``. Ctrl-C keeps the finished episodes; ``--resume`` continues. ``carm-env evaluate`` does the same
for policies outside this repository. ``--from`` runs nothing: it makes the leaderboard of finished results. ``--html``
writes it as a web page, with the model cards of this repository and the figures that the paper prints.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from benchmarks._support.site_parts import site_parts
from carm_env.evaluation.leaderboard import EvaluationArguments, PolicyNames, evaluate
from carm_env.system.command_line import run_script
from policies.registry import make_policy


@dataclass(frozen=True)
class Arguments(EvaluationArguments):
    """Arguments of this script.

    Attributes:
        policies: one or more of oracle, oracle_in_words, atlas, blind, cnn, conformal, ppo, maskable_ppo, ppo_pixels,
            dqn, qrdqn, mllm, mllm_grpo, hybrid, random; NAME:CHECKPOINT; knn:INDEX; retrieval:MODEL;
            swapped_images:NAME; chat:URL#MODEL; module:Class; FILE.py:Class; MODEL.zip; or a YAML file; each with
            arguments as ?a=1&b=2.
    """

    policies: PolicyNames = ("oracle", "atlas", "random")


def run(arguments: Arguments) -> int:
    """Runs the missing episodes and writes the leaderboard."""
    return evaluate(arguments, make_policy, site_parts)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
