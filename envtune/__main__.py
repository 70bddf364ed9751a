"""Commands: `python -m envtune export-verl --out DIR`, `python -m envtune run NOTEBOOK [-p NAME VALUE ...]`."""
import argparse
import sys
from pathlib import Path

import yaml

from envtune import bfcl, notebook, splits


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m envtune", description="Environment Tuning workspace")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export-verl", help="write the tasks as parquet files for the verl stack")
    export.add_argument("--out", type=Path, required=True, help="folder to write into")
    export.add_argument("--seed", type=int, default=0, help="seed of the split (default 0)")
    export.add_argument("--mode", choices=splits.MODES, default="scenario", help="how the split is drawn (default scenario)")
    run = commands.add_parser("run", help="execute a notebook with papermill, with a progress bar")
    run.add_argument("notebook", type=Path)
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="a parameter of the notebook; the value is read as YAML")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0, or 1 after one clear sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "export-verl":
            for file in splits.export_verl(options.out, splits.load_splits(options.seed, options.mode)):
                print(file)
        else:
            if not options.notebook.exists():
                raise ValueError(f"there is no notebook {options.notebook}")
            parameters = {name: yaml.safe_load(value) for name, value in options.parameter}
            print(f"executed notebook: {notebook.run(options.notebook.resolve(), parameters)}")
    except (ValueError, OSError, bfcl.BFCLUnavailable, notebook.NotebookFailed) as error:
        print(f"envtune: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
