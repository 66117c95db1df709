"""A page as a headless Chromium shows it, for tests; they skip where there is none."""

import shutil
import subprocess
import tempfile

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def dom(url: str, wait_ms: int = 20_000, timeout_s: float = 120.0) -> str:
    """The document after its scripts have run for up to `wait_ms` of the page's own time."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no headless browser: none of {', '.join(NAMES)} is on the path")
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
            f"--virtual-time-budget={wait_ms}", "--window-size=1280,900", "--dump-dom", url,
        ]
        result = subprocess.run([program, *options], capture_output=True, text=True, timeout=timeout_s)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout
