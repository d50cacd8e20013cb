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
        assert (x[i] == "both").all() and (np.delete(x, i, 0) == "by others").all()
        assert bias.shape == (1, 5) and (bias == "read").all()
        assert frame.layout.title.text == f"add_bias, program {i}: 40 bytes in, 20 out"


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
