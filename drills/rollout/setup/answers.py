"""Judge what a command printed as a service's answer. `curl` and `jq` exit with 0 for an error answer, and for none at all."""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from sim.service import metrics

Answer = Literal["", "json", "metrics"]
_SHOWN_CHARS = 120
_WHOLE_BY_JQ = re.compile(r"\|\s*jq(\s+-[eSMC]+)*(\s+['\"]?\.['\"]?)?\s*$")
_START = re.compile(r"^[{\[]", re.MULTILINE)
_REASONS = {"no_json": "no JSON", "not_metrics": "no metrics of the sync service", "no_metrics": "none of its metrics"}


def expected(argv: Sequence[str], answer: Answer) -> Answer:
    """What a command must print: as it says, and JSON for a shell's line that ends by printing a whole answer with `jq`."""
    return answer or ("json" if _WHOLE_BY_JQ.search(argv[-1]) else "")


def trouble(said: bytes, answer: Answer) -> str:
    """Why the output is no evidence; empty if it is. An error answer never is, whatever the command should print."""
    text = said.decode("utf-8", "replace").strip()
    found = _document(text)
    if isinstance(found, dict) and any(found.get(key) for key in ("error", "errors")):
        return f"its output is an error answer: {_short(text)}"
    if answer and not found:
        return f"its output is no answer of a service ({_short(text) or 'it printed nothing'})"
    if answer == "metrics" and (outcome := metrics.read_metrics(json.dumps(found).encode()).outcome) != metrics.OK:
        return f"its output has {_REASONS.get(outcome, 'impossible numbers')}: {_short(text)}"
    return ""


def _document(text: str) -> Any:
    """The only JSON document of the output. Lines before it do not matter, such as a warning. None without one."""
    start = _START.search(text)
    try:
        return json.loads(text[start.start() :]) if start else None
    except (ValueError, RecursionError):
        return None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}..."
