"""Policies by name: the policies of carm_env, and classes and functions of the user's own modules and files."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from carm_env.evaluation.function_policy import FunctionPolicy
from carm_env.evaluation.policy import Policy
from carm_env.evaluation.policy_specification import CHAT, SB3, PolicyLoadingError, PolicySpecification, parse_policy
from carm_env.system.errors import CArmEnvError, UnknownNameError

BUILT_IN_POLICIES = {
    "random": "carm_env.evaluation.reference:RandomPolicy",
    "oracle": "carm_env.evaluation.reference:OraclePolicy",
    "oracle_in_words": "carm_env.chat_models.reference:OracleInWordsPolicy",
    CHAT: "carm_env.chat_models.policy:ChatPolicy",
    SB3: "carm_env.evaluation.sb3_policy:Sb3Policy",
}
"""Name to ``module:Class`` of the policies in carm_env; random and oracle are the bounds of every leaderboard."""
CHECKPOINTS = (CHAT, SB3)
"""Policies of carm_env that take a checkpoint or model: ``NAME:CHECKPOINT``."""
_FORMS = ("module:Class", "FILE.py:Class", "MODEL.zip", "FILE.yaml")


def make_policy(
    text: str, known: Mapping[str, str] = BUILT_IN_POLICIES, checkpoints: Collection[str] = CHECKPOINTS
) -> Policy:
    """Constructs a policy.

    Args:
        text: ``NAME``, ``NAME:CHECKPOINT``, ``module:Class``, ``FILE.py:Class``, ``MODEL.zip``, each with arguments of
            the constructor as ``?a=1&b=2``, or a YAML file (`carm_env.evaluation.policy_specification`).
        known: name to ``module:Class``.
        checkpoints: the names that take a checkpoint.

    Raises:
        UnknownNameError: an unknown policy, class or argument; the message names the nearest one.
        PolicyLoadingError: the module cannot be imported, or the policy cannot be constructed.
        ValueError: a checkpoint for a policy that has none, or a checkpoint that does not fit.
        FileNotFoundError: the checkpoint or the YAML file does not exist.
        MissingExtraError: the policy needs a package that is not installed.

    >>> type(make_policy("random")).__name__
    'RandomPolicy'
    """
    return construct(parse_policy(text, known), known, checkpoints)


def construct(
    specification: PolicySpecification,
    known: Mapping[str, str] = BUILT_IN_POLICIES,
    checkpoints: Collection[str] = CHECKPOINTS,
) -> Policy:
    """Constructs the policy of a specification; arguments and errors as for `make_policy`."""
    target, checkpoint = specification.target, specification.checkpoint
    if checkpoint and target not in checkpoints:
        raise ValueError(f"policy is {specification.text!r}, but {target} has no checkpoint: expected {target!r}.")
    found = load_target(known.get(target, target), [*known, *_FORMS])
    arguments = dict(specification.arguments)
    if not isinstance(found, type):
        if arguments:
            raise PolicyLoadingError(
                f"policy is {specification.text!r}, but a function takes no arguments: leave them out."
            )
        try:
            return FunctionPolicy(found)
        except TypeError as error:
            raise PolicyLoadingError(f"policy is {specification.text!r}, but {error}") from error
    positional = (checkpoint,) if checkpoint else ()
    _check_arguments(specification.text, found, positional, arguments)
    try:
        return found(*positional, **arguments)
    except (CArmEnvError, OSError, MemoryError):
        raise
    except Exception as error:
        raise PolicyLoadingError(
            f"policy is {specification.text!r}, but constructing {found.__name__} failed: {describe_error(error)}."
        ) from error


def load_target(name: str, known: Collection[str] = (*BUILT_IN_POLICIES, *_FORMS)) -> Any:
    """Imports a policy class, or a function that returns an action for an observation.

    Args:
        name: ``module:Class`` with a module that is searched in the working directory first, or ``FILE.py:Class``.
        known: valid names for the error message.

    Raises:
        UnknownNameError: `name` has neither form, or the module has no class of this name.
        PolicyLoadingError: the module cannot be imported, or the object is no usable policy.
    """
    module, attribute = import_module_of(name, known)
    found = getattr(module, attribute, None)
    if found is None:
        valid = [
            key for key, value in vars(module).items() if _is_policy_class(value) and not inspect.isabstract(value)
        ]
        raise UnknownNameError(f"class of {name.rpartition(':')[0]}", attribute, valid or ["no policy class"])
    described = f"policy is {name!r}, but {attribute} of {getattr(module, '__file__', module.__name__)}"
    if inspect.isroutine(found):
        return found
    if not _is_policy_class(found):
        raise PolicyLoadingError(
            f"{described} is {found!r}, expected a subclass of carm_env.Policy, or a function of an observation."
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise PolicyLoadingError(f"{described} is abstract: it must implement {missing}.")
    return found


def import_module_of(name: str, known: Collection[str]) -> tuple[ModuleType, str]:
    """Imports the module of ``module:Class`` or ``FILE.py:Class``; returns it and the name of the class.

    Args:
        name: a module is searched in the working directory first.
        known: valid names for the error message.

    Raises:
        UnknownNameError: `name` has neither form.
        PolicyLoadingError: the module cannot be imported.
    """
    module_name, separator, attribute = name.rpartition(":")
    if not (module_name and separator and attribute.isidentifier()):
        file = module_name or attribute
        if file.lower().endswith(".py"):
            raise PolicyLoadingError(f"policy is {name!r}, expected the name of the class as well: {file}:MyPolicy.")
        raise UnknownNameError("policy", name, known)
    is_file = module_name.lower().endswith(".py")
    return (_import_file if is_file else _import_module)(module_name, name), attribute


def _check_arguments(text: str, found: type[Policy], positional: tuple[str, ...], arguments: Mapping[str, Any]) -> None:
    signature = inspect.signature(found)
    try:
        signature.bind(*positional, **arguments)
    except TypeError as error:
        names = [
            name for name, item in signature.parameters.items()
            if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
        ]  # fmt: skip
        for name in arguments:
            if name not in names:
                raise UnknownNameError(f"argument of {found.__name__}", name, names or ["none"]) from error
        raise PolicyLoadingError(
            f"policy is {text!r}, but {found.__name__} cannot be constructed with these arguments ({error}): give them "
            "as ?NAME=VALUE, or give the arguments of __init__ defaults."
        ) from error


def _is_policy_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Policy)


def _import_module(module_name: str, policy: str) -> ModuleType:
    try:
        with _first_in_path(os.getcwd()):
            return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise PolicyLoadingError(
                f"policy is {policy!r}, but there is no module {module_name!r} in {os.getcwd()} or among the installed "
                "packages."
            ) from error
        raise PolicyLoadingError(f"policy is {policy!r}, but importing {module_name} failed: {error}.") from error
    except CArmEnvError:
        raise
    except Exception as error:
        raise PolicyLoadingError(
            f"policy is {policy!r}, but importing {module_name} failed: {describe_error(error)}."
        ) from error


def _import_file(file: str, policy: str) -> ModuleType:
    """Imports a file as a module of its own name, with the other files of its folder within reach."""
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise PolicyLoadingError(f"policy is {policy!r}, but there is no file {path}.")
    name = f"policy_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Classes of the module can be pickled, and dataclasses look their module up.
    sys.modules[name] = module
    try:
        with _first_in_path(str(path.parent)):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception) or isinstance(error, CArmEnvError):
            raise
        raise PolicyLoadingError(
            f"policy is {policy!r}, but importing {path} failed: {describe_error(error)}."
        ) from error
    return module


def describe_error(error: Exception) -> str:
    """Returns the kind and message of an error of a user's code, and the file and line where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    # The message of a SyntaxError names the file itself.
    origin = "" if isinstance(error, SyntaxError) else f" ({frame.filename}, line {frame.lineno})"
    return f"{type(error).__name__}: {error}{origin}"


@contextlib.contextmanager
def _first_in_path(folder: str) -> Iterator[None]:
    """Puts a folder first in ``sys.path`` for an import, and last afterwards.

    Worker processes inherit ``sys.path``. A user's folder ``policies`` must not hide packages that they import.
    """
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path and "" not in sys.path:
            sys.path.append(folder)
