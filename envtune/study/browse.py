"""The episodes of runs as one HTML page that opens offline: a table, one episode, side by side.

>>> browse("quickstart")                            # in a notebook: shown in the cell
>>> browse(["quickstart", "other"]).write(Path("both.html"))
    $ python -m envtune browse quickstart           # runs/quickstart/browse.html

The table is itables'. Episodes lie in the page as gzip in base64, CHUNK to a piece, and a piece is
unpacked when one of its episodes is opened. browser_page/page.js writes them as text only, the page
may load nothing (Content-Security-Policy), and in a notebook it is a sandboxed iframe: what a model
wrote cannot run.
"""

import base64
import gzip
import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from envtune import bfcl
from envtune.common import paths
from envtune.common.files import atomic
from envtune.record import OUTCOME_WORDS
from envtune.study import episode_table

CHUNK = 200
"""Episodes in one compressed piece of the page."""
PAGE = Path(__file__).with_name("browser_page")
DIGITS = {"step": 0, "repeat": 0, "group": 0, "reward": 3, "advantage": 2}
"""The decimals that the table shows of a number."""


@dataclass(frozen=True)
class Browser:
    """A page with the episodes of runs. Jupyter shows it; `write` makes a file of it."""

    html: str
    title: str
    height: int  # of the frame in a notebook [pixels]

    def write(self, file: Path) -> Path:
        """Write the page to a file that opens offline, and return the file."""
        with atomic(file, durable=False) as unfinished:
            unfinished.write_text(self.html, encoding="utf-8")
        return file

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="{html.escape(self.title)}" '
            f'sandbox="allow-scripts" style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def browse(runs: str | Path | Sequence[str | Path], height: int = 800) -> Browser:
    """The episodes of a run, or of several to compare, as a page.

    runs: names of folders in runs/, or folders; of training runs or evaluations. Give what came
        before first: "before and after" follows this order.
    height: of the frame in a notebook [pixels].

    ValueError for a run without episodes.
    """
    given = [runs] if isinstance(runs, (str, Path)) else list(runs)
    folders = [folder_of(run) for run in given]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(run) for run in given]
    table, lines = episode_table.read(folders, names)
    title = f"Episodes of {', '.join(names)}"
    return Browser(_page(title, table, lines), title, height)


def folder_of(run: str | Path) -> Path:
    """The folder of a run: runs/<name>, or the folder itself."""
    named = paths.runs() / run
    return named if named.is_dir() else Path(run).expanduser()


def _packed(name: str, content) -> str:
    """An element of the page with any JSON content, compressed. base64 cannot end the element."""
    try:
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    except ValueError:  # an argument such as 1e999, which JavaScript's JSON does not know
        finite = json.loads(json.dumps(content), parse_constant=lambda name: str(float(name)))
        text = json.dumps(finite, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
    return f'<script type="text/plain" id="{name}">{packed}</script>'


def _table(cells: pd.DataFrame) -> str:
    """The table as HTML with DataTables, all of it inside the page. Its rows are filled in later.

    itables would write the rows as plain text, which makes a page with 20,000 of them 4 MB larger
    and a second slower.
    """
    import itables  # it is in the extra `notebooks`
    from itables import javascript, options

    texts = [place for place, name in enumerate(cells) if name not in ("no.", *DIGITS)]
    numbers = sorted(set(range(cells.shape[1])) - set(texts))
    table = itables.to_html_datatable(
        cells.iloc[:0],
        table_id="episodes",
        connected=False,
        display_logo_when_loading=False,
        showIndex=False,
        autoWidth=False,
        text_in_header_can_be_selected=False,  # a click on it sorts
        columnDefs=[{"targets": texts, "type": "string"}, {"targets": numbers, "type": "num"}],
        classes="display compact nowrap",
        style="width:100%",
        # not itables' default, which it reduces for a table without rows
        layout={"topStart": "search", "topEnd": "pageLength"}
        | {"bottomStart": "info", "bottomEnd": "paging"},
        lengthMenu=[25, 50, 100, 500],
        drawCallback=itables.JavascriptFunction("function () { drawn(this.api()); }"),
    )
    return javascript.generate_init_offline_itables_html(options.dt_bundle) + table


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """What the page's table shows, escaped: DataTables reads cells as HTML.

    Columns without any value are left out.
    """
    shown = table.copy()
    for name, digits in DIGITS.items():  # as texts, which DataTables sorts as the numbers they are
        numbers = table[name].astype(float).tolist()
        shown[name] = ["" if math.isnan(value) else f"{value:.{digits}f}" for value in numbers]
    shown["won"] = [
        f"{won} of {turns}" for won, turns in zip(table["won"], table["turns"], strict=True)
    ]
    hints: list[list[str] | None] = table["hints"].tolist()
    shown["hints"] = [
        "off" if found is None else ", ".join(found) or "on, none shown" for found in hints
    ]
    shown.insert(0, "no.", range(1, len(shown) + 1))
    shown = shown.drop(columns="turns").rename(columns={"won": "turns won"})
    single = ["run"] if len(set(table["run"])) == 1 else []
    empty = [name for name in table if set(table[name].isna()) == {True}]
    shown = shown.drop(columns=single + empty)
    # a run has stages and an evaluation beside it none
    return shown.astype(object).where(shown.notna(), "").map(lambda cell: html.escape(str(cell)))


def _page(title: str, table: pd.DataFrame, lines: Sequence[dict]) -> str:
    tasks = {}
    for name in dict.fromkeys(table["task"]):
        task = bfcl.load_task(name)
        tasks[name] = {"user": task.user_turns, "truth": task.ground_truth}
    index = table.astype(object).where(table.notna(), None).to_dict("list")
    cells = _cells(table)
    pieces = [_packed("index", index), _packed("tasks", tasks)]
    pieces.append(_packed("cells", cells.to_numpy().tolist()))
    for start in range(0, len(lines), CHUNK):
        pieces.append(_packed(f"chunk-{start // CHUNK}", lines[start : start + CHUNK]))
    parts = {
        "title": html.escape(title),
        "chunk": str(CHUNK),
        "words": html.escape(json.dumps(OUTCOME_WORDS)),
        "style": (PAGE / "page.css").read_text(),
        "script": (PAGE / "page.js").read_text(),
        "data": "\n".join(pieces),
        "table": _table(cells),
    }
    template = (PAGE / "page.html").read_text()
    return re.sub(r"\[\[(\w+)\]\]", lambda place: parts[place[1]], template)
