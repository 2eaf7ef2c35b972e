"""What can be wrong with a CT or a landmark file; every message names the file and what to do."""

from __future__ import annotations


class CTImportError(ValueError):
    """A CT cannot be imported as it is."""


class DicomError(CTImportError):
    """A DICOM file or series is damaged, incomplete, or not a CT."""


class ArchiveError(CTImportError):
    """An archive is damaged, or holds what must not be unpacked."""


class LandmarkFileError(CTImportError):
    """A landmark file cannot be read, or its points cannot be."""
