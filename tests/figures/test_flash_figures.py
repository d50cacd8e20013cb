"""Figures of chapter 14: what they show is what they were given."""

import pytest
import torch

from seqlab.core.attention import attend
from seqlab.figures import flash


def draw(T=8, K=4, V=3):
    return [torch.randn(T, n, dtype=torch.float64) for n in (K, K, V)]


def test_stream_marks_each_larger_score():
    fig = flash.stream(torch.tensor([0.0, -1.0, 2.0, 1.0, 3.0]))
    assert "2 times a larger score" in fig.layout.title.text
    assert list(fig.data[1].y) == [0, 0, 2, 2, 3] and list(fig.data[3].x) == [3, 5]
    assert fig.data[2].y[1] == pytest.approx(1 + 2.718281828**-1, abs=1e-3)


@pytest.mark.parametrize("order", ["fa1", "fa2"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_last_step_is_attention(order, causal):
    q, k, v = draw()
    steps = flash.tiling_steps(q, k, v, tile=3, order=order, causal=causal)
    y, lse = attend(*(x[None, :, None] for x in (q, k, v)), causal=causal, return_lse=True)
    torch.testing.assert_close(steps[-1].read, y[0, :, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(steps[-1].top + steps[-1].total.log(), lse[0, :, 0])
    assert len(steps) == (6 if causal else 9)


def test_tiling_shows_one_tile_on_chip_and_never_the_future():
    q, k, v = draw()
    fig = flash.tiling(q, k, v, tile=4)
    assert [frame.name for frame in fig.frames] == ["1", "2", "3"]
    i, j = torch.arange(8)[:, None], torch.arange(8)
    for frame, on_chip in zip(fig.frames, ((0, 0), (1, 0), (1, 1)), strict=True):
        place = torch.tensor(frame.data[0].z)
        here = (i // 4 == on_chip[0]) & (j // 4 == on_chip[1])
        assert ((place >= 3) == here).all()
        assert (place[i // 4 < j // 4] == 0).all()
        assert ((place == 4) == (here & (j > i))).all()
    assert [b.label for b in fig.layout.updatemenus[0].buttons] == ["Play", "Pause"]


def test_rows_that_are_not_reached_are_blank():
    q, k, v = draw()
    text = [cell for (cell,) in flash.tiling_at(q, k, v, 0, tile=4).data[1].text]
    assert all(text[:4]) and not any(text[4:])


def test_visited_counts_tiles():
    fig = flash.visited(64, 16)
    assert "10 of 16 tiles are computed (62%), 4 with a mask" in fig.layout.title.text
    fig = flash.visited(64, 16, window=16)
    assert "7 of 16 tiles" in fig.layout.title.text and "7 with a mask" in fig.layout.title.text


def test_traffic_draws_mebibytes():
    fig = flash.traffic({"fa2": {2**14: 2**21}, "a bound": {2**14: 2**20}}, title="x")
    assert list(fig.data[0].x) == [16] and list(fig.data[0].y) == [2]
    assert fig.data[1].line.dash == "dot"


def test_rescales_shows_mean_and_range():
    fig = flash.rescales({"a": [[0.2, 0.4], [0.4, 0.0]]}, title="x")
    assert list(fig.data[0].x) == [2, 3] and list(fig.data[0].y) == pytest.approx([0.3, 0.2])
    assert list(fig.data[0].error_y.array) == pytest.approx([0.1, 0.2])
    assert list(fig.data[1].y) == [0.5, 0.3333]


def test_errors_has_a_mark_for_each_seed():
    fig = flash.errors({"data": {"plain": [0.1, 0.2], "scaled": [0.05, 0.04]}}, title="x")
    assert list(fig.data[0].x) == ["plain", "plain", "scaled", "scaled"]
    assert list(fig.data[0].y) == [0.1, 0.2, 0.05, 0.04]
