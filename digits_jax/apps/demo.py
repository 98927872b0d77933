"""A page to draw on, with what a trained model reads beside it: `python -m digits_jax.apps.demo --workdir=W`

It listens on this machine only, unless `--host` says otherwise; whoever reaches it can use it. Nothing is loaded from
elsewhere, and nothing is kept. Other sites' pages may not ask it, nor may one that calls it by another name.
"""

import base64
import hashlib
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from absl import flags

from digits_jax import cli
from digits_jax.apps.chosen_model import CHECKPOINT
from digits_jax.apps.reader.pictures import decode_picture
from digits_jax.errors import UserError

if TYPE_CHECKING:
    from flask import Flask, Response

    from digits_jax.apps.reader.digit_reader import Reading

HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on")
PORT = flags.DEFINE_integer("port", 8501, "to listen on; 0 chooses a free one", lower_bound=0, upper_bound=65535)

_PAGE = Path(__file__).with_name("demo.html")
_LARGEST_REQUEST = 1_000_000  # bytes


def create_app(
    read: "Callable[[np.ndarray], list[Reading]]", *, description: str, num_classes: int, address: str
) -> "Flask":
    """The page, and the answers to what it asks.

    Args:
      read: what reads a picture `[H, W, 4]`, as of `pictures.Picture`.
      description: of the model, in a line.
      num_classes: of the model.
      address: that the server listens on.
    """
    from flask import Flask, abort, jsonify, render_template, request
    from werkzeug.exceptions import HTTPException

    app = Flask(__name__, template_folder=str(_PAGE.parent), static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=_LARGEST_REQUEST)
    protection = {
        "Content-Security-Policy": content_security_policy(_PAGE.read_text()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }

    @app.before_request
    def check_name() -> None:
        if not is_own_name(request.headers.get("Host", ""), address):
            abort(403, "This server has another name.")

    @app.get("/")
    def page() -> str:
        return render_template(_PAGE.name, model=description, num_classes=num_classes)

    @app.post("/predict")
    def predict() -> "Response":
        own = request.host_url.rstrip("/")
        # A browser sends both of these, what is none neither.
        site = request.headers.get("Sec-Fetch-Site", "none")
        if request.headers.get("Origin", own) != own or site not in ("same-origin", "none"):
            abort(403, "Another site's page asks: only this server's own may.")
        if request.mimetype != "image/png":
            abort(415, f"The picture is of type {request.mimetype!r}: expected 'image/png'.")
        try:
            picture = decode_picture(request.get_data(), "the picture")
        except UserError as error:
            abort(400, str(error))
        return jsonify(digits=[_as_json(reading) for reading in read(picture.pixels)])

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Any:
        return jsonify(error=error.description), error.code

    @app.after_request
    def protect(response: "Response") -> "Response":
        response.headers.update(protection)
        return response

    return app


def _as_json(reading: "Reading") -> dict[str, Any]:
    return {
        "digit": reading.digit,
        "probabilities": reading.probabilities.tolist(),
        "warning": reading.warning,
        "image": reading.image.reshape(-1).tolist(),
    }


def content_security_policy(page: str) -> str:
    """Allows the page's own script and style, by their hashes, asking its own server, and nothing else."""
    found = re.search("<style>(.*)</style>.*<script>(.*)</script>", page, re.DOTALL)
    assert found is not None
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found.groups())
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def is_own_name(host: str, address: str) -> bool:
    """Whether a request's Host header means this server.

    A page whose name is made to lead here (DNS rebinding) is of its own origin to the browser: only the name tells.

    Args:
      host: the header, with or without a port.
      address: that the server listens on. On all of a machine's (0.0.0.0, ::) its name and any bare address will do.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", "127.0.0.1", "::1", address.lower()):
        return True
    if address not in ("0.0.0.0", "::"):
        return False
    is_address = name.replace(".", "").isdecimal() or ":" in name
    return is_address or name in (socket.gethostname().lower(), socket.getfqdn().lower())


def main(argv: list[str]) -> None:
    workdir = cli.required("workdir", "runs/bn_dropout/0123abcd")
    try:
        import flask  # noqa: F401
        from waitress.server import create_server
    except ImportError:
        raise UserError("the demo needs Flask and waitress: ./launch.sh setup demo") from None
    from digits_jax.apps.reader.digit_reader import load_reader

    reader = load_reader(workdir, checkpoint=CHECKPOINT.value)
    app = create_app(
        reader.read, description=reader.description, num_classes=reader.model.num_classes, address=HOST.value
    )
    try:
        server = create_server(
            app, host=HOST.value, port=PORT.value, threads=2, ident=None, max_request_body_size=_LARGEST_REQUEST,
            channel_timeout=30,
        )  # fmt: skip
    except (OSError, ValueError) as error:  # ValueError: the name is of no machine
        raise UserError(f"{HOST.value}:{PORT.value} cannot be listened on ({error}): give another --port") from None
    name = f"[{HOST.value}]" if ":" in HOST.value else HOST.value
    print(f"Draw at http://{name}:{server.effective_port}/ - Ctrl-C ends it.", flush=True)
    server.run()  # returns at Ctrl-C


if __name__ == "__main__":
    cli.run(main)
