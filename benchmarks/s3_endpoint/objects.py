"""Buckets of objects and of unfinished uploads, with S3's conditions. No I/O, no waiting."""

from __future__ import annotations

import bisect
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cached_property
from itertools import count
from urllib.parse import quote
from xml.sax.saxutils import escape

__all__ = ["Bucket", "Fault", "Object"]


class Fault(Exception):
    """An answer that is an error, by S3's code and HTTP's status."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Object:
    """One version of an object. `etag` is unquoted."""

    key: str
    body: bytes
    etag: str
    at: float

    @cached_property
    def headers(self) -> str:
        return f'ETag: "{self.etag}"\r\nLast-Modified: {formatdate(self.at, usegmt=True)}\r\n'

    @cached_property
    def line(self) -> str:
        """Its line in a listing, without its key; cached, since a session's objects are listed again and again."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(self.at))
        return (
            f"<LastModified>{at}</LastModified><ETag>&quot;{self.etag}&quot;</ETag><Size>{len(self.body)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )

    @cached_property
    def line_quoted(self) -> str:
        return f"<Contents><Key>{quote(self.key)}</Key>{self.line}"

    @cached_property
    def line_plain(self) -> str:
        return f"<Contents><Key>{escape(self.key)}</Key>{self.line}"


@dataclass
class Bucket:
    """Objects by key; `keys` is sorted as S3 sorts, by UTF-8."""

    objects: dict[str, Object] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    _upload_ids: Iterator[int] = field(default_factory=lambda: count(1))

    def read(self, key: str) -> Object:
        found = self.objects.get(key)
        if found is None:
            raise Fault(404, "NoSuchKey")
        return found

    def write(self, key: str, body: bytes, if_match: str | None, if_none_match: str | None, etag: str = "") -> Object:
        """Check the condition and write, in one step."""
        there = self.objects.get(key)
        if if_match is not None and there is None:
            raise Fault(404, "NoSuchKey")
        if if_match is not None and there is not None and if_match.strip('"') != there.etag:
            raise Fault(412, "PreconditionFailed")
        if if_none_match is not None and there is not None:
            raise Fault(412, "PreconditionFailed")
        if there is None:
            bisect.insort(self.keys, key.encode())
        made = Object(key, body, etag or hashlib.md5(body, usedforsecurity=False).hexdigest(), time.time())
        self.objects[key] = made
        return made

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            del self.keys[bisect.bisect_left(self.keys, key.encode())]

    def after(self, prefix: str, marker: str) -> Iterator[str]:
        """Return the keys with a prefix behind a marker, in order."""
        wanted = prefix.encode()
        start = max(bisect.bisect_left(self.keys, wanted), bisect.bisect_right(self.keys, marker.encode()))
        for i in range(start, len(self.keys)):
            key = self.keys[i]
            if not key.startswith(wanted):
                return
            yield key.decode()

    def begin_upload(self) -> str:
        upload_id = f"upload-{next(self._upload_ids)}"
        self.uploads[upload_id] = {}
        return upload_id

    def parts(self, upload_id: str) -> dict[int, bytes]:
        try:
            return self.uploads[upload_id]
        except KeyError:
            raise Fault(404, "NoSuchUpload") from None

    def complete(
        self, key: str, upload_id: str, numbers: list[int], if_match: str | None, if_none_match: str | None
    ) -> Object:
        parts = self.parts(upload_id)
        if not numbers or any(number not in parts for number in numbers) or numbers != sorted(set(numbers)):
            raise Fault(400, "InvalidPart")
        digests = b"".join(hashlib.md5(parts[number], usedforsecurity=False).digest() for number in numbers)
        etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(numbers)}"
        made = self.write(key, b"".join(parts[number] for number in numbers), if_match, if_none_match, etag)
        del self.uploads[upload_id]
        return made
