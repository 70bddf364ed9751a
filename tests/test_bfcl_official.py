"""Our verdicts and exported calls against the whole bfcl-eval in an environment of its own.

`make test-bfcl` makes .venv-ood-bfcl and runs this; ENVTUNE_BFCL names another environment.
"""

import ast
import json
import os
import subprocess
from pathlib import Path

import official
import pytest
from adversary import Adversary

from envtune import bfcl
from envtune.bfcl.toolbox import Toolbox
from envtune.common import paths
from envtune.env import bfcl_export, protocol

BFCL = Path(os.environ.get("ENVTUNE_BFCL", paths.ROOT / ".venv-ood-bfcl"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BFCL / "bin" / "bfcl").exists(), reason="needs the whole bfcl-eval: make test-bfcl"
    ),
]

DECODE = """
import json, sys
from bfcl_eval.model_handler.local_inference.qwen_fc import QwenFCHandler
handler = QwenFCHandler("m", 0, "m-FC", True)
for line in sys.stdin:
    print(json.dumps(handler.decode_execute(json.loads(line), has_tool_call_tag=False)))
"""


def test_bfcls_command_judges_every_transcript_as_we_do(tmp_path):
    counts, differing = official.compare(BFCL, tmp_path)
    print(f"\n{official.table(counts)}")
    assert differing == [] and sum(counts.values()) >= 400
    by_kind = {kind for kind, _, valid in counts if valid}
    assert by_kind == {"ground truth", "golden", "bent", "limit, last turn", "hostile"}


def test_bfcls_handler_reads_exactly_our_calls():
    tasks = list(bfcl.load_tasks().values())
    written = [list(turn) for task in tasks for turn in task.ground_truth if turn]
    for task in tasks[::20]:
        adversary, box = Adversary(task, seed=1), Toolbox(task)
        for _ in range(10):
            calls = protocol.parse(adversary.message()).calls
            if calls:
                # what is evaluated of hostile calls: as the export writes them
                written.append([bfcl_export.as_run(box, call) for call in calls])
    steps = [bfcl_export.result_step(calls) for calls in written]
    done = subprocess.run(
        [BFCL.absolute() / "bin" / "python", "-c", DECODE],
        input="\n".join(map(json.dumps, steps)),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    for step, line in zip(written, done.stdout.splitlines(), strict=True):
        assert [parsed(source) for source in json.loads(line)] == [whole(call) for call in step]


def parsed(source: str) -> list:
    """A call in BFCL's source form: one plain name, literal arguments, all by keyword."""
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
    return [call.func.id, {k.arg: ast.literal_eval(k.value) for k in call.keywords}]


def whole(call: bfcl.Call) -> list:
    """A call as a result file can hold it: without half surrogates."""
    return json.loads(bfcl_export.whole(json.dumps([*call], ensure_ascii=False)))
