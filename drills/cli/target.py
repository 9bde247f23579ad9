"""`stormgate target`: describe a target, try every item of its description, list targets, and start a third-party server."""

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drills.cli import output
from drills.cli.drill import Clients, Files, Seed, all_overrides, finish, load
from drills.cli.options import RESULTS, AsJson, Junit, Out, Set, Targets
from sim.base.errors import UsageError
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    from drills.runs.request import Request
    from drills.targets.check import Item
    from drills.third_party.running import Server
    from sim.drill.model import Drill

target_app = typer.Typer(help="Describe the services to drill, and check that.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the target in the targets file.")]

NamedAs = Annotated[str, typer.Option("--as", metavar="NAME", help="Name of its target. Default: the server's name.")]
DescribedIn = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Targets file to describe it in while it runs. Default: one in a temporary folder."),
]
Port = Annotated[int, typer.Option(metavar="PORT", help="Port of its runtime. Default: a free one.", min=0, max=65535)]


@target_app.command("new")
def target_new(
    name: Name,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="PROTOCOL", help="A protocol that `target protocols` lists. Default: as the mock."),
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


@target_app.command("protocols")
def target_protocols() -> None:
    """List the protocols that clients can speak."""
    from sim.protocols import registry

    rows = []
    for spoken in map(registry.get, registry.names()):
        can = spoken.capabilities
        renewal = can.renewal.value.replace("_", " ")
        simulated = "yes" if spoken.server is not None else "no"
        rows.append((spoken.name, can.positions.value, can.resuming_by.value, renewal, simulated))
    output.table(("protocol", "positions", "resumes by", "renews tokens", "simulated"), rows)


@target_app.command("servers")
def target_servers() -> None:
    """List the servers of `target up`, with variants."""
    from drills.third_party import recipes
    from drills.third_party.recipe import SANE

    rows = [("server", "variant", "what is set")]
    for recipe in map(recipes.get, recipes.STARTED):
        rows.append((recipe.name, SANE, f"{recipe.title} {recipe.version}: {recipe.says}"))
        rows += [(recipe.name, variant, what.says) for variant, what in recipe.variants.items()]
    output.table(rows[0], rows[1:])


@target_app.command("up")
def target_up(
    name: Annotated[str, typer.Argument(metavar="SERVER", help="A server that `target servers` lists.")],
    variant: Annotated[str, typer.Option(metavar="VARIANT", help="Its configuration: sane, or wrong in one setting.")] = "sane",
    drill: Annotated[
        list[str] | None,
        typer.Option(metavar="DRILL", help="Run this drill on it, then stop it. Repeatable. Default: run until Ctrl-C."),
    ] = None,
    clients: Clients = None,
    seed: Seed = 1,
    overrides: Set = None,
    target: NamedAs = "",
    targets: DescribedIn = None,
    port: Port = 0,
    out: Out = RESULTS,
    as_json: AsJson = False,
    junit: Junit = None,
) -> None:
    """Start a server here, and print its target.

    `practice` is the mock, described as a staging service. Others wrote the other servers, which `make servers` installs.
    With --drill, the exit code is that of the drills.
    """
    from drills.runs import running as runs
    from drills.runs.targets import check_name
    from drills.targets import new
    from drills.third_party.running import running

    chosen = load(drill, False, False, all_overrides(overrides, clients)) if drill else ()
    check_name(target or name)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as until_end:
        log = out / f"{target or name}.log"
        server = until_end.enter_context(running(name, variant, log=log, target=target, port=port))
        if targets is not None:
            until_end.enter_context(new.while_it_runs(targets, server.name, server.description))
        if not chosen:
            _wait(server, targets or server.targets_file)
            return
        run_dir = runs.run(_request(server, chosen, seed, out))
        finish(runs.conclude(run_dir), run_dir, as_json, Files(junit))


def _request(server: "Server", drills: "tuple[Drill, ...]", seed: int, out: Path) -> "Request":
    from drills.runs.request import Request

    return Request(
        drills=drills,
        engine="sockets",
        target=server.name,
        targets=server.targets_file,
        seed=seed,
        defects=(),
        thresholds=None,
        out=out,
    )


def _wait(server: "Server", targets: Path) -> None:
    """Say how to drill a server, and wait for Ctrl-C."""
    recipe = server.recipe
    output.lines(
        f"{recipe.title} {recipe.version} runs ({server.variant}); its log is {server.log}. In another terminal:",
        *(f"  export {name}={value}" for name, value in server.environment.items()),
        f"  stormgate drill run reconnect_storm --clients 25 --target {server.name} --targets {targets}",
        "Ctrl-C stops it.",
    )
    sys.stdout.flush()  # of a pipe, too: its reader waits for these lines
    try:
        signal.pause()
    except KeyboardInterrupt:
        output.lines("stopped")


def _print(item: "Item") -> None:
    output.lines(f"{item.name}: {item.state}" + (" (drills do not need it)" if item.state == "missing" else ""))
    facts = {"sent": item.sent, "answer": item.answer, "change": item.change}
    output.lines(*(f"  {fact} {text}" for fact, text in facts.items() if text))
