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
    inputs = [
        draw(K),
        draw(K),
        draw(V),
        gates(widths[0]),
        gates(widths[1]),
        torch.randn(B, H, V, K).double(),
    ]
    results = []
    for f in (
        by_steps,
        lambda q, k, v, a, b, S: chunkwise(
            q, k, v, log_a=a, log_b=b, state=S, chunk_size=chunk_size
        ),
    ):
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
    with pytest.raises(
        ValueError, match=r"log_b has shape \(2, 19, 3, 5\): \(B, T, H, 1\) or v's \(2, 19, 3, 7\)"
    ):
        chunkwise(q, k, v, log_b=gates(K))
    with pytest.raises(ValueError, match=r"log_b reaches 0\.5: a log decay is at most 0"):
        chunkwise(q, k, v, log_b=torch.full((B, T, H, 1), 0.5, dtype=torch.float64))
    with pytest.raises(ValueError, match="choose one of recurrent, parallel, chunkwise"):
        choose("fast", FORMS)
