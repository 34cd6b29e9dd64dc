"""Redis: the broker of the platform's Celery application in database 0, its cache in database 1."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import redis

from sandbox.platform.data import TENANTS
from sandbox.service import Fault, Sandbox, SandboxError, Service, wait_until

if TYPE_CHECKING:
    from celery import Celery

WORKER = "celery-worker"
CACHE_DB = 1
NO_CONSUMER = "queue-no-consumer"


def client(sandbox: Sandbox, db: int = 0, port: str = "redis-direct") -> redis.Redis:
    """Return a client of the server itself, or through another of the sandbox's ports."""
    return redis.Redis(
        host="127.0.0.1", port=sandbox.port(port), password=sandbox.secret("redis"), db=db, socket_connect_timeout=5
    )


def broker_url(sandbox: Sandbox) -> str:
    """Return Celery's URL of the broker."""
    return f"redis://:{sandbox.secret('redis')}@127.0.0.1:{sandbox.port('redis-direct')}/0"


def application(sandbox: Sandbox) -> Celery:
    """Return the platform's Celery application, connected to this sandbox."""
    from sandbox.platform import celery_app

    if not sandbox.pid(Redis.name):
        raise SandboxError("redis does not run: python -m sandbox heal redis-down, or up")
    return celery_app.make_app(broker_url(sandbox))


class Redis(Service):
    """The Redis server, and the Celery worker that keeps its queues alive. Nothing is saved to disk."""

    name = "redis"
    ports = ("redis-direct",)
    programs: Mapping[str, str] = {"redis-server": "redis-server"}

    def start(self, sandbox: Sandbox) -> None:
        """Run the server; the password is in a file, not on the command line."""
        config = sandbox.data("redis") / "redis.conf"
        config.touch(mode=0o600)
        lines = {
            "bind": "127.0.0.1",
            "port": str(sandbox.port("redis-direct")),
            "requirepass": sandbox.secret("redis"),
            "dir": f'"{config.parent}"',
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
        }
        config.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
        sandbox.spawn(self.name, [sandbox.program("redis-server", "redis-server"), str(config)])

    def ready(self, sandbox: Sandbox) -> bool:
        """Whether it answers to its password."""
        try:
            with client(sandbox) as connection:
                return bool(connection.ping())
        except redis.RedisError:
            return False

    def prepare(self, sandbox: Sandbox) -> None:
        """Fill the cache and the queues, and have a worker work on them."""
        _fill_cache(sandbox)
        start_worker(sandbox)
        from sandbox.platform import celery_app

        celery_app.top_up(application(sandbox))
        with client(sandbox) as connection:
            taken = f"{celery_app.KEY_PREFIX}unacked_index"
            wait_until("a Celery worker at work", lambda: bool(connection.zcard(taken)))

    def stop(self, sandbox: Sandbox) -> None:
        """End the worker at once, for its tasks only sleep; then the server."""
        sandbox.end(WORKER, how=signal.SIGKILL)
        super().stop(sandbox)

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return vcci_redis: the broker's database, through the proxy."""
        return {
            "vcci_redis": {
                "conn_type": "redis",
                "host": "127.0.0.1",
                "port": sandbox.port("redis"),
                "password": sandbox.secret("redis"),
                "extra": {"db": 0},
            }
        }


def start_worker(sandbox: Sandbox) -> None:
    """Run a Celery worker on all queues, but one that nobody shall consume."""
    from sandbox.platform import celery_app

    deserted = (sandbox.state.faults().get(NO_CONSUMER) or {}).get("queue")
    queues = ",".join(name for name in celery_app.QUEUES if name != deserted)
    argv = ["-A", "sandbox.platform.celery_app", "worker", "-n", "worker@vcci", "-Q", queues]
    argv += ["-P", "threads", "-c", str(celery_app.CONCURRENCY), "-l", "WARNING"]
    argv += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    sandbox.python(WORKER, "celery", *argv, env={"CELERY_BROKER_URL": broker_url(sandbox)})


def _fill_cache(sandbox: Sandbox) -> None:
    with client(sandbox, CACHE_DB) as connection, connection.pipeline() as pipe:
        for tenant in TENANTS:
            for number in range(12):
                value = json.dumps({"slug": tenant.slug, "page": number, "rows": list(range(40))})
                pipe.set(f"cache:tenant:{tenant.id}:suppliers:{number}", value, ex=86_400)
            pipe.set(f"cache:tenant:{tenant.id}:settings", json.dumps({"slug": tenant.slug}))
        pipe.execute()


# Faults -----------------------------------------------------------------------------------------


def consumed(app: Celery, timeout: float = 1.0) -> set[str]:
    """Return the queues that a worker says it consumes."""
    with app.connection_for_read() as connection:
        answers = app.control.inspect(timeout=timeout, limit=1, connection=connection).active_queues() or {}
    return {queue["name"] for queues in answers.values() for queue in queues}


def _pile_up(sandbox: Sandbox, options: dict[str, Any]) -> None:
    from sandbox.platform import celery_app

    # Celery sends some; these are copied with new ids, for thousands sent one by one take their time.
    queue, sample = "calculator", 100
    celery_app.publish(application(sandbox), queue, sample)
    with client(sandbox) as connection, connection.pipeline() as pipe:
        lists = [f"{celery_app.KEY_PREFIX}{queue}{end}" for end in ("", "\x06\x163", "\x06\x166", "\x06\x169")]
        sent = [(name, json.loads(message)) for name in lists for message in connection.lrange(name, 0, sample)]
        for number in range(options["tasks"] - sample):
            name, message = sent[number % len(sent)]
            pipe.lpush(name, json.dumps(_renamed(message)))
        pipe.execute()


def _renamed(message: dict[str, Any]) -> dict[str, Any]:
    id_ = str(uuid.uuid4())
    message["headers"].update(id=id_, root_id=id_)
    message["properties"].update(correlation_id=id_, delivery_tag=str(uuid.uuid4()))
    return message


def _clear(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    if not sandbox.pid(Redis.name):  # it comes back with its usual queues
        return
    from sandbox.platform import celery_app

    app = application(sandbox)
    celery_app.purge(app, "calculator")
    celery_app.top_up(app)


def _desert(sandbox: Sandbox, options: dict[str, Any]) -> None:
    from sandbox.platform import celery_app

    app, queue = application(sandbox), options["queue"]
    app.control.cancel_consumer(queue)
    wait_until(f"{queue} without a consumer", lambda: queue not in consumed(app), seconds=10)
    celery_app.publish(app, queue, options["tasks"])


def _return(sandbox: Sandbox, options: dict[str, Any]) -> None:
    if not sandbox.pid(Redis.name):
        return
    from sandbox.platform import celery_app

    app, queue = application(sandbox), options["queue"]
    app.control.add_consumer(queue)
    wait_until(f"{queue} consumed again", lambda: queue in consumed(app), seconds=10)
    if celery_app.waiting(app)[queue] > celery_app.QUEUES[queue][2]:
        celery_app.purge(app, queue)
        celery_app.top_up(app)


def _go_down(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    sandbox.end(Redis.name)


def _come_back(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    service = Redis()
    if sandbox.pid(service.name):
        return
    # The old worker would take its time to notice that the server is back.
    sandbox.end(WORKER, how=signal.SIGKILL)
    service.start(sandbox)
    wait_until("Redis up", lambda: service.ready(sandbox))
    service.prepare(sandbox)


Redis.faults = (
    Fault(
        name="queue-backlog",
        summary="thousands of calculations wait, far more than the workers can do",
        shows_as="queues.depth critical for calculator",
        apply=_pile_up,
        heal=_clear,
        options={"tasks": 5_500},
    ),
    Fault(
        name=NO_CONSUMER,
        summary="the worker stopped consuming one queue, and its tasks wait",
        shows_as="queues.consumers critical for reporting",
        apply=_desert,
        heal=_return,
        options={"queue": "reporting", "tasks": 40},
    ),
    Fault(
        name="redis-down",
        summary="Redis is down",
        shows_as="all queues.* unknown: unreachable",
        apply=_go_down,
        heal=_come_back,
    ),
)
