"""Rewards for reinforcement learning of the language model: exact, and not to be won by exploits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import carm_env  # noqa: F401  registers the environment
from carm_env.actions import ALIGNED, N_ACTIONS, Move, MoveLattice
from carm_env.envs.registration import MAX_EPISODE_STEPS
from carm_env.landmarks import N_LANDMARKS
from carm_env.language.answers import Navigation, Question, render
from carm_env.language.chat import ChatCArm
from carm_env.language.reasons import navigation_answer
from carm_env.system.errors import UnknownNameError
from training.rewards import (
    ASKED,
    PARTS,
    QUESTION,
    TOTAL,
    UNREADABLE,
    RewardWeights,
    State,
    chosen_moves,
    episode_reward,
    outcome_reward,
    regrets,
    step_rewards,
)

WEIGHTS_FILE = Path(__file__).parents[2] / "training" / "configs" / "rewards.yaml"


def make_state(target_mm, low=(-300, -500), high=(300, 500), answers_left=20, target=11, **fields) -> State:
    """A view of a patient whose other landmarks lie around the target."""
    displacement = np.asarray(target_mm, float) + np.random.default_rng(0).uniform(-300, 300, (N_LANDMARKS, 2))
    displacement[target - 1] = target_mm
    visible = np.abs(displacement).max(1) < 120
    return State(displacement, visible, target, np.array([low, high], float), answers_left, **fields)


def after(state: State, action: int) -> State:
    """The state after a move, as the environment clips it."""
    moved = np.clip(state.lattice.table_mm()[action], *state.limits_mm)
    return replace(state, displacement_mm=state.displacement_mm - moved, limits_mm=state.limits_mm - moved)


def true_answer(state: State, action: int | None = None, seed: int = 0) -> Navigation:
    """An answer without regret, or one with another action; the closest landmark is right, and the reasons are true."""
    answer = navigation_answer(state.situation, state.target, state.lattice, np.random.default_rng(seed))
    if action is None and regrets([state])[0, answer.move.index]:
        action = int(regrets([state])[0].argmin())
    return answer if action is None else replace(answer, move=Move.from_index(action))


def true_text(state: State, action: int | None = None) -> str:
    return render(true_answer(state, action))


# --- the regret ---


def fewest_moves(state: State) -> int:
    """Breadth-first search over the isocentre."""
    moves, (low, high) = state.lattice.table_mm(), state.limits_mm
    seen, front = {(0.0, 0.0)}, np.zeros((1, 2))
    for count in range(MAX_EPISODE_STEPS):
        if (np.hypot(*(state.target_mm - front).T) <= state.tolerance_mm).any():
            return count
        reached = np.clip(front[:, None] + moves, low, high).reshape(-1, 2)
        new = {tuple(key): point for key, point in zip(np.round(reached, 5).tolist(), reached, strict=True)}
        front = np.array([point for key, point in new.items() if key not in seen]).reshape(-1, 2)
        seen |= new.keys()
    return MAX_EPISODE_STEPS


def least_cost(state: State) -> int:
    fewest = fewest_moves(state)
    # Where the target is out of reach, one move is as good as another.
    return fewest if fewest < MAX_EPISODE_STEPS else 1 + MAX_EPISODE_STEPS


@st.composite
def states(draw) -> State:
    """States in wide and narrow workspaces, with lattices that reach the target or not."""
    lattice = MoveLattice(draw(st.sampled_from([(30, 60, 90), (20, 50, 110), (40, 80, 150)])))
    sides = [draw(st.floats(60, 500)) for _ in range(2)]
    low = [-draw(st.one_of(st.just(0.0), st.just(side), st.floats(0, side))) for side in sides]
    high = [side + lowest for side, lowest in zip(sides, low, strict=True)]
    target = [draw(st.floats(a, b)) for a, b in zip(low, high, strict=True)]
    tolerance = draw(st.sampled_from([10.0, 25.0, 40.0]))
    return make_state(target, low, high, draw(st.integers(1, 20)), lattice=lattice, tolerance_mm=tolerance)


@settings(max_examples=25, deadline=None)
@given(states(), st.integers(0, N_ACTIONS - 1))
def test_the_regret_of_a_move_is_that_of_a_search(state, action):
    found = regrets([state])[0]
    fewest = fewest_moves(state)
    assert found.min() == 0
    assert (found[ALIGNED.index] == 0) == (fewest == 0)
    if action != ALIGNED.index:
        assert found[action] == 1 + fewest_moves(after(state, action)) - least_cost(state)


@settings(max_examples=25, deadline=None)
@given(states())
def test_a_wrong_stop_costs_the_answers_left_and_more_than_any_move(state):
    found = regrets([state])[0]
    if fewest_moves(state) == 0:
        assert found[ALIGNED.index] == 0 and np.delete(found, ALIGNED.index).min() >= 1
    else:
        assert found[ALIGNED.index] > np.delete(found, ALIGNED.index).max()
        more = regrets([replace(state, answers_left=state.answers_left + 30)], wrong_stop=100)[0]
        assert more[ALIGNED.index] == state.answers_left + 30 - least_cost(state)


@pytest.mark.parametrize(
    ("target_mm", "move", "answers_left", "regret"),
    [
        ((0, 0), Move(0, 0), 20, 0),
        ((24, 0), Move(0, 0), 20, 0),
        ((26, 0), Move(0, 0), 20, 19),  # a wrong stop: one move would have been enough
        ((26, 0), Move(0, 0), 7, 6),
        ((26, 0), Move(0, 0), 1, 3),  # more than the worst move, which goes away by 90 mm
        ((0, 0), Move(1, 0), 20, 2),  # a missed stop: there and back
        ((14, 0), Move(1, 0), 20, 1),  # still aligned after it
        ((90, -90), Move(3, -3), 20, 0),
        ((90, -90), Move(3, 0), 20, 1),
        ((90, -90), Move(-3, 0), 20, 2),
        ((270, 0), Move(2, 0), 20, 1),
        ((250, 0), Move(2, 0), 20, 0),  # 60 + 90 + 90 is near enough
        ((300, 0), Move(3, -1), 20, 0),  # three more moves along x, in which y can return
        ((300, 0), Move(0, -1), 20, 1),
        ((300, 0), Move(-3, 0), 20, 2),
    ],
)
def test_regrets_by_hand(target_mm, move, answers_left, regret):
    state = make_state(target_mm, answers_left=answers_left)
    assert regrets([state])[0, move.index] == regret


def test_a_move_against_the_limit_costs_its_exposure():
    state = make_state((80, 0), low=(0, -300), high=(300, 300))
    found = regrets([state])[0]
    assert found[Move(-3, 0).index] == 1
    assert found[Move(3, 0).index] == 0
    # The limit shortens a move, so that a target near it is reached at once.
    assert regrets([make_state((40, 0), high=(40, 300))])[0, Move(3, 0).index] == 0


def test_the_cost_of_a_wrong_stop_can_be_limited():
    state = make_state((26, 0))
    assert [int(regrets([state], cost)[0, ALIGNED.index]) for cost in (0, 5, 20, 100)] == [3, 4, 19, 19]


def test_states_that_are_shared_are_computed_once(monkeypatch):
    from training import rewards

    counts = []
    real = rewards.action_regrets
    monkeypatch.setattr(rewards, "action_regrets", lambda *given: counts.append(len(given[0])) or real(*given))
    coarse = MoveLattice((50, 100, 150))
    first, second, third = make_state((90, 0)), make_state((0, 90)), make_state((90, 0), lattice=coarse)
    found = regrets([first, third, second, first, third])
    assert sorted(counts) == [1, 2]
    for row, state in enumerate([first, third, second, first, third]):
        assert (found[row] == regrets([state])[0]).all()


# --- the environment ---


@pytest.fixture
def chat(small_patients):
    with gym.make("CArmNav-v0", patients=list(small_patients[:2]), image_size=16) as env:
        yield ChatCArm(env)


@pytest.mark.parametrize("projection", ["AP", "PA"])
def test_a_state_changes_as_the_environment_does(small_patients, projection):
    rng = np.random.default_rng(0)
    with gym.make("CArmNav-v0", patients=small_patients[0], image_size=16, projection=projection) as env:
        _, info = env.reset(seed=0)
        for number in range(12):
            state = State.of_environment(env, 20)
            assert np.hypot(*state.target_mm) == pytest.approx(info["distance_mm"])
            assert state.situation.closest()[:3] == info["closest_landmarks"].tolist()
            # Long moves in one direction reach the limits.
            action = int(rng.integers(N_ACTIONS)) if number < 6 else Move(3, -3).index
            expected = after(state, action)
            _, _, terminated, _, info = env.step(action)
            if terminated:
                env.reset(seed=number)
                continue
            found = State.of_environment(env, 20)
            np.testing.assert_allclose(found.displacement_mm, expected.displacement_mm, atol=1e-9)
            np.testing.assert_allclose(found.limits_mm, expected.limits_mm, atol=1e-9)
        assert info["move_clipped"]


def test_other_environments_and_oblique_views_are_refused(small_patients):
    with gym.make("CArmNav-v0", patients=small_patients[0], image_size=16, alpha_deg=20.0) as env:
        with pytest.raises(gym.error.ResetNeeded):
            State.of_environment(env, 20)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="expected frontal views"):
            State.of_environment(env, 20)
    with pytest.raises(ValueError, match="expected CArmNav-v0"):
        State.of_environment(gym.make("CartPole-v1"), 20)


# --- the parts ---


def nonsense(state: State, action: int) -> str:
    return render(Navigation(state.situation.closest()[-1], Move.from_index(action), "It is so.", "It is so."))


def padded(text: str, length: int) -> str:
    return text.replace("<step2>", "<step2>" + " " * (length - len(text)))


def test_the_parts_of_a_true_answer():
    state = make_state((100, -40))
    text = true_text(state)
    rewards = step_rewards([text, nonsense(state, 0), "I think so", f"Here it is: {text}"], [state] * 4)
    assert set(rewards) == {TOTAL, *PARTS, QUESTION}
    assert rewards["regret"].tolist() == [0, 2, 2, 2]
    assert rewards["form"].tolist() == [1, 1, 0, 0]
    assert rewards["context"].tolist() == [1, 0, 0, 0]
    assert rewards["reasons_true"].tolist() == [1, 0, 0, 0]
    assert rewards["length"].tolist() == [0, 0, 0, 0]
    assert rewards[TOTAL][1:].tolist() == pytest.approx([-1.9, -2, -2])
    assert rewards[TOTAL][0] == pytest.approx(0.5 + 0.3 * rewards["reasons_relevant"][0])


def test_a_lenient_reading_moves_but_lacks_the_form():
    state = make_state((100, -40))
    text = f"Here it is: {true_text(state)}"
    rewards = step_rewards([text, true_text(state)], [state] * 2, reading="lenient")
    assert rewards["regret"].tolist() == [0, 0]
    assert rewards["form"].tolist() == [0, 1]
    assert chosen_moves([text], "lenient").tolist() == [true_answer(state).move.index]
    assert chosen_moves([text]).tolist() == [UNREADABLE]


def test_reasons_are_relevant_where_they_imply_the_best_move():
    # No other landmark is near, so that the reasons name the middle of the view.
    displacement = np.full((N_LANDMARKS, 2), np.nan)
    displacement[10] = (90, 60)
    state = State(displacement, np.arange(N_LANDMARKS) == 10, 11, np.array([[-300, -300], [300, 300]]), 20)
    rewards = step_rewards([true_text(state)], [state])
    assert rewards["reasons_relevant"].tolist() == [1]
    assert rewards[TOTAL].tolist() == pytest.approx([0.8])


ASKS = render(Question(11, "Is this the carina?"))


@pytest.mark.parametrize("reading", ["strict", "lenient"])
def test_a_question_costs_one_exposure_and_can_be_read(reading):
    state = make_state((100, -40))
    rewards = step_rewards([ASKS, "I think so", true_text(state)], [state] * 3, reading=reading)
    assert rewards["regret"].tolist() == [1, 2, 0]
    assert rewards[QUESTION].tolist() == [1, 0, 0]
    assert rewards["form"].tolist() == [1, 0, 1]
    assert rewards["context"].tolist() == [0, 0, 1]
    assert rewards[TOTAL][0] == pytest.approx(-0.9)
    assert chosen_moves([ASKS, "I think so"], reading).tolist() == [ASKED, UNREADABLE]


def test_only_a_lenient_reading_finds_a_question_in_prose():
    state, text = make_state((100, -40)), f"I am not sure. {ASKS}"
    assert step_rewards([text], [state])[QUESTION].tolist() == [0]
    rewards = step_rewards([text], [state], reading="lenient")
    assert rewards[QUESTION].tolist() == [1] and rewards["form"].tolist() == [0]


@settings(max_examples=50, deadline=None)
@given(states(), st.floats(0.95, 50))
def test_a_question_is_between_a_right_answer_and_an_unreadable_one(state, cost):
    best = int(regrets([state])[0].argmin())
    texts = [nonsense(state, best), padded(nonsense(state, best), 3000), ASKS, "left!"]
    right, long, asked, unreadable = step_rewards(texts, [state] * 4, RewardWeights(question=cost))[TOTAL]
    assert unreadable < asked < long < right


def test_a_question_is_better_than_a_likely_wrong_stop_and_worse_than_a_likely_right_one():
    near, far = make_state((10, 0)), make_state((60, 0))
    stop, stop_far, asked, asked_far = step_rewards(
        [true_text(near, ALIGNED.index), nonsense(far, ALIGNED.index), ASKS, ASKS],
        [near, far, near, far],
        RewardWeights(wrong_stop=4),
    )[TOTAL]
    assert asked < stop and asked_far > stop_far


def test_length_is_free_punished_and_bounded():
    state, weights = make_state((100, -40)), RewardWeights(free_characters=1000, longest_characters=2000)
    texts = [padded(true_text(state), length) for length in (600, 1000, 1500, 2000, 3900)]
    rewards = step_rewards(texts, [state] * 5, weights)
    assert rewards["form"].all()
    assert rewards["length"].tolist() == [0, 0, 0.5, 1, 1]
    assert np.diff(rewards[TOTAL]) == pytest.approx([0, -0.05, -0.05, 0])


@settings(max_examples=50, deadline=None)
@given(states(), st.integers(0, 1000))
def test_no_true_answer_is_too_long(state, seed):
    assert len(render(true_answer(state, seed=seed))) < RewardWeights().free_characters


@pytest.mark.parametrize("target_mm", [(0, 0), (20, 10), (100, -40), (280, 480), (-20, 120)])
def test_no_wording_makes_up_for_an_exposure(target_mm):
    state = make_state(target_mm)
    wordings: list[Callable[[State, int], str]] = [
        true_text,
        nonsense,
        lambda state, action: padded(true_text(state, action), 1300),
        lambda state, action: padded(nonsense(state, action), 3000),
    ]
    texts = [word(state, action) for word in wordings for action in range(N_ACTIONS)] + ["", "left!", "x" * 5000]
    rewards = step_rewards(texts, [state] * len(texts))
    regret, total = rewards["regret"], rewards[TOTAL]
    is_better = regret[:, None] < regret
    assert is_better.any()
    assert (total[:, None] > total)[is_better].all()
    # An answer that cannot be read has less than every move of an answer of usual length.
    moves = np.array([n % N_ACTIONS != ALIGNED.index for n in range(2 * N_ACTIONS)])
    assert total[-3:].max() < total[: 2 * N_ACTIONS][moves].min()
    assert (regret[-3:] == max(regret[: 2 * N_ACTIONS][moves].max(), 1)).all()
    assert total.max() == step_rewards([true_text(state)], [state])[TOTAL][0]


def test_nothing_is_rewarded_for_no_answers():
    assert {len(values) for values in step_rewards([], []).values()} == {0}
    with pytest.raises(ValueError, match="got 1 texts and 0 states"):
        step_rewards(["a"], [])
    with pytest.raises(UnknownNameError, match="Did you mean 'strict'"):
        step_rewards(["a"], [make_state((0, 0))], reading="stric")


# --- exploits ---


def most_common_landmark(state: State) -> str:
    answer = true_answer(state)
    return render(replace(answer, context=14, context_name=""))


def oscillation(state: State) -> str:
    return true_text(state, Move(1 if state.answers_left % 2 else -1, 0).index)


def random_moves(state: State) -> str:
    return nonsense(state, int(np.random.default_rng(state.answers_left).integers(N_ACTIONS)))


def never_stopping(state: State) -> str:
    aligned = np.hypot(*state.target_mm) <= state.tolerance_mm
    return oscillation(state) if aligned else true_text(state)


EXPLOITS: dict[str, Callable[[State], str]] = {
    "form alone": random_moves,
    "stopping at once": lambda state: true_text(state, ALIGNED.index),
    "oscillating": oscillation,
    "never stopping": never_stopping,
    "long answers": lambda state: padded(true_text(state), 3900),
    "the most common landmark": most_common_landmark,
    "unreadable": lambda state: "<output>" + "LEFT " * 20,
    "asking all the time": lambda state: ASKS,
    "long and unreadable": lambda state: true_text(state) * 3,
    "no answer": lambda state: "",
}


def play(chat: ChatCArm, answer: Callable[[State], str], seed: int) -> tuple[list[float], bool]:
    """Plays an episode; returns the rewards of the steps, and whether it was a success."""
    chat.reset(seed)
    steps = []
    for number in range(MAX_EPISODE_STEPS):
        state = State.of_environment(chat.env, MAX_EPISODE_STEPS - number)
        text = answer(state)
        found, honest = step_rewards([text, true_text(state)], [state] * 2)[TOTAL]
        assert found <= honest + 1e-12, "an exploit has a greater reward than the true answer to the same state"
        steps.append(float(found))
        turn = chat.step(text)
        if turn.terminated or turn.truncated:
            break
    return steps, bool(turn.info["is_success"])


@pytest.mark.parametrize("name", EXPLOITS)
def test_exploits_lose_against_true_answers(chat, name):
    lost = []
    for seed in range(3):
        honest_steps, honest_success = play(chat, true_text, seed)
        steps, success = play(chat, EXPLOITS[name], seed)
        assert honest_success
        honest, exploit = episode_reward(honest_steps, honest_success), episode_reward(steps, success)
        assert exploit.total <= honest.total
        lost.append(exploit.total < honest.total and np.mean(steps) < np.mean(honest_steps))
    # The most common landmark may be the closest one in every view of a short episode.
    assert sum(lost) >= (1 if name == "the most common landmark" else 3)


@settings(max_examples=20, deadline=None)
@given(states(), st.lists(st.integers(0, N_ACTIONS - 1), max_size=12))
def test_no_detour_pays(state, actions):
    """With all small terms, moves in any order and then the best moves have no more than the best moves alone."""
    small = 0.4

    def best_moves(start: State) -> tuple[float, int]:
        total, turns = 0.0, 0
        while (found := regrets([start])[0])[ALIGNED.index] and turns < MAX_EPISODE_STEPS:
            start, total, turns = after(start, int(np.delete(found, ALIGNED.index).argmin())), total + small, turns + 1
        return total + small, turns

    direct, turns = best_moves(state)
    if turns == MAX_EPISODE_STEPS:
        return
    detour = 0.0
    for action in actions:
        if action != ALIGNED.index:
            detour += small - regrets([state])[0, action]
            state = after(state, action)
    rest, turns = best_moves(state)
    assert detour + rest <= direct + 1e-9 or turns == MAX_EPISODE_STEPS


# --- episodes ---


def test_the_reward_of_an_episode():
    reward = episode_reward([0.4, -0.6, 0.4], True, RewardWeights(outcome=2))
    assert reward.total == pytest.approx(2.2)
    assert reward.turns == pytest.approx([2.4, 1.4, 2.4])
    failure = episode_reward([0.4, -0.6], False)
    assert failure.total == pytest.approx(-0.2)
    assert failure.turns == pytest.approx([0.4, -0.6])
    assert episode_reward([], False).total == 0


@pytest.mark.parametrize(("success", "value"), [(True, 1.0), (np.False_, 0.0)])
def test_the_binary_reward_is_credited_to_every_turn(success, value):
    reward = outcome_reward(3, success)
    assert reward.total == value and reward.turns.tolist() == [value] * 3
    assert outcome_reward(0, success).turns.tolist() == []


# --- weights ---


def test_the_default_weights_are_those_of_the_file():
    assert RewardWeights.from_yaml(WEIGHTS_FILE) == RewardWeights()


def test_weights_are_read_from_a_file(tmp_path):
    path = tmp_path / "weights.yaml"
    path.write_text("regret: 2\nform: 0.5\nwrong_stop: 5\n", encoding="utf-8")
    assert RewardWeights.from_yaml(path) == RewardWeights(regret=2, form=0.5, wrong_stop=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("regrets: 1", "Did you mean 'regret'"),
        ("reason_true: 0.1", "Did you mean 'reasons_true'"),
        ("form: -0.1", "form is -0.1, expected 0 or more"),
        ("form: much", "form is 'much', expected a finite number"),
        ("form: true", "form is True, expected a finite number"),
        ("form: .nan", "weights.yaml"),
        ("form: 0.7", "add up to 1.5, expected less than regret, which is 1"),
        ("regret: 0", "expected less than regret, which is 0"),
        ("question: 0.5", "question is 0.5, expected more than 0.9"),
        ("free_characters: 1800", "longest_characters is 1800, expected more than free_characters"),
        ("[1, 2]", "weights.yaml"),
        ("form: [0.1", "weights.yaml"),
    ],
)
def test_wrong_weights_are_named(tmp_path, text, message):
    path = tmp_path / "weights.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        RewardWeights.from_yaml(path)
    assert "weights.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"displacement_mm": np.zeros((13, 2))}, "displacement_mm has the shape"),
        ({"visible": np.ones(3, bool)}, "visible has the shape"),
        ({"limits_mm": np.zeros(2)}, "limits_mm has the shape"),
        ({"limits_mm": np.ones((2, 2))}, "lowest at most 0"),
        ({"limits_mm": np.full((2, 2), np.nan)}, "lowest at most 0"),
        ({"displacement_mm": np.full((N_LANDMARKS, 2), np.nan)}, "target Carina is not finite"),
        ({"target": 15}, "unknown landmark"),
        ({"answers_left": 0}, "answers_left is 0"),
        ({"tolerance_mm": 0.0}, "tolerance_mm is 0.0"),
    ],
)
def test_wrong_states_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(make_state((0, 0)), **changes)
