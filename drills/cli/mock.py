"""`stormgate mock`: serve the embedded mock service, and list its possible defects."""

from pathlib import Path
from typing import Annotated

import typer

from drills.cli import output
from drills.cli.options import Defect, Protocol, Set

mock_app = typer.Typer(help="Serve the embedded mock service.", no_args_is_help=True)


@mock_app.command("serve")
def mock_serve(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="Port, 0 to 65535. 0: a free one.", min=0, max=65535)] = 0,
    state: Annotated[Path | None, typer.Option(metavar="FILE", help="SQLite file for the log. Default: in memory.")] = None,
    defect: Defect = None,
    protocol: Protocol = None,
    profile: Annotated[str, typer.Option(metavar="PROFILE", help="Profile of the metrics endpoint: full or pinned.")] = "full",
    overrides: Set = None,
) -> None:
    """Serve the mock on one port until Ctrl-C.

    It is the control service, the HTTP authority and the WebSocket endpoint in one, and prints its address.
    """
    from drills.runs import running
    from sim.mock.server import ServeOptions, serve
    from sim.protocols import registry

    settings, switches, deployment = running.mock_settings([*(overrides or []), f"profile={profile}"], tuple(defect or ()))
    serve(
        ServeOptions(
            settings, switches, host, port, str(state or ""), deployment=deployment, protocol=protocol or registry.DEFAULT
        )
    )


@mock_app.command("defects")
def mock_defects() -> None:
    """List the defects that the mock can have."""
    from sim.server.settings import DEFECT_MEANINGS

    output.table(("defect", "what the mock does wrong"), DEFECT_MEANINGS.items())
