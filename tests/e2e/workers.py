"""A world whose tasks run in workers of their own: CeleryExecutor, with Redis, and PostgreSQL for Airflow."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery  # type: ignore[import-untyped]

from tests.e2e.processes import Processes
from tests.e2e.world import World
from tests.ports import free_port
from tests.postgres import postgres_server, programs

REDIS = shutil.which("redis-server")
NAME = "CIO_TEST_WORKER"
# Seconds. A worker tells of each task every five seconds; a slow machine must not make it look dead.
HEARTBEAT_TIMEOUT = 60


def missing() -> list[str]:
    """Return the missing programs, by the names of Debian's packages."""
    found = {"redis-server": REDIS, "postgresql": programs()}
    return [package for package, program in found.items() if program is None]


def name() -> str:
    """Return the name of a worker's machine; Airflow asks for it, as `[core] hostname_callable`."""
    return os.environ[NAME]


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis that keeps nothing; return its address."""
    assert REDIS is not None
    port = free_port()
    client = redis.Redis(port=port)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    with Processes() as processes, client:
        options = {"port": str(port), "bind": "127.0.0.1", "save": "", "dir": str(processes.home)}
        args = [arg for option, value in options.items() for arg in (f"--{option}", value)]
        processes.start("redis", *args, env={}, program=REDIS)
        processes.wait(answers, "Redis")
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def celery_world(workers: Sequence[str], *, slots: int, **options: Any) -> Iterator[World]:
    """Make a world whose tasks run in these workers, all of which are ready.

    :param slots: how many tasks a worker runs at a time.
    :param options: of `World`.
    """
    with postgres_server() as server, redis_server() as broker:
        place = "{login}@{host}:{port}/{schema}".format_map(server)
        settings = {
            "CELERY__BROKER_URL": broker,
            "CELERY__RESULT_BACKEND": f"db+postgresql+psycopg://{place}",
            "CELERY__WORKER_CONCURRENCY": str(slots),
            "CORE__EXECUTOR": "CeleryExecutor",
            "DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg://{place}",
            "DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{place}",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        }
        with World(settings=settings, parallelism=slots * len(workers), **options) as world:
            world.env["AIRFLOW__CORE__HOSTNAME_CALLABLE"] = f"{__name__}.name"
            for worker in workers:
                # What they log goes to one folder, where the API reads it: no server for it.
                command = ("celery", "worker", "--celery-hostname", worker, "--skip-serve-logs")
                world.start(worker, *command, **{NAME: worker})
            with Celery(broker=broker) as celery:
                world.wait(lambda: len(celery.control.ping()) == len(workers), "worker")
            world.elapsed(f"{' and '.join(workers)} are ready")
            yield world
