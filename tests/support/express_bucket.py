"""A directory bucket of S3 Express One Zone before moto, which has none: what AWS documents and other buckets do not do.

    sessions      requests carry the token of a CreateSession, which is good for five minutes; others are refused
    ETags         random letters and digits, new with each write, never a hash of the content
    listings      in no order, over all pages; a prefix ends with "/", and "/" is the only delimiter; no StartAfter
    conditions    as in other buckets: If-None-Match: *, If-Match

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-differences.html,
…/API/API_CreateSession.html, …/API/API_ListObjectsV2.html, …/userguide/conditional-writes.html
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, quote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

__all__ = ["BEHIND", "DIRECTORY_BUCKET", "SESSION_S", "DirectoryBucket"]

DIRECTORY_BUCKET = "starburst--use1-az4--x-s3"
BEHIND = "starburst-behind"  # moto's, which holds the objects
SESSION_S = 300.0
_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_NONE = '"of no object"'


class _Refused(Exception):
    def __init__(self, status: str, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


class DirectoryBucket:
    """WSGI middleware. One request at a time: its caller holds a lock."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._sessions: dict[str, float] = {}  # token to its end
        self._etags: dict[str, tuple[str, str]] = {}  # by key: as returned by this server, as moto has it

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            status, headers, body = self._answer(dict(environ))
        except _Refused as refused:
            status, headers, body = refused.status, [("Content-Type", "application/xml")], refused.body
        start_response(status, headers)
        return [body]

    def _answer(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
        if bucket != DIRECTORY_BUCKET:
            raise _Refused("404 Not Found", "NoSuchBucket")
        if "session" in query:
            return self._session()
        if self._sessions.get(environ.get("HTTP_X_AMZ_S3SESSION_TOKEN", ""), 0.0) < time.monotonic():
            raise _Refused("403 Forbidden", "AccessDenied")
        for name in ("PATH_INFO", "RAW_URI", "REQUEST_URI"):
            if name in environ:
                environ[name] = environ[name].replace(f"/{DIRECTORY_BUCKET}", f"/{BEHIND}", 1)
        if "list-type" in query:
            return self._list(environ, {name: values[0] for name, values in query.items()})
        etag, behind = self._etags.get(key, ("", _NONE))
        for name in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
            if environ.get(name, "*") != "*":
                environ[name] = behind if environ[name].strip('"') == etag else _NONE
        status, headers, body = self._ask(environ)
        shown = dict(headers).get("ETag") or (re.search(rb"<ETag>(.*?)</ETag>", body) or [b"", b""])[1].decode()
        if not key or "partNumber" in query or "uploads" in query or not shown:
            return status, headers, body
        shown = shown.replace("&quot;", '"')
        if environ["REQUEST_METHOD"] in ("PUT", "POST") and status.startswith("200"):
            etag = secrets.token_hex(16)
            self._etags[key] = etag, f'"{shown.strip(chr(34))}"'
        quoted = f'"{etag}"'
        headers = [(name, quoted if name == "ETag" else value) for name, value in headers]
        return status, headers, re.sub(rb"<ETag>.*?</ETag>", f"<ETag>{quoted}</ETag>".encode(), body)

    def _ask(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        answer: list[Any] = []
        chunks = self._application(environ, lambda status, headers, _=None: answer.extend([status, headers]))
        return answer[0], answer[1], b"".join(chunks)

    def _session(self) -> tuple[str, list[tuple[str, str]], bytes]:
        token = secrets.token_hex(16)
        self._sessions[token] = time.monotonic() + SESSION_S
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + SESSION_S))
        body = (
            '<CreateSessionResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Credentials>'
            f"<AccessKeyId>session</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
            f"<SessionToken>{token}</SessionToken><Expiration>{ends}</Expiration></Credentials></CreateSessionResult>"
        )
        return "200 OK", [("Content-Type", "application/xml")], body.encode()

    def _list(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, list[tuple[str, str]], bytes]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        if (prefix and not prefix.endswith("/")) or delimiter not in ("", "/"):
            raise _Refused("400 Bad Request", "InvalidArgument")
        if "start-after" in query:
            raise _Refused("501 Not Implemented", "NotImplemented")
        objects = self._all(environ, prefix)
        folders = {key[: key.index("/", len(prefix)) + 1] for key in objects if delimiter and "/" in key[len(prefix) :]}
        lines = [*(key for key in objects if not key.startswith(tuple(folders) or ("\0",))), *folders]
        lines.sort(key=lambda line: hashlib.sha256(line.encode()).digest())
        first, most = int(query.get("continuation-token", "0")), int(query.get("max-keys", "1000"))
        page, rest = lines[first : first + most], lines[first + most :]
        spelled = quote if query.get("encoding-type") == "url" else escape
        xml = [
            f'<ListBucketResult xmlns="{_SPACE[1:-1]}"><Name>{DIRECTORY_BUCKET}</Name>',
            f"<IsTruncated>{'true' if rest else 'false'}</IsTruncated><KeyCount>{len(page)}</KeyCount>",
            f"<NextContinuationToken>{first + most}</NextContinuationToken>" if rest else "",
            "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else "",
        ]
        for line in page:
            if line in folders:
                xml.append(f"<CommonPrefixes><Prefix>{spelled(line)}</Prefix></CommonPrefixes>")
                continue
            size, modified = objects[line]
            xml.append(
                f"<Contents><Key>{spelled(line)}</Key><LastModified>{modified}</LastModified><Size>{size}</Size>"
                f"<ETag>&quot;{self._etags[line][0]}&quot;</ETag><StorageClass>EXPRESS_ONEZONE</StorageClass></Contents>"
            )
        body = "".join([*xml, "</ListBucketResult>"]).encode()
        return "200 OK", [("Content-Type", "application/xml")], body

    def _all(self, environ: dict[str, Any], prefix: str) -> dict[str, tuple[str, str]]:
        """Size and time of each key."""
        objects: dict[str, tuple[str, str]] = {}
        token = ""
        while True:
            more = f"&continuation-token={quote(token)}" if token else ""
            query = f"list-type=2&prefix={quote(prefix, safe='')}{more}"
            asked = {
                **environ,
                "QUERY_STRING": query,
                "RAW_URI": f"/{BEHIND}?{query}",
                "REQUEST_URI": f"/{BEHIND}?{query}",
            }
            page = ET.fromstring(self._ask(asked)[2])
            for line in page.findall(f"{_SPACE}Contents"):
                fields = {field.tag.removeprefix(_SPACE): field.text or "" for field in line}
                objects[fields["Key"]] = fields["Size"], fields["LastModified"]
            token = page.findtext(f"{_SPACE}NextContinuationToken") or ""
            if not token:
                return objects
