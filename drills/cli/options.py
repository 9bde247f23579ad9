"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[
    str,
    typer.Option(metavar="TARGET", help="mock, an address on this machine (http://HOST:PORT), or a name in the targets file."),
]
Targets = Annotated[Path | None, typer.Option(metavar="FILE", help="Targets file. Default: targets.toml in this folder.")]
Thresholds = Annotated[Path | None, typer.Option(metavar="FILE", help="Thresholds file. Default: the one stormgate ships.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write results to.")]
Rollout = Annotated[str, typer.Option(metavar="NAME", help="Name of the rollout. Default: the target's name.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done and exit with 2.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else.")]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the verdict as JUnit XML.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as load.events_per_s=50. Repeatable."),
]
Protocol = Annotated[str | None, typer.Option(metavar="PROTOCOL", help="Protocol of the mock, or of the simulated service.")]
Defect = Annotated[
    list[str] | None, typer.Option(metavar="DEFECT", help="Switch on a defect of the mock; see `mock defects`. Repeatable.")
]
MetricsPort = Annotated[
    int | None,
    typer.Option(metavar="PORT", min=0, max=65535, help="Serve live metrics and the verdict on this port; 0: any free one."),
]
MetricsHost = Annotated[str, typer.Option(metavar="HOST", help="Address to serve --metrics-port on.")]
MetricsLinger = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.0, help="Serve the final metrics and the verdict for so long after the end.")
]
OtlpEndpoint = Annotated[
    str, typer.Option(metavar="URL", help="Send traces to this OTLP collector (HTTP), such as http://127.0.0.1:4318.")
]
LOOPBACK = "127.0.0.1"
ExportOperators = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Also write the verdict in the forms of the operators' scripts, into a new or empty folder."
    ),
]
RESULTS = Path("results")
