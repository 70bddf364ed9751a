"""The first hours on a GPU: what runs, how fast, with how much memory. docs/gpu.md explains it.

    $ python -m benchmarks.gpu                             # every part that is not done yet
    $ python -m benchmarks.gpu --part check stage_lora     # these
    $ python -m benchmarks.gpu --minutes 9 --out results   # stop in time, bring results home
    $ python -m benchmarks.gpu --tiny                      # on a CPU, with the embedded agent

Every part (gpu_parts.py) runs in a process of its own and is stopped after nine minutes. What is
done stands in runs/gpu/state.json and is not run again; the same command goes on. A part that
cannot run here says why. All numbers are measured in the run itself.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from envtune.common import files, paths

PARTS = {
    "check": "packages, device, and what every preset needs here",
    "stage_lora": "stage 1 on colocated vLLM, LoRA",
    "stage_full": "the same, all weights",
    "stage_transformers": "the same without vLLM, LoRA",
    "qlora": "two steps on 4-bit weights",
    "generation": "a vLLM engine in waves and continuously",
    "generation_uncached": "the same without prefix cache",
    "generation_sleep": "the same with sleep mode",
    "stage_sleep": "stage 1 with a vLLM that sleeps while training, LoRA",
    "memory_7b": "gpu-80gb on random weights with full episodes",
    "curriculum": "format warm-up, four stages and evaluation; goes on in the next call",
}
PART_MINUTES = 9.0
SAVING_SECONDS = 30
"""Of a part's time, kept for saving after it was asked to stop."""
FILE_BYTES, FILES = 16 * 2**20, 8
"""The largest file that is brought home, and the most files."""
Outcome = dict
"""state (done, not run, unfinished, failed), why, results, seconds."""


def run_part(name: str, folder: Path, seconds: float, options: Sequence[str]) -> Outcome:
    """Run a part in a process of its own, for at most so many seconds."""
    found = folder / f"{name}.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_parts", name, str(folder), "--of-a-parent"]
    with open(folder / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            [*command, *options],
            cwd=paths.ROOT,
            stdin=subprocess.PIPE,  # the part ends when this process does
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stopped = ""
        try:
            process.wait(max(1.0, seconds - SAVING_SECONDS))
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            stopped = "interrupted" if interrupted else f"stopped after {seconds / 60:.0f} minutes"
            process.send_signal(signal.SIGINT)
            try:
                process.wait(SAVING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    outcome = files.read_json(found, {"state": "failed", "why": "", "results": {}})
    if stopped and outcome["state"] != "done":
        outcome |= {"state": "unfinished", "why": stopped}
    elif process.returncode not in (0, 1) and outcome["state"] != "done":
        why = f"ended with exit code {process.returncode}; its output is in {name}.log"
        outcome |= {"state": "failed", "why": why}
    return outcome


def run(
    wanted: Sequence[str],
    folder: Path,
    minutes: float | None,
    start: Callable[[str, float], Outcome],
    after: Callable[[dict], None] = lambda parts: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Outcome]:
    """Run the wanted parts that are not done; the outcomes of all, kept in folder/state.json.

    minutes: for all parts of this call; None: no limit.
    start: runs a part in so many seconds.
    after: called with all outcomes after every part.
    """
    state, began = folder / "state.json", clock()
    parts: dict[str, Outcome] = files.read_json(state, {})
    for name in wanted:
        if parts.get(name, {}).get("state") == "done":
            print(f"{name}: done before", flush=True)
            continue
        left = PART_MINUTES * 60
        if minutes is not None:
            left = min(left, minutes * 60 - (clock() - began))
        if left < 2 * SAVING_SECONDS:
            print(f"{name}: not started, the time is used", flush=True)
            break
        print(f"{name}: {PARTS[name]} ...", flush=True)
        at = clock()
        outcome = start(name, left)
        seconds = round(clock() - at, 1)
        parts[name] = outcome | {"seconds": seconds}
        files.write_json(state, parts)
        print(f"{name}: {outcome['state']} {outcome['why']} ({seconds:.0f} s)", flush=True)
        after(parts)
        if outcome["why"] == "interrupted":
            break
    return parts


def lines(rows: Sequence[dict], columns: Sequence[str] | None = None) -> list[str]:
    """A markdown table; a value that is missing is empty."""
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in columns] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *cells)] + [""]


def _cell(value) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")


STEP_COLUMNS = (
    "part model engine lora_rank bf16 four_bit episodes steps seconds generation environment rest "
    "first_step tokens_per_second"
).split()
AGREEMENT = "part kl_first_step logprob_difference_mean logprob_difference_max".split()
MEMORY = "part estimated_gib allocated_gib device_gib".split()


def report(parts: dict[str, Outcome]) -> str:
    """What was measured, as markdown."""
    checked = parts.get("check", {}).get("results", {})
    text = ["# Measured on this machine", ""]
    device = checked.get("nvidia_smi") or checked.get("versions", {}).get("device", "unknown")
    text += [f"Device: {device}.", "", "## Parts", ""]
    empty = {"state": "not run", "why": "not started yet"}
    text += lines(
        [
            {"part": name, "what": what, "state": one["state"], "why": one["why"]}
            | ({"seconds": one["seconds"]} if "seconds" in one else {})
            for name, what in PARTS.items()
            for one in [parts.get(name, empty)]
        ]
    )
    found = {name: one["results"] for name, one in parts.items() if one.get("results")}
    steps = [{"part": name, **one} for name, one in found.items() if "generation" in one]
    sections = {
        "Seconds a step (medians without the first; rest: weights to vLLM, loss, update)": (
            steps,
            STEP_COLUMNS,
        ),
        "Log-probabilities, vLLM against the trainer": (
            [one for one in steps if "logprob_difference_max" in one],
            AGREEMENT,
        ),
        "Memory at its fullest [GiB]": ([one for one in steps if "allocated_gib" in one], MEMORY),
        "Generation on a vLLM engine": (
            [
                {"part": name, **row}
                for name, one in found.items()
                if name.startswith("generation")
                for row in one["rows"]
            ],
            None,
        ),
        "Held-out tasks by policy": (found.get("curriculum", {}).get("rows", []), None),
        "Packages": (checked.get("packages", []), None),
    }
    for title, (rows, columns) in sections.items():
        if rows:
            text += [f"## {title}", "", *lines(rows, columns)]
    imports = checked.get("imports", {})
    if broken := {name: why for name, why in imports.items() if why != "ok"}:
        text += [*(f"- `import {name}`: {why}" for name, why in broken.items()), ""]
    if asked := checked.get("trl_asks_for"):
        text += ["TRL asks for: " + "; ".join(asked), ""]
    for name, one in checked.get("presets", {}).items():
        text += [f"## Preset {name}", "", "```", one["table"], *one["problems"], "```", ""]
    return "\n".join(text)


def bring_home(parts: dict[str, Outcome], folder: Path, out: Path) -> None:
    """results.json, table.md, metrics.parquet, and the curriculum's adapters in bf16.

    Folders of this machine are left out of the texts. Other files in `out` are left alone.
    """
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, text in (("results.json", json.dumps(parts, indent=1)), ("table.md", report(parts))):
        for known in (folder, paths.runs(), paths.ROOT, Path.home()):
            text = text.replace(f"{known}/", "").replace(str(known), ".")
        (out / name).write_text(text)
        written.append(out / name)
    metrics = sorted(folder.glob("*/metrics.jsonl"))
    if metrics:
        import pandas as pd

        tables = [files.load_metrics(one.parent).assign(part=one.parent.name) for one in metrics]
        pd.concat(tables, ignore_index=True).to_parquet(out / "metrics.parquet")
        written.append(out / "metrics.parquet")
    for source in sorted(folder.glob("curriculum/*/adapters/adapter_model.safetensors")):
        from safetensors.torch import load_file, save_file

        config = files.read_json(source.parent / "adapter_config.json")
        says = {name: str(config[name]) for name in ("r", "lora_alpha", "peft_type")}
        target = out / f"adapters_{source.parent.parent.name}.safetensors"
        weights = {name: value.bfloat16() for name, value in load_file(source).items()}
        save_file(weights, target, metadata=says)
        written.append(target)
    for file in written:
        if file.stat().st_size > FILE_BYTES:
            print(f"{file.name}: left behind, {file.stat().st_size / 2**20:.0f} MiB are too many")
            file.unlink()
    if (count := len(list(out.iterdir()))) > FILES:
        print(f"{out} has {count} files, more than the {FILES} that are brought home at once")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--minutes", type=float, help="stop in this time; default: no limit")
    parser.add_argument("--out", type=Path, help="folder for what is worth keeping")
    parser.add_argument("--known", type=Path, help="results.json of an --out: done there is done")
    parser.add_argument("--tiny", action="store_true", help="the embedded agent, also on a CPU")
    parser.add_argument("--model", default="smollm2", help="smollm2, a hub id, or a folder")
    options = parser.parse_args()
    folder = (paths.runs() / ("gpu-tiny" if options.tiny else "gpu")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    out = options.out or folder / "home"
    made_with = {"model": options.model, "tiny": options.tiny}
    if files.read_json(folder / "made_with.json", made_with) != made_with:
        print(f"{folder} was made with another model: move it away, or delete it", file=sys.stderr)
        return 2
    files.write_json(folder / "made_with.json", made_with)
    if options.known:
        before = files.read_json(options.known, {})
        done = {name: one for name, one in before.items() if one["state"] == "done"}
        files.write_json(folder / "state.json", done | files.read_json(folder / "state.json", {}))
    flags = ["--model", options.model, *["--tiny"] * options.tiny]
    parts = run(
        [name for name in PARTS if name in options.part],
        folder,
        options.minutes,
        start=lambda name, seconds: run_part(name, folder, seconds, flags),
        after=lambda parts: bring_home(parts, folder, out),
    )
    bring_home(parts, folder, out)
    print(json.dumps({name: one["state"] for name, one in parts.items()}, indent=1))
    print(f"table: {out / 'table.md'}")
    return 1 if any(one["state"] == "failed" for one in parts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
