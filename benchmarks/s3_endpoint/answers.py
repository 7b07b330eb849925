"""A request to an answer: S3's methods, paths and XML over `objects.py`. No I/O, no waiting."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from benchmarks.s3_endpoint.objects import Bucket, Fault, Object

__all__ = ["Answer", "Request", "Service"]

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
_PART = re.compile(rb"<PartNumber>\s*(\d+)\s*</PartNumber>")
_PAGE = 1000


@dataclass(slots=True)
class Request:
    """One request; header names are in lower case."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    @classmethod
    def parse(cls, method: str, target: str, headers: Mapping[str, str]) -> Request:
        path, _, query = target.partition("?")
        bucket, _, key = path.lstrip("/").partition("/")
        return cls(method, bucket, unquote(key), dict(parse_qsl(query, keep_blank_values=True)), headers)

    @property
    def kind(self) -> str:
        """The kind under which it is counted and priced: one of `store/requests.py` where there is one."""
        if self.method == "GET" and not self.key:
            return "list"
        if self.method == "DELETE" or (self.method == "POST" and "delete" in self.query):
            return "delete"
        if self.method in ("GET", "HEAD"):
            return self.method.lower()
        if not self.key:
            return "bucket"
        if self.method == "PUT" and "uploadId" in self.query:
            return "part"
        if "uploads" in self.query:
            return "upload"
        return "create" if "if-none-match" in self.headers else "swap" if "if-match" in self.headers else "put"


class Answer(NamedTuple):
    """`headers` end in a line break each; of an answer to HEAD the body gives only the length."""

    status: int
    headers: str = ""
    body: bytes = b""


@dataclass
class Service:
    """All buckets. Called by one thread: nothing comes between a check and its write."""

    buckets: dict[str, Bucket] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except Fault as fault:
            body = f"{_XML}<Error><Code>{fault.code}</Code><Message>{fault.code}</Message></Error>"
            return Answer(fault.status, "Content-Type: application/xml\r\n", body.encode())

    def _answer(self, request: Request) -> Answer:
        method, name = request.method, request.bucket
        if not request.key and method == "PUT":
            self.buckets.setdefault(name, Bucket())
            return Answer(200, f"Location: /{name}\r\n")
        bucket = self.buckets.get(name)
        if bucket is None:
            raise Fault(404, "NoSuchBucket")
        if not request.key:
            return self._of_bucket(bucket, request)
        if "x-amz-copy-source" in request.headers:
            raise Fault(501, "NotImplemented")
        if method in ("GET", "HEAD"):
            return _get(bucket.read(request.key), request.headers)
        if method == "PUT":
            return _put(bucket, request)
        if method == "DELETE":
            if "uploadId" in request.query:
                bucket.parts(request.query["uploadId"])
                del bucket.uploads[request.query["uploadId"]]
            else:
                bucket.delete(request.key)
            return Answer(204)
        if method == "POST":
            return _upload(bucket, request)
        raise Fault(405, "MethodNotAllowed")

    def _of_bucket(self, bucket: Bucket, request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(200)
        if request.method == "POST" and "delete" in request.query:
            for key in _KEY.findall(request.body):
                bucket.delete(html.unescape(key.decode()))
            return _xml(f"<DeleteResult {_NAMESPACE}></DeleteResult>")
        if request.method == "GET" and request.query.get("list-type") == "2":
            return _list(bucket, request)
        raise Fault(501, "NotImplemented")


def _get(found: Object, headers: Mapping[str, str]) -> Answer:
    unless, wanted = headers.get("if-none-match"), headers.get("if-match")
    if wanted is not None and wanted.strip('"') != found.etag:
        raise Fault(412, "PreconditionFailed")
    if unless is not None and unless.strip('"') == found.etag:
        return Answer(304, found.headers)
    asked = headers.get("range")
    if asked is None:
        return Answer(200, found.headers, found.body)
    size = len(found.body)
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size:
        raise Fault(416, "InvalidRange")
    return Answer(206, f"{found.headers}Content-Range: bytes {start}-{end - 1}/{size}\r\n", found.body[start:end])


def _put(bucket: Bucket, request: Request) -> Answer:
    if "uploadId" in request.query:
        bucket.parts(request.query["uploadId"])[int(request.query["partNumber"])] = request.body
        return Answer(200, f'ETag: "{hashlib.md5(request.body, usedforsecurity=False).hexdigest()}"\r\n')
    made = bucket.write(
        request.key, request.body, request.headers.get("if-match"), request.headers.get("if-none-match")
    )
    return Answer(200, f'ETag: "{made.etag}"\r\n')


def _upload(bucket: Bucket, request: Request) -> Answer:
    named = f"<Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key>"
    if "uploads" in request.query:
        result = f"{named}<UploadId>{bucket.begin_upload()}</UploadId>"
        return _xml(f"<InitiateMultipartUploadResult {_NAMESPACE}>{result}</InitiateMultipartUploadResult>")
    made = bucket.complete(
        request.key,
        request.query.get("uploadId", ""),
        [int(number) for number in _PART.findall(request.body)],
        request.headers.get("if-match"),
        request.headers.get("if-none-match"),
    )
    result = f"{named}<ETag>&quot;{made.etag}&quot;</ETag>"
    return _xml(f"<CompleteMultipartUploadResult {_NAMESPACE}>{result}</CompleteMultipartUploadResult>")


def _list(bucket: Bucket, request: Request) -> Answer:
    asked = request.query
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    is_quoted = asked.get("encoding-type") == "url"
    most = min(_PAGE, int(asked.get("max-keys", _PAGE)))
    marker = asked.get("continuation-token") or asked.get("start-after", "")
    lines: list[str] = []
    rest = _lines(bucket, prefix, delimiter, marker, is_quoted)
    for key, line in rest:
        lines.append(line)
        marker = key
        if len(lines) == most:
            break
    is_truncated = len(lines) == most and next(rest, None) is not None
    more = f"<NextContinuationToken>{escape(marker)}</NextContinuationToken>" if is_truncated else ""
    return _xml(
        f"<ListBucketResult {_NAMESPACE}><Name>{request.bucket}</Name><Prefix>{_name(prefix, is_quoted)}</Prefix>"
        f"<KeyCount>{len(lines)}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
        f"{'<EncodingType>url</EncodingType>' if is_quoted else ''}{more}{''.join(lines)}</ListBucketResult>"
    )


def _lines(bucket: Bucket, prefix: str, delimiter: str, marker: str, is_quoted: bool) -> Iterator[tuple[str, str]]:
    """Yield each object or common prefix behind the marker: the marker of the next page, and its XML."""
    folder = ""
    for key in bucket.after(prefix, marker):
        if folder and key.startswith(folder):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        if cut >= 0:
            folder = key[: cut + len(delimiter)]
            # Behind everything in it: no key of UTF-8 text goes on with this character.
            yield f"{folder}\U0010ffff", f"<CommonPrefixes><Prefix>{_name(folder, is_quoted)}</Prefix></CommonPrefixes>"
        else:
            found = bucket.objects[key]
            yield key, found.line_quoted if is_quoted else found.line_plain


def _name(name: str, is_quoted: bool) -> str:
    return quote(name) if is_quoted else escape(name)


def _xml(result: str) -> Answer:
    return Answer(200, "Content-Type: application/xml\r\n", f"{_XML}{result}".encode())
