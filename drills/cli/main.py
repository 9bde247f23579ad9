"""The command line. Slow imports are inside the commands, so that `stormgate --help` starts quickly."""

import os
import signal
import sys
from typing import Annotated

import typer

from drills.cli import output
from drills.cli.drill import compare, drill_app, judge
from drills.cli.gates import gates_app
from drills.cli.mock import mock_app
from drills.cli.options import RESULTS, AsJson, Out
from drills.cli.plan import plan_app
from drills.cli.rollback import rollback_app
from drills.cli.snapshot import snapshot
from drills.cli.stage import stage_app
from drills.cli.target import target_app
from sim.base.errors import StormgateError
from sim.base.exit_codes import ExitCode

DEBUG_VARIABLE = "STORMGATE_DEBUG"
_TYPER_INTERRUPTED = 130  # typer's exit code after Ctrl-C

app = typer.Typer(
    help="""Drill realtime services whose clients resume from a position, and decide whether a rollout may go on.

    Exit codes: 0 go, 1 no-go, 2 inconclusive, 3 wrong usage or configuration, 4 stormgate or the evidence failed.""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would read [brackets] in help texts as markup and remove them
)
app.command()(judge)
app.command()(compare)
app.command()(snapshot)
for name, group in {
    "drill": drill_app,
    "target": target_app,
    "mock": mock_app,
    "stage": stage_app,
    "gates": gates_app,
    "rollback": rollback_app,
    "plan": plan_app,
}.items():
    app.add_typer(group, name=name)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from drills.rollout.hold.rollouts import version

        print(f"stormgate {version()}".rstrip())
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def doctor(out: Out = RESULTS, as_json: AsJson = False) -> None:
    """Say what is missing on this machine, and what to do.

    Exits with 0 if drills can run here, else with 1. Changes nothing.
    """
    from drills.doctor import examination

    items = examination.examine(out)
    is_able = examination.is_able(items)
    if as_json:
        output.json_object({"schema": 1, "is_able": is_able, "items": items})
    else:
        output.sentences(*(item.line for item in items))
        output.lines("drills can run here" if is_able else "drills cannot run here")
    raise typer.Exit(ExitCode.GO if is_able else ExitCode.NO_GO)


def main() -> None:
    """Start the command line. SIGTERM ends a command as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run_words(sys.argv[1:]))


def run_words(arguments: list[str]) -> int:
    """Run the command line and return its exit code. Every expected error is one sentence on stderr."""
    try:
        code = int(app(arguments, prog_name="stormgate", standalone_mode=False) or 0)
        sys.stdout.flush()
    except StormgateError as error:
        return _complain(str(error), error.exit_code)
    except typer.TyperException as error:
        return _complain(_sentence(error), ExitCode.USAGE)
    except (BrokenPipeError, SystemExit) as error:  # typer exits after shell completion, and when stdout was closed
        if isinstance(error, SystemExit) and not error.code:
            return 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.TOOL
    except MemoryError as error:
        return _complain(f"this machine has too little memory ({error or 'out of memory'}); ask for less.", ExitCode.TOOL)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        what = f"{type(error).__name__}: {error}"
        return _complain(f"a defect of stormgate itself ({what}); set {DEBUG_VARIABLE}=1 to see where.", ExitCode.TOOL)
    return _complain("interrupted.", ExitCode.TOOL) if code == _TYPER_INTERRUPTED else code


def _sentence(error: typer.TyperException) -> str:
    """Typer's error message on one line. For a group without a command, print the help to stdout instead."""
    message = error.format_message()
    if message.startswith("Usage:"):
        print(message)
        return "name a command."
    return " ".join(message.split()).rstrip(".") + "."


def _complain(sentence: str, code: int) -> int:
    print(f"stormgate: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
