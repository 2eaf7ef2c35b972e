"""Localisers by name: networks and language models that name the landmarks in single X-rays."""

from __future__ import annotations

from typing import Any

from carm_env.chat_models.specification import SpecificationError, parse_settings
from carm_env.evaluation.localization import Localizer, RankedLocalizer
from carm_env.system.errors import UnknownNameError

LANGUAGE_MODELS = ("mllm", "mllm_grpo")
LOCALIZERS = ("cnn", "conformal", "knn", "retrieval", *LANGUAGE_MODELS)


def make_localizer(name: str, *, sampled: bool = False, **options: Any) -> Localizer:
    """Constructs a localiser.

    Args:
        name: ``cnn``, ``conformal``, ``mllm`` or ``mllm_grpo``, with ``:CHECKPOINT`` for other weights than the shipped
            ones; ``knn:INDEX``; or ``retrieval:MODEL``, where MODEL is ``mllm``, ``mllm_grpo`` or another language
            model; settings follow as ``?k=20&index=FOLDER``.
        sampled: a language model is asked several times, so that it has probabilities
            (`policies.mllm.SampledLocalizer`).
        **options: arguments of `policies.mllm.MllmLocalizer`; only for a language model.

    Raises:
        UnknownNameError: unknown localiser.
        SpecificationError: a wrong setting.
        ValueError: options for a localiser that takes none.
        FileNotFoundError, CheckpointError, MissingExtraError: the localiser cannot be constructed.
    """
    kind, _, folder = name.partition(":")
    if kind not in LOCALIZERS:
        raise UnknownNameError("localiser", kind, LOCALIZERS)
    if options and kind not in (*LANGUAGE_MODELS, "retrieval"):
        raise ValueError(f"--policy is {name!r}, but only a language model takes --{' and --'.join(options)}.")
    if kind == "cnn":
        from policies.cnn import LandmarkClassifier

        classifier = LandmarkClassifier(folder or None)
        return RankedLocalizer(classifier.localize, classifier.locate, classifier.field_of_view_mm)
    if kind in LANGUAGE_MODELS:
        from policies.mllm import MllmLocalizer, SampledLocalizer

        if sampled:
            return SampledLocalizer(folder, shipped=kind, **options)
        return MllmLocalizer(folder, shipped=kind, **options)
    if kind == "knn":
        from policies.lofi.knn import KnnLocalizer

        folder, settings = _with_settings(folder)
        return KnnLocalizer(folder, **settings)
    if kind == "retrieval":
        from policies.lofi.retrieval import RetrievalLocalizer

        model, settings = _with_settings(folder)
        return RetrievalLocalizer(model or LANGUAGE_MODELS[0], **settings, **options)
    from policies.conformal import ConformalLocalizer

    return ConformalLocalizer(folder or None)


def _with_settings(text: str) -> tuple[str, dict[str, Any]]:
    """Returns a name and the settings after its question mark; raises SpecificationError for a wrong number `k`."""
    name, _, query = text.partition("?")
    settings: dict[str, Any] = dict(parse_settings(query))
    if "k" in settings:
        if not settings["k"].isdecimal():
            raise SpecificationError(f"setting k is {settings['k']!r}, expected a whole number.")
        settings["k"] = int(settings["k"])
    return name, settings
