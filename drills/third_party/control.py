"""Asks a running third-party server for an action: `python -m drills.third_party.control SOCKET ACTION`. Hooks call it.

The parameters of the fault come from the hook's environment variables, and `input` is the input of `inject`.
What the action reports is printed as JSON.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from sim.base.operator_command import PREFIX

SOCKET = "control"  # in the server's folder
_ANSWER_S = 60.0  # [ours] an action may restart the server


def command(path: Path) -> tuple[str, ...]:
    """Return the command line, to which an action is to be added."""
    return (sys.executable, "-P", "-m", "drills.third_party.control", str(path))


def ask(path: str, action: str, environment: Mapping[str, str]) -> str:
    """Ask for an action, wait until it is done and print its report; return what went wrong, or nothing."""
    parameters = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)}
    if parameters.get("action") == "inject":
        parameters["input"] = sys.stdin.read()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_S)
        try:
            connection.connect(path)
            connection.sendall(json.dumps([action, parameters]).encode() + b"\n")
            answer = connection.makefile().readline()
        except OSError as error:
            return f"{path}: the server cannot be reached ({error}). It runs only as long as `stormgate target up`."
    try:
        said = json.loads(answer)
        if report := said.get("report"):
            print(json.dumps(report))
        return str(said["error"])
    except (ValueError, KeyError):
        return f"{path}: the server ended without an answer."


if __name__ == "__main__":
    if problem := ask(sys.argv[1], sys.argv[2], os.environ):
        print(problem, file=sys.stderr)
        sys.exit(1)
