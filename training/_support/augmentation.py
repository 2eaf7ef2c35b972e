"""Augmentation of views: deformations, which displacements follow, and the grey values of other detectors.

A smooth deformation of an X-ray is what another body would show: other proportions, another curvature of the spine,
shoulders that are lower against the neck. A network that sees it cannot infer the position of one landmark from another
one more exactly than bodies allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from policies.networks import SCALE_MM

_GAIN, _OFFSET = 0.25, 0.35
_ZOOM, _ROTATION_DEG, _STRETCH = 0.1, 7.0, 0.05
"""Patients are larger and smaller, broader and slimmer, and rotated on the table."""


_WAVES = 4
_WAVELENGTHS_MM = (100.0, 800.0)
_GRID = 17
"""Side of the grid on which smooth deformations are computed; between its points they are interpolated."""
_INVERSE_STEPS = 3
"""Steps of the fixed-point iteration that inverts a deformation; each multiplies the error by its strain."""


@dataclass(frozen=True, eq=False)
class Deformations:
    """Deformations of images about their middle.

    The point at the displacement ``x`` (left, cranial; in `SCALE_MM`) from the middle moves to ``matrix (x + u(x) -
    u(0))``, where ``u(x)`` is the sum of ``amplitude sin(wave_vector x + phase)`` over a few waves.

    Attributes:
        matrix: ``(n, 2, 2)`` zoom, stretch and rotation.
        wave_vector: ``(n, k, 2)``, radians per `SCALE_MM`; without waves k is 0.
        amplitude: ``(n, k, 2)``, in `SCALE_MM`.
        phase: ``(n, k)``, radians.
    """

    matrix: Tensor
    wave_vector: Tensor
    amplitude: Tensor
    phase: Tensor

    @classmethod
    def draw(cls, count: int, generator: Generator, strain: float = 0.0) -> Deformations:
        """Draws deformations.

        Args:
            count: number of images.
            generator: source of randomness.
            strain: bound of the strain of the waves, 0 (no waves) to 0.5. A third of it is added to the bound of the
                stretch of the whole image: shoulders are broader and narrower, trunks longer and shorter.
        """
        matrix = draw_transforms(count, generator, _STRETCH + strain / 3)
        if not strain:
            return cls(matrix, torch.zeros(count, 0, 2), torch.zeros(count, 0, 2), torch.zeros(count, 0))
        low, high = (math.log(length / SCALE_MM) for length in _WAVELENGTHS_MM)
        wavelength, share, phase, *angles = torch.rand((5, count, _WAVES), generator=generator)
        length = (low + (high - low) * wavelength).exp()
        along, across = (torch.stack([angle.cos(), angle.sin()], -1) for angle in (2 * math.pi * a for a in angles))
        amplitude = (strain / _WAVES) * share * length / (2 * math.pi)
        wave_vector = (2 * math.pi / length)[..., None] * along
        return cls(matrix, wave_vector, amplitude[..., None] * across, 2 * math.pi * phase)

    def moved(self, displacement: Tensor) -> Tensor:
        """Returns where points ``(n, m, 2)`` in `SCALE_MM` move to; NaN stays NaN."""
        return (displacement + self._offset(displacement)) @ self.matrix.mT

    def sources(self, displacement: Tensor) -> Tensor:
        """Returns the points that move to `displacement`, ``(n, m, 2)`` in `SCALE_MM`: the inverse of `moved`."""
        target = displacement @ torch.linalg.inv(self.matrix).mT
        source = target
        for _ in range(_INVERSE_STEPS if self.phase.shape[1] else 0):
            source = target - self._offset(source)
        return source

    def _offset(self, points: Tensor) -> Tensor:
        if not self.phase.shape[1]:
            return torch.zeros_like(points)
        phase = self.phase[:, None]
        waves = (points @ self.wave_vector.mT + phase).sin() - phase.sin()
        return waves @ self.amplitude

    def images(self, images: Tensor, field_of_view_mm: float) -> Tensor:
        """Returns deformed images.

        Args:
            images: ``(n, 1, s, s)``.
            field_of_view_mm: side of the images at mid-depth of the body.
        """
        if not self.phase.shape[1]:
            return transform_images(images, self.matrix)
        # Columns of an image increase to the patient's left, rows downwards, displacements upwards.
        half = field_of_view_mm / 2 / SCALE_MM
        axis = torch.linspace(-half, half, _GRID)
        up, left = torch.meshgrid(-axis, axis, indexing="ij")
        points = torch.stack([left, up], -1).reshape(1, -1, 2).expand(len(images), -1, -1)
        coarse = (self.sources(points) / half * torch.tensor([1.0, -1.0])).reshape(-1, _GRID, _GRID, 2)
        size = images.shape[-1]
        # Pixel centres lie inside the corners of the grid by half a pixel.
        inner = (2 * torch.arange(size) + 1) / size - 1
        rows, columns = torch.meshgrid(inner, inner, indexing="ij")
        dense = torch.stack([columns, rows], -1).expand(len(images), -1, -1, -1)
        grid = functional.grid_sample(coarse.permute(0, 3, 1, 2), dense, align_corners=True).permute(0, 2, 3, 1)
        return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def draw_transforms(count: int, generator: Generator, stretch_bound: float = _STRETCH) -> Tensor:
    """Draws matrices ``(count, 2, 2)`` of zoom, stretch and rotation for displacements (left, cranial)."""
    zoom, stretch, rotation = 2 * torch.rand((3, count), generator=generator) - 1
    angle = math.radians(_ROTATION_DEG) * rotation
    across, along = 1 + _ZOOM * zoom + stretch_bound * stretch, 1 + _ZOOM * zoom - stretch_bound * stretch
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([across * cos, -across * sin, along * sin, along * cos], 1).reshape(-1, 2, 2)


def transform_images(images: Tensor, transforms: Tensor) -> Tensor:
    """Transforms images ``(n, 1, s, s)`` so that displacements in them are multiplied by matrices ``(n, 2, 2)``."""
    # Rows of an image increase downwards, displacements upwards.
    flip = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    inverse = torch.linalg.inv(transforms * flip)
    grid = functional.affine_grid(
        torch.cat([inverse, torch.zeros(len(inverse), 2, 1)], 2), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def vary_grey_values(images: Tensor, noise: float, generator: Generator) -> Tensor:
    """Draws gain, offset and noise of the grey values, as of another detector, exposure or display.

    Args:
        images: ``(n, 1, s, s)``.
        noise: maximum standard deviation of the noise.
        generator: source of randomness.
    """
    shape = (len(images), 1, 1, 1)
    gain = 1 + _GAIN * (2 * torch.rand(shape, generator=generator) - 1)
    offset = _OFFSET * (2 * torch.rand(shape, generator=generator) - 1)
    std = noise * torch.rand(shape, generator=generator)
    varied = images * gain + offset + std * torch.randn(images.shape, generator=generator)
    return varied.contiguous(memory_format=torch.channels_last)
