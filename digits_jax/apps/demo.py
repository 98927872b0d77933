"""Serves a page to draw digits on, which a model reads: `python -m digits_jax.apps.demo`

Anyone who reaches the server can use it. It refuses requests from other sites' pages or to another host name.
"""

import base64
import hashlib
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from absl import flags

from digits_jax import cli
from digits_jax.apps import reader, require_extra
from digits_jax.apps.command_flags import CHECKPOINT, DATA_DIR, chosen_workdir
from digits_jax.errors import UserError

HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on")
PORT = flags.DEFINE_integer("port", 8501, "port to listen on; 0 picks a free one", lower_bound=0, upper_bound=65535)

_PAGE = Path(__file__).with_name("demo.html")
_MAX_REQUEST = 1_000_000  # bytes


def create_app(digit_reader: "reader.DigitReader", *, address: str) -> Any:
    """Creates the web application, for a server that listens on `address`."""
    from flask import Flask, abort, jsonify, render_template, request
    from werkzeug.exceptions import HTTPException

    app = Flask(__name__, template_folder=str(_PAGE.parent), static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=_MAX_REQUEST)
    headers = {
        "Content-Security-Policy": content_security_policy(_PAGE.read_text(encoding="utf-8")),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }

    @app.before_request
    def check_host() -> None:
        if not is_own_name(request.headers.get("Host", ""), address):
            abort(403, "The Host header does not name this server.")

    @app.get("/")
    def page() -> str:
        num_classes = digit_reader.model.num_classes
        return render_template(_PAGE.name, model=digit_reader.description, num_classes=num_classes)

    @app.post("/predict")
    def predict() -> Any:
        # Browsers send both headers, other clients neither.
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
        if origin not in (None, request.host_url.rstrip("/")) or site not in ("same-origin", "none"):
            abort(403, "The request comes from another site's page.")
        if request.mimetype != "image/png":
            abort(415, f"The picture has type {request.mimetype!r}: expected 'image/png'.")
        try:
            picture = reader.decode_picture(request.get_data(), "the picture")
        except UserError as error:
            abort(400, str(error))
        digits = []
        for reading in digit_reader.read(picture.pixels).digits:
            arrays = {"probabilities": reading.probabilities.tolist(), "image": reading.image.reshape(-1).tolist()}
            digits.append({"digit": reading.digit, "warning": reading.warning, "box": reading.box, **arrays})
        return jsonify(digits=digits)

    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> Any:
        return jsonify(error=error.description), error.code

    @app.after_request
    def add_headers(response: Any) -> Any:
        response.headers.update(headers)
        return response

    return app


def content_security_policy(page: str) -> str:
    """Returns a policy that allows the page's own style and script, by their hashes, and requests to its server."""
    blocks = re.search("<style>(.*)</style>.*<script>(.*)</script>", page, re.DOTALL)
    assert blocks is not None
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in blocks.groups())
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def is_own_name(host: str, address: str) -> bool:
    """Returns whether the Host header names this server; under DNS rebinding, nothing else tells a foreign page.

    A server that listens on all addresses (0.0.0.0, ::) accepts the machine's name and any numeric address.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if address not in ("0.0.0.0", "::"):
        return name in ("localhost", "127.0.0.1", "::1", address.lower())
    is_numeric = name.replace(".", "").isdecimal() or ":" in name
    return is_numeric or name in ("localhost", socket.gethostname().lower(), socket.getfqdn().lower())


def main(argv: list[str]) -> None:
    require_extra("demo", ("flask", "waitress", "scipy"), needed_by="the demo")
    from waitress.server import create_server

    digit_reader = reader.load_reader(chosen_workdir(), checkpoint=CHECKPOINT.value, data_dir=DATA_DIR.value)
    app = create_app(digit_reader, address=HOST.value)
    # Silent connections are closed after ten seconds; until then, 500 do not block others. select() has fewer.
    try:
        server = create_server(
            app, host=HOST.value, port=PORT.value, threads=2, ident=None, max_request_body_size=_MAX_REQUEST,
            connection_limit=500, channel_timeout=10, cleanup_interval=1, asyncore_use_poll=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:  # ValueError: the host name cannot be resolved
        raise UserError(f"cannot listen on {HOST.value}:{PORT.value} ({error}): give another --port") from None
    name = f"[{HOST.value}]" if ":" in HOST.value else HOST.value
    print(f"draw at http://{name}:{server.effective_port}/ (Ctrl-C to stop)", flush=True)
    server.run()  # returns at Ctrl-C


if __name__ == "__main__":
    cli.run(main)
