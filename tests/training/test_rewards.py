"""Rewards for reinforcement learning of the language model: exact, and not to be won by exploits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_env.actions import ALIGNED, N_ACTIONS, Move, MoveLattice
from carm_env.envs.registration import MAX_EPISODE_STEPS
from carm_env.landmarks import N_LANDMARKS
from carm_env.language.answers import render
from carm_env.language.reasons import navigation_answer
from training.rewards import (
    RewardWeights,
    State,
    regrets,
)

WEIGHTS_FILE = Path(__file__).parents[2] / "training" / "configs" / "rewards.yaml"


def state(target_mm, low=(-300, -500), high=(300, 500), answers_left=20, target=11, **fields) -> State:
    """A view of a patient whose other landmarks lie around the target."""
    rng = np.random.default_rng(0)
    displacement = np.asarray(target_mm, float) + rng.uniform(-300, 300, (N_LANDMARKS, 2))
    displacement[target - 1] = target_mm
    visible = np.abs(displacement).max(1) < 120
    return State(displacement, visible, target, np.array([low, high], float), answers_left, **fields)


def answer(of: State, move: Move | None = None, seed: int = 0) -> str:
    """The true answer, or one with another move and the reasons of the true one."""
    step = navigation_answer(of.situation, of.target, of.lattice, np.random.default_rng(seed))
    return render(step if move is None else replace(step, move=move))


def fewest_moves(of: State) -> int:
    """Breadth-first search over the isocentre, as the environment moves it."""
    moves, (low, high) = of.lattice.table_mm(), of.limits_mm
    seen, front = {(0.0, 0.0)}, [np.zeros(2)]
    for count in range(MAX_EPISODE_STEPS):
        if any(np.hypot(*(of.target_mm - point)) <= of.tolerance_mm for point in front):
            return count
        reached = [np.minimum(np.maximum(point + move, low), high) for point in front for move in moves]
        new = {tuple(np.round(point, 5)): point for point in reached}
        front = [point for key, point in new.items() if key not in seen]
        seen |= new.keys()
    return MAX_EPISODE_STEPS


@st.composite
def states(draw) -> State:
    lattice = MoveLattice(draw(st.sampled_from([(30, 60, 90), (20, 50, 110), (40, 80, 150)])))
    sides = [draw(st.floats(60, 500)) for _ in range(2)]
    low = [-draw(st.one_of(st.just(0.0), st.just(side), st.floats(0, side))) for side in sides]
    high = [side + lowest for side, lowest in zip(sides, low, strict=True)]
    target = [draw(st.floats(*sorted((a, b)))) for a, b in zip(low, high, strict=True)]
    tolerance = draw(st.sampled_from([10.0, 25.0, 40.0]))
    return state(target, low, high, draw(st.integers(1, 20)), lattice=lattice, tolerance_mm=tolerance)


def after(of: State, action: int) -> State:
    moved = np.clip(of.lattice.table_mm()[action], *of.limits_mm)
    return replace(of, displacement_mm=of.displacement_mm - moved, limits_mm=of.limits_mm - moved)


@settings(max_examples=25, deadline=None)
@given(states(), st.integers(0, N_ACTIONS - 1))
def test_regrets_are_exact(before, action):
    found = regrets([before])[0]
    assert found.min() == 0
    if action == ALIGNED.index:
        assert (found[action] == 0) == (np.hypot(*before.target_mm) <= before.tolerance_mm)
        assert found[action] in (0, found[action])
        return
    assert found[action] == 1 + fewest_moves(after(before, action)) - best_cost(before)


def best_cost(of: State) -> int:
    fewest = fewest_moves(of)
    # Where the target is out of reach every move is as good as another.
    return fewest if fewest < MAX_EPISODE_STEPS else 1 + MAX_EPISODE_STEPS


def test_the_default_weights_are_those_of_the_file():
    assert RewardWeights.from_yaml(WEIGHTS_FILE) == RewardWeights()
