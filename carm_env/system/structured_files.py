"""JSON and YAML of others, read within limits.

A few hundred bytes of YAML with aliases describe gigabytes, a nested list overflows the stack, and a number of a
thousand digits passes for an integer. These readers accept only finite numbers of 64 bits, texts, lists and mappings
with different text keys, up to a size and a depth. Everything else is a `StructuredFileError`.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from carm_env.system.errors import CArmEnvError, shortened

MAX_JSON_BYTES = 64 << 20
MAX_YAML_BYTES = 2 << 20
MAX_DEPTH = 32
_MAX_NUMBER_CHARACTERS = 400
_INTEGERS = range(-(2**63), 2**64)
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that no file name holds and no file can be written with."""


class StructuredFileError(CArmEnvError, ValueError):
    """A text is not valid JSON or YAML, or exceeds the limits of this module; the message names the file."""


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        max_bytes: largest size of the file.

    Raises:
        OSError: the file does not exist or cannot be opened.
        StructuredFileError: see `parse_json`; or it is not a regular file, is too large, or is not UTF-8.
    """
    return parse_json(_read_text(path, max_bytes), str(path))


def read_json_mapping(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Reads a JSON file that holds an object; raises as `read_json`, also for any other value."""
    return _mapping(read_json(path, max_bytes), str(path))


def read_yaml(path: Path, max_bytes: int = MAX_YAML_BYTES, integer_keys: bool = False) -> Any:
    """Reads a YAML file; `parse_yaml` says what it may hold, and `read_json` what is raised."""
    return parse_yaml(_read_text(path, max_bytes), str(path), integer_keys)


def read_yaml_mapping(path: Path, max_bytes: int = MAX_YAML_BYTES, integer_keys: bool = False) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping; raises as `read_yaml`, also for any other value."""
    return _mapping(read_yaml(path, max_bytes, integer_keys), str(path))


def parse_json(text: str, source: str) -> Any:
    """Parses JSON.

    Args:
        text: the JSON.
        source: name of the file in error messages, such as ``"results.jsonl, line 3"``.

    Raises:
        StructuredFileError: invalid JSON, a key that occurs twice, NaN or infinity, an integer of more than 64 bits,
            deep nesting, or text that is not valid Unicode.

    >>> parse_json('{"a": [1, 2.5]}', "a.json")
    {'a': [1, 2.5]}
    """

    def parse() -> Any:
        value = json.loads(
            text, object_pairs_hook=_different_keys, parse_int=_integer, parse_float=_real, parse_constant=_real
        )
        _check_tree(value)
        return value

    return _parsed("JSON", source, parse)


def parse_yaml(text: str, source: str, integer_keys: bool = False) -> Any:
    """Parses YAML with the values of JSON: no anchors, aliases, tags, dates or merged mappings.

    Args:
        text: the YAML.
        source: name of the file in error messages.
        integer_keys: integers as keys become text; without it they are an error.

    Raises:
        StructuredFileError: as `parse_json`.

    >>> parse_yaml("{a: [1, 2.5], b: 2026-01-01}", "a.yaml")
    {'a': [1, 2.5], 'b': '2026-01-01'}
    >>> parse_yaml("{0: background}", "a.yaml", integer_keys=True)
    {'0': 'background'}
    """

    def parse() -> Any:
        # Events are cheap; what they describe is built only when it is known to be small.
        depth = 0
        for event in yaml.parse(text, Loader=_BaseLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise ValueError("it has an anchor or an alias, expected all values written out")
            if tag := getattr(event, "tag", None):
                raise ValueError(f"it has the tag {shortened(tag)}, expected plain values without tags")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecursionError
        value = yaml.load(text, Loader=_IntegerKeyLoader if integer_keys else _Loader)
        _check_tree(value)
        return value

    return _parsed("YAML", source, parse)


def dump_yaml(value: Any, **options: Any) -> str:
    """Returns a value as YAML that `parse_yaml` reads; `options` are those of ``yaml.safe_dump``."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, **options)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _parsed(language: str, source: str, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except RecursionError:
        reason = f"it is nested more than {MAX_DEPTH} levels deep"
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
    raise StructuredFileError(f"{source} is not valid {language}: {reason}.")


def _read_text(path: Path, max_bytes: int) -> str:
    status = path.stat()
    # Opening a named pipe would wait for a writer.
    if not stat.S_ISREG(status.st_mode):
        raise StructuredFileError(f"{path} is not a file.")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise StructuredFileError(f"{path} has more than {max_bytes:,} bytes, which this kind of file never needs.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StructuredFileError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start:,}).") from error


def _mapping(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StructuredFileError(f"{source} holds {type(value).__name__}, expected a mapping of names to values.")
    return value


def _different_keys(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ValueError(f"it has the key {shortened(key)}, expected text: quote it")
        if key in found:
            raise ValueError(f"it has the key {shortened(key)} twice")
        found[key] = value
    return found


def _integer(text: str) -> int:
    # Converting thousands of digits, or of YAML's sexagesimal places, takes time that grows with their square.
    value = int(text) if len(text) <= _MAX_NUMBER_CHARACTERS else None
    if value is None or value not in _INTEGERS:
        raise ValueError(f"it has an integer of {len(text)} characters, expected 64 bits")
    return value


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {shortened(text)}, expected a finite one")
    return value


def _check_tree(value: Any) -> None:
    """Checks the depth of a value, and that its texts can be written again."""
    level, depth = [value], 0
    while level:
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper += [*item, *item.values()]
            elif isinstance(item, list):
                deeper += item
            elif isinstance(item, str) and _UNUSABLE.search(item):
                raise ValueError(f"its text {shortened(item)} has a NUL character or half a surrogate pair")
            if isinstance(item, (dict, list)) and depth == MAX_DEPTH:
                raise RecursionError
        level, depth = deeper, depth + 1


# libyaml, where PyYAML has it, is ten times as fast.
_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):
    """PyYAML's safe loader for the values of JSON, with finite numbers and different text keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
        for first, resolvers in _BaseLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Returns the mapping of a node."""
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("it has a value of another kind than its tag")
        pairs = [(self.construct_key(key), self.construct_object(value, deep=deep)) for key, value in node.value]
        return _different_keys(pairs)

    def construct_key(self, node: Any) -> Any:
        """Returns the key of a node."""
        return self.construct_object(node, deep=True)

    def construct_yaml_int(self, node: Any) -> int:
        """Returns the integer of a node."""
        if len(node.value) > _MAX_NUMBER_CHARACTERS:
            return _integer(node.value)
        value = super().construct_yaml_int(node)
        if value not in _INTEGERS:
            raise ValueError(f"it has an integer of {len(node.value)} characters, expected 64 bits")
        return int(value)

    def construct_yaml_float(self, node: Any) -> float:
        """Returns the number of a node."""
        if len(node.value) > _MAX_NUMBER_CHARACTERS:
            raise ValueError(f"it has a number of {len(node.value)} characters")
        value = super().construct_yaml_float(node)
        return _real(str(value))


for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", getattr(_Loader, f"construct_yaml_{_name}"))


class _IntegerKeyLoader(_Loader):
    def construct_key(self, node: Any) -> Any:
        key = super().construct_key(node)
        return str(key) if type(key) is int else key
