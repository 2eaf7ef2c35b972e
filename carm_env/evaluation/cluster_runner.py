"""Runs the episodes of suites on the machines of a Ray cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.runner import PolicyFactory, run_task
from carm_env.patients.machines import check_patient
from carm_env.system.cluster import Cluster
from carm_env.system.files import atomic_folder


@dataclass(frozen=True)
class _Finished:
    """A result and its transcript, as paths relative to the folder of transcripts to contents."""

    result: EpisodeResult
    transcript: Mapping[str, bytes]


def cluster_runner(
    cluster: Cluster,
    make_policy: PolicyFactory,
    fingerprints: Mapping[str, str],
    timeout_s: float | None = None,
    transcripts: Path | None = None,
) -> Callable[[Sequence[EpisodeTask]], Iterator[EpisodeResult]]:
    """Returns a function that runs episodes on a cluster and yields each result when it is available, in any order.

    Every result equals that of `carm_env.evaluation.runner.run_tasks` in worker processes, but for latency and cost.

    Args:
        cluster: the machines.
        make_policy: constructs the policies, on each machine.
        fingerprints: from the names of the patients to their fingerprints.
        timeout_s: longest time of a decision; None for no limit.
        transcripts: folder of this machine that receives a transcript of each finished episode.
    """
    work = partial(_run_on_machine, make_policy, timeout_s, transcripts is not None, fingerprints)

    def run(tasks: Sequence[EpisodeTask]) -> Iterator[EpisodeResult]:
        for finished in cluster.run(work, tasks, _describe):
            if transcripts is not None:
                _write_transcript(transcripts, finished.transcript)
            yield finished.result

    return run


def _describe(task: EpisodeTask) -> str:
    return f"episode {task.episode} of {task.suite.name} with {task.policy}"


def _run_on_machine(
    make_policy: PolicyFactory,
    timeout_s: float | None,
    keep_transcript: bool,
    fingerprints: Mapping[str, str],
    task: EpisodeTask,
) -> _Finished:
    patient = task.suite.episodes[task.episode].patient
    check_patient(patient, fingerprints[patient])
    if not keep_transcript:
        return _Finished(run_task(make_policy, timeout_s, None, task), {})
    # The folder of --transcripts is that of the machine that started the run.
    with tempfile.TemporaryDirectory(prefix="carm-env-transcript-") as name:
        folder = Path(name)
        result = run_task(make_policy, timeout_s, folder, task)
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return _Finished(result, files)


def _write_transcript(folder: Path, files: Mapping[str, bytes]) -> None:
    for episode in dict.fromkeys(Path(name).parts[0] for name in files):
        with atomic_folder(folder / episode) as temporary:
            for name, content in files.items():
                if Path(name).parts[0] == episode:
                    (temporary / Path(name).name).write_bytes(content)
