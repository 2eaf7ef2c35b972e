"""``carm-env play``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM

if TYPE_CHECKING:
    from carm_env.evaluation.suite import Suite

_OF_SUITES = (
    "patient", "target", "start", "alpha", "beta", "projection", "isocenter_depth", "size", "kvp", "mas",
    "exposure_control",
)  # fmt: skip
"""Arguments that a suite sets."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        patient: virtual:SEED, the name of an imported patient, a CT with landmarks, or a cohort to draw from.
        target: landmark to find (name or id); by default drawn at random.
        start: landmark (name or id), or X Z or X Y Z (LPS mm); by default drawn at random.
        alpha: angle in degrees, positive to RAO, -45 to 45.
        beta: angle in degrees, positive to CAUD, -45 to 45.
        projection: AP or PA.
        isocenter_depth: distance of the isocentre from mid-depth of the body towards the source, mm.
        size: side of the X-rays in pixels, 16 to 2048.
        kvp: tube voltage, 40 to 150 kV.
        mas: tube current times exposure time, mAs.
        exposure_control: choose the mAs automatically.
        seed: seed of the random draws and of the noise.
        suite: play the episodes of a suite instead: smoke, uniform, paper-routes, ..., or a YAML file.
        episode: number of one episode of the suite, from 0.
        study: play the whole suite, blinded, and write results as human:NAME.
        out: folder of the study's results.
    """

    patient: str = "virtual:0"
    target: str | None = None
    start: Annotated[tuple[str, ...] | None, arg(metavar="LANDMARK|MM [MM ...]")] = None
    alpha: float = 0.0
    beta: float = 0.0
    projection: str = "AP"
    isocenter_depth: float = DEFAULT_ISOCENTER_DEPTH_MM
    size: int = 512
    kvp: float = 90.0
    mas: float = 0.5
    exposure_control: bool = False
    seed: int = 0
    suite: str | None = None
    episode: int | None = None
    study: str | None = None
    out: Path | None = None


def play(arguments: Arguments) -> int:
    """Drive the C-arm in a desktop window, with the keyboard alone.

    Arrows move the view (Shift and Ctrl for longer moves), Enter declares it aligned; h shows all keys. With --suite,
    --study and --out you play a frozen suite without being told how far the target is. The results are those of the
    leaderboard, under human:NAME; the same command continues an interrupted study:

        carm-env play --suite smoke --study reader-1 --out runs/study
        carm-env evaluate --from runs/study --out runs/board
    """
    from carm_env.play.window import PlayWindow

    _check(arguments)
    if arguments.suite is None:
        PlayWindow(_free_drive(arguments)).run()
        return 0
    suite = _prepared(arguments.suite, arguments.episode)
    if arguments.study is None:
        PlayWindow(_suite_drive(arguments, suite)).run()
        return 0
    return _play_study(arguments, suite)


def _check(arguments: Arguments) -> None:
    default = Arguments()
    if arguments.suite is None:
        for name in ("episode", "study"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name} is given without --suite: name the suite that it is of, such as smoke.")
    else:
        for name in _OF_SUITES:
            if getattr(arguments, name) != getattr(default, name):
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} and --suite are both given, but the suite sets it: leave --{flag} out.")
    if (arguments.study is None) != (arguments.out is None):
        raise ValueError("--study and --out belong together, expected both: a pseudonym, and a folder for the results.")
    if arguments.study is not None and arguments.episode is not None:
        raise ValueError("--study plays all episodes of the suite: leave --episode out.")
    if arguments.seed < 0:
        raise ValueError(f"--seed is {arguments.seed}, expected at least 0.")


def _prepared(name: str, episode: int | None) -> Suite:
    """Returns a suite whose patients are built."""
    from carm_env.evaluation.prepared_suites import prepare_outlines
    from carm_env.evaluation.suite import load_suite
    from carm_env.patients.build import default_workers

    suite = load_suite(name)
    if episode is not None and not 0 <= episode < len(suite.episodes):
        raise ValueError(f"--episode is {episode}, expected 0 to {len(suite.episodes) - 1} for suite {suite.name}.")
    suite.check(prepare_outlines(suite.patients, default_workers()))
    return suite


def _free_drive(arguments: Arguments) -> Any:
    from carm_env.envs.navigation import CArmNavEnv
    from carm_env.evaluation.driving import FreeDrive

    env = CArmNavEnv(
        patients=arguments.patient,
        image_size=arguments.size,
        alpha_deg=arguments.alpha,
        beta_deg=arguments.beta,
        projection=arguments.projection,  # type: ignore[arg-type]
        isocenter_depth_mm=arguments.isocenter_depth,
        xray={"kvp": arguments.kvp, "mas": arguments.mas, "exposure_control": arguments.exposure_control},
    )
    options: dict[str, Any] = {} if arguments.target is None else {"target": _landmark_or_id(arguments.target)}
    if arguments.start is not None:
        options["start"] = read_start(arguments.start)
    return FreeDrive(env, options, arguments.seed)


def _suite_drive(arguments: Arguments, suite: Suite) -> Any:
    from carm_env.evaluation.driving import FreeDrive
    from carm_env.evaluation.episodes import make_suite_environment

    number = arguments.episode or 0
    spec = suite.episodes[number]
    options = {"patient": spec.patient, "target": spec.target, "start": spec.start}
    return FreeDrive(make_suite_environment(suite), options, arguments.seed + number, suite.max_steps)


def _play_study(arguments: Arguments, suite: Suite) -> int:
    from carm_env.evaluation.study import StudyDrive
    from carm_env.play.window import PlayWindow

    assert arguments.study is not None and arguments.out is not None
    with StudyDrive(suite, arguments.study, arguments.out, arguments.seed) as drive:
        if drive.is_finished:
            print(f"{drive.policy_name} has finished all {drive.finished_episodes} episodes of suite {suite.name}.")
        else:
            PlayWindow(drive).run()
            print(f"{drive.policy_name}: {drive.finished_episodes} of {len(suite.episodes)} episodes are finished.")
        again = "" if drive.is_finished else " The same command continues."
    print(f"Results: {arguments.out}.{again} Leaderboard: carm-env evaluate --from {arguments.out} --out FOLDER")
    return 0


def _landmark_or_id(text: str) -> int:
    from carm_env.landmarks import landmark

    return landmark(text).id


def read_start(words: tuple[str, ...]) -> int | tuple[float, ...]:
    """Returns the start that words of the command line name: a landmark, or two or three numbers in LPS mm.

    >>> read_start(("carina",)), read_start(("-20", "1500.5"))
    (11, (-20.0, 1500.5))

    Raises:
        UnknownNameError: an unknown landmark.
        ValueError: several words that are not two or three finite numbers.
    """
    from carm_env.envs.episode import parse_start

    if len(words) == 1:
        return _landmark_or_id(words[0])
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        raise ValueError(
            f"--start is {' '.join(words)!r}, expected a landmark (quote a name of several words), or X Z or X Y Z."
        ) from None
    return parse_start(numbers)
