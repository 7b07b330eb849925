"""Who may see the pages: hosts, origins, token and cookie, forms; and the headers of every answer."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from starburst_executor.dashboard.safety import POLICY, Access, Guard, own_form, public_origin
from starburst_executor.dashboard.views import templates
from starburst_executor.errors import ConfigError


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that says which path it was asked for, or fails."""
    if scope["path"].endswith("/fails"):
        raise RuntimeError("what a task printed")
    await PlainTextResponse(f"inside {Request(scope).url.path}")(scope, receive, send)


def ask(
    access: Access, path: str = "/", *, cookie: str | None = None, method: str = "GET", **headers: str
) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(Guard(inner, access, templates()), raise_app_exceptions=True)
        cookies = {} if cookie is None else {access.cookie_name: cookie}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", cookies=cookies) as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, headers=named)

    return asyncio.run(asked())


def inside(access: Access, path: str = "/", **how: Any) -> httpx.Response:
    return ask(access, path, cookie=access.cookie, **how)


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("localhost:9000", True),
        ("[::1]:8000", True),
        ("10.1.2.3:8000", True),
        ("LOCALHOST:8000", True),
        ("jobs.localhost", True),
        ("hub.example.org", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:8000", False),
        ("localhost@evil.example", False),
        ("localhost:8000:1", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_only_hosts_that_name_this_server_are_answered(host: str, is_known: bool) -> None:
    access = Access(hosts=frozenset({"hub.example.org"}))
    answer = inside(access, host=host)
    assert answer.status_code == (200 if is_known else 400)
    assert ("inside" in answer.text) is is_known


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address() -> None:
    access = Access(port=8000)
    assert access.token != access.cookie
    answer = ask(access, f"/s/some-session?a=1&token={access.token}")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"starburst_8000={access.cookie};")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert access.token not in answer.text
    assert 'content="0; url=/s/some-session?a=1"' in answer.text
    assert inside(access, "/s/some-session").text == "inside /s/some-session"


@pytest.mark.parametrize(
    "path",
    ["//evil.example/", "///evil.example/x", "/s/x", "/\\evil.example/", "/%0a/evil.example/", "/%09/evil.example/"],
)
def test_the_entry_page_leads_to_no_other_host(path: str) -> None:
    access = Access()
    answer = ask(access, f"http://127.0.0.1:8000{path}?token={access.token}")
    [target] = re.findall(r'url=([^"]*)"', answer.text)
    assert re.fullmatch(r"/([\w.~%-][\w.~%/-]*)?", target)


@pytest.mark.parametrize("how", ["no cookie", "wrong cookie", "wrong token", "token as cookie", "token by POST"])
def test_without_the_token_nothing_is_shown(how: str) -> None:
    access = Access()
    answer = {
        "no cookie": lambda: ask(access),
        "wrong cookie": lambda: ask(access, cookie="x" * 43),
        "wrong token": lambda: ask(access, f"/?token={access.cookie}"),
        "token as cookie": lambda: ask(access, cookie=access.token),
        "token by POST": lambda: ask(access, f"/?token={access.token}", method="POST"),
    }[how]()
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "inside" not in answer.text


@pytest.mark.parametrize(
    ("method", "sent", "code"),
    [
        ("GET", "Bearer {token}", 200),
        ("GET", "bearer {token}", 200),
        ("GET", "Bearer x", 401),
        ("POST", "Bearer {token}", 401),
    ],
)
def test_a_program_may_send_the_token_in_a_header_and_only_read(method: str, sent: str, code: int) -> None:
    access = Access()
    assert ask(access, method=method, authorization=sent.format(token=access.token)).status_code == code
    assert ask(access, authorization=f"Basic {access.token}").status_code == 401
    assert ask(access, authorization=f"Bearer {access.cookie}").status_code == 401


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"origin": "http://127.0.0.1:8000"}, True),
        ({"origin": "http://127.0.0.1:9000"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_of_other_sites_are_refused(headers: dict[str, str], passes: bool, method: str) -> None:
    assert inside(Access(), method=method, **headers).status_code == (200 if passes else 403)


def test_a_link_on_another_site_may_lead_here_but_not_post() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert inside(Access(), **link).status_code == 200
    assert inside(Access(), method="POST", **link).status_code == 403


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        # A proxy that leaves the Host of its upstream, or passes the browser's on, whole or without its port.
        ({"host": "127.0.0.1:8000", "origin": "http://hub.example.org:8080"}, True),
        ({"host": "hub.example.org:8080", "origin": "http://hub.example.org:8080"}, True),
        ({"host": "hub.example.org", "origin": "http://hub.example.org:8080"}, True),
        ({"host": "HUB.example.org", "origin": "http://HUB.example.org:8080"}, True),
        # Other sites, also those of the same host, and a name whose DNS leads to the proxy.
        ({"host": "127.0.0.1:8000", "origin": "http://evil.example"}, False),
        ({"host": "127.0.0.1:8000", "origin": "http://evil.example:8080"}, False),
        ({"host": "127.0.0.1:8000", "origin": "https://hub.example.org:8080"}, False),
        ({"host": "127.0.0.1:8000", "origin": "http://hub.example.org"}, False),
        ({"host": "127.0.0.1:8000", "origin": "http://hub.example.org:8080.evil.example"}, False),
        ({"host": "127.0.0.1:8000", "origin": "null"}, False),
        ({"host": "127.0.0.1:8000", "origin": "http://evil.example", "x_forwarded_host": "evil.example"}, False),
        ({"host": "127.0.0.1:8000", "origin": "http://hub.example.org:8080", "sec_fetch_site": "cross-site"}, False),
        ({"host": "127.0.0.1:8000", "origin": "http://hub.example.org:8080", "sec_fetch_site": "same-site"}, False),
    ],
)
def test_behind_a_proxy_its_origin_passes_and_no_other(headers: dict[str, str], passes: bool) -> None:
    access = Access(origin=public_origin("http://hub.example.org:8080/"))
    assert inside(access, method="POST", **headers).status_code == (200 if passes else 403)


def test_a_browser_that_says_that_the_page_is_of_the_same_origin_is_believed() -> None:
    """It compares what the user sees: so forms work behind a proxy that replaces Host, or has browsers send no Origin."""
    for origin in ("https://hub.example.org", "null"):
        assert inside(Access(), method="POST", origin=origin, sec_fetch_site="same-origin").status_code == 200
        assert inside(Access(), method="POST", origin=origin, sec_fetch_site="none").status_code == 403
        assert inside(Access(), method="POST", origin=origin).status_code == 403


def test_a_refusal_says_which_option_a_proxy_needs() -> None:
    refused = inside(Access(), method="POST", origin="http://hub.example.org:8080")
    assert "--origin http://hub.example.org:8080" in refused.text
    assert "--origin" not in inside(Access(), method="POST", origin="null").text
    assert "<script>" not in inside(Access(), method="POST", origin="http://<script>").text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "hub.example.org.evil.example"])
def test_behind_a_proxy_another_name_is_not_answered(host: str) -> None:
    access = Access(origin="http://hub.example.org:8080")
    assert inside(access, host=host, origin=f"http://{host}", sec_fetch_site="same-origin").status_code == 400


def test_a_cookie_of_an_encrypted_proxy_is_sent_encrypted_only() -> None:
    access = Access(origin="https://hub.example.org")
    assert "Secure" in ask(access, f"/?token={access.token}").headers["set-cookie"]
    access = Access(origin="http://hub.example.org")
    assert "Secure" not in ask(access, f"/?token={access.token}").headers["set-cookie"]


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("https://hub.example.org", "https://hub.example.org"),
        ("HTTPS://Hub.Example.org:443/", "https://hub.example.org"),
        ("http://hub.example.org:80", "http://hub.example.org"),
        ("http://hub.example.org:443", "http://hub.example.org:443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://[::1]", "https://[::1]"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(address: str, origin: str) -> None:
    assert public_origin(address) == origin


@pytest.mark.parametrize(
    "address",
    [
        "hub.example.org", "https://", "ftp://hub.example.org", "https://hub.example.org/starburst", "https://hub.example.org?a",
        "https://me@hub.example.org", "https://hub.example.org:port", "https://hub.example.org:99999", "https://a b", "null", "*",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_an_error(address: str) -> None:
    with pytest.raises(ConfigError, match="--origin"):
        public_origin(address)


@pytest.mark.parametrize("path", ["/", "/static/dashboard.css", "/?token=wrong"])
@pytest.mark.parametrize("host", ["127.0.0.1:8000", "evil.example"])
def test_every_answer_has_the_headers(path: str, host: str) -> None:
    answer = ask(Access(), path, host=host)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY


def test_a_fault_shows_no_values_and_reaches_no_log(caplog: pytest.LogCaptureFixture) -> None:
    access = Access()
    with caplog.at_level("DEBUG"), pytest.raises(AssertionError):  # httpx: nothing was sent
        inside(access, "/fails")
    assert "what a task printed" not in caplog.text


@pytest.mark.parametrize("path", ["/user/me/proxy/s/x", "/s/x"])
def test_a_proxy_may_take_its_path_off_or_leave_it(path: str) -> None:
    access = Access(root_path="/user/me/proxy")
    assert inside(access, path).text == "inside /user/me/proxy/s/x"
    assert "Path=/user/me/proxy;" in ask(access, f"{path}?token={access.token}").headers["set-cookie"]


def test_secrets_are_long_and_are_not_in_a_representation() -> None:
    access = Access()
    assert len(access.token) >= 43
    assert access.token not in repr(access)
    assert access.cookie not in repr(access)
    assert Access().token != access.token


@pytest.mark.parametrize(
    ("body", "is_own"),
    [
        ("form_token={right}", True),
        ("value=3&form_token={right}", True),
        ("", False),
        ("value=3", False),
        ("form_token=x", False),
        ("form_token={cookie}", False),
        ("form_token={right}&form_token=x", False),
        ("form_token={right}&value=" + "x" * 5000, False),
        ("\xff&=&&form_token", False),
    ],
)
def test_a_form_needs_its_token_and_is_short(body: str, is_own: bool) -> None:
    access = Access()
    sent = [body.format(right=access.form_token, cookie=access.cookie).encode("latin-1")]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": sent.pop() if sent else b"", "more_body": bool(sent)}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    fields = asyncio.run(own_form(access, request))
    assert (fields is not None) is is_own
    if fields is not None:
        assert fields["form_token"] == access.form_token
