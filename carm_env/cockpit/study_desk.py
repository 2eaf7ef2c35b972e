"""The study of one person in one suite, as a page works on it: `carm_env.evaluation.study` behind messages.

The page is blinded: it is sent the X-ray and `carm_env.cockpit.readouts.drive_readouts`, which are the same after a
right and a wrong declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from carm_env.actions import Move
from carm_env.cockpit import study_messages as messages
from carm_env.cockpit.connection import Outgoing
from carm_env.cockpit.frames import encode_frame
from carm_env.cockpit.readouts import drive_readouts
from carm_env.cockpit.refusals import TURN
from carm_env.evaluation.study import StudyDrive
from carm_env.evaluation.suite import Suite, load_suite, suite_names
from carm_env.system.errors import UnknownNameError
from carm_env.system.person_names import check_person_name


def study_suites(more_suites: Iterable[str] = ()) -> dict[str, Suite]:
    """Returns the suites that can be played, by name: those of the package, and YAML files that the user names.

    Raises:
        ValueError: a file is not a valid suite, or two different suites have one name.
        FileNotFoundError: a file does not exist.
    """
    found: dict[str, Suite] = {}
    for name in (*suite_names(), *more_suites):
        suite = load_suite(name)
        if found.setdefault(suite.name, suite).hash != suite.hash:
            raise ValueError(f"two different suites are called {suite.name!r}: rename the one of --suites.")
    return found


class StudyDesk:
    """The study of one person in one suite.

    Args:
        opening: the message that opens it.
        suites: the suites by name.
        folder: folder of all studies; each has a folder of its own in it.

    Raises:
        UnknownNameError: there is no such suite.
        ValueError: the name has other characters than a pseudonym.
        StudyError: the folder holds a study of another version of the suite.
        BusyError: another process plays this study.
    """

    def __init__(self, opening: messages.Open, suites: Mapping[str, Suite], folder: Path) -> None:
        if opening.suite not in suites:
            raise UnknownNameError("suite", opening.suite, suites)
        own = folder / opening.suite / check_person_name("participant", opening.name)
        self._suite, self._name = opening.suite, opening.name
        self._drive = StudyDrive(suites[opening.suite], opening.name, own)

    def show(self) -> list[Outgoing]:
        """Returns the X-ray and the readouts; after the end of the study, that it is finished."""
        drive = self._drive
        study = {
            "name": drive.policy_name,
            "suite": drive.suite.name,
            "finished_episodes": drive.finished_episodes,
            "episodes": len(drive.suite.episodes),
            "is_finished": drive.is_finished,
            "folder": str(drive.folder),
            "is_of_package": drive.suite.name in suite_names(),
        }
        if drive.is_finished and not drive.has_view:
            return [{"type": "finished", "study": study}]
        view = drive.view()
        state = {
            **drive_readouts(view),
            "title": view.title,
            "message": view.message,
            "has_ended": view.has_ended,
            "seconds": round(view.seconds, 1),
        }
        return [encode_frame({"type": "frame", "state": state, "study": study}, view.image)]

    def answer(self, message: Any) -> list[Outgoing]:
        """Carries out a message; the decision is on the disk when it returns.

        A decision about another X-ray than the last one is refused, and the last one is shown again.

        Raises:
            DriveError: the episode has ended, or there is no further one.
        """
        if isinstance(message, messages.NextEpisode):
            self._drive.next_episode()
            return self.show()
        steps = self._drive.view().steps
        if message.suite not in ("", self._suite) or message.name not in ("", self._name):
            return self._refused("That was for another study and was not carried out: decide again.")
        if message.steps != steps:
            count = f"{steps} decision counts" if steps == 1 else f"{steps} decisions count"
            return self._refused(f"That was for the X-ray before: decide again, {count} so far.")
        if isinstance(message, messages.HandBack):
            self._drive.hand_back()
        else:
            self._drive.move(Move.from_index(message.action))
        return self.show()

    def _refused(self, text: str) -> list[Outgoing]:
        return [*self.show(), {"type": "refused", "reason": TURN, "text": text}]

    def close(self) -> None:
        """Lets another page or process continue the study; nothing is lost."""
        self._drive.close()
