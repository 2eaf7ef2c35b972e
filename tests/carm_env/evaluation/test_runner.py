import pickle
import re
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move, MoveLattice
from carm_env.chat_models.reference import OracleInWordsPolicy
from carm_env.envs.episode import EpisodeSpec
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.episodes import EpisodeTask, make_suite_environment
from carm_env.evaluation.policy import PUBLIC_INFO, Decision, Policy, UnusablePolicyError
from carm_env.evaluation.policy_loading import make_policy
from carm_env.evaluation.reference import OraclePolicy, RandomPolicy
from carm_env.evaluation.runner import run_concurrently, run_episode, run_tasks, suite_environment
from carm_env.evaluation.suite import Suite
from carm_env.patients.catalogue import load_patient
from carm_env.system.errors import MissingExtraError

UP, DOWN = Decision(Move(0, 1)), Decision(Move(0, -1))


class Scripted(Policy):
    def __init__(self, *answers):
        self.answers = answers

    def reset(self, seed=None):
        self.queue = list(self.answers)
        self.infos = []
        self.seed = seed

    def act(self, observation, info):
        self.infos.append(info)
        answer = self.queue.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def suite(small_patients):
    """The route from the right scapula to the skull of one small patient."""
    spec = EpisodeSpec(small_patients[0], 1, 4)
    return Suite("one", 1, "a route", 20, (spec,), {"image_size": 16})


def run(suite, *answers, max_steps=20):
    policy = Scripted(*answers)
    task = EpisodeTask(replace(suite, max_steps=max_steps), 0, "scripted", 7)
    return run_episode(policy, suite_environment(suite), task), policy


def test_an_exception_of_the_policy_is_a_crash(suite):
    result, _ = run(suite, UP, RuntimeError("boom"))
    assert result.outcome == "crash" and not result.success and "RuntimeError: boom" in result.error
    assert result.steps == 1 and len(result.trajectory_lps_mm) == 2


def test_a_crash_on_the_target_is_not_a_success(suite):
    class CrashesAfterDeclaring(OraclePolicy):
        def prompts(self):
            return "hash"

        def act(self, observation, info):
            decision = super().act(observation, info)
            return "aligned" if decision.move.is_aligned else decision

    result = run_episode(CrashesAfterDeclaring(), suite_environment(suite), EpisodeTask(suite, 0, "x", 0))
    assert result.outcome == "crash" and not result.success and result.path_efficiency == 0
    assert "returned 'aligned', expected a carm_env.Decision" in result.error
    assert result.prompts == "hash" and result.privileged_info == ["closest_landmarks", "displacement_mm"]


@pytest.mark.parametrize("hanging", ["reset", "act"])
def test_a_policy_that_hangs_is_a_timeout(suite, hanging):
    released = threading.Event()

    class Hangs(OraclePolicy):
        def reset(self, seed=None):
            return hanging == "reset" and released.wait(60)

        def act(self, observation, info):
            return hanging == "act" and released.wait(60)

    result = run_episode(Hangs(), suite_environment(suite), EpisodeTask(suite, 0, "x", 0), timeout_s=0.05)
    released.set()
    assert (result.outcome, result.steps) == ("timeout", 0) and "no decision within 0.05 s" in result.error


@pytest.mark.parametrize("leaving", ["reset", "act"])
def test_a_policy_that_exits_is_a_crash(suite, leaving):
    class Exits(OraclePolicy):
        def reset(self, seed=None):
            return leaving == "act" or sys.exit(3)

        def act(self, observation, info):
            sys.exit("no")

    result = run_episode(Exits(), suite_environment(suite), EpisodeTask(suite, 0, "x", 0))
    assert result.outcome == "crash" and "RuntimeError: the policy exited with" in result.error


@pytest.mark.parametrize("error", [UnusablePolicyError("the server is gone"), MissingExtraError("regex", "llm", "x")])
def test_an_external_failure_stops_the_evaluation(suite, error):
    with pytest.raises(type(error), match=re.escape(str(error))):
        run(suite, error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)


def test_an_abstention_ends_the_episode_without_a_move(suite):
    result, _ = run(suite, replace(UP, abstain=True))
    assert result.outcome == "abstained" and result.moves == [] and result.exposures == 1 and result.steps == 1


def test_invalid_answers_count_as_steps_and_do_not_move(suite):
    result, _ = run(suite, *[Decision(ALIGNED, invalid=True)] * 5, max_steps=5)
    assert result.outcome == "timeout" and result.invalid_answers == 5 and result.steps == 5 and result.moves == []
    assert result.path_mm == 0


def test_info_after_an_invalid_answer_reports_no_move(suite):
    _, policy = run(suite, UP, Decision(ALIGNED, invalid=True), Decision(ALIGNED))
    assert policy.infos[1]["moved_mm"].tolist() == [0, 30] and policy.infos[1]["move_effective"]
    assert policy.infos[2]["moved_mm"].tolist() == [0, 0]
    assert not policy.infos[2]["move_effective"] and not policy.infos[2]["move_clipped"]


def test_the_policy_gets_the_seed_and_public_info_only(suite):
    _, policy = run(suite, UP, Decision(ALIGNED))
    assert policy.seed == 7
    assert all(set(info) == PUBLIC_INFO for info in policy.infos)


def test_a_declaration_outside_the_tolerance_is_misaligned(suite):
    result, _ = run(suite, Decision(ALIGNED))
    assert result.outcome == "misaligned" and result.path_efficiency == 0
    assert result.final_distance_mm == result.initial_distance_mm


def test_the_path_is_measured_along_the_moves(suite):
    result, _ = run(suite, UP, DOWN, Decision(ALIGNED))
    assert result.path_mm == pytest.approx(60) and result.outcome == "misaligned"


def test_path_efficiency_compares_the_straight_line_with_the_path(suite):
    env = suite_environment(suite)
    direct = run_episode(OraclePolicy(), env, EpisodeTask(suite, 0, "oracle", 0))
    assert direct.outcome == "success" and 0.6 < direct.path_efficiency <= 1
    assert direct.path_efficiency == pytest.approx(min(1, direct.initial_distance_mm / direct.path_mm))
    moves = [Decision(Move.from_index(index)) for index in direct.moves]
    detour = run_episode(Scripted(DOWN, UP, *moves), env, EpisodeTask(suite, 0, "scripted", 0))
    assert detour.success and detour.path_efficiency < direct.path_efficiency


def test_a_success_without_a_move_is_fully_efficient(small_patients):
    x, _, z = load_patient(small_patients[0]).landmarks_lps_mm[1]
    spec = EpisodeSpec(small_patients[0], 1, (float(x), float(z)))
    suite = Suite("start", 1, "on the target", 20, (spec,), {"image_size": 16})
    result, _ = run(suite, Decision(ALIGNED))
    assert result.success and result.path_mm == 0 and result.path_efficiency == 1


def test_latency_is_the_mean_over_decisions(suite, monkeypatch):
    times = iter([0.0, 1.0, 10.0, 13.0])
    monkeypatch.setattr("carm_env.evaluation.runner.time.perf_counter", lambda: next(times))
    result, _ = run(suite, UP, Decision(ALIGNED))
    assert result.latency_ms == 2000


@pytest.mark.parametrize("concurrent", [False, True])
def test_environments_of_finished_suites_are_not_kept(small_patients, monkeypatch, concurrent):
    suites = [
        Suite(name, 1, "one", 3, (EpisodeSpec(patient, 1, 4),), {"image_size": 16})
        for name, patient in zip(("a", "b", "c", "d"), small_patients, strict=True)
    ]
    alive = weakref.WeakSet()

    def make(suite):
        env = make_suite_environment(suite)
        alive.add(env)
        return env

    monkeypatch.setattr("carm_env.evaluation.runner.make_suite_environment", make)
    tasks = [EpisodeTask(suite, 0, "oracle", 7) for suite in suites]
    results = run_concurrently(tasks, OraclePolicy(), make) if concurrent else run_tasks(tasks, 1)
    # The generator also holds the episode that it has just yielded.
    kept = [len(alive) for _ in results]
    assert len(kept) == 4 and max(kept) <= 2


def test_one_environment_per_suite_and_tasks_sorted_by_patient(small_patients):
    specs = tuple(EpisodeSpec(name, 1, 4) for name in (small_patients[1], small_patients[0], small_patients[1]))
    suite = Suite("three", 1, "three", 3, specs, {"image_size": 16})
    assert suite_environment(suite) is suite_environment(replace(suite))
    results = list(run_tasks([EpisodeTask(suite, number, "random", number) for number in range(3)], 1, make_policy))
    assert [result.episode for result in results] == [1, 0, 2]


def test_a_stateful_policy_has_no_batch():
    with pytest.raises(RuntimeError, match="keeps state"):
        Scripted().act_batch([None], [{}])
    policy = RandomPolicy()
    policy.reset(0)
    assert len(policy.act_batch([None, None], [{}, {}])) == 2
    with pytest.raises(ValueError):
        policy.act_batch([None], [])


def test_the_oracle_needs_the_lattice_of_the_environment(suite):
    env = CArmNavEnv(patients=suite.patients, image_size=16)
    _, info = env.reset(seed=0)
    decision = OraclePolicy().act(None, info)
    assert decision.closest_landmarks[0] == info["closest_landmarks"][0] and decision.confidence == 1


@pytest.mark.parametrize(("max_threads", "expected"), [(1, 1), (None, 2)])
def test_a_decision_uses_at_most_the_threads_of_its_policy(suite, max_threads, expected):
    torch = pytest.importorskip("torch")

    class CountsThreads(Scripted):
        def act(self, observation, info):
            counts.append(torch.get_num_threads())
            return super().act(observation, info)

    counts, before = [], torch.get_num_threads()
    policy = CountsThreads(Decision(ALIGNED))
    policy.max_threads = max_threads
    torch.set_num_threads(2)
    try:
        run_episode(policy, suite_environment(suite), EpisodeTask(suite, 0, "counts", 0))
        assert counts == [expected] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_policies_know_the_moves_of_the_suite(small_patients):
    spec = EpisodeSpec(small_patients[0], 1, 4)
    suite = Suite("far", 1, "longer moves", 20, (spec,), {"image_size": 16, "extents_mm": [20, 80, 150]})
    env = suite_environment(suite)
    for policy in (OraclePolicy(), OracleInWordsPolicy()):
        result = run_episode(policy, env, EpisodeTask(suite, 0, "oracle", 0))
        lattice = MoveLattice((20, 80, 150))
        first = lattice.displacement_mm(Move.from_index(result.moves[0]))
        assert result.success and np.abs(first).max() == 150
    policy = Scripted(Decision(ALIGNED))
    run_episode(policy, env, EpisodeTask(suite, 0, "scripted", 0))
    assert policy.infos[0]["extents_mm"] == (20, 80, 150) and policy.infos[0]["steps_left"] == 20
