"""Power spectra of real CTs and of virtual patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._support.matched_views import match_histograms
from benchmarks._support.power_spectrum import power_spectrum, radial_mean
from benchmarks._support.realism_collection import REAL, VIRTUAL, ImageCollection
from carm_env.evaluation.plots import new_figure, save_figure
from carm_env.evaluation.report import markdown_table

BANDS_PER_MM = (0.0, 0.03, 0.06, 0.12, 0.24)
"""Edges of the bands of spatial frequencies at mid-depth, cycles per mm."""


def spectra(collection: ImageCollection) -> dict[str, dict[str, Any]]:
    """Returns the mean radial power spectra of images with equal histograms, by part of the body and kind.

    A person counts once, whatever the number of images. ``per_mm`` are the frequencies at mid-depth.
    """
    matched = match_histograms(collection.images, collection.air)
    found: dict[str, dict[str, Any]] = {}
    for axis in dict.fromkeys(collection.axis.values()):
        part: dict[str, Any] = {}
        for kind, groups in collection.groups.items():
            curves = []
            for group in (group for group in groups if collection.axis[group.ct] == axis):
                radial = [radial_mean(*power_spectrum(image)) for image in matched[group.rows]]
                part.setdefault("per_mm", (radial[0][0] / collection.mid_depth_pixel_mm).tolist())
                curves.append(np.mean([power for _, power in radial], axis=0))
            part[kind] = np.mean(curves, axis=0).tolist()
        found[f"{axis[0]} to {axis[1]}"] = part
    return found


def band_ratios(part: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns the ratio of power, virtual patients to real CTs, in each band of `BANDS_PER_MM`."""
    frequency = np.array(part["per_mm"])
    bands = [(frequency > low) & (frequency <= high) for low, high in pairwise(BANDS_PER_MM)]
    power = {
        kind: [float(np.mean(np.array(values)[band])) for band in bands]
        for kind, values in part.items()
        if kind != "per_mm"
    }
    real = power.pop(REAL)
    return {kind: [own / other for own, other in zip(values, real, strict=True)] for kind, values in power.items()}


def band_table(ratios: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Formats the `band_ratios` of each part of the body."""
    headings = [f"{low:g} to {high:g} per mm" for low, high in pairwise(BANDS_PER_MM)]
    rows = [
        (part, kind, *(f"{value:.2f}" for value in values))
        for part, found in ratios.items()
        for kind, values in found.items()
    ]
    return markdown_table(("power relative to real CTs", "", *headings), rows)


def draw_spectra(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws the power spectra of every part of the body."""
    figure, axes = new_figure(4.2 * len(found), 3.4, columns=len(found), squeeze=False)
    for axis, (part, curves) in zip(axes[0], found.items(), strict=True):
        frequency = np.array(curves["per_mm"])
        shown = slice(1, len(frequency) * 2 // 3)
        for kind, style in ((REAL, "k-"), (VIRTUAL, "C0-")):
            axis.loglog(frequency[shown], np.array(curves[kind])[shown], style, label=kind)
        axis.set_title(part, fontsize=10)
        axis.set_xlabel("cycles per mm at mid-depth")
        axis.grid(True, which="both", alpha=0.25)
    axes[0, 0].set_ylabel("power, equal histograms")
    axes[0, 0].legend()
    save_figure(figure, path)
