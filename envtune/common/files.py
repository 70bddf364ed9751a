"""The files of a run: JSON lines, appended whole and torn only at the end and only by a kill; JSON written whole; metrics as a table.

>>> rows = list(read_lines(run_dir / "metrics.jsonl"))
>>> metrics = load_metrics(run_dir)
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd


def read_lines(path: Path, reopened: bool = False) -> Iterator[dict]:
    """The lines of a .jsonl or .jsonl.gz file, up to an end that a kill has torn. ValueError for a damage anywhere else; a file that is
    `reopened` and appended to after a kill may have torn lines within, which are left out."""
    torn = None
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
            for number, line in enumerate(lines, 1):
                if torn:
                    raise ValueError(
                        f"{path}, line {torn}: not JSON, and lines follow it, so this is no interrupted write; restore the "
                        "file, or delete the line"
                    )
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    torn = None if reopened else number
                else:
                    yield row
    except EOFError:  # a gzip file without its end
        return
    except (gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it, or move it away to go on without it"
        ) from None


def write_json(path: Path, data) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps(data, indent=1))
    unfinished.replace(path)


def load_metrics(run_dir: Path) -> pd.DataFrame:
    """metrics.jsonl with `at`: the step counted over all stages. FileNotFoundError that says what to run."""
    file = run_dir / "metrics.jsonl"
    if not file.exists():
        raise FileNotFoundError(
            f"{file} does not exist: train the run first (notebooks 00 or 04-07 write it)"
        )
    data = pd.DataFrame(read_lines(file))
    offset, parts = 0, []
    for stage in data["stage"].unique():
        part = data[data["stage"] == stage].copy()
        part["at"] = part["step"] + offset
        offset += int(part["step"].max())
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
