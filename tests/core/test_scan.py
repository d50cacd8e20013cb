"""Every order of joining steps is the loop; `linear_scan` has its gradients too."""

import math
import warnings

import pytest
import torch

from seqlab.core import scan
from seqlab.core.inputs import choose

FORMS = {f.__name__: f for f in scan.FORMS.values()}
COSTED = [name for name in FORMS if name != "linear_scan"]
forms = pytest.mark.parametrize("form", FORMS)
lengths = pytest.mark.parametrize("T", [1, 2, 3, 7, 16, 23])
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.complex128], ids=["real", "complex"]
)


def draw(T, dtype=torch.float64, B=2, width=(3, 2)):
    """Gates of size at most 1, some exactly 0, some exactly 1."""
    a, b = torch.randn(B, T, *width, dtype=dtype), torch.randn(B, T, *width, dtype=dtype)
    a = a / a.abs() * torch.rand(a.shape, dtype=torch.float64)
    a[:, ::5], a[:, 3::7] = 0, 1
    return [x.requires_grad_() for x in (a, b, torch.randn(B, *width, dtype=dtype))]


def loop(a, b, h):
    """The equation, one number at a time in time order."""
    hs = []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        hs.append(h)
    return torch.stack(hs, dim=1)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@forms
@lengths
@dtypes
def test_every_order_gives_the_loop_and_its_gradients(form, T, dtype):
    a, b, h0 = draw(T, dtype)
    g = torch.randn(b.shape, dtype=dtype)
    h, expected = FORMS[form](a, b, h0), loop(a, b, h0)
    close(h, expected)
    close(torch.autograd.grad(h, [a, b, h0], g), torch.autograd.grad(expected, [a, b, h0], g))


@forms
@dtypes
def test_against_torchs_own_scan(form, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch._higher_order_ops.associative_scan import associative_scan
    a, b, _ = (x.detach() for x in draw(19, dtype))
    join = lambda x, y: (y[0] * x[0], y[0] * x[1] + y[1])  # noqa: E731
    _, expected = associative_scan(join, (a, b), dim=1, combine_mode="generic")
    close(FORMS[form](a, b), expected)


@forms
def test_no_first_state_is_a_first_state_of_zero(form):
    a, b, h0 = draw(9)
    close(FORMS[form](a, b), FORMS[form](a, b, torch.zeros_like(h0)))


@forms
def test_two_parts_with_the_state_carried_are_the_whole(form):
    a, b, h0 = draw(17)
    first = FORMS[form](a[:, :6], b[:, :6], h0)
    second = FORMS[form](a[:, 6:], b[:, 6:], first[:, -1])
    close(torch.cat([first, second], dim=1), FORMS[form](a, b, h0))


@forms
@pytest.mark.parametrize(
    "shape", [(1, 1, 3, 2), (2, 11, 1, 1), (1, 11, 3, 1), (2, 1, 1, 2)], ids=str
)
def test_a_gate_may_be_smaller_than_what_it_gates(form, shape):
    """Constant over time, or shared by rows or channels: as if it had been repeated."""
    a = torch.rand(shape, dtype=torch.float64).requires_grad_()
    _, b, h0 = draw(11)
    g = torch.randn_like(b)
    h, expected = FORMS[form](a, b, h0), loop(a.expand(b.shape), b, h0)
    close(h, expected)
    close(torch.autograd.grad(h, [a, b, h0], g), torch.autograd.grad(expected, [a, b, h0], g))


@dtypes
def test_the_written_backward_is_the_derivative(dtype):
    a, b, h0 = draw(6, dtype, width=(2,))
    assert torch.autograd.gradcheck(scan.linear_scan, (a, b, h0))
    assert torch.autograd.gradcheck(scan.linear_scan, (a, b))
    assert torch.autograd.gradcheck(lambda a: scan.linear_scan(a[:, :1], b, h0), (a,))


@dtypes
@pytest.mark.parametrize("gate", ["each its own", "one for all", "constant"])
def test_gradients_per_sample_are_those_of_each_sample_alone(dtype, gate):
    """Under torch.func: a, b and h0 mapped over, or a shared by all samples."""
    inputs = [torch.stack([x.detach(), 2 * x.detach()]) for x in draw(7, dtype)]
    if gate == "one for all":
        inputs[0] = inputs[0][:1].expand_as(inputs[0])
    elif gate == "constant":
        inputs[0] = inputs[0][:, :, :1, :1]
    axes = (None if gate == "one for all" else 0, 0, 0)
    given = [x[0] if axis is None else x for x, axis in zip(inputs, axes, strict=True)]

    def loss(*x):
        return scan.linear_scan(*x).abs().square().sum()

    ours = torch.func.vmap(torch.func.grad(loss, (0, 1, 2)), axes)(*given)
    total = torch.func.grad(lambda *x: torch.func.vmap(loss, axes)(*x).sum(), (0, 1, 2))(*given)
    for i in range(2):
        leaves = [x[i].clone().requires_grad_() for x in inputs]
        alone = torch.autograd.grad(loop_loss(*leaves), leaves)
        close([x[i] for x in ours], list(alone))
    close(total, [x.sum(0) if axis is None else x for x, axis in zip(ours, axes, strict=True)])


def loop_loss(a, b, h0):
    return loop(a.expand(-1, b.shape[1], *a.shape[2:]), b, h0).abs().square().sum()


def test_a_second_derivative_through_the_scan_is_refused():
    a, b, h0 = draw(6)
    (db,) = torch.autograd.grad(scan.linear_scan(a, b, h0).square().sum(), b, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative: use chunked"):
        torch.autograd.grad(db.square().sum(), b)


@forms
@pytest.mark.parametrize("T", [1, 9])
def test_no_sequences_give_no_states(form, T):
    a, b, h0 = (x[:0].detach().requires_grad_() for x in draw(T))
    h = FORMS[form](a, b, h0)
    assert h.shape == (0, T, 3, 2)
    h.sum().backward()


def test_a_gradient_that_is_not_asked_for_is_not_computed():
    a, b, _ = draw(8)
    a.requires_grad_(False)
    scan.linear_scan(a, b).sum().backward()
    assert a.grad is None and b.grad is not None


@pytest.mark.parametrize("form", ["linear_scan", "chunked"])
def test_a_real_gate_may_drive_complex_states(form):
    a = torch.rand(1, 7, 3, dtype=torch.float64).requires_grad_()
    _, b, h0 = draw(7, torch.complex128, 1, (3,))
    h = FORMS[form](a, b, h0)
    close(h, loop(a, b, h0))
    (grad,) = torch.autograd.grad(h.abs().square().sum(), a)
    close(grad, torch.autograd.grad(loop(a, b, h0).abs().square().sum(), a)[0])


@forms
def test_states_are_float32_for_inputs_in_bf16(form):
    a, b, h0 = (x.detach().bfloat16() for x in draw(40))
    h = FORMS[form](a, b, h0)
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, loop(*(x.float() for x in (a, b, h0))))


@forms
@pytest.mark.parametrize("T", [2, 9, 64, 1000])
def test_no_order_loses_a_slow_decay(form, T):
    """A gate of 1 - 1e-7 in float64: h_T = (1 - a^T) / (1 - a), the sum of a geometric series."""
    a = torch.full((1, T), 1 - 1e-7, dtype=torch.float64)
    exact = -math.expm1(T * math.log1p(-1e-7)) / 1e-7
    assert FORMS[form](a, torch.ones_like(a))[0, -1].item() == pytest.approx(exact, rel=1e-12)


def test_a_hundred_thousand_steps_in_float32_stay_close():
    """At a = 1 - 2^-20 the float32 sum of 10⁵ terms is within 1e-4 of the exact one."""
    T, rate = 100_000, 2.0**-20
    a = torch.full((1, T), 1 - rate)
    exact = -math.expm1(T * math.log1p(-rate)) / rate
    assert scan.linear_scan(a, torch.ones_like(a))[0, -1].item() == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("T", [1, 2, 64, 1000])
def test_what_each_order_costs(T):
    """Counted while it runs. The least work waits longest; the least wait works most."""
    a, b, _ = draw(T, B=1, width=())
    cost = {name: FORMS[name](a, b, return_cost=True)[1] for name in COSTED}
    log = math.ceil(math.log2(T)) if T > 1 else 0
    assert (cost["sequential"].work, cost["sequential"].depth) == (T - 1, T - 1)
    assert cost["hillis_steele"].depth == log
    assert cost["hillis_steele"].work == sum(T - 2**i for i in range(log))
    assert cost["blelloch"].work <= 2 * T and cost["blelloch"].depth <= 2 * log
    assert cost["chunked"].work <= 2 * T and cost["chunked"].depth <= 2 * math.sqrt(T)


def test_a_chunk_of_one_or_of_everything_is_the_sequential_order():
    a, b, h0 = draw(12)
    for C in (1, 12, 40):
        close(scan.chunked(a, b, h0, chunk_size=C), loop(a, b, h0))
    assert scan.chunked(a, b, chunk_size=12, return_cost=True)[1] == scan.Cost(11, 11)


@forms
def test_wrong_shapes_get_one_clear_sentence(form):
    b = torch.randn(2, 5, 3)
    sentence = r"b has shape \(2, 0, 3\): \(B, T, ...\) with T at least 1 is needed"
    with pytest.raises(ValueError, match=sentence):
        FORMS[form](b[:, :0], b[:, :0])
    sentence = r"a has shape \(2, 4, 3\), b has \(2, 5, 3\): each axis of a must be"
    with pytest.raises(ValueError, match=sentence):
        FORMS[form](b[:, :4], b)
    with pytest.raises(ValueError, match=r"h0 has shape \(2,\): \(B, ...\) = \(2, 3\) is needed"):
        FORMS[form](b, b, torch.zeros(2))


def test_a_form_is_a_name_or_a_function():
    assert choose("blelloch", scan.FORMS) is scan.blelloch and choose(loop, scan.FORMS) is loop
    with pytest.raises(ValueError, match="form is 'parallel': choose one of scan, sequential"):
        choose("parallel", scan.FORMS)
