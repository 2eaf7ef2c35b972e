"""Pack the results of a policy into a submission, or validate one by replaying its moves.

    python benchmarks/submit.py pack runs/mine --policy mine --card card.md --out mine.zip
    python benchmarks/submit.py validate mine.zip

``pack`` takes the folder of ``benchmarks/leaderboard.py`` or ``carm-env evaluate``. ``validate`` checks hashes,
suites and completeness, and carries out every move in the environment: positions, distances, outcomes, exposures and
dose must follow from suite and seed. It lists what is wrong and ends with status 1 then. Invalid answers,
abstentions, times, tokens and costs cannot be replayed; they are taken from the results.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from benchmarks._support.submissions import (
    SubmissionError,
    pack,
    read_submission,
    replay_problems,
    static_problems,
    suites_to_replay,
)
from carm_env.ct.archives import extracted
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.system.command_line import run_script
from carm_env.system.files import write_json


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        command: pack or validate.
        path: results to pack (a folder or its episodes.jsonl), or the archive to validate.
        policy: name of the policy to pack; needed if the results are of several.
        card: Markdown file that describes the policy, to pack.
        transcripts: folder with transcripts of the policy's episodes, to pack.
        out: archive to write; by default the name of the policy.
        replay: carry out the moves.
        json: file for the problems that were found.
    """

    command: Positional[Literal["pack", "validate"]]
    path: Positional[Path]
    policy: str | None = None
    card: Path | None = None
    transcripts: Path | None = None
    out: Path | None = None
    replay: bool = True
    json: Path | None = None


def run(arguments: Arguments) -> int:
    """Packs or validates; returns the exit status."""
    if arguments.command == "validate":
        return validate(arguments)
    if arguments.card is None:
        raise SubmissionError("--card is not given, expected a Markdown file that describes the policy.")
    name = arguments.policy or arguments.path.stem
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
    out = arguments.out or Path(f"{plain}.zip")
    suites = pack(arguments.path, arguments.card, out, arguments.policy, arguments.transcripts)
    print(f"{out}: {', '.join(f'{name} ({value})' for name, value in suites.items())}")
    return 0


def validate(arguments: Arguments) -> int:
    """Prints what is wrong with an archive; returns 1 if anything is."""
    with extracted(arguments.path) as folder:
        submission = read_submission(folder)
    problems = static_problems(submission)
    suites = suites_to_replay(submission) if arguments.replay else ()
    prepare_patients([name for suite in suites for name in suite.patients], default_workers())
    for suite in suites:
        problems += replay_problems(suite, submission.results)
    for text in problems:
        print(f"problem: {text}")
    if arguments.json is not None:
        about = {"policy": submission.policy, "episodes": len(submission.results), "replayed": bool(suites)}
        write_json(arguments.json, {**about, "problems": problems})
    replayed = "replayed" if suites else "not replayed"
    found = f"{len(problems)} problem(s)" if problems else "valid"
    print(f"{arguments.path}: {submission.policy}, {len(submission.results)} episodes, {replayed}: {found}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
