"""JSON lines as a run leaves them: appended whole, torn only at the end and only by a kill.

    >>> rows = list(read_lines(run_dir / "metrics.jsonl"))
"""
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path


def read_lines(path: Path, reopened: bool = False) -> Iterator[dict]:
    """The lines of a .jsonl or .jsonl.gz file, up to an end that a kill has torn. ValueError for a damage anywhere else; a file that is
    `reopened` and appended to after a kill may have torn lines within, which are left out."""
    torn = None
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
            for number, line in enumerate(lines, 1):
                if torn:
                    raise ValueError(f"{path}, line {torn}: not JSON, and lines follow it, so this is no interrupted write; restore the "
                                     "file, or delete the line")
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    torn = None if reopened else number
                else:
                    yield row
    except EOFError:  # a gzip file without its end
        return
    except (gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or move it away to go on without it") from None
