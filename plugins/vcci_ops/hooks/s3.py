"""Reading S3: few requests, each with a time limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from botocore import exceptions as boto
from botocore.config import Config

from vcci_ops.domain.backups import Page, Stored
from vcci_ops.exceptions import Forbidden, MeasurementError, NoData, UnexpectedAnswer, Unreachable

SYSTEM = "S3"
_LIMITS = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
_NO_ANSWER = (boto.HTTPClientError, boto.ConnectionError)
_CUT = (boto.IncompleteReadError, boto.ResponseStreamingError)
_NOT_SATISFIABLE = 416
"""Answer to a range of an object that has no byte."""
_NO_BUCKET, _NO_KEY = "NoSuchBucket", ("NoSuchKey", "404", "NotFound")


class TimedS3Hook(S3Hook):
    """The provider's hook, with time limits on every request and errors that say what is missing.

    5 s to connect, 10 s to answer, no repeats: a store that does not answer is reported, not waited
    for. ``config_kwargs`` in the connection's extra win over these.
    """

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """Return the Airflow connection.

        :raises MeasurementError: when there is none; the provider would go on with whatever
            credentials it finds on the machine.
        """
        try:
            found: Connection = super().get_connection(conn_id)
            return found
        except AirflowNotFoundException as error:
            raise MeasurementError(f"there is no Airflow connection {conn_id}") from error

    @property
    def config(self) -> Config:
        """The connection's client configuration on top of the time limits."""
        return _LIMITS.merge(super().config)

    def page(self, bucket: str, prefix: str, start_after: str = "") -> Page:
        """List up to 1,000 objects below a prefix, by name, that come after a key.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
        """
        with translated("s3:ListBucket", bucket):
            answer = self.get_conn().list_objects_v2(Bucket=bucket, Prefix=prefix, StartAfter=start_after)
        objects = tuple(Stored(o["Key"], o["Size"], o["LastModified"]) for o in answer.get("Contents", ()))
        return Page(objects, bool(answer.get("IsTruncated")))

    def head(self, bucket: str, key: str, length: int) -> bytes:
        """Read the first bytes of an object; none of an empty one.

        :param length: how many at most.
        :raises NoData: when there is no such object.
        """
        with translated("s3:GetObject", f"{bucket}/{key}"):
            try:
                answer = self.get_conn().get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{length - 1}")
                content: bytes = answer["Body"].read(length)
            except boto.ClientError as error:
                if _status(error) != _NOT_SATISFIABLE:
                    raise
                return b""
        return content


@contextmanager
def translated(action: str, what: str) -> Iterator[None]:
    """Turn the client's errors into ours.

    :param action: what was asked, as policies name it: ``s3:GetObject``.
    :param what: of which bucket or object.
    """
    try:
        yield
    except boto.ClientError as error:
        raise _by_code(error, action, what) from None
    except _CUT:
        raise Unreachable(SYSTEM, f"it broke off in the middle of {what}") from None
    except _NO_ANSWER as error:
        raise Unreachable(SYSTEM, _in_words(error)) from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError):
        raise Forbidden(SYSTEM, f"{action} on {what}: the connection has no credentials") from None
    except boto.BotoCoreError as error:
        raise UnexpectedAnswer(SYSTEM, type(error).__name__) from None


def _by_code(error: Any, action: str, what: str) -> MeasurementError:
    status = _status(error)
    code = str(error.response.get("Error", {}).get("Code", ""))
    if status in (401, 403):
        return Forbidden(SYSTEM, f"{action} on {what} ({code})")
    if code == _NO_BUCKET:
        return NoData(f"{SYSTEM} has no bucket {what.partition('/')[0]}")
    if code in _NO_KEY:
        return NoData(f"{SYSTEM} has no object {what}")
    if status >= 500:
        return Unreachable(SYSTEM, f"it answers {status} {code}")
    return UnexpectedAnswer(SYSTEM, f"{status} {code} to {action} on {what}")


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _in_words(error: Any) -> str:
    endpoint = str(error.kwargs.get("endpoint_url", "")).split("?")[0]
    if isinstance(error, boto.ConnectTimeoutError):
        return f"no connection within 5 s ({endpoint})"
    if isinstance(error, boto.ReadTimeoutError):
        return f"no answer within 10 s ({endpoint})"
    return f"{type(error).__name__} ({endpoint})"
