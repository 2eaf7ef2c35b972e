"""NIfTI files: read a CT in Hounsfield units and lay it along the LPS axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carm_env.errors import MissingExtraError
from carm_env.volume import AIR_HU, Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")


def is_nifti(path: str | Path) -> bool:
    """Whether a file's name ends in ``.nii`` or ``.nii.gz``."""
    return str(path).lower().endswith(NIFTI_SUFFIXES)


def load_nifti(path: str | Path, spacing_mm: float | None = None) -> Volume:
    """Read a NIfTI CT; its RAS frame becomes LPS here.

    A volume that is not parallel to the axes, or for which `spacing_mm` is given, is resampled
    linearly (air outside).

    Args:
        path: a ``.nii`` or ``.nii.gz`` file with Hounsfield units.
        spacing_mm: isotropic voxel size to resample to; None keeps the file's own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable three-dimensional NIfTI image.
        MissingExtraError: SimpleITK is not installed (extra ``ct``).
    """
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise MissingExtraError("SimpleITK", "ct", "Reading CT files") from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a readable NIfTI image: {str(error).splitlines()[-1].strip()}") from error
    if image.GetDimension() != 3:
        raise ValueError(f"{path} has {image.GetDimension()} dimensions, expected 3.")
    image = sitk.DICOMOrient(image, "LPS")
    aligned = np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-4)
    if not aligned or spacing_mm is not None:
        image = _resample(sitk, image, spacing_mm or min(image.GetSpacing()))
    hu = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    limits = np.iinfo(np.int16)
    hu = np.ascontiguousarray(np.clip(np.rint(hu), limits.min, limits.max).astype(np.int16))
    return Volume.from_origin(hu, image.GetSpacing(), image.GetOrigin())


def _resample(sitk, image, spacing_mm: float):  # type: ignore[no-untyped-def]
    size = np.array(image.GetSize())
    corners = np.array(
        [
            image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index * (size - 1)])
            for index in np.ndindex(2, 2, 2)
        ]
    )
    low, high = corners.min(0), corners.max(0)
    count = np.floor((high - low) / spacing_mm).astype(int) + 1
    grid = sitk.ResampleImageFilter()
    grid.SetSize([int(n) for n in count])
    grid.SetOutputSpacing([float(spacing_mm)] * 3)
    grid.SetOutputOrigin([float(x) for x in low])
    grid.SetOutputDirection(np.eye(3).ravel().tolist())
    grid.SetInterpolator(sitk.sitkLinear)
    grid.SetDefaultPixelValue(AIR_HU)
    return grid.Execute(image)
