# ruff: noqa: E402
"""The figure of a traced kernel shows what the trace holds."""

import shutil

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl
from IPython.core.formatters import DisplayFormatter

from seqlab.figures.kernel_trace import STATES, kernel_trace
from seqlab.gpu import show
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@triton.jit
def add_bias(p_x, p_bias, p_unused, R, C, BC: tl.constexpr):
    """In place: a row per program."""
    c = tl.arange(0, BC)
    o = tl.program_id(0) * C + c
    tl.store(p_x + o, tl.load(p_x + o, mask=c < C) + tl.load(p_bias + c, mask=c < C), mask=c < C)


@pytest.fixture
def seen():
    return trace(add_bias, (4,), torch.randn(4, 5), torch.randn(5), torch.zeros(3), 4, 5, BC=8)


def test_a_page_per_program_shows_what_it_touches_and_what_others_do(seen):
    fig = kernel_trace(seen)
    assert [frame.name for frame in fig.frames] == ["0", "1", "2", "3"]
    for i, frame in enumerate(fig.frames):
        x, bias = (np.array([[STATES[s] for s in row] for row in table.z]) for table in frame.data)
        off = np.zeros((4, 5), dtype=bool)  # lanes 5, 6 and 7 are those of the next row
        off[i + 1 : i + 2, :3] = True
        assert (x[i] == "both").all() and (x[off] == "masked off").all()
        assert (np.delete(x, i, 0)[~np.delete(off, i, 0)] == "by others").all()
        assert bias.shape == (1, 5) and (bias == "read").all()
        said = f"add_bias, program {i}: 40 bytes in, 20 out, 9 lanes masked off"
        assert frame.layout.title.text == said


def test_a_tensor_nobody_touches_is_not_drawn_and_alone_is_an_error(seen):
    assert len(kernel_trace(seen).data) == 2
    with pytest.raises(
        ValueError, match="no program of add_bias touches p_unused: nothing to show"
    ):
        kernel_trace(seen, ["p_unused"])


def test_the_figure_can_be_stepped_and_played(seen):
    fig = kernel_trace(seen)
    assert [step.label for step in fig.layout.sliders[0].steps] == ["0", "1", "2", "3"]
    assert [button.label for button in fig.layout.updatemenus[0].buttons] == ["Play", "Pause"]


def test_many_programs_and_large_tensors_are_thinned():
    x = torch.randn(300, 100)
    fig = kernel_trace(
        trace(add_bias, (300,), x, torch.randn(100), x, 300, 100, BC=128), ["p_x"], pages=20
    )
    assert len(fig.frames) == 20 and (fig.frames[0].name, fig.frames[-1].name) == ("0", "299")
    table = fig.data[0]
    assert np.array(table.z).shape == (43, 34)
    assert (table.dx, table.dy) == (3, 7)  # the axes count the tensor's rows and columns
    assert len(fig.to_json()) < 200_000


@triton.jit
def halve(p_x, p_y, n, BT: tl.constexpr):
    o = tl.program_id(0) * BT + tl.arange(0, BT)
    tl.store(p_y + o, tl.load(p_x + o) / 2, mask=o < n)


def test_values_are_in_the_cells_or_where_the_mouse_points():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    fig = kernel_trace(trace(halve, (2,), x, torch.zeros(2, 2), 4, BT=2))
    read, written = fig.frames[1].data
    assert list(map(tuple, read.text)) == [("", ""), ("r<br>3", "r<br>4")]
    assert (
        list(written.text[1]) == ["w<br>1.5", "w<br>2"]
        and written.customdata[1][0] == ": writes 1.5"
    )
    wide = torch.full((16,), 2.0)
    narrow = kernel_trace(trace(halve, (1,), wide, torch.zeros(16), 16, BT=16)).data[0]
    assert narrow.text[0][0] == "r" and narrow.customdata[0][0] == ": reads 2"


def test_places_outside_are_red_and_come_first():
    found = sanitize(halve, (2,), torch.ones(3, 2), torch.zeros(3, 2), 6, BT=4).outside
    fig = kernel_trace(found)
    assert fig.layout.sliders[0].active == 1 and "2 lanes outside" in fig.layout.title.text
    x, y = (np.array([[STATES[s] for s in row] for row in table.z]) for table in fig.data)
    assert x.shape == (4, 2) and (x[3] == "outside").all() and (x[2] == "read").all()
    assert y.shape == (3, 2) and not (y == "outside").any()


def test_of_many_rows_outside_three_are_drawn():
    @triton.jit
    def before(p_x, p_y, BT: tl.constexpr):
        o = tl.arange(0, BT)
        tl.store(p_y + o, tl.load(p_x + o - 8), mask=o < 4)

    found = sanitize(before, (1,), torch.ones(4), torch.zeros(4), BT=64).outside
    x = np.array(kernel_trace(found).data[0].z)
    red = [(row == STATES.index("outside")).all() for row in x]
    assert red == [True, True, False, True, True, True]  # 2 rows before it, 13 after


def test_heads_stand_side_by_side(seen):
    @triton.jit
    def one_head(p_x, p_y, H, K: tl.constexpr):
        o = tl.arange(0, K)
        tl.store(p_y + tl.program_id(0) * K + o, tl.load(p_x + tl.program_id(0) * K + o))

    x = torch.randn(1, 3, 2, 4)
    fig = kernel_trace(trace(one_head, (2,), x, torch.zeros(2, 3, 4), 2, K=4))
    assert [note.text for note in fig.layout.annotations] == ["p_x (1×3)×(2×4)", "p_y (2×3)×4"]
    first = np.array(fig.frames[0].data[0].z)
    assert (
        first.shape == (3, 8) and [STATES[s] for s in first[0]] == ["read"] * 4 + ["by others"] * 4
    )
    assert (first[1:] == 0).all()


def test_a_bare_trace_is_the_figure_in_a_notebook_and_the_table_elsewhere(seen, monkeypatch):
    shown, _ = DisplayFormatter().format(seen)
    assert shown["text/plain"] == repr(seen)
    figure = shown["application/vnd.plotly.v1+json"]
    assert (
        len(figure["frames"]) == 4
        and figure["layout"]["updatemenus"][0]["buttons"][0]["label"] == "Play"
    )

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(show, "import_module", missing)
    assert seen._repr_mimebundle_() == {"text/plain": repr(seen)}


def test_a_kernel_that_touches_nothing_is_shown_as_text():
    @triton.jit
    def idle(p_x):
        pass

    assert list(trace(idle, (1,), torch.zeros(2))._repr_mimebundle_()) == ["text/plain"]


PROGRAMS = 100  # 40 s of pages: a late click on Pause still comes before the end
STILL = """async (ms) => {
  const active = () => document.querySelector('.js-plotly-plot')._fullLayout.sliders[0].active;
  let seen = active(), since = performance.now(), redraws = 0;
  while (performance.now() - since < ms || redraws < 10) {
    await new Promise(requestAnimationFrame);
    redraws += 1;
    if (active() !== seen) { seen = active(); since = performance.now(); redraws = 0; }
  }
  return true;
}"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
def test_a_browser_plays_it_pauses_it_and_turns_to_a_page(tmp_path):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -e '.[test]'"
    )
    x = torch.randn(PROGRAMS, 5)
    seen = trace(add_bias, (PROGRAMS,), x, torch.randn(5), x, PROGRAMS, 5, BC=8)
    kernel_trace(seen, pages=PROGRAMS).write_html(
        tmp_path / "trace.html",
        auto_play=False,  # only the click on Play starts it
    )
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 800, "height": 600})
        page.goto(f"file://{tmp_path}/trace.html")
        page.wait_for_selector(".slider-rail-touch-rect")
        active = "document.querySelector('.js-plotly-plot')._fullLayout.sliders[0].active"
        assert page.evaluate(active) == 0
        page.get_by_text("Play").click()
        page.wait_for_function(f"{active} >= 2")
        page.get_by_text("Pause").click()
        playing = "document.querySelector('.js-plotly-plot')._transitionData._animationRaf"
        page.wait_for_function(f"!{playing}")
        # The page on show when the click arrived is finished first. Then three times the time of a
        # page (400 ms), and ten redraws of the browser, which a busy machine delays as it delays
        # the figure, pass without another.
        page.evaluate(STILL, 1200)
        stopped = page.evaluate(active)
        assert 2 <= stopped < PROGRAMS - 1
        rail = page.locator(".slider-rail-touch-rect").bounding_box()
        page.mouse.click(rail["x"] + rail["width"] - 2, rail["y"] + rail["height"] / 2)
        page.wait_for_function(f"{active} == {PROGRAMS - 1}")
        # The slider is moved before the page is drawn: wait for what a reader sees.
        title = "document.querySelector('.js-plotly-plot')._fullLayout.title.text"
        page.wait_for_function(f"{title}.startsWith('add_bias, program {PROGRAMS - 1}:')")
        browser.close()
