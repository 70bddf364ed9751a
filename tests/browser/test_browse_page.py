"""The episode browser as a person uses it, in headless Chromium: filter, sort, open, compare.

    $ python -m pytest tests/browser/test_browse_page.py -m browser -s

Screenshots are left in runs/browser/. ENVTUNE_BROWSE=<run> takes them of that run, and copies the
one of docs/browser.md.
"""

import json
import os
import re
import shutil
import time

import played_run
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from played_run import EVIL, OTHER, TASK

from envtune.common import paths
from envtune.study import browse

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium was found (apt install chromium)"),
]
PICTURES = paths.ROOT / "runs" / "browser"
READY = "body[data-ready-milliseconds]"


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    run = played_run.make(tmp_path_factory.mktemp("played") / "run")
    return browse.browse(run).write(run / "browse.html")


@pytest.fixture
def open_page(chromium):
    """Opens a file in a page that is offline; the test fails on any error or request of it."""
    problems, contexts = [], []

    def open_file(file, scheme="light", ready=True):
        context = chromium.new_context(
            viewport={"width": 1400, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: said.type == "error" and problems.append(said.text))
        page.on(
            "request",
            lambda sent: sent.url.startswith(("http", "ws")) and problems.append(sent.url),
        )
        page.goto(file.as_uri())
        if ready:
            page.wait_for_selector(READY)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert problems == []


def column(page, name: str) -> list[str]:
    titles = page.locator("#episodes thead th").all_inner_texts()
    place = [title.strip() for title in titles].index(name)
    return page.locator(f"#episodes tbody tr td:nth-child({place + 1})").all_inner_texts()


def choose(page, name: str, value: str) -> None:
    page.get_by_label(name, exact=True).select_option(label=value)


def test_filters_and_the_search_leave_what_was_asked_for(open_page, file):
    page = open_page(file)
    assert len(column(page, "no.")) == 12
    choose(page, "kind", "train")
    choose(page, "error kind", "format")
    assert column(page, "no.") == ["5", "9"]
    choose(page, "error kind", "all")
    choose(page, "hints", "any shown")
    assert column(page, "no.") == ["8"]
    choose(page, "hints", "all")
    page.get_by_label("reward from", exact=True).fill("0.5")
    assert column(page, "reward") == ["1.000", "1.000"]
    choose(page, "kind", "all")
    page.get_by_label("step to", exact=True).fill("1")
    assert column(page, "no.") == ["3"]
    page.get_by_label("step to", exact=True).fill("")
    page.get_by_label("reward from", exact=True).fill("")
    page.get_by_label("Search").fill(OTHER)
    assert column(page, "no.") == ["2", "12"]


def test_numbers_sort_as_numbers_and_by_the_keyboard(open_page, file):
    page = open_page(file)
    for _ in ("ascending", "descending"):
        page.locator("#episodes thead th:first-child [role=button]").press("Enter")
    assert column(page, "no.") == [str(n) for n in range(12, 0, -1)]
    choose(page, "kind", "train")
    page.locator("#episodes thead th").filter(has_text="advantage").click()
    values = [float(value) for value in column(page, "advantage")]
    assert values == sorted(values) and values[0] < 0 < values[-1]


def test_an_episode_is_opened_and_left_by_the_keyboard_alone(open_page, file):
    page = open_page(file)
    page.locator("#episodes tbody tr").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("article h2")).to_have_text(f"3. {TASK}")
    expect(page.locator("#episode > h2")).to_be_focused()
    text = page.locator("article").inner_text()
    assert "Turn 2, user" in text and "✓ won" in text and 'find(path=".", name="test")' in text
    page.get_by_role("button", name="Next").press("Enter")
    expect(page.locator("article h2")).to_have_text(f"4. {TASK}")
    lost = page.locator(".verdict.bad").first
    expect(lost).to_contain_text("✗ lost")
    expect(lost.get_by_text("not made in these words: find(")).to_be_visible()  # the ground truth
    page.keyboard.press("Escape")
    expect(page.locator("#list")).to_be_visible()
    expect(page.locator("#episodes tbody tr").nth(3)).to_be_focused()


def test_tokens_are_shown_by_mask_with_log_probabilities(open_page, file):
    page = open_page(file)
    page.locator("#episodes tbody tr").first.click()
    summary = page.get_by_text("Tokens: 2 sampled by the policy, 1 written by the environment")
    expect(summary).to_contain_text("mean log-probability -1.300")
    summary.click()
    expect(page.locator(".tokens .sampled")).to_have_text(["<b>", "sampled"])
    expect(page.locator(".tokens .given")).to_have_text(["given"])
    title = page.locator(".tokens .sampled").nth(1).get_attribute("title")
    assert title == "id 6, log-probability -2.5"
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("were not kept (preset field keep_tokens)")).to_be_visible()


def test_side_by_side(open_page, file):
    page = open_page(file)
    page.locator("#episodes tbody tr").nth(3).click()
    page.get_by_role("button", name="Its group (4)").click()
    expect(page.locator("article")).to_have_count(4)
    rewards = page.locator(".overview tbody td:nth-child(3)").all_inner_texts()
    assert rewards == ["1", "0", "0", "0"]
    assert page.locator(".overview tbody td:nth-child(4)").all_inner_texts()[:2] == ["1.5", "-0.5"]
    page.get_by_role("button", name="Without and with hints (2)").click()
    expect(page.locator("article")).to_have_count(2)
    played = page.locator("dl.facts").all_inner_texts()
    assert "off" in played[0] and "step 1" in played[0] and "step 2" in played[1]
    expect(page.locator("article").nth(1)).to_contain_text("with hint ")
    page.keyboard.press("Escape")
    choose(page, "kind", "validation")
    page.locator("#episodes tbody tr").first.click()
    page.get_by_role("button", name="Before and after (2)").click()
    expect(page.locator("article h2")).to_have_text([f"1. {TASK}", f"11. {TASK}"])
    page.get_by_role("button", name="Compare with another").click()
    expect(page.get_by_text("Choose an episode to show beside episode 1")).to_be_visible()
    page.locator("#episodes tbody tr").nth(1).press("Enter")
    expect(page.locator("article h2")).to_have_text([f"1. {TASK}", f"2. {OTHER}"])


def test_a_message_with_a_script_stays_text(open_page, file):
    page = open_page(file)
    page.locator("#episodes tbody tr").nth(4).click()
    expect(page.locator("article")).to_contain_text("<script>window.broken = 1</script>")
    assert page.locator("article").inner_text().count(EVIL) >= 2
    assert page.locator("article script, article img").count() == 0
    assert page.evaluate("window.broken") is None


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour[3] > 127) return colour;
    }
    return [255, 255, 255, 255];
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const found = {};
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest("script, style")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))];
    const ratio = Math.max(a, b) / Math.min(a, b);
    const name = `${node.tagName}.${node.className}`;
    found[name] = Math.min(found[name] ?? 99, ratio);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_legible_in_light_and_dark(open_page, file, scheme):
    page = open_page(file, scheme)
    ratios = page.evaluate(CONTRAST)
    page.locator("#episodes tbody tr").nth(7).click()  # an error with a hint
    page.get_by_role("button", name="Its group").click()
    page.wait_for_selector("article")
    for summary in page.locator("details:not([open]) > summary").all():
        if summary.is_visible():
            summary.click()
    ratios |= page.evaluate(CONTRAST)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"browse_{scheme}.png")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
    assert len(ratios) > 15
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


def test_it_works_in_a_notebook_exported_by_nbconvert(open_page, file, tmp_path):
    shown = browse.browse(file.parent)._repr_html_()
    output = new_output("display_data", data={"text/html": shown})
    book = new_notebook(cells=[new_code_cell("envtune.browse(run)", outputs=[output])])
    exported = HTMLExporter(require_js_url="", mathjax_url="").from_notebook_node(book)[0]
    # nbconvert's own page asks for its scripts on the web; the browser's frame must not
    exported = re.sub(r'<script src="[^"]*"></script>', "", exported)
    (tmp_path / "exported.html").write_text(exported)
    page = open_page(tmp_path / "exported.html", ready=False)
    frame = page.frame_locator("iframe")
    frame.locator("#episodes tbody tr").nth(4).click()
    expect(frame.locator("article")).to_contain_text("<script>")
    frame.get_by_role("button", name="Its group (4)").click()
    expect(frame.locator("article")).to_have_count(4)
    # its style does not leak, and its scripts cannot reach the notebook
    assert page.evaluate("getComputedStyle(document.body).getPropertyValue('--muted')") == ""
    assert page.evaluate("document.querySelector('iframe').contentDocument") is None


def test_twenty_thousand_episodes_load_and_can_be_searched(open_page, tmp_path):
    run = played_run.make(tmp_path / "large", episodes=20_000)
    began = time.monotonic()
    file = browse.browse(run).write(run / "browse.html")
    made = time.monotonic() - began
    page = open_page(file)
    seconds = int(page.get_attribute("body", "data-ready-milliseconds")) / 1000
    began = time.monotonic()
    page.get_by_label("Search").fill(OTHER)
    expect(page.locator("#episodes tbody tr")).to_have_count(2)
    print(
        f"\n20,000 episodes: page made in {made:.1f} s, {file.stat().st_size / 1e6:.1f} MB, "
        f"loaded in {seconds:.2f} s, searched in {time.monotonic() - began:.2f} s"
    )
    page.locator("#episodes tbody tr").last.press("Enter")
    expect(page.locator("article h2")).to_have_text(f"20000. {OTHER}")


def test_pictures_of_a_real_run(open_page):
    run = os.environ.get("ENVTUNE_BROWSE")
    if not run:
        pytest.skip("ENVTUNE_BROWSE names no run to take the picture of docs/browser.md from")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page = open_page(browse.browse(run).write(PICTURES / "browse.html"))
    seconds = int(page.get_attribute("body", "data-ready-milliseconds")) / 1000
    print(
        f"\n{json.dumps(run)}: {page.locator('.dt-info').inner_text()}, loaded in {seconds:.2f} s"
    )
    page.screenshot(path=PICTURES / "browse_table.png")
    choose(page, "kind", "validation")
    page.get_by_label("reward from", exact=True).fill("1")
    page.locator("#episodes tbody tr").last.click()
    page.get_by_role("button", name="Before and after").click()
    page.wait_for_selector("article:nth-child(2)")
    page.screenshot(path=PICTURES / "browse_before_after.png")
    shutil.copy(PICTURES / "browse_before_after.png", paths.ROOT / "docs" / "browser.png")
