"""Runs policies through the episodes of suites, in this process or in worker processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.decisions import DecisionThread
from carm_env.evaluation.episodes import Episode, EpisodeTask, make_suite_environment, reset_episode
from carm_env.evaluation.policy import Policy
from carm_env.evaluation.policy_loading import make_policy
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.suite import Suite
from carm_env.system.processes import run_in_processes

PolicyFactory = Callable[[str], Policy]
"""Constructs a policy from its name; a module-level function, because worker processes import it."""


def run_episode(
    policy: Policy,
    env: CArmNavEnv,
    task: EpisodeTask,
    timeout_s: float | None = None,
    transcripts: Path | None = None,
) -> EpisodeResult:
    """Runs one episode. An exception of the policy is recorded as a crash, which counts as a failure.

    Args:
        policy: the policy.
        env: the environment.
        task: the episode.
        timeout_s: longest time of a decision; a policy that takes longer must not be used again.
        transcripts: folder that receives the transcript of the episode.

    Raises:
        UnusablePolicyError, MissingExtraError: the policy failed for an external reason.
        TranscriptError: the transcript cannot be written.
    """
    episode = Episode(policy, env, task, transcripts)
    run_to_the_end(episode, timeout_s)
    return episode.finish()


def run_to_the_end(episode: Episode, timeout_s: float | None = None) -> None:
    """Makes and carries out decisions until an episode has ended; see `run_episode`."""
    thread = _decision_thread()
    while not episode.has_ended:
        decision = episode.decide(thread)
        if not wait([decision], timeout_s).done:
            _decision_thread.cache_clear()
            episode.give_up(timeout_s or 0.0)
        else:
            episode.advance(decision)


def run_concurrently(
    tasks: Sequence[EpisodeTask],
    policy: Policy,
    environment: Callable[[Suite], CArmNavEnv],
    timeout_s: float | None = None,
    transcripts: Path | None = None,
) -> Iterator[EpisodeResult]:
    """Runs up to `Policy.concurrency` episodes at the same time and yields each result when it is available.

    The decisions wait in threads of their own; the X-rays are rendered in this thread.

    Args:
        tasks: the episodes; those of one suite are adjacent, so that they share environments.
        policy: a policy whose `Policy.for_episode` is used for each episode.
        environment: makes an environment.
        timeout_s: longest time of a decision.
        transcripts: folder that receives a transcript of each episode.
    """
    waiting = deque(tasks)
    suite_hash, idle = "", list[CArmNavEnv]()
    threads: list[DecisionThread] = []
    running: dict[Future[tuple[Any, float]], tuple[Episode, DecisionThread, float]] = {}

    def start(episode: Episode, thread: DecisionThread) -> None:
        running[episode.decide(thread)] = episode, thread, time.monotonic() + (timeout_s or np.inf)

    while waiting or running:
        while waiting and len(running) < policy.concurrency:
            task = waiting.popleft()
            if task.suite.hash != suite_hash:
                # Every environment keeps a patient in memory.
                suite_hash, idle = task.suite.hash, []
            env = idle.pop() if idle else environment(task.suite)
            episode = Episode(policy.for_episode(), env, task, transcripts)
            start(episode, threads.pop() if threads else DecisionThread())
        first_deadline = min((deadline for _, _, deadline in running.values()), default=np.inf)
        left_s = None if np.isinf(first_deadline) else max(0.0, first_deadline - time.monotonic())
        made = wait(running, left_s, FIRST_COMPLETED).done
        late = [future for future, (_, _, deadline) in running.items() if deadline <= time.monotonic()]
        for future in [*made, *(future for future in late if future not in made)]:
            episode, thread, _ = running.pop(future)
            if future in made:
                episode.advance(future)
            else:
                episode.give_up(timeout_s or 0.0)
            if not episode.has_ended:
                start(episode, thread)
                continue
            if future in made:
                threads.append(thread)
            if episode.task.suite.hash == suite_hash:
                idle.append(episode.env)
            yield episode.finish()


@cache
def _decision_thread() -> DecisionThread:
    return DecisionThread()


_environments: dict[str, CArmNavEnv] = {}


def suite_environment(suite: Suite) -> CArmNavEnv:
    """Returns the environment of a suite's episodes; a process keeps only the environment of its last suite."""
    if suite.hash not in _environments:
        # Every environment keeps a patient in memory.
        _environments.clear()
        _environments[suite.hash] = make_suite_environment(suite)
    return _environments[suite.hash]


@cache
def shared_policy(make_policy: PolicyFactory, text: str) -> Policy:
    """Returns the policy of a name; each process makes one."""
    return make_policy(text)


def run_task(
    make_policy: PolicyFactory, timeout_s: float | None, transcripts: Path | None, task: EpisodeTask
) -> EpisodeResult:
    """Runs one episode with the policy and the environment of this process; see `run_tasks`."""
    policy = shared_policy(make_policy, task.source or task.policy)
    result = run_episode(policy, suite_environment(task.suite), task, timeout_s, transcripts)
    if result.outcome == "timeout" and result.error:
        # The decision may still be running on the policy's state.
        shared_policy.cache_clear()
    return result


def run_tasks(
    tasks: Sequence[EpisodeTask],
    workers: int,
    make_policy: PolicyFactory = make_policy,
    *,
    concurrent: Collection[str] = (),
    timeout_s: float | None = None,
    transcripts: Path | None = None,
    run_elsewhere: Callable[[Sequence[EpisodeTask]], Iterator[EpisodeResult]] | None = None,
) -> Iterator[EpisodeResult]:
    """Runs episodes and yields each result when it is available, in any order.

    Episodes of one patient are adjacent, so that each worker loads few patients.

    Args:
        tasks: the episodes.
        workers: number of processes.
        make_policy: constructs the policies.
        concurrent: names of policies with a `Policy.concurrency` above 1; their episodes run in this process.
        timeout_s: longest time of a decision; None for no limit.
        transcripts: folder that receives a transcript of each episode.
        run_elsewhere: runs the episodes of the other policies instead of worker processes, such as
            `carm_env.evaluation.cluster_runner.cluster_runner`.
    """
    ordered = sorted(tasks, key=lambda task: (task.suite.name, task.suite.episodes[task.episode].patient))
    for name in dict.fromkeys(task.policy for task in ordered if task.policy in concurrent):
        own = [task for task in ordered if task.policy == name]
        policy = shared_policy(make_policy, own[0].source or name)
        yield from run_concurrently(own, policy, make_suite_environment, timeout_s, transcripts)
    others = [task for task in ordered if task.policy not in concurrent]
    if run_elsewhere is not None:
        yield from run_elsewhere(others)
        return
    if workers > 1 and others:
        # One X-ray compiles the kernels, which every worker would otherwise compile for itself.
        reset_episode(suite_environment(others[0].suite), others[0])
    run = partial(run_task, make_policy, timeout_s, transcripts)
    yield from run_in_processes(run, others, workers, ahead=2)
