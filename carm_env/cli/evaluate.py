"""``carm-env evaluate``."""

from __future__ import annotations

from carm_env.evaluation import leaderboard


def evaluate(arguments: leaderboard.EvaluationArguments) -> int:
    """Evaluate policies in closed loop on suites of frozen episodes.

    A policy is random, oracle, oracle_in_words, chat:http://HOST:PORT/v1#MODEL, or your own: module:Class with a
    subclass of carm_env.Policy, FILE.py:Class, FILE.py:function, MODEL.zip of stable-baselines3, or a YAML file:

        carm-env evaluate --policy my_policy.py:MyPolicy oracle --suite uniform --out runs/mine

    Writes episodes.jsonl, leaderboard.json, leaderboard.md, trajectories_SUITE.png and episode.gif to the folder of
    --out. Ctrl-C keeps the finished episodes; --resume continues. --from runs nothing and makes the leaderboard of
    finished results; --html writes it as a web page:

        carm-env evaluate --from runs/mine theirs/episodes.jsonl --out runs/all --html runs/all/site

    The exit status is 1 if lines of finished results do not count.
    """
    return leaderboard.evaluate(arguments)
