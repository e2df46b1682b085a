"""Objects that one of several writers gets: S3's conditional writes, which boto3 reaches and pyarrow does not."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

from trainables.files import RemotePath

_CHANGED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_ABSENT = ("NoSuchKey", "404")


def replace(path: RemotePath, content: bytes, seen: bytes | None) -> bool | None:
    """Write an object if it is as it was ``seen`` (None: not there); False if another writer was faster.

    None, and nothing is written, where the store has no such writes, or boto3 is not installed. Raises ``OSError``.
    """
    parts = urlsplit(path.uri)
    if (client := _client(parts.scheme, parts.query, os.environ.get("AWS_ENDPOINT_URL"), os.getpid())) is None:
        return None
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path._place[1].partition("/")
    where = {"Bucket": bucket, "Key": key}
    try:
        if seen is None:
            client.put_object(**where, Body=content, IfNoneMatch="*")
            return True
        now = client.get_object(**where)
        if now["Body"].read() != seen:
            return False
        client.put_object(**where, Body=content, IfMatch=now["ETag"])
        return True
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        if code in _CHANGED or (code in _ABSENT and seen is not None):
            return False
        if code in ("NotImplemented", "501"):
            return None
        raise OSError(f"{path}: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"{path}: {error}") from error


@lru_cache
def _client(scheme: str, query: str, server: str | None, process: int) -> Any:
    """Of the store that a URI and the environment name, for this process; None if it is not S3."""
    if scheme != "s3":
        return None
    try:
        boto3 = import_module("boto3")
    except ImportError:
        return None
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    endpoint = options.get("endpoint_override")
    if endpoint is not None and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    return boto3.client("s3", endpoint_url=endpoint, region_name=options.get("region"))
