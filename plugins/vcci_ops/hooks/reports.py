"""The report bucket: one folder a run, with the page and the JSON document."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

from vcci_ops.exceptions import DeliveryFailed

if TYPE_CHECKING:
    from vcci_ops.domain.access_report import AccessReport
    from vcci_ops.domain.drill_report import DrillReport
    from vcci_ops.domain.maintenance_report import MaintenanceReport
    from vcci_ops.domain.release_report import ReleaseReport
    from vcci_ops.domain.report import Report
    from vcci_ops.settings import Settings


def report_key(prefix: str, environment: str, dag_id: str, run_id: str) -> str:
    """Return the key of a run's folder, with a closing slash.

    No two runs share one: what a URL would have to escape stands as ``=`` and its bytes in hex.
    """

    def escaped(match: re.Match[str]) -> str:
        return "".join(f"={byte:02X}" for byte in match[0].encode("utf-8", "replace"))

    return f"{prefix}{environment}/{dag_id}/{re.sub(r'[^A-Za-z0-9._-]', escaped, run_id)}/"


class ReportStore:
    """Write reports to the bucket of the settings and read them back.

    :param bucket: name of the bucket.
    :param prefix: key prefix, with a closing slash.
    :param environment: of the settings; environments may share a bucket.
    :param aws_conn_id: AWS connection.
    """

    def __init__(self, bucket: str, prefix: str, environment: str, aws_conn_id: str = "vcci_s3") -> None:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from botocore.config import Config

        self.bucket = bucket
        self.prefix = prefix
        self.environment = environment
        config = Config(connect_timeout=5, read_timeout=15, retries={"max_attempts": 2})
        self._hook = S3Hook(aws_conn_id, config=config)

    @classmethod
    def of(cls, settings: Settings, aws_conn_id: str = "vcci_s3") -> ReportStore:
        """Return where the settings' reports go."""
        where = settings.reports
        return cls(where.bucket, where.prefix, settings.environment, aws_conn_id)

    def save(self, report: Report | ReleaseReport | AccessReport | DrillReport | MaintenanceReport, page: str) -> str:
        """Write page and document and return the page's s3:// address.

        boto3 sends a checksum with each, and S3 refuses what does not match it on arrival.

        :raises DeliveryFailed: when the bucket does not take them.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        from vcci_ops.hooks.crew import Crew

        key = report_key(self.prefix, self.environment, report.dag_id, report.run_id)
        document = json.dumps(report.to_dict(), indent=1)
        files = (("report.json", document, "application/json"), ("report.html", page, "text/html; charset=utf-8"))
        client = self._hook.get_conn()
        with Crew(len(files)) as crew:
            written = [
                crew.submit(
                    partial(client.put_object, Bucket=self.bucket, Key=key + name, Body=text.encode(), ContentType=kind)
                )
                for name, text, kind in files
            ]
            try:
                for answer in written:
                    answer.result()
            except ClientError as error:
                raise DeliveryFailed(f"s3://{self.bucket}", error.response["Error"].get("Code", "refused")) from error
            except BotoCoreError as error:
                raise DeliveryFailed(f"s3://{self.bucket}", type(error).__name__) from error
        return f"s3://{self.bucket}/{key}report.html"

    def save_file(self, dag_id: str, run_id: str, name: str, content: bytes, kind: str) -> str:
        """Write one more file into the run's folder and return its s3:// address.

        :raises DeliveryFailed: when the bucket does not take it.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        key = report_key(self.prefix, self.environment, dag_id, run_id) + name
        try:
            self._hook.get_conn().put_object(Bucket=self.bucket, Key=key, Body=content, ContentType=kind)
        except ClientError as error:
            raise DeliveryFailed(f"s3://{self.bucket}", error.response["Error"].get("Code", "refused")) from error
        except BotoCoreError as error:
            raise DeliveryFailed(f"s3://{self.bucket}", type(error).__name__) from error
        return f"s3://{self.bucket}/{key}"

    def page(self, dag_id: str, run_id: str, name: str = "report.html") -> str | None:
        """Return a page of a run's folder, or None when there is none."""
        from botocore.exceptions import ClientError

        key = report_key(self.prefix, self.environment, dag_id, run_id) + name
        try:
            body: bytes = self._hook.get_conn().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"].get("Code") in ("NoSuchKey", "404"):
                return None
            raise
        return body.decode()
