"""Options that several commands take, in the same words."""

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[str, typer.Option(help="'mock' starts one; or an address on this machine; or a live target's name.")]
Targets = Annotated[Path | None, typer.Option(help="File of live targets; without it, targets.toml in this folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
