"""`stormgate target`: describe a target, try every item of its description, and list targets."""

from typing import TYPE_CHECKING, Annotated

import typer

from drills.cli import output
from drills.cli.options import AsJson, Targets
from sim.base.errors import UsageError
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    from drills.targets.check import Item

target_app = typer.Typer(help="Describe the services to drill, and check that.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the target in the targets file.")]


@target_app.command("new")
def target_new(
    name: Name,
    protocol: Annotated[
        str | None, typer.Option(metavar="PROTOCOL", help="What the clients speak; by default as the mock.")
    ] = None,
    targets: Targets = None,
) -> None:
    """Add an annotated description to the targets file."""
    from drills.runs.targets import DEFAULT_FILE
    from drills.targets import new
    from sim.protocols.registry import DEFAULT

    path = targets or DEFAULT_FILE
    new.write(path, name, protocol or DEFAULT)
    output.lines(f"{path}: wrote [targets.{name}]. Edit it, then run: stormgate target check {name} --targets {path}")


@target_app.command("check")
def target_check(
    name: Annotated[str, typer.Argument(metavar="TARGET", help="A name in the targets file, or an address on this machine.")],
    targets: Targets = None,
    as_json: AsJson = False,
) -> None:
    """Try every item of a target's description once.

    Says for each what was sent, what came back and what to change. Publishes two events. Exits with 0 if every item works, with
    1 if one fails, and with 2 if one could not be tried.
    """
    from drills.runs.targets import resolve
    from drills.targets.check import check

    endpoints = resolve(name, targets)
    if endpoints is None:
        raise UsageError("TARGET: the embedded mock needs no check; name a target of the targets file.")
    items = check(endpoints, say=(lambda item: None) if as_json else _print)
    states = {item.state for item in items}
    code = ExitCode.NO_GO if "fail" in states else ExitCode.INCONCLUSIVE if "not_run" in states else ExitCode.GO
    if as_json:
        output.json_object({"schema": 1, "target": endpoints.name, "items": items})
    else:
        output.lines(f"{endpoints.name}: {'ready to be drilled' if code == ExitCode.GO else 'not ready'}")
    raise typer.Exit(code)


@target_app.command("list")
def target_list(targets: Targets = None) -> None:
    """List the targets of the targets file."""
    from drills.runs.targets import DEFAULT_FILE, listed

    rows = [(name, *facts) for name, facts in listed(targets or DEFAULT_FILE).items()]
    output.table(("target", "kind", "protocol", "runtime"), rows)


def _print(item: "Item") -> None:
    output.lines(f"{item.name}: {item.state}")
    facts = {"sent": item.sent, "answer": item.answer, "change": item.change}
    output.lines(*(f"  {fact} {text}" for fact, text in facts.items() if text))
