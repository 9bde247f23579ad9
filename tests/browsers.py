"""A headless Chromium for tests that look at pages."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = Path(__file__).parent / "peers" / "chromium.sh"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, installed if necessary; it ends with the body."""
    asked = subprocess.run(["bash", str(CHROMIUM)], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=asked.stdout.strip(), args=["--no-sandbox"])
        yield started
        started.close()
