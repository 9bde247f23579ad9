"""A real Prometheus for tests: `tests/peers/prometheus.sh` fetches it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.commands import LIMIT_S, free_port, soon

SCRIPT = Path(__file__).parent / "peers" / "prometheus.sh"
PROGRAM = SCRIPT.parents[2] / ".peers" / "prometheus"


@contextlib.contextmanager
def prometheus(config: str, folder: Path) -> Iterator[str]:
    """Run it with this configuration and its data in `folder`; yields its address."""
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file, log, port = folder / "prometheus.yml", folder / "prometheus.log", free_port()
    file.write_text(config)
    url = f"http://127.0.0.1:{port}"
    arguments = (f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", "--log.level=warn")
    with log.open("w") as out:
        command = [str(PROGRAM), *arguments, f"--web.listen-address=127.0.0.1:{port}"]
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, env={**os.environ, "GOMAXPROCS": "1"})
    try:
        assert soon(lambda: process.poll() is not None or _is_ready(url), LIMIT_S), log.read_text()
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
