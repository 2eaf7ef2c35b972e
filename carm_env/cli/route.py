"""``carm-env route``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        images: PNG, JPEG or DICOM files, or folders of them.
        cards: folder of model cards (*.yaml); by default those of the repository.
        model: folder, id on the hub, or http://HOST:PORT/v1#MODEL; by default the small model that ships.
        cutoffs: file of training/cutoffs.py, or none; by default the cutoffs that ship for the model and cards that
            ship.
        ask_for_two: ask a served model that gives no logprobs for two answers and their probabilities in words.
        frame: number of the image in files that hold several, from 1.
        out: folder for a transcript of each image, which carm-env replay shows.
        json: file for the results.
    """

    images: Positional[Annotated[tuple[str, ...], arg(metavar="IMAGE")]]
    cards: str = ""
    model: str = ""
    cutoffs: str = ""
    ask_for_two: bool = False
    frame: int | None = None
    out: Path | None = None
    json: Path | None = None


def route(arguments: Arguments) -> int:
    """Find the model card for images: modality, finding, card, or nobody.

    Prints for each stage the two likeliest answers with their probabilities, the cutoff and the decision.

        carm-env route image.png --out runs/route
        carm-env route folder --cards my_cards --model google/medgemma-4b-it

    The exit status is 0 if every image has been routed, also to no card; 1 if a file of several cannot be read or is no
    image; 2 for an error, such as a single file that cannot be read; and 130 after Ctrl-C.
    """
    from carm_env.cli._localization_files import printable_name
    from carm_env.ct.radiographs import RadiographError, read_image
    from carm_env.transcripts.write import episode_folder_name

    files, others = _files(arguments.images)
    router = _load("load", "load_router")(
        arguments.model, arguments.cards, arguments.cutoffs, arguments.ask_for_two
    )  # fmt: skip
    records: list[dict[str, Any]] = []
    record = _module("record")
    unreadable = len(others)
    for path in others:
        error_text = "not a PNG, JPEG or DICOM file"
        print(f"{printable_name(str(path))}: unreadable: {error_text}", file=sys.stderr)
        records.append({"file": printable_name(str(path)), "error": error_text})
    for path in files:
        shown = printable_name(str(path))
        try:
            image = read_image(path, arguments.frame).image
        except (RadiographError, OSError) as error:
            if len(files) == 1:
                raise
            unreadable += 1
            print(f"{shown}: unreadable: {error}", file=sys.stderr)
            records.append({"file": shown, "error": str(error)})
            continue
        found = router.route(image)
        print("\n".join([shown, *record.route_lines(found)]), flush=True)
        records.append({"file": shown, **record.route_json(found)})
        if arguments.out is not None:
            # The name depends on the image alone, so that a second run replaces the transcript.
            name = episode_folder_name(path.name, "route", arguments.frame or 0, str(path.resolve()))
            record.save_route(arguments.out / name, found, image, arguments.model or "shipped", router.prompts)
    _save(arguments, router, records)
    return int(unreadable > 0)


def _files(given: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Returns the images among files and folders, and the files of folders that are not images."""
    from carm_env.evaluation.external_images import find_images

    if not given or not all(given):
        raise ValueError("IMAGE is empty, expected files or folders: the current folder is '.'.")
    images: list[Path] = []
    others: list[Path] = []
    for name in given:
        found, skipped = find_images(Path(name))
        images += found
        others += skipped
    return images, others


def _save(arguments: Arguments, router: Any, records: Sequence[dict[str, Any]]) -> None:
    from carm_env.evaluation.provenance import save_measurement

    if arguments.json is not None:
        about = {"model": arguments.model or "shipped", "repository": router.repository.fingerprint,
                 "prompts": router.prompts}  # fmt: skip
        save_measurement(arguments.json, {**about, "images": list(records)}, 0)
    if arguments.out is not None:
        print(f"transcripts: {arguments.out} (carm-env replay {arguments.out})")


def _module(name: str) -> Any:
    """Imports a module of ``policies.routing``, which the wheel does not contain."""
    import importlib

    from carm_env.evaluation.policy_loading import PolicyLoadingError

    try:
        return importlib.import_module(f"policies.routing.{name}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("policies"):
            raise
        raise PolicyLoadingError(
            "carm-env route needs the router of the repository, which the package does not contain: clone the "
            "repository and run `pip install -e '.[llm]'` there."
        ) from error


def _load(module: str, name: str) -> Any:
    return getattr(_module(module), name)
