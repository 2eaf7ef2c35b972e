"""An out-of-distribution score: how far the features of an image are from those of the views that the networks know.

The score is the Mahalanobis distance of the features to their mean over training views, as in Lee et al. (A simple
unified framework for detecting out-of-distribution samples and adversarial attacks, NeurIPS 2018), with one class and a
covariance shrunk towards its diagonal (Ledoit and Wolf, Journal of Multivariate Analysis, 2004). The features are mean
and standard deviation over the maps of the last two stages of the first network of `conformal`: the last map reacts to
other anatomy and other directions; the map before it reacts to grey values and textures, to which the last one is
robust. The distance to the nearest training features, as in Sun et al. (Out-of-distribution detection with deep nearest
neighbors, ICML 2022), separates the same images as well but needs all training features.

The score is calibrated on views of patients that neither the network nor mean and covariance have seen: the p-value
of an image is the share of such views that are at least as far away (conformal p-values, Bates et al.: Testing for
outliers with conformal p-values, Annals of Statistics, 2023). "Out of distribution if the p-value is at most 0.05" is
wrong for about 5 % of views like the calibration views, on average over patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.system.extras import optional_imports
from carm_env.views.read import ViewImages
from policies.checkpoint import SHIPPED, CheckpointError, fill_network, fingerprint, load_checkpoint
from policies.checkpoint_config import trained_depth_mm
from policies.conformal import KIND as CONFORMAL
from policies.conformal import member_tensors
from policies.images import batches
from policies.networks import DisplacementNetwork, as_input

with optional_imports("train", "The out-of-distribution score"):
    import torch
    from torch import Tensor

KIND = "out_of_distribution"
FALSE_ALARM_RATE = 0.05
"""Largest p-value of an image that counts as out of distribution, unless another rate is asked for."""
_STAGES = 2
"""Last stages of the network whose maps give the features."""
_SMALLEST_STD = 1e-3


class Backbone:
    """The network whose features are scored: the first one of an ensemble of `training/conformal.py`.

    Args:
        folder: checkpoint of the ensemble; by default the shipped one.

    Attributes:
        architecture: name of its architecture.
        image_size: side of its input, pixels.
        fingerprint: SHA-256 of its weights.
        isocenter_depth_mm: depth of the isocentre in the images that it knows.
        n_outputs: number of features of an image.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        CheckpointError: the checkpoint is damaged or of another kind.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        origin = Path(folder) if folder is not None else SHIPPED / CONFORMAL
        config, tensors = load_checkpoint(origin, CONFORMAL, ("architecture", "image_size"))
        own = member_tensors(tensors, 0)
        self.architecture, self.image_size = str(config["architecture"]), int(config["image_size"])
        self.fingerprint = fingerprint(own)
        self.isocenter_depth_mm = trained_depth_mm(config)
        self._network = DisplacementNetwork(self.architecture, self.isocenter_depth_mm)
        fill_network(self._network, own, f"{origin}, network 0")
        self._network.eval()
        self.n_outputs = 2 * sum(self._network.n_stage_features[-_STAGES:])

    def features(self, images: ViewImages | Tensor) -> NDArray[np.float64]:
        """Returns ``(n, n_outputs)``: mean and standard deviation over the maps of the last two stages.

        Args:
            images: ``(n, s, s)`` or ``(n, s, s, 1)``, grey values 0 to 255.
        """
        parts = []
        with torch.inference_mode():
            for part in batches(len(images)):
                maps = self._network.stage_maps(as_input(images[part], self.image_size))[-_STAGES:]
                flat = [one.flatten(2) for one in maps]
                parts.append(torch.cat([statistic for one in flat for statistic in (one.mean(2), one.std(2))], 1))
        result: NDArray[np.float64] = torch.cat(parts).double().numpy()
        return result


@dataclass(frozen=True, eq=False)
class FeatureDistribution:
    """Mean and shrunk covariance of features.

    Attributes:
        mean: ``(d,)``.
        std: ``(d,)``.
        whitening: ``(d, d)`` maps standardised features to vectors whose length is the Mahalanobis distance.
        shrinkage: 0 for the sample covariance, to 1 for its diagonal alone.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    whitening: NDArray[np.float64]
    shrinkage: float

    @classmethod
    def fit(cls, features: ArrayLike) -> FeatureDistribution:
        """Estimates the distribution of features ``(n, d)``.

        The covariance is shrunk towards its diagonal by as much as minimises the expected squared error: Ledoit and
        Wolf's estimate for standardised features. Numbers are rounded to float16, as a checkpoint stores them.

        Raises:
            ValueError: fewer than two rows.
        """
        values = np.asarray(features, float)
        if len(values) < 2:
            raise ValueError(f"features has {len(values)} rows, expected at least 2: take more views.")
        mean = _as_stored(values.mean(0))
        std = _as_stored(np.maximum(values.std(0), _SMALLEST_STD))
        scaled = (values - mean) / std
        n, d = scaled.shape
        covariance = scaled.T @ scaled / n
        distance = float(((covariance - np.eye(d)) ** 2).sum())
        spread = float((((scaled**2).sum(1) ** 2).sum() / n - (covariance**2).sum()) / n)
        shrinkage = 1.0 if distance == 0 else min(max(spread / distance, 0.0), 1.0)
        shrunk = (1 - shrinkage) * covariance + shrinkage * np.eye(d)
        return cls(mean, std, _as_stored(np.linalg.inv(np.linalg.cholesky(shrunk))), shrinkage)

    def distance(self, features: ArrayLike) -> NDArray[np.float64]:
        """Returns the Mahalanobis distances ``(n,)`` of features ``(n, d)``."""
        scaled = (np.asarray(features, float) - self.mean) / self.std
        result: NDArray[np.float64] = np.linalg.norm(scaled @ self.whitening.T, axis=1)
        return result


def _as_stored(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.astype(np.float16).astype(np.float64)


def p_values(scores: ArrayLike, calibration: ArrayLike) -> NDArray[np.float64]:
    """Returns the share of calibration scores that are at least as high as each score, counting the score itself.

    Args:
        scores: ``(n,)``.
        calibration: ``(m,)`` scores of calibration views, of as many views of each patient.

    >>> p_values([0.0, 2.5, 9.0], [1.0, 2.0, 3.0]).tolist()
    [1.0, 0.5, 0.25]
    """
    known = np.sort(np.asarray(calibration, float))
    higher = len(known) - np.searchsorted(known, np.asarray(scores, float), side="left")
    return np.asarray((1 + higher) / (1 + len(known)), float)


class OutOfDistributionDetector:
    """Scores images by how unlike the training views their features are.

    Args:
        folder: checkpoint of `training/out_of_distribution.py`; by default the shipped one.
        backbone: checkpoint of the ensemble that it was fitted to; by default the shipped one.

    Raises:
        FileNotFoundError: there is no checkpoint in a folder.
        CheckpointError: a checkpoint is damaged or of another kind, or the detector was fitted to another backbone.
    """

    def __init__(self, folder: str | Path | None = None, backbone: str | Path | None = None) -> None:
        origin = Path(folder) if folder is not None else SHIPPED / KIND
        config, tensors = load_checkpoint(origin, KIND, ("backbone", "shrinkage"))
        self._backbone = Backbone(backbone)
        if config["backbone"] != self._backbone.fingerprint:
            raise CheckpointError(
                f"{origin} was fitted to another network than {backbone or SHIPPED / CONFORMAL}: fit it again with "
                "`python training/out_of_distribution.py`."
            )
        names = ("mean", "std", "whitening", "calibration")
        missing = [name for name in names if name not in tensors]
        if missing:
            raise CheckpointError(f"{origin} has no {', '.join(missing)}: fit it again.")
        mean, std, whitening, self._calibration = (tensors[name].double().numpy() for name in names)
        width = self._backbone.n_outputs
        shapes = mean.shape, std.shape, whitening.shape, self._calibration.shape
        if shapes[:3] != ((width,), (width,), (width, width)) or len(shapes[3]) != 1 or not (std > 0).all():
            raise CheckpointError(f"{origin} has tensors of other shapes than {width} features need: fit it again.")
        self._distribution = FeatureDistribution(mean, std, whitening, float(config["shrinkage"]))

    def score(self, images: NDArray[Any] | Tensor) -> NDArray[np.float64]:
        """Returns the scores ``(n,)`` of images ``(n, s, s)`` or ``(n, s, s, 1)`` uint8; higher is less familiar."""
        return self._distribution.distance(self._backbone.features(images))

    def p_value(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Returns the share ``(n,)`` of calibration views that score at least as high; see `p_values`."""
        return p_values(scores, self._calibration)

    def threshold(self, false_alarm_rate: float = FALSE_ALARM_RATE) -> float:
        """Returns the lowest score whose p-value is at most `false_alarm_rate`.

        Raises:
            ValueError: the rate is not below 1, or lower than the smallest p-value.
        """
        known = np.sort(self._calibration)
        smallest = 1 / (1 + len(known))
        if not smallest <= false_alarm_rate < 1:
            raise ValueError(
                f"false_alarm_rate is {false_alarm_rate}, expected {smallest:.2g} (1 of {1 + len(known):,}) to below 1."
            )
        higher = int(false_alarm_rate * (1 + len(known)) + 1e-9) - 1
        return float(np.nextafter(known[len(known) - 1 - higher], np.inf))
