"""Fixtures: a real PostgreSQL server of the test session's own, and an empty database on it for each test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

USER = "buscador"
PASSWORD = "S3gredo{x}%@:/?"
"""With the characters that addresses, format strings and configuration files treat as their own."""

INITDB_OPTIONS = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")


@dataclass(frozen=True)
class Server:
    port: int

    def address(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """PostgreSQL as a user without rights (it refuses root), in a temporary folder, on a free port, with passwords."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="cartas-postgres-"))
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    for path in (folder, folder / "password"):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    become = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    data = folder / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", USER, f"--pwfile={folder / 'password'}", *INITDB_OPTIONS],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        **become,
    )
    server = Server(free_port())
    options = ["-p", str(server.port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([programs / "postgres", "-D", data, *options], cwd=folder, stderr=log, **become)
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # its fast shutdown; SIGTERM waits for clients to leave
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: Server, request: pytest.FixtureRequest) -> str:
    """The address, password included, of an empty database."""
    import psycopg

    name = f"busca_{abs(hash(request.node.nodeid))}"
    with psycopg.connect(postgres_server.address("postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}"')
        connection.execute(f'CREATE DATABASE "{name}"')
    return postgres_server.address(name)


def _programs() -> Path:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        pytest.skip("needs a PostgreSQL server's programs: apt-get install postgresql")
    return installed[-1].parent


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(server.address("postgres"), connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, "the server stopped; its log is beside its data"
            assert time.monotonic() < deadline
            time.sleep(0.1)
