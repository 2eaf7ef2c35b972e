"""``carm-env localize``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from carm_env.ct.radiographs import Radiograph
    from carm_env.evaluation.external_images import ImageExaminer, ImageFindings, SquareView
    from carm_env.evaluation.localization import Localizer

UNREADABLE, NOT_AN_IMAGE = "unreadable", "not_an_image"
_LOCALIZERS = ("cnn", "conformal", "mllm", "mllm_grpo")
"""Localisers of the repository; `policies.localizers` constructs them."""
_FORMS = (*_LOCALIZERS, "module:Class", "FILE.py:Class")
_DETECTOR = "policies.out_of_distribution:OutOfDistributionDetector"
_N_CLOSEST = 3


@dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        path: PNG, JPEG or DICOM file, or a folder of them.
        policy: conformal, cnn, mllm or mllm_grpo, with :CHECKPOINT for other weights; or module:Class or
            FILE.py:Class with a method closest(images).
        out: folder of localization.csv, localization.json and annotated/, the annotated images; those of an earlier
            run are removed, files of others are not.
        false_alarm_rate: share of familiar views that may be called out of distribution.
        field_of_view: length that the shorter side of the image shows in the middle of the body, mm; by default what
            the DICOM header states, or the field of view of the default C-arm.
        invert: invert the grey values of all images: bones have to be bright.
        frame: number of the image in files that hold several, from 1.
    """

    path: Positional[Annotated[str, arg(metavar="PATH")]]
    policy: str = "conformal"
    out: Path = Path("runs/localize")
    false_alarm_rate: float = 0.05
    field_of_view: float | None = None
    invert: bool = False
    frame: int | None = None


def localize(arguments: Arguments) -> int:
    """Name and mark the landmarks in X-ray images: PNG, JPEG or DICOM.

    The exit status is 0 if the landmarks of every file were localised; 1 if an image is unlike the X-rays that the
    networks know, or a file of a folder cannot be read or is no image; 2 for an error, such as a single file that
    cannot be read or is no image, a folder without images, or wrong options; and 130 after Ctrl-C, which keeps what is
    finished.
    """
    from carm_env.cli._localization_files import (
        check_output,
        open_output,
        own_paths,
        printable_name,
        remove_earlier_run,
    )
    from carm_env.evaluation.external_images import FIELD_OF_VIEW_LIMITS_MM, find_images

    low, high = FIELD_OF_VIEW_LIMITS_MM
    if arguments.field_of_view is not None and not low <= arguments.field_of_view <= high:
        raise ValueError(f"--field-of-view is {arguments.field_of_view:g}, expected {low:g} to {high:g} mm.")
    if not arguments.path:
        raise ValueError("PATH is '', expected a file or a folder: the current folder is '.'.")
    path = Path(arguments.path)
    check_output(arguments.out, path)
    images, others = find_images(path, own_paths(arguments.out))
    folder = path if path.is_dir() else path.parent
    files = [image.relative_to(folder) for image in images]
    skipped = [printable_name(file.relative_to(folder).as_posix()) for file in others]
    records: list[dict[str, Any]] = []
    with open_output(arguments.out):
        examiner = _make_examiner(arguments)
        try:
            for record in _examine(folder, files, examiner, arguments, keep_going=path.is_dir()):
                if not records:
                    remove_earlier_run(arguments.out, Path(record["annotated"]) if "annotated" in record else None)
                records.append(record)
        finally:
            # Ctrl-C keeps what is finished.
            if records:
                _write(arguments, examiner, records, skipped, len(images))
            if records and len(records) < len(images):
                print(f"{len(records)} of {len(images)} images, saved to {arguments.out}")
    _print(records, arguments.out, len(others))
    return int(bool(others) or any(record["status"] != "localized" for record in records))


def _make_examiner(arguments: Arguments) -> ImageExaminer:
    from carm_env.evaluation.external_images import ImageExaminer

    localizer = _make_localizer(arguments.policy)
    return ImageExaminer(localizer, _load(_DETECTOR)(), arguments.false_alarm_rate)


def _make_localizer(policy: str) -> Localizer:
    from carm_env.evaluation.own_localizers import make_own_localizer

    if policy.partition(":")[0] in _LOCALIZERS:
        made: Localizer = _load("policies.localizers:make_localizer")(policy, sampled=policy.startswith("mllm"))
        return made
    return make_own_localizer(_load(policy), policy)


def _load(name: str) -> Any:
    """Imports a class or function of the repository or of the user."""
    from carm_env.evaluation.policy_loading import PolicyLoadingError, import_module_of

    try:
        module, attribute = import_module_of(name, _FORMS)
    except PolicyLoadingError as error:
        if not (name.startswith("policies.") and isinstance(error.__cause__, ModuleNotFoundError)):
            raise
        raise PolicyLoadingError(
            "carm-env localize needs the networks of the repository, which the package does not contain: clone the "
            "repository and run `pip install -e '.[train]'` there."
        ) from error
    if not hasattr(module, attribute):
        raise PolicyLoadingError(f"--policy is {name!r}, but {module.__name__} has no {attribute}.")
    return getattr(module, attribute)


def _examine(
    folder: Path, files: Sequence[Path], examiner: ImageExaminer, arguments: Arguments, keep_going: bool
) -> Iterator[dict[str, Any]]:
    """Yields the record of each image and saves its drawing; `keep_going` makes a record of one that is unreadable."""
    from tqdm import tqdm

    from carm_env.cli._image_files import save_image
    from carm_env.cli._localization_files import output_names, printable_name, software_mark
    from carm_env.ct.radiographs import RadiographError

    names = output_names(files)
    for file in tqdm(files, unit="image", disable=len(files) < 2):
        shown = {"file": printable_name(file.as_posix())}
        try:
            radiograph, view = _read(folder / file, arguments, examiner.field_of_view_mm)
        except (RadiographError, OSError) as error:
            if not keep_going:
                raise
            yield {**shown, "status": UNREADABLE, "reason": printable_name(str(error))}
            continue
        findings = examiner.examine(view)
        drawing = _drawing(printable_name(file.name), radiograph, findings)
        save_image(drawing, arguments.out / names[file], pnginfo=software_mark())
        yield {**shown, **_record(radiograph, view, findings, examiner, names[file])}


def _read(path: Path, arguments: Arguments, expected_mm: float) -> tuple[Radiograph, SquareView]:
    from carm_env.ct.radiographs import read_radiograph
    from carm_env.evaluation.external_images import square_view

    radiograph = read_radiograph(path, arguments.frame)
    if arguments.invert:
        radiograph = radiograph.inverted()
    return radiograph, square_view(radiograph, arguments.field_of_view, expected_mm)


def _reason(findings: ImageFindings) -> str:
    from carm_env.evaluation.external_images import LOCALIZED

    if findings.status == LOCALIZED:
        return ""
    if findings.looks_inverted:
        return "unlike the frontal X-rays that the networks know; its negative is not: try --invert"
    return "unlike the frontal X-rays that the networks know: another view or body part, or no X-ray"


def _record(
    radiograph: Radiograph, view: SquareView, findings: ImageFindings, examiner: ImageExaminer, output: Path
) -> dict[str, Any]:
    height, width = radiograph.image.shape
    return {
        "status": findings.status,
        "reason": _reason(findings),
        "closest": _closest_json(findings),
        "guess": _guess(findings),
        "out_of_distribution": {
            "score": round(findings.score, 3),
            "threshold": round(examiner.threshold, 3),
            "p_value": float(f"{findings.p_value:.6g}"),
            "looks_inverted": findings.looks_inverted,
        },
        "landmarks": findings.landmarks_json(width, height),
        "size": [width, height],
        "pixels_per_mm": round(view.pixels_per_mm, 5),
        "notes": [*radiograph.notes, *view.notes],
        "annotated": output.as_posix(),
    }


def _closest_json(findings: ImageFindings) -> list[dict[str, Any]]:
    from carm_env.landmarks import landmark

    return [{"id": key, "name": landmark(key).name, "probability": value} for key, value in findings.closest]


def _guess(findings: ImageFindings) -> list[str]:
    from carm_env.landmarks import landmark

    return [landmark(key).name for key in findings.guess]


def _percent(probability: float | None) -> str:
    if probability is None:
        return ""
    return f" {100 * probability:.0f} %" if probability >= 0.005 else " < 1 %"


def _p_text(p_value: float) -> str:
    """Returns a p-value with as many digits as tell whether an image gets a guess."""
    from carm_env.evaluation.external_images import NO_GUESS_P_VALUE

    if p_value < NO_GUESS_P_VALUE:
        return f"p < {NO_GUESS_P_VALUE}"
    digits = 3
    while p_value > NO_GUESS_P_VALUE >= round(p_value, digits):
        digits += 1
    return f"p {p_value:.{digits}f}"


def _closest_text(closest: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{item['name']}{_percent(item['probability'])}" for item in closest)


def _drawing(title: str, radiograph: Radiograph, findings: ImageFindings) -> Any:
    from carm_env.sheets.annotated_image import Mark, draw_annotated

    height, width = radiograph.image.shape
    probabilities = dict(findings.closest)
    marks = []
    for position in findings.landmarks_json(width, height):
        if position["in_image"]:
            key = position["id"]
            label = f"{position['name']}{_percent(probabilities.get(key))}"
            marks.append(Mark(label, position["pixel"], position["region_90_pixels"], key in probabilities))
    closest = _closest_text(_closest_json(findings))
    familiarity = f"out-of-distribution score {findings.score:.1f}, {_p_text(findings.p_value)}"
    reason = _reason(findings)
    captions = [title, *([f"OUT OF DISTRIBUTION: {reason}"] if reason else [])]
    if findings.guess:
        closest = f"{', '.join(_guess(findings))} (a guess; do not rely on it)"
    captions.append(f"closest to the centre: {closest}" if closest else "no landmark is named")
    return draw_annotated(radiograph.image, marks, [*captions, familiarity], is_warning=bool(reason))


def _rows(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        row: dict[str, Any] = {name: record.get(name, "") for name in ("file", "status", "reason")}
        for number in range(_N_CLOSEST):
            found = record.get("closest", [])[number : number + 1]
            row[f"closest_{number + 1}"] = found[0]["name"] if found else ""
            probability = found[0]["probability"] if found else None
            row[f"probability_{number + 1}"] = "" if probability is None else f"{probability:.4f}"
        row["guess"] = ", ".join(record.get("guess", []))
        scores = record.get("out_of_distribution", {})
        yield {**row, **{name: scores.get(name, "") for name in ("score", "threshold", "p_value")},
               "annotated": record.get("annotated", "")}  # fmt: skip


def _write(
    arguments: Arguments,
    examiner: ImageExaminer,
    records: Sequence[Mapping[str, Any]],
    skipped: Sequence[str],
    n_images: int,
) -> None:
    from carm_env.cli._localization_files import CSV, JSON, printable_name
    from carm_env.evaluation.provenance import provenance
    from carm_env.system.files import atomic_write, write_json

    rows = [*_rows(records), *_rows([{"file": name, "status": NOT_AN_IMAGE} for name in skipped])]
    with atomic_write(arguments.out / CSV) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    about = {
        "policy": printable_name(arguments.policy),
        "false_alarm_rate": examiner.false_alarm_rate,
        "threshold": round(examiner.threshold, 3),
        "inverted": arguments.invert,
        "complete": len(records) == n_images,
        "n_images": n_images,
        "images": list(records),
        "other_files": list(skipped),
        "run": provenance(),
    }
    write_json(arguments.out / JSON, about)


def _print(records: Sequence[Mapping[str, Any]], out: Path, n_others: int) -> None:
    width = max(len(record["file"]) for record in records)
    for record in records:
        if record["status"] == UNREADABLE:
            print(f"{record['file']:{width}}  unreadable: {record['reason']}")
            continue
        answer = _closest_text(record["closest"]) or ("no answer" if record["status"] == "localized" else "")
        doubt = f"OUT OF DISTRIBUTION: {record['reason']}" if record["reason"] else ""
        if record["guess"]:
            answer = f"guess: {', '.join(record['guess'])}"
        p_value = _p_text(record["out_of_distribution"]["p_value"])
        print(f"{record['file']:{width}}  {p_value}  {'; '.join(filter(None, (doubt, answer)))}")
    assumed = {note for record in records for note in record.get("notes", []) if note.startswith("field of view")}
    print("\n".join(sorted(assumed)))
    counts = {status: sum(record["status"] == status for record in records)
              for status in ("localized", "out_of_distribution", UNREADABLE)}  # fmt: skip
    summary = f"{counts['localized']} localised, {counts['out_of_distribution']} out of distribution"
    summary += f", {counts[UNREADABLE]} unreadable" if counts[UNREADABLE] else ""
    summary += f", {n_others} file(s) of other kinds skipped" if n_others else ""
    print(f"{summary}: {out}/localization.csv, localization.json and annotated/")
