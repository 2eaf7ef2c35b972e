"""Read single X-ray images of others as greyscale images in which bones are bright.

Besides PNG, JPEG and DICOM, which people send, files of data sets are read: TIFF, BMP and ``.npy``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from carm_env.ct._dicom_headers import number_of, numbers_of, pydicom_module, quiet_pydicom, read_header, text_of
from carm_env.ct.errors import DicomError
from carm_env.system import npy_files
from carm_env.system.errors import CArmEnvError

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".ima")
"""Suffixes of the image files that are looked for in folders; DICOM files may have none."""
MIN_SIDE, MAX_PIXELS, MAX_ASPECT = 32, 100_000_000, 4.0
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DARK_PERCENT, _BRIGHT_PERCENT = 0.3, 99.8
"""Percentiles that become black and white, as in `carm_env.xray.physics.window`."""
_INVERTED = "MONOCHROME1"
_GREY = ("MONOCHROME2", _INVERTED)


class RadiographError(CArmEnvError, ValueError):
    """A file is not an image that can be read as an X-ray; the message names it and says what to do."""


@dataclass(frozen=True, eq=False)
class Radiograph:
    """An X-ray image.

    Attributes:
        image: ``(H, W)`` uint8; bones are bright if the file says which grey values are, or has the usual polarity.
        pixel_mm: size of a pixel in the middle of the body, mm; None if the file does not state it.
        notes: what was converted, one line each, without personal data.
    """

    image: NDArray[np.uint8]
    pixel_mm: float | None = None
    notes: tuple[str, ...] = ()

    def inverted(self) -> Radiograph:
        """Returns the image of the other polarity."""
        return replace(self, image=255 - self.image)


def is_image_file(path: Path) -> bool:
    """Returns whether a file has the suffix or the first bytes of a PNG, JPEG or DICOM file."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False  # opening a named pipe waits for a writer
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start.startswith(_SIGNATURES) or start[128:] == b"DICM"


def read_radiograph(path: Path, frame: int | None = None, max_aspect: float = MAX_ASPECT) -> Radiograph:
    """Reads an X-ray image.

    Colours become grey, transparent pixels black. Grey values of more than 8 bits are stretched between their 0.3 and
    99.8 percentiles. DICOM images of the photometric interpretation MONOCHROME1 are inverted.

    Args:
        path: PNG, JPEG, TIFF, BMP or DICOM file, or a ``.npy`` file of ``(H, W)`` or ``(1, H, W)``, recognised by its
            content.
        frame: number of the image in a file of several, from 1.
        max_aspect: largest ratio of the sides.

    Raises:
        FileNotFoundError: the file does not exist.
        RadiographError: the file is of another kind, damaged, too small, too large or too oblong, or holds several
            images and `frame` does not choose one of them; or the path is a dangling link, a pipe or a folder.
        MissingExtraError: a DICOM file, and pydicom is not installed.
    """
    if not path.is_file():
        if path.exists():
            kind = "a folder that cannot be read" if path.is_dir() else "a pipe or a device"
            raise RadiographError(f"{path} is {kind}, expected a PNG, JPEG or DICOM file: leave it out.")
        if path.is_symlink():
            raise RadiographError(f"{path} is a symbolic link to a file that does not exist: correct or remove it.")
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise RadiographError(f"{path} cannot be opened ({error.strerror}): make it readable.") from error
    if not start:
        raise RadiographError(f"{path} is empty (0 bytes): copy it again.")
    return _reader(start)(path, frame, max_aspect)


def _reader(start: bytes) -> Callable[[Path, int | None, float], Radiograph]:
    """Returns the function that reads a file with these first 132 bytes."""
    if start[128:] == b"DICM":
        return _read_dicom  # the bytes before it may be those of a TIFF
    if start.startswith(npy_files.SIGNATURE):
        return _read_array
    is_bitmap = start.startswith(b"BM") and start[6:10] == bytes(4)
    return _read_pillow if is_bitmap or start.startswith((*_SIGNATURES, *_TIFF_SIGNATURES)) else _read_dicom


@dataclass(frozen=True, eq=False)
class ColourImage:
    """An image of any kind.

    Attributes:
        image: RGB; three equal channels for an X-ray.
        notes: what was converted, one line each, without personal data.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()


def read_image(path: Path, frame: int | None = None, max_aspect: float = MAX_ASPECT) -> ColourImage:
    """Reads an image that may be no X-ray, and keeps its colours; arguments and errors as for `read_radiograph`.

    Transparent pixels become black, and grey values of more than 8 bits are stretched.
    """
    if path.is_file():
        with path.open("rb") as file:
            is_picture = _reader(file.read(132)) is _read_pillow
        if is_picture:
            opened, notes = _open_pillow(path, frame, max_aspect)
            return ColourImage(opened.convert("RGB"), notes)
    radiograph = read_radiograph(path, frame, max_aspect)
    return ColourImage(Image.fromarray(radiograph.image).convert("RGB"), radiograph.notes)


def _read_pillow(path: Path, frame: int | None, max_aspect: float) -> Radiograph:
    image, notes = _open_pillow(path, frame, max_aspect)
    if image.mode != "L":
        colours = np.asarray(image, np.int16)
        if np.ptp(colours, axis=2).max() > 0:
            notes = (*notes, "colours were converted to grey values")
    return Radiograph(np.array(image.convert("L")), None, notes)


def _open_pillow(path: Path, frame: int | None, max_aspect: float) -> tuple[Image.Image, tuple[str, ...]]:
    """Returns an image of 8 bits, L or RGB, without transparency, and what was converted."""
    try:
        with warnings.catch_warnings():
            # The size is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                _check_size(path, opened.width, opened.height, max_aspect)
                _choose_frame(path, getattr(opened, "n_frames", 1), frame)
                if frame is not None:
                    opened.seek(frame - 1)
                opened.load()
                image = ImageOps.exif_transpose(opened)
    except RadiographError:
        raise
    except Image.DecompressionBombError as error:
        raise RadiographError(f"{path} has too many pixels, expected at most {MAX_PIXELS:,}: reduce it.") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise RadiographError(f"{path} is damaged ({_reason(error)}): copy or export it again.") from error
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        _check_finite(path, values)
        kind = "floating-point grey values" if image.mode == "F" else "grey values of 16 bits"
        note = f"{kind} ({values.min():g} to {values.max():g}) were stretched"
        return Image.fromarray(_stretched(values)), (note,)
    if image.has_transparency_data:
        # Modes with a palette or a transparent colour, too.
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured).convert("RGB"), ()
    return image.convert("L" if image.mode in ("1", "L") else "RGB"), ()


def _read_array(path: Path, frame: int | None, max_aspect: float) -> Radiograph:
    try:
        array = npy_files.open_npy(path)
    except npy_files.NpyFileError as error:
        raise RadiographError(str(error)) from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise RadiographError(f"{path} has the shape {array.shape}, expected (H, W) or (1, H, W): save one image.")
    _check_size(path, array.shape[1], array.shape[0], max_aspect)
    _choose_frame(path, 1, frame)
    if array.dtype == np.uint8:
        return Radiograph(np.array(array))
    values = np.asarray(array, np.float64)
    _check_finite(path, values)
    return Radiograph(_stretched(values), None, (f"values of {array.dtype} were stretched",))


def _check_finite(path: Path, values: NDArray[np.float64]) -> None:
    if not np.isfinite(values).all():
        raise RadiographError(f"{path} has values that are not finite numbers, expected grey values: export it again.")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


@quiet_pydicom()
def _read_dicom(path: Path, frame: int | None, max_aspect: float) -> Radiograph:
    header = _dicom_header(path)
    rows, columns = (int(number_of(header, name) or 0) for name in ("Rows", "Columns"))
    if not (rows and columns):
        raise RadiographError(f"{path} is a DICOM file without an image: choose another file of the study.")
    _check_size(path, columns, rows, max_aspect)
    photometric = text_of(header, "PhotometricInterpretation") or _GREY[0]
    if photometric not in _GREY:
        raise RadiographError(f"{path} is a colour image, expected an X-ray of grey values: export the original image.")
    frames = int(number_of(header, "NumberOfFrames") or 1)
    _choose_frame(path, frames, frame)
    notes = []
    try:
        whole = pydicom_module().dcmread(path, force=True)
        pixels = np.asarray(whole.pixel_array)
        stored = pixels.reshape(frames, rows, columns)[(frame or 1) - 1]
        values = np.asarray(_as_displayed(stored, whole), np.float64)
    except Exception as error:  # pydicom and its decoders raise many kinds, and quote values
        raise RadiographError(
            f"{path}: the pixels cannot be read ({type(error).__name__}). If the file is cut short, copy it again. If "
            "it is compressed, install a decoder (pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg) or "
            "export it uncompressed."
        ) from None
    if photometric == _INVERTED:
        values = values.max() - values
        notes.append("MONOCHROME1: the grey values were inverted")
    if frames > 1:
        notes.append(f"frame {frame} of {frames}")
    return Radiograph(_stretched(values), _pixel_mm(header), tuple(notes))


def _dicom_header(path: Path) -> Any:
    """Returns the header of a DICOM file; raises RadiographError for a file of another kind."""
    try:
        header = read_header(path)
    except DicomError as error:
        raise RadiographError(str(error)) from None
    if header is None:
        raise RadiographError(
            f"{path} is not an image that can be read, expected PNG, JPEG, TIFF, BMP, .npy or DICOM: convert it."
        )
    return header


def _as_displayed(stored: NDArray[Any], header: Any) -> Any:
    """Applies the rescale slope and the display window that the header states."""
    pixels = pydicom_module().pixels
    return pixels.apply_voi_lut(pixels.apply_modality_lut(stored, header), header)


def _pixel_mm(header: Any) -> float | None:
    """Returns the size of a pixel in the body, from its size at the detector and the magnification there."""
    spacing = numbers_of(header, "ImagerPixelSpacing", 2)
    if spacing is None or not (spacing > 0).all() or abs(spacing[0] / spacing[1] - 1) > 0.01:
        return None
    detector, patient = (number_of(header, f"DistanceSourceTo{end}") for end in ("Detector", "Patient"))
    magnification = number_of(header, "EstimatedRadiographicMagnificationFactor")
    if detector and patient and 0 < patient < detector:
        magnification = detector / patient
    return float(spacing[0] / magnification) if magnification and magnification >= 1 else None


def _choose_frame(path: Path, frames: int, frame: int | None) -> None:
    if frames > 1 and frame is None:
        raise RadiographError(
            f"{path} holds {frames} frames, expected one image: choose one with --frame 1 .. {frames}."
        )
    if frame is not None and not 1 <= frame <= frames:
        raise RadiographError(f"{path} holds {frames} frame(s), but --frame is {frame}: expected 1 to {frames}.")


def _check_size(path: Path, width: int, height: int, max_aspect: float) -> None:
    size = f"{path} has {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise RadiographError(f"{size}, expected at most {MAX_PIXELS:,} in all: reduce the image.")
    if min(width, height) < MIN_SIDE:
        raise RadiographError(f"{size}, expected at least {MIN_SIDE} along each side: export a larger image.")
    if max(width, height) > max_aspect * min(width, height):
        raise RadiographError(f"{size}, expected sides that differ by at most {max_aspect:g} : 1: crop the image.")


def _stretched(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    values = np.nan_to_num(values)
    black, white = np.percentile(values, (_DARK_PERCENT, _BRIGHT_PERCENT))
    scale = 255 / (white - black) if white > black else 0.0
    return np.rint(np.clip((values - black) * scale, 0, 255)).astype(np.uint8)
