"""Read the tables of a target that describe the forms of its requests, with what their templates need."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sim.base.config import to_struct
from sim.base.errors import UsageError
from sim.drill.target_rules import StreamRules, TargetKind
from sim.service.forms import PageForm, ReadBackForm, RequestForm, RevokeForm, ServiceForms, SignInStep, TokenForm
from sim.service.templates import SECRET_PREFIX, check, names_in

FORMS: dict[str, type[msgspec.Struct]] = {  # tables with the forms of the service's requests
    **{
        key: type(form)
        for key in ServiceForms.__struct_fields__
        if isinstance(form := getattr(ServiceForms(), key), msgspec.Struct)
    },
    "read_back": ReadBackForm,
}
USUAL_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")  # of an environment variable
_INTERPRETERS = re.compile(r"(ba|da|z)?sh|python[0-9.]*|node|perl|ruby")
SIGN_IN = "sign_in"  # a list of tables, one of each step


def table_of(tables: dict[str, object], key: str, where: str) -> dict[str, object]:
    """Return a table of a target, empty without one. `where` names the target in errors."""
    found = tables.get(key, {})
    if not isinstance(found, dict):
        raise UsageError(f"{where}: key '{key}' is {found!r}, but expected a table.")
    return found


def read_forms(tables: dict[str, object], streams: StreamRules, kind: TargetKind, where: str) -> ServiceForms:
    """Read the forms of a target's requests, and check the names in their templates."""
    found: dict[str, object] = {"create": None} if streams.names else {}
    if kind != "mock":
        found["revoke"] = None  # only what its file describes is ever asked to revoke sessions
    steps = found[SIGN_IN] = _sign_in(tables.get(SIGN_IN, []), where)
    signed_in = frozenset(name for step in steps for name in step.values)
    for key in FORMS.keys() & tables.keys():
        at = f"{where[:-1]}.{key}]"
        form = found[key] = to_struct(table_of(tables, key, where), FORMS[key], at)
        if isinstance(form, PageForm):
            form.check(at, signed_in if isinstance(form, TokenForm | RevokeForm) else ())
    for key in ("names", "created_by_publish"):
        if getattr(streams, key) and "create" in tables:
            raise UsageError(f"{where}: tables 'create' and 'streams' with '{key}' are both given; expected one of them.")
    if streams.names and streams.created_by_publish:
        raise UsageError(f"{where[:-1]}.streams]: keys 'names' and 'created_by_publish' are both given; expected one of them.")
    forms = ServiceForms(**found)  # type: ignore[arg-type]
    _require_source(forms, where)
    check(streams.topic, ("run_id",), f"{where[:-1]}.streams]: key 'topic'")
    return forms


def _sign_in(tables: object, where: str) -> tuple[SignInStep, ...]:
    """Read the steps of signing in, each of which may use values of earlier steps."""
    if not isinstance(tables, list):
        raise UsageError(f"{where}: key '{SIGN_IN}' is {tables!r}, but expected one table for each step: [[{SIGN_IN}]].")
    steps: list[SignInStep] = []
    for number, each in enumerate(tables, 1):
        at = f"{where[:-1]}.{SIGN_IN}] step {number}"
        if not isinstance(each, dict):
            raise UsageError(f"{at}: is {each!r}, but expected a table.")
        step = to_struct(each, SignInStep, at)
        step.check_values(at)
        step.check(at, [name for earlier in steps for name in earlier.values])
        steps.append(step)
    return tuple(steps)


def _require_source(forms: ServiceForms, where: str) -> None:
    """Raise `UsageError` for a source of tokens that lacks a key, or a command that cannot run on this machine."""
    at = f"{where[:-1]}.token]"
    require_program(forms.token.command, f"{at}: key 'command'")
    require_program(forms.status.command, f"{where[:-1]}.status]: key 'command'")
    for name, form in forms.pages.items():
        if isinstance(form, RequestForm):
            require_program(form.signing_command, f"{where[:-1]}.{name}]: key 'signing_command'")
    needed = {"command": forms.token.command, "signing_key": forms.token.signing_key_env and forms.token.claims}
    if not needed.get(forms.token.source, True):
        keys = "'command'" if forms.token.source == "command" else "'signing_key_env' and 'claims'"
        raise UsageError(f"{at}: source {forms.token.source!r} needs {keys}.")


def variables_of(forms: ServiceForms, where: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables in the forms' templates, by their names there."""
    names = {name for form in forms.pages.values() for _, template in form.templates() for name in names_in(template)}
    wanted = sorted(name for name in names if name.startswith(SECRET_PREFIX))
    return {name: secret_of(name.removeprefix(SECRET_PREFIX), f"{{{name}}}", where, environment) for name in wanted}


def require_program(command: list[str], key: str) -> None:
    """Raise `UsageError` for a command whose program, or the script of an interpreter, is not on this machine."""
    if not command:
        return
    program = shutil.which(command[0])
    if program is None:
        raise UsageError(f"{key} starts with {command[0]!r}, which is not an executable program on this machine.")
    script = command[1] if len(command) > 1 and _INTERPRETERS.fullmatch(Path(program).name) else "-"
    if not script.startswith("-") and not Path(script).is_file():
        raise UsageError(f"{key} runs {script!r}, which is not a file in this folder ({Path.cwd()}).")


def secret_of(variable: str | None, key: str, where: str, environment: Mapping[str, str]) -> str:
    """Return the secret in an environment variable; empty without a variable. Errors do not repeat it.

    Nor do they repeat a name that is not in capitals: it may be the secret itself, in the wrong place.
    """
    if variable is None:
        return ""
    found = environment.get(variable, "").strip()
    if not found and not USUAL_NAME.fullmatch(variable):
        raise UsageError(
            f"{where}: key '{key}' must be the name of an environment variable, such as STORMGATE_SESSION, and never the "
            "secret itself; there is no variable with this name, which is not shown here."
        )
    if not found:
        raise UsageError(f"{where}: key '{key}' names the environment variable {variable}, which is not set; set it.")
    if not found.isascii() or not found.isprintable():
        raise UsageError(
            f"{where}: key '{key}' names the environment variable {variable}, whose value is not valid in an HTTP header."
        )
    return found
