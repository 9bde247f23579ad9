"""A headless Chromium for tests that look at pages."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

PEERS = Path(__file__).parent / "peers"
CHROMIUM, AXE = PEERS / "programs.sh", PEERS / "node_modules" / "axe-core" / "axe.min.js"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, installed if necessary; it ends with the body."""
    asked = subprocess.run(["bash", str(CHROMIUM)], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=asked.stdout.strip(), args=["--no-sandbox"])
        yield started
        started.close()


def serious_findings(page: Page) -> list[str]:
    """What axe finds on a page that keeps people from using it: its rule, and the first element."""
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run().then(result => result.violations)")
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]
