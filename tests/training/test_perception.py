"""The perception alarm: a policy that ignores X-rays is found, and one that looks is not."""

from dataclasses import replace

import numpy as np
import pytest

from carm_env.actions import N_ACTIONS, Move
from carm_env.chat_models.interface import Generation
from carm_env.landmarks import N_LANDMARKS
from carm_env.language.answers import Navigation, render
from carm_env.language.chat import Conversation
from training._support.curves import save_perception_curve
from training._support.perception import MIN_STATES, check_perception, perception, swap_x_rays, swapped_order
from training.rewards import ASKED, UNREADABLE, State

N = 64


def random_state(rng: np.random.Generator) -> State:
    low = -rng.uniform(0, 500, 2)
    target_mm, target = rng.uniform(low, low + 500), int(rng.integers(1, N_LANDMARKS + 1))
    displacement = target_mm + rng.uniform(-300, 300, (N_LANDMARKS, 2))
    displacement[target - 1] = target_mm
    return State(displacement, np.ones(N_LANDMARKS, bool), target, np.stack([low, low + 500]), 20)


STATES = [random_state(np.random.default_rng(number)) for number in range(N)]
ORDER = swapped_order(N, seed=0)
SHOWN = [replace(STATES[shown], target=state.target) for state, shown in zip(STATES, ORDER, strict=True)]
"""The prompt's target in the swapped X-ray."""


def best(states: list[State]) -> np.ndarray:
    return np.array([state.lattice.closest_move(state.target_mm).index for state in states])


def noisy(moves: np.ndarray, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(moves)) < share, rng.integers(0, N_ACTIONS, len(moves)), moves)


PRIOR = np.array([state.target * 3 for state in STATES])
BLIND = {
    "always the same move": (np.full(N, 10), np.full(N, 10)),
    "a move for each target": (PRIOR, PRIOR),
    "the best move, whatever is shown": (best(STATES), best(STATES)),
    "only questions": (np.full(N, ASKED), np.full(N, ASKED)),
    "unreadable": (np.full(N, UNREADABLE), np.full(N, UNREADABLE)),
    "changes in few states": (PRIOR, np.where(np.arange(N) < 4, 0, PRIOR)),
}


@pytest.mark.parametrize("name", BLIND)
def test_a_policy_that_ignores_the_x_ray_no_longer_looks(name):
    check = perception(*BLIND[name], STATES)
    assert not check.looks
    assert "no longer looks" in str(check)


def test_random_moves_change_but_the_model_does_not_look():
    moves = np.random.default_rng(0).integers(0, N_ACTIONS, (20, 2, N))
    found = [perception(own, swapped, STATES, seed) for seed, (own, swapped) in enumerate(moves)]
    assert min(check.changed for check in found) > 0.8
    # 1 of 20 is expected to pass by chance.
    assert sum(check.looks for check in found) <= 5


@pytest.mark.parametrize("mistakes", [0.0, 0.3])
def test_a_policy_that_looks_is_found_to_look(mistakes):
    check = perception(noisy(best(STATES), mistakes, 0), noisy(best(SHOWN), mistakes, 1), STATES)
    assert check.looks
    assert check.best_own > 0.6 > check.best_swapped
    assert check.information_gain > 0.5
    assert "the model looks" in str(check)


def test_the_estimates_of_known_policies():
    ideal = perception(best(STATES), best(SHOWN), STATES)
    # Near the edge of the tolerance the closest move centres the view further, where "aligned" would do.
    assert ideal.best_own > 0.95
    # All that the needed directions hold: two axes with up to three directions each.
    assert 1.5 < ideal.information_own < 2 * np.log2(3)
    constant = perception(np.full(N, 10), np.full(N, 10), STATES)
    assert (constant.changed, constant.information_own, constant.information_gain) == (0.0, 0.0, 0.0)
    half = perception(PRIOR, np.where(np.arange(N) % 2, 48, PRIOR), STATES)
    assert half.changed == pytest.approx((PRIOR[1::2] != 48).sum() / N)


def test_questions_say_as_little_about_the_directions_as_unreadable_answers():
    asked, unreadable = (
        perception(np.where(np.arange(N) % 4, best(STATES), none), best(SHOWN), STATES) for none in (ASKED, UNREADABLE)
    )
    assert asked == unreadable and asked.best_own == pytest.approx(0.75, abs=0.05) and asked.looks


def test_the_information_of_random_moves_is_near_zero():
    many = STATES * 16
    found = perception(*np.random.default_rng(0).integers(0, N_ACTIONS, (2, len(many))), many)
    assert found.information_own < 0.03
    assert found.metrics()["information_gain"] == found.information_own - found.information_swapped


@pytest.mark.parametrize("count", [2, 3, 50])
def test_every_x_ray_is_shown_once_and_never_in_its_own_state(count):
    order = swapped_order(count, seed=1)
    assert sorted(order) == list(range(count))
    assert (order != np.arange(count)).all()


@pytest.mark.parametrize(
    ("own", "swapped", "count", "message"),
    [
        (np.zeros(N), np.zeros(N - 1), N, "expected as many of each"),
        (np.zeros(8), np.zeros(8), 8, f"at least {MIN_STATES}"),
        (np.full(N, 49), np.zeros(N), N, "moves are 49 to 49"),
        (np.full(N, -3), np.zeros(N), N, "moves are -3"),
    ],
)
def test_wrong_input_is_named(own, swapped, count, message):
    with pytest.raises(ValueError, match=message):
        perception(own, swapped, STATES[:count])


def test_a_single_state_has_no_other_x_ray():
    with pytest.raises(ValueError, match="at least 2"):
        swapped_order(1, seed=0)


class Model:
    """A chat model that reads the needed move of the prompt's target from the X-ray, or looks it up in the prompt."""

    style = "compact"

    def __init__(self, is_blind: bool) -> None:
        self._is_blind = is_blind

    def seed(self, value: int) -> None:
        pass

    def generate(self, conversations, kind):
        assert kind == "navigation"
        return [Generation(self._answer(messages), 0, 0.0) for messages in conversations]

    def _answer(self, messages) -> str:
        image = next(part["image"] for part in messages[-1]["content"] if part["type"] == "image")
        text = next(part["text"] for part in messages[-1]["content"] if part["type"] == "text")
        action = len(text) % N_ACTIONS if self._is_blind else image.getpixel((0, 0))[0]
        return render(Navigation(1, Move.from_index(action), "It is so.", "It is so."))


def prompts() -> list:
    asked = []
    for state, action in zip(STATES, best(STATES), strict=True):
        conversation = Conversation(state.target, "compact", kept_exchanges=1)
        conversation.show(np.full((16, 16), 200, np.uint8))
        conversation.answer(render(Navigation(1, Move(1, 1), "It is so.", "It is so.")))
        asked.append(conversation.show(np.full((16, 16), action, np.uint8)))
    return asked


@pytest.mark.parametrize("is_blind", [True, False])
def test_a_model_is_asked_with_its_own_and_with_swapped_x_rays(is_blind):
    check = check_perception(Model(is_blind), prompts(), STATES)
    assert check.looks == (not is_blind)
    assert check.states == N


def test_only_the_last_x_ray_is_swapped():
    asked = prompts()
    swapped = swap_x_rays(asked, ORDER)
    for number, (before, after) in enumerate(zip(asked, swapped, strict=True)):
        assert after[:-1] == before[:-1]
        for part, new in zip(before[-1]["content"], after[-1]["content"], strict=True):
            shown = [item["image"] for item in asked[ORDER[number]][-1]["content"] if item["type"] == "image"]
            assert new is part if part["type"] == "text" else new["image"] is shown[0]


def test_a_prompt_without_an_x_ray_is_named():
    with pytest.raises(ValueError, match="has 0 images, expected one X-ray"):
        swap_x_rays([[{"role": "user", "content": [{"type": "text", "text": "left?"}]}]] * 2, np.array([1, 0]))


def test_the_curve_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    checks = [perception(best(STATES), best(SHOWN), STATES), perception(PRIOR, PRIOR, STATES)]
    save_perception_curve([0, 20], checks, tmp_path / "perception.png")
    save_perception_curve([], [], tmp_path / "nothing.png")
    assert (tmp_path / "perception.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "nothing.png").exists()
