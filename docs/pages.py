"""mkdocs hook: pages for what lies outside docs/, and a check of every link of the built site.

A page may link to any file of the repository, as it does on GitHub (`../envtune/record.py`). On the
site a notebook and a Markdown file become pages, a text file becomes a page with its lines, and a
folder its README.md or a list of its files. Notebooks are shown with outputs where docs/executed/
has a copy that `make html` ran, else as source, and each page says which.
"""

import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
DOCS, NOTEBOOKS, EXECUTED = ROOT / "docs", ROOT / "notebooks", ROOT / "docs" / "executed"
LINK = re.compile(r"""(?<=\]\()[^)#\s]+(?=[)#])|(?<=<img src=")[^"]+(?=")""")
COPIED = {".md", ".png", ".svg"}
FENCES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}
LISTED = "---\nsearch: {exclude: true}\n---\n\n"  # front matter of pages that show files
OUTSIDE = {"http", "https", "mailto", "data", "javascript"}
SOURCES: dict[str, Path] = {}
"""The file that each page was made from, by the page's address."""


def address(path: Path) -> str:
    """Where a file of the repository is on the site: notebooks/x.ipynb is notebooks/x.md."""
    if path == ROOT / "README.md":  # index.md is the first page
        return "readme.md"
    if path.parent == EXECUTED or (path.parent == DOCS and path.suffix == ".html"):
        path = NOTEBOOKS / f"{path.stem}.ipynb"
    if path.is_dir():
        return f"{address(path / 'README.md').removesuffix('README.md')}README.md"
    place = path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
    if path.suffix == ".ipynb":
        return place.removesuffix(".ipynb") + ".md"
    return place if path.suffix in COPIED else place + ".md"


def linked(text: str, page: Path) -> Iterator[tuple[str, Path]]:
    """The links of a page to files and folders of the repository, each with what it leads to."""
    for target in LINK.findall(text):
        for folder in (page.parent, DOCS):  # notebook 17 also shows text of docs/claims.md
            path = Path(os.path.normpath(folder / target))
            if path.is_relative_to(ROOT) and path.exists():
                yield target, path
                break


def source_page(path: Path) -> str:
    """A text file as a page with its lines; a folder as a list of links to its files."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file() and f.name[0] not in "._")
        return f"{LISTED}# {name}/\n\n" + "\n".join(f"- [{f.name}]({f.name})" for f in files)
    language = FENCES.get(path.suffix, "text")
    return (
        f'{LISTED}# {name}\n\n~~~~~~ {{ .{language} linenums="1" }}\n{path.read_text()}\n~~~~~~\n'
    )


def sources(book) -> list[str]:
    """The cells of a notebook, without the one that papermill injects."""
    return [cell.source for cell in book.cells if not cell.source.startswith("# Parameters\n")]


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown that says whose outputs it shows, and its pictures by file name."""
    source, executed = nbformat.read(path, as_version=4), EXECUTED / path.name
    book = nbformat.read(executed, as_version=4) if executed.exists() else source
    note = f'<a href="{path.name}" download>The notebook</a> as a file; '
    if not executed.exists():
        note += "**shown without outputs**: it was not run for these pages. "
        note += f"`python -m envtune run notebooks/{path.name}` runs it."
    elif sources(book) != sources(source):
        note += "shown with the outputs of a run. **It was changed after this run.**"
    else:
        note += "shown with the outputs of a run."
    for cell in book.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:  # a block that Markdown leaves as it is
                data["text/html"] = f'<div class="output">{data["text/html"]}</div>'
    book.metadata.language_info = {"name": "python"}
    text, extracted = MarkdownExporter().from_notebook_node(
        book, {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    )
    head, rest = text.split("\n\n", 1)
    return f"{head}\n\n*{note}*\n\n{rest}", extracted["outputs"]


def generated(path: Path, config: MkDocsConfig) -> Iterator[File]:
    """What the site holds of a file outside docs/: its page and the page's pictures."""
    place = address(path)
    beside = place.rpartition("/")[0]
    if path.suffix == ".ipynb":
        content, pictures = notebook_page(path)
        pictures[path.name] = path.read_bytes()
        for name, picture in pictures.items():
            yield File.generated(config, f"{beside}/{name}", content=picture)
    elif path.suffix in COPIED:
        content = path.read_bytes()
    else:
        content = source_page(path)
    yield File.generated(config, place, content=content, inclusion=InclusionLevel.NOT_IN_NAV)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that the navigation names and all that is linked from a page, and from that."""
    SOURCES.clear()
    for file in files.documentation_pages():
        SOURCES[file.src_uri] = DOCS / file.src_uri
    more = [ROOT / "CONTRIBUTING.md", *NOTEBOOKS.glob("*.ipynb")]
    pages = [(path, path.read_text()) for path in SOURCES.values()]
    while more or pages:
        for page, text in pages:
            more += [path for _, path in linked(text, page)]
        pages = []
        for path in more:
            place = address(path)
            if place in SOURCES or files.get_file_from_path(place):
                continue
            if path.is_dir() and (path / "README.md").exists():
                path /= "README.md"
            SOURCES[place] = path
            for file in generated(path, config):
                files.append(file)
            if place.endswith(".md"):
                pages.append((path / "-" if path.is_dir() else path, file.content_string))
        more = []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to the repository's files become links to their pages."""
    source = SOURCES[page.file.src_uri]
    source = source / "-" if source.is_dir() else source
    here = os.path.dirname(page.file.src_uri)
    places = {
        target: os.path.relpath(address(path), here or ".")
        for target, path in linked(markdown, source)
    }
    return LINK.sub(lambda found: places.get(found[0], found[0]), markdown)


class References(HTMLParser):
    """The anchors of a page, its links, and what a browser loads to show it."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.loaded = {""}, [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given.get("id", ""), given.get("name", "")}
        self.loaded += [given["src"]] if "src" in given else []
        if "href" in given:
            (self.loaded if tag == "link" else self.links).append(given["href"])


def broken(site: Path) -> Iterator[str]:
    """Every link of a built site to a missing file or anchor, and all that comes from elsewhere."""
    pages = {path: References(path.read_text()) for path in site.rglob("*.html")}
    for page, found in pages.items():
        for target in found.links + found.loaded:
            parts = urlsplit(target)
            if parts.scheme in OUTSIDE or parts.netloc:
                if target in found.loaded and parts.scheme != "data":
                    yield f"{page.relative_to(site)} loads {target}"
                continue
            base = site if parts.path.startswith("/") else page.parent
            path = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
            path = path / "index.html" if path.is_dir() else path
            known = pages.get(path)
            if not path.exists() or (known and unquote(parts.fragment) not in known.anchors):
                yield f"{page.relative_to(site)} links to {target}"


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site with broken links or with parts that come from the network."""
    if faults := sorted(set(broken(Path(config.site_dir).resolve()))):
        raise PluginError("broken links:\n  " + "\n  ".join(faults))
