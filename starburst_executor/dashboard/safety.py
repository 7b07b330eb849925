"""Who may see the pages, and what browsers may do with them: hosts, origins, token and cookie, and the headers of every answer.

request ──► Host known? ──► a static file ────────────────────────────────► app
                │ no: 400    token right? ──► entry page, sets the cookie
                             cookie right? ──► Origin, Sec-Fetch-Site ────► app
                                 │ no: 401         │ no: 403
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import socket
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from jinja2 import Environment
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starburst_executor.errors import ConfigError

__all__ = ["POLICY", "Access", "Guard", "own_form", "public_origin"]

_log = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With `no-referrer`, browsers send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^:\[\]/@]+)(:\d{1,5})?")
_OWN_HOST = re.compile(r"\[[0-9a-f:.]+\]|[\w.-]+", re.ASCII)
_PORTS = {"http": 80, "https": 443}
_TOKEN_BYTES = 32
_MOST_FORM_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Access:
    """The secrets and limits of one dashboard. The representation shows no secret.

    Attributes:
        token: In the printed URL.
        cookie: The value of the cookie that the token is exchanged for.
        hosts: Names under which it may be asked for, in addition to addresses, `localhost` and this machine's names.
        origin: What browsers that come through a proxy send as Origin, as `public_origin` returns it; empty without a proxy.
        root_path: The path under which a proxy serves it, without a slash at its end.
        allows_actions: Whether sessions may be changed.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES), repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES), repr=False)
    port: int = 0
    hosts: frozenset[str] = frozenset()
    origin: str = ""
    root_path: str = ""
    allows_actions: bool = False

    @property
    def cookie_name(self) -> str:
        """The cookie's name, with the port: browsers send a cookie to all ports of a host."""
        return f"starburst_{self.port}"

    @property
    def form_token(self) -> str:
        """The value that each form sends, so that no other site can send it."""
        return hmac.new(self.cookie.encode(), b"form", hashlib.sha256).hexdigest()

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server and not a name that the DNS of another one leads here."""
        match = _HOST.fullmatch(host.strip().lower())
        if match is None:
            return False
        name = match["name"].strip("[]")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            own = {"localhost", socket.gethostname().lower(), *(known.lower() for known in self.hosts)}
            own.add(urlsplit(self.origin).hostname or "localhost")
            return name in own or name.endswith(".localhost")
        return True

    def is_own(self, origin: str, host: str) -> bool:
        """Whether a browser sends this Origin with requests of this server's pages: the host that it asked for, or the proxy's."""
        scheme, _, rest = origin.lower().partition("://")
        return scheme in _PORTS and (rest == host.strip().lower() or origin.lower() == self.origin)

    def is_right(self, secret: str, given: str | None) -> bool:
        """Whether a secret is this one, in a time that does not depend on it."""
        return given is not None and hmac.compare_digest(secret.encode(), given.encode("utf-8", "replace"))


class Guard:
    """The outermost part of the application: lets requests through that may pass, and sets the headers of all answers."""

    def __init__(self, app: ASGIApp, access: Access, templates: Environment) -> None:
        self._app = app
        self._access = access
        self._templates = templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = self._rooted(scope)
        request = Request(scope, receive)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        answer = self._refusal(request)
        try:
            await (answer or self._app)(scope, receive, send_guarded)
        except (
            Exception
        ) as error:  # answered and logged by the application; a traceback in a log could show values of tasks
            _log.debug("a request failed: %s", type(error).__name__)

    def _rooted(self, scope: Scope) -> Scope:
        """Return the scope with the root path, whether or not the proxy has taken it off the path."""
        root, path = self._access.root_path, scope["path"]
        inner = path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path
        return {**scope, "root_path": root, "path": f"{root}{inner or '/'}"}

    def _refusal(self, request: Request) -> Response | None:
        access, path = self._access, request.scope["path"][len(self._access.root_path) :]
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not access.knows(hosts[0]):
            return self._says(400, "This host name is not known here", _HOST_WORDS)
        if path.startswith("/static/") and request.method in ("GET", "HEAD"):
            return None
        if (token := request.query_params.get("token")) is not None and request.method == "GET":
            if access.is_right(access.token, token):
                return self._entry(request, path)
            return self._says(401, "This address is not valid", _PRINTED_WORDS)
        if request.method == "GET" and access.is_right(access.token, _bearer(request)):
            return None  # a program, such as Prometheus: no browser sends this by itself
        if not access.is_right(access.cookie, request.cookies.get(access.cookie_name)):
            return self._says(401, "Open the printed address first", _PRINTED_WORDS)
        if not _is_same_site(request, hosts[0], access):
            origin = request.headers.get("origin", "")
            words = _ORIGIN_WORDS.format(origin[:200]) if origin.startswith("http") else ""
            return self._says(403, "Another site sent this request", f"It was not carried out. {words}".strip())
        return None

    def _entry(self, request: Request, path: str) -> Response:
        fields = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        # A path that begins with two slashes would lead to another host. Browsers read a backslash as a slash, and skip ends of lines.
        target = quote("/" + f"{self._access.root_path}{path}".lstrip("/\\"))
        target += f"?{urlencode(fields)}" if fields else ""
        answer = HTMLResponse(
            self._templates.get_template("entry.html").render(target=target, root=self._access.root_path)
        )
        answer.set_cookie(
            self._access.cookie_name,
            self._access.cookie,
            path=self._access.root_path or "/",
            httponly=True,
            samesite="strict",
            secure="https" in (request.url.scheme, urlsplit(self._access.origin).scheme),
        )
        return answer

    def _says(self, status: int, title: str, words: str) -> Response:
        html = self._templates.get_template("problem.html").render(
            root=self._access.root_path, status=status, title=title, words=words, is_inside=False, session=""
        )
        return HTMLResponse(html, status)


_HOST_WORDS = (
    "The dashboard answers to addresses, to localhost, and to this machine's name. Behind a proxy, start it with `--origin` and the "
    "address that browsers see, such as `--origin https://hub.example.org`; for another name of this machine use `--allow-host NAME`."
)
_ORIGIN_WORDS = (
    "If this is your own dashboard behind a proxy that changes the host of requests, start it with the address that your browser "
    "shows: `--origin {}`."
)
_PRINTED_WORDS = (
    "Use the whole address that `starburst dashboard` printed, with its token. It is valid until that command ends; start the command "
    "again for a new one."
)


def _bearer(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _is_same_site(request: Request, host: str, access: Access) -> bool:
    """Whether no page of another site has sent this.

    Assumes: browsers compare origins for `Sec-Fetch-Site` by the address that the user sees, and no script can set it. So it also counts
    behind a proxy that changes Host. They send it over https and to localhost only; otherwise Origin must be known here.
    """
    site = request.headers.get("sec-fetch-site", "")
    if site != "same-origin" and not all(access.is_own(origin, host) for origin in request.headers.getlist("origin")):
        return False
    if site in ("", "same-origin", "none"):
        return True
    # A link on another site may lead here; the cookie is not sent with it in any case.
    return request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"


def public_origin(address: str) -> str:
    """Return the Origin that browsers send for this address of a proxy. Raises: ConfigError."""
    try:
        parts = urlsplit(address.strip().lower())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    name = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.removesuffix(":")
    if (
        parts.scheme not in _PORTS
        or _OWN_HOST.fullmatch(name) is None
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise ConfigError(
            f"--origin {address!r}: the scheme, host and port that browsers see, such as https://hub.example.org; a path is for --root-path"
        )
    return f"{parts.scheme}://{name}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


async def own_form(access: Access, request: Request) -> dict[str, str] | None:
    """Return the fields of a form; None if it has not the token of this dashboard's forms, or is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_FORM_BYTES:
            return None
    fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    return fields if access.is_right(access.form_token, fields.get("form_token")) else None
