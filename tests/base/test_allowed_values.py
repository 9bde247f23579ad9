"""Every message that lists what is allowed lists exactly what is accepted."""

import re
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from drills.comparison import limits
from drills.rollout.setup import stages
from drills.rollout.setup.stages import Stages
from drills.runs import catalog, checking, targets
from drills.runs.target_forms import FORMS
from drills.runs.targets import Entry, PrometheusEntry
from drills.third_party import recipes
from sim.base.config import to_struct
from sim.base.errors import UsageError
from sim.client import backoff, policies
from sim.client.negative import registry as negative_clients
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.drill.target_rules import Hook, RevisionCommands, RollbackRules, Stop, StreamRules
from sim.protocols import registry as protocols
from sim.server.settings import RuntimeSettings
from sim.service.forms import SignInStep

FILES = (Drill, SystemModel, Stages, Entry, PrometheusEntry, Hook, RevisionCommands, RollbackRules, Stop, StreamRules)
TABLES = (*FILES, RuntimeSettings, SignInStep, *FORMS.values())
Wrap = Callable[[Any], Any]  # puts a value where it belongs in a table
Place = tuple[Any, list[str]]  # a table with one wrong value or key, and what is allowed in its place


def places(kind: Any, wrap: Wrap, above: tuple[type, ...] = ()) -> Iterator[Place]:
    """Each place of a type that has a list of allowed values or keys."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    parts, origin = get_args(kind), get_origin(kind)
    if origin is Literal:
        is_text = all(isinstance(value, str) for value in parts)
        yield wrap("no such value" if is_text else 987_654_321), [str(value) for value in parts]
    elif origin in (Union, types.UnionType):
        tagged = [part for part in parts if isinstance(part, type) and issubclass(part, msgspec.Struct)]
        if len(tagged) > 1:
            yield wrap({"kind": "no such value"}), [str(part.__struct_config__.tag) for part in tagged]
        for part in parts:
            yield from places(part, wrap, above)
    elif origin in (list, tuple):
        yield from places(parts[0], lambda value: wrap([value]), above)
    elif origin is dict:
        yield from places(parts[1], lambda value: wrap({"1": value}), above)
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in above:
        yield from keys_of(kind, wrap, (*above, kind))


def keys_of(kind: type[msgspec.Struct], wrap: Wrap, above: tuple[type, ...]) -> Iterator[Place]:
    tag = kind.__struct_config__
    tagged = {tag.tag_field: tag.tag} if tag.tag_field else {}
    yield wrap({**tagged, "no_such_key": 1}), [*map(str, tagged), *kind.__struct_encode_fields__]
    hints = get_type_hints(kind, include_extras=True)
    for field, key in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True):
        yield from places(hints[field], lambda value, key=key: wrap({**tagged, key: value}), above)  # type: ignore[misc]


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_every_table_lists_its_keys_and_values(kind: type[msgspec.Struct]) -> None:
    found = list(places(kind, lambda value: value))
    assert found
    for table, allowed in found:
        with pytest.raises(UsageError) as error:
            to_struct(table, kind, "f")
        assert f"; allowed here: {', '.join(allowed)}." in str(error.value), table


STAGES = stages.load(stages.DEFAULT_PATH)
NAMED: dict[str, tuple[Callable[[str], object], Iterable[str]]] = {
    "policy": (policies.get, policies.POLICIES | policies.WRONG),
    "backoff": (backoff.get, backoff.PRESETS),
    "negative client": (negative_clients.session_class, negative_clients.NEGATIVE_CLIENTS),
    "protocol": (protocols.get, protocols.names()),
    "server": (recipes.get, recipes.STARTED),
    "variant": (lambda name: recipes.check_variant(recipes.get("nats"), name), ["sane", *recipes.get("nats").variants]),
    "defect": (lambda name: checking.switches((name,), 1), checking.DEFECTS),
    "stage": (STAGES.require, STAGES.stages),
    "drill": (catalog.path_of, catalog.by_name()),
    "limit": (lambda name: limits.require_known(limits.parse([f"{name}=5"]), ["live_again_99_s", "n", "x_ms"], ["n"]), ()),
}


@pytest.mark.parametrize("what", NAMED)
def test_every_unknown_name_is_answered_with_all_that_are_accepted(what: str) -> None:
    read, known = NAMED[what]
    with pytest.raises(UsageError) as error:
        read("zqzqzqzq")
    listed = re.findall(
        r"[\w.-]+", re.split(r": |expected one of ", str(error.value))[-1].partition(", or give")[0].rstrip(".")
    )
    assert what == "limit" or set(listed) == set(known)
    assert listed
    for name in listed:
        read(name)


def test_targets_without_a_kind_are_not_offered(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    path.write_text('[targets.good]\nkind = "staging"\n[targets.bad]\nkind = "stagin"\n')
    with pytest.raises(UsageError, match="no target 'bad' with a kind; there are: good\\."):
        targets.kind_of(path, "bad")
    assert targets.kind_of(path, "good") == "staging"
