"""A compiled kernel in a notebook: the page holds what the report holds, and a browser can walk
through it.
"""

import base64
import importlib.util
import json
import re
import shutil
import zlib
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton installs on Linux only")
from IPython.core.formatters import DisplayFormatter

from seqlab.gpu import show
from seqlab.gpu.compile import compile_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
TOYS = Path(__file__).parents[1] / "gpu" / "toy_kernels.py"


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("toy_kernels", TOYS)
    toys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toys)
    inputs = [torch.empty(128, 128, dtype=torch.float16, device="meta")] * 2 + ["*fp32"]
    return compile_report(
        toys.product, *inputs, 128, BLOCK=128, STEP=64, targets=("sm_80", "gfx942")
    )


def line_of(text):
    return next(n for n, line in enumerate(TOYS.read_text().splitlines(), 1) if text in line)


def packed(page):
    return json.loads(zlib.decompress(base64.b64decode(re.search(r'atob\("([^"]+)"\)', page)[1])))


def test_a_bare_report_is_a_page_in_a_notebook_and_a_table_elsewhere(report):
    shown, _ = DisplayFormatter(active_types=["text/plain", "text/html"]).format(report)
    assert shown["text/plain"] == repr(report)
    assert shown["text/html"].startswith('<div class="seqlab-compiled">')


def test_without_its_script_the_page_is_the_table_and_a_sentence(report):
    """So GitHub shows it, and JupyterLab a notebook it does not trust."""
    page = re.sub(r"<(script|style)>.*?</\1>", "", report._repr_html_(), flags=re.S)
    assert len(page) < 2000 and "run this cell to see them" in page
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page)
    assert cells == [cell for row in report.rows() for cell in row]


def test_the_page_holds_every_line_of_every_stage(report):
    data = packed(report._repr_html_())
    for target, compiled in report.targets.items():
        for lines, held in zip(
            compiled.stages.values(), data["targets"][target].values(), strict=True
        ):
            assert held == [[line.text, line.source or 0] for line in lines]
    assert list(data["targets"]["gfx942"]) == ["TTIR", "TTGIR", "AMD assembly"]


def test_the_source_is_that_of_the_functions_that_became_code(report):
    data = packed(report._repr_html_())
    shown = {n: text for text, n in data["source"]}
    assert shown[line_of("def product")] and shown[line_of("# the line of the dot")]
    assert line_of("def greedy") not in shown and line_of("def add") not in shown
    assert data["first"] == line_of("# the line of the dot")


def test_two_pages_of_one_report_are_equal_and_small(report):
    assert report._repr_html_() == report._repr_html_()
    assert len(report._repr_html_()) < 60_000


def test_no_folder_of_this_machine_is_in_the_page(report):
    assert str(TOYS.parent) not in json.dumps(packed(report._repr_html_()))


def test_without_a_notebook_the_text_is_left(report, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(show, "import_module", missing)
    assert report._repr_html_() is None


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -e '.[test]'"
    )
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
@pytest.mark.parametrize("width", [1200, 400])
def test_mouse_and_keyboard_walk_through_it(report, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_content(f"<body>{report._repr_html_()}</body>")
    page.wait_for_selector(".seqlab-compiled .marked")
    boxes, tabs = page.locator(".seqlab-compiled .box"), page.locator(".seqlab-compiled button")

    def marked():
        return [
            {
                int(n)
                for n in box.locator(".marked").evaluate_all(
                    "rows => rows.map(r => r.dataset.source)"
                )
            }
            for box in boxes.all()
        ]

    def in_sight(box):
        return box.evaluate("""box => {
            const row = box.querySelector(".marked").offsetTop - box.scrollTop;
            return row >= 0 && row < box.clientHeight; }""")

    dot, store = line_of("# the line of the dot"), line_of("tl.store(p_c")
    assert marked() == [{dot}] * 4 and all(map(in_sight, boxes.all()))
    boxes.nth(0).locator(f"[data-source='{store}']").click()
    assert marked() == [{store}] * 4 and all(map(in_sight, boxes.all()))
    boxes.nth(2).locator(f"[data-source='{dot}']").first.click()  # a line of TTGIR leads back
    assert marked() == [{dot}] * 4
    boxes.nth(0).focus()
    page.keyboard.press("ArrowDown")
    below = marked()[0]
    assert below > set() and min(below) > dot
    page.keyboard.press("ArrowUp")
    assert marked()[0] == {dot}
    tabs.nth(0).press("ArrowRight")
    assert tabs.nth(1).get_attribute("aria-selected") == "true" and marked() == [{dot}] * 4
    assert "AMD assembly" in page.locator(".seqlab-compiled .title").nth(3).text_content()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    assert boxes.nth(3).evaluate(
        "b => b.scrollHeight > b.clientHeight && b.getBoundingClientRect().height <= 304"
    )
    assert faults == []
    page.close()
