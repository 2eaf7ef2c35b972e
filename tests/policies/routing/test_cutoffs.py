import math
import random

import pytest

from carm_env.chat_models.top_two import Candidate
from carm_env.system.files import write_json
from policies.routing.cutoffs import Cutoffs, CutoffsError, learn_cutoffs, read_cutoffs, sweep, write_cutoffs
from policies.routing.selection import FIRST, NO_CUTOFF, SECOND, STAGES, select, stage_name

GRID = (0.0, 0.05, 0.1, 0.1, 0.2, 0.3, 0.3, 0.31, 0.4, 0.45, 0.5, 1.0)


def right(values, second, cutoff):
    """Counts the samples for which the selector of algorithm 1 takes the right answer."""
    chosen = [
        select([Candidate("a", 1.0), Candidate("b", value)], cutoff).index == (SECOND if is_second else FIRST)
        for value, is_second in zip(values, second, strict=True)
    ]
    return sum(chosen)


def brute_force(values, second):
    """Tries a cutoff in every gap between the values, at 0 and beyond 1."""
    edges = sorted({0.0, *values, 1.0 if 1.0 not in values else math.nextafter(1.0, 2.0)})
    gaps = list(zip(edges[:-1], edges[1:], strict=True))
    if 0.0 in values:
        gaps.insert(0, (0.0, 0.0))
    scores = {}
    for low, high in gaps:
        tried = low + (high - low) / 2
        scores[low, high] = right(values, second, tried if tried > low or low == high else high)
    best = max(scores.values())
    return tuple(gap for gap in gaps if scores[gap] == best), best


def test_the_sweep_equals_brute_force_on_ten_thousand_cases():
    rng = random.Random(0)
    for case in range(10_000):
        count = rng.choice((0, 1, 2, 3, 5, 8, 12))
        values = [rng.choice(GRID) if case % 2 else rng.random() / 2 for _ in range(count)]
        share = rng.choice((0.0, 0.2, 0.5, 1.0))
        second = [rng.random() < share for _ in range(count)]
        found = sweep(values, second)
        assert (found.intervals, found.score) == brute_force(values, second)
        assert right(values, second, found.cutoff) == found.score
        # No other cutoff is better.
        assert all(right(values, second, cutoff) <= found.score for cutoff in (*values, rng.random(), NO_CUTOFF))


def test_the_form_is_that_of_the_papers_table_1():
    # Two optimal intervals, of which the wider one gives the cutoff.
    values = [0.0005, 0.0011, 0.001334, 0.001985, 0.00303, 0.2]
    labels = [False, False, True, False, True, True]
    found = sweep(values, labels)
    assert found.intervals == ((0.0011, 0.001334), (0.001985, 0.00303))
    assert found.cutoff == pytest.approx((0.001985 + 0.00303) / 2) and found.score == 5
    assert sweep([0.4171, 0.43475], [False, True]).cutoff == pytest.approx(0.425925)


def test_one_class_and_no_sample():
    assert sweep([0.1, 0.2], [False, False]).intervals == ((0.2, 1.0),)
    assert sweep([0.1, 0.2], [True, True]).intervals == ((0.0, 0.1),)
    assert sweep([], []) == sweep([], [])
    assert sweep([], []).intervals == ((0.0, 1.0),) and sweep([], []).score == 0
    assert sweep([0.0], [True]).cutoff == 0.0


def test_equal_values_are_crossed_together():
    found = sweep([0.3, 0.3, 0.3], [True, False, False])
    assert found.intervals == ((0.3, 1.0),) and found.score == 2
    assert sweep([0.3, 0.3], [True, False]).intervals == ((0.0, 0.3), (0.3, 1.0))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_probability_out_of_range_is_named(value):
    with pytest.raises(CutoffsError, match="expected 0 to 1"):
        sweep([value], [True])


def test_algorithm_1():
    first, second = Candidate("None", 0.5), Candidate("chest CT scan", 0.4)
    assert select([first, second]).index == FIRST
    assert select([first, second], 0.4) == select([first, second], 0.1)
    assert select([first, second], 0.4).answer == "chest CT scan"
    # Equal answers from different first tokens: the first stays.
    assert select([first, Candidate("None", 0.4)], 0.1).index == FIRST
    assert select([first], 0.0).index == FIRST
    with pytest.raises(ValueError, match="the second candidate has probability 0.5"):
        select([second, first])
    with pytest.raises(ValueError, match="got 0 candidates"):
        select([])


def test_cutoffs_survive_writing_and_reading(tmp_path):
    made = learn_cutoffs(["modality", "card", "card"], [0.1, 0.2, 0.3], [FIRST, FIRST, SECOND], "abc", "m")
    write_cutoffs(tmp_path / "c.json", made)
    assert read_cutoffs(tmp_path / "c.json", "abc") == made
    assert made.of("card") == pytest.approx(0.25) and made.of("finding") == NO_CUTOFF


def test_cutoffs_of_another_repository_are_refused(tmp_path):
    write_cutoffs(tmp_path / "c.json", Cutoffs({"card": 0.2}, "a" * 64))
    with pytest.raises(
        CutoffsError, match="learned with the card repository aaaaaaaaaaaa, but this one is bbbbbbbbbbbb"
    ):
        read_cutoffs(tmp_path / "c.json", "b" * 64)


def test_cutoffs_of_another_model_are_refused(tmp_path):
    write_cutoffs(tmp_path / "c.json", Cutoffs({"card": 0.2}, "", model="shipped"))
    with pytest.raises(CutoffsError, match="learned with the model shipped, but this one is other"):
        read_cutoffs(tmp_path / "c.json", "", "other")
    for same in ("", "shipped", "shipped?threads=1"):
        assert read_cutoffs(tmp_path / "c.json", "", same).model == "shipped"


@pytest.mark.parametrize(
    "values",
    [{"format": 2, "repository": "", "stages": {}}, {"format": 1, "repository": ""}, {"format": 1, "cutoff": 2},
     {"format": 1, "repository": "", "stages": {"colour": {"cutoff": 0.1}}},
     {"format": 1, "repository": "", "stages": {"card": {"cutoff": "high"}}}],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, values):
    write_json(tmp_path / "c.json", values)
    with pytest.raises(CutoffsError, match="holds no cutoffs"):
        read_cutoffs(tmp_path / "c.json", "")


def test_stages_have_names_and_numbers():
    assert [stage_name(number) for number in (1, "2", " Card ")] == list(STAGES)
    with pytest.raises(ValueError, match="unknown stage '4'"):
        stage_name("4")
