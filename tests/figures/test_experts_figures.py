"""Figures of chapter 17: what they show is what they were given."""

import math

import pytest
import torch

from seqlab.figures import experts


def test_loads_are_stacked_to_the_whole():
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    fig = experts.loads({"a": shares, "b": shares.flip(0)}, title="", every=5)
    assert len(fig.data) == 6 and all(trace.stackgroup == "all" for trace in fig.data)
    assert list(fig.data[0].x) == [0, 5] and list(fig.data[0].y) == [0.5, 0.0]
    assert [sum(trace.y[i] for trace in fig.data[3:]) for i in (0, 1)] == [1.0, 1.0]
    assert [trace.showlegend for trace in fig.data] == [True] * 3 + [False] * 3


def test_tables_show_each_entry():
    table = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    fig = experts.tables({"a": table}, title="", x="expert", y="cluster")
    assert [list(row) for row in fig.data[0].z] == table.tolist()


def heights(trace):
    """The heights of each band of a cluster at its left and right end."""
    bands, band = [], []
    for x, y in [*zip(trace.x, trace.y, strict=True), (None, None)]:
        if x is None:
            if band:
                ends = [[y for at, y in band if at == end] for end in (0, 1)]
                bands.append([max(ys) - min(ys) for ys in ends])
            band = []
        else:
            band.append((x, y))
    return bands


def test_bands_are_as_wide_as_their_share_and_do_not_overlap():
    table = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    fig = experts.flow_at(table)
    widths = [heights(trace) for trace in fig.data]
    assert [len(w) for w in widths] == [2, 1]  # a share of 0 has no band
    for found, share in zip([*widths[0], *widths[1]], (3 / 8, 1 / 8, 4 / 8), strict=True):
        assert found == pytest.approx([share, share], abs=1e-3)
    starts = sorted(min(y for x, y in zip(t.x, t.y, strict=True) if x == 0) for t in fig.data)
    assert starts == pytest.approx([0, 0.5 + experts.GAP], abs=1e-3)
    assert {note.text for note in fig.layout.annotations} == {
        "cluster 0: 50%", "cluster 1: 50%", "expert 0: 38%", "expert 1: 62%",
    }  # fmt: skip


def test_flow_has_a_page_for_each_step_and_counts_busy_experts():
    pages = {"0": torch.eye(3), "9": torch.tensor([[1.0, 0, 0]] * 3)}
    fig = experts.flow(pages, title="They collapse")
    assert [frame.name for frame in fig.frames] == ["0", "9"]
    assert "at step 0, 3 of 3 experts work" in fig.frames[0].layout.title.text
    assert "at step 9, 1 of 3 experts work" in fig.layout.title.text
    assert {len(frame.data) for frame in fig.frames} == {3}


def test_dropped_is_what_exceeds_the_places():
    load = torch.tensor([6.0, 1.0, 1.0])
    assert experts.dropped(load, 1.0) == pytest.approx(3 / 8)  # ceil(8 / 3) = 3 places
    assert experts.dropped(load, 3.0) == 0
    fig = experts.capacity_at({"a": load}, 1.0)
    kept, lost, line = fig.data
    assert list(kept.y) == [3, 1, 1] and list(lost.y) == [3, 0, 0] and list(line.y) == [3, 3]
    assert "a 38%" in fig.layout.title.text
    lines = experts.drops({"a": [load, load]}, [1.0, 3.0], [0.1, 0.0], title="").data
    assert [list(trace.y) for trace in lines] == [[0.375, 0.0]] * 2 + [[0.1, 0.0]]


def test_dispatch_is_in_milliseconds():
    fig = experts.dispatch({"loop": {2: 0.001, 8: 0.0123}}, title="")
    assert list(fig.data[0].x) == [2, 8] and list(fig.data[0].y) == [1.0, 12.3]


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_best_sums_are_inside_the_frame(k):
    a, b = torch.randn(2, 8, generator=torch.Generator().manual_seed(k))
    fig = experts.product_keys_at(a, b, k)
    heat, marks = fig.data
    sums = torch.tensor(heat.z)
    found = sorted(sums[r, c].item() for r, c in zip(marks.y, marks.x, strict=True))
    everything = (a[:, None] + b).flatten().topk(k).values
    assert found == pytest.approx(sorted(everything.tolist()), rel=1e-2, abs=1e-3)
    assert f"{k} of the {k} best of 64" in fig.layout.title.text
    assert fig.layout.shapes[0].x1 == k - 0.5


def test_active_parameters_are_in_billions_and_names_do_not_cover_each_other():
    models = {"a": (47e9, 13e9), "b": (52e9, 12e9), "c": (1571e9, 2e9)}
    marks = experts.active(models, title="").data[-1]
    assert list(marks.x) == [47, 52, 1571] and list(marks.y) == [13, 12, 2]
    assert list(marks.textposition) == ["middle left", "middle right", "top center"]


def test_merges_tells_the_two_kinds_of_pairs_apart():
    fig = experts.merges([(1.0, 0.1, True), (2.0, 0.5, False), (1.5, 0.2, True)], title="")
    one, two = fig.data
    assert list(one.x) == [1.0, 1.5] and list(two.y) == [0.5]
    assert one.marker.symbol != two.marker.symbol and not math.isnan(one.y[0])
