"""Theorems of the recurrence. Each form is also compared with sums written out literally."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.core.inputs import choose
from seqlab.core.recurrence import FORMS, chunkwise, parallel, recurrent, step

F64 = {"dtype": torch.float64}
B, H, K, V = 2, 2, 3, 5
DECAYS = ["none", "scalar", "vector"]


def draw(T, decay="scalar", delta=False, state=False, *, K=K, V=V, lowest=1e-6):
    """Random inputs with decays from exactly 1 down to `lowest` per step."""
    q, k, v = (torch.randn(B, T, H, width, **F64) for width in (K, K, V))
    x = {"q": q, "k": k, "v": v}
    if decay != "none":
        width = 1 if decay == "scalar" else K
        x["log_a"] = torch.rand(B, T, H, width, **F64) * torch.tensor(lowest, **F64).log()
        x["log_a"][:, ::3] = 0.0
        x["log_a"][:, 1::4] *= 1e-7
    if delta:
        x["k"] = x["k"] / x["k"].norm(dim=-1, keepdim=True)
        x["beta"] = torch.rand(B, T, H, **F64)
    if state:
        x["state"] = torch.randn(B, H, V, K, **F64)
    return x


def with_gradients(form, x, **options):
    """(y, S) and the gradients of a random but fixed sum over both, by input."""
    leaves = {name: t.clone().requires_grad_() for name, t in x.items()}
    y, S = form(**leaves, **options)
    weight_y = torch.linspace(-1, 1, y.numel(), **F64).view_as(y).cos()
    weight_S = torch.linspace(-2, 1, S.numel(), **F64).view_as(S)
    loss = (y * weight_y).sum() + (S * weight_S).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {"y": y, "S": S} | {f"d{name}": g for name, g in zip(leaves, grads, strict=True)}


def assert_same(ours, theirs, tolerance=1e-9):
    for name in theirs:
        assert ours[name].isfinite().all(), f"{name} is not finite"
        scale = theirs[name].abs().max().clamp(min=1)
        assert (ours[name] - theirs[name]).abs().max() / scale < tolerance, name


def literal(q, k, v, log_a=None, beta=None, state=None):
    """The equation in numpy, matrix by matrix: S_t = S_{t-1} A_t + u_t k_tᵀ."""
    given = (q, k, v, log_a, beta, state)
    q, k, v, log_a, beta, state = (None if x is None else x.numpy() for x in given)
    y, S_T = np.full(v.shape, np.nan), np.full((B, H, v.shape[-1], q.shape[-1]), np.nan)
    for b, h in itertools.product(range(B), range(H)):
        S = np.zeros(S_T.shape[2:]) if state is None else state[b, h]
        for t in range(q.shape[1]):
            if log_a is not None:
                S = S @ np.diag(np.broadcast_to(np.exp(log_a[b, t, h]), q.shape[-1:]))
            u = v[b, t, h] if beta is None else beta[b, t, h] * (v[b, t, h] - S @ k[b, t, h])
            S = S + np.outer(u, k[b, t, h])
            y[b, t, h] = S @ q[b, t, h]
        S_T[b, h] = S
    return {"y": torch.from_numpy(y), "S": torch.from_numpy(S_T)}


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_literal_equation(form, decay, delta, state):
    x = draw(13, decay, delta, state)
    y, S = choose(form, FORMS, chunk_size=4)(**x)
    assert_same({"y": y, "S": S}, literal(**x))


@pytest.mark.parametrize("T", [1, 7, 63, 64, 65, 200])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
def test_the_forms_agree_with_their_gradients(T, decay, delta, state):
    x = draw(T, decay, delta, state)
    expected = with_gradients(recurrent, x)
    assert_same(with_gradients(parallel, x), expected)
    for C in {1, 16, 64, T}:
        assert_same(with_gradients(chunkwise, x, chunk_size=C), expected)


@pytest.mark.parametrize("decay", DECAYS)
def test_chunk_of_one_is_recurrent_and_chunk_of_all_is_parallel(decay):
    x = draw(9, decay, state=True)
    for ours, theirs in zip(chunkwise(**x, chunk_size=1), recurrent(**x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    for ours, theirs in zip(chunkwise(**x, chunk_size=9), parallel(**x), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("form", FORMS)
def test_two_halves_with_the_state_carried_are_the_whole(form):
    x, run = draw(11, "vector", delta=True), choose(form, FORMS, chunk_size=4)
    y, S = run(**x)
    first, S_half = run(**{name: t[:, :5] for name, t in x.items()})
    second, S_end = run(**{name: t[:, 5:] for name, t in x.items()}, state=S_half)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(S_end, S, rtol=0, atol=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("delta", [False, True])
def test_gradients_against_finite_differences(decay, delta):
    x = draw(5, decay, delta, state=True, lowest=0.1)
    if decay != "none":
        x["log_a"] = x["log_a"] - 0.1  # finite differences need room on both sides of a value
    leaves = [t.requires_grad_() for t in x.values()]
    assert torch.autograd.gradcheck(
        lambda *xs: chunkwise(**dict(zip(x, xs, strict=True)), chunk_size=2), leaves
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("decay", ["scalar", "vector"])
def test_a_gate_of_zero_starts_afresh(form, decay):
    x, run = draw(8, decay, state=True), choose(form, FORMS, chunk_size=3)
    x["log_a"][:, 5] = -torch.inf
    fresh = {name: t[:, 5:] for name, t in x.items() if name != "state"}
    y, S = run(**x)
    y_fresh, S_fresh = run(**fresh)
    torch.testing.assert_close(y[:, 5:], y_fresh)
    torch.testing.assert_close(S, S_fresh)
    x["q"].requires_grad_()
    run(**x)[0].sum().backward()
    assert x["q"].grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_unit_decay_is_no_decay(form):
    x = draw(10, "none")
    with_ones = {**x, "log_a": torch.zeros(B, 10, H, 1, **F64)}
    for ours, theirs in zip(FORMS[form](**with_ones), FORMS[form](**x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_equal_decay_on_all_channels_is_a_scalar_decay():
    x = draw(20, "scalar")
    spread = {**x, "log_a": x["log_a"].expand(-1, -1, -1, K)}
    ours, theirs = chunkwise(**spread, chunk_size=8), chunkwise(**x, chunk_size=8)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_delta_rule_returns_the_latest_value_of_a_key():
    """Writing twice under one unit key with beta = 1 leaves the second value alone."""
    k = torch.zeros(1, 2, 1, K, **F64)
    k[..., 0] = 1.0
    v = torch.randn(1, 2, 1, V, **F64)
    y, _ = recurrent(k, k, v, beta=torch.ones(1, 2, 1, **F64))
    torch.testing.assert_close(y[:, 1], v[:, 1])


@pytest.mark.parametrize("decay", [1e-8, 1e-7, 14.0, 100.0])
def test_extreme_decays_in_float32_stay_close_to_float64(decay):
    x = {name: t.float() for name, t in draw(200, "scalar", state=True).items()}
    x["log_a"] = torch.full_like(x["log_a"], -decay)
    exact = recurrent(**{name: t.double() for name, t in x.items()})
    for form in FORMS:
        for ours, theirs in zip(FORMS[form](**x), exact, strict=True):
            assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_strong_decay_early_costs_no_precision_later():
    """Differences of running sums would be off by about 1e-4 here; sums over each span are not."""
    x = {name: t.float() for name, t in draw(64, "scalar").items()}
    x["log_a"] = torch.full_like(x["log_a"], -0.01)
    x["log_a"][:, :32] = -40.0
    exact, _ = recurrent(**{name: t.double() for name, t in x.items()})
    ours, _ = parallel(**x)
    assert (ours - exact).abs().max() < 2e-6 * exact.abs().max()


def test_bf16_inputs_keep_a_float32_state():
    x = {name: t.bfloat16() for name, t in draw(70, "scalar").items()}
    exact, S_exact = recurrent(**{name: t.double() for name, t in x.items()})
    for form in FORMS:
        y, S = FORMS[form](**x)
        assert y.dtype == torch.bfloat16 and S.dtype == torch.float32
        assert (S - S_exact).abs().max() < 1e-5 * S_exact.abs().max()
        assert (y - exact).abs().max() < 2**-8 * exact.abs().max()  # one rounding, at the end


class LargestTensor(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(getattr(self, "numel", 0), out.numel())
        return out


def test_a_scalar_decay_never_builds_a_tensor_over_pairs_and_channels():
    C = 32
    x = {name: t[:1] for name, t in draw(C, "scalar", K=16, V=16).items()}
    with LargestTensor() as seen:
        chunkwise(**x, chunk_size=C)
    assert seen.numel == H * C * C  # and with a decay per channel it would be 16 times that
    x["log_a"] = x["log_a"].expand(-1, -1, -1, 16)
    with LargestTensor() as seen:
        chunkwise(**x, chunk_size=C)
    assert seen.numel >= H * C * C * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(B, 4, H, 2, **F64)}, "k has width 2, q has 3: q and k must match"),
        (
            {"v": torch.zeros(B, 5, H, V, **F64)},
            r"v has \(B, T, H\) = \(2, 5, 2\), q has \(2, 4, 2\)",
        ),
        (
            {"v": torch.zeros(B, 4, V, **F64)},
            r"v has shape \(2, 4, 5\): \(B, T, H, width\) is needed",
        ),
        ({"log_a": torch.zeros(B, 4, H, 2, **F64)}, "log_a has width 2: 1 .* or 3"),
        (
            {"log_a": torch.full((B, 4, H, 1), 0.5, **F64)},
            "log_a reaches 0.5: a log decay is at most 0",
        ),
        (
            {"beta": torch.zeros(B, 4, H, 1, **F64)},
            r"beta has shape \(2, 4, 2, 1\): \(B, T, H\) is needed",
        ),
        (
            {"state": torch.zeros(B, H, K, V, **F64)},
            r"state has shape \(2, 2, 3, 5\): \(B, H, V, K\) = \(2, 2, 5, 3\)",
        ),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_wrong_shapes_and_decays_get_one_clear_sentence(form, change, message):
    with pytest.raises(ValueError, match=message):
        FORMS[form](**{**draw(4, "none"), **change})


@pytest.mark.parametrize("form", FORMS)
def test_wrong_types_get_one_clear_sentence(form):
    x = draw(4, "none")
    with pytest.raises(TypeError, match=r"k is torch.float32, q is torch.float64: use one dtype"):
        FORMS[form](**{**x, "k": x["k"].float()})
    with pytest.raises(TypeError, match="v is a list"):
        FORMS[form](**{**x, "v": [1.0]})
    with pytest.raises(TypeError, match=r"q has dtype torch\.int64"):
        FORMS[form](**{**x, "q": x["q"].long()})
    with pytest.raises(ValueError, match="the sequence is empty"):
        FORMS[form](**{name: t[:, :0] for name, t in x.items()})


def test_unknown_form_and_chunk_size_get_one_clear_sentence():
    sentence = "form is 'serial': choose one of recurrent, parallel, chunkwise"
    with pytest.raises(ValueError, match=sentence):
        choose("serial", FORMS)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        chunkwise(**draw(4, "none"), chunk_size=0)
    assert choose(step, FORMS) is step


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("decay", DECAYS)
def test_autocast_changes_no_number_of_the_core(form, decay):
    """bf16 beside float32, as under autocast, gives what float32 alone gives."""
    x = {name: t.float() for name, t in draw(21, decay, delta=True, state=True).items()}
    x["q"], x["beta"] = x["q"].bfloat16(), x["beta"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, S = FORMS[form](**x)
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16  # and it is still on
    expected = FORMS[form](**{name: t.float() for name, t in x.items()})
    for ours, theirs in zip((y, S), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("decay", DECAYS)
def test_no_sequences_give_no_answers(form, decay):
    x = {name: t[:0].requires_grad_() for name, t in draw(5, decay, delta=True, state=True).items()}
    y, S = FORMS[form](**x)
    assert y.shape == (0, 5, H, V) and S.shape == (0, H, V, K)
    y.sum().backward()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("decay", DECAYS)
def test_gradients_per_sample_are_those_of_each_sample_alone(form, decay):
    def loss(x):
        y, S = FORMS[form](**x)
        return y.square().sum() + S.sin().sum()

    x = draw(7, decay, delta=True, state=True)
    ours = torch.func.vmap(torch.func.grad(loss))({name: t[:, None] for name, t in x.items()})
    for b in range(B):
        alone = {name: t[b : b + 1].clone().requires_grad_() for name, t in x.items()}
        for name, g in zip(x, torch.autograd.grad(loss(alone), list(alone.values())), strict=True):
            torch.testing.assert_close(ours[name][b], g, rtol=1e-9, atol=1e-9)


# Oracles: fla's naive functions, which share no code with ours. They compute in float32.


@pytest.mark.oracle
@pytest.mark.parametrize("T", [64, 100])
def test_scalar_decay_against_fla(fla, T):
    x = {name: t.float() for name, t in draw(T, "scalar", state=True, lowest=0.1).items()}
    args = (x["q"], x["k"], x["v"], x["log_a"][..., 0])
    y, S = fla("simple_gla").naive_recurrent_simple_gla(
        *args, scale=1.0, initial_state=x["state"].mT
    )
    ours, S_ours = chunkwise(**x)
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(S_ours, S.mT, rtol=1e-4, atol=1e-4)


@pytest.mark.oracle
def test_vector_decay_against_fla(fla):
    x = {name: t.float() for name, t in draw(70, "vector", lowest=0.1).items()}
    y, S = fla("gla").naive_recurrent_gla(
        x["q"] * K**0.5, x["k"], x["v"], x["log_a"], output_final_state=True
    )
    ours, S_ours = chunkwise(**x)
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(S_ours, S.mT, rtol=1e-4, atol=1e-4)


@pytest.mark.oracle
def test_delta_rule_against_fla(fla):
    x = {name: t.float() for name, t in draw(64, "none", delta=True).items()}
    heads_first = {name: t.transpose(1, 2) for name, t in x.items()}
    y, S = fla("delta_rule").delta_rule_recurrence(
        heads_first["q"] * K**0.5, heads_first["k"], heads_first["v"], heads_first["beta"]
    )
    ours, S_ours = chunkwise(**x)
    torch.testing.assert_close(ours, y.transpose(1, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(S_ours, S.mT, rtol=1e-4, atol=1e-4)


@pytest.mark.oracle
def test_gated_delta_rule_against_fla(fla):
    x = {name: t.float() for name, t in draw(70, "scalar", delta=True, lowest=0.1).items()}
    y, S = fla("gated_delta_rule").naive_recurrent_gated_delta_rule(
        x["q"], x["k"], x["v"], x["beta"], x["log_a"][..., 0], scale=1.0, output_final_state=True
    )
    ours, S_ours = chunkwise(**x)
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(S_ours, S.mT, rtol=1e-4, atol=1e-4)
