"""The page's server: the standard library's, with bounds on who may ask and how much.

A page of another site that is open in the same browser can send requests here, too. What it could
do with them is ruled out three times: the name by which the server is called (`Host`) has to be an
address of its own, so that no foreign name can be made to point here (DNS rebinding); requests
that carry a picture must come from the page itself (`Origin`, `Sec-Fetch-Site`); and they have a
type of content that forms cannot send.
"""

import contextlib
import http.server
import ipaddress
import json
import re
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from data_pipelines.errors import UserError
from faceattr_tf.demo.page import demo_page
from faceattr_tf.demo.service import BusyError, Service

MAX_BYTES = 32_000_000
"""The largest picture that is taken, in bytes, unless a command is told otherwise."""

AT_ONCE = 4
"""Requests with a body that are read or wait at a time; more are told to come back."""

_SMALL = 10_000  # bytes of a request that carries no picture
_TYPE = "application/octet-stream"
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class DemoServer(http.server.ThreadingHTTPServer):
    """Listens from the beginning, and answers once it has a `service`.

    Args:
        host: address or name of this machine on which it listens.
        port: 0 for any that is free.
        names: by which others call it, besides its addresses and `localhost`.
        max_bytes: the largest picture that is taken.

    Raises:
        UserError: the address is not one of this machine, or the port is taken.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
    ):
        """Takes the port."""
        if max_bytes < 1:
            raise UserError(f"max_bytes {max_bytes}: expected at least 1")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{host}, port {port}: {reason}") from error
        self.names, self.max_bytes = {name.lower() for name in names}, max_bytes
        self.alone = ipaddress.ip_address(self.server_address[0]).is_loopback
        self.room = threading.BoundedSemaphore(AT_ONCE)
        self.service: Service | None = None
        self.page, self.policy = "", ""

    @property
    def url(self) -> str:
        """The page's address."""
        host, port = self.server_address[:2]
        if ipaddress.ip_address(host).is_unspecified:
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def serve(self, service: Service) -> None:
        """Answers until Ctrl-C or `shutdown`; what is being computed then is waited for."""
        self.service = service
        self.page, self.policy = demo_page(service, self.max_bytes)
        try:
            self.serve_forever(poll_interval=0.2)
        finally:
            self.server_close()
            service.finish(seconds=10)

    def knows(self, host: str) -> bool:
        """Whether a `Host` header calls this server by a name that nobody else can give away."""
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d{1,5})?", host)
        if not found:
            return False
        name = found[1].lower().strip("[]")
        if name == "localhost" or name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.alone

    def handle_error(self, request, client_address):
        """A browser that goes away in the middle is nothing to report."""
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()


class _RefusedError(Exception):
    """A request that is answered with a status and a line."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class _Handler(http.server.BaseHTTPRequestHandler):
    server: DemoServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "faceattr-demo", ""
    timeout = 30  # seconds without a byte

    def do_GET(self):
        self._answer(self._show)

    def do_POST(self):
        self._answer(self._compute)

    def _answer(self, work) -> None:
        try:
            if not self.server.knows(self.headers.get("Host", "")):
                raise _RefusedError(
                    421, "this server is called by its address or localhost (--names adds others)"
                )
            status, kind, content = 200, *work()
        except _RefusedError as error:
            self.close_connection = True  # what was not read would be taken for a request
            status, kind, content = error.status, *_line(str(error))
        except BusyError as error:
            status, kind, content = 503, *_line(str(error))
        except UserError as error:
            status, kind, content = 400, *_line(str(error))
        except (ConnectionError, TimeoutError):
            raise
        except Exception:  # noqa: BLE001 - the terminal gets all of it, the page a line
            traceback.print_exc()
            status, kind, content = 500, *_line("a defect: the server's terminal says more")
        self._send(status, kind, content)

    def _show(self) -> tuple[str, bytes]:
        if urlsplit(self.path).path != "/":
            raise _RefusedError(404, "there is one page: /")
        return "text/html; charset=utf-8", self.server.page.encode()

    def _compute(self) -> tuple[str, bytes]:
        self._check_sender()
        work = {"/analyze": self._analyze, "/explain": self._explain, "/copy": self._copy}
        address = urlsplit(self.path)
        if address.path not in work:
            raise _RefusedError(404, f"there are {', '.join(work)}")
        if not self.server.room.acquire(blocking=False):
            raise _RefusedError(503, "the model is busy with other pictures: try again later")
        try:
            return work[address.path](parse_qs(address.query))
        finally:
            self.server.room.release()

    def _analyze(self, query: dict) -> tuple[str, bytes]:
        content = self._body(self.server.max_bytes)
        return _json(self.server.service.analyze(content, query.get("whole") == ["1"]))

    def _explain(self, _) -> tuple[str, bytes]:
        asked = self._fields(picture=int, face=int, label=str)
        return "image/jpeg", self.server.service.explain(**asked)

    def _copy(self, _) -> tuple[str, bytes]:
        return "image/jpeg", self.server.service.copy(**self._fields(picture=int))

    def _fields(self, **kinds: type) -> dict:
        """The values of these names in a body that is JSON."""
        try:
            asked = json.loads(self._body(_SMALL))
            found = {name: asked[name] for name in kinds}
        except (ValueError, KeyError, TypeError, RecursionError):
            found = {}
        if not found or any(type(found[name]) is not kind for name, kind in kinds.items()):
            names = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
            raise UserError(f"expected an object of JSON with {names}")
        return found

    def _check_sender(self) -> None:
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        own = [f"{scheme}://{self.headers['Host']}" for scheme in ("http", "https")]
        if origin not in (None, *own) or site not in (None, "same-origin", "none"):
            raise _RefusedError(403, "a page of another site asks")
        if self.headers.get("Content-Type") != _TYPE:
            raise _RefusedError(415, f"expected the header Content-Type: {_TYPE}")

    def _body(self, limit: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,18}", length):
            raise _RefusedError(411, "expected the header Content-Length")
        if int(length) > limit:
            raise _RefusedError(413, f"{int(length):,} bytes, more than {limit:,}")
        content = self.rfile.read(int(length))
        if len(content) != int(length):
            raise ConnectionAbortedError
        return content

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        fields = _HEADERS | {"Content-Type": kind, "Content-Length": str(len(content))}
        if status == 200 and kind.startswith("text/html"):
            fields["Content-Security-Policy"] = self.server.policy
        if self.close_connection:
            fields["Connection"] = "close"
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if self.close_connection:
            self._drain()

    def _drain(self) -> None:
        """Takes what a client still sends, a while: else it would not read the answer."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            for _ in range(self.server.max_bytes // 65_536 + 1):
                if not self.connection.recv(65_536):
                    break

    def send_error(self, code, message=None, explain=None):
        """What the base class refuses, such as unknown methods, in a line too."""
        self.close_connection = True
        text = message or http.server.BaseHTTPRequestHandler.responses[code][0]
        self._send(code, *_line(str(text)))

    def log_message(self, format, *args):
        """A page that is used by one person needs no log."""


def _json(value) -> tuple[str, bytes]:
    return "application/json", json.dumps(value, allow_nan=False).encode()


def _line(text: str) -> tuple[str, bytes]:
    return _json({"error": text})
