"""Commands of `python -m envtune`: run a notebook, check a preset, train a job, export for verl, look after the hints."""

import argparse
import json
import os
import sys
from pathlib import Path

import yaml

from envtune import bfcl
from envtune.bfcl import splits
from envtune.common import paths
from envtune.env import verl_export
from envtune.hints import coverage, mining
from envtune.record import read_records
from envtune.study import notebook, sweeps
from envtune.train import cost, errors, launch, presets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m envtune", description="Environment Tuning workspace"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser(
        "export-verl", help="write the tasks as parquet files for the verl stack"
    )
    export.add_argument("--out", type=Path, required=True, help="folder to write into")
    export.add_argument(
        "--tasks",
        choices=splits.TASKS,
        default="bfcl",
        help="BFCL's tasks, synthetic ones, or both (default bfcl)",
    )
    export.add_argument("--seed", type=int, default=0, help="seed of the split (default 0)")
    export.add_argument(
        "--mode",
        choices=splits.MODES,
        default="scenario",
        help="how the split is drawn (default scenario)",
    )
    run = commands.add_parser("run", help="execute a notebook with papermill, with a progress bar")
    run.add_argument("notebook", type=Path)
    run.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebook; the value is read as YAML",
    )
    check = commands.add_parser(
        "check", help="what a preset needs, against the GPU found; says why when it cannot work"
    )
    check.add_argument("preset", choices=list(presets.PRESETS))
    check.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("FIELD", "VALUE"),
        help="a field of the preset to change; the value is read as YAML",
    )
    table = commands.add_parser(
        "claims",
        help="the paper's claims, the evidence here, and a verdict, from the committed runs",
    )
    table.add_argument("--write", action="store_true", help="write docs/claims.md anew")
    train = commands.add_parser(
        "train",
        help="train the stage of a job file (see envtune.train.launch); what `accelerate launch` runs",
    )
    train.add_argument("job", type=Path)
    spent = commands.add_parser(
        "cost", help="what a whole run of a preset takes, from what a few steps took"
    )
    spent.add_argument("run", type=Path, help="a run folder, or a parquet file of metrics")
    spent.add_argument("--preset", default="", help="default: the run's own")
    spent.add_argument("--json", action="store_true", help="print the table as JSON")
    agent = commands.add_parser(
        "agent",
        help="pre-train the embedded agent from nothing (two hours and a half on two cores; resumes)",
    )
    agent.add_argument(
        "--write", action="store_true", help="put its weights and card into data/tiny_agent"
    )
    sweep = commands.add_parser(
        "sweep",
        help="execute a notebook for every point of a grid, a process and a run folder each",
    )
    sweep.add_argument("notebook", type=Path)
    sweep.add_argument(
        "--name", required=True, help="folder under runs/ for the summary; runs are runs/NAME.POINT"
    )
    sweep.add_argument(
        "--grid",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUES"),
        help="a parameter and a list of its values, as YAML; several make every combination",
    )
    sweep.add_argument(
        "--points", type=Path, help="a YAML file with a list of parameter sets, instead of --grid"
    )
    sweep.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter that is the same for all",
    )
    sweep.add_argument(
        "--workers", type=int, help="runs at once (default: as many as GPUs, or one)"
    )
    sweep.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="run on Ray: local, auto, or a cluster's address",
    )
    sweep.add_argument(
        "--retries",
        type=int,
        default=3,
        help="on Ray: how often a run whose worker died is started again (default 3)",
    )
    sweep.add_argument(
        "--dry-run", action="store_true", help="check the parameters and list the runs"
    )
    sweep.add_argument("--json", action="store_true", help="print the summary as JSON")
    hints = commands.add_parser("hints", help="the hint library").add_subparsers(
        dest="action", required=True
    )
    report = hints.add_parser(
        "coverage", help="every error of the tools: vague with its hint, or clear with a reason"
    )
    report.add_argument(
        "--json", action="store_true", help="print one JSON object: summary and sites"
    )
    report.add_argument("--write", action="store_true", help="write data/hints/coverage.csv anew")
    mine = hints.add_parser(
        "mine", help="what keeps failing in a run's episodes, by tool and error"
    )
    generate = hints.add_parser(
        "generate", help="write and judge hints for it (ENVTUNE_LLM_BASE_URL, ENVTUNE_LLM_MODEL)"
    )
    for command in (mine, generate):
        command.add_argument("episodes", type=Path, nargs="+", help="episodes.jsonl.gz of runs")
        command.add_argument(
            "--at-least",
            type=int,
            default=2,
            help="episodes that a failure must occur in (default 2)",
        )
    generate.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of attempts.jsonl; a run that was stopped goes on",
    )
    generate.add_argument(
        "--library",
        type=Path,
        default=paths.DATA / "hints",
        help="where approved records are appended",
    )
    generate.add_argument(
        "--few-shot",
        type=int,
        default=4,
        help="approved hints shown as examples; 0: zero-shot (default 4)",
    )
    generate.add_argument("--workers", type=int, default=4, help="requests at a time (default 4)")
    return parser


def _generation(options) -> None:
    failures = mining.mine(
        (r for path in options.episodes for r in read_records(path)), options.at_least
    )
    if options.action == "mine":
        for failure in failures:
            print(f"{failure.count:5}  {failure.tool}: {failure.error[:100]}")
        return
    from envtune.hints import generator  # it needs the extra `hints`

    outcomes = generator.generate(
        failures,
        generator.Endpoint.from_environment(),
        options.out,
        options.library,
        options.few_shot,
        options.workers,
    )
    print(json.dumps(generator.tally(outcomes)))


def _coverage(options) -> None:
    table = coverage.coverage()
    summary = coverage.summary(table)
    if options.write:
        table.to_csv(paths.DATA / "hints" / "coverage.csv", index=False)
    if options.json:
        print(json.dumps({"summary": summary, "sites": table.to_dict("records")}, indent=1))
        return
    print(table.groupby(["class", "state"]).size().unstack(fill_value=0).to_string())
    print(
        f"{summary['sites']} errors, {summary['clear']} clear as they are, {summary['hinted']} of {summary['vague']} vague "
        "ones with a hint"
    )
    for row in table[table["state"] == "open"].itertuples():
        print(f"open: {row.tool}: {row.error}")


def _values(pairs) -> dict:
    return {name: yaml.safe_load(value) for name, value in pairs}


def _sweep(options) -> int:
    axes = _values(options.grid)
    wrong = [name for name, values in axes.items() if not isinstance(values, list) or not values]
    if wrong or bool(axes) == bool(options.points):
        raise ValueError(
            "give either --grid NAME '[VALUE, ...]', as often as needed, or --points FILE"
            + (f"; {', '.join(wrong)} has no list" if wrong else "")
        )
    choices = sweeps.grid(axes) if axes else yaml.safe_load(options.points.read_text())
    book, fixed = options.notebook.resolve(), _values(options.parameter)
    points = sweeps.plan(book, options.name, choices, fixed)
    if options.dry_run:
        states = sweeps.run_states(points)
        print(
            states.to_json(orient="records")
            if options.json
            else states[["run", "state"]].to_string(index=False)
        )
        return 0
    result = sweeps.sweep(
        book,
        options.name,
        choices,
        fixed,
        options.workers,
        options.ray,
        options.retries,
        show=None if options.json else sweeps.printer(),
    )
    print(
        result.to_json(orient="records")
        if options.json
        else f"summary: {paths.runs() / options.name / 'summary.parquet'}"
    )
    return 0 if (result["state"] == "done").all() else 1


def _train(file: Path) -> None:
    from accelerate import PartialState

    from envtune.train import grpo  # it needs torch

    job = launch.read_job(file)
    os.environ[launch.INSIDE] = "1"
    started = PartialState(cpu=job["preset"].parallel == "cpu").num_processes
    if started != job["preset"].processes:
        raise ValueError(
            f"{file} is a job for {job['preset'].processes} processes and {started} were started; run "
            + " ".join(launch.command(job["preset"], file))
        )

    def say(line: str) -> None:
        sys.stdout.write(
            f"{line}\n"
        )  # in one piece: processes share this pipe, and print() may send the line's end apart
        sys.stdout.flush()

    say(str(grpo.train_stage(**job, on_row=lambda line: say(launch.LINE + json.dumps(line)))))


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0, or 1 after one clear sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "export-verl":
            for file in verl_export.export_verl(
                options.out,
                splits.of_tasks(options.tasks, options.seed, options.mode),
                options.tasks,
            ):
                print(file)
        elif options.command == "sweep":
            return _sweep(options)
        elif options.command == "check":
            from envtune.train import memory  # it needs torch

            memory.check(presets.get(options.preset, **_values(options.parameter)))
        elif options.command == "cost":
            table = cost.cost(*cost.read_run(options.run, options.preset))
            print(
                table.to_json(orient="records", indent=1)
                if options.json
                else table.round(2).to_string(index=False)
            )
        elif options.command == "claims":
            from envtune.study import claims  # it needs matplotlib

            claims.FILE.write_text(claims.page()) if options.write else print(claims.page())
        elif options.command == "agent":
            from envtune.policy.agent import build  # they need torch
            from envtune.study import agent_card

            print(build.build(paths.runs() / "agent"))
            if options.write:
                print(agent_card.publish(paths.runs() / "agent"))
        elif options.command == "train":
            _train(options.job)
        elif options.command == "hints":
            _coverage(options) if options.action == "coverage" else _generation(options)
        else:
            if not options.notebook.exists():
                raise ValueError(f"there is no notebook {options.notebook}")
            print(
                f"executed notebook: {notebook.run(options.notebook.resolve(), _values(options.parameter))}"
            )
    except (
        ValueError,
        OSError,
        ImportError,
        bfcl.BFCLUnavailable,
        notebook.NotebookFailed,
        errors.JobFailed,
    ) as error:
        print(f"envtune: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(
            f"envtune: {str(error) or 'interrupted; the same command goes on where this one stood'}",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
