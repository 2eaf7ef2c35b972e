"""Groups of policies that cannot be told apart, and the number of patients that would tell them apart."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.evaluation.intervals import mean_interval, mean_p_value
from carm_env.evaluation.ties import patients_needed, power_note, success_differences, tie_groups

NAMES = tuple("stuvw")


@given(st.sets(st.sampled_from(list(combinations(NAMES, 2)))))
def test_policies_share_a_letter_unless_they_differ(differing):
    letters = tie_groups(NAMES, sorted(differing))
    for pair in combinations(NAMES, 2):
        assert bool(set(letters[pair[0]]) & set(letters[pair[1]])) == (pair not in differing)
    assert all(letters[name] == "".join(sorted(letters[name])) for name in NAMES)
    members = [frozenset(n for n in NAMES if letter in letters[n]) for letter in sorted({*"".join(letters.values())})]
    assert not any(one < other for one in members for other in members)
    assert letters[NAMES[0]].startswith("a")


def test_more_groups_than_letters_are_numbered():
    # One policy in each of two from each of many pairs gives 2^n groups.
    names = [f"{side}{number}" for number in range(5) for side in "xy"]
    letters = tie_groups(names, [(f"x{number}", f"y{number}") for number in range(5)])
    assert "(32)" in letters["y4"]


def test_differences_are_corrected_for_the_number_of_pairs(make_result):
    def group(policy, successes):
        return [
            make_result(policy=policy, episode=number, patient=f"p{number % 8}", success=success)
            for number, success in enumerate(successes)
        ]

    groups = {"good": group("good", [True] * 16), "bad": group("bad", [False] * 16), "also": group("also", [True] * 16)}
    found = {(one.first, one.second): one for one in success_differences(groups)}
    assert found["good", "bad"].p_holm == 0 and found["good", "bad"].better == "good"
    assert found["good", "also"].p_holm == 1 and found["good", "also"].better is None
    assert power_note(groups) is None
    assert success_differences({"good": groups["good"]}) == []
    mixed = group("mixed", [number % 8 > 1 for number in range(16)])
    p_value = mean_p_value([1.0 - one.success for one in mixed], [one.patient for one in mixed])
    pairs = {**groups, "mixed": mixed}
    of_mixed = {(one.first, one.second): one for one in success_differences(pairs)}["good", "mixed"]
    # Of six pairs, three are without spread and of the lowest p values; the three of `mixed` follow.
    assert of_mixed.p_holm == pytest.approx(min(1.0, 3 * p_value), rel=0.5) and of_mixed.p_holm > p_value


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([-1.0, 0.0, 1.0])), min_size=2, max_size=30))
def test_a_p_value_below_5_percent_belongs_to_an_interval_without_0(values):
    patients, numbers = zip(*values, strict=True)
    p_value = mean_p_value(numbers, patients)
    if p_value is None:
        assert len(set(patients)) == 1
        return
    low, high = mean_interval(numbers, patients)
    if abs(low) > 1e-9 and abs(high) > 1e-9:
        assert (p_value < 0.05) == (not low <= 0 <= high)


def test_the_number_of_patients_shows_the_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    spread, difference = 0.2, 0.1
    first = rng.choice([0.0, 1.0], 400)
    names = [str(number // 4) for number in range(400)]
    second = rng.choice([0.0, 1.0], 400)
    count = patients_needed(first, second, names, difference=difference)
    spread = np.std((first - second).reshape(100, 4).mean(1), ddof=1)
    drawn = rng.normal(difference, spread, (4000, count))
    shown = np.abs(drawn.mean(1)) > 1.96 * drawn.std(1, ddof=1) / np.sqrt(count)
    assert shown.mean() == pytest.approx(0.8, abs=0.03)


def test_one_patient_or_equal_policies_need_no_number(make_result):
    assert patients_needed([1, 0], [0, 0], ["a", "a"]) is None
    assert patients_needed([1, 0], [1, 0], ["a", "b"]) is None
    results = [
        [make_result(policy=name, episode=n, patient=f"p{n // 2}", success=bool(n % step)) for n in range(12)]
        for name, step in (("x", 2), ("y", 3))
    ]
    assert "patients (" in power_note(dict(zip("xy", results, strict=True)))
