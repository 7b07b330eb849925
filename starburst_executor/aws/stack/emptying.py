"""Empties the stack's buckets: CloudFormation deletes no bucket with contents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starburst_executor.aws.clients import FOREIGN, error_code
from starburst_executor.errors import LaunchError

__all__ = ["empty_bucket", "empty_express_bucket"]

_KEYS_AT_ONCE = 1_000


def empty_bucket(s3: Any, bucket: str) -> int:
    """Delete every version, delete marker and incomplete upload; return the number of versions and markers.

    A bucket that is gone is empty. Raises: LaunchError if an object cannot be deleted.
    """
    n_deleted = 0
    try:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            records = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            doomed = [{"Key": record["Key"], "VersionId": record["VersionId"]} for record in records]
            for first in range(0, len(doomed), _KEYS_AT_ONCE):
                _delete(s3, bucket, doomed[first : first + _KEYS_AT_ONCE])
            n_deleted += len(doomed)
        _abort_uploads(s3, bucket)
    except FOREIGN as error:
        if error_code(error) != "NoSuchBucket":
            raise
    return n_deleted


def empty_express_bucket(s3: Any, bucket: str) -> int:
    """Delete every object and incomplete upload of a directory bucket; return the number of objects.

    Its listings have no order, and a key or a continuation after deletions may be anywhere: so each page is the first one.
    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-differences.html

    Raises: LaunchError if an object cannot be deleted.
    """
    n_deleted = 0
    while records := s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        _delete(s3, bucket, [{"Key": record["Key"]} for record in records])
        n_deleted += len(records)
    _abort_uploads(s3, bucket)
    return n_deleted


def _delete(s3: Any, bucket: str, doomed: Sequence[dict[str, str]]) -> None:
    """Delete at most 1,000 objects or versions. Raises: LaunchError."""
    refused = s3.delete_objects(Bucket=bucket, Delete={"Objects": doomed, "Quiet": True}).get("Errors", [])
    if refused:
        raise LaunchError(
            f"an object cannot be deleted: {refused[0].get('Code')}: {refused[0].get('Message')}: bucket={bucket}, "
            f"key={refused[0].get('Key')}"
        )


def _abort_uploads(s3: Any, bucket: str) -> None:
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
