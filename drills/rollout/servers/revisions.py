"""Find the deployed revisions of control service and runtime, by the operators' commands or from the services.

A revision is one printable word. Any other output (empty, a sentence, a secret, an error) becomes an empty text, which means
unknown. An unknown revision never counts as unchanged.
"""

import asyncio

from drills.rollout.setup.commands import hook_environment
from drills.rollout.setup.records import Revisions
from drills.runs.targets import Target
from sim.base import operator_command
from sim.base.operator_command import Output
from sim.base.redaction import MARK, Redactor
from sim.drill.target_rules import RevisionCommands
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.fetch import fetch_now
from sim.engines.shared.metrics_book import page
from sim.service.metrics import OK, read_status, revision_of, word

LIMIT_S = 5.0  # [ours] time limit of one request, from connecting to the last byte
_MAX_OUTPUT_BYTES = 4096  # that are read of a command's output


def find(endpoints: Endpoints, entry: Target | None) -> Revisions:
    """The revisions of both services; empty if unknown."""
    finder = Finder(endpoints, entry)
    return Revisions(control=finder.control(), runtime=finder.runtime())


class Finder:
    """Finds the revisions of one target.

    If an operator's command fails, the service is not a substitute: it may name the same revision differently, which would look
    like a change.
    """

    def __init__(self, endpoints: Endpoints, entry: Target | None) -> None:
        self._endpoints = endpoints
        self._commands = entry.revisions if entry else RevisionCommands()
        self._redact = Redactor(endpoints.secrets)

    def control(self, said: str | None = None) -> str:
        """The control service's revision; `said` is its own answer, if it was asked immediately before."""
        if self._commands.control:
            return self._run(self._commands.control)
        if said is not None:
            return self._plain(said)
        form = self._endpoints.forms.status
        answer = fetch_now(*page(self._endpoints, form), LIMIT_S)
        return self._plain(read_status(answer.body, form).revision) if answer.outcome == OK else ""

    def runtime(self) -> str:
        """The runtime's revision."""
        if self._commands.runtime:
            return self._run(self._commands.runtime)
        form = self._endpoints.forms.health
        answer = fetch_now(*page(self._endpoints, form), LIMIT_S)
        return self._plain(revision_of(answer.body, form)) if answer.outcome == OK else ""

    def _run(self, command: list[str]) -> str:
        """The first word that a successful command prints; empty for any other."""
        output = Output(Redactor(()), _MAX_OUTPUT_BYTES)
        environment, limit_s = hook_environment(self._endpoints), self._commands.timeout_s
        run = operator_command.run(command, environment, limit_s, output, with_stderr=False, ends_all=True)
        try:
            code, _ = asyncio.run(run)
        except ValueError:  # such as a null byte in an argument
            return ""
        lines = output.content.decode("utf-8", "replace").splitlines() if code == 0 else []
        return self._plain(word(lines[0].strip())) if lines else ""

    def _plain(self, found: str) -> str:
        """The word; empty if it contains a secret, because two redacted revisions would look the same."""
        return found if found == self._redact.text(found) and MARK.decode() not in found else ""
