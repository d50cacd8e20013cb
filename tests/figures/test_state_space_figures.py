"""Figures of chapter 06: what they show is what they were given."""

import math

import pytest
import torch
from torch import nn

from seqlab.core import discretize, scan
from seqlab.figures import state_space
from seqlab.microscope import influence_by_age, modes_of
from seqlab.zoo import ZOO


def test_curves_draw_each_line_and_say_which_axes_are_logarithmic():
    lines = {"a": ([1, 10], torch.tensor([1.0, 1e-9])), "b": ([1, 10], torch.tensor([2.0, 3.0]))}
    fig = state_space.curves(lines, title="t", x="x", y="y", log="y", markers=True)
    assert [trace.name for trace in fig.data] == ["a", "b"]
    assert list(fig.data[1].y) == [2, 3] and fig.layout.yaxis.type == "log"
    assert fig.layout.xaxis.type is None and fig.layout.yaxis.dtick == 2


def test_coefficients_of_a_polynomial_recall_it():
    """2 + z in the basis 1, √3 z, over the whole past and over a window."""
    c = torch.tensor([2.0, 1 / math.sqrt(3)], dtype=torch.float64)
    s, x = state_space.recalled(c, t=10)
    assert (s[0], s[-1]) == (0, 10) and x.allclose(2 + 2 * s / 10 - 1)
    s, x = state_space.recalled(c, t=10, window=4)
    assert (s[0], s[-1]) == (6, 10) and x[0] == pytest.approx(1) and x[-1] == pytest.approx(3)
    s, _ = state_space.recalled(c, t=2, window=4)  # half of the window lies before the beginning
    assert s[0] >= 0 and s[-1] == 2


def test_recall_error_is_relative_to_the_signal():
    x = torch.full((8,), 3.0, dtype=torch.float64)
    right, half, nothing = (torch.tensor([v, 0.0], dtype=torch.float64) for v in (3, 1.5, 0))
    found = [state_space.recall_error(x, c).item() for c in (right, half, nothing)]
    assert found == pytest.approx([0, 0.5, 1], abs=1e-12)


@pytest.mark.parametrize("rule, order", [("euler", 1), ("zero_order_hold", 1), ("bilinear", 2)])
def test_error_on_a_sine_falls_with_the_order_of_the_rule(rule, order):
    """Half the step, and the error is 2^-order of it, up to its next term."""
    rule = getattr(discretize, rule)
    large, small = (state_space.error_on_sine(rule, dt) for dt in (1 / 64, 1 / 128))
    assert (large / small).log2().item() == pytest.approx(order, abs=0.1)


def test_the_rules_say_how_many_gates_lie_outside():
    fig = state_space.rules_at(0.1)
    assert "the others 0" in fig.layout.title.text
    A = discretize.s4d_lin(32)
    outside = int((discretize.euler(A, torch.tensor(0.1).double())[0].abs() > 1).sum())
    assert f"Euler puts {outside} of 16" in fig.layout.title.text and outside > 0


def test_online_has_a_page_for_each_time_and_draws_the_future_dotted():
    x = torch.arange(8.0, dtype=torch.float64)
    fits = {"whole": (torch.zeros(8, 2, dtype=torch.float64), None)}
    fig = state_space.online(x, fits, times=[4, 8])
    assert [frame.name for frame in fig.frames] == ["4", "8"]
    early = fig.frames[0].data
    assert early[0].line.dash == "dot" and list(early[1].x) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("T", [1, 2, 7, 16])
def test_the_trees_sum_every_prefix_with_the_joins_that_the_scans_count(T):
    trees = {
        "hillis_steele": state_space.hillis_steele_joins(T),
        "blelloch": state_space.blelloch_joins(T),
    }
    for form, joins in trees.items():
        rows, edges = state_space._history(joins, T)
        assert rows[-1] == list(range(1, T + 1))
        cost = scan.FORMS[form](*torch.rand(2, 1, T, 1), return_cost=True)[1]
        assert (
            (sum(map(len, joins)), len(joins))
            == (cost.work, cost.depth)
            == (len(edges), len(joins))
        )


def test_scan_steps_starts_at_its_last_page():
    fig = state_space.scan_steps(8)
    assert fig.layout.sliders[0].active == len(fig.frames) - 1 == 5
    assert "is done after 17 joins" in fig.layout.title.text


class Pass(nn.Module):
    """In the place of a layer's last map: what comes out is what went in, behind an open GLU."""

    def __init__(self, glu):
        super().__init__()
        self.glu = glu

    def forward(self, u):
        return torch.cat([u, torch.full_like(u, 99)], dim=-1) if self.glu else u


@pytest.mark.parametrize("name", ["S4", "S4D", "S4D-Real", "DSS", "S5", "LRU"])
def test_a_kernel_is_what_a_single_one_leaves_behind(name):
    """The derivative of the whole layer at an input of zero, token 0 → token l, channel by channel:
    GELU and gates only scale it there. (GSS multiplies it by a second branch, which is 0 there.)
    """
    torch.manual_seed(0)
    mixer = {row.name: row for row in ZOO}[name].make(8).double()
    mixer.out = Pass(glu=name in ("S4", "S4D", "S4D-Real", "LRU"))
    mixer.skip.data.zero_()
    gates, kernels = modes_of(mixer, 12)
    assert gates.is_complex() and (gates.abs() < 1).all()
    zero = torch.zeros(1, 12, 8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: mixer(x)[0], zero)
    for channel in range(3):
        found, kernel = jacobian[0, :, channel, 0, 0, channel], kernels[channel].double()
        scale = (found @ kernel) / (kernel @ kernel)
        torch.testing.assert_close(
            found, scale * kernel, rtol=1e-5, atol=1e-6 * found.abs().max().item()
        )
        assert scale > 0


def test_modes_of_mamba_are_its_gates_at_an_input_of_zero():
    torch.manual_seed(0)
    mixer = {row.name: row for row in ZOO}["Mamba"].make(8)
    gates, kernels = modes_of(mixer, 5)
    inner = torch.zeros(1, 1, mixer.dt_proj.in_features)
    dt = torch.nn.functional.softplus(mixer.dt_proj(inner))[0, 0]
    expected = (dt[:, None] * -mixer.A_log.exp()).exp()
    torch.testing.assert_close(gates.real, expected.flatten())
    torch.testing.assert_close(kernels[:, 3], expected[0] ** 3)
    fig = state_space.modes_at("Mamba", gates, kernels)
    assert fig.layout.title.text.startswith("Mamba starts as pure decays")


def test_openings_sort_the_channels_by_their_step_at_the_first_token():
    steps = torch.tensor([[1.0, 0.01], [0.1, 10.0]])
    (heat,) = state_space.openings(["·", "a"], steps, title="t").data
    assert [list(row) for row in heat.z] == [[-2, 1], [0, -1]]


def test_influence_by_age_starts_with_the_newest_token():
    """A causal sum: every token counts alike. The newest alone: only age 0 counts."""
    x = torch.randn(3, 5, 4)
    every = influence_by_age(lambda x: (x.cumsum(1), None), x)
    assert every.tolist() == pytest.approx([2] * 5)
    newest = influence_by_age(lambda x: (x, None), x)
    assert newest.tolist() == pytest.approx([2, 0, 0, 0, 0])


def test_errors_by_size_draws_a_line_for_the_past_and_one_for_the_window():
    def nothing(x, N, window=None):
        return torch.zeros(len(x), N, dtype=x.dtype)

    x = torch.ones(8, dtype=torch.float64)
    fig = state_space.errors_by_size(x, nothing, [2, 3], window=4)
    assert [list(trace.y) for trace in fig.data] == [[1, 1], [1, 1]]
    assert [trace.name for trace in state_space.orders_of_rules((0.5, 0.25)).data] == [
        "zero-order hold",
        "bilinear",
        "Euler",
    ]
