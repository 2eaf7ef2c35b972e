"""Image files that commands write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from carm_env.system.files import atomic_write


def check_image_path(path: Path) -> None:
    """Raises ValueError unless the suffix of `path` belongs to an image format that can be written."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--out is {path}, expected an image file, e.g. {path.stem or 'x'}.png.")


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Saves an image, atomically, with options of `PIL.Image.Image.save`."""
    with atomic_write(path) as temporary:
        image.save(temporary, **options)
