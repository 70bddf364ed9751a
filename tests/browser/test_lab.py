"""What a person does in JupyterLab, in headless Chromium: train in 00, watch, interrupt, go on,
look at episodes. Pictures of each step are left in runs/browser/. `make test-browser` runs it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from envtune.common import files, paths

pytestmark = pytest.mark.browser

BOOK = paths.NOTEBOOKS / "00_quickstart.ipynb"
PICTURES = paths.ROOT / "runs" / "browser"
STEPS = 16
SMALLEST = {
    "preset": "cpu-smoke",
    "run_name": "lab",
    # the interrupt comes in the second stage; long, as a step can take less than a second
    "stage_steps": [2, STEPS, 1, 1],
    "held_out_tasks": 4,
    "bfcl_tasks": 1,
}
QUIET = {"fetchNews": "false", "checkForUpdates": False}  # else JupyterLab asks on its first day
PATIENCE = 360_000
"""How long a step may take on a busy machine [ms]."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own on a free port, with 00 in its folder: (its address, the folder)."""
    folder = tmp_path_factory.mktemp("lab")
    book = nbformat.read(BOOK, as_version=4)
    parameters = book.cells[1]
    for name, value in SMALLEST.items():
        parameters.source, changed = re.subn(
            rf"(?m)^({name}: \w+ =) [^#\n]+", rf"\1 {value!r}  ", parameters.source
        )
        assert changed == 1
    nbformat.write(book, folder / "00.ipynb")
    own = {
        name: str(folder / ".jupyter" / name)
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR",
        )
    }
    settings = Path(own["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(QUIET))
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ServerApp.port=0"]
    command += [f"--ServerApp.root_dir={folder}", *["--allow-root"] * (os.geteuid() == 0)]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **own})
    try:
        for _ in range(240):
            found = list(Path(own["JUPYTER_RUNTIME_DIR"]).glob("jpserver-*.json"))
            if found or server.poll() is not None:
                break
            time.sleep(0.5)
        assert found, (folder / "server.log").read_text()
        at = json.loads(found[0].read_text())
        yield f"{at['url']}lab/tree/00.ipynb?token={at['token']}", folder
    finally:
        server.terminate()  # it ends its kernels
        server.wait(timeout=60)


@pytest.fixture
def page():
    """A page of a new browser; what it shows at the end of the test is kept as lab_last.png."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    )
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] * (os.geteuid() == 0)
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield page
        page.screenshot(path=PICTURES / "lab_last.png")
        browser.close()


def picture(page: Page, name: str, shown) -> None:
    """A cell and what stands below it, in both themes."""
    for theme in ("Dark", "Light"):
        menu(page, "Settings", "Theme", f"JupyterLab {theme}")
        expect(page.locator("body")).to_have_attribute(
            "data-jp-theme-light", str(theme == "Light").lower()
        )
        for _ in range(3):  # cells are laid out as they come into view, which moves the others
            shown.evaluate("cell => cell.scrollIntoView()")
            page.wait_for_timeout(300)
        page.screenshot(path=PICTURES / f"lab_{name}_{theme.lower()}.png")


def menu(page: Page, *names: str) -> None:
    """Click through the menu bar."""
    page.get_by_role("menuitem", name=names[0], exact=True).click()
    for name in names[1:]:
        page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{name}$")).click()


def cell(page: Page, text: str):
    """The first cell with a text in its source."""
    sources = [c.source for c in nbformat.read(BOOK, as_version=4).cells]
    number = next(i for i, source in enumerate(sources) if text in source)
    return page.locator(".jp-Notebook .jp-Cell").nth(number)


def run_all(page: Page) -> None:
    menu(page, "Run", "Run All Cells")
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Busy")


def curves(page: Page):
    """The picture in the training cell."""
    image = cell(page, "grpo.train_curriculum").locator(".jp-OutputArea img")
    expect(image).to_have_count(1)
    return image


def look_at_episodes(page: Page) -> None:
    """In a new cell: open the episode browser, filter, put two episodes side by side."""
    page.locator(".jp-Notebook .jp-Cell").last.locator(".jp-InputPrompt").click()
    page.locator('[data-command="notebook:insert-cell-below"]').first.click()
    page.keyboard.press("Enter")
    page.keyboard.type("import envtune; envtune.browse(run_dir)")
    page.keyboard.press("Shift+Enter")
    new = page.locator(".jp-Notebook .jp-Cell").filter(has=page.locator("iframe")).last
    frame = new.frame_locator("iframe")
    rows = frame.locator("#episodes tbody tr")
    expect(rows.first).to_be_visible()
    picture(page, "browse_table", new)
    frame.get_by_label("kind", exact=True).select_option(label="train")
    frame.get_by_label("stage", exact=True).select_option(label="stage2_hints")
    expect(frame.locator(".dt-info")).to_contain_text(f"of {4 * STEPS} ")  # four episodes a step
    rows.first.click()
    frame.get_by_role("button", name="Compare with another").click()
    rows.nth(1).click()
    expect(frame.locator("article h2")).to_have_count(2)
    picture(page, "browse_two", new)


def metrics(folder: Path) -> list[dict]:
    return list(files.read_lines(folder / "metrics.jsonl"))


def steps(rows: list[dict]) -> list[tuple[str, int]]:
    return [(row["stage"], row["step"]) for row in rows if row["kind"] == "train"]


def test_a_person_trains_interrupts_and_goes_on_in_the_lab(lab, page, runs_folder):
    address, folder = lab
    run = runs_folder / SMALLEST["run_name"]
    page.goto(address)
    expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible()
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
    run_all(page)
    training = cell(page, "grpo.train_curriculum")

    # the curves move, one picture in place
    image = curves(page)
    expect(image).not_to_have_attribute("src", image.get_attribute("src"))
    # the page is looked at once a second, so no single step can be waited for
    expect(training).to_contain_text(re.compile(r"stage2_hints, step ([2-9]|\d\d): reward"))
    expect(training.locator("summary")).to_contain_text("one episode:")

    # an interrupt keeps every step
    page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    expect(training).to_contain_text("Interrupted: stage2_hints was interrupted at step")
    picture(page, "interrupted", training)
    assert len(training.inner_text().splitlines()) < 40  # no flood; the episode is not opened yet
    training.locator("summary").click()
    picture(page, "episode", training.locator("details"))
    kept = metrics(run)
    last = steps(kept)[-1][1]
    assert (run / "stage2_hints" / f"checkpoint-{last}").is_dir() and last < STEPS

    # the same cells go on there
    run_all(page)
    expect(training).to_contain_text(f"stage2_hints: resumed at step {last} of {STEPS}")
    picture(page, "resumed", training)
    expect(training).to_contain_text(f"step {STEPS + 4} of {STEPS + 4}, finished")
    expect(cell(page, "Markdown(").locator(".jp-RenderedMarkdown")).to_contain_text("greedy")
    assert metrics(run)[: len(kept)] == kept
    wanted = zip(
        ("stage1_syntax", "stage2_hints", "stage3_hard_tasks", "stage4_alignment"),
        SMALLEST["stage_steps"],
        strict=True,
    )
    assert steps(metrics(run)) == [(stage, i) for stage, n in wanted for i in range(1, n + 1)]
    for part in ("grpo.train_curriculum", "held_out_curves", "evaluation.play(", "Markdown("):
        picture(page, f"result_{part.strip('(')}", cell(page, part))
    look_at_episodes(page)
