"""Gates on both sides of the table: the equation, its transpose, and the core it contains."""

import pytest
import torch

from seqlab.core import recurrence
from seqlab.core.inputs import choose
from seqlab.core.two_sided import FORMS, chunkwise

B, T, H, K, V = 2, 19, 3, 5, 7


def draw(*width):
    return torch.randn(B, T, H, *width, dtype=torch.float64)


def gates(*width):
    return torch.nn.functional.logsigmoid(3 * draw(*width))


def by_steps(q, k, v, log_a, log_b, S):
    ys = []
    for t in range(T):
        S = S * log_b[:, t].exp()[..., :, None] * log_a[:, t].exp()[..., None, :]
        S = S + v[:, t, :, :, None] * k[:, t, :, None, :]
        ys.append((S * q[:, t, :, None, :]).sum(-1))
    return torch.stack(ys, dim=1), S


@pytest.mark.parametrize("widths", [(K, V), (1, V), (K, 1), (1, 1)])
@pytest.mark.parametrize("chunk_size", [1, 4, 19, 64])
def test_it_is_the_equation_step_by_step_with_its_gradients(widths, chunk_size):
    def by_chunks(q, k, v, log_a, log_b, S):
        return chunkwise(q, k, v, log_a=log_a, log_b=log_b, state=S, chunk_size=chunk_size)

    inputs = [draw(K), draw(K), draw(V), gates(widths[0]), gates(widths[1])]
    inputs.append(torch.randn(B, H, V, K, dtype=torch.float64))
    results = []
    for f in (by_steps, by_chunks):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y, S = f(*leaves)
        results.append([y, S, *torch.autograd.grad(y.square().sum() + S.sin().sum(), leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_with_columns_alone_it_is_the_core():
    q, k, v, log_a = draw(K), draw(K), draw(V), gates(K)
    ours, theirs = chunkwise(q, k, v, log_a=log_a), recurrence.chunkwise(q, k, v, log_a=log_a)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_it_is_the_core_with_a_head_for_each_row():
    """Row v of the table decays by a_k b_v in column k: a head of its own with V = 1."""
    q, k, v, log_a, log_b = draw(K), draw(K), draw(V), gates(K), gates(V)
    heads = [x.repeat_interleave(V, dim=2) for x in (q, k)]
    log = (log_b[..., :, None] + log_a[..., None, :]).flatten(2, 3)
    y, S = recurrence.recurrent(*heads, v.flatten(2)[..., None], log_a=log)
    ours, state = chunkwise(q, k, v, log_a=log_a, log_b=log_b)
    torch.testing.assert_close(ours, y.unflatten(2, (H, V)).squeeze(-1), rtol=0, atol=1e-9)
    torch.testing.assert_close(state, S.unflatten(1, (H, V)).squeeze(-2), rtol=0, atol=1e-9)


def test_transposed_it_is_itself():
    """Rows become columns: (Sᵀ)_t = diag(a) Sᵀ diag(b) + k vᵀ."""
    q, k, v, log_a, log_b = draw(K), draw(K), draw(V), gates(K), gates(V)
    _, S = chunkwise(q, k, v, log_a=log_a, log_b=log_b)
    _, S_transposed = chunkwise(draw(V), v, k, log_a=log_b, log_b=log_a)
    torch.testing.assert_close(S_transposed, S.mT, rtol=0, atol=1e-9)


def test_a_gate_of_zero_forgets_all_before_it():
    q, k, v, log_b = draw(K), draw(K), draw(V), gates(V)
    log_b[:, 9] = -torch.inf
    y, _ = chunkwise(q, k, v, log_b=log_b)
    alone, _ = chunkwise(q[:, 9:], k[:, 9:], v[:, 9:], log_b=log_b[:, 9:])
    torch.testing.assert_close(y[:, 9:], alone, rtol=0, atol=1e-12)


def test_wrong_arguments_get_one_clear_sentence():
    q, k, v = draw(K), draw(K), draw(V)
    sentence = r"log_b has shape \(2, 19, 3, 5\): \(B, T, H, 1\) or v's \(2, 19, 3, 7\)"
    with pytest.raises(ValueError, match=sentence):
        chunkwise(q, k, v, log_b=gates(K))
    with pytest.raises(ValueError, match=r"log_b reaches 0\.5: a log decay is at most 0"):
        chunkwise(q, k, v, log_b=torch.full((B, T, H, 1), 0.5, dtype=torch.float64))
    with pytest.raises(ValueError, match="choose one of recurrent, parallel, chunkwise"):
        choose("fast", FORMS)
    with pytest.raises(ValueError, match=r"log_b has shape \(2, 19, 1, 1\)"):
        chunkwise(q, k, v, log_b=gates(1)[:, :, :1])
    with pytest.raises(ValueError, match="chunk_size is 0: it must be at least 1"):
        chunkwise(q, k, v, chunk_size=0)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_equation_with_any_gate_left_out(form):
    q, k, v, log_a, log_b = draw(K), draw(K), draw(V), gates(K), gates(V)
    none = torch.zeros(B, T, H, 1, dtype=torch.float64)
    S = torch.zeros(B, H, V, K, dtype=torch.float64)
    for a, b in ((log_a, log_b), (None, log_b), (log_a, None), (None, None)):
        ours = FORMS[form](q, k, v, log_a=a, log_b=b)
        theirs = by_steps(q, k, v, none if a is None else a, none if b is None else b, S)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_chunk_has_sixteen_tokens_by_default():
    q, k, v, log_b = draw(K), draw(K), draw(V), gates(V)
    ours = chunkwise(q, k, v, log_b=log_b)
    theirs = chunkwise(q, k, v, log_b=log_b, chunk_size=16)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_bf16_keeps_its_state_in_float32():
    q, k, v, log_b = (x.bfloat16() for x in (draw(K), draw(K), draw(V), gates(V)))
    y, S = chunkwise(q, k, v, log_b=log_b)
    assert y.dtype == torch.bfloat16 and S.dtype == torch.float32


@pytest.mark.parametrize("form", FORMS)
def test_no_sequences_give_no_answers(form):
    q, k, v, log_a, log_b = (x[:0] for x in (draw(K), draw(K), draw(V), gates(K), gates(V)))
    y, S = FORMS[form](q, k, v, log_a=log_a, log_b=log_b)
    assert y.shape == (0, T, H, V) and S.shape == (0, H, V, K)


def test_gradients_per_sample_are_those_of_each_sample_alone():
    def loss(q, k, v, log_b):
        return chunkwise(q, k, v, log_b=log_b)[0].square().sum()

    x = draw(K), draw(K), draw(V), gates(V)
    ours = torch.func.vmap(torch.func.grad(loss, 3))(*(t[:, None] for t in x))
    for b in range(B):
        alone = [t[b : b + 1].clone().requires_grad_() for t in x]
        (theirs,) = torch.autograd.grad(loss(*alone), alone[3])
        torch.testing.assert_close(ours[b], theirs, rtol=1e-9, atol=1e-9)
