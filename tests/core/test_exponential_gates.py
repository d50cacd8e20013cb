"""xLSTM's stabiliser: whatever m is, the result is that of the bare exponentials."""

import pytest
import torch
import torch.nn.functional as F

from seqlab.core.exponential_gates import divide, stabilise
from seqlab.core.recurrence import recurrent

B, T, H, K, V = 2, 13, 3, 4, 5
F64 = {"dtype": torch.float64}


def draw(size=1.0):
    q, k, v = (
        torch.randn(B, T, H, K, **F64),
        torch.randn(B, T, H, K, **F64),
        torch.randn(B, T, H, V, **F64),
    )
    return q, k, v, F.logsigmoid(torch.randn(B, T, H, **F64)), size * torch.randn(B, T, H, **F64)


def read(q, k, v, log_f, log_i, state=None):
    """Both tables as one: v with a column of ones, whose row of the table is n."""
    v = F.pad(v, (0, 1), value=1.0)
    return recurrent(q, k * log_i.exp()[..., None], v, log_a=log_f[..., None], state=state)


def test_m_is_the_papers_recurrence():
    """m_t = max(log f_t + m_{t-1}, ĩ_t); log gates log f + m_{t-1} - m_t and ĩ - m_t."""
    *_, log_f, i = draw(3.0)
    m = torch.randn(B, H, **F64)
    scaled_f, scaled_i, ms = stabilise(log_f, i, m)
    for t in range(T):
        before, m = m, torch.maximum(log_f[:, t] + m, i[:, t])
        torch.testing.assert_close(ms[:, t], m)
        torch.testing.assert_close(scaled_f[:, t], log_f[:, t] + before - m)
        torch.testing.assert_close(scaled_i[:, t], i[:, t] - m)
    assert scaled_f.max() <= 0 and scaled_i.max() <= 0


def test_without_a_first_m_it_is_zero():
    *_, log_f, i = draw()
    expected = stabilise(log_f, i, torch.zeros(B, H, **F64))
    torch.testing.assert_close(stabilise(log_f, i), expected, rtol=0, atol=0)


@pytest.mark.parametrize("m0", [None, -3.0, 4.0])
def test_the_result_does_not_depend_on_m(m0):
    """y = S q / max(|n·q|, 1) by plain exponentials, and by scaled tables of any first m."""
    q, k, v, log_f, i = draw()
    y, _ = read(q, k, v, log_f, i)
    expected = y[..., :-1] / y[..., -1:].abs().clamp(min=1)
    m0 = None if m0 is None else torch.full((B, H), m0, **F64)
    scaled_f, scaled_i, m = stabilise(log_f, i, m0)
    y, _ = read(q, k, v, scaled_f, scaled_i)
    torch.testing.assert_close(divide(y, m), expected, rtol=1e-9, atol=1e-9)


def test_two_parts_with_m_carried_are_the_whole():
    *_, log_f, i = draw(3.0)
    whole = stabilise(log_f, i)
    first = stabilise(log_f[:, :5], i[:, :5])
    second = stabilise(log_f[:, 5:], i[:, 5:], first[2][:, -1])
    for a, b, c in zip(first, second, whole, strict=True):
        torch.testing.assert_close(torch.cat([a, b], dim=1), c)


def test_gates_beyond_the_range_of_exp_stay_finite():
    q, k, v, log_f, i = draw(1e4)
    scaled_f, scaled_i, m = stabilise(log_f, i)
    y, S = read(q, k, v, scaled_f, scaled_i)
    assert divide(y, m).isfinite().all() and S.isfinite().all()


def test_a_forget_gate_of_one_is_never_rounded_to_more():
    """In float32 the running sums round; a log decay above 0 would be refused by the recurrence."""
    log_f = torch.zeros(1, 2000, 1)
    log_f[:, ::2] = -1e-3
    scaled_f, _, _ = stabilise(log_f, torch.randn(1, 2000, 1) * 100)
    assert scaled_f.max() <= 0


def test_no_gradient_flows_through_m():
    *_, log_f, i = draw()
    log_f, i = log_f.requires_grad_(), i.requires_grad_()
    scaled_f, scaled_i, m = stabilise(log_f, i)
    assert not m.requires_grad
    for scaled, x in ((scaled_f, log_f), (scaled_i, i)):
        assert torch.equal(torch.autograd.grad(scaled.sum(), x)[0], torch.ones_like(x))


def test_division_by_the_last_channel():
    y = torch.tensor([[6.0, -4.0, -2.0]], **F64)
    assert divide(y).tolist() == [[3.0, -2.0]]
    assert divide(y, eps=1.0).tolist() == [[2.0, -4 / 3]]
    m = torch.tensor([-torch.log(torch.tensor(4.0, **F64))], **F64)  # e^-m = 4 > |n·q|
    torch.testing.assert_close(divide(y, m), y[:, :2] / 4)
    assert divide(y.bfloat16(), m).dtype == torch.bfloat16
