"""Learning curves of agents, and the perception of a language model while it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from carm_env.evaluation.plots import drawing, new_figure, save_figure
from training._support.perception import MIN_CHANGED, PerceptionCheck


def save_learning_curve(folders: Sequence[Path], path: Path, title: str) -> None:
    """Plots the success rate on the evaluation patients over steps: each seed, and their mean.

    A figure never fails a training whose weights are already saved: an error is printed as a warning.

    Args:
        folders: folders of the seeds, with ``evaluations.npz`` if there was an evaluation.
        path: PNG to write; without an evaluation nothing is written.
        title: title of the figure.
    """
    with drawing(str(path)):
        _plot(folders, path, title)


def _plot(folders: Sequence[Path], path: Path, title: str) -> None:
    curves = []
    for folder in folders:
        if (folder / "evaluations.npz").is_file():
            with np.load(folder / "evaluations.npz", allow_pickle=False) as kept:
                curves.append((kept["timesteps"], kept["successes"].mean(1)))
    if not curves:
        return
    figure, axes = new_figure(6, 3.6, dpi=120)
    for steps, success in curves:
        axes.plot(steps, 100 * success, color="tab:blue", alpha=0.35, linewidth=1)
    shortest = min(len(steps) for steps, _ in curves)
    mean = np.mean([success[:shortest] for _, success in curves], axis=0)
    axes.plot(curves[0][0][:shortest], 100 * mean, color="tab:blue", linewidth=2, label=f"mean of {len(curves)}")
    axes.set(xlabel="environment steps", ylabel="success on calibration patients, %", ylim=(0, 101), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path)


def save_perception_curve(steps: Sequence[int], checks: Sequence[PerceptionCheck], path: Path) -> None:
    """Plots how much a language model's moves depend on the X-ray, over the training.

    A figure never fails a training: an error is printed as a warning.

    Args:
        steps: ``(K,)`` training step of each check.
        checks: ``(K,)`` the checks; without one, nothing is written.
        path: PNG to write.
    """
    if checks:
        with drawing(str(path)):
            _plot_perception(steps, checks, path)


def _plot_perception(steps: Sequence[int], checks: Sequence[PerceptionCheck], path: Path) -> None:
    figure, axes = new_figure(6, 3.6, dpi=120)
    for name, label, color in (
        ("changed", "moves that change with the X-ray", "tab:blue"),
        ("best_own", "best moves, own X-ray", "tab:green"),
        ("best_swapped", "best moves, swapped X-ray", "tab:orange"),
    ):
        values = [100 * getattr(check, name) for check in checks]
        axes.plot(steps, values, color=color, marker=".", label=label)
    axes.axhline(100 * MIN_CHANGED, color="tab:blue", linestyle=":", linewidth=1)
    blind = [step for step, check in zip(steps, checks, strict=True) if not check.looks]
    axes.plot(blind, [0] * len(blind), "rx", label="no longer looks" if blind else None)
    axes.set(xlabel="training steps", ylabel="share of states, %", ylim=(-2, 101), title="Does the model look?")
    information = axes.twinx()
    gains = [check.information_gain for check in checks]
    information.plot(steps, gains, color="tab:grey", linestyle="--", label="information gain")
    information.set(ylabel="information gain, bits", ylim=(min(0.0, *gains) - 0.05, max(1.0, *gains) + 0.05))
    axes.grid(alpha=0.3)
    handles = [*axes.get_legend_handles_labels()[0], *information.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, loc="best", fontsize="x-small")
    save_figure(figure, path)


def save_success_curve(points: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plots success and exposures per success on the calibration patients over the steps of one training.

    A figure never fails a training: an error is printed as a warning.

    Args:
        points: evaluations with ``step``, ``success`` and ``exposures_per_success``.
        path: PNG to write.
    """
    with drawing(str(path)):
        figure, axes = new_figure(6, 3.6, dpi=120)
        steps = [point["step"] for point in points]
        axes.plot(steps, [100 * point["success"] for point in points], color="tab:blue", marker=".", label="success")
        axes.set(xlabel="training steps", ylabel="success on calibration patients, %", ylim=(0, 101))
        exposures = axes.twinx()
        values = [point["exposures_per_success"] for point in points]
        exposures.plot(steps, values, color="tab:orange", marker=".", label="exposures per success")
        exposures.set(ylabel="exposures per success", ylim=(0, 1.1 * max(values)))
        axes.grid(alpha=0.3)
        handles = [*axes.get_legend_handles_labels()[0], *exposures.get_legend_handles_labels()[0]]
        axes.legend(handles=handles, loc="lower right")
        save_figure(figure, path)
