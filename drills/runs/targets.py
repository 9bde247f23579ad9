"""Targets: the embedded mock, a mock that already runs on this machine, or an entry of a targets file.

An entry of the file says where a service is, what a drill may do to it, and which environment variables hold its secrets.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args
from urllib.parse import SplitResult, urlsplit

import msgspec

from drills.runs.target_forms import FORMS, SIGN_IN, USUAL_NAME, read_forms, require_program, secret_of, table_of, variables_of
from sim.base.config import read_toml, to_struct
from sim.base.errors import UsageError
from sim.drill.fault_kinds import AnyFault
from sim.drill.target_rules import (
    Caps,
    Hook,
    MetricsProfile,
    RevisionCommands,
    RollbackHook,
    RollbackRules,
    Rules,
    Stop,
    StreamRules,
    TargetKind,
)
from sim.machine.processes import is_loopback
from sim.protocols import registry
from sim.protocols.adapter import Publishing
from sim.protocols.markers import PUBLISHED_AT
from sim.server.settings import Positive, RuntimeSettings
from sim.service.forms import ServiceForms
from sim.service.metric_names import KNOWN
from sim.service.paths import RETIRED, SOCKET_PATH
from sim.service.templates import SECRET_PREFIX, Pointer, names_in

if TYPE_CHECKING:
    from sim.engines.shared.endpoints import Endpoints

EMBEDDED = "mock"
DEFAULT_FILE = Path("targets.toml")
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
SocketPath = Annotated[str, msgspec.Meta(pattern=r"^/[A-Za-z0-9._~/-]*$")]
Route = Annotated[str, msgspec.Meta(pattern=r"^(GET|POST|PUT|PATCH|DELETE) /[!-~]*$", max_length=2000)]
Expression = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Subtables of a target, each with its own reader.
_TABLES = ("hooks", "stop", "revisions", "prometheus", "rollback", "streams", "service", "protocol_options", SIGN_IN, *FORMS)
_LIVE_EVERY_S = 5.0  # [ours] between polls of a live runtime's metrics


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[targets.NAME]`. An address is given here or by an environment variable, a secret only by a variable."""

    kind: TargetKind  # production allows only drills without faults
    runtime_url: str = ""  # base address of the runtime
    runtime_url_env: VariableName | None = None  # variable with that address, such as RUNTIME_BASE_URL
    control_url: str = ""  # base address of the control service
    control_url_env: VariableName | None = None  # variable with that address, such as CONTROL_BASE_URL
    admin_token_env: VariableName | None = (
        None  # variable with the token of the metrics endpoint; without it the endpoint is not polled
    )
    session_token_env: VariableName | None = None  # variable with the bearer token of the session for which tokens are minted
    protocol: str = registry.DEFAULT  # what the clients speak; `stormgate target new` lists the protocols
    socket: bool = True  # whether the service has a socket; without one, whatever needs clients does not run
    socket_path: SocketPath | None = None  # path of the WebSocket below the runtime; without it, that of the protocol's server
    # routes that the runtime no longer serves, such as "GET /old": they must answer 404; without the key, the mock's
    retired_routes: tuple[Route, ...] | None = None
    payload_at: Pointer = PUBLISHED_AT  # where the published payload stands in a delivered one
    metrics_profile: MetricsProfile = "full"  # metrics that the endpoint serves; none: it is not polled
    metrics_every_s: Positive = _LIVE_EVERY_S  # between two polls of the metrics endpoint
    caps: Caps | None = None


class PrometheusEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[targets.NAME.prometheus]`: a Prometheus server with metrics of the service."""

    url: str = ""  # base address
    url_env: VariableName | None = None  # variable with that address
    token_env: VariableName | None = None  # variable with a bearer token; without it none is sent
    max_age_s: Positive = 150.0  # [ours] older samples count as missing; allows two scrapes a minute apart, with some margin
    expressions: dict[str, Expression]  # PromQL by metric name; each must return one series


@dataclass(frozen=True)
class Prometheus:
    """The Prometheus of a target, with variables resolved."""

    url: str
    token: str = field(repr=False)
    max_age_s: float
    expressions: dict[str, str]


@dataclass(frozen=True)
class Target:
    """A named target, with variables resolved. Its repr has no secrets."""

    name: str
    entry: Entry
    rules: Rules
    runtime_url: str
    control_url: str
    admin_token: str
    session: str
    forms: ServiceForms = field(default_factory=ServiceForms)
    streams: StreamRules = field(default_factory=StreamRules)
    service: RuntimeSettings = field(default_factory=RuntimeSettings)
    protocol_options: dict[str, object] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict, repr=False)  # secrets of templates
    signing_key: str = field(default="", repr=False)
    revisions: RevisionCommands = field(default_factory=RevisionCommands)
    prometheus: Prometheus | None = None
    rollback: RollbackRules = field(default_factory=RollbackRules)

    @property
    def socket_path(self) -> str:
        """The path of the WebSocket below the runtime."""
        forms = registry.get(self.entry.protocol).server
        return self.entry.socket_path or (forms.wire.socket_path if forms and forms.wire else SOCKET_PATH)

    def __repr__(self) -> str:
        return f"Target({self.name}, {self.entry.kind}, {self.runtime_url}, {self.control_url})"


def read(path: Path, name: str, environment: Mapping[str, str] = os.environ) -> Target:
    """Read the target `name` of a file. Raises `UsageError` with file, key and what was expected."""
    check_name(name)
    targets = _tables(path)
    if name not in targets:
        raise UsageError(f"{path}: there is no target '{name}'; there are: {', '.join(targets)}.")
    return _target(path, name, targets[name], environment)


def unset_variables(path: Path, name: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables that a target names and that are not set: name -> key of the targets file.

    The key of a name that is not in capitals is left out: it may be a secret in the wrong place. Raises `UsageError`.
    """
    table = _tables(path).get(name)
    named = {found: key for key, text in _texts(table) for found in _variables(key, text)}
    return {
        found: key for found, key in named.items() if USUAL_NAME.fullmatch(found) and not environment.get(found, "").strip()
    }


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Each text of a table, with its key."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _texts(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, str):
        yield key, value


def _variables(key: str, text: str) -> list[str]:
    """The environment variables that a text of a targets file names."""
    in_template = [name.removeprefix(SECRET_PREFIX) for name in names_in(text) if name.startswith(SECRET_PREFIX)]
    return [text, *in_template] if key.endswith("_env") else in_template


def listed(path: Path) -> dict[str, tuple[str, str, str]]:
    """Return kind, protocol and runtime of each target of a file. Raises `UsageError`."""
    found = {}
    for name, table in _tables(path).items():
        facts = table if isinstance(table, dict) else {}
        runtime = facts.get("runtime_url") or f"${facts.get('runtime_url_env', '')}"
        found[name] = (str(facts.get("kind", "")), str(facts.get("protocol", registry.DEFAULT)), str(runtime))
    return found


def kind_of(path: Path, name: str) -> TargetKind:
    """Return the kind of a target, without reading the rest of its description. Raises `UsageError`."""
    kinds = {other: facts[0] for other, facts in listed(path).items() if facts[0] in get_args(TargetKind)}
    if name not in kinds:
        raise UsageError(f"{path}: there is no target '{name}' with a kind; there are: {', '.join(kinds)}.")
    return cast("TargetKind", kinds[name])


def check_name(name: str) -> None:
    """Raise `UsageError` for an impossible name of a target."""
    if not _NAME.fullmatch(name):  # the error does not repeat the name, which may be a secret
        raise UsageError("--target: expected 'mock', or an address such as http://127.0.0.1:8080, or a target's name.")


def _tables(path: Path) -> dict[str, object]:
    tables = read_toml(path)
    if unknown := [key for key in tables if key != "targets"]:
        raise UsageError(f"{path}: unknown key '{unknown[0]}'; expected one table per target, such as [targets.staging].")
    targets = tables.get("targets")
    if not isinstance(targets, dict) or not targets:
        raise UsageError(f"{path}: has no targets; expected one table per target, such as [targets.staging].")
    if EMBEDDED in targets:
        raise UsageError(f"{path}: key 'targets.{EMBEDDED}' is reserved for the embedded mock; rename that target.")
    return targets


def _target(path: Path, name: str, table: object, environment: Mapping[str, str]) -> Target:
    where = f"{path}: [targets.{name}]"
    if not isinstance(table, dict):
        raise UsageError(f"{path}: key 'targets.{name}' is {table!r}, but a target is a table.")
    _require_readable(table, where, environment)
    entry = _entry(table, where)
    stop = _stop(table.get("stop", {}), where)
    streams = to_struct(table_of(table, "streams", where), StreamRules, f"{where[:-1]}.streams]")
    forms = read_forms(table, streams, entry.kind, where)
    _require_publishing(entry, forms, where)
    _require_live(entry, stop, forms, where)
    _require_options(registry.get(entry.protocol), table_of(table, "protocol_options", where), where)
    return Target(
        name=name,
        entry=entry,
        rules=Rules(
            caps=entry.caps,
            stop=stop,
            hooks=_hooks(table.get("hooks", {}), where),
            metrics_profile=entry.metrics_profile,
            metrics_every_s=entry.metrics_every_s,
        ),
        runtime_url=_url(entry.runtime_url, entry.runtime_url_env, "runtime_url", where, environment),
        control_url=_url(entry.control_url, entry.control_url_env, "control_url", where, environment),
        admin_token=secret_of(entry.admin_token_env, "admin_token_env", where, environment),
        session=secret_of(entry.session_token_env, "session_token_env", where, environment),
        forms=forms,
        streams=streams,
        service=to_struct(table_of(table, "service", where), RuntimeSettings, f"{where[:-1]}.service]"),
        protocol_options=table_of(table, "protocol_options", where),
        variables=variables_of(forms, where, environment),
        signing_key=secret_of(forms.token.signing_key_env or None, "token.signing_key_env", where, environment),
        revisions=_revisions(table.get("revisions", {}), where),
        prometheus=_prometheus(table["prometheus"], where, environment) if "prometheus" in table else None,
        rollback=_rollback(table.get("rollback", {}), where),
    )


def _entry(table: dict[str, object], where: str) -> Entry:
    return to_struct({key: value for key, value in table.items() if key not in _TABLES}, Entry, where)


def _require_readable(table: dict[str, object], where: str, environment: Mapping[str, str]) -> None:
    """Raise `UsageError` with a line for each table that cannot be read, so that nobody has to correct them one by one."""
    readers: list[Callable[[], object]] = [
        lambda: _entry(table, where),
        lambda: _stop(table.get("stop", {}), where),
        lambda: _hooks(table.get("hooks", {}), where),
        lambda: _revisions(table.get("revisions", {}), where),
        lambda: _rollback(table.get("rollback", {}), where),
        *([lambda: _prometheus(table["prometheus"], where, environment)] if "prometheus" in table else []),
    ]
    structs: dict[str, type[msgspec.Struct]] = {"streams": StreamRules, "service": RuntimeSettings, **FORMS}
    for key in [key for key in structs if key in table]:
        readers.append(lambda key=key: to_struct(table_of(table, key, where), structs[key], f"{where[:-1]}.{key}]"))  # type: ignore[misc]
    mistakes = []
    for read_one in readers:
        try:
            read_one()
        except UsageError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UsageError("\n".join(mistakes))


def _require_options(protocol: registry.Protocol, options: dict[str, object], where: str) -> None:
    """Raise `UsageError` for options that the protocol does not have; a connection would find them only during a run."""
    try:
        protocol.new_connection(registry.ConnectionOptions("ws://localhost/", options))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _require_live(entry: Entry, stop: Stop, forms: ServiceForms, where: str) -> None:
    """Raise `UsageError` for missing or contradictory keys of a live target."""
    if entry.kind != "mock":
        if entry.caps is None:
            raise UsageError(f"{where}: key 'caps' is missing; a target of kind {entry.kind} needs [targets.NAME.caps].")
        if entry.session_token_env is None and forms.shares_session:
            raise UsageError(
                f"{where}: key 'session_token_env' is missing; expected the name of the environment variable that holds the "
                "session to mint tokens with."
            )
    needs_token = "admin_token" in names_in(forms.metrics.headers) and entry.admin_token_env is None
    if stop.needs_metrics and (needs_token or entry.metrics_profile == "none"):
        raise UsageError(
            f"{where}: key 'stop' has conditions on the metrics endpoint, which is read only with 'admin_token_env' and a "
            "'metrics_profile' of full or pinned."
        )


def _require_publishing(entry: Entry, forms: ServiceForms, where: str) -> None:
    """Raise `UsageError` if events are to be published over a protocol that cannot do it."""
    if forms.publish.over == "protocol" and not entry.socket:
        raise UsageError(f"{where}: key 'publish.over' is 'protocol', which needs a socket, but 'socket' is false.")
    if forms.publish.over == "protocol" and registry.get(entry.protocol).capabilities.publishing is not Publishing.PROTOCOL:
        raise UsageError(
            f"{where[:-1]}.publish]: key 'over' is 'protocol', but clients of '{entry.protocol}' cannot publish. "
            "Leave it out, and describe the HTTP request."
        )


def _stop(table: object, where: str) -> Stop:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: key 'stop' is {table!r}, but expected a table.")
    above = table.get("metrics_above", {})
    if isinstance(above, dict):  # convert one by one: an error of the whole struct could not name the metric
        for name, limit in above.items():
            if isinstance(limit, bool) or not isinstance(limit, int | float):
                raise UsageError(
                    f"{where}: key 'stop.metrics_above.{name}' is {limit!r}, but expected a number; a metric's name is "
                    'written in quotes, as "delivery.max_replay_lag" = 900.'
                )
    return to_struct(dict(table), Stop, f"{where[:-1]}.stop]")


def _hooks(tables: object, where: str) -> dict[str, Hook]:
    from sim.engines.shared.permission import ACTS_FROM_HERE

    if not isinstance(tables, dict):
        raise UsageError(f"{where}: key 'hooks' is {tables!r}, but expected one table per fault kind.")
    kinds = {str(fault.__struct_config__.tag): issubclass(fault, ACTS_FROM_HERE) for fault in get_args(AnyFault)}
    ours = [kind for kind, from_here in kinds.items() if from_here]
    hooks = {}
    for kind, table in tables.items():
        at = f"{where[:-1]}.hooks.{kind}]"
        if kind in ours or kind not in kinds:
            why = "stormgate does it by itself" if kind in ours else "there is no such fault"
            raise UsageError(f"{at}: {why}; hooks are for: {', '.join(kind for kind in kinds if kind not in ours)}.")
        if not isinstance(table, dict):
            raise UsageError(f"{at}: is {table!r}, but expected a table with 'inject' and 'revert'.")
        hook = hooks[kind] = to_struct(table, Hook, at)
        for key, command in (("inject", hook.inject), ("revert", hook.revert)):
            require_program(command, f"{at}: key '{key}'")
    return hooks


def _revisions(table: object, where: str) -> RevisionCommands:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: key 'revisions' is {table!r}, but expected a table with 'control' and 'runtime'.")
    at = f"{where[:-1]}.revisions]"
    commands = to_struct(table, RevisionCommands, at)
    for key, command in (("control", commands.control), ("runtime", commands.runtime)):
        if key in table and not command:
            raise UsageError(f"{at}: key '{key}' is empty; expected a program and its arguments, or no such key.")
        require_program(command, f"{at}: key '{key}'")
    return commands


def _prometheus(table: object, where: str, environment: Mapping[str, str]) -> Prometheus:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: key 'prometheus' is {table!r}, but expected a table with 'url' and 'expressions'.")
    at = f"{where[:-1]}.prometheus]"
    expressions = table.get("expressions", {})
    for name, expression in expressions.items() if isinstance(expressions, dict) else ():
        if not isinstance(expression, str) or not expression.strip():
            raise UsageError(
                f"{at}: key 'expressions.{name}' is {expression!r}, but expected a PromQL expression as text; a metric's name "
                'is written in quotes, as "mirror.failed_total" = "sum(publish_failures_total)".'
            )
        if name not in KNOWN:
            raise UsageError(f"{at}: key 'expressions.\"{name}\"': unknown metric; choose from: {', '.join(KNOWN)}.")
    entry = to_struct(table, PrometheusEntry, at)
    if not entry.expressions:
        raise UsageError(f"{at}: key 'expressions' is empty; expected one expression per metric.")
    return Prometheus(
        url=_url(entry.url, entry.url_env, "url", at, environment),
        token=secret_of(entry.token_env, "token_env", at, environment),
        max_age_s=entry.max_age_s,
        expressions=dict(entry.expressions),
    )


def _rollback(table: object, where: str) -> RollbackRules:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: key 'rollback' is {table!r}, but expected a table with 'traffic', 'throttle' and 'cohort'.")
    at = f"{where[:-1]}.rollback]"
    for name in ("traffic", "throttle", "cohort"):
        if name in table and not isinstance(table[name], dict):
            raise UsageError(f"{at}: key '{name}' is {table[name]!r}, but expected a table with 'apply' and 'restore'.")
    rules = to_struct(table, RollbackRules, at)
    require_program(rules.check, f"{at}: key 'check'")
    hooks: dict[str, RollbackHook | None] = {"traffic": rules.traffic, "throttle": rules.throttle, "cohort": rules.cohort}
    for name, hook in hooks.items():
        if hook is not None:
            require_program(hook.apply, f"{at}: key '{name}.apply'")
            require_program(hook.restore, f"{at}: key '{name}.restore'")
    return rules


def _url(given: str, variable: str | None, key: str, where: str, environment: Mapping[str, str]) -> str:
    """A base address without a final slash. Errors do not repeat the address, which may contain a secret."""
    if bool(given) == (variable is not None):
        what = "are both given" if given else "are both missing"
        raise UsageError(f"{where}: keys '{key}' and '{key}_env' {what}; expected one of them.")
    if variable is not None:
        given = environment.get(variable, "")
        key = f"{key}_env"
        if not given:
            raise UsageError(f"{where}: key '{key}' names the environment variable {variable}, which is not set; set it.")
    parts = _parts(given)
    if parts is None:
        raise UsageError(f"{where}: key '{key}' is not an address such as https://runtime.staging.example.com.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(f"{where}: key '{key}' must have no user, no query and no fragment; expected a base address.")
    return given.rstrip("/")


def _parts(given: str) -> SplitResult | None:
    try:
        parts = urlsplit(given)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if fits and given.isascii() and given.isprintable() and " " not in given else None


# --- what `--target` names ---------------------------------------------------------------------------


def resolve(target: str, file: Path | None = None, environment: Mapping[str, str] = os.environ) -> "Endpoints | None":
    """The endpoints that `--target` names; None for the embedded mock, which is started for the run.

    `environment` has the secrets. `file` is the targets file, by default `targets.toml` in the working directory. Raises
    `UsageError` for anything but `mock`, an http address on this machine, and a name in that file. So nothing else can be
    reached.
    """
    if target == EMBEDDED:
        return None
    parts = _address_parts(target)
    return _address(parts) if parts is not None else _named(target, file, environment)


def _named(name: str, file: Path | None, environment: Mapping[str, str]) -> "Endpoints":
    from sim.engines.shared.endpoints import Endpoints  # imported late: the help text does not need it

    if file is None and not DEFAULT_FILE.exists():
        raise UsageError(
            f"--target: expected '{EMBEDDED}', or an address such as http://127.0.0.1:8080, or a name of {DEFAULT_FILE}, which "
            "is not in this folder; give that file with --targets."
        )
    found = read(file or DEFAULT_FILE, name, environment)
    return Endpoints(
        name=found.name,
        kind=found.entry.kind,
        runtime_url=found.runtime_url,
        control_url=found.control_url,
        session=found.session,
        admin_token=found.admin_token,
        signing_key=found.signing_key,
        protocol=found.entry.protocol,
        protocol_options=found.protocol_options,
        socket_path=found.socket_path,
        has_socket=found.entry.socket,
        rules=found.rules,
        forms=found.forms,
        streams=found.streams,
        service=found.service,
        payload_pointer=found.entry.payload_at,
        retired_routes=RETIRED if found.entry.retired_routes is None else found.entry.retired_routes,
        variables=found.variables,
        further_secrets=(found.prometheus.token,) if found.prometheus else (),
    )


def _address(parts: SplitResult) -> "Endpoints":
    """The endpoints of a mock that already runs on this machine."""
    from sim.engines.shared.endpoints import Endpoints
    from sim.mock.server import admin_token

    shown = f"--target {parts.scheme}://{parts.hostname}"  # the rest may contain a secret
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UsageError(f"{shown}: the port must be a number from 1 to 65535.")
    if not is_loopback(str(parts.hostname)):
        raise UsageError(f"{shown}: an address must be on this machine; give other targets a name in a targets file.")
    if parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise UsageError(f"{shown}: give only scheme, host and port.")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    url = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    return Endpoints(name=url, kind="mock", runtime_url=url, control_url=url, admin_token=admin_token())


def _address_parts(target: str) -> SplitResult | None:
    """The parts of an http address; None for anything else."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None
