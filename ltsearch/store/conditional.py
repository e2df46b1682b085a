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

    None, and nothing is written, where the store has no such writes, or boto3 is not there or not allowed to. Raises
    ``OSError`` if the store does not answer.
    """
    parts = urlsplit(path.uri)
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if (client := _client(parts.scheme, parts.query, server, os.getpid())) is None:
        return None
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

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
    except (ConnectionError, HTTPClientError) as error:
        raise OSError(f"{path}: {error}") from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        return False if code in _CHANGED or (code in _ABSENT and seen is not None) else None
    except BotoCoreError:  # without credentials, or too old for conditions
        return None


@lru_cache
def _client(scheme: str, query: str, server: str | None, process: int) -> Any:
    """Of the store that a URI and the environment name, for this process; None if it is not S3, or boto3 cannot reach it."""
    if scheme != "s3":
        return None
    try:
        session = import_module("boto3.session").Session()
        # Soon enough for the lock that is renewed with it; and no checksums that only AWS knows.
        config = import_module("botocore.config").Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"total_max_attempts": 2},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
        )
        options = {name: values[-1] for name, values in parse_qs(query).items()}
        endpoint = options.get("endpoint_override", server)
        if endpoint is not None and "://" not in endpoint:
            endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
        region, certificates = options.get("region"), options.get("tls_ca_file_path")
        return session.client("s3", endpoint_url=endpoint, region_name=region, verify=certificates, config=config)
    except Exception:  # not installed, older, without a profile or region: told apart by nothing
        return None
