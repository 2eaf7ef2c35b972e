"""``carm-env import``: anyone's CT becomes a patient."""

from __future__ import annotations

import argparse
from pathlib import Path


def _import(options: argparse.Namespace) -> int:
    from carm_env.ct.importer import ImportOptions, import_ct, read_ct
    from carm_env.landmarks import landmark

    asked = ImportOptions(
        spacing_mm=options.spacing,
        series=options.series,
        remove_table=options.remove_table,
        accept_gaps=options.accept_gaps,
        assume_hu=options.assume_hu,
        hu_offset=options.hu_offset,
        accept_implausible=options.accept_implausible,
    )
    if options.check:
        print("\n".join(read_ct(options.path, asked).notes))
        return 0
    imported = import_ct(
        options.path,
        options.name,
        options.landmarks,
        asked,
        coordinate_system=options.coordinate_system,
        replace=options.replace,
    )
    for note in imported.notes:
        print(f"- {note}")
    points = imported.patient.landmarks_lps_mm
    print(f"{imported.patient.id}: kept in {imported.folder}")
    print(f"landmarks: {', '.join(landmark(key).name for key in points) or 'none: it can be looked at, not navigated'}")
    return 0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "import", help="make a patient of a CT: DICOM folder or zip, NIfTI, NRRD, MetaImage (extra: ct)"
    )
    parser.set_defaults(command=_import)
    parser.add_argument("path", type=Path, metavar="PATH", help="folder, zip or file")
    parser.add_argument("--name", default=None, help="of the patient (default: ct- and eight digits of a keyed hash)")
    parser.add_argument(
        "--landmarks",
        type=Path,
        default=None,
        help="3D Slicer .mrk.json or .fcsv, a CSV, or a TotalSegmentator label map",
    )
    parser.add_argument(
        "--coordinate-system", choices=("LPS", "RAS"), default=None, help="of a landmark file that does not state it"
    )
    parser.add_argument(
        "--series", default=None, metavar="N|UID", help="DICOM series to take (default: chosen by rule)"
    )
    parser.add_argument(
        "--spacing", type=float, default=1.5, metavar="MM", help="voxel size, 0.5 to 6 mm (default 1.5)"
    )
    parser.add_argument("--remove-table", action="store_true", help="leave only the body")
    parser.add_argument("--accept-gaps", action="store_true", help="fill missing slices by interpolation")
    parser.add_argument(
        "--assume-hu", action="store_true", help="values are Hounsfield units though the file does not say so"
    )
    parser.add_argument(
        "--hu-offset", type=float, default=0.0, metavar="HU", help="add this to every value, e.g. -1024"
    )
    parser.add_argument("--accept-implausible", action="store_true", help="keep landmarks that the check calls wrong")
    parser.add_argument("--replace", action="store_true", help="overwrite a patient of the same name")
    parser.add_argument("--check", action="store_true", help="only read and report; keep nothing")
