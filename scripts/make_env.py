"""Write .env with fresh keys for docker-compose.yaml, once: ``python scripts/make_env.py [--file .env]``.

An existing file is never touched: with another Fernet key Airflow could no longer read what it has
encrypted, and with other database passwords it could not log in. Needs Python alone, no package: a
machine that has only Docker can run it.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def fernet_key() -> str:
    """Return a new key as https://github.com/fernet/spec/blob/master/Spec.md asks for: 32 bytes, base64url."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def render() -> str:
    """Return the text of a .env with new keys; all of them are safe inside a URL and need no quotes."""
    return f"""\
# Keys of docker-compose.yaml, made by `make env`. Keep this file secret, and keep a copy: the database
# volumes can only be read with it.

# Encrypts the connections and variables in Airflow's database.
FERNET_KEY={fernet_key()}
# Signs browser sessions and the links to task logs.
API_SECRET_KEY={secrets.token_hex(32)}
# Signs the tokens of workers and of the API's users.
JWT_SECRET={secrets.token_hex(64)}

# PostgreSQL's superuser, Airflow's role, and the role of the history of results.
POSTGRES_PASSWORD={secrets.token_hex(24)}
AIRFLOW_DB_PASSWORD={secrets.token_hex(24)}
OPS_DB_PASSWORD={secrets.token_hex(24)}
# Airflow's message broker.
REDIS_PASSWORD={secrets.token_hex(24)}
# The Airflow user "admin", made at the first start.
ADMIN_PASSWORD={secrets.token_hex(12)}

# Optional, with their defaults:
# VCCI_OPS_SETTINGS=production
# AIRFLOW_URL=http://127.0.0.1:8080
# AIRFLOW_BIND=127.0.0.1
# AIRFLOW_PORT=8080
# VCCI_OPS_IMAGE=vcci-ops:latest
"""


def write(path: Path) -> None:
    """Write the file, readable by its owner only.

    :raises FileExistsError: when there is one already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(render())


def main(argv: list[str] | None = None) -> int:
    """Write the file and say what comes next; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=ROOT / ".env", help="where to write (default: .env)")
    path = parser.parse_args(argv).file
    try:
        write(path)
    except FileExistsError:
        print(f"{path} exists and stays as it is; read its first lines before you move it away.", file=sys.stderr)
        return 1
    print(
        f"Wrote {path} with fresh keys (mode 0600). Next:\n"
        "  docker compose up -d --build      Airflow on http://127.0.0.1:8080\n"
        f"  user admin, password: ADMIN_PASSWORD in {path.name}\n"
        "  connections of your platform: docs/connections.md\n"
        "  or the stand-in platform instead: docker compose up --build sandbox"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
