"""The files of a run: JSON lines, files that are written atomically, metrics as a table.

>>> rows = list(read_lines(run_dir / "metrics.jsonl"))
>>> metrics = load_metrics(run_dir)
>>> with atomic(run_dir / "table.parquet") as unfinished:
...     metrics.to_parquet(unfinished)
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextlib.contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[Path]:
    """Write a file or a folder completely or not at all.

    The block writes to the path that it gets; when the block ends without an exception, the
    result is moved to `path`.

    durable: the result is on the disk before it is moved (1 to 8 ms a file). Without it, a power
        loss may leave an empty file under the new name; a kill never does.
    """
    # a name for each writer: two of one file would write into each other's
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.unfinished")
    try:
        yield unfinished
        if durable:
            for file in unfinished.rglob("*") if unfinished.is_dir() else [unfinished]:
                if file.is_file():
                    with open(file, "rb") as written:
                        os.fsync(written.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
        raise


def write_json(path: Path, data, durable: bool = True) -> None:
    """Write a JSON file atomically; durable as in `atomic`."""
    with atomic(path, durable) as unfinished:
        unfinished.write_text(json.dumps(data, indent=1))


def read_json(path: Path, missing=None) -> Any:
    """The content of a JSON file, `missing` if there is none. ValueError if it is damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return missing
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or delete it") from None


def sha256(file: Path) -> str:
    """The digest of a file, measured at 1.7 GB/s on a server core (blake2b: 0.7, crc32: 3.0)."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


def fingerprint(folder: Path) -> str:
    """What a model's folder holds: a digest of its weights, configuration and tokenizer."""
    files = (f for f in sorted(folder.iterdir()) if f.is_file() and f.suffix in MODEL_FILES)
    return hashlib.sha256("".join(f.name + sha256(f) for f in files).encode()).hexdigest()[:16]


def differences(old, new, name: str = "") -> list[str]:
    """What differs between two settings, each with both values.

    >>> differences({"beta": 0.1, "guard": {"window": 8}}, {"beta": 0.5, "guard": {"window": 8}})
    ['beta was 0.1, now 0.5']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in {**old, **new}
            for line in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]

    def short(value) -> str:
        text = json.dumps(value)
        return text if len(text) <= 60 else f"{text[:57]}..."

    return [] if old == new else [f"{name} was {short(old)}, now {short(new)}"]


def read_lines(path: Path, reopened: bool = False, start: int = 0) -> Iterator[Any]:
    """The lines of a .jsonl or .jsonl.gz file. A last line cut short by a kill is left out.

    ValueError for damage anywhere else.

    reopened: the file is appended to after a kill, so lines cut short may be anywhere, and all of
        them are left out.
    start: where to begin, the size of the file before something was appended [bytes].
    """
    torn = None
    try:
        with open(path, "rb") as file:
            file.seek(start)
            raw: Any = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            lines = io.TextIOWrapper(raw, encoding="utf-8")
            for number, line in enumerate(lines, 1):
                if torn:
                    raise ValueError(
                        f"{path}, line {torn}: not JSON, and lines follow it, so this is no "
                        "interrupted write; restore the file, or delete the line"
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


def load_metrics(run_dir: Path, kinds: Sequence[str] = ()):
    """metrics.jsonl as a data frame, with `at`: the step counted over all stages.

    `kinds`: only rows of these kinds are read.

    FileNotFoundError that says what to run.
    """
    import pandas as pd  # here, because `import envtune` reads lines and needs no table

    file = run_dir / "metrics.jsonl"
    if not file.exists():
        raise FileNotFoundError(
            f"{file} does not exist: train the run first (notebooks 00 or 04-07 write it)"
        )
    data = pd.DataFrame(row for row in read_lines(file) if not kinds or row["kind"] in kinds)
    if data.empty:
        raise ValueError(f"{file} has no row {f'of {kinds} ' if kinds else ''}yet")
    stages, before = [], 0
    for _, rows in data.groupby("stage", sort=False):
        stages.append(rows.assign(at=before + rows["step"]))
        before += max(rows["step"])
    return pd.concat(stages, ignore_index=True)


def save_figure(figure, path: Path) -> tuple[Path, Path]:
    """Write a matplotlib figure as `path`.png (200 dpi) and `path`.pdf, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.pdf")
    figure.savefig(files[0], dpi=200)
    figure.savefig(files[1])
    return files
