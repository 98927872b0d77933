"""Runs a page in headless Chromium, in frames of given sizes, without a server or a driver."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--virtual-time-budget=20000", "--dump-dom",
)  # fmt: skip
_RUNNER = """<!doctype html><meta charset="utf-8"><pre></pre><script>
async function measure(frame) { const page = frame.contentWindow; %s }
(async () => {
  const results = [];
  for (const [width, height] of %s) {
    const frame = Object.assign(document.createElement("iframe"), { width, height, style: "border: 0" });
    frame.srcdoc = %s;
    await new Promise((done) => { frame.onload = done; document.body.append(frame); });
    try { results.push(await measure(frame)); } catch (error) { results.push(String(error.stack)); }
    frame.remove();
  }
  document.querySelector("pre").textContent = JSON.stringify(results);
})();
</script>
"""


def run(page: str, script: str, sizes: Sequence[tuple[int, int]], folder: Path) -> list[Any]:
    """Returns what a script returns about a page, its window `page`, at each width and height.

    The script is the body of an asynchronous function. Skips the test if there is no Chromium.
    """
    if _CHROMIUM is None:
        pytest.skip("needs Chromium")
    file = folder / "runner.html"
    file.write_text(_RUNNER % (script, json.dumps(sizes), json.dumps(page).replace("</", "<\\/")))
    command = [_CHROMIUM, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", file.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = re.search("<pre>(.*?)</pre>", found.stdout, re.DOTALL)
    assert result, found.stderr
    return json.loads(html.unescape(result[1]))
