"""Evaluates policies in closed loop on suites of frozen episodes and ranks them.

`evaluate` writes to one folder: ``episodes.jsonl`` (one line per episode, appended when it ends), ``leaderboard.json``
(``{policy: {suite: {"success": .., ..}}}``), ``leaderboard.md``, ``trajectories_SUITE.png`` and ``episode.gif``. All
files but the first are computed from the first. With ``--from`` it runs nothing and reads finished results instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from carm_env.evaluation.board import board_of
from carm_env.evaluation.cluster_runner import cluster_runner
from carm_env.evaluation.episode_images import save_episode_gif, save_trajectories
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.finished_board import save_site, show_finished
from carm_env.evaluation.plots import drawing
from carm_env.evaluation.policy import Policy, UnusablePolicyError
from carm_env.evaluation.policy_loading import BUILT_IN_POLICIES, make_policy
from carm_env.evaluation.policy_specification import SB3, TRUST_PICKLE, parse_policy
from carm_env.evaluation.prepared_suites import PreparedSuites, prepare_suites
from carm_env.evaluation.provenance import PACKAGES, provenance
from carm_env.evaluation.report import (
    distinct_runs,
    leaderboard_page,
    leaderboard_table,
    paired_differences,
    summarise,
    tie_letters,
)
from carm_env.evaluation.results import EpisodeResult, ResultKey, append_result, by_policy_and_suite, read_results
from carm_env.evaluation.runner import PolicyFactory, run_tasks
from carm_env.evaluation.shifts import Shift
from carm_env.evaluation.site.page import check_site_folder
from carm_env.evaluation.site.parts import SiteParts
from carm_env.evaluation.suite import Suite
from carm_env.evaluation.transcripts import check_transcripts_folder
from carm_env.patient_outline import PatientOutline
from carm_env.patients.machines import check_machines
from carm_env.system.cluster import Cluster, EngineName, check_engine, connect
from carm_env.system.command_line import INTERRUPTED
from carm_env.system.files import write_json, write_text
from carm_env.system.output_folders import lock_output
from carm_env.system.threads import usable_cpus

_SHOWN_ERRORS = 10
_OF_RUNS = (
    "policies", "patients", "shifts", "episodes", "seed", "resume", "trust_pickle", "decision_timeout", "engine",
)  # fmt: skip
"""Arguments that finished results have no use for."""

PolicyNames = Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--policy",))]


@dataclass(frozen=True)
class EvaluationArguments:
    """Arguments of an evaluation.

    Attributes:
        policies: names of policies, ``module:Class``, ``FILE.py:Class``, ``MODEL.zip`` of stable-baselines3, or a YAML
            file; arguments of the constructor follow as ``?a=1&b=2``.
        suite: suites: smoke, uniform, paper-routes, standard, thrombectomy, or YAML files.
        patients: draw the suites on these patients instead: virtual:SEED, imported patients, standard/test.
        shifts: run the suites under these shifts as well: NAME:SEVERITY, NAME for its three severities, or all
            (`carm_env.evaluation.shifts`).
        episodes: run only the first N episodes of each suite.
        workers: number of processes; by default one per CPU, with Ray one per CPU of the cluster.
        seed: seed of the first episode; episode i has seed + i.
        out: folder for the results.
        resume: keep the results in the folder and run only the missing episodes.
        figures: write PNG and GIF images.
        transcripts: folder that receives a transcript of every episode; ``carm-env replay`` shows them. With --from,
            a folder of finished transcripts, which --html shows.
        json: file that also receives scores, paired differences and provenance.
        results: run nothing and read these files instead: episodes.jsonl, folders that hold one, or a leaderboard.json,
            of which only tables are shown; NAME=FILE shows the policies of a file as POLICY (NAME).
        html: folder for the leaderboard as a web page; with --transcripts, also for a page of each episode.
        trust_pickle: load archives of stable-baselines3, whose pickled code runs when they are loaded.
        decision_timeout: longest time of a decision in seconds; an episode whose policy takes longer ends as a timeout.
        engine: what runs the episodes: processes of this machine, or the machines of a Ray cluster (extra: ray).
        ray_address: HOST:PORT of the head node of the cluster that this machine belongs to, or auto; by default the
            environment variable RAY_ADDRESS, and without it a Ray that is started here.
        ray_gpus: GPUs of each worker of Ray; a fraction lets several workers share one.
    """

    policies: PolicyNames = ("oracle", "random")
    suite: tuple[str, ...] = ("smoke",)
    patients: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()
    episodes: int | None = None
    workers: int | None = None
    seed: int = 0
    out: Path = Path("runs/leaderboard")
    resume: bool = False
    figures: bool = True
    transcripts: Path | None = None
    json: Path | None = None
    results: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--from",))] = ()
    html: Path | None = None
    trust_pickle: bool = False
    decision_timeout: float = 600.0
    engine: EngineName = "processes"
    ray_address: str | None = None
    ray_gpus: float = 0.0

    def policy_texts(self) -> dict[str, str]:
        """Returns what constructs each policy, by the name that the policy has in the results.

        Raises:
            ValueError: two policies have the same name.
        """
        texts: dict[str, str] = {}
        for text in dict.fromkeys(self.policies):
            found = parse_policy(text, BUILT_IN_POLICIES)
            if found.name in texts:
                raise ValueError(
                    f"--policies has {texts[found.name]!r} and {text!r}, which are both called {found.name!r}: give "
                    "one of them a name in a YAML file."
                )
            trusted = f"{text}{'&' if '?' in text else '?'}{TRUST_PICKLE}=true"
            texts[found.name] = trusted if self.trust_pickle and found.target == SB3 else text
        return texts


def evaluate(
    arguments: EvaluationArguments,
    make_policy: PolicyFactory = make_policy,
    parts: Callable[[], SiteParts] = SiteParts,
) -> int:
    """Runs the missing episodes and writes the leaderboard, or shows finished results.

    Args:
        arguments: what to run.
        make_policy: constructs a policy from its name.
        parts: returns the model cards and printed figures of the web page.

    Returns:
        The exit status: 0, 1 if lines of finished results do not count, or `INTERRUPTED` after Ctrl-C.

    Raises:
        ValueError: an argument that finished results do not allow; `evaluate_suites` lists the errors of a run.
        ContradictionError: finished results contradict each other.
    """
    if arguments.results:
        return _show_finished(arguments, parts)
    status, _ = evaluate_suites(arguments, make_policy, parts)
    return status


def evaluate_suites(
    arguments: EvaluationArguments,
    make_policy: PolicyFactory = make_policy,
    parts: Callable[[], SiteParts] = SiteParts,
) -> tuple[int, PreparedSuites]:
    """Runs the missing episodes and writes the leaderboard.

    Args:
        arguments: what to run, without finished results.
        make_policy: constructs a policy from its name.
        parts: returns the model cards and printed figures of the web page.

    Returns:
        The exit status, 0 or `INTERRUPTED` after Ctrl-C, and the suites that ran.

    Raises:
        ValueError: an unknown name, a number out of range, an episode that its patient does not allow, or a patient
            that a policy has in its pool.
        FileNotFoundError: the weights of a policy do not exist.
        MissingExtraError: a policy, or Ray, needs a package that is not installed.
        ClusterError: the Ray cluster cannot be used.
        MachineError: a machine of the cluster lacks a patient, or has another one, or other packages.
        BusyError: another process writes to a folder.
        TranscriptError: the folder of ``--transcripts`` is in use, or cannot be written.
    """
    started = time.perf_counter()
    _check(arguments)
    shifts = [shift for text in arguments.shifts for shift in Shift.parse(text)]
    texts = arguments.policy_texts()
    # Reports a wrong name or checkpoint before the first episode.
    policies = {name: make_policy(text) for name, text in texts.items()}
    concurrent, packages, prompts = _facts(policies)
    if arguments.transcripts is not None:
        check_transcripts_folder(arguments.transcripts, arguments.resume, prompts)
    if arguments.out.is_dir():
        with lock_output(arguments.out, "--out"):
            pass  # Reports another process before patients are built.
    with contextlib.ExitStack() as stack:
        # Reports an absent cluster before patients are built.
        cluster = stack.enter_context(_cluster(arguments)) if arguments.engine == "ray" else None
        prepared = prepare_suites(arguments.suite, arguments.patients, shifts, arguments.workers or usable_cpus())
        suites, patients = prepared.suites, prepared.patients
        for policy in policies.values():
            policy.check_patients(list(patients))
        # Their models need not stay in memory beside those of the workers.
        policies.clear()
        tasks = _list_tasks(arguments, suites, texts)
        if cluster is not None:
            check_machines(cluster, packages, {name: patient.fingerprint for name, patient in patients.items()})
        stack.enter_context(lock_output(arguments.out, "--out"))
        if arguments.transcripts is not None:
            stack.enter_context(lock_output(arguments.transcripts, "--transcripts"))
        status = _run(arguments, make_policy, suites, patients, tasks, concurrent, packages, parts, cluster)
    print(f"Took {time.perf_counter() - started:.0f} s.")
    return status, prepared


def _show_finished(arguments: EvaluationArguments, parts: Callable[[], SiteParts]) -> int:
    default = type(arguments)()
    for name in _OF_RUNS:
        if getattr(arguments, name) != getattr(default, name):
            raise ValueError(f"--{name.replace('_', '-')} is for running episodes, and --from runs none: leave it out.")
    suites = arguments.suite if arguments.suite != default.suite else ()
    for name in suites:
        if not name.endswith((".yaml", ".yml")):
            raise ValueError(
                f"--suite is {name!r}, but --from shows all suites of the results: expected the YAML file of a suite "
                "that the package does not have."
            )
    return show_finished(
        arguments.results, suites, arguments.out, arguments.json, arguments.html, arguments.transcripts, parts
    )


def _run(
    arguments: EvaluationArguments,
    make_policy: PolicyFactory,
    suites: Sequence[Suite],
    patients: Mapping[str, PatientOutline],
    tasks: Sequence[EpisodeTask],
    concurrent: set[str],
    packages: list[str],
    parts: Callable[[], SiteParts],
    cluster: Cluster | None,
) -> int:
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "episodes.jsonl"
    results = _earlier_results(path, arguments.resume)
    done = {result.key for result in results}
    missing = [task for task in tasks if _key(task, patients) not in done]
    print(f"Episodes: {len(tasks)} ({len(tasks) - len(missing)} already done), {_slots(arguments, cluster)} worker(s)")
    run = provenance(arguments.seed, packages)
    status = 0
    try:
        with tqdm(total=len(missing), desc="episodes", unit="episode") as bar:
            workers = max(1, min(_slots(arguments, cluster), len(missing)))
            finished = run_tasks(
                missing, workers, make_policy, concurrent=concurrent, timeout_s=arguments.decision_timeout,
                transcripts=arguments.transcripts, run_elsewhere=_elsewhere(arguments, cluster, make_policy, patients),
            )  # fmt: skip
            for result in finished:
                result = dataclasses.replace(result, run=run)
                append_result(path, result)
                results.append(result)
                bar.update()
    except KeyboardInterrupt:
        print(f"\nInterrupted: {len(results)} finished episodes are in {path}; continue with --resume.")
        status = INTERRUPTED
    except UnusablePolicyError:
        if results:
            print(f"\n{len(results)} finished episodes are in {path}; continue with --resume.")
        raise
    shown = _select(results, suites, patients)
    if shown:
        _write_leaderboard(arguments, shown)
        if status == 0 and arguments.figures:
            _draw(arguments, suites, shown)
        if arguments.html is not None:
            with drawing("the web page"):
                save_site(arguments.html, board_of(shown, suites), parts(), arguments.transcripts)
        names = sorted(item.name for item in arguments.out.iterdir() if not item.name.startswith("."))
        print(f"Written to {arguments.out}/: {', '.join(names)}")
    if arguments.transcripts is not None:
        print(f"Transcripts of the episodes of this run: carm-env replay {shlex.quote(str(arguments.transcripts))}")
    return status


@contextlib.contextmanager
def _cluster(arguments: EvaluationArguments) -> Iterator[Cluster]:
    with connect(arguments.ray_address, arguments.workers, arguments.ray_gpus) as cluster:
        print(f"Ray: {len(cluster.machines)} machine(s), {cluster.slots} worker(s)")
        yield cluster


def _slots(arguments: EvaluationArguments, cluster: Cluster | None) -> int:
    return cluster.slots if cluster is not None else arguments.workers or usable_cpus()


def _elsewhere(
    arguments: EvaluationArguments,
    cluster: Cluster | None,
    make_policy: PolicyFactory,
    patients: Mapping[str, PatientOutline],
) -> Callable[[Sequence[EpisodeTask]], Iterator[EpisodeResult]] | None:
    if cluster is None:
        return None
    fingerprints = {name: patient.fingerprint for name, patient in patients.items()}
    return cluster_runner(cluster, make_policy, fingerprints, arguments.decision_timeout, arguments.transcripts)


def _check(arguments: EvaluationArguments) -> None:
    for name, names in (("policies", arguments.policies), ("suite", arguments.suite)):
        if not names:
            raise ValueError(f"--{name} has no value, expected at least one name.")
    for name, least in (("episodes", 1), ("workers", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}, expected at least {least}.")
    if arguments.transcripts is not None and arguments.transcripts.resolve() == arguments.out.resolve():
        raise ValueError(
            f"--transcripts and --out are both {arguments.out}: choose {arguments.out / 'transcripts'}, for instance."
        )
    if arguments.html is not None:
        check_site_folder(arguments.html)
        if arguments.transcripts is not None and arguments.transcripts.resolve() == arguments.html.resolve():
            raise ValueError(f"--transcripts and --html are both {arguments.html}, expected two folders.")
    if not arguments.decision_timeout > 0:
        raise ValueError(f"--decision-timeout is {arguments.decision_timeout}, expected a time above 0 s.")
    check_engine(arguments.engine, arguments.ray_address, arguments.ray_gpus)


def _facts(policies: Mapping[str, Policy]) -> tuple[set[str], list[str], dict[str, str]]:
    """Returns the policies that run episodes at the same time, the packages of all, and each policy's prompts."""
    concurrent: set[str] = set()
    packages: dict[str, None] = dict.fromkeys(PACKAGES)
    prompts: dict[str, str] = {}
    for name, policy in policies.items():
        packages.update(dict.fromkeys(policy.packages))
        prompts[name] = policy.prompts()
        if policy.concurrency > 1:
            concurrent.add(name)
    return concurrent, list(packages), prompts


def _list_tasks(arguments: EvaluationArguments, suites: Sequence[Suite], texts: Mapping[str, str]) -> list[EpisodeTask]:
    return [
        EpisodeTask(suite, number, policy, arguments.seed + number, text)
        for suite in suites
        for policy, text in texts.items()
        for number in range(len(suite.episodes))[: arguments.episodes]
    ]


def _earlier_results(path: Path, resume: bool) -> list[EpisodeResult]:
    """Reads the results to continue from; without `resume`, renames an existing file instead."""
    if not path.exists():
        return []
    if resume:
        results, errors = read_results(path)
        for error in errors[:_SHOWN_ERRORS]:
            print(f"warning: skipped {error}", file=sys.stderr)
        if errors:
            print(
                f"warning: {len(errors)} line(s) of {path} were skipped: their episodes are run again.", file=sys.stderr
            )
        return results
    number = 1
    while (kept := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    path.rename(kept)
    print(f"Earlier results are kept in {kept}; continue from them with --resume.")
    return []


def _key(task: EpisodeTask, patients: Mapping[str, PatientOutline]) -> ResultKey:
    patient = patients[task.suite.episodes[task.episode].patient]
    return task.policy, task.suite.name, task.suite.hash, patient.fingerprint, task.episode, task.seed


def _select(
    results: Sequence[EpisodeResult], suites: Sequence[Suite], patients: Mapping[str, PatientOutline]
) -> list[EpisodeResult]:
    """Returns the results of any policy on these versions of the suites and patients, suite by suite."""
    fingerprints = {patient.fingerprint for patient in patients.values()}
    shown = [
        result
        for suite in suites
        for result in results
        if (result.suite, result.suite_hash) == (suite.name, suite.hash) and result.patient_fingerprint in fingerprints
    ]
    if len(shown) < len(results):
        print(f"Left out {len(results) - len(shown)} result(s) of other suites, suite versions or patient builds.")
    return shown


def _write_leaderboard(arguments: EvaluationArguments, results: Sequence[EpisodeResult]) -> None:
    scores = summarise(results)
    differences = paired_differences(results)
    print(f"\n{leaderboard_table(scores, tie_letters(scores, differences))}\n")
    for outcome, happened in (("crash", "crashed"), ("timeout", "waited in vain for a decision")):
        failed = [result for result in results if result.error and result.outcome == outcome]
        if failed:
            print(f"{len(failed)} episode(s) {happened}; the first error:\n{failed[0].error}")
    runs = distinct_runs(results)
    if len(runs) > 1:
        print(f"The results come from {len(runs)} different runs (commit, versions or machine); see leaderboard.md.")
    write_json(arguments.out / "leaderboard.json", scores)
    write_text(arguments.out / "leaderboard.md", leaderboard_page(results, scores))
    if arguments.json is not None:
        prompts = {result.policy: result.prompts for result in results if result.prompts}
        write_json(arguments.json, {"scores": scores, "pairs": differences, "prompts": prompts, "runs": runs})


def _draw(arguments: EvaluationArguments, suites: Sequence[Suite], results: Sequence[EpisodeResult]) -> None:
    for suite in suites:
        path = arguments.out / f"trajectories_{suite.name}.png"
        with drawing(path.name):
            save_trajectories(path, [result for result in results if result.suite == suite.name])
    with drawing("episode.gif"):
        first = by_policy_and_suite(results)[next(iter(arguments.policy_texts())), suites[0].name][0]
        save_episode_gif(arguments.out / "episode.gif", suites[0], first)
