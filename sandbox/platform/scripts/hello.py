"""A script of the platform image that does next to nothing: for Jobs that only prove that Jobs run."""

from __future__ import annotations

import os
import sys


def main() -> int:
    who = sys.argv[1] if len(sys.argv) > 1 else "world"
    print(f"hello {who} from {os.environ.get('HOSTNAME', 'nowhere')}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
