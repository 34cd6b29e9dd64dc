"""The sandbox's services, one module each; :func:`all_services` is the one list of them."""

from __future__ import annotations

from sandbox.service import Service


def all_services() -> list[Service]:
    """Return one instance of every service, in an order that satisfies ``needs``."""
    from sandbox.services import api, git, kube, messages, postgres, prometheus, proxy, redis, registry, s3

    return [
        proxy.Proxy(),
        *postgres.services(),
        redis.Redis(),
        s3.S3(),
        git.Git(),
        registry.Registry(),
        kube.Kube(),
        messages.Messages(),
        api.Api(),
        prometheus.Prometheus(),
    ]
