"""The loss of displacement networks."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from carm_env.anatomy.layout import landmark_layout
from carm_env.landmarks import N_LANDMARKS
from policies.networks import SCALE_MM
from training._support.augmentation import Deformations

DEFAULT_CONSISTENCY = 0.02
_ERROR_WEIGHT = 1.0
_NEAR_MM, _NEAR_WEIGHT = 90.0, 3.0
"""Landmarks closer to the middle than this, about those in the image, have this weight: they decide where to stop."""
_RIDGE_MM2 = 25.0
"""Added to the covariance of the layout, which is singular: the layout is centred."""


def layout_statistics() -> tuple[Tensor, Tensor]:
    """Returns mean ``(28,)`` and precision ``(28, 28)`` of a centred landmark layout, in `SCALE_MM`."""
    layout = landmark_layout()
    mean = (layout.mean_mm - layout.mean_mm.mean(0)).ravel() / SCALE_MM
    covariance = layout.covariance_mm2 + _RIDGE_MM2 * np.eye(2 * N_LANDMARKS)
    precision = np.linalg.inv(covariance / SCALE_MM**2)
    return torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(precision, dtype=torch.float32)


class DisplacementLoss:
    """Gaussian negative log-likelihood, an absolute error, and consistency with human anatomy.

    The consistency term is the squared Mahalanobis distance of the predicted layout from the layouts of the 166
    annotated patients of `carm_env/anatomy/data/landmark_layout.json`.

    Args:
        displacement_mm: ``(views, 14, 2)`` true displacements of all training views; NaN where absent.
        consistency: weight of the consistency term.
    """

    def __init__(self, displacement_mm: NDArray[np.float32], consistency: float) -> None:
        self._truth = torch.as_tensor(displacement_mm / np.float32(SCALE_MM))
        self._layout_mean, self._layout_precision = layout_statistics()
        self._consistency = consistency

    def __call__(self, mean: Tensor, log_std: Tensor, batch: NDArray[np.int64], deformations: Deformations) -> Tensor:
        """Returns the mean loss of a batch.

        Args:
            mean: ``(n, 14, 2)`` predicted displacements in `SCALE_MM`.
            log_std: ``(n, 14, 2)`` logarithms of their standard deviations.
            batch: ``(n,)`` indices of the views.
            deformations: deformations of the images, which the displacements follow.
        """
        truth = deformations.moved(self._truth[batch]).to(mean.device)
        known = torch.isfinite(truth)
        error = torch.where(known, mean - torch.nan_to_num(truth), torch.zeros_like(mean))
        likelihood = 0.5 * (error * (-log_std).exp()) ** 2 + log_std
        absolute = functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=0.1)
        near = torch.nan_to_num(truth, nan=math.inf).norm(dim=-1, keepdim=True) < _NEAR_MM / SCALE_MM
        weight = torch.where(near, _NEAR_WEIGHT, 1.0) * known
        losses = torch.where(known, likelihood + _ERROR_WEIGHT * absolute, torch.zeros_like(mean)) * weight
        return losses.sum() / weight.sum().clamp(min=1) + self._consistency * self._layout_distance(mean)

    def _layout_distance(self, mean: Tensor) -> Tensor:
        layout = (mean - mean.mean(1, keepdim=True)).flatten(1)
        difference = layout - self._layout_mean.to(mean.device)
        squared = ((difference @ self._layout_precision.to(mean.device)) * difference).sum(1)
        return (squared / difference.shape[1]).mean()
