"""Figures of chapter 11: what they show is what they were given."""

import math

import torch

from seqlab.figures import griffin


def test_each_seed_has_its_mark():
    found = {"A": {"near": [0.5, 0.75], "far": [1.0, 0.25]}, "B": {"near": [0.1], "far": [0.9]}}
    fig = griffin.by_range(found, title="t", chance=0.125)
    assert [list(trace.y) for trace in fig.data] == [[0.5, 0.75, 1.0, 0.25], [0.1, 0.9]]
    assert list(fig.layout.xaxis.ticktext) == ["near", "far"]
    assert fig.to_json() == griffin.by_range(found, title="t", chance=0.125).to_json()


def test_the_root_keeps_the_size():
    plain, mean, root = griffin.sizes_at(0.9).data
    assert 0.8 < root.y[-1] < 1.2
    assert math.isclose(plain.y[-1] / root.y[-1], 1 / math.sqrt(1 - 0.81), rel_tol=0.01)
    assert math.isclose(mean.y[-1] / plain.y[-1], 0.1, rel_tol=0.01)
    assert [frame.name for frame in griffin.sizes([0.5, 0.9]).frames] == ["0.5", "0.9"]


def test_the_slowest_channel_is_on_top():
    a = torch.tensor([[0.1, 0.9], [0.3, 0.7]])
    heat = griffin.gates_over(a, ["x", "y"], title="t").data[0]
    torch.testing.assert_close(torch.tensor(heat.z), torch.tensor([[0.9, 0.7], [0.1, 0.3]]))
