"""The platform's Celery application: five queues with priorities on Redis, and a worker that takes its time.

``CELERY_BROKER_URL`` says where the broker is. Beside its work the worker process plays the rest of
the platform: it refills each queue that runs low, so that there is always a moderate amount waiting,
and once an hour does what a night does (:mod:`sandbox.platform.nightly`).
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
import time
from typing import Any

from celery import Celery, signals
from kombu.entity import Exchange, Queue

from sandbox.platform.data import TENANTS

QUEUES = {
    "intake": ("import_file", 22, 34),
    "calculator": ("compute", 30, 48),
    "hotspot": ("analyse", 12, 20),
    "engagement": ("send_survey", 15, 26),
    "reporting": ("render", 10, 18),
}
"""Queue → its task, below how many waiting tasks it is refilled, and up to how many."""
KEY_PREFIX = "celery:"
PRIORITY_STEPS = (0, 3, 6, 9)
CONCURRENCY = 5
SECONDS = (20, 45)
"""How long a task takes, from and to."""
_LOOK_EVERY = 20
_NIGHTLY_EVERY = 3600
log = logging.getLogger(__name__)


def task_name(queue: str) -> str:
    """Return the full name of a queue's task."""
    return f"vcci.{queue}.{QUEUES[queue][0]}"


def make_app(broker_url: str | None = None) -> Celery:
    """Return the application; without a URL it takes CELERY_BROKER_URL."""
    made = Celery("vcci", broker=broker_url or os.environ.get("CELERY_BROKER_URL"), set_as_current=False)
    made.conf.update(
        task_queues=[_queue(name) for name in QUEUES],
        task_routes={task_name(name): {"queue": name} for name in QUEUES},
        task_create_missing_queues=False,
        task_default_queue="intake",
        task_acks_late=True,  # a task is unacknowledged for as long as it runs
        task_ignore_result=True,
        worker_prefetch_multiplier=2,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": KEY_PREFIX,
            "priority_steps": list(PRIORITY_STEPS),
            "visibility_timeout": 3600,
            "socket_connect_timeout": 5,
        },
    )
    for name in QUEUES:
        made.task(work, name=task_name(name))
    return made


def _queue(name: str) -> Any:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]


def work(tenant_id: str, seconds: float) -> None:
    """Take as long as such work takes."""
    time.sleep(seconds)


def publish(app: Celery, queue: str, count: int) -> None:
    """Send tasks of a queue, of all priorities."""
    rng, task = random.Random(), app.tasks[task_name(queue)]
    # A connection of its own: kombu's pools are global and keep dead connections after Redis was away.
    with app.connection_for_write() as connection, app.amqp.Producer(connection, auto_declare=False) as producer:
        for _ in range(count):
            priority = rng.choices(PRIORITY_STEPS, weights=(2, 6, 3, 1))[0]
            kwargs = {"tenant_id": rng.choice(TENANTS).id, "seconds": round(rng.uniform(*SECONDS), 1)}
            task.apply_async(kwargs=kwargs, priority=priority, producer=producer)


def waiting(app: Celery) -> dict[str, int]:
    """Return how many tasks wait in each queue, whatever their priority; declares the queues."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        return {q.name: q(channel).queue_declare().message_count for q in app.conf.task_queues}


def top_up(app: Celery) -> None:
    """Refill the queues that run low."""
    for queue, depth in waiting(app).items():
        _, low, high = QUEUES[queue]
        if depth < low:
            publish(app, queue, high - depth)


def purge(app: Celery, queue: str) -> None:
    """Drop what waits in a queue."""
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(queue)


def live(app: Celery) -> None:
    """Play the rest of the platform, for ever; survives that Redis or PostgreSQL are away."""
    nightly = time.monotonic() + _NIGHTLY_EVERY
    while True:
        time.sleep(_LOOK_EVERY)
        try:
            top_up(app)
            if time.monotonic() > nightly:
                nightly = time.monotonic() + _NIGHTLY_EVERY
                subprocess.run([sys.executable, "-m", "sandbox.platform.nightly"], check=False, timeout=300)
        except Exception as error:
            log.warning("not now: %s", type(error).__name__)


def _begin(**_: Any) -> None:
    threading.Thread(target=live, args=(app,), daemon=True).start()


app = make_app()
signals.worker_ready.connect(_begin)
