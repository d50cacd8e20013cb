"""A real browser: JupyterLab opens chapter 03, runs it, a slider moves, and the figure changes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)"
    ),
]

READY = """() => {
  const panel = window.jupyterapp?.shell?.currentWidget, session = panel?.sessionContext;
  const kernel = session?.session?.kernel;
  return !!(panel?.content?.widgets?.length && session?.isReady
    && kernel?.connectionStatus === 'connected' && kernel.status === 'idle');
}"""
RUN_ALL = """async () => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  await panel.revealed;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  await app.commands.execute('notebook:run-all-cells');
  return panel.content.widgets.filter(c => c.model.type === 'code').map(c => ({
    n: c.model.executionCount,
    errors: c.model.outputs.toJSON()
      .filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`),
  }));
}"""
# What a figure draws, whatever kind of figure it is.
LOOK = """plot => {
  if (!plot?._fullLayout) return null;
  const l = plot._fullLayout, list = x => x?.length === undefined || typeof x === 'string' ? x
    : Array.from(x, list);
  const trace = t => [t.type, t.name, list(t.x), list(t.y), list(t.z), list(t.text),
    list(t.node?.label), list(t.link?.value), list(t.marker?.color), t.line?.color];
  return JSON.stringify([l.title?.text, (l.shapes ?? []).map(s => [s.x0, s.x1, s.y0, s.y1]),
    (l.annotations ?? []).map(a => [a.text, a.x, a.y]), plot._fullData.map(trace)]);
}"""
# The controls of `explore` and of the microscope, and the rails of plotly's own sliders.
CONTROLS = ".widget-vbox .noUi-handle, .widget-vbox select"
RAILS = ".js-plotly-plot .slider-rail-touch-rect"
# The first widget with a slider, scrolled to, and what the figure in it draws.
SLIDER = ".jupyter-widgets .noUi-handle"
DRAWN = """() => {
  const box = document.querySelector('.jupyter-widgets .noUi-handle').closest('.widget-vbox');
  const plot = box.querySelector('.js-plotly-plot');
  if (!plot?._fullLayout) return null;
  const rows = z => Array.from(z ?? [], row => Array.from(row));
  const numbers = t => [t.type, Array.from(t.y ?? []).slice(0, 50), rows(t.z)];
  return JSON.stringify([plot._fullLayout.title.text, plot._fullData.map(numbers)]);
}"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server on a copy of the chapters, with nothing of the user's own
    configuration.
    """
    home, port = tmp_path_factory.mktemp("lab"), free_port()
    shutil.copytree(ROOT / "chapters", home / "chapters")
    env = os.environ | {
        f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")
    }
    env |= {"SEQLAB_WORK": str(home / "work"), "PLOTLY_RENDERER": "plotly_mimetype"}
    settings = home / "config/lab/user-settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)
    # Every cell stays in the page, also one that is out of sight.
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
    ]
    command += [
        f"--port={port}",
        f"--ServerApp.root_dir={home}",
        "--IdentityProvider.token=",
        "--LabApp.news_url=None",
    ]
    command += ["--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True"]
    with (
        open(home / "log", "w") as log,
        subprocess.Popen(command, env=env, stdout=log, stderr=log) as server,
    ):
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):  # a busy machine may need a minute; a dead server is seen at once
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                if server.poll() is not None:
                    pytest.fail(f"JupyterLab stopped:\n{(home / 'log').read_text()[-2000:]}")
                time.sleep(0.5)
        else:
            server.terminate()
            pytest.fail(f"JupyterLab did not start:\n{(home / 'log').read_text()[-2000:]}")
        yield address
        server.terminate()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -e '.[test]'"
    )
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(lab, browser, tmp_path):
    """A function: chapter -> its page, run from the menu without an error and without fetching."""
    elsewhere = []

    def opened(chapter):
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.on("request", lambda r: elsewhere.append(r.url) if is_outside(r.url) else None)
        name = next((ROOT / "chapters").glob(f"{chapter}_*.ipynb")).name
        page.goto(f"{lab}/lab/tree/chapters/{name}?reset")
        page.wait_for_function(READY, timeout=90_000)
        cells = page.evaluate(RUN_ALL)
        assert [c["errors"] for c in cells if c["errors"]] == []
        assert all(c["n"] for c in cells)
        return page

    def is_outside(url):
        return url.startswith("http") and lab not in url

    try:
        yield opened
    except BaseException:
        page = browser.contexts[-1].pages[-1]
        page.screenshot(path=tmp_path / "failed.png", full_page=True)
        print(f"screenshot: {tmp_path / 'failed.png'}")
        raise
    assert elsewhere == [], "nothing may be fetched from the internet"


def test_chapter_03_runs_and_its_slider_changes_the_figure(opened):
    page = opened("03")
    page.wait_for_selector(SLIDER, state="attached", timeout=90_000)
    page.locator(SLIDER).first.scroll_into_view_if_needed()
    page.wait_for_function(f"() => ({DRAWN})() !== null", timeout=90_000)
    before = page.evaluate(DRAWN)
    page.locator(SLIDER).first.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        f"before => ({DRAWN})() !== before && ({DRAWN})() !== null", arg=before, timeout=90_000
    )
    title_before, title_after = json.loads(before)[0], json.loads(page.evaluate(DRAWN))[0]
    assert before != page.evaluate(DRAWN), (title_before, title_after)


@pytest.mark.parametrize("chapter", os.environ.get("SLIDERS", "").split())
def test_every_control_changes_its_figure(opened, chapter):
    """`make sliders CHAPTER="05 06"`: minutes a chapter, so it is not a part of `make test`."""
    page = opened(chapter)
    page.wait_for_timeout(3000)
    dead = [
        f"control {n}: {words}"
        for n, control in enumerate(page.locator(CONTROLS).all())
        if (words := stays_the_same(page, control, move_control))
    ]
    dead += [
        f"plotly slider {n}: {words}"
        for n, rail in enumerate(page.locator(RAILS).all())
        if (words := stays_the_same(page, rail, click_rail))
    ]
    print(f"chapter {chapter}: {page.locator(CONTROLS).count()} controls,", end=" ")
    print(f"{page.locator(RAILS).count()} plotly sliders")
    assert dead == []


def stays_the_same(page, control, move):
    """The title of the figure that does not change although `move` is made, else ""."""
    control.scroll_into_view_if_needed()
    box = control.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")
    if not box.count():
        box = control.locator("xpath=ancestor::*[contains(@class, 'js-plotly-plot')][1]/..")

    def look():
        return page.evaluate(
            f"""box => {{
          const plots = [...box.querySelectorAll('.js-plotly-plot')];
          const seen = plots.map({LOOK});
          return plots.length && seen.every(x => x !== null) ? seen.join() : null;
        }}""",
            box.element_handle(),
        )

    before = until(page, look, lambda seen: seen is not None)
    for step in range(4):
        move(page, control, step)
        if until(page, look, lambda seen: seen not in (None, before)) != before:
            return ""
    return before[:80]


def until(page, look, found, seconds=6):
    for _ in range(10 * seconds):
        seen = look()
        if found(seen):
            break
        page.wait_for_timeout(100)
    return seen


def move_control(page, control, step):
    """The next choice of a list; of a slider a step, or one end."""
    if control.evaluate("x => x.tagName") == "SELECT":
        n = control.evaluate("x => x.options.length")
        control.select_option(index=(control.evaluate("x => x.selectedIndex") + 1) % n)
        return
    control.focus()
    page.keyboard.press(("ArrowRight", "ArrowLeft", "Home", "End")[step])


def click_rail(page, rail, step):
    at = rail.bounding_box()
    share = (0.9, 0.1, 0.5, 0.3)[step]
    page.mouse.click(at["x"] + share * at["width"], at["y"] + at["height"] / 2)
