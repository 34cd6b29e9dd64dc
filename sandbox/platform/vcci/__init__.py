"""The platform's code, as far as a stand-in needs any: what changed from release to release, and which one this is."""

from pathlib import Path

__version__ = Path(__file__).parents[1].joinpath("VERSION").read_text().strip()
