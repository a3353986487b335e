"""``python -m module`` in processes that have torch and the trainer already.

Importing them takes a process seven seconds of processor time. `warm_starts` (a fixture in tests/conftest.py)
sends the starts of `MODULES` to a server that has imported them once and forks; a start with pipes, and every
other one, is as always. What is forked has its own log, session, environment and folder, and dies of signals
as any process does. Starts as a person's program makes them stay in test_session (the same losses in a child,
a thread and on the command line), test_crashes, test_cli, test_importing, test_real_run and test_xvfb.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NoReturn

MODULES = ("so8t_engine.training.child", "so8t_engine.cli")
#: The server's address, for test processes that another one starts.
ADDRESS = "SO8T_TESTS_WARM"
_server: subprocess.Popen[str] | None = None


def server_pid() -> int | None:
    """Of the server that this process started: no process that a window left behind."""
    return None if _server is None else _server.pid


def address() -> str:
    """Where the server listens; it is started with the first call."""
    global _server
    if ADDRESS not in os.environ:
        path = str(Path(tempfile.mkdtemp(prefix="so8t-tests-warm-")) / "socket")
        # It ends with this process: its standard input closes.
        _server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert _server.stdout is not None
        assert _server.stdout.readline() == "ready\n"
        os.environ[ADDRESS] = path
    return os.environ[ADDRESS]


class WarmProcess:
    """What `subprocess.Popen` gives, as far as trainers and services are asked."""

    stdin = stdout = stderr = None

    def __init__(self, words: list[str], files: list[int], environment: dict[str, str], **named: Any) -> None:  # noqa: ANN401
        self.args, self.returncode = words, None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address())
        request = {
            "module": words[2], "arguments": words[3:], "environment": environment,
            "folder": str(named.get("cwd") or Path.cwd()), "session": bool(named.get("start_new_session")),
        }  # fmt: skip
        data = json.dumps(request).encode()
        socket.send_fds(self._connection, [len(data).to_bytes(8, "big")], files)
        self._connection.sendall(data)
        self._told = self._connection.makefile("rb")
        self.pid = int(self._told.readline())

    returncode: int | None

    def poll(self) -> int | None:
        return self._end(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._end(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def _end(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = int(self._told.readline())
            self._told.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, or a `WarmProcess` for what the server can start."""

    def __new__(cls, words: Any, *rest: Any, **named: Any) -> Any:  # noqa: ANN401
        streams = [named.get(name) for name in ("stdin", "stdout", "stderr")]
        if (
            not isinstance(words, list)
            or words[:2] != [sys.executable, "-m"]
            or words[2] not in MODULES
            or rest
            or subprocess.PIPE in streams
        ):
            return super().__new__(cls)
        with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
            files: list[int] = []
            for number, stream in enumerate(streams):
                files.append(_file(stream, number, nothing, files))
            return WarmProcess(words, files, dict(named.pop("env", None) or os.environ), **named)


def _file(stream: IO[bytes] | int | None, number: int, nothing: IO[bytes], before: list[int]) -> int:
    if stream is None:
        return number
    if stream == subprocess.DEVNULL:
        return nothing.fileno()
    if stream == subprocess.STDOUT:
        return before[1]
    return stream if isinstance(stream, int) else stream.fileno()


def _run(request: dict[str, Any], files: list[int]) -> NoReturn:
    """In the forked process: the module as ``python -m`` runs it."""
    status = 70
    try:
        if request["session"]:
            os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [request["module"], *request["arguments"]]
        try:
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        logging.exception("%s", request["module"])
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _fork(connection: socket.socket) -> int:
    head, files, _flags, _from = socket.recv_fds(connection, 8, 3)
    size, data = int.from_bytes(head, "big"), b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    pid = os.fork()
    if pid == 0:
        _run(json.loads(data), files)
    for file in files:
        os.close(file)
    connection.sendall(b"%d\n" % pid)
    return pid


def _serve(path: str) -> None:
    from so8t_engine.training.importing import import_trainer

    import_trainer()
    children: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)  # noqa: T201
        while True:
            # A child's end comes as no event here.
            ready, _w, _x = select.select([listening, sys.stdin], [], [], 0.02 if children else None)
            if sys.stdin in ready:
                break
            if listening in ready:
                connection, _address = listening.accept()
                children[_fork(connection)] = connection
            for pid, connection in list(children.items()):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    del children[pid]
                    try:
                        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                    except BrokenPipeError:
                        continue  # nobody waits for it any more
                    finally:
                        connection.close()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    Path(path).unlink()
    Path(path).parent.rmdir()


if __name__ == "__main__":
    _serve(sys.argv[1])
