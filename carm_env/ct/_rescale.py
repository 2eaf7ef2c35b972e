"""From stored values to Hounsfield units: rescale slope, type of units, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.ct._dicom_headers import first_group, first_item, number_of, positive_of, text_of, texts_of, value_of
from carm_env.ct._image_types import DERIVED, kind_of
from carm_env.ct._pixels import StoredPixels
from carm_env.ct._slices import Slice
from carm_env.ct.errors import DicomError

_PADDING_HU = -1000.0
_HOUNSFIELD = "HU"
_OTHER_UNITS = {
    "OD": "optical density", "US": "unspecified units", "MGML": "mg/ml", "Z_EFF": "effective atomic number",
    "ED": "electron density", "EDW": "electron density relative to water", "HU_MOD": "modified Hounsfield units",
    "PCT": "percent",
}  # fmt: skip
"""Defined terms of RescaleType (DICOM PS3.3 C.11.1.1.2) that are not Hounsfield units."""
_HOUNSFIELD_CODE = "[hnsf'U]"
"""Hounsfield unit in UCUM, as MeasurementUnitsCodeSequence states it."""
_TISSUE_HU = (-900.0, 3000.0)


def hounsfield(
    item: Slice, pixels: StoredPixels, assume_hu: bool, assumptions: list[str], rescales: set[tuple[float, float]]
) -> NDArray[np.float32]:
    """Returns the Hounsfield units ``(rows, columns)`` of one slice.

    Args:
        item: the slice.
        pixels: the pixels of its file.
        assume_hu: take the values for Hounsfield units although the header does not say so.
        assumptions: receives what the header does not state, once each.
        rescales: receives slope and intercept.

    Raises:
        DicomError: the values are not Hounsfield units, or the header does not say how to compute them.
    """
    header = pixels.header
    if not 0 <= item.frame < len(pixels.stored):
        raise DicomError(f"{item.path} has {len(pixels.stored)} frames, fewer than positions: download it again.")
    stored, raw, remarks = pixels.frame(item.frame)
    if stored.shape != item.shape:
        raise DicomError(
            f"{item.path} holds {stored.shape} pixels, but its header states {item.shape}: download it again."
        )
    for remark in remarks:
        _add(assumptions, remark)
    slope, intercept = _rescale(header, item, assume_hu, assumptions)
    rescales.add((slope, intercept))
    if text_of(header, "LossyImageCompression") == "01":
        _add(assumptions, "values: the images were stored with lossy compression; their values are approximate")
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    padded = _padding(header, stored, raw, slope, intercept, assumptions)
    if padded is not None:
        values[padded] = _PADDING_HU
    if text_of(header, "PhotometricInterpretation") == "MONOCHROME1":
        _add(assumptions, "values: PhotometricInterpretation MONOCHROME1 was taken to concern the display only")
    return values


def _add(assumptions: list[str], line: str) -> None:
    if line not in assumptions:
        assumptions.append(line)


def _rescale(header: Any, item: Slice, assume_hu: bool, assumptions: list[str]) -> tuple[float, float]:
    """Returns slope and intercept from stored values to Hounsfield units."""
    groups = value_of(header, "PerFrameFunctionalGroupsSequence")
    own = groups[item.frame] if groups else None
    holders = (own, first_item(header, "SharedFunctionalGroupsSequence"))
    holder = first_group(holders, "PixelValueTransformationSequence") or header
    mapping = first_group(holders, "RealWorldValueMappingSequence") or first_item(
        header, "RealWorldValueMappingSequence"
    )
    if value_of(header, "ModalityLUTSequence") is not None:
        raise DicomError(
            f"{item.path} computes its values by a table (ModalityLUTSequence), expected RescaleSlope and "
            "RescaleIntercept: export the series again in Hounsfield units."
        )
    slope, intercept = number_of(holder, "RescaleSlope"), number_of(holder, "RescaleIntercept")
    if slope is None and intercept is None and mapping is not None and _is_hounsfield(mapping):
        slope, intercept = number_of(mapping, "RealWorldValueSlope"), number_of(mapping, "RealWorldValueIntercept")
        _add(assumptions, "values: RescaleSlope is missing; Hounsfield units by RealWorldValueMappingSequence")
    elif mapping is not None:
        _check_mapping(mapping, slope, intercept, item, assume_hu)
    if slope is None or intercept is None:
        if assume_hu:
            _add(assumptions, "values: RescaleSlope is missing; the stored values are Hounsfield units, as requested")
            return 1.0, 0.0
        raise DicomError(
            f"{item.path} lacks RescaleSlope or RescaleIntercept as a number, so its values may not be Hounsfield "
            "units. If they are, use --assume-hu."
        )
    if slope <= 0:
        raise DicomError(
            f"{item.path} has a RescaleSlope that is not positive, expected a slope > 0: export the series again."
        )
    _check_units(header, holders, holder, item, assume_hu, assumptions)
    return slope, intercept


def _check_units(
    header: Any, holders: Sequence[Any], holder: Any, item: Slice, assume_hu: bool, assumptions: list[str]
) -> None:
    kind = text_of(holder, "RescaleType").upper()
    if kind == _HOUNSFIELD:
        return
    if kind:
        units = _OTHER_UNITS.get(kind)
        stated = f"{kind} ({units})" if units else "of an unknown kind"
        if not assume_hu:
            raise DicomError(
                f"{item.path} has RescaleType {stated}, expected HU: choose another series, or use --assume-hu if the "
                "values are Hounsfield units."
            )
        _add(assumptions, f"values: RescaleType {stated} was taken for Hounsfield units, as requested")
        return
    frame = first_group(tuple(holders), "CTImageFrameTypeSequence")
    image_type = texts_of(frame, "FrameType") if frame is not None else texts_of(header, "ImageType")
    # For original images of a CT scanner, the standard makes them Hounsfield units; for derived ones, it does not.
    if kind_of(image_type, False, "", "").label == DERIVED:
        _add(assumptions, "values: a DERIVED image without RescaleType was taken for Hounsfield units")


def _is_hounsfield(mapping: Any) -> bool:
    units = first_item(mapping, "MeasurementUnitsCodeSequence")
    return units is not None and text_of(units, "CodeValue") == _HOUNSFIELD_CODE


def _check_mapping(mapping: Any, slope: float | None, intercept: float | None, item: Slice, assume_hu: bool) -> None:
    """Raises if RealWorldValueMappingSequence contradicts the rescale in Hounsfield units."""
    if assume_hu or not _is_hounsfield(mapping) or slope is None or intercept is None:
        return
    other = number_of(mapping, "RealWorldValueSlope"), number_of(mapping, "RealWorldValueIntercept")
    if None not in other and not np.allclose(np.array(other, float), [slope, intercept], rtol=1e-3, atol=1e-3):
        raise DicomError(
            f"{item.path} states two ways to Hounsfield units, RescaleSlope and RealWorldValueMappingSequence, which "
            "contradict each other. If RescaleSlope is right, use --assume-hu."
        )


def _padding(
    header: Any,
    stored: NDArray[np.int64],
    raw: NDArray[np.int64],
    slope: float,
    intercept: float,
    assumptions: list[str],
) -> NDArray[np.bool_] | None:
    """Returns where the slice is padding around the scanned circle; None if the header states no padding.

    Padding is stated in stored values, signed or unsigned as the pixels are, whichever way the header was written.
    """
    value = number_of(header, "PixelPaddingValue")
    if value is None:
        if value_of(header, "PixelPaddingValue") is not None:
            _add(assumptions, "values: PixelPaddingValue is not a number; it was ignored")
        return None
    limit = number_of(header, "PixelPaddingRangeLimit")
    signed = positive_of(header, "PixelRepresentation") > 0
    bits = int(positive_of(header, "BitsAllocated")) or 16

    def as_stored(number: float) -> int:
        whole = int(number) & ((1 << bits) - 1)
        return whole - ((whole >> (bits - 1)) << bits) if signed else whole

    low, high = sorted((as_stored(value), as_stored(value if limit is None else limit)))
    padded = ((raw >= low) & (raw <= high)) | ((stored >= low) & (stored <= high))
    if low == high and _TISSUE_HU[0] < low * slope + intercept < _TISSUE_HU[1] and padded.any():
        return _touching_border(padded, assumptions)
    return padded


def _touching_border(padded: NDArray[np.bool_], assumptions: list[str]) -> NDArray[np.bool_]:
    """Returns the part of a mask that is connected to the border: padding whose value also occurs within the body."""
    from scipy import ndimage

    labels, _ = ndimage.label(padded)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    _add(assumptions, "values: PixelPaddingValue is also a value of tissue; only padding at the border became air")
    return np.isin(labels, border[border > 0])
