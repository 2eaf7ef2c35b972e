"""The ``--policy`` argument of scripts for one kind of policy."""

from __future__ import annotations


def checkpoint_of(policy: str, *kinds: str) -> str | None:
    """Returns the checkpoint of ``KIND:CHECKPOINT``; None for ``KIND`` alone, which means the weights that ship.

    Raises:
        ValueError: `policy` is of another kind.

    >>> checkpoint_of("conformal:runs/c", "conformal")
    'runs/c'
    """
    found, _, checkpoint = policy.partition(":")
    if found not in kinds:
        expected = " or ".join(f"{kind} or {kind}:CHECKPOINT" for kind in kinds)
        raise ValueError(f"--policy is {policy!r}, expected {expected}.")
    return checkpoint or None
