import numpy as np
import pytest

pytest.importorskip("torch")

from carm_env.actions import Move
from policies import conformal
from policies.regions import Prediction

OBSERVATION = {"image": np.zeros((16, 16, 1), np.uint8)}


class Network:
    """Predicts the same displacement for every landmark, minus what the C-arm has moved."""

    error_floor_mm = 0.0

    def __init__(self, folder=None, members=None):
        self.seen_mm = np.zeros(2)

    def radius_at(self, level):
        return np.full(14, 1.7)

    def predict(self, images):
        return Prediction(np.tile(self.seen_mm, (1, 14, 1)), np.full((1, 14, 2), 8.0))


@pytest.fixture
def policy(monkeypatch):
    monkeypatch.setattr(conformal, "DisplacementRegressor", Network)
    made = conformal.ConformalPolicy()
    made.reset(0)
    return made


def act(policy, seen_mm, moved_mm=(0, 0), target=7):
    policy._regressor.seen_mm = np.array(seen_mm, float)
    info = {"target_landmark": target, "moved_mm": np.array(moved_mm, float), "action_mask": np.ones(49, np.int8)}
    return policy.act(OBSERVATION, info)


def test_words_after_a_move_are_about_the_new_view(policy):
    assert act(policy, (0, 90)).move == Move(0, 3)
    policy.feedback("Go down 3 cm.")
    act(policy, (0, 0), moved_mm=(0, 90))
    assert policy.displacement_mm.tolist() == [0, -30], "30 mm below the new middle, not below the one before"


def test_a_rejected_declaration_is_not_repeated(policy):
    assert act(policy, (0, 0)).move.is_aligned
    policy.feedback("That is not the left elbow.")
    decision = act(policy, (0, 0))
    assert decision.abstain and "the left elbow" in decision.question
    policy.feedback("Go up 6 cm.")
    assert act(policy, (0, 0)).move == Move(0, 2) and policy.has_understood


def test_a_confirmation_clears_a_rejection(policy):
    act(policy, (0, 0))
    policy.feedback("No.")
    assert act(policy, (0, 0)).abstain
    policy.feedback("Yes, that is the left elbow.")
    decision = act(policy, (0, 0))
    assert decision.move.is_aligned and not decision.abstain


@pytest.mark.parametrize("words", ["Good, go on.", "You are on the right track.", "Yes."])
def test_praise_on_the_way_does_not_hold_the_target_here(policy, words):
    act(policy, (0, 180))
    policy.feedback(words)
    assert act(policy, (0, 90), moved_mm=(0, 90)).move == Move(0, 3)


def test_a_stop_hands_back_without_a_question(policy):
    act(policy, (0, 180))
    policy.feedback("Stop, I take over.")
    decision = act(policy, (0, 180))
    assert decision.abstain and not decision.question


def test_a_new_target_is_not_where_the_old_one_was(policy):
    act(policy, (0, 180))
    policy.feedback("Go up 18 cm.")
    act(policy, (0, 180))
    act(policy, (-200, 0), target=11)
    assert policy.displacement_mm.tolist() == [-200, 0]


def test_nothing_is_left_for_the_next_episode(policy):
    act(policy, (0, 0))
    policy.feedback("No. Go up.")
    policy.reset(1)
    assert act(policy, (0, 0)).move.is_aligned and policy.displacement_mm.tolist() == [0, 0]
