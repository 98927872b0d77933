"""The demo's server, with requests from its own page and from others; and the page, in a browser if there is one."""

import contextlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from digits_jax.apps import demo
from digits_jax.apps.reader import Page, Reading, find_digits
from digits_jax.studies.drawings import draw
from tests import browser
from tests.conftest import ROOT

if TYPE_CHECKING:
    from flask.testing import FlaskClient

pytest.importorskip("flask")


class FakeReader:
    """Predicts a three for whatever it finds."""

    description = "a <model>"
    model = SimpleNamespace(num_classes=10)

    def read(self, pixels: np.ndarray) -> Page:
        probabilities = np.eye(10, dtype=np.float32)[3]
        return Page([Reading(digit.image, digit.box, probabilities, None) for digit in find_digits(pixels)], [])


@pytest.fixture
def client() -> "FlaskClient":
    return demo.create_app(FakeReader(), address="127.0.0.1").test_client()  # type: ignore[arg-type]


def png(symbols: str = "3") -> bytes:
    file = io.BytesIO()
    draw(symbols, size=(200, 100), paper="#ffffff", ink="#000000", height=80, width=7).save(file, "PNG")
    return file.getvalue()


def ask(client: "FlaskClient", body: bytes, **headers: str) -> tuple[int, dict]:
    every = {
        "Host": "127.0.0.1:8501",
        "Content-Type": "image/png",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    response = client.post("/predict", data=body, headers=every)
    return response.status_code, response.get_json()


def test_a_drawing_is_read(client: "FlaskClient") -> None:
    status, answer = ask(client, png("31"), Origin="http://127.0.0.1:8501", Sec_Fetch_Site="same-origin")
    assert status == 200
    assert [digit["digit"] for digit in answer["digits"]] == [3, 3]
    first = answer["digits"][0]
    assert first["probabilities"] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert len(first["image"]) == 784
    assert max(first["image"]) == 255
    assert first["warning"] is None
    left, top, right, bottom = first["box"]
    assert 0 < left < right < answer["digits"][1]["box"][0]
    assert bottom - top == pytest.approx(80, abs=10)
    assert ask(client, png("")) == (200, {"digits": []})


def test_the_page_loads_nothing_from_elsewhere(client: "FlaskClient") -> None:
    response = client.get("/", headers={"Host": "localhost:8501"})
    page = response.get_data(as_text=True)
    assert "a &lt;model&gt;" in page
    assert not re.findall(r"""(?:src|href|action)\s*=|url\(|https?:|@import""", page)
    policy = response.headers["Content-Security-Policy"]
    # The served page has the hashes that the policy allows, and no style or script outside of these blocks.
    assert demo.content_security_policy(page) == policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert not re.findall(r"""\s(?:style|on\w+)\s*=\s*["']""", page)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        ({"Host": "evil.example:8501"}, b"", 403, "The Host header does not name this server."),
        ({"Host": "127.0.0.1.evil.example"}, b"", 403, "The Host header does not name this server."),
        ({"Host": ""}, b"", 403, "The Host header does not name this server."),
        ({"Host": "[::1"}, b"", 403, "The Host header does not name this server."),
        ({"Origin": "http://evil.example"}, b"", 403, "The request comes from another site's page."),
        ({"Origin": "null"}, b"", 403, "The request comes from another site's page."),
        ({"Origin": "http://127.0.0.1:9999"}, b"", 403, "The request comes from another site's page."),
        ({"Sec_Fetch_Site": "cross-site"}, b"", 403, "The request comes from another site's page."),
        ({"Sec_Fetch_Site": "same-site"}, b"", 403, "The request comes from another site's page."),
        ({"Content_Type": "text/plain"}, b"", 415, "The picture has type 'text/plain': expected 'image/png'."),
        ({}, b"", 400, "the picture is empty: expected a picture"),
        ({}, b"\x89PNG\r\n\x1a\nxx", 400, "the picture is not a picture"),
        ({}, bytes(1_000_001), 413, "The data value transmitted exceeds the capacity limit."),
    ],
)
def test_requests_that_are_refused(
    client: "FlaskClient", headers: dict[str, str], body: bytes, status: int, message: str
) -> None:
    found, answer = ask(client, body, **headers)
    assert (found, answer["error"][: len(message)]) == (status, message)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("POST", "/", 405), ("GET", "/x", 404)]
)
def test_there_is_nothing_else(client: "FlaskClient", method: str, path: str, status: int) -> None:
    response = client.open(path, method=method, headers={"Host": "localhost"})
    assert response.status_code == status
    assert "Content-Security-Policy" in response.headers


def test_names_of_a_server_on_all_addresses() -> None:
    assert demo.is_own_name("192.0.2.7:8501", "0.0.0.0")
    assert demo.is_own_name("[2001:db8::1]:8501", "::")
    assert not demo.is_own_name("192.0.2.7:8501", "127.0.0.1")
    assert not demo.is_own_name("evil.example", "0.0.0.0")
    assert demo.is_own_name("Digits.example:80", "digits.example")


def luminance(color: str) -> float:
    """Returns the relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_in_light_and_dark(client: "FlaskClient") -> None:
    page = client.get("/", headers={"Host": "localhost:8501"}).get_data(as_text=True)
    colors = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", page)}
    least = {"text": 4.5, "quiet": 4.5, "accent": 4.5, "warning": 4.5, "line": 3}
    assert colors.keys() == {"page", "panel", *least}
    for scheme, name, surface in product((0, 1), least, ("page", "panel")):
        low, high = sorted(luminance(colors[part][scheme]) for part in (name, surface))
        assert (high + 0.05) / (low + 0.05) >= least[name], (name, surface, scheme)


# Draws strokes, which the server answers with given digits, and selects the first of them.
_DRAW = """
  const { document } = page, paper = document.getElementById("paper");
  const text = (id) => document.getElementById(id).textContent;
  const texts = (selector) => [...document.querySelectorAll(selector)].map((cell) => cell.textContent);
  const pause = () => new Promise((done) => setTimeout(done, 100));
  paper.setPointerCapture = () => {};  // there is no such pointer
  page.HTMLCanvasElement.prototype.toBlob = (done) => done(new Blob());  // virtual time does not wait for it
  async function draw(...digits) {
    const answer = digits.map(([digit, height, warning = null]) => ({
      digit, warning, box: [0, 0, 9, height], image: Array(784).fill(0),
      probabilities: Array.from({ length: 10 }, (_, i) => i === digit ? 0.82 : 0.02),
    }));
    page.fetch = async () => ({ ok: true, json: async () => ({ digits: answer }) });
    const { left, top } = paper.getBoundingClientRect();
    for (const [type, x] of [["pointerdown", 20], ["pointermove", 60], ["pointerup", 60]]) {
      const position = { clientX: left + x, clientY: top + x, isPrimary: true };
      paper.dispatchEvent(new page.PointerEvent(type, position));
    }
    await pause();
    const found = ["prediction", "message", "inputs-title"].map(text);
    document.querySelector("#inputs button")?.click();
    return [...found, text("message"), texts("#bars td:last-child")];
  }
  const first = text("message"), readings = [];
  for (const digits of %s) readings.push(await draw(...digits));
  const boxes = [...document.querySelectorAll("#paper, #inputs button")].map((part) => part.getBoundingClientRect());
  document.dispatchEvent(new page.KeyboardEvent("keydown", { key: "Escape" }));
  await pause();
  const { scrollWidth, clientWidth, clientHeight } = document.documentElement;
  return {
    first, readings, cleared: text("message"), sizes: boxes.map((box) => [box.width, box.height]),
    bottom: boxes[0].bottom, scrollWidth, clientWidth, clientHeight,
  };
"""


@pytest.mark.slow
def test_the_page_in_a_browser(client: "FlaskClient", tmp_path: Path) -> None:
    page = client.get("/", headers={"Host": "localhost:8501"}).get_data(as_text=True)
    many, four = [[digit % 10, 200] for digit in range(12)], [[digit, 200] for digit in (3, 1, 4, 8)]
    drawn = [[[8, 300]], [[7, 300]], [[8, 60, "a solid shape"]], [], many, four]
    sizes = [(1920, 1080), (1366, 650), (844, 390), (667, 375), (375, 667), (320, 568)]
    for size, found in zip(sizes, browser.run(page, _DRAW % json.dumps(drawn), sizes, tmp_path), strict=True):
        assert isinstance(found, dict), found
        eight, seven, small, nothing, twelve, last = found["readings"]
        assert eight[:3] == ["8", "an 8, 82.0%.", "Model input, 28x28 pixels"]
        assert seven[:2] == ["7", "a 7, 82.0%."]
        assert small[:2] == ["?", "rejected: a solid shape. Draw larger."]
        assert twelve[:3] == ["1", "digit 12 of 12 is a 1, 82.0%.", "12 digits, tap one"]
        assert twelve[3] == "digit 1 of 12 is a 0, 82.0%."
        assert twelve[4] == ["82.0%", *["2.0%"] * 9]
        assert last[:3] == ["3 1 4 8", "digit 4 of 4 is an 8, 82.0%.", "4 digits, tap one"]
        assert last[3] == "digit 1 of 4 is a 3, 82.0%."
        assert nothing[:2] == ["", "No digit found. Draw larger."]
        assert found["cleared"] == found["first"] == "Draw one digit, or several side by side."
        assert len(found["sizes"]) == 1 + 4
        for width, height in found["sizes"]:
            assert width == pytest.approx(height, abs=0.01), size
        assert found["bottom"] <= found["clientHeight"], size  # the canvas fits
        assert found["scrollWidth"] <= found["clientWidth"], size


_SERVER = """
import signal
from digits_jax import cli
from digits_jax.apps import demo, reader
from tests.test_demo import FakeReader
reader.load_reader = lambda *_, **__: FakeReader()
signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored where the tests run in the background
cli.run(demo.main)
"""


@pytest.mark.slow
def test_silent_connections_do_not_block_others() -> None:
    pytest.importorskip("waitress")
    command = [sys.executable, "-c", _SERVER, "--workdir=x", "--port=0"]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        stack.callback(server.kill)
        assert server.stdout
        line = server.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert address, line
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", int(address[1])), timeout=10))
        with urllib.request.urlopen(address[0], timeout=20) as response:
            assert response.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
