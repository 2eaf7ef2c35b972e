"""A table of DICOM series as people export them: each is imported with stated assumptions, or refused with a way on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carm_env.ct.errors import CTImportError
from carm_env.ct.importer import ImportOptions, read_ct

pydicom = pytest.importorskip("pydicom")

_SPEC = util.spec_from_file_location("dicom_series", Path(__file__).with_name("dicom_series.py"))
assert _SPEC is not None and _SPEC.loader is not None
dicom_series = util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(dicom_series)
write_series, write_enhanced = dicom_series.write_series, dicom_series.write_enhanced

Write = Callable[[Path], object]
AXIAL = ["ORIGINAL", "PRIMARY", "AXIAL"]
DERIVED = ["DERIVED", "SECONDARY", "AXIAL"]


@dataclass(frozen=True)
class Condition:
    """One row of the table.

    Attributes:
        name: what is special.
        write: writes the files into a folder.
        assumptions: pattern of each assumption that the import states, in any order, and no others.
        refused: pattern of the message if the series is refused.
        note: pattern of a note.
        options: options of the import.
    """

    name: str
    write: Write
    assumptions: tuple[str, ...] = ()
    refused: str = ""
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def series(*changes: Callable[[Any, int], None], uid: int = 1, folder: str = "", **options: Any) -> Write:
    def change(data: Any, number: int) -> None:
        for one in changes:
            one(data, number)

    return lambda path: write_series(path / folder, change=change, series=uid, **options)


def several(*writes: Write) -> Write:
    return lambda path: [write(path) for write in writes]


def values(only: int | Callable[[int], bool] | None = None, **given: Any) -> Callable[[Any, int], None]:
    """Sets attributes of all slices, of one, or of some; None deletes an attribute."""

    def change(data: Any, number: int) -> None:
        if only is None or (only(number) if callable(only) else number == only):
            for name, value in given.items():
                value = value(number) if callable(value) else value
                if value is None:
                    del data[name]
                else:
                    setattr(data, name, value)

    return change


def moved(move: Callable[[float, int], float], axis: int = 2) -> Callable[[Any, int], None]:
    """Changes one coordinate of the positions."""

    def change(data: Any, number: int) -> None:
        position = [float(value) for value in data.ImagePositionPatient]
        position[axis] = move(position[axis], number)
        data.ImagePositionPatient = position

    return change


def stored(change_of: Callable[[np.ndarray], np.ndarray], **given: Any) -> Callable[[Any, int], None]:
    """Changes the stored values, and sets attributes."""

    def change(data: Any, number: int) -> None:
        pixels = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns).astype(np.int64)
        data.PixelData = (change_of(pixels) & 0xFFFF).astype("<u2").tobytes()
        values(**given)(data, number)

    return change


def corner(value: int | np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Sets a corner of the image, outside of the phantom, to a stored value."""

    def change(pixels: np.ndarray) -> np.ndarray:
        pixels[:4, :8] = value
        return pixels

    return change


def copied(name: str) -> Write:
    """Writes the series, and the slice 5 again under another name."""

    def write(path: Path) -> None:
        paths = write_series(path)
        shutil.copy(paths[5], path / name)

    return write


def localizer(data: Any, number: int) -> None:
    if number == 0:
        data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        data.InstanceNumber, data.ImagePositionPatient = 17, [-30, 0, 60]


def with_localizer(path: Path) -> None:
    write_series(path)
    write_series(
        path / "scout", count=1, change=lambda data, _: (localizer(data, 0), values(SOPInstanceUID="1.9")(data, 0))
    )


def without_preamble(path: Path) -> None:
    for file in write_series(path):
        content = file.read_bytes()
        length = int.from_bytes(content[140:144], "little")
        file.write_bytes(content[144 + length :])


def big_endian(path: Path) -> None:
    for file in write_series(path):
        data = pydicom.dcmread(file)
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        other = pydicom.Dataset()
        other.update({element.tag: element for element in data})
        other.file_meta = data.file_meta
        pydicom.dcmwrite(file, other, implicit_vr=False, little_endian=False)


def deflated(path: Path) -> None:
    for file in write_series(path):
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        data.save_as(file)


def run_length_encoded(path: Path) -> None:
    for file in write_series(path):
        data = pydicom.dcmread(file)
        data.compress(pydicom.uid.RLELossless)
        data.save_as(file)


def truncated(path: Path) -> None:
    file = write_series(path)[5]
    file.write_bytes(file.read_bytes()[:-900])


def phases(path: Path) -> None:
    """Two files of enhanced CT, one for each phase."""
    for number in (1, 2):
        file = write_enhanced(path, change=values_of_file(f"1.2.3.{number}.9"))
        file.rename(path / f"phase{number}.dcm")


def values_of_file(instance: str) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = instance

    return change


def time_points(data: Any) -> None:
    """Repeats the frames of an enhanced CT as a second time point."""
    from copy import deepcopy

    frames = []
    for time in (1, 2):
        for group in deepcopy(data.PerFrameFunctionalGroupsSequence):
            content = pydicom.Dataset()
            content.TemporalPositionIndex = time
            group.FrameContentSequence = pydicom.Sequence([content])
            frames.append(group)
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    data.NumberOfFrames *= 2
    data.PixelData = data.PixelData * 2


def map_of(units: str, slope: float) -> Callable[[Any, int], None]:
    def change(data: Any, number: int) -> None:
        code, mapping = pydicom.Dataset(), pydicom.Dataset()
        code.CodeValue = units
        mapping.MeasurementUnitsCodeSequence = pydicom.Sequence([code])
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = slope, -1024.0
        data.RealWorldValueMappingSequence = pydicom.Sequence([mapping])

    return change


def lookup_table(data: Any, number: int) -> None:
    table = pydicom.Dataset()
    table.ModalityLUTType = "HU"
    data.ModalityLUTSequence = pydicom.Sequence([table])


NOISE = np.random.default_rng(0).uniform(-0.03, 0.03, 200)
SNAPPED = r"positions: slices lie up to 0\.\d\d mm off a regular grid"
CHOSEN = r"series: 1 of 2 was chosen .*--series N"
FILLED = r"\d+ of \d+ slices were filled"
GAPS = "gaps accepted"
NO_TYPE = "ImageType is missing"
ACQUISITIONS = r"--acquisition N, told apart by {} \(1: 16 slices, 3.00 mm apart, 45 mm long; 2: 16 slices"

TABLE = (
    # Which series
    Condition(
        "MIP slabs",
        several(series(), series(values(ImageType=[*DERIVED, "MIP"]), uid=2, folder="z", step_mm=1.0, count=46)),
        (CHOSEN,),
    ),
    Condition(
        "MIP slabs between the slices of the series",
        series(values(lambda n: n % 2, ImageType=[*DERIVED, "MIP"])),
        refused=r"original and derived images whose positions overlap.*--acquisition N, told apart by ImageType",
    ),
    Condition(
        "the slices between MIP slabs",
        series(values(lambda n: n % 2 == 0, ImageType=[*DERIVED, "MIP"]), step_mm=1.5, count=32, thickness_mm=3.0),
        ("acquisition: 1 of 2, told apart by ImageType",),
        options={"acquisition": 1},
    ),
    Condition(
        "the second half derived, sharper and thinner",
        series(
            values(lambda n: n > 8, ImageType=DERIVED, ConvolutionKernel="B70f", SliceThickness=2.5, RescaleType="HU")
        ),
        ("differ in ImageType, ConvolutionKernel, SliceThickness were joined",),
    ),
    Condition("lossy compression", series(values(LossyImageCompression="01")), ("stored with lossy compression",)),
    Condition(
        "thick slices close together",
        several(series(), series(uid=2, folder="z", step_mm=1.0, count=46, thickness_mm=10.0)),
        (CHOSEN,),
    ),
    Condition(
        "bone removed, of no ImageType",
        several(
            series(values(ImageType=None)),
            series(
                values(ImageType=None, SeriesDescription="CTA_Bone-Removed"), uid=2, folder="z", step_mm=1.0, count=46
            ),
        ),
        (CHOSEN, NO_TYPE),
    ),
    Condition(
        "low dose is no dose page",
        several(
            series(values(SeriesDescription="LOW DOSE CHEST")),
            series(uid=2, folder="z", step_mm=5.0, count=10),
        ),
        (CHOSEN,),
    ),
    Condition(
        "material map",
        several(
            series(), series(values(ImageType=DERIVED, RescaleType="MGML"), uid=2, folder="z", step_mm=1.0, count=46)
        ),
        (CHOSEN,),
    ),
    Condition(
        "a derived series alone",
        series(values(ImageType=DERIVED)),
        ("headers state derived images", "DERIVED image without RescaleType"),
    ),
    Condition(
        "a derived series on request",
        several(series(), series(values(ImageType=DERIVED, RescaleType="HU"), uid=2, folder="z")),
        ("headers state derived images",),
        options={"series": "2"},
    ),
    Condition("no ImageType", series(values(ImageType=None)), (NO_TYPE,)),
    Condition(
        "localizers by ImageType only", series(values(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])), ("localizer",)
    ),
    Condition("an unknown series", series(), refused=r"unknown series '7'.*1: 16 slices", options={"series": "7"}),
    Condition(
        "one of two series without PixelSpacing",
        several(series(), series(values(3, PixelSpacing=None), uid=2, folder="z")),
        refused=r"lacks PixelSpacing.*--series N \(1: 16 slices.*2: cannot be read\)",
    ),
    Condition(
        "the whole one of the two",
        several(series(), series(values(3, PixelSpacing=None), uid=2, folder="z")),
        options={"series": "1"},
    ),
    Condition(
        "an error of one of two series lists both",
        several(series(values(RescaleType="ED")), series(uid=2, folder="z", step_mm=5.0, count=9)),
        refused=r"RescaleType ED.*--series N \(1: 16 slices.*; 2: 9 slices, 5.00 mm apart",
    ),
    Condition(
        "screenshots of the series",
        several(
            series(),
            series(
                values(ImagePositionPatient=None, ImageOrientationPatient=None, SOPInstanceUID="1.9"),
                count=1,
                folder="z",
            ),
        ),
        ("1 image.* of the series without position",),
    ),
    Condition("Modality is missing", series(values(Modality=None)), ("taken for CT by their SOP class",)),
    Condition("SeriesInstanceUID is missing", series(values(SeriesInstanceUID=None)), ("without SeriesInstanceUID",)),
    # Which slices
    Condition("a localizer that does not say so", with_localizer, ("1 single slice.* taken for localizers",)),
    Condition("the same file twice", copied("slice005 (1).dcm"), ("1 identical copies of slices",)),
    Condition(
        "one SOPInstanceUID, other pixels",
        several(series(), series(stored(corner(7)), count=1, folder="z")),
        refused="have the same SOPInstanceUID, but different.*remove the wrong one",
    ),
    Condition(
        "one SOPInstanceUID for all",
        series(values(SOPInstanceUID="1.2.3")),
        ("do not state a SOPInstanceUID each",),
    ),
    Condition(
        "two acquisitions",
        several(series(), series(values(AcquisitionNumber=2, SOPInstanceUID=lambda n: f"1.9.{n}"), folder="z")),
        refused=ACQUISITIONS.format("AcquisitionNumber"),
    ),
    Condition(
        "the second of two acquisitions",
        several(series(), series(values(AcquisitionNumber=2, SOPInstanceUID=lambda n: f"1.9.{n}"), folder="z")),
        ("acquisition: 2 of 2, told apart by AcquisitionNumber",),
        options={"acquisition": 2},
    ),
    Condition(
        "an acquisition that is not there", series(), refused="unknown acquisition '2'", options={"acquisition": 2}
    ),
    Condition(
        "two phases that interleave",
        series(values(NominalPercentageOfCardiacPhase=lambda n: 40 + 30 * (n % 2)), step_mm=1.5, count=32),
        refused=ACQUISITIONS.format("NominalPercentageOfCardiacPhase"),
    ),
    Condition(
        "two time points told apart by time only",
        several(
            series(values(AcquisitionTime="100000")),
            series(values(AcquisitionTime="100020", SOPInstanceUID=lambda n: f"1.9.{n}"), folder="z"),
        ),
        refused=ACQUISITIONS.format("AcquisitionTime"),
    ),
    Condition(
        "two time points told apart by number only",
        several(
            series(),
            series(values(InstanceNumber=lambda n: 17 + n, SOPInstanceUID=lambda n: f"1.9.{n}"), folder="z"),
        ),
        refused=ACQUISITIONS.format("InstanceNumber"),
    ),
    Condition(
        "stations that overlap",
        several(
            series(values(AcquisitionNumber=1)),
            series(
                values(AcquisitionNumber=2, SOPInstanceUID=lambda n: f"1.9.{n}"), moved(lambda z, _: z + 31), folder="z"
            ),
        ),
        refused=r"positions overlap.*told apart by AcquisitionNumber",
    ),
    Condition(
        "stations that join",
        several(
            series(values(AcquisitionNumber=1), count=8),
            series(
                values(AcquisitionNumber=2, InstanceNumber=lambda n: 9 + n, SOPInstanceUID=lambda n: f"1.9.{n}"),
                heights_mm=[24.0 + 3 * number for number in range(8)],
                folder="z",
            ),
        ),
        (r"2 acquisitions \(AcquisitionNumber\) were joined",),
    ),
    Condition(
        "acquisitions half a step apart, told apart by number only",
        several(
            series(),
            series(
                values(InstanceNumber=lambda n: 17 + n, SOPInstanceUID=lambda n: f"1.9.{n}"),
                heights_mm=[1.5 + 3.0 * number for number in range(16)],
                folder="z",
            ),
        ),
        ("acquisitions may be mixed",),
    ),
    Condition(
        "two frames of reference",
        series(values(FrameOfReferenceUID=lambda n: f"1.8.{n // 8}")),
        refused="several frames of reference.*--acquisition N.*1: 8 slices",
    ),
    Condition("enhanced CT", lambda path: write_enhanced(path)),
    Condition(
        "enhanced CT of two time points",
        lambda path: write_enhanced(path, change=time_points),
        refused=ACQUISITIONS.format("TemporalPositionIndex"),
    ),
    Condition(
        "the first time point",
        lambda path: write_enhanced(path, change=time_points),
        ("acquisition: 1 of 2, told apart by TemporalPositionIndex",),
        options={"acquisition": 1},
    ),
    Condition("enhanced CT, a file for each phase", phases, refused=ACQUISITIONS.format("file")),
    Condition("the first slices are missing", series(values(InstanceNumber=lambda n: 5 + n)), ("begins at 5",)),
    Condition("fewer slices than the acquisition", series(values(ImagesInAcquisition=20)), ("states 20, 16 are here",)),
    # Which grid
    Condition("0.625 mm rounded", series(moved(lambda z, _: round(z, 1)), step_mm=0.625, count=70), (SNAPPED,)),
    Condition("1.25 mm rounded", series(moved(lambda z, _: round(z, 1)), step_mm=1.25, count=36), (SNAPPED,)),
    Condition("positions with noise", series(moved(lambda z, n: z + NOISE[n]), step_mm=0.7, count=60), (SNAPPED,)),
    Condition(
        "all coordinates rounded, tilted gantry",
        series(
            *(moved(lambda x, _: round(x, 1), axis) for axis in range(3)), tilt_mm_per_mm=0.25, step_mm=1.25, count=36
        ),
        (SNAPPED,),
        note="tilted by 14",
    ),
    Condition("feet first", series(heights_mm=[45.0 - 3 * number for number in range(16)])),
    Condition(
        "rounded, two slices missing",
        series(
            moved(lambda z, _: round(z, 1)), heights_mm=[1.25 * n for n in range(36) if n not in (9, 20)], step_mm=1.25
        ),
        refused=r"slices are 1\.25 mm apart.*2 of 36 slices are missing.*--accept-gaps",
    ),
    Condition(
        "missing slices filled",
        series(
            moved(lambda z, _: round(z, 1)), heights_mm=[1.25 * n for n in range(36) if n not in (9, 20)], step_mm=1.25
        ),
        (GAPS, "^2 of 36 slices were filled", SNAPPED),
        options={"accept_gaps": True},
    ),
    Condition(
        "a slice beside another",
        series(moved(lambda z, n: z - 2.95 * (n == 13)), count=16),
        refused=r"have the same position \(36\.000 and 36\.050 mm.*--accept-gaps",
    ),
    Condition(
        "the slice beside another dropped",
        series(moved(lambda z, n: z - 2.95 * (n == 13)), count=16),
        ("1 slice.* at the position of another", GAPS, "^1 of 16 slices"),
        options={"accept_gaps": True},
    ),
    Condition(
        "5 mm, then 1 mm",
        series(heights_mm=[0.0, 5.0, 10.0, *(15.0 + n for n in range(30))], step_mm=1.0),
        refused=r"slices are 1\.00 mm apart, but 5\.00 mm.*12 of 45 slices are missing",
    ),
    Condition(
        "5 mm, then 1 mm, filled",
        series(heights_mm=[0.0, 5.0, 10.0, *(15.0 + n for n in range(30))], step_mm=1.0),
        (GAPS, "^12 of 45 slices"),
        options={"accept_gaps": True},
    ),
    Condition(
        "steps of no grid",
        series(heights_mm=[3.0 * n + 1.3 * (n > 7) for n in range(16)]),
        refused=r"but 4\.30 mm between.*--accept-gaps",
    ),
    Condition(
        "steps of no grid, resampled",
        series(heights_mm=[3.0 * n + 1.3 * (n > 9) for n in range(16)]),
        (GAPS, r"interpolated to a grid of 3\.000 mm"),
        options={"accept_gaps": True},
    ),
    Condition(
        "the table moved sideways", series(moved(lambda x, n: x + 5 * (n > 7), 0)), refused="off the line.*separate"
    ),
    Condition("slices along their plane", series(moved(lambda y, n: y + 9 * n, 1)), refused="degrees off their normal"),
    Condition(
        "a slice a kilometre away",
        series(moved(lambda z, n: z + 1e6 * (n == 15))),
        refused=r"extend over 1e\+06 mm, expected at most 3000 mm",
        options={"accept_gaps": True},
    ),
    Condition(
        "one slice turned by a third of a degree",
        series(values(8, ImageOrientationPatient=[np.cos(0.006), np.sin(0.006), 0, -np.sin(0.006), np.cos(0.006), 0])),
        ("orientation: it differs by up to 0.3 degrees",),
    ),
    Condition("SliceThickness is missing", series(values(SliceThickness=None)), ("SliceThickness is missing",)),
    Condition(
        "SpacingBetweenSlices contradicts",
        series(values(SpacingBetweenSlices=5)),
        ("SpacingBetweenSlices states 5.00",),
    ),
    Condition("SpacingBetweenSlices is negative", series(values(SpacingBetweenSlices=-3))),
    Condition(
        "SliceLocation contradicts", series(values(SliceLocation=lambda n: 5.0 * n)), ("SliceLocation contradicts",)
    ),
    Condition("SliceLocation runs the other way", series(values(SliceLocation=lambda n: 700 - 3.0 * n))),
    Condition(
        "rows and columns are not quite perpendicular",
        series(values(ImageOrientationPatient=[1, 0.005, 0, 0, 1, 0])),
        ("off perpendicular; corrected",),
    ),
    Condition(
        "detector spacing instead of PixelSpacing",
        series(values(PixelSpacing=None, ImagerPixelSpacing=[2, 1.5])),
        refused="lacks PixelSpacing",
    ),
    # Which patient
    Condition("names in two spellings", series(values(PatientName=lambda n: "DOE^JANE" if n % 2 else "Doe^Jane^^^"))),
    Condition("a name that is missing once", series(values(5, PatientName=None))),
    Condition("two names, one PatientID", series(values(5, PatientName="Roe^Rita")), ("the PatientID decided",)),
    Condition(
        "two PatientIDs", series(values(5, PatientID="P-78")), refused=r"2 patients.*slice000\.dcm and .*slice035\.dcm"
    ),
    Condition(
        "one PatientID of two issuers",
        series(values(IssuerOfPatientID=lambda n: "east" if n else "west")),
        refused="2 patients",
    ),
    Condition("names only", series(values(PatientID=None)), ("no file states a PatientID; the PatientName",)),
    Condition("two names only", series(values(PatientID=None), values(5, PatientName="Roe")), refused="2 patients"),
    Condition(
        "nobody", series(values(PatientID="ANONYMOUS", PatientName="")), ("PatientID or PatientName; the voxels",)
    ),
    # Which values
    Condition(
        "a range of padding",
        series(
            stored(corner(np.arange(63536, 63568).reshape(4, 8)), PixelPaddingValue=63536, PixelPaddingRangeLimit=64000)
        ),
    ),
    Condition("signed padding of unsigned pixels", series(stored(corner(-2000 & 0xFFFF), PixelPaddingValue=63536))),
    Condition(
        "padding that is also tissue",
        series(stored(corner(1064), PixelPaddingValue=1064)),
        ("only padding at the border",),
    ),
    Condition("RescaleType ED", series(values(RescaleType="ED")), refused="electron density.*expected HU.*--assume-hu"),
    Condition("RescaleType US", series(values(RescaleType="US")), refused="unspecified units.*--assume-hu"),
    Condition("an unknown RescaleType", series(values(RescaleType="Doe")), refused="RescaleType of an unknown kind"),
    Condition(
        "RescaleType US for Hounsfield units",
        series(values(RescaleType="US")),
        ("RescaleType US .*as requested",),
        options={"assume_hu": True},
    ),
    Condition(
        "a slope for each slice",
        series(lambda data, n: stored(lambda pixels: pixels * (1 + n % 2), RescaleSlope=1 / (1 + n % 2))(data, n)),
        ("2 different pairs of RescaleSlope and RescaleIntercept; each slice was read by its own",),
    ),
    Condition(
        "an intercept of its own for a slice",
        series(values(3, RescaleIntercept=-1023)),
        ("2 different pairs of RescaleSlope",),
    ),
    Condition(
        "a text as slope",
        series(values(RescaleSlope=None), lambda data, _: data.add(pydicom.DataElement("RescaleSlope", "LO", "Doe"))),
        refused="lacks RescaleSlope.* as a number",
    ),
    Condition("a table of values", series(lookup_table), refused="ModalityLUTSequence.*export the series again"),
    Condition(
        "real-world values instead of a slope",
        series(map_of("[hnsf'U]", 1.0), values(RescaleSlope=None, RescaleIntercept=None)),
        ("Hounsfield units by RealWorldValueMappingSequence",),
    ),
    Condition(
        "real-world values contradict", series(map_of("[hnsf'U]", 2.0)), refused="contradict each other.*--assume-hu"
    ),
    Condition("MONOCHROME1", series(values(PhotometricInterpretation="MONOCHROME1")), ("MONOCHROME1",)),
    Condition(
        "an overlay in the unused bits",
        series(
            stored(lambda pixels: pixels | 0x8000, BitsStored=12, HighBit=11),
            lambda data, _: data.add_new((0x6000, 0x0102), "US", 15),
        ),
    ),
    Condition(
        "unused bits of no overlay",
        series(stored(lambda pixels: pixels | 0x8000, BitsStored=12, HighBit=11)),
        ("bits beyond the 12 of BitsStored",),
    ),
    Condition("values in the upper bits", series(stored(lambda pixels: pixels << 4, BitsStored=12, HighBit=15))),
    Condition(
        "negative numbers in an unsigned header",
        series(stored(corner(-2000 & 0xFFFF), BitsStored=12, HighBit=11)),
        ("negative numbers in files", "are -3024, outside the scan"),
    ),
    # Which files
    Condition("no preamble", without_preamble),
    Condition("big endian", big_endian),
    Condition("deflated", deflated),
    Condition("run-length encoded", run_length_encoded),
    Condition("cut short", truncated, refused=r"cut short: [\d,]+ of 3,840 bytes"),
    Condition("no pixels", series(values(4, PixelData=None)), refused="the file holds none"),
    Condition("an empty file", several(series(), lambda path: (path / "x.dcm").touch()), refused="x.dcm is damaged"),
    Condition(
        "files of other kinds",
        several(series(), lambda path: (path / "x").write_bytes(b"\x08\0" * 99)),
        note="not DICOM",
    ),
    Condition("an unknown character set", series(values(SpecificCharacterSet="ISO 9999", PatientName="Dö"))),
)


@pytest.fixture(autouse=True)
def data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("condition", TABLE, ids=lambda condition: condition.name)
def test_a_series_is_imported_with_its_assumptions_or_refused_with_a_way_on(tmp_path, condition):
    folder = tmp_path / "ct"
    folder.mkdir()
    condition.write(folder)
    options = ImportOptions(**{"spacing_mm": 1.5, **condition.options})
    if condition.refused:
        with pytest.raises((CTImportError, ValueError), match=condition.refused) as caught:
            read_ct(folder, options)
        assert "\n" not in str(caught.value)
        return
    read = read_ct(folder, options)
    marker = read.volume.lps_from_index(np.argwhere(read.volume.hu > 500)).mean(0)
    np.testing.assert_allclose(marker, dicom_series.BALL_MM, atol=1.2)
    assert read.volume.hu.max() <= 1000 and read.volume.hu[0, 0, 0] == -1000
    for pattern in condition.assumptions:
        assert any(re.search(pattern, line) for line in read.assumptions), (pattern, read.assumptions)
    assert len(read.assumptions) == len(condition.assumptions), read.assumptions
    assert any(re.search(condition.note, line) for line in read.notes)


DATE = 19110203
"""A number that may be a date of birth."""


@pytest.mark.parametrize(
    "given",
    [
        {"SliceThickness": DATE}, {"SpacingBetweenSlices": DATE}, {"SpacingBetweenSlices": -DATE}, {"KVP": DATE},
        {"PixelSpacing": [DATE, DATE]}, {"ImageOrientationPatient": [DATE, 0, 0, 0, DATE, 0]}, {"RescaleSlope": -DATE},
        {"ImagesInAcquisition": DATE}, {"InstanceNumber": lambda n: DATE + n}, {"SliceLocation": lambda n: DATE * n},
    ],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
def test_numbers_that_may_be_anything_are_neither_printed_nor_kept(tmp_path, given):
    write_series(tmp_path / "ct", change=values(**given))
    try:
        read = read_ct(tmp_path / "ct", ImportOptions(spacing_mm=3.0))
    except CTImportError as error:
        written = str(error)
    else:
        written = repr((read.assumptions, read.notes, read.facts))
    assert not re.search("1911|1910|1.9e", written), written


def test_the_table_has_enough_rows_of_different_names():
    assert len({condition.name for condition in TABLE}) == len(TABLE) >= 60
