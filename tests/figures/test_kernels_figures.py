import pytest

from seqlab.figures import kernels

pytestmark = pytest.mark.filterwarnings("error")


def test_lanes_counts_the_idle_ones():
    fig = kernels.lanes(1000, 256)
    assert "4 programs of 256: 24 lanes" in fig.layout.title.text
    assert sum(map(sum, fig.data[0].z)) == 1000
    assert "0 lanes" in kernels.lanes(64, 32).layout.title.text


@pytest.mark.parametrize("group", [1, 3, 4, 16])
def test_every_order_visits_every_tile_once(group):
    tiles = {kernels.tile_of(i, 7, 5, group) for i in range(35)}
    assert tiles == {(i, j) for i in range(7) for j in range(5)}


def test_it_is_the_order_of_the_kernel():
    pytest.importorskip("triton", reason="needs Triton (Linux only)")
    import torch

    from seqlab.gpu.trace import trace
    from seqlab.kernels.matmul import matmul_tile

    a, b, c = torch.randn(80, 16), torch.randn(16, 48), torch.empty(80, 48)
    sizes = {"BM": 16, "BN": 16, "BK": 16, "GROUP": 2, "PRECISION": "ieee"}
    seen = trace(matmul_tile, (15,), a, b, c, 80, 48, 16, 16, 1, 48, 1, **sizes)
    for i in range(15):
        _, written = seen.touched("p_c", i)
        row, col = (int(axis.min()) // 16 for axis in written.nonzero())
        assert (row, col) == kernels.tile_of(i, 5, 3, 2)


def test_orders_names_the_strips_of_a_wave():
    fig = kernels.orders(16, 16, (1, 4), concurrent=16)
    titles = [frame.layout.title.text for frame in fig.frames]
    assert "need 17 strips" in titles[0] and "need 8 strips" in titles[1]


def test_spread_counts_different_sums():
    fig = kernels.spread([1.0, 1.0, 1.5], 1.0, 32)
    assert "3 orders" in fig.layout.title.text and "2 different" in fig.layout.title.text


def test_the_other_figures_draw_what_they_get():
    bars = kernels.sector_bars({"1 × 2": (10, 40)}, "t")
    assert [list(trace.y) for trace in bars.data] == [[10], [40]]
    lines = kernels.cache_lines({"GROUP = 1": {1024: 4096, 2048: 1024}}, 1024, "t")
    assert list(lines.data[0].x) == [1, 2] and list(lines.data[0].y) == [4, 1]
    spilled = kernels.spills({1: [(1024, 60, 0), (2048, 255, 8)]}, "t")
    assert list(spilled.data[1].y) == [0, 8]
    table = kernels.choices([("a", 45, 0, 2048, 0.5, ""), ("b", 255, 9, 0, 0.0, "spills")], "t")
    assert table.data[0].cells["values"][4] == ["50%", "0%"]
    assert "Groups of 8 fetch 48 strips" in (
        kernels.group_bars(16, 16, (1, 4, 8, 16), 16, 12).layout.title.text
    )
