"""Commands of `python -m envtune`: notebooks, episodes, jobs, presets, sweeps, hints, exports."""

import argparse
import json
import os
import re
import sys
from pathlib import Path

import yaml

from envtune import bfcl
from envtune.common import paths
from envtune.env import exports
from envtune.hints import coverage, mining
from envtune.policy import agent as agents
from envtune.record import read_tagged
from envtune.study import browse, notebook, sweep_tables, sweeps
from envtune.train import errors, launch, presets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m envtune", description="Environment Tuning workspace"
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, text: str, under=commands):
        """Add a command that calls `run` with its options; returns what adds an option to it."""
        added = under.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added.add_argument

    def pairs(option, text: str, *flags: str, name: str = "NAME", value: str = "VALUE") -> None:
        metavar = (name, value)
        option(*flags, nargs=2, action="append", default=[], metavar=metavar, help=text)

    exports.add(command)
    parameter = ("-p", "--parameter")
    run = command("run", _run, "execute a notebook with papermill, with a progress bar")
    run("notebook", type=Path)
    pairs(run, "a parameter of the notebook; the value is read as YAML", *parameter)

    check = command("check", _check, "what a preset needs, against the GPU found, or why it fails")
    check("preset", choices=list(presets.PRESETS))
    changed = "a field of the preset to change; the value is read as YAML"
    pairs(check, changed, *parameter, name="FIELD")

    text = "a page with the episodes of runs and evaluations: filter, open, side by side"
    page = command("browse", _browse, text)
    page("runs", metavar="RUN", nargs="+", help="a name in runs/, or a folder; the earlier first")
    page("--out", type=Path, metavar="FILE", help="default: browse.html in the first run's folder")

    text = "the paper's claims, the evidence here, and a verdict, from the committed runs"
    claims = command("claims", _claims, text)
    claims("--write", action="store_true", help="rewrite docs/claims.md")

    text = "what came of a quickstart, in three sentences"
    command("summary", _summary, text)("run_folder", metavar="run", type=Path)

    text = "train the stage of a job file (envtune.train.launch); what `accelerate launch` runs"
    command("train", _train, text)("job", type=Path)

    text = "play the episodes of a folder that an evaluation with vLLM has written"
    command("play", _play, text)("folder", type=Path)

    text = "play held-out tasks with any policy, on any engine, and keep every episode"
    judge = command("evaluate", _evaluate, text)
    text = "a folder, an adapter, a hub id, tiny-agent, smollm2, or a server's name of its model"
    judge("policy", help=text)
    text = "folder under runs/; the same command goes on where a killed one stood"
    judge("--name", required=True, help=text)
    text = "test, test300, validation, train, synthetic, or a file of ids (default test)"
    judge("--tasks", default="test", help=text)
    judge("--limit", type=int, metavar="N", help="only so many of the tasks, spread evenly")
    text = "transformers, vllm, or a server's URL (default: vllm where the preset uses it)"
    judge("--engine", default="", help=text)
    text = "prompt, lengths and precision (default: of the run that trained the policy)"
    judge("--preset", default="", help=text)
    judge("--temperature", type=float, default=0.0, help="0: greedy (default)")
    text = "runs of every task, each with a seed of its own; they need a temperature (default 1)"
    judge("--repeats", "--seeds", type=int, default=1, metavar="N", help=text)
    judge("--seed", type=int, default=0, help="seed of the first of them (default 0)")
    judge("--hints", action="store_true", help="play all once more with hints, and compare")
    text = "a finished evaluation of the same tasks, to be compared with, pair by pair"
    judge("--against", metavar="NAME", help=text)
    judge("--json", action="store_true", help="print summary.json")

    spent = command("cost", _cost, "estimate what a whole run of a preset costs, from a few steps")
    text = "a run folder, or a parquet file of metrics"
    spent("run_folder", metavar="run", nargs="?", type=Path, help=text)
    text = "by arithmetic, without a run: nothing of it is measured"
    spent("--estimate", choices=list(presets.PRESETS), help=text)
    spent("--preset", default="", help="default: the run's own")
    spent("--json", action="store_true", help="print the table as JSON")

    text = "pre-train the embedded agent from nothing (2.5 hours on two cores; resumes)"
    agent = command("agent", _agent, text)
    text = "the deaf one makes no use of hints"
    agent("--name", choices=list(agents.FOLDERS), default="tiny-agent", help=text)
    text = "train nothing: put weights and card of the finished agent into data"
    agent("--write", action="store_true", help=text)

    text = "execute a notebook for every point of a grid, a process and a run folder each"
    sweep = command("sweep", _sweep, text)
    sweep("notebook", type=Path)
    text = "folder under runs/ for the summary; runs are runs/NAME.POINT"
    sweep("--name", required=True, help=text)
    text = "a parameter and a list of its values, as YAML; several make every combination"
    pairs(sweep, text, "--grid", value="VALUES")
    sweep("--points", type=Path, help="a YAML file with a list of parameter sets, not --grid")
    pairs(sweep, "a parameter that is the same for all", *parameter)
    sweep("--workers", type=int, help="runs at once (default: as many as GPUs, or one)")
    text = "run on Ray: local, auto, or a cluster's address"
    sweep("--ray", metavar="ADDRESS", help=text)
    text = "on Ray: how often a run whose worker died is started again (default 3)"
    sweep("--retries", type=int, default=3, help=text)
    sweep("--dry-run", action="store_true", help="check the parameters and list the runs")
    sweep("--json", action="store_true", help="print the summary as JSON")

    text = "checkpoints on the paper's out-of-distribution benchmarks: its Table 2 (docs/ood.md)"
    outside = command("ood", _ood, text)
    text = "a column of the table, and its model's folder; as often as needed"
    pairs(outside, text, "-c", "--checkpoint", value="FOLDER")
    text = "a YAML file with the columns, also {url, model, folder} of servers that run"
    outside("--checkpoints", type=Path, help=text)
    outside(
        "--harness", action="append", help="BFCL V4, tau2-bench or ACEBench Agent (default all)"
    )
    text = "server and model that play the user"
    outside("--user", nargs=2, metavar=("URL", "MODEL"), help=text)
    outside("--limit", type=int, help="questions of each task (default all)")
    pairs(outside, "a field of envtune.study.ood.Options; the value is read as YAML", "--option")
    outside("--name", default="ood", help="folder under runs/; resumes (default ood)")

    hints = commands.add_parser("hints", help="the hint library")
    actions = hints.add_subparsers(dest="action", required=True)
    text = "every error of the tools: vague with its hint, or clear with a reason"
    report = command("coverage", _coverage, text, actions)
    report("--json", action="store_true", help="print one JSON object: summary and sites")
    report("--write", action="store_true", help="rewrite data/hints/coverage.csv")
    text = "what keeps failing in a run's episodes, by tool and error"
    mine = command("mine", _mine, text, actions)
    text = "write and judge hints for it (ENVTUNE_LLM_BASE_URL, ENVTUNE_LLM_MODEL)"
    generate = command("generate", _generate, text, actions)
    for option in (mine, generate):
        option("episodes", type=Path, nargs="+", help="episodes.jsonl.gz of runs")
        text = "episodes that a failure must occur in (default 2)"
        option("--at-least", type=int, default=2, help=text)
    text = "folder of attempts.jsonl; a stopped run resumes"
    generate("--out", type=Path, required=True, help=text)
    text = "where approved records are appended"
    generate("--library", type=Path, default=paths.DATA / "hints", help=text)
    text = "approved hints shown as examples; 0: zero-shot (default 4)"
    generate("--few-shot", type=int, default=4, help=text)
    generate("--workers", type=int, default=4, help="requests at a time (default 4)")
    return parser


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as the number that everybody means; to YAML 1.1 it is a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _read_yaml(text: str, where: object, kind: type = object):
    """A value of YAML. ValueError when it cannot be read, or is not of a kind."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{where}: expected a {kind.__name__}, got {value!r:.100}")
    return value


def _values(pairs) -> dict:
    return {name: _read_yaml(value, f"the value of {name}") for name, value in pairs}


def _run(options) -> None:
    if not options.notebook.exists():
        raise ValueError(f"there is no notebook {options.notebook}")
    executed = notebook.run(options.notebook.resolve(), _values(options.parameter))
    print(f"executed notebook: {executed}")


def _check(options) -> None:
    from envtune.train import memory  # it needs torch

    memory.check(presets.get(options.preset, **_values(options.parameter)))


def _browse(options) -> None:
    if len(options.runs) > 1 and not options.out:
        raise ValueError("several runs make one page: say where with --out FILE")
    page, folder = browse.browse(options.runs), browse.folder_of(options.runs[0])
    print(page.write(options.out or folder / "browse.html"))


def _claims(options) -> None:
    from envtune.study import claims  # it needs matplotlib

    claims.FILE.write_text(claims.page()) if options.write else print(claims.page())


def _summary(options) -> None:
    from envtune.study import quickstart  # it needs matplotlib

    print("\n".join(quickstart.sentences(options.run_folder)))


def _cost(options) -> None:
    from envtune.train import cost  # its arithmetic needs transformers

    if bool(options.estimate) == bool(options.run_folder):
        raise ValueError("give either a run folder or --estimate PRESET")
    if options.estimate:
        preset = presets.get(options.estimate)
        table, gpu = cost.estimate(preset), cost.GPUS[preset.gpu_gib].name
        if not options.json:
            print(f"estimate for {preset.processes} x {gpu}, not measured")
    else:
        table = cost.cost(*cost.read_run(options.run_folder, options.preset))
    text = table.round(2).to_string(index=False, na_rep="")
    print(table.to_json(orient="records", indent=1) if options.json else text)


def _agent(options) -> None:
    from envtune.policy.agent import build  # they need torch
    from envtune.study import agent_card

    make = agent_card.publish if options.write else build.build
    print(make(paths.runs() / "agent", options.name))


def _train(options) -> None:
    launch.begin()
    from accelerate import PartialState

    from envtune.policy import vllm_engine  # they need torch

    file = options.job
    job = launch.read_job(file)
    if job.preset.use_vllm:
        os.environ.update(vllm_engine.environment())
    from envtune.train import grpo  # TRL imports vLLM

    wanted = job.preset.processes
    started = PartialState(cpu=job.preset.parallel == "cpu").num_processes
    if started != wanted:
        raise ValueError(
            f"{file} is a job for {wanted} processes and {started} were started; run "
            + " ".join(launch.command(job.preset, file))
        )

    if launch.PARENT in os.environ:
        grpo.train_stage(**vars(job), on_row=lambda row: launch.say(launch.LINE, row))
        return
    from envtune.train import metrics

    print(grpo.train_stage(**vars(job), on_row=metrics.print_some))


def _play(options) -> None:
    launch.begin()
    from envtune.policy import vllm_engine  # they need torch

    os.environ.update(vllm_engine.environment())
    from envtune.train import playing

    playing.play_job(options.folder)


def _evaluate(options) -> None:
    from envtune.study import evaluation_report  # they need torch and matplotlib
    from envtune.train import evaluation_run as runs

    ids = runs.tasks(options.tasks, options.limit)
    preset = runs.preset_of(options.policy, options.preset)
    how = (options.engine, options.temperature, options.repeats, options.seed, options.hints)
    other = options.against or ""
    found = runs.run(options.name, options.policy, ids, preset, *how, other=other)
    print(json.dumps(found) if options.json else evaluation_report.text(found))


def _sweep(options) -> int:
    axes = _values(options.grid)
    wrong = [name for name, values in axes.items() if not isinstance(values, list) or not values]
    if wrong or bool(axes) == bool(options.points):
        raise ValueError(
            "give either --grid NAME '[VALUE, ...]', as often as needed, or --points FILE"
            + (f"; {', '.join(wrong)} has no list" if wrong else "")
        )
    file = options.points
    choices = sweeps.grid(axes) if axes else _read_yaml(file.read_text(), file, list)
    book, fixed = options.notebook.resolve(), _values(options.parameter)
    if options.dry_run:
        states = sweep_tables.run_states(sweeps.plan(book, options.name, choices, fixed))
        text = states[["run", "state"]].to_string(index=False)
        print(states.to_json(orient="records") if options.json else text)
        return 0
    how = {"workers": options.workers, "ray": options.ray, "retries": options.retries}
    result = sweeps.sweep(book, options.name, choices, fixed, **how, quiet=options.json)
    where = f"summary: {paths.runs() / options.name / 'summary.parquet'}"
    print(result.to_json(orient="records") if options.json else where)
    return 0 if set(result["state"]) == {"done"} else 1


def _ood(options) -> int:
    from envtune.study import ood  # it needs matplotlib

    file = options.checkpoints
    columns = _read_yaml(file.read_text(), file, dict) if file else {}
    columns |= dict(options.checkpoint)
    if not columns:
        raise ValueError("give at least one column: --checkpoint NAME FOLDER")
    user = ood.Endpoint(*options.user) if options.user else None
    settings = ood.Options.of(options.limit, user, _values(options.option))
    harnesses = options.harness or list(ood.HARNESSES)
    rows = ood.run(columns, harnesses, settings, paths.run_dir(options.name))
    print(ood.table(rows).to_string())
    if len(missing := ood.not_run(rows)):
        print("\n" + missing.to_string(index=False))
    return 0 if len(missing) < len(rows) else 1


def _coverage(options) -> None:
    table = coverage.coverage()
    totals = coverage.totals(table)
    if options.write:
        table.to_csv(paths.DATA / "hints" / "coverage.csv", index=False)
    if options.json:
        print(json.dumps({"summary": totals, "sites": table.to_dict("records")}, indent=1))
        return
    print(table.groupby(["class", "state"]).size().unstack(fill_value=0).to_string())
    print(
        f"{totals['sites']} errors, {totals['clear']} clear as they are, {totals['hinted']} of "
        f"{totals['vague']} vague ones with a hint"
    )
    for row in table.to_dict("records"):
        if row["state"] == "open":
            print(f"open: {row['tool']}: {row['error']}")


def _failures(options) -> list:
    def trained_on(line: dict) -> bool:  # validations and evaluations play held-out tasks
        return line.get("kind", "train") == "train" and "repeat" not in line

    records = (r for path in options.episodes for _, r in read_tagged(path, trained_on))
    failures = list(mining.mine(records, options.at_least))
    if not failures:
        print(
            f"no failure occurs in at least {options.at_least} training episodes of these files "
            "(episodes of validations and evaluations are not read)",
            file=sys.stderr,
        )
    return failures


def _mine(options) -> None:
    for failure in _failures(options):
        print(f"{failure.count:5}  {failure.tool}: {failure.error[:100]}")


def _generate(options) -> None:
    from envtune.hints import generator  # it needs the extra `hints`

    endpoint = generator.Endpoint.from_environment()
    settings = (options.out, options.library, options.few_shot, options.workers)
    outcomes = generator.generate(_failures(options), endpoint, *settings)
    print(json.dumps(generator.tally(outcomes)))


EXPECTED = (
    ValueError,
    OSError,
    ImportError,
    bfcl.BFCLUnavailable,
    notebook.NotebookFailed,
    errors.JobFailed,
    errors.RolledBack,
    errors.Collapsed,
)
"""What a command reports in one sentence; any other exception is a bug and keeps its traceback."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0, or 1 after one clear sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except EXPECTED as error:
        launch.tell(error)
        print(f"envtune: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        launch.tell(error)
        message = str(error) or "interrupted; the same command goes on where this one stood"
        print(f"envtune: {message}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
