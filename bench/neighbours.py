"""Starts what we are measured against: a redis-server of its own, Celery workers, a bare WebSocket server."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import redis

from e2e.harness import until


def free_port() -> int:
    """redis-server cannot choose one by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def redis_server(directory: Path, *settings: str) -> AsyncIterator[int]:
    """Its port. Nothing is saved unless the settings say so."""
    program = shutil.which("redis-server")
    assert program, "redis-server is not installed: run ./dev install"
    directory.mkdir(parents=True)
    port = free_port()
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "", *settings]
    async with _running(argv, directory / "redis.log"):
        client = redis.Redis(port=port)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        await until(answers, 10, "redis-server answers")
        client.close()
        yield port


@asynccontextmanager
async def celery_worker(directory: Path, pool: str, redis_port: int, database: int) -> AsyncIterator[Mapping[str, str]]:
    """The environment in which bench.celery_app speaks to this worker."""
    env = {**os.environ, "BENCH_REDIS_URL": f"redis://127.0.0.1:{redis_port}/{database}"}
    argv = [sys.executable, "-m", "celery", "-A", "bench.celery_app", "worker", "--pool", pool, "--loglevel", "WARNING"]
    log = directory / f"celery-{pool}.log"
    async with _running([*argv, "--concurrency", str(os.cpu_count() or 2), "--without-gossip"], log, env):
        ask = [sys.executable, "-m", "celery", "-A", "bench.celery_app", "inspect", "ping"]
        await until(
            lambda: subprocess.run(ask, env=env, capture_output=True).returncode == 0, 30, f"celery {pool} answers"
        )
        yield env


@asynccontextmanager
async def _running(argv: list[str], log: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[None]:
    with log.open("ab") as out, subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env) as it:
        try:
            yield
        finally:
            it.terminate()
            it.wait(30)
