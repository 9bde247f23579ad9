"""Reading typed TOML: each mistake is one sentence that names file, key, what was found and what is allowed."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from sim.base.config import read_toml, set_key, to_struct
from sim.base.errors import UsageError


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(ge=1)]
    mode: Literal["fast", "slow"] = "fast"


class Cut(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="cut"):
    at_s: float


class Stall(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="stall"):
    at_s: float
    for_s: float = 1.0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inner: Inner
    faults: tuple[Cut | Stall, ...] = ()
    words: tuple[Literal["yes", "no"], ...] = ()
    nested: Annotated[tuple[Inner, ...], msgspec.Meta(max_length=2)] = ()


GOOD: dict[str, Any] = {"name": "n", "inner": {"size": 1}}


def said(data: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as raised:
        to_struct(data, Outer, "file.toml")
    sentence = str(raised.value)
    assert sentence.startswith("file.toml: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_every_mistake_is_named_at_once() -> None:
    data = {
        "nmae": "x",
        "inner": {"size": 0, "mode": "medium", "extra": 1},
        "faults": [{"kind": "stall", "at_s": 1.0, "for_s": "long"}, {"kind": "cut", "at_s": 1.0, "for_s": 2.0}],
        "words": ["maybe"],
    }
    with pytest.raises(UsageError) as raised:
        to_struct(data, Outer, "file.toml")
    lines = str(raised.value).splitlines()
    keys = ["nmae", "inner.size", "inner.mode", "inner.extra", "faults.0.for_s", "faults.1.for_s", "words.0", "name"]
    assert sorted(re.findall(r"'([\w.]+)'", line)[0] for line in lines) == sorted(keys), lines
    assert all(line.startswith("file.toml: ") for line in lines)
    assert data["inner"] == {"size": 0, "mode": "medium", "extra": 1}, "what was read stays as it is"


def test_wrong_value_of_a_needed_key_is_not_also_missing() -> None:
    assert "'inner.size'" in said({"name": "n", "inner": {"size": "big"}})
    assert "'inner'" in said({"name": "n", "inner": 3})


def test_a_good_table_becomes_the_struct():
    made = to_struct({**GOOD, "faults": [{"kind": "stall", "at_s": 1}], "words": ["no"]}, Outer, "file.toml")
    assert made == Outer("n", Inner(1), (Stall(1.0),), ("no",))


@pytest.mark.parametrize(
    ("change", "key", "found", "allowed"),
    [
        ({"nmae": "x"}, "'nmae'", "unknown key", "name, inner, faults, words, nested"),
        ({"inner": {"size": 1, "sise": 2}}, "'inner.sise'", "unknown key", "size, mode"),
        ({"inner": {"size": 0}}, "'inner.size'", "is 0", ">= 1"),
        ({"inner": {"size": "big"}}, "'inner.size'", "is 'big'", "expected int"),
        ({"inner": {"size": 1.5}}, "'inner.size'", "is 1.5", "expected int"),
        ({"inner": {"size": True}}, "'inner.size'", "is True", "expected int"),
        ({"inner": 3}, "'inner'", "is 3", "expected object"),
        ({"inner": {"size": 1, "mode": "quick"}}, "'inner.mode'", "is 'quick'", "fast, slow"),
        ({"inner": {}}, "'inner.size'", "is missing", ""),
        ({"faults": [{"kind": "cut"}]}, "'faults.0.at_s'", "is missing", ""),
        ({"faults": [{"kind": "cut", "at_s": 1}, {"kind": "burn", "at_s": 1}]}, "'faults.1.kind'", "'burn'", "cut, stall"),
        ({"faults": [{"at_s": 1}]}, "'faults.0.kind'", "is missing", ""),
        ({"faults": [{"kind": "cut", "at_s": 1, "for_s": 2}]}, "'faults.0.for_s'", "unknown key", "kind, at_s"),
        ({"faults": [{"kind": "stall", "at_s": 1, "to_s": 2}]}, "'faults.0.to_s'", "unknown key", "kind, at_s, for_s"),
        ({"faults": {"kind": "cut"}}, "'faults'", "kind", "expected array"),
        ({"words": ["yes", "perhaps"]}, "'words.1'", "'perhaps'", "yes, no"),
        ({"nested": [{"size": 1}, {"size": -4}]}, "'nested.1.size'", "is -4", ">= 1"),
        ({"nested": [{"size": 1}, {"size": 1, "moed": "fast"}]}, "'nested.1.moed'", "unknown key", "size, mode"),
        ({"nested": [{"size": 1}] * 3}, "'nested'", "size", "length <= 2"),
    ],
)
def test_a_mistake_is_named_with_its_key_what_was_found_and_what_is_allowed(change, key, found, allowed):
    sentence = said({**GOOD, **change})
    assert key in sentence
    assert found in sentence
    assert allowed in sentence


def test_a_missing_key_of_the_top_is_named():
    assert "'name' is missing" in said({"inner": {"size": 1}})


def test_a_missing_file_is_one_sentence(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.toml: no such file\.$"):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a = [1, ", "not valid TOML"), (b"a = 1\na = 2\n", "not valid TOML"), (b"\xff\xfe\x00a", "cannot be read")],
)
def test_a_file_that_is_not_toml_is_one_sentence(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as raised:
        read_toml(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(tmp_path)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a.b=2.5", {"a": {"b": 2.5}}),
        ("a = true", {"a": True}),
        ("a=word", {"a": "word"}),
        ('a="2"', {"a": "2"}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
        (" a.b = x ", {"a": {"b": "x"}}),
        ("faults.0.at_s=3", {"faults": [{"at_s": 3}, {"at_s": 2}]}),
        ("faults.1.for_s=4", {"faults": [{"at_s": 1}, {"at_s": 2, "for_s": 4}]}),
    ],
)
def test_set_reaches_any_key(assignment: str, expected: dict[str, Any]):
    data: dict[str, Any] = {"faults": [{"at_s": 1}, {"at_s": 2}]} if "faults" in assignment else {}
    set_key(data, assignment)
    assert data == expected


@pytest.mark.parametrize(
    "assignment", ["a", "=1", " = 1", "n.x=1", "n.x.y=1", "list.7.x=1", "list.x=1", "list.0=1", "a..b=1", "a.=1"]
)
def test_an_invalid_set_option_is_one_sentence(assignment: str):
    with pytest.raises(UsageError) as raised:
        set_key({"n": 1, "list": [{"x": 1}]}, assignment)
    assert str(raised.value).startswith(f"--set {assignment}: ")
