"""The perception alarm: does the move of a language model still depend on the X-ray?

A sample of states is answered twice with the same prompt: with its own X-ray, and with the X-ray of another state. Two
estimates tell whether the model looks. Decode greedily: sampled answers also differ by chance.

- The share of moves that change. For a greedy model it is the mutual information, in bits, between the move and which
  of the two X-rays is shown, given the prompt: 1 bit in a state whose move changes, 0 in the others.
- The mutual information between the needed and the chosen direction, in bits, added up over the axes. Each direction is
  one of three (negative, none, positive), so that a table has 9 cells; the plug-in estimate of each table has the
  correction of Miller and Madow (1955), and is not below 0. With the own X-rays it is what the model knows, with
  swapped X-rays what the prompt alone tells, such as the target. The difference is the gain from looking.

Whether the gain is more than chance is tested by exchange: for a model that ignores X-rays, the own and the swapped
move of a state are exchangeable, so both are exchanged in random states, and the gain is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.actions import N_ACTIONS, Move
from carm_env.chat_models.interface import ChatModel
from carm_env.language.chat import Message
from training.rewards import ASKED, UNREADABLE, State, chosen_moves, regrets

MIN_STATES = 16
"""Fewest states of a check; with 64 or more, a model that looks rarely fails the test by chance."""
MIN_CHANGED = 0.1
"""Least share of changed moves of a model that looks."""
MAX_P_VALUE = 0.05
"""Largest p-value of a gain from looking."""
_EXCHANGES = 200
_DIRECTIONS = 3
_NO_DIRECTION = _DIRECTIONS
"""Direction of a question, and of an answer that cannot be read."""


@dataclass(frozen=True)
class PerceptionCheck:
    """Result of one check.

    Attributes:
        states: number of states.
        changed: share of states whose move changes with the X-ray.
        best_own: share of best moves (without regret) with the own X-rays.
        best_swapped: share of moves with swapped X-rays that are the best ones of the prompt's own state.
        information_own: mutual information between needed and chosen direction with the own X-rays, bits.
        information_swapped: the same with swapped X-rays: what the prompt alone tells.
        p_value: probability of at least this gain from looking for a model that ignores X-rays.
    """

    states: int
    changed: float
    best_own: float
    best_swapped: float
    information_own: float
    information_swapped: float
    p_value: float

    @property
    def information_gain(self) -> float:
        """Gain from looking, bits."""
        return self.information_own - self.information_swapped

    @property
    def looks(self) -> bool:
        """Whether the model looks: `MIN_CHANGED` of the moves change, and the gain is more than chance."""
        return self.changed >= MIN_CHANGED and self.p_value <= MAX_P_VALUE

    def metrics(self) -> dict[str, float]:
        """Returns the figures by name, for logs."""
        return {**asdict(self), "information_gain": self.information_gain, "looks": float(self.looks)}

    def __str__(self) -> str:
        """Returns the result in one sentence."""
        verdict = "the model looks" if self.looks else "the model no longer looks"
        return (
            f"{verdict}: {self.changed:.0%} of {self.states} moves change with the X-ray. With the own and with "
            f"swapped X-rays, {self.best_own:.0%} and {self.best_swapped:.0%} of the moves are the best, and the moves "
            f"hold {self.information_own:.2f} and {self.information_swapped:.2f} bits about the needed directions "
            f"(p = {self.p_value:.3f})."
        )


def swapped_order(count: int, seed: int) -> NDArray[np.int64]:
    """Returns for each of `count` states the state whose X-ray it is shown instead: never its own, and each once.

    Raises:
        ValueError: fewer than two states.
    """
    if count < 2:
        raise ValueError(f"got {count} states, expected at least 2 to swap X-rays between.")
    # A cycle through all states in random order.
    order = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, np.int64)
    other[order] = np.roll(order, 1)
    return other


def swap_x_rays(prompts: Sequence[Sequence[Message]], order: NDArray[np.int64]) -> list[list[Message]]:
    """Returns prompts whose last message shows the X-ray of the last message of another prompt.

    Args:
        prompts: N prompts; the last message of each has one image. Earlier exchanges stay as they are.
        order: ``(N,)`` the prompt whose X-ray is shown instead (`swapped_order`).

    Raises:
        ValueError: the last message of a prompt has no image, or several.
    """
    shown = []
    for prompt in prompts:
        images = [part for part in prompt[-1]["content"] if part["type"] == "image"]
        if len(images) != 1:
            raise ValueError(f"the last message of a prompt has {len(images)} images, expected one X-ray.")
        shown += images
    swapped = []
    for (*earlier, last), other in zip(prompts, order, strict=True):
        content = [shown[other] if part["type"] == "image" else part for part in last["content"]]
        swapped.append([*earlier, {**last, "content": content}])
    return swapped


def check_perception(
    model: ChatModel,
    prompts: Sequence[Sequence[Message]],
    states: Sequence[State],
    seed: int = 0,
    reading: str = "strict",
) -> PerceptionCheck:
    """Asks a model with its own and with swapped X-rays, and checks whether it looks.

    Args:
        model: the model; it should decode greedily.
        prompts: N prompts for a move.
        states: ``(N,)`` the states of the prompts.
        seed: seed of the swaps.
        reading: ``strict`` or ``lenient`` (`carm_env.language.grammar`).

    Raises:
        ValueError: see `perception` and `swap_x_rays`.
    """
    own, swapped = (
        chosen_moves([generation.text for generation in model.generate(asked, "navigation")], reading)
        for asked in (prompts, swap_x_rays(prompts, swapped_order(len(prompts), seed)))
    )
    return perception(own, swapped, states, seed)


def perception(
    own_moves: ArrayLike, swapped_moves: ArrayLike, states: Sequence[State], seed: int = 0
) -> PerceptionCheck:
    """Checks whether moves depend on the X-ray.

    Args:
        own_moves: ``(N,)`` action of each state with its own X-ray, `UNREADABLE` or `ASKED` for none
            (`training.rewards.chosen_moves`).
        swapped_moves: ``(N,)`` action with the same prompt and the X-ray of another state (`swapped_order`).
        states: ``(N,)`` the states of the prompts.
        seed: seed of the exchanges.

    Raises:
        ValueError: the lengths differ, there are fewer than `MIN_STATES` states, or a move is not an action.
    """
    own, swapped = (np.asarray(moves, np.int64) for moves in (own_moves, swapped_moves))
    if own.shape != (len(states),) or swapped.shape != own.shape:
        raise ValueError(
            f"got {own.shape} own moves, {swapped.shape} swapped moves and {len(states)} states, expected as many of "
            "each."
        )
    if len(states) < MIN_STATES:
        raise ValueError(f"got {len(states)} states, expected at least {MIN_STATES} for a check of perception.")
    for moves in (own, swapped):
        if ((moves < ASKED) | (moves >= N_ACTIONS)).any():
            raise ValueError(f"moves are {moves.min()} to {moves.max()}, expected {ASKED} to {N_ACTIONS - 1}.")
    needed = _directions(np.array([state.lattice.closest_move(state.target_mm).index for state in states]))
    pair = np.stack([_directions(own), _directions(swapped)])
    information = _information_bits(needed, pair)
    rng = np.random.default_rng(seed)
    exchanged = rng.integers(0, 2, (_EXCHANGES, len(states)))
    rows = np.arange(len(states))
    first, second = (_information_bits(needed, pair[which, rows]) for which in (exchanged, 1 - exchanged))
    at_least = int((first - second >= information[0] - information[1] - 1e-12).sum())
    best = regrets(states) == 0
    return PerceptionCheck(
        states=len(states),
        changed=float((own != swapped).mean()),
        best_own=_best_share(best, own),
        best_swapped=_best_share(best, swapped),
        information_own=float(information[0]),
        information_swapped=float(information[1]),
        p_value=(1 + at_least) / (1 + _EXCHANGES),
    )


def _best_share(best: NDArray[np.bool_], moves: NDArray[np.int64]) -> float:
    return float((best[np.arange(len(moves)), moves] & (moves >= 0)).mean())


def _directions(moves: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the direction along x and y of actions ``(N,)``, ``(N, 2)``: 0 to 2, or `_NO_DIRECTION`."""
    table = np.array([np.sign([move.x_step, move.y_step]) + 1 for move in map(Move.from_index, range(N_ACTIONS))])
    return np.vstack([table, np.full(2, _NO_DIRECTION)])[np.maximum(moves, UNREADABLE)]


def _information_bits(needed: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the mutual information of directions, added up over the axes, bits.

    Args:
        needed: ``(N, 2)`` needed directions.
        chosen: ``(R, N, 2)`` chosen directions of R sets of answers.

    Returns:
        ``(R,)``
    """
    # How often each pair of directions occurs, (R, 2, 3, 4).
    joint = np.einsum("nai,rnaj->raij", np.eye(_DIRECTIONS)[needed], np.eye(_DIRECTIONS + 1)[chosen])
    count = len(needed)
    rows, columns = joint.sum(3, keepdims=True), joint.sum(2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 0, joint / count * np.log2(joint * count / (rows * columns)), 0.0)
    occupied = [(table > 0).sum((2, 3)) for table in (joint, rows, columns)]
    # Plug-in entropies are too small by (occupied cells - 1) / 2N nats.
    excess = (occupied[0] - occupied[1] - occupied[2] + 1) / (2 * count * np.log(2))
    return np.asarray(np.maximum(terms.sum((2, 3)) - excess, 0.0).sum(1))
