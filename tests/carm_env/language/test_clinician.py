import numpy as np
import pytest

from carm_env.actions import MoveLattice
from carm_env.language.advice_reader import read_advice
from carm_env.language.clinician import (
    REVIEW_KINDS,
    STEP_KINDS,
    Clinician,
    ClinicianSettings,
    review_advice,
    step_advice,
    vaguer,
)
from carm_env.language.reasons import Situation

PLACES_MM = np.array(
    [[0, 250], [-170, 60], [170, 60], [-110, -120], [110, -120], [-220, -200], [220, -200], [-150, -300], [150, -300],
     [0, 90], [0, 0], [-70, -130], [70, -130], [0, -230]], float,
)  # fmt: skip


def view(x_mm, y_mm):
    away = PLACES_MM - (x_mm, y_mm)
    return Situation(away, (np.abs(away) < 95).all(1))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_reviews_are_true(rng):
    at_carina, at_left_elbow = view(3, 4), view(219, -198)
    assert review_advice("verdict", at_carina, [10, 11], rng).landmark == 10
    assert review_advice("verdict", at_carina, [11, 10], rng) is None
    assert review_advice("confirmation", at_carina, [11, 10], rng).landmark == 11
    assert review_advice("landmark", at_carina, [10, 11], rng).landmark == 11
    down = review_advice("direction", at_carina, [10, 11], rng)
    assert (down.x, down.y) == (0, -1)
    assert review_advice("side", at_left_elbow, [6, 5], rng).kind == "side"
    assert review_advice("side", at_left_elbow, [9, 5], rng) is None
    assert review_advice("side", at_carina, [10, 11], rng) is None


def test_steps_are_true(rng):
    at_carina = view(3, 4)
    up = step_advice("direction", at_carina, 10, rng)
    assert (up.x, up.y) == (0, 1) and up.distance_mm == pytest.approx(86)
    assert step_advice("distance", at_carina, 10, rng).distance_mm == pytest.approx(86.05, abs=0.01)
    assert step_advice("direction", at_carina, 11, rng) is None
    assert step_advice("confirmation", at_carina, 11, rng).landmark == 11
    assert step_advice("verdict", at_carina, 10, rng).landmark == 10
    assert step_advice("landmark", at_carina, 10, rng).landmark == 11
    assert step_advice("side", view(219, -198), 6, rng).kind == "side"


@pytest.mark.parametrize("kind", sorted({*REVIEW_KINDS, *STEP_KINDS} - {"again", "distance"}))
def test_wrong_advice_contradicts_the_truth(kind, rng):
    contradicts = 0
    for _ in range(200):
        situation = view(*rng.uniform((-200, -280), (200, 240)))
        ranked = situation.closest()
        named = [int(key) for key in rng.choice(ranked[:4], 2, replace=False)]
        if kind in REVIEW_KINDS:
            wrong = review_advice(kind, situation, named, rng, is_wrong=True)
            assert wrong is None or wrong != review_advice(kind, situation, named, rng)
            contradicts += wrong is not None
        if kind in STEP_KINDS:
            wrong = step_advice(kind, situation, named[0], rng, is_wrong=True)
            right = step_advice(kind, situation, named[0], rng)
            assert wrong is None or right is None or vaguer(wrong) != vaguer(right)
            contradicts += wrong is not None
    assert contradicts > 20


def test_absent_landmarks_give_no_direction(rng):
    away = PLACES_MM.copy()
    away[9] = np.nan
    assert review_advice("direction", Situation(away, np.zeros(14, bool)), [10, 2], rng) is None


def test_the_same_seed_gives_the_same_words():
    def words(seed):
        clinician = Clinician(seed=seed)
        return [clinician.advise(view(40 * step, 0), 10).text for step in range(8)]

    assert words(1) == words(1) != words(2)


def test_sentences_mean_what_the_clinician_means(rng):
    clinician = Clinician(ClinicianSettings(wrong_rate=0.3))
    said = [
        sentence
        for _ in range(200)
        if (sentence := clinician.advise(view(*rng.uniform((-200, -280), (200, 240))), int(rng.integers(1, 15))))
    ]
    assert {sentence.advice.kind for sentence in said} == set(STEP_KINDS)
    assert 0.15 < np.mean([sentence.is_wrong for sentence in said]) < 0.45
    for sentence in said:
        (advice,) = read_advice(sentence.text)
        assert (advice.kind, advice.x, advice.y) == (sentence.advice.kind, sentence.advice.x, sentence.advice.y)


def test_help_is_limited_late_or_absent():
    silent, brief = Clinician(ClinicianSettings(help_rate=0)), Clinician(ClinicianSettings(max_sentences=2))
    assert all(silent.advise(view(0, 0), 10) is None for _ in range(20))
    assert sum(brief.advise(view(0, 0), 10) is not None for _ in range(20)) == 2 == brief.sentences
    late = Clinician(ClinicianSettings(delay=2, kinds=("direction",), vagueness=0))
    first = [late.advise(view(0, 0), 10), late.silence(), late.silence()]
    assert first[:2] == [None, None] and (first[2].advice.x, first[2].advice.y) == (0, 1)
    assert late.silence() is None


def test_a_review_objects_to_a_wrong_closest_landmark_and_to_no_right_one():
    clinician, situation = Clinician(ClinicianSettings(review_rate=1.0, vagueness=0.0)), view(0, 0)
    first, second = situation.closest()[:2]
    said = [clinician.review(situation, [second, first]) for _ in range(20)]
    assert {(sentence.advice.kind, sentence.advice.landmark) for sentence in said} == {
        ("verdict", second),
        ("landmark", first),
    }
    for named in ([first, second], [], [0, 0], [15]):
        assert clinician.review(situation, named) is None
    assert Clinician().review(situation, [second]) is None, "reviews are off by default"
    sometimes = Clinician(ClinicianSettings(review_rate=0.3))
    assert 30 < sum(sometimes.review(situation, [second]) is not None for _ in range(200)) < 90


def test_a_wrong_review_objects_to_a_right_name_and_accepts_a_wrong_one():
    clinician, situation = Clinician(ClinicianSettings(review_rate=1.0, wrong_rate=1.0)), view(0, 0)
    first, second = situation.closest()[:2]
    assert all(clinician.review(situation, [first]).is_wrong for _ in range(10))
    assert clinician.review(situation, [second]) is None


def wishes(settings, seed, targets=(4, 11)):
    clinician = Clinician(settings, seed)
    return clinician, [clinician.wish(moves, targets) for moves in range(8)]


def test_a_wish_names_another_target_once_in_an_episode():
    after = []
    for seed in range(30):
        clinician, found = wishes(ClinicianSettings(wish_rate=1.0, max_sentences=0), seed)
        (sentence,) = [wish for wish in found if wish]
        assert [advice.landmark for advice in read_advice(sentence.text)] == [sentence.advice.landmark]
        assert sentence.advice.landmark in (4, 11) and clinician.sentences == 0, "a wish is no help"
        after.append(found.index(sentence))
    assert set(after) == {1, 2, 3}
    assert not any(wishes(ClinicianSettings(wish_rate=1.0), 0, ())[1]), "there is no other target"
    assert not any(any(wishes(ClinicianSettings(), seed)[1]) for seed in range(30)), "wishes are off by default"
    assert 5 < sum(any(wishes(ClinicianSettings(wish_rate=0.4), seed)[1]) for seed in range(40)) < 28


def test_wishes_do_not_depend_on_the_help():
    for seed in range(10):
        talkative, silent = (ClinicianSettings(help_rate=rate, wish_rate=0.5) for rate in (1.0, 0.0))
        clinician = Clinician(talkative, seed)
        said = []
        for moves in range(8):
            clinician.advise(view(0, 0), 10)
            said.append(clinician.wish(moves, [4, 11]))
        assert said == wishes(silent, seed)[1]


def test_words_about_the_earlier_target_are_not_said_after_a_wish():
    settings = ClinicianSettings(delay=2, wish_rate=1.0)
    for seed in range(10):
        clinician = Clinician(settings, seed)
        clinician.advise(view(0, 0), 10)
        assert any(clinician.wish(moves, [11]) for moves in range(4))
        assert [clinician.silence() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"help_rate": 1.2}, "help_rate is 1.2, expected 0 to 1"),
        ({"wrong_rate": float("nan")}, "wrong_rate is nan"),
        ({"delay": -1}, "delay is -1"),
        ({"review_rate": 2}, "review_rate is 2, expected 0 to 1"),
        ({"wish_rate": -0.1}, "wish_rate is -0.1, expected 0 to 1"),
        ({"max_sentences": -1}, "max_sentences is -1"),
        ({"kinds": ("shout",)}, "expected some of"),
        ({"kinds": ()}, "expected some of"),
    ],
)
def test_settings_are_checked(values, expected):
    with pytest.raises(ValueError, match=expected):
        ClinicianSettings(**values)


def test_the_lattice_decides_what_is_near(rng):
    coarse = MoveLattice((200.0, 300.0, 400.0))
    assert step_advice("direction", view(0, 40), 11, rng, lattice=coarse) is None


def test_a_patient_with_one_landmark_has_no_other_to_confuse_it_with(rng):
    away = np.full((14, 2), np.nan)
    away[9] = (0.0, 5.0)
    alone = Situation(away, np.isfinite(away[:, 0]))
    for kind in REVIEW_KINDS:
        review_advice(kind, alone, [10], rng, is_wrong=True)
    assert step_advice("landmark", alone, 10, rng, is_wrong=True) is None


def test_no_objection_confirms():
    for seed in range(40):
        clinician = Clinician(ClinicianSettings(wrong_rate=1.0), seed)
        sentence = clinician.objection(view(18, 0), 11, is_right=True)
        assert sentence is not None and sentence.advice.kind != "confirmation"


def test_the_meaning_of_a_vague_sentence_is_vague():
    vague = Clinician(ClinicianSettings(vagueness=1.0, kinds=("direction",)))
    assert vague.advise(view(0, 0), 10).advice.distance_mm is None
