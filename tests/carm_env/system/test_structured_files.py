"""JSON and YAML of others: ordinary files are read, everything that could hang, fill the memory or surprise is not."""

import json
import os
import time

import pytest

from carm_env.system import structured_files
from carm_env.system.errors import UnknownNameError, shortened
from carm_env.system.structured_files import (
    MAX_DEPTH,
    StructuredFileError,
    parse_json,
    parse_yaml,
    read_json,
    read_json_mapping,
    read_yaml_mapping,
)

ORDINARY = {"a": [1, -2.5, True, None, "x: y"], "b": {"c": [], "d": {}}, "ü": 2**64 - 1, "e": 1e-7}


def billion_laughs(levels: int = 9) -> str:
    lines = ['a0: &a0 ["lol","lol","lol","lol","lol","lol","lol","lol","lol"]']
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_ordinary_values_are_read():
    import yaml

    assert parse_json(json.dumps(ORDINARY), "f") == ORDINARY
    assert parse_yaml(yaml.safe_dump(ORDINARY, allow_unicode=True), "f") == ORDINARY
    assert parse_yaml("a: 2026-01-01\nb: 1.5\nc: on\nd: ~\ne: 0x10\nf: 1:30\n", "f") == {
        "a": "2026-01-01", "b": 1.5, "c": True, "d": None, "e": 16, "f": 90,
    }  # fmt: skip
    deepest = "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    assert parse_json(deepest, "f") == parse_yaml(deepest, "f")


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


HOSTILE_JSON = {
    "nested lists": "[" * 100_000,
    "nested lists, closed": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "just too deep": "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "NaN": '{"a": NaN}',
    "infinity": "[-Infinity]",
    "overflow": "[1e999]",
    "400 digits": "9" * 400,
    "a million digits": "9" * 1_000_000,
    "65 bits": str(2**64),
    "repeated key": '{"a": 1, "a": 2}',
    "half a surrogate pair": r'["\ud800"]',
    "half a surrogate pair as key": r'{"\udfff": 1}',
    "NUL": r'["a\u0000"]',
    "empty": "",
    "cut short": '{"a": [1, 2',
    "two values": "1 2",
}
HOSTILE_YAML = {
    "aliases": billion_laughs(),
    "alias to itself": "a: &a [*a]",
    "anchor": "a: &a 1",
    "python object": "!!python/object/apply:os.system ['true']",
    "own tag": "a: !own 1",
    "binary": "a: !!binary aGVsbG8=",
    "set": "!!set {a, b}",
    "unreadable integer": "a: !!int x",
    "merged mapping": "<<: {a: 1}",
    "nested lists": "[" * 100_000,
    "nested mappings": "{a: " * 100_000,
    "nested blocks": "- " * 20_000,
    "nested keys": "? " * 20_000,
    "repeated key": "a: 1\na: 2",
    "number as key": "1: a",
    "bool as key": "on: a",
    "list as key": "[a]: b",
    "NaN": "a: .nan",
    "infinity": "a: -.inf",
    "400 digits": f"a: {'9' * 400}",
    "a million digits": f"a: {'9' * 1_000_000}",
    "a million hexadecimal digits": f"a: 0x{'f' * 1_000_000}",
    "sexagesimal": f"a: 1{':59' * 300_000}",
    "sexagesimal fraction": f"a: 1{':59' * 300_000}.5",
    "underscores": f"a: 1{'_' * 1_000_000}",
    "two documents": "a: 1\n---\nb: 2",
    "control character": "a: \x00",
    "NUL": r'a: "b\0"',
    "unclosed": "a: [",
    "undefined alias": "a: *b",
    "directive": "%TAG ! tag:own,2000:\n---\na: !x 1",
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_refused_at_once(name):
    started = time.perf_counter()
    with pytest.raises(StructuredFileError, match=r"^f\.json is not valid JSON") as caught:
        parse_json(HOSTILE_JSON[name], "f.json")
    assert len(str(caught.value)) < 600 and time.perf_counter() - started < 2


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_is_refused_at_once(name):
    started = time.perf_counter()
    with pytest.raises(StructuredFileError, match=r"^f\.yaml is not valid YAML") as caught:
        parse_yaml(HOSTILE_YAML[name], "f.yaml")
    assert len(str(caught.value)) < 600 and time.perf_counter() - started < 2


@pytest.mark.parametrize("name", ["aliases", "python object", "nested lists", "repeated key", "400 digits"])
def test_pyyaml_without_libyaml_refuses_the_same(name, monkeypatch):
    import yaml

    monkeypatch.setattr(structured_files, "_BaseLoader", yaml.SafeLoader)
    with pytest.raises(StructuredFileError):
        parse_yaml(HOSTILE_YAML[name], "f.yaml")


def test_integer_keys_become_text_where_they_are_expected(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("labels: {0: a, 12: b, c: d}\n", encoding="utf-8")
    assert read_yaml_mapping(path, integer_keys=True) == {"labels": {"0": "a", "12": "b", "c": "d"}}
    with pytest.raises(StructuredFileError, match="has the key 0, expected text: quote it"):
        read_yaml_mapping(path)
    for text in ("{0: a, '0': b}", "{on: a}", "{1.5: a}", f"{{{'9' * 30}: a}}"):
        with pytest.raises(StructuredFileError):
            parse_yaml(text, "a.yaml", integer_keys=True)


def test_files_of_the_wrong_kind_are_refused(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError):
        read_json(path)
    with pytest.raises(StructuredFileError, match="is not a file"):
        read_json(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(StructuredFileError, match="is not a file"):
            read_json(tmp_path / "pipe")
    path.write_bytes(b"[1, \xff]")
    with pytest.raises(StructuredFileError, match="is not UTF-8"):
        read_json(path)
    path.write_text("[" + "1," * 100 + "1]", encoding="utf-8")
    with pytest.raises(StructuredFileError, match="has more than 100 bytes"):
        read_json(path, max_bytes=100)
    with pytest.raises(StructuredFileError, match="holds list, expected a mapping"):
        read_json_mapping(path)
    with pytest.raises(StructuredFileError, match="holds list, expected a mapping"):
        read_yaml_mapping(path)


def test_messages_quote_the_beginning_of_a_long_value():
    nested: list = []
    for _ in range(10_000):
        nested = [nested]
    for value in ("x" * 10**6, 10**5000, list(range(10**5)), {str(n): n for n in range(1000)}, nested):
        assert len(shortened(value)) < 1000
    assert len(str(UnknownNameError("suite", "smok" * 10**6, ["smoke"]))) < 500
    assert "Did you mean 'smoke'" in str(UnknownNameError("suite", "smok", ["smoke"]))
