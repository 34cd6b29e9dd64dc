"""A smoke test that fails."""

from __future__ import annotations


def test_every_supplier_has_a_score() -> None:
    scored, suppliers = 0, 400
    assert scored == suppliers, f"{suppliers - scored} of {suppliers} suppliers have no score"
