from dataclasses import replace

import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.envs.episode import EpisodeSpec
from carm_env.evaluation.assistance import run_assisted
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.policy import Decision, Policy
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.replay_page import target_name
from carm_env.evaluation.runner import run_episode, suite_environment
from carm_env.evaluation.suite import Suite
from carm_env.landmarks import landmark
from carm_env.language.advice_reader import read_advice
from carm_env.language.clinician import WISH_MOVES, ClinicianSettings
from carm_env.transcripts.read import find_transcripts, read_transcript
from carm_env.transcripts.records import FeedbackLine

DIRECTIONS = ClinicianSettings(kinds=("direction",), vagueness=0.0)


class Obedient(Policy):
    """Sees nothing: declares, or asks, and goes where the clinician says."""

    def __init__(self, first=None):
        self.first = first or Decision(ALIGNED)

    def reset(self, seed=None):
        self.heard = []
        self.next = self.first

    def feedback(self, text):
        self.heard.append(text)
        (advice,) = read_advice(text)
        size = 1 if (advice.distance_mm or 60) < 45 else 2 if (advice.distance_mm or 60) <= 75 else 3
        self.next = Decision(Move(size * advice.x, size * advice.y))

    def act(self, observation, info):
        decision, self.next = self.next, self.first
        return decision


class Scripted(Obedient):
    def __init__(self, *answers):
        self.answers = answers

    def reset(self, seed=None):
        self.heard, self.queue = [], list(self.answers)

    def feedback(self, text):
        self.heard.append(text)

    def act(self, observation, info):
        return self.queue.pop(0)


@pytest.fixture
def task(small_patients):
    """The route from the right scapula to the skull of one small patient."""
    suite = Suite("one", 1, "a route", 20, (EpisodeSpec(small_patients[0], 1, 4),), {"image_size": 16})
    return EpisodeTask(suite, 0, "tested", 7)


def run(policy, task, settings=DIRECTIONS, **options):
    return run_assisted(policy, suite_environment(task.suite), task, settings, **options)


def test_objections_lead_a_blind_policy_to_the_target(task):
    found = run(Obedient(), task)
    assert found.episode.success and found.sentences > 1 and found.wrong_sentences == 0
    assert found.episode.steps == 2 * found.sentences + 1, "each sentence takes a declaration and a move"
    assert len(found.words) == found.sentences


def test_questions_are_answered_and_otherwise_hand_back(task):
    asks = Decision(ALIGNED, abstain=True, question="Which way is the skull?")
    found = run(Scripted(asks, Decision(ALIGNED)), task, replace(DIRECTIONS, max_sentences=1))
    assert (found.questions, found.sentences, found.episode.outcome) == (1, 1, "misaligned")
    found = run(Scripted(asks), task, ClinicianSettings(max_sentences=0))
    assert (found.questions, found.sentences, found.episode.outcome) == (1, 0, "abstained")


def test_without_sentences_an_episode_is_one_without_a_clinician(task):
    alone = run_episode(Obedient(), suite_environment(task.suite), task)
    found = run(Obedient(), task, ClinicianSettings(max_sentences=0))
    timeless = {"latency_ms": 0, "decision_ms": []}
    assert found.sentences == 0 and replace(found.episode, **timeless) == replace(alone, **timeless)


def test_right_declarations_are_accepted(task):
    found = run(OraclePolicy(), task)
    assert found.episode.success and found.sentences == 0


def test_a_clinician_who_is_always_wrong_objects_to_right_declarations(task):
    policy = OraclePolicy()
    policy.feedback = lambda text: None
    found = run(policy, task, ClinicianSettings(wrong_rate=1.0, max_sentences=3))
    assert found.episode.success and found.sentences == found.wrong_sentences == 3


def test_the_clinician_speaks_after_two_moves_away(task):
    away = Decision(Move(0, -1))
    found = run(Scripted(away, away, away, away, away, Decision(ALIGNED, abstain=True)), task)
    assert found.sentences == 2 and all(read_advice(text)[0].y == 1 for text in found.words)


WISHES = ClinicianSettings(wish_rate=1.0, max_sentences=0)


@pytest.mark.parametrize("settings", [WISHES, replace(WISHES, max_sentences=2)])
def test_a_wish_changes_the_target_and_success_refers_to_the_last_one(task, settings):
    found = run(OraclePolicy(), task, settings)
    first, last = found.targets
    assert found.episode.success and found.wishes == 1 and found.sentences == 0
    assert (first, found.episode.target) == (1, 1) and last != 1
    assert [advice.landmark for text in found.words for advice in read_advice(text)] == [last]
    patient = suite_environment(task.suite).scene.patient
    away = np.subtract(found.episode.trajectory_lps_mm[-1], patient.landmarks_lps_mm[last])[[0, 2]]
    assert np.hypot(*away) == pytest.approx(found.episode.final_distance_mm) and np.hypot(*away) <= 25
    assert run(OraclePolicy(), task, settings).targets == found.targets, "the seed decides"


def test_the_policy_hears_the_wish_and_sees_the_new_target(task, tmp_path):
    up, shown = Decision(Move(0, 1)), []

    class Watching(Scripted):
        def act(self, observation, info):
            shown.append((info["target_landmark"], observation["target"] + 1, tuple(info["moved_mm"])))
            return super().act(observation, info)

    policy = Watching(up, up, up, up, Decision(ALIGNED, abstain=True))
    found = run(policy, task, WISHES, transcripts=tmp_path / "t")
    wished = next(number for number, (target, _, _) in enumerate(shown) if target != 1)
    assert [target for target, _, _ in shown] == [1] * wished + [found.targets[1]] * (5 - wished)
    assert all(target == observed for target, observed, _ in shown)
    assert shown[wished][2] == (0, 30), "info still tells of the last move"
    assert tuple(policy.heard) == found.words and 1 <= wished <= WISH_MOVES
    (folder,) = find_transcripts(tmp_path / "t")
    transcript = read_transcript(folder)
    kinds = [type(event) for event in transcript.events]
    assert kinds.index(FeedbackLine) == wished
    answers = transcript.answers
    assert [answer.target for answer in answers] == [1] * wished + [found.targets[1]] * (5 - wished)
    assert target_name(transcript) == f"Skull, then {landmark(found.targets[1]).name}"


def test_an_episode_that_ends_before_has_no_wish(task):
    found = run(Scripted(Decision(ALIGNED)), task, WISHES)
    assert found.targets == (1,) and found.wishes == 0 and not found.words and found.episode.outcome == "misaligned"


REVIEWS = ClinicianSettings(review_rate=1.0, vagueness=0.0)


def test_a_move_that_names_a_wrong_landmark_is_reviewed_once_for_each_x_ray(task, tmp_path):
    wrong, right = (Decision(Move(0, 1), closest_landmarks=(key,)) for key in (14, 4))
    done = Decision(ALIGNED, abstain=True)
    found = run(Scripted(wrong, wrong, done), task, REVIEWS, transcripts=tmp_path / "t")
    assert (found.sentences, len(found.episode.moves), found.episode.steps) == (1, 1, 3)
    (folder,) = find_transcripts(tmp_path / "t")
    assert [answer.action for answer in read_transcript(folder).answers] == [None, Move(0, 1).index, None]
    found = run(Scripted(wrong, right, done), task, replace(REVIEWS, max_sentences=0))
    assert found.sentences == 0 and len(found.episode.moves) == 2
    assert run(Scripted(right, done), task, REVIEWS).sentences == 0
    assert run(Scripted(wrong, done), task, ClinicianSettings()).sentences == 0, "reviews are off by default"


def test_a_transcript_holds_the_words_and_no_declaration_that_was_rejected(task, tmp_path):
    found = run(Obedient(), task, transcripts=tmp_path / "t")
    (folder,) = find_transcripts(tmp_path / "t")
    events = read_transcript(folder).events
    assert [event.text for event in events if isinstance(event, FeedbackLine)] == list(found.words)
    answers = [event for event in events if not isinstance(event, FeedbackLine)]
    assert [answer.action for answer in answers[:2]] == [None, found.episode.moves[0]]
    assert answers[-1].action == ALIGNED.index
