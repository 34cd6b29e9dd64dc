"""Reading Redis in few round trips, and asking Celery's workers through it."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import redis
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from vcci_ops.domain.queues import SAMPLE, Broker, Layout, read_task
from vcci_ops.exceptions import Forbidden, MeasurementError, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.lookups import Remembering

SYSTEM = "Redis"
Command = tuple[Any, ...]

_SSL_EXTRAS = ("ssl", "ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
"""Keys of the connection's extra that reach the client, beside ``db``; any other is left out."""


class Question(NamedTuple):
    """A question that was put to the workers."""

    reply_key: str
    binding_key: str
    member: str


class TimedRedisHook(Remembering, BaseHook):
    """Redis with a time limit on every wait, and few round trips.

    The provider's RedisHook sets no time-outs: a Redis that hangs would hold its task for ever. And its
    client spends a round trip each on HELLO and twice on CLIENT SETINFO; this one only authenticates.

    :param redis_conn_id: Airflow connection: host, port, login, password; in extra ``db`` and redis-py's
        ``ssl...`` keys (https://redis.readthedocs.io/en/stable/connections.html).
    :param connect_timeout: seconds; default 5.
    :param timeout: seconds for an answer; default 10.
    """

    def __init__(
        self, redis_conn_id: str = "vcci_redis", *, connect_timeout: float = 5.0, timeout: float = 10.0
    ) -> None:
        super().__init__()
        self.redis_conn_id = redis_conn_id
        self.connect_timeout = connect_timeout
        self.timeout = timeout

    @property
    def db(self) -> int:
        """Number of the connection's database."""
        return int(self._connection.extra_dejson.get("db") or 0)

    @cached_property
    def _connection(self) -> Any:
        try:
            return self.get_connection(self.redis_conn_id)
        except AirflowNotFoundException as error:
            raise MeasurementError(f"there is no Airflow connection {self.redis_conn_id}") from error

    @cached_property
    def client(self) -> redis.Redis:
        """The client; connects with its first command."""
        conn = self._connection
        return redis.Redis(
            host=conn.host or "localhost",
            port=conn.port or 6379,
            db=self.db,
            username=conn.login or None,
            password=conn.password or None,
            socket_connect_timeout=self.connect_timeout,
            socket_timeout=self.timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=None,
            **{key: conn.extra_dejson[key] for key in _SSL_EXTRAS if key in conn.extra_dejson},
        )

    def get_conn(self) -> redis.Redis:
        """Return the client."""
        return self.client

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; return their answers in order.

        An answer that is an error stands in its place as an exception (:func:`refused` says what it means).

        :raises Unreachable: when Redis does not answer in time.
        :raises Forbidden: when it refuses the log-in.
        """
        pipe = self.client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        with self._translated():
            answers: list[Any] = pipe.execute(raise_on_error=False)
        return answers

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        conn = self._connection
        where = f"{conn.host or 'localhost'}:{conn.port or 6379}"
        try:
            yield
        except (exceptions.AuthenticationError, exceptions.AuthorizationError):
            raise Forbidden(SYSTEM, f"log in at {where} as {conn.login or 'default'}") from None
        except exceptions.TimeoutError:
            why = f"{where}: no connection within {self.connect_timeout:g} s, or no answer within {self.timeout:g} s"
            raise Unreachable(SYSTEM, why) from None
        except exceptions.ConnectionError as error:
            raise Unreachable(SYSTEM, f"{where}: {_words(error)}") from None
        except exceptions.RedisError as error:
            raise refused(error) from None


def refused(error: Exception) -> MeasurementError:
    """Say what an error in place of an answer means."""
    if isinstance(error, exceptions.NoPermissionError):
        return Forbidden(SYSTEM, f"run this command or touch this key ({error})")
    if isinstance(error, exceptions.AuthenticationError):
        return Forbidden(SYSTEM, "run commands without logging in")
    return UnexpectedAnswer(SYSTEM, str(error))


def _words(error: BaseException) -> str:
    """Return the operating system's words for it, which hold no address and no credential."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


class CeleryBroker:
    """Reads what kombu keeps in Redis: waiting tasks, bindings, tasks in flight.

    :param layout: which queues, and how their keys are called.
    """

    def __init__(self, hook: TimedRedisHook, layout: Layout) -> None:
        self._hook = hook
        self._layout = layout

    def read(self, more: Sequence[Command] = ()) -> tuple[Broker, list[Any]]:
        """Read the broker in one round trip; return it, and the answers to further commands sent along.

        A second round trip follows only where the tasks in flight are more than a sample.

        :raises MeasurementError: when Redis does not answer or refuses.
        """
        commands = reading(self._layout)
        answers = self._hook.ask([*commands, *more])
        return self._broker(answers[: len(commands)]), answers[len(commands) :]

    def _broker(self, answers: Sequence[Any]) -> Broker:
        layout, given = self._layout, iter(answers)

        def lengths(queue: str) -> Any:
            found = {step: next(given) for step in layout.lists(queue)}
            failed = next((answer for answer in found.values() if isinstance(answer, Exception)), None)
            return refused(failed) if failed else found

        waiting = {queue: lengths(queue) for queue in layout.queues}
        rest = list(given)
        for answer in rest:
            if isinstance(answer, Exception):
                raise refused(answer)
        *bound, in_flight, (_, sample), taken = rest
        routes = {
            (exchange, key): queue
            for exchange, members in zip(layout.bindings, bound, strict=True)
            for key, queue in layout.members(members)
        }
        broker = Broker(waiting=waiting, routes=routes, in_flight=in_flight, tasks={}, taken=_pairs(taken))
        self._read_tasks(broker, sample)
        return broker

    def _read_tasks(self, broker: Broker, sample: dict[bytes, bytes]) -> None:
        """Read the sample; then, where it is only a part, the oldest tasks as well."""
        layout = self._layout
        missing = [tag for tag in list(broker.taken)[:SAMPLE] if tag.encode() not in sample]
        if missing and broker.in_flight > len(sample):
            (found,) = self._hook.ask([("HMGET", layout.unacked, *missing)])
            if isinstance(found, list):
                sample |= {tag.encode(): raw for tag, raw in zip(missing, found, strict=True) if raw}
        for tag, raw in sample.items():
            name = tag.decode(errors="replace")
            broker.tasks[name] = read_task(name, raw, broker.routes, layout.queues)


def reading(layout: Layout) -> list[Command]:
    """Return the commands that read the broker, in the order that their answers are taken in."""
    commands: list[Command] = [("LLEN", key) for queue in layout.queues for key in layout.lists(queue).values()]
    commands += [("SMEMBERS", layout.binding(exchange)) for exchange in layout.bindings]
    commands.append(("HLEN", layout.unacked))
    commands.append(("HSCAN", layout.unacked, 0, "COUNT", SAMPLE))
    commands.append(("ZRANGE", layout.index, 0, SAMPLE - 1, "WITHSCORES"))
    return commands


def _pairs(flat: Sequence[Any]) -> dict[str, float]:
    """Read tags and scores, which take turns in Redis's answer."""
    return {tag.decode(errors="replace"): float(at) for tag, at in zip(flat[::2], flat[1::2], strict=True)}


class WorkerMailbox:
    """Asks Celery's workers which queues they consume, over a connection that exists already.

    ``celery inspect active_queues`` opens connections of its own without time-outs, and always waits
    out its whole time, for it does not know how many workers there are. This speaks the same protocol
    (kombu.pidbox): a message is published to all workers, each pushes its answer to a list of ours.
    PUBLISH says how many receive it, so that the wait ends with the last answer, and a worker that does
    not answer is told from none being there.

    :param prefix: Celery's global_keyprefix.
    :param separator: kombu's ``sep``.
    :param namespace: Celery's control_exchange.
    """

    def __init__(
        self, hook: TimedRedisHook, *, prefix: str = "", separator: str = "\x06\x16", namespace: str = "celery"
    ) -> None:
        self._hook = hook
        self._prefix = prefix
        self._separator = separator
        self._namespace = namespace

    def question(self, method: str = "active_queues") -> tuple[Question, list[Command]]:
        """Return a question and the two commands that put it: SADD, then PUBLISH."""
        exchange, me = f"{self._namespace}.pidbox", str(uuid.uuid4())
        reply_queue = f"{me}.reply.{exchange}"
        question = Question(
            reply_key=self._prefix + reply_queue,
            binding_key=f"{self._prefix}_kombu.binding.reply.{exchange}",
            member=self._separator.join((me, "", reply_queue)),
        )
        body = {
            "method": method,
            "arguments": {},
            "destination": None,
            "pattern": None,
            "matcher": None,
            "ticket": me,
            "reply_to": {"exchange": f"reply.{exchange}", "routing_key": me},
        }
        channel = f"{self._prefix}/{self._hook.db}.{exchange}"
        publish = ("PUBLISH", channel, _message(body, exchange))
        return question, [("SADD", question.binding_key, question.member), publish]

    def answers(self, question: Question, receivers: int, patience: float = 1.5) -> dict[str, Any]:
        """Return worker → its answer, as far as they came.

        :param receivers: what PUBLISH answered.
        :param patience: seconds to wait for the first; at most twice that for all. Below half of the
            hook's ``timeout``.
        """
        # All waits and the cleaning up in one round trip. The first wait is for the quickest worker; the
        # others, which answer at about the same time, share as long again.
        waits = [patience] + [max(patience / receivers, 0.01)] * (receivers - 1) if receivers else []
        commands: list[Command] = [("BRPOP", question.reply_key, f"{seconds:.3f}") for seconds in waits]
        commands += [("SREM", question.binding_key, question.member), ("DEL", question.reply_key)]
        popped = self._hook.ask(commands)[: len(waits)]
        for answer in popped:
            if isinstance(answer, exceptions.RedisError):
                raise refused(answer)
        replies = [answer[1] for answer in popped if answer]
        merged: dict[str, Any] = {}
        for reply in replies:
            merged.update(_body(reply))
        return merged


def _message(body: dict[str, Any], exchange: str) -> str:
    """Wrap a body as kombu's virtual transports do."""
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"clock": 1, "expires": 0},
            "properties": {
                "delivery_mode": 1,
                "delivery_info": {"exchange": exchange, "routing_key": ""},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def _body(message: bytes) -> dict[str, Any]:
    try:
        content = json.loads(message)["body"]
        body = json.loads(base64.b64decode(content))
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedAnswer(
            "A Celery worker", f"a reply that is no JSON message ({type(error).__name__})"
        ) from error
    return body if isinstance(body, dict) else {}
