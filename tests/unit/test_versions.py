"""Versions and image references: exactly what is accepted, and in which order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain import versions
from vcci_ops.domain.versions import ImageReference, Version, parse
from vcci_ops.exceptions import InvalidInput

DIGEST = "sha256:" + "ab" * 32
ORDER = [
    *("v0.9.9", "v1.0.0-0", "v1.0.0-1", "v1.0.0-alpha", "v1.0.0-alpha.1", "v1.0.0-alpha.beta", "v1.0.0-beta"),
    *("v1.0.0-beta.2", "v1.0.0-beta.11", "v1.0.0-rc.1", "v1.0.0", "v1.0.1", "v1.2.0", "v1.10.0", "v2.0.0"),
]


def test_versions_are_ordered_by_semvers_precedence() -> None:
    shuffled = random.Random(7).sample(ORDER, len(ORDER))
    assert [str(version) for version in sorted(map(parse, shuffled))] == ORDER
    assert parse("v2.1.0") == parse("v2.1.0")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2.1.0",
            "v2.1",
            "v2.1.0.0",
            "v02.1.0",
            "v2.01.0",
            "v2.1.00",
            "v2.1.0-",
            "v2.1.0-01",
            "v2.1.0-rc..1",
            "V2.1.0",
        ),
        *(
            "v2.1.0+build.5",
            "v2.1.0-rc.1+5",
            "v2.1.0\n",
            "\nv2.1.0",
            "v2.1.0 ",
            " v2.1.0",
            "",
            "v",
            "latest",
            "v2.1.0-a.lock",
        ),
        *(
            "v２.1.0",
            "v2.1.٠",
            "ｖ2.1.0",
            "v2․1․0",
            "v2.1.0-rс.1",
            "v2.1.0-é",
            "v2.1.0\x00",
            "v2.1.0;id",
            "$(id)",
            "--force",
        ),
        *(
            "v2.1.0-" + "a" * 122,
            "v" + "9" * 1_000_000 + ".1.0",
            "v2.1.0-" + "a" * 1_000_000,
            None,
            2,
            b"v2.1.0",
            ["v2.1.0"],
        ),
    ],
)
def test_anything_else_is_refused_with_the_name_of_the_field(text: object) -> None:
    with pytest.raises(
        InvalidInput, match=r"^target: .* is not accepted; expected a version such as v2\.1\.0"
    ) as caught:
        parse(text, "target")
    assert caught.value.field == "target"
    assert len(str(caught.value)) < 300


def test_128_characters_are_the_most() -> None:
    assert str(parse("v2.1.0-" + "a" * 121)) == "v2.1.0-" + "a" * 121


@given(st.text(max_size=40))
def test_what_is_accepted_is_ascii_and_comes_back_as_it_was(text: str) -> None:
    try:
        version = parse(text)
    except InvalidInput:
        return
    assert text.isascii()
    assert str(version) == text
    assert version == Version(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param(
            f"host:5000/vcci/backend-api:v2.1.0@{DIGEST}", ("host:5000", "vcci/backend-api", "v2.1.0", DIGEST), id="all"
        ),
        pytest.param("127.0.0.1:5000/vcci/worker:v2.1.0", ("127.0.0.1:5000", "vcci/worker", "v2.1.0", ""), id="tag"),
        pytest.param(f"ghcr.io/gl/api@{DIGEST}", ("ghcr.io", "gl/api", "", DIGEST), id="digest"),
        pytest.param("localhost/api", ("localhost", "api", "", ""), id="localhost"),
        pytest.param("[::1]:5000/api:v1.0.0", ("[::1]:5000", "api", "v1.0.0", ""), id="ipv6"),
        pytest.param("vcci/backend-api:v2.0.0", ("", "vcci/backend-api", "v2.0.0", ""), id="no registry"),
        pytest.param("nginx", ("", "nginx", "", ""), id="name only"),
    ],
)
def test_a_reference_is_taken_apart_and_put_together(text: str, parts: tuple[str, str, str, str]) -> None:
    reference = ImageReference.parse(text)
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == parts
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":v1.0.0",
            "Api:v1",
            "host:5000/Api",
            "a b",
            "api:v1\n",
            "api:",
            "api@",
            "api@sha256:12",
            "api:v1@md5:00",
            "/api",
        ),
        *(
            "host:5000//api",
            "host:port/api",
            "api:" + "a" * 129,
            "api@" + DIGEST.upper(),
            "а/pi",
            "host_.x/api",
            "x" * 600,
            None,
        ),
        f"api@{DIGEST}@{DIGEST}",
    ],
)
def test_what_is_no_reference_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput, match=r"^image: "):
        ImageReference.parse(text)


def test_the_version_of_an_image() -> None:
    full = f"host:5000/vcci/backend-api:v2.1.0@{DIGEST}"
    assert versions.version_of(full) == parse("v2.1.0")
    assert versions.version_of("vcci/backend-api:latest") is None
    assert versions.version_of(f"vcci/backend-api@{DIGEST}") is None
    assert versions.version_of("not an image") is None


@pytest.mark.parametrize(
    ("image", "other", "is_newer"),
    [
        ("api:v2.1.0", "api:v2.0.9", True),
        ("api:v2.1.0", "api:v2.1.0", False),
        ("api:v2.0.9", "api:v2.1.0", False),
        ("api:v2.1.0", "api:latest", True),
        ("api:latest", "api:v2.1.0", False),
    ],
)
def test_the_newer_of_two_images(image: str, other: str, is_newer: bool) -> None:
    assert versions.newer(image, other) is is_newer


@pytest.mark.parametrize("text", ["../etc", "a//b", "A", "a/", "a\n", "a" * 300, None])
def test_the_name_of_a_repository_is_whole(text: object) -> None:
    with pytest.raises(InvalidInput, match=r"^repository: "):
        versions.checked_repository(text)


@pytest.mark.parametrize("text", ["", "-a", ".a", "a/b", "a\n", "a" * 129, "ä", None])
def test_a_tag_is_whole(text: object) -> None:
    with pytest.raises(InvalidInput, match=r"^tag: "):
        versions.checked_tag(text)
