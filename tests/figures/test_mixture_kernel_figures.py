from types import SimpleNamespace

import pytest
import torch

from seqlab.ffn import MixtralRouter, MoE
from seqlab.figures import mixture_kernel as figures

pytestmark = pytest.mark.filterwarnings("error")


def test_programs_go_to_the_processor_that_is_free_first():
    lanes = figures.in_turn([[0, 0, 0], [1], [2], [3]], 2)
    assert lanes == [[0, 0, 0], [1, 2, 3]]
    assert figures.idle(lanes) == 0
    assert figures.idle([[0], [1, 1], []]) == 1 - 3 / 6


def test_a_timeline_has_a_page_for_each_router_and_one_axis_of_time():
    pages = {"even": [[0], [1]], "collapsed": [[0, 0], []]}
    fig = figures.timelines(pages, 2, "program")
    assert [frame.data[0].z.shape for frame in fig.frames] == [(2, 2), (2, 2)]
    assert fig.frames[1].data[0].z.tolist() == [[0, 0], [-1, -1]]
    assert "collapsed: 2 steps, 50%" in fig.frames[1].layout.title.text


def test_places_have_a_trace_for_each_expert():
    fig = figures.places([1, 0, 1, 2], 2, [1, 0, 2, 3], "t")
    assert [list(trace.y) for trace in fig.data] == [[0], [1, 2], [3]]
    assert list(fig.data[1].customdata) == [[0, 0], [1, 0]]


def test_an_expert_without_rows_has_no_tile():
    assert figures.tiles([0, 1, 64, 65], 64) == 0 + 1 + 1 + 2


def test_padding_falls_with_more_tokens():
    fig = figures.padding(8, 2, 64)
    for line in fig.data:
        assert line.y[0] > 0.5 > line.y[-1] >= 0
    rows = figures.drawn_loads(1024, 2, torch.full((8,), 1 / 8).numpy())
    share = 1 - 2048 / (64 * figures.tiles(rows, 64))
    assert f"1,024 tokens: {share:.0%}" in fig.layout.title.text


def test_one_row_more_than_a_tile_pads_a_tile():
    fig = figures.rows_in_tiles({"even": [64, 64], "moved": [63, 65]}, 64)
    assert "even 0, moved 64" in fig.layout.title.text
    assert list(fig.data[3].y) == [1, 63]


def test_learned_has_two_bars_a_run():
    fig = figures.learned({"a": (5, 3), "b": (4, 3)}, "t")
    assert [list(bar.y) for bar in fig.data] == [[5, 4], [3, 3]]


def test_learning_moves_the_router_and_returns_fresh_tokens():
    torch.manual_seed(0)
    layer = MoE(16, 4, router=MixtralRouter, d_ff=8)
    before = layer.router.score.weight.clone()
    assert figures.learn_clusters(layer, 0.1, 0, steps=2).shape == (512, 16)
    assert not torch.equal(layer.router.score.weight, before)


def test_one_token_moves_its_experts_matrices_once():
    given = {"n_experts": 8, "top_k": 2, "d_model": 4, "d_expert": 3, "total": 0}
    n_bytes, flops = figures.mixture_counts(1, **given)
    # two experts of three 4 × 3 matrices; two rows: 4 in and out, 6 of both products, 3 again
    assert n_bytes == pytest.approx(2 * (2 * 36 + 2 * (8 + 9)))
    assert flops == 2 * 2 * 36


def test_fits_asks_for_a_block():
    one = SimpleNamespace(registers=7, spills=0, occupancy=SimpleNamespace(blocks=0))
    assert figures.fits(SimpleNamespace(targets={"sm_90": one})) == {"sm_90": (7, 0, False)}
