"""Tools that reach number code in C libraries run in a worker process, which the kernel can end.

    >>> run("MathAPI", Call("logarithm", {"value": 100, "base": 10, "precision": 5}))
    "{'result': mpf('2.0')}"

No signal handler of Python interrupts one long call into C, and a thread that waits for it blocks
the interpreter. So the worker sets a CPU timer without a handler (ITIMER_PROF): when it fires, the
kernel ends the process, whatever code runs. A limit on memory does the same for size. The caller
reads an execution error, and the next call gets a new worker. call_limits.py keeps every accepted
call to milliseconds; the worker is the safety net if one of its bounds is wrong.

The worker also keeps the precision that these tools set for mpmath and decimal out of the trainer's
process. It is started at the first such call (about 0.2 s), serves one process, and ends with it.
The toolbox keeps its answers, so the same numbers are calculated once.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading

from envtune.bfcl.results import printed
from envtune.bfcl.tasks import Call, tool_class
from envtune.common import paths

# stateless tools of MathAPI whose running time grows with the value of an argument
TOOLS = frozenset({"logarithm", "square_root", "power", "round_number"})
CPU_SECONDS = 0.8
MEMORY_BYTES = 2**30
WALL_SECONDS = 30.0  # to wait for a worker that neither answers nor dies, on a suspended machine


class Ended(RuntimeError):
    """The worker was ended before it answered; the message says why."""


class _Worker:
    """A live worker process and the connection to it."""

    def __init__(self):
        where = os.pathsep.join(filter(None, (str(paths.ROOT), os.environ.get("PYTHONPATH", ""))))
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(WALL_SECONDS)
        theirs.setblocking(True)  # whatever socket.setdefaulttimeout says
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from envtune.bfcl import worker; worker.serve()"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env={**os.environ, "PYTHONPATH": where},
            )
        try:
            self._read()  # "ready": the time of its imports counts for no call
        except Ended:
            raise RuntimeError(
                f"the worker for number tools did not start with {sys.executable}; see its own "
                "message above. The agent did nothing wrong, so the episode cannot continue"
            ) from None

    def _read(self) -> bytes:
        """One line of the worker. Ended when it dies first, or is silent for WALL_SECONDS."""
        line = b""
        while not line.endswith(b"\n"):
            try:
                part = self.connection.recv(65_536)
            except OSError:  # silent, or dead before it had read the request
                part = b""
            if not part:
                self.end()
                raise Ended("the calculation took too long or too much memory and was ended")
            line += part
        return line

    def ask(self, request: bytes) -> bytes:
        try:
            self.connection.sendall(request)
        except OSError:
            self.end()
            raise Ended("the calculation could not be started") from None
        return self._read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


_lock = threading.Lock()
_worker: _Worker | None = None


def _forget() -> None:
    """After a fork: the worker is the parent's, and a thread of the parent may hold the lock."""
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


def _end() -> None:
    if _worker is not None:
        _worker.end()


os.register_at_fork(after_in_child=_forget)
atexit.register(_end)


def run(class_name: str, call: Call) -> str:
    """A tool's result as BFCL prints it, an exception as "Error during execution: …".

    Ended when the call went past a limit; RuntimeError when no worker can be started.
    """
    global _worker
    request = json.dumps([class_name, call.name, call.arguments]).encode() + b"\n"
    with _lock:
        if _worker is None or _worker.process.poll() is not None:
            _worker = _Worker()
        try:
            return json.loads(_worker.ask(request))
        except BaseException:  # after an interrupt its late answer would be the next call's
            _worker.end()
            _worker = None
            raise


def serve() -> None:
    """The worker's loop: reads a JSON request per line, writes a JSON text per line."""
    import resource
    import signal

    # Ctrl-C in a terminal reaches the whole process group; the parent ends this process by EOF
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tools = {}
    tool_class("MathAPI")
    print("ready", flush=True)
    for line in sys.stdin:
        class_name, name, arguments = json.loads(line)
        tool = tools.setdefault(class_name, tool_class(class_name)())
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # no handler: SIGPROF ends the process
        text = printed(getattr(tool, name), arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(text), flush=True)
