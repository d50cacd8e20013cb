"""The two-key recurrence: its forms agree, the delta rule is one case, and fla agrees."""

import pytest
import torch
import torch.nn.functional as F

from seqlab.core import dplr, recurrence
from seqlab.core.inputs import choose

B, T, H, K, V = 2, 19, 3, 6, 5


def draw(T=T, dtype=torch.float64, decay=1.0):
    q, k, e = (F.normalize(torch.randn(B, T, H, K, dtype=dtype), dim=-1) for _ in range(3))
    f = -e * torch.rand(B, T, H, K, dtype=dtype)
    v = torch.randn(B, T, H, V, dtype=dtype)
    log_a = -decay * torch.rand(B, T, H, K, dtype=dtype)
    state = torch.randn(B, H, V, K, dtype=dtype)
    return [x.requires_grad_() for x in (q, k, v, e, f, log_a)], state


@pytest.mark.parametrize("chunk_size", [1, 4, 7, T, 64])
@pytest.mark.parametrize("decay", [0.0, 0.6, 300.0])
def test_chunks_are_the_recurrence_with_its_gradients(chunk_size, decay):
    xs, state = draw(decay=decay)
    results = []
    for form in (dplr.recurrent, choose("chunkwise", dplr.FORMS, chunk_size=chunk_size)):
        y, S = form(*xs, state=state)
        results.append((y, S, *torch.autograd.grad(y.sin().sum() + S.cos().sum(), xs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_one_key_for_both_is_the_gated_delta_rule():
    """e = -a k and f = β k: S diag(a) + β (v - S diag(a) k) kᵀ."""
    (q, k, v, _, _, log_a), state = draw()
    beta = 2 * torch.rand(B, T, H, dtype=torch.float64)
    e, f = -log_a.exp() * k, beta[..., None] * k
    ours = dplr.chunkwise(q, k, beta[..., None] * v, e, f, log_a, state=state)
    theirs = recurrence.recurrent(q, k, v, log_a=log_a, beta=beta, state=state)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_without_erasing_it_is_a_gated_sum():
    (q, k, v, e, f, log_a), state = draw()
    ours = dplr.chunkwise(q, k, v, e, 0 * f, log_a, state=state)
    theirs = recurrence.recurrent(q, k, v, log_a=log_a, state=state)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_decay_per_head_is_the_same_for_every_channel():
    (q, k, v, e, f, log_a), _ = draw()
    ours = dplr.chunkwise(q, k, v, e, f, log_a[..., :1])
    theirs = dplr.recurrent(q, k, v, e, f, log_a[..., :1].expand_as(q))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_bf16_keeps_its_state_in_float32():
    xs, _ = draw(dtype=torch.bfloat16)
    y, S = dplr.chunkwise(*xs)
    assert y.dtype == torch.bfloat16 and S.dtype == torch.float32


def test_wrong_inputs_get_one_clear_sentence():
    (q, k, v, e, f, log_a), _ = draw()
    sentence = r"f has shape \(2, 19, 3, 5\), q has \(2, 19, 3, 6\): they must match"
    with pytest.raises(ValueError, match=sentence):
        dplr.recurrent(q, k, v, e, f[..., :5], log_a)
    with pytest.raises(ValueError, match="log_a reaches 1: a log decay is at most 0"):
        dplr.chunkwise(q, k, v, e, f, torch.ones_like(log_a))
    with pytest.raises(ValueError, match="chunk_size is 0: it must be at least 1"):
        dplr.chunkwise(q, k, v, e, f, log_a, chunk_size=0)


@pytest.mark.parametrize("form", dplr.FORMS)
def test_no_sequences_give_no_answers(form):
    xs, state = draw()
    y, S = dplr.FORMS[form](*(x[:0] for x in xs), state=state[:0])
    assert y.shape == (0, T, H, V) and S.shape == (0, H, V, K)


def test_a_chunk_has_sixteen_tokens_by_default_and_a_first_state_of_zero():
    xs, _ = draw()
    theirs = dplr.chunkwise(*xs, chunk_size=16, state=torch.zeros(B, H, V, K).double())
    torch.testing.assert_close(dplr.chunkwise(*xs), theirs, rtol=0, atol=0)


@pytest.mark.oracle
def test_against_fla(fla):
    xs, state = draw(dtype=torch.float32)
    q, k, v, e, f, log_a = (x.detach().transpose(1, 2) for x in xs)
    naive = fla("generalized_delta_rule.dplr")
    q = q * K**0.5  # it divides q by that
    y, S = naive.dplr_recurrence(q, k, v, e, f, log_a, initial_state=state.mT)
    ours = dplr.chunkwise(*xs, state=state)
    torch.testing.assert_close(ours[0], y.transpose(1, 2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1], S.mT, rtol=1e-5, atol=1e-5)
