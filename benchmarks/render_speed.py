"""Speed and error of our line integrals beside ITK-RTK's Joseph projector and nanodrr.

    python benchmarks/render_speed.py --json render_speed.json

Everything runs in one process on one core: the same frontal view of the same volume (by default
the virtual patient of --seed), one material, 256 x 256 line integrals. The pictures must agree
before a time is printed. Times are CPU times, medians over rounds in which the projectors take turns.
A peer that is not installed is reported with the line that installs it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.one_core import one_core
from benchmarks.peers import PIP_LINES, PeerView, Project, nanodrr_samples, nanodrr_trilinear, rtk_joseph
from benchmarks.provenance import provenance
from carm_env.files import write_json
from carm_env.patients import Patient, load_saved_patient
from carm_env.xray.camera import XRayCamera
from carm_env.xray.reference import MarchProjector
from carm_env.xray.separable import SeparableProjector

OURS, RTK, NANODRR, FRAME = "ours", "itk-rtk", "nanodrr", "whole frame"
MIN_CORRELATION = {RTK: 0.9999, NANODRR: 0.999}
PACKAGES = ("carm-env", "numba", "numpy", "itk-rtk", "nanodrr", "torch")
MARCH_STEP_MM = 0.05
MARCH_EVERY = 4
REPEATS = 20
"""Calls of our own functions in a round: one call of theirs takes as long as many of ours."""


class DisagreementError(RuntimeError):
    """A peer's picture is not ours, so that a comparison of times would mean nothing."""


@dataclass(frozen=True)
class Arguments:
    """What the command line says.

    Attributes:
        volume: folder of a saved patient; None for the virtual patient of `seed`.
        seed: seed of the virtual patient.
        size: pixels along each side.
        rounds: rounds in which the projectors take turns.
        json: where to write the result; None to print it only.
    """

    volume: Path | None = None
    seed: int = 0
    size: int = 256
    rounds: int = 5
    json: Path | None = None


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", type=Path, help="folder of a saved patient (default: virtual, of --seed)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the virtual patient (default 0)")
    parser.add_argument("--size", type=int, default=256, help="pixels along each side (default 256)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default 5)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = Arguments(**vars(parser.parse_args(argv)))
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}, expected 1 or more")
    return arguments


def patient_to_measure(arguments: Arguments) -> Patient:
    """The patient to take pictures of."""
    if arguments.volume is not None:
        return load_saved_patient(arguments.volume)
    from carm_env.anatomy.build import virtual_patient

    return virtual_patient(arguments.seed)


def prepare_peers(scene: PeerView) -> dict[str, Project]:
    """Every peer that is installed, ready to project."""
    makers: dict[str, Callable[[PeerView], Project]] = {RTK: rtk_joseph, NANODRR: nanodrr_trilinear}
    peers = {}
    for name, make in makers.items():
        try:
            peers[name] = make(scene)
        except ImportError as error:
            print(f"{name} is missing ({error}). To compare with it: {PIP_LINES[name]}")
    return peers


def check_agreement(ours: NDArray[np.float32], peers: Mapping[str, Project]) -> dict[str, float]:
    """Correlation of every peer's picture with ours.

    Raises:
        DisagreementError: it is lower than `MIN_CORRELATION`, or the scale differs by a percent.
    """
    correlations = {}
    for name, project in tqdm(peers.items(), desc="checking that the pictures agree", disable=None):
        picture = project()
        correlation = float(np.corrcoef(ours.ravel(), picture.ravel())[0, 1])
        scale = float(picture.sum() / ours.sum())
        if not correlation >= MIN_CORRELATION[name] or not 0.99 < scale < 1.01:
            raise DisagreementError(
                f"{name}: correlation {correlation:.6f} and scale {scale:.4f}, expected at least "
                f"{MIN_CORRELATION[name]} and 1: no times are given."
            )
        correlations[name] = correlation
    return correlations


def line_error(scene: PeerView, ours: NDArray[np.float32]) -> tuple[float, float]:
    """Largest and mean error against a float64 march, as shares of the picture's maximum.

    The march takes 0.05 mm steps, on every fourth pixel in each direction.
    """
    v, u = np.mgrid[MARCH_EVERY // 2 : scene.size : MARCH_EVERY, MARCH_EVERY // 2 : scene.size : MARCH_EVERY]
    march = MarchProjector(scene.volume, scene.table, step_mm=MARCH_STEP_MM)
    exact = march.along(scene.geometry, np.stack([u, v], axis=-1))[0]
    error = np.abs(ours[v, u] - exact) / exact.max()
    return float(error.max()), float(error.mean())


def interleaved_medians(
    jobs: Mapping[str, Callable[[], Any]], rounds: int, repeats: Mapping[str, int]
) -> dict[str, float]:
    """Median CPU time of a call of every job, ms; the jobs take turns, so a disturbance hits all alike.

    Args:
        jobs: what to time; each is called once before, to warm up.
        rounds: number of rounds.
        repeats: calls a round, 1 where a job is not named.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in tqdm(range(rounds), desc="timing", disable=None):
        for name, job in jobs.items():
            count = repeats.get(name, 1)
            start = time.process_time()
            for _ in range(count):
                job()
            times[name].append((time.process_time() - start) / count * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def measure(patient: Patient, arguments: Arguments) -> dict[str, Any]:
    """Check the pictures, then time the projectors; the result as JSON."""
    scene = PeerView.frontal(patient.volume, patient.mid_depth_mm, arguments.size)
    geometry = scene.geometry
    projector = SeparableProjector(scene.volume, scene.table)
    ours = projector.path_masses(geometry)[0]
    peers = prepare_peers(scene)
    correlations = check_agreement(ours, peers)
    print("measuring the error against a float64 march", flush=True)
    largest, mean = line_error(scene, ours)
    camera = XRayCamera(scene.volume)
    jobs: dict[str, Callable[[], Any]] = {
        OURS: lambda: projector.path_masses(geometry),
        FRAME: lambda: camera.image(scene.place, scene.size, noise_seed=1),
        **peers,
    }
    times = interleaved_medians(jobs, arguments.rounds, {OURS: REPEATS, FRAME: REPEATS})
    ratios = {name: times[name] / times[OURS] for name in peers}
    return {
        "ratio_vs_rtk": ratios.get(RTK),
        "ratio_vs_nanodrr": ratios.get(NANODRR),
        "correlation_with_rtk": correlations.get(RTK),
        "correlation_with_nanodrr": correlations.get(NANODRR),
        "line_error_max": largest,
        "line_error_mean": mean,
        "times_ms": times,
        "missing": {name: PIP_LINES[name] for name in PIP_LINES if name not in peers},
        "patient": patient.id,
        "voxels": list(scene.volume.hu.shape),
        "spacing_mm": scene.volume.spacing_mm.tolist(),
        "size": scene.size,
        "rounds": arguments.rounds,
        "simd_mode": type(projector.mode).__name__,
        "nanodrr_samples": nanodrr_samples(scene),
        "run": provenance(None if arguments.volume else arguments.seed, PACKAGES),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as text."""
    what = {
        OURS: f"line integrals, slice-separable Joseph, int16 ({result['simd_mode']})",
        RTK: "line integrals, Joseph, float32, full volume",
        NANODRR: f"line integrals, torch trilinear, float32, {result['nanodrr_samples']} samples a ray in the volume",
        FRAME: "ours: two materials, spectrum, noise, window, uint8",
    }
    times = result["times_ms"]
    lines = [
        f"{result['patient']}: {result['voxels']} voxels of {result['spacing_mm']} mm, "
        f"{result['size']} x {result['size']} pixels, one core of {result['run']['processor']}",
        f"{'':12} {'ms':>9} {'x ours':>8}  what is timed",
    ]
    for name, description in what.items():
        if name in times:
            lines.append(f"{name:12} {times[name]:9.2f} {times[name] / times[OURS]:8.1f}  {description}")
        else:
            lines.append(f"{name:12} {'missing':>9} {'':8}  {result['missing'][name]}")
    correlations = [
        f"correlation with {name} {value:.6f}"
        for name, value in ((RTK, result["correlation_with_rtk"]), (NANODRR, result["correlation_with_nanodrr"]))
        if value is not None
    ]
    lines.extend(correlations)
    lines.append(
        f"error against a float64 march ({MARCH_STEP_MM} mm, every {MARCH_EVERY}th pixel): "
        f"max {result['line_error_max']:.1e}, mean {result['line_error_mean']:.1e} of the maximum"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the JSON file."""
    arguments = parse_arguments(argv)
    patient = patient_to_measure(arguments)
    with one_core():
        result = measure(patient, arguments)
    print(table(result))
    if arguments.json is not None:
        write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
