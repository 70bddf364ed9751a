import decimal
import multiprocessing
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import mpmath
import pytest

from envtune import Episode, bfcl
from envtune.bfcl import Call, toolbox, worker
from envtune.bfcl.toolbox import Toolbox

MATHS = next(t for t in bfcl.load_tasks().values() if "MathAPI" in t.classes)
LOGARITHM = Call("logarithm", {"value": 100, "base": 10, "precision": 5})


@pytest.fixture(autouse=True)
def nothing_kept():
    toolbox._number.cache_clear()


@pytest.mark.parametrize(
    "call",
    [
        Call("power", {"base": 9, "exponent": 999_999_999}),
        Call("logarithm", {"value": 2.0, "base": 3.0, "precision": 10**8}),
    ],
    ids=lambda c: c.name,
)
def test_one_long_call_into_c_code_is_ended_by_the_kernel_and_the_next_is_answered(call):
    with pytest.raises(
        worker.Ended, match="was ended"
    ):  # call_limits keeps such calls from getting here
        worker.run("MathAPI", call)
    assert worker.run("MathAPI", LOGARITHM) == "{'result': mpf('2.0')}"


def test_a_calculation_that_wants_too_much_memory_is_an_error_and_the_next_is_answered():
    try:
        result = worker.run("MathAPI", Call("square_root", {"number": 2, "precision": 10**17}))
    except worker.Ended:
        result = "an error"
    assert "error" in result.lower() and "result" not in result
    assert worker.run("MathAPI", LOGARITHM) == "{'result': mpf('2.0')}"


def test_an_ended_calculation_is_an_execution_error_and_the_episode_goes_on(monkeypatch):
    monkeypatch.setattr(
        "envtune.bfcl.toolbox.weigh", lambda call: 1
    )  # as if a bound of the table were wrong
    episode = Episode(MATHS)
    reply = episode.step(
        '<think>x</think><tool_call>{"name": "power", "arguments": {"base": 9, "exponent": '
        "999999999}}</tool_call>"
    )
    assert "the calculation took too long" in reply and episode.record.codes == [-2.0]
    assert "mpf('2.0')" in episode.step(
        '<think>x</think><tool_call>{"name": "logarithm", "arguments": {"value": 100, "base": 10, '
        '"precision": 5}}</tool_call>'
    )


def test_a_worker_that_died_is_replaced():
    worker.run("MathAPI", LOGARITHM)
    os.kill(worker._worker.process.pid, signal.SIGKILL)
    worker._worker.process.wait()
    assert worker.run("MathAPI", LOGARITHM) == "{'result': mpf('2.0')}"


def test_the_precision_of_this_process_is_not_touched():
    before = mpmath.mp.dps, decimal.getcontext().prec
    box = Toolbox(MATHS)
    box.execute(Call("logarithm", {"value": 7, "base": 3, "precision": 50}))
    box.execute(Call("square_root", {"number": 2, "precision": 50}))
    assert (mpmath.mp.dps, decimal.getcontext().prec) == before


def test_a_result_does_not_depend_on_the_precision_of_an_earlier_call():
    alone = worker.run("MathAPI", LOGARITHM)
    worker.run("MathAPI", Call("logarithm", {"value": 7, "base": 3, "precision": 50}))
    assert worker.run("MathAPI", LOGARITHM) == alone


def test_the_same_numbers_are_calculated_once_and_other_types_are_other_numbers(monkeypatch):
    asked = []
    run = worker.run
    monkeypatch.setattr(worker, "run", lambda *call: asked.append(call) or run(*call))
    numbers = [2, 2, 2.0, True, 2]
    texts = [Toolbox(MATHS).execute(Call("power", {"base": n, "exponent": 1})) for n in numbers]
    assert texts == [str({"result": n**1}).replace("'", '"') for n in numbers]
    assert len(asked) == 3


def test_a_calculation_that_was_ended_is_tried_again(monkeypatch):
    def ended(*call):
        raise worker.Ended("was ended")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "run", ended)
        assert "was ended" in Toolbox(MATHS).execute(LOGARITHM)
    assert "2.0" in Toolbox(MATHS).execute(LOGARITHM)


def _in_a_fork(_) -> str:
    return worker.run("MathAPI", LOGARITHM)


def test_forked_processes_and_threads_get_workers_and_answers_of_their_own():
    worker.run("MathAPI", LOGARITHM)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert set(pool.map(_in_a_fork, range(6))) == {"{'result': mpf('2.0')}"}
    calls = [Call("logarithm", {"value": 2**i, "base": 2, "precision": 5 + i}) for i in range(40)]
    expected = [worker.run("MathAPI", call) for call in calls]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda call: worker.run("MathAPI", call), calls)) == expected


def test_what_runs_apart_has_no_state_and_is_documented():
    assert set(bfcl.tool_names("MathAPI")) >= worker.TOOLS
    assert not [name for name in vars(bfcl.tool_class("MathAPI")()) if not name.startswith("_")]


def test_a_worker_that_cannot_start_stops_the_run_instead_of_teaching_the_agent_a_lie(monkeypatch):
    monkeypatch.setattr(worker, "_worker", None)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="did not start with /bin/false"):
        Toolbox(MATHS).execute(LOGARITHM)


def test_an_interrupted_call_leaves_no_answer_for_the_next_one(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(worker._Worker, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.run("MathAPI", Call("logarithm", {"value": 1000, "base": 10, "precision": 5}))
    ten_thousand = Call("logarithm", {"value": 10000, "base": 10, "precision": 5})
    assert "4.0" in worker.run("MathAPI", ten_thousand)


def interrupted(self):
    raise KeyboardInterrupt


def test_a_default_timeout_of_sockets_changes_no_result():
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        worker._end()
        worker._worker = None
        assert "3.0" in worker.run(
            "MathAPI", Call("logarithm", {"value": 1000, "base": 10, "precision": 5})
        )
    finally:
        socket.setdefaulttimeout(before)
