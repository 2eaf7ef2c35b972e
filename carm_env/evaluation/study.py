"""Studies: a person plays the episodes of a frozen suite and stands on the leaderboard as ``human:NAME``.

The person is blinded: `StudyDrive` shows what every fair policy receives, and says nothing about success or distance.
Results are lines of ``episodes.jsonl``, as those of ``carm-env evaluate``. Each decision is on the disk before it is
carried out (``running-SUITE.NAME.json``), so that a killed study continues with the same X-rays, exposures and times:
nobody sees an X-ray that does not count.

    with StudyDrive(load_suite("smoke"), "reader-1", Path("runs/study")) as drive:
        while not drive.is_finished:
            view = drive.view()
            ...
            drive.move(move)
            if drive.view().has_ended and not drive.is_finished:
                drive.next_episode()
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from carm_env.actions import Move
from carm_env.evaluation.driving import GIVE_UP, DriveError, DrivenEpisode, DriveView, Person
from carm_env.evaluation.episodes import EpisodeTask, make_suite_environment
from carm_env.evaluation.policy import Decision
from carm_env.evaluation.provenance import provenance
from carm_env.evaluation.results import EpisodeResult, append_result, drop_incomplete_line, read_results
from carm_env.evaluation.study_journal import StudyJournal
from carm_env.evaluation.suite import Suite
from carm_env.system.errors import CArmEnvError
from carm_env.system.files import DiskFullError
from carm_env.system.output_folders import lock_output
from carm_env.system.person_names import check_person_name

RESULTS, JOURNAL = "episodes.jsonl", "running-{suite}.{name}.json"


class StudyError(CArmEnvError, ValueError):
    """A study cannot be continued with these arguments; the message says what to do."""


class StudyDrive:
    """One person in one suite, episode by episode. It continues what the folder holds.

    Args:
        suite: the suite; its patients are loaded, and built if necessary, when an episode needs them.
        name: the person's pseudonym: letters, digits, hyphens and underscores.
        folder: folder of the results; one process at a time writes to it.
        seed: seed of the first episode, as of ``carm-env evaluate``.

    Raises:
        ValueError: the name has other characters.
        StudyError: the folder holds results of this person in this suite with another seed or version, or damaged
            ones.
        BusyError: another process writes to the folder.
    """

    def __init__(self, suite: Suite, name: str, folder: Path, seed: int = 0) -> None:
        self.suite, self.folder = suite, folder
        self.policy_name = f"human:{check_person_name('participant', name)}"
        self._seed = seed
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(lock_output(folder, "--out"))
        try:
            drop_incomplete_line(folder / RESULTS)
            self._done = self._finished_episodes()
            self._env = make_suite_environment(suite)
            self._journal = StudyJournal(folder / JOURNAL.format(suite=suite.name, name=name))
            self._episode: DrivenEpisode | None = None
            self._last: DriveView | None = None
            if not self.is_finished:
                self._begin()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> StudyDrive:
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Lets another process continue the study."""
        self.close()

    def close(self) -> None:
        """Lets another process continue the study; nothing is lost, also not the time of the decision under way."""
        with self._lock:
            episode, self._episode = self._episode, None
            if episode is not None and not episode.has_ended:
                # Only this time is lost if the disk is full.
                with contextlib.suppress(DiskFullError):
                    self._journal.wait(episode.seconds_since_shown)

    @property
    def is_finished(self) -> bool:
        """Whether all episodes have results."""
        return len(self._done) == len(self.suite.episodes)

    @property
    def finished_episodes(self) -> int:
        """Number of episodes with results."""
        return len(self._done)

    @property
    def has_view(self) -> bool:
        """Whether there is an X-ray to show: not if the study was finished before it was opened."""
        return self._episode is not None or self._last is not None

    def view(self) -> DriveView:
        """Returns what the person sees now; after the end of an episode, its last X-ray.

        Raises:
            DriveError: the study was finished before.
        """
        if self._episode is None:
            if self._last is None:
                raise DriveError(f"{self.policy_name} has finished all {len(self._done)} episodes of this study.")
            return self._last
        return self._episode.view(self._title())

    def move(self, move: Move) -> DriveView:
        """Carries out a move, or the declaration that the view is aligned.

        Raises:
            DriveError: the episode has ended.
            DiskFullError: the disk is full; the move was not carried out.
        """
        return self._decide(Decision(move))

    def hand_back(self) -> DriveView:
        """Gives the episode up: it counts as abstained.

        Raises:
            DriveError: the episode has ended.
        """
        return self._decide(GIVE_UP)

    def next_episode(self) -> DriveView:
        """Begins the next episode.

        Raises:
            DriveError: the episode has not ended, or it was the last one.
            DiskFullError: the disk is full; the result of the episode that has ended is not saved yet.
        """
        if self._episode is not None and self._episode.has_ended:
            # Its result could not be saved before.
            self._finish(self._episode)
            if self.is_finished:
                return self.view()
        if self._episode is not None:
            raise DriveError("the episode has not ended: declare the view aligned, or hand it back.")
        if self.is_finished:
            raise DriveError("it was the last episode of the study.")
        self._begin()
        return self.view()

    def _title(self) -> str:
        return f"suite {self.suite.name}, episode {len(self._done) + 1} of {len(self.suite.episodes)}"

    def _finished_episodes(self) -> set[int]:
        path = self.folder / RESULTS
        if not path.exists():
            return set()
        results, errors = read_results(path)
        if errors:
            raise StudyError(f"{errors[0]}. Remove the line, or choose another folder with --out.")
        own = [one for one in results if (one.policy, one.suite) == (self.policy_name, self.suite.name)]
        if other := next((one for one in own if one.suite_hash != self.suite.hash), None):
            raise StudyError(
                f"{path} holds episodes of {self.policy_name} in suite {self.suite.name} of version "
                f"{other.suite_version} ({other.suite_hash}), expected version {self.suite.version} "
                f"({self.suite.hash}): choose another pseudonym or folder, or continue with the release of carm-env "
                "that the study was begun with."
            )
        if other := next((one for one in own if one.seed - one.episode != self._seed), None):
            raise StudyError(
                f"{path} holds episodes of {self.policy_name} with seed {other.seed - other.episode}, expected "
                f"{self._seed}: continue with that seed, or choose another folder."
            )
        return {one.episode for one in own}

    def _begin(self) -> None:
        number = next(index for index in range(len(self.suite.episodes)) if index not in self._done)
        task = EpisodeTask(self.suite, number, self.policy_name, self._seed + number)
        self._episode = DrivenEpisode(Person(), self._env, task)
        key = [self.policy_name, self.suite.name, self.suite.hash, number, task.seed,
               self._env.scene.patient.fingerprint]  # fmt: skip
        for action, seconds in self._journal.open(key):
            if self._episode.has_ended:
                break
            self._episode.take(_decision(action), seconds)
        self._episode.restart_clock(self._journal.waited_s)
        if self._episode.has_ended:
            # Killed between the last decision and its result.
            self._finish(self._episode)

    def _decide(self, decision: Decision) -> DriveView:
        episode = self._episode
        if episode is None:
            raise DriveError("the episode has ended: begin the next one.")
        if episode.has_ended:
            # Its result could not be saved before; the episode takes no further decision.
            self._finish(episode)
            return self.view()
        seconds = episode.seconds_since_shown
        self._journal.append(None if decision.abstain else decision.move.index, seconds)
        episode.take(decision, seconds)
        if episode.has_ended:
            self._finish(episode)
        return self.view()

    def _finish(self, episode: DrivenEpisode) -> None:
        title = self._title()
        result: EpisodeResult = replace(episode.finish(), run=provenance(self._seed))
        append_result(self.folder / RESULTS, result)
        self._journal.close()
        self._done.add(episode.task.episode)
        self._episode = None
        ended = (
            "The episode has ended." if result.outcome != "timeout" else "No decision is left: the episode has ended."
        )
        left = len(self.suite.episodes) - len(self._done)
        message = (
            f"{ended} {left} episode{'s' if left > 1 else ''} to go."
            if left
            else f"{ended} The study is finished, thank you."
        )
        self._last = episode.view(title, message)


def _decision(action: int | None) -> Decision:
    return GIVE_UP if action is None else Decision(Move.from_index(action))
