"""The examples in `deploy/`: their schemas, their command lines, and what tools decide by real exit codes and verdicts."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator

from drills.exports import server
from drills.exports.live import Live
from drills.exports.verdict import Verdict
from sim.base.exit_codes import ExitCode
from tests.commands import LIMIT_S, soon, started
from tests.served import serving

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCHEMAS = json.loads((ROOT / "tests" / "vectors" / "crds" / "schemas.json").read_text())
MANIFESTS = sorted(DEPLOY.glob("*/*.yaml"))
DRILL = """
name = "tiny"
summary = "Do all clients reconnect after a cut, with nothing lost?"
checks = ["ux.integrity"CHECKS]
faults = [{ kind = "drop_sockets", at_s = 0.2 }]
fleet = { clients = 15, connects_per_s = 40.0 }
load = { events_per_s = 40.0, run_streams = 1 }
phases = { steady_s = 1.0, steady_limit_s = 30.0, fault_s = 2.0, recovery_s = 0.5, settle_s = 10.0 }
"""
MORE = ', "replay.bootstrap_ms"'  # too few clients to decide it
# By outcome: further checks, and what the service does wrong.
OUTCOMES: dict[str, tuple[str, dict[str, Any]]] = {
    "go": ("", {}),
    "inconclusive": (MORE, {}),
    "no_go": ("", {"defects": ("alter_payloads",)}),
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def template(name: str) -> dict[str, Any]:
    (found,) = [each for path in MANIFESTS for each in documents(path) if each["metadata"]["name"] == name]
    return found


def metric_of(name: str) -> dict[str, Any]:
    (metric,) = template(name)["spec"]["metrics"]
    return dict(metric)


# --- schemas ------------------------------------------------------------------------------------------


def strict(schema: Any) -> Any:
    """The schema without unknown fields, which a server would drop in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items() if key != "format"}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not is_open:
        found["additionalProperties"] = False
    return found


def problems(document: dict[str, Any]) -> list[str]:
    schema = strict(SCHEMAS[document["kind"]])
    schema["properties"]["metadata"] = {"type": "object"}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_fits_its_published_schema(path: Path) -> None:
    for document in documents(path):
        assert problems(document) == []
        document["spec"]["no_such_field"] = 1
        assert problems(document), "the schema refuses nothing"


# --- what the tools decide ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """A drill that ran as in the Job: its exit code, and the verdict that it served at its end."""

    outcome: str
    code: int
    verdict: dict[str, Any]


def command_of(name: str, **arguments: str) -> list[str]:
    """The command line of a Job's container with the arguments of its template."""
    found = template(name)
    values = {each["name"]: each.get("value", "") for each in found["spec"]["args"]} | arguments
    pod = found["spec"]["metrics"][0]["provider"]["job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    line = [*container["command"], *container["args"]]
    return [re.sub(r"\{\{\s*args\.([\w-]+)\s*\}\}", lambda match: values[match[1]], word) for word in line]


@pytest.fixture(scope="module", params=OUTCOMES)
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder, (checks, wrong) = tmp_path_factory.mktemp("deploy"), OUTCOMES[request.param]
    (folder / "tiny.toml").write_text(DRILL.replace("CHECKS", checks))
    (folder / "targets.toml").write_text("")
    with serving(folder / "mock", **wrong) as mock:
        program, *line = command_of("stormgate-drill", drill=str(folder / "tiny.toml"), target=mock.url)
        mounted = {"/results": str(folder / "results"), "/etc/stormgate/targets.toml": str(folder / "targets.toml")}
        assert program == "stormgate"
        assert mounted.keys() <= {*line}
        options = ("--metrics-port", "0", "--metrics-linger", "300", "--json")
        with started(*(mounted.get(word, word) for word in line), *options) as process:
            assert process.stderr is not None
            address = re.search(r"verdict: (\S+)", process.stderr.readline())
            assert address is not None
            verdict = _final(address[1])
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LIMIT_S)
    return Ended(request.param, process.returncode, verdict)


def _final(url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def is_final() -> bool:
        time.sleep(0.2)
        found.update(httpx.get(url, trust_env=False, timeout=LIMIT_S).json())
        return found["state"] != "running"

    assert soon(is_final, 300.0)
    return found


def measured(metric: dict[str, Any], body: dict[str, Any]) -> str:
    """What Argo Rollouts makes of an answer, by `jsonPath` and the two conditions."""
    path = re.fullmatch(r"\{\$((?:\.\w+)+)\}", metric["provider"]["web"]["jsonPath"])
    assert path is not None
    result: Any = body
    for key in path[1].strip(".").split("."):
        result = result[key]
    holds = {name: bool(eval(metric[f"{name}Condition"], {"result": result})) for name in ("failure", "success")}
    return "Failed" if holds["failure"] else "Successful" if holds["success"] else "Inconclusive"


def test_job_passes_only_with_a_go(ended: Ended) -> None:
    assert ended.code == {"go": 0, "no_go": 1, "inconclusive": 2}[ended.outcome], ended.verdict
    assert ended.verdict["state"] == ended.outcome
    assert ended.verdict["exit_code"] == ended.code


def test_web_gate_passes_only_a_go_and_the_watch_fails_a_no_go(ended: Ended) -> None:
    gate, watch = (measured(metric_of(name), ended.verdict) for name in ("stormgate-gate", "stormgate-watch"))
    expected = {"go": ("Successful",) * 2, "no_go": ("Failed",) * 2, "inconclusive": ("Inconclusive",) * 2}
    assert (gate, watch) == expected[ended.outcome]


@contextmanager
def showing(code: ExitCode | None) -> Iterator[str]:
    live = Live(Verdict(kind="stage", rollout="november", stage="1"))
    if code is not None:
        live.concluded(code, "go" if code is ExitCode.GO else "no_go", "")
    with server.serving(live, server.LOOPBACK, 0) as url:
        yield url


@pytest.mark.parametrize(
    ("code", "gate", "watch"), [(None, "Inconclusive", "Successful"), (ExitCode.TOOL, "Inconclusive", "Inconclusive")]
)
def test_running_or_failed_tool_never_passes_the_gate(code: ExitCode | None, gate: str, watch: str) -> None:
    with showing(code) as url:
        for name, expected in (("stormgate-gate", gate), ("stormgate-watch", watch)):
            address = metric_of(name)["provider"]["web"]["url"].replace("{{args.url}}", url)
            assert measured(metric_of(name), httpx.get(address, trust_env=False).json()) == expected


def test_gate_that_never_gets_a_go_is_inconclusive() -> None:
    """Argo takes a metric that reached its count for successful unless a limit was exceeded before."""
    metric = metric_of("stormgate-gate")
    assert metric["inconclusiveLimit"] < metric["count"]
    assert (metric["failureLimit"], metric["consecutiveSuccessLimit"]) == (0, 1)
    for name in ("stormgate-drill", "stormgate-hold"):
        job = metric_of(name)
        assert (job["count"], job["failureLimit"], job["provider"]["job"]["spec"]["backoffLimit"]) == (1, 0, 0)


def test_hold_command_has_no_unknown_option() -> None:
    _, *line = command_of("stormgate-hold", rollout="none-such")
    done = subprocess.run([sys.executable, "-m", "drills", *line, "--dry-run"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "No such option" not in done.stderr
    assert "unlocked" in done.stdout, "it got as far as the check of the stage"


@pytest.mark.parametrize(
    ("code", "promotes", "rolls_back"),
    [(None, False, False), (ExitCode.GO, True, False), (ExitCode.NO_GO, False, True), (ExitCode.INCONCLUSIVE, False, False)],
)
def test_flagger_webhooks(code: ExitCode | None, promotes: bool, rolls_back: bool) -> None:
    hooks = {hook["type"]: hook["url"] for hook in template("sync")["spec"]["analysis"]["webhooks"]}
    payload = {"name": "sync", "namespace": "test", "phase": "Progressing", "checksum": "85d557f47b", "metadata": {}}
    with showing(code) as url:
        answers = {
            kind: httpx.post(address.replace("http://stormgate:9464", url), json=payload, trust_env=False).is_success
            for kind, address in hooks.items()
        }
    assert answers == {"confirm-promotion": promotes, "rollback": rolls_back}


# --- the image ------------------------------------------------------------------------------------------


def steps(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_image_installs_what_it_copies(tmp_path: Path) -> None:
    """Its COPY steps and its installation, without the dependencies, in a folder."""
    build, site = tmp_path / "build", tmp_path / "site"
    build.mkdir()
    for name, rest in steps(DEPLOY / "Dockerfile"):
        if name != "COPY":
            continue
        *sources, target = shlex.split(rest)
        for source in sources:
            assert (ROOT / source).exists(), source
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, build / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, build / target)
    (command,) = [rest for name, rest in steps(DEPLOY / "Dockerfile") if name == "RUN"]
    pip, *words = shlex.split(command)
    assert (pip, words[0], words[-1]) == ("pip", "install", ".[otel]")
    quiet = ("--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(site))
    subprocess.run([sys.executable, "-m", "pip", *words, *quiet], cwd=build, check=True)
    inside = {"PATH": "/usr/bin", "PYTHONPATH": str(site)}
    look = [sys.executable, "-P", "-m", "drills", "drill", "list"]
    listed = subprocess.run(look, cwd=tmp_path, env=inside, capture_output=True, text=True, check=True)
    assert "reconnect_storm" in listed.stdout
    where = [sys.executable, "-P", "-c", "import drills; print(drills.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=inside, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(site))


def test_image_is_built_with_care() -> None:
    found = steps(DEPLOY / "Dockerfile")
    names = [name for name, _ in found]
    assert names[0] == "FROM"
    assert {"ADD", "ARG", "ENV"}.isdisjoint(names), "nothing is fetched and no secret is kept"
    image = found[0][1]
    assert ":" in image, "a version is named"
    assert "/" not in image, "no registry is named"
    assert dict(found)["USER"] not in ("0", "root")
    assert json.loads(dict(found)["ENTRYPOINT"]) == ["stormgate"]
    assert "--no-cache-dir" in dict(found)["RUN"]
    assert "--constraint constraints.txt" in dict(found)["RUN"]
