"""What a night brings to a platform that stays up: a new backup, and days that move on."""

from __future__ import annotations

from sandbox.service import Sandbox
from sandbox.services import postgres, s3


def main() -> None:
    sandbox, production = Sandbox(), postgres.Production()
    if "platform" not in sandbox.state.read():
        return
    if sandbox.pid(production.name):
        postgres.refresh(sandbox)
    if sandbox.pid(s3.S3.name) and not any(fault in sandbox.state.faults() for fault in s3.FAULTS):
        s3.put_backups(sandbox)


if __name__ == "__main__":
    main()
