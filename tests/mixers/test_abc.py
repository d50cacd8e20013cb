import pytest
import torch

from seqlab.mixers.abc import ABC

D, H, T, M = 32, 4, 19, 5


def parts(mixer, x):
    return (W(x).unflatten(-1, (H, -1)) for W in (mixer.q, mixer.k, mixer.v, mixer.control))


def test_each_slot_is_a_weighted_mean_and_the_softmax_runs_over_slots():
    mixer, x = ABC(D, H, n_slots=M).double(), 3 * torch.randn(2, T, D, dtype=torch.float64)
    q, k, v, s = parts(mixer, x)
    y = torch.full_like(v, torch.nan)
    for t in range(T):
        share = s[:, : t + 1].exp()  # (B, t + 1, H, M)
        keys, values = (torch.einsum("bshm, bshk -> bhmk", share, u[:, : t + 1]) for u in (k, v))
        keys, values = (u / share.sum(1)[..., None] for u in (keys, values))
        scores = torch.einsum("bhmk, bhk -> bhm", keys, q[:, t]) / (D // H) ** 0.5
        y[:, t] = torch.einsum("bhm, bhmv -> bhv", scores.softmax(-1), values)
    ours, state = mixer(x)
    torch.testing.assert_close(ours, mixer.out(y.flatten(-2)), rtol=0, atol=1e-9)
    torch.testing.assert_close((state.keys, state.values), (keys, values.mT), rtol=0, atol=1e-9)
    torch.testing.assert_close(state.z, s.exp().sum(1).log(), rtol=0, atol=1e-9)


def test_a_slot_per_token_is_softmax_attention():
    """Token t writes to slot t alone, so the slots are the tokens; seen by the last token."""
    mixer, x = ABC(D, H, n_slots=T).double(), torch.randn(1, T, D, dtype=torch.float64)
    q, k, v, _ = (u.transpose(1, 2) for u in parts(mixer, x))
    own = torch.eye(T, dtype=torch.float64)[:, None].expand(T, H, T)
    mixer.control.forward = lambda _: 60 * (own - 1).flatten(-2)[None]
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    expected = mixer.out(y.flatten(-2))[:, -1]
    torch.testing.assert_close(mixer(x)[0][:, -1], expected, rtol=0, atol=1e-9)


def test_a_carried_state_holds_the_means_of_all_tokens():
    """Σ φ k / Σ φ over both parts, however the sequence is cut, and z = log Σ φ."""
    mixer, x = ABC(D, H, n_slots=M).double(), 3 * torch.randn(1, T, D, dtype=torch.float64)
    _, k, v, s = parts(mixer, x)
    share = s.softmax(dim=1)  # φ_s / Σ φ, over time
    keys, values = (torch.einsum("bthm, bthk -> bhmk", share, u) for u in (k, v))
    for cut in (1, 7, T - 1):
        _, state = mixer(x[:, :cut])
        _, state = mixer(x[:, cut:], state)
        torch.testing.assert_close(state.keys, keys, rtol=0, atol=1e-9)
        torch.testing.assert_close(state.values, values.mT, rtol=0, atol=1e-9)
        torch.testing.assert_close(state.z, s.logsumexp(dim=1), rtol=0, atol=1e-9)


def test_it_has_four_heads_of_32_slots_by_default_and_no_bias():
    mixer = ABC(D)
    assert mixer(torch.randn(1, T, D))[1].keys.shape == (1, 4, 32, D // 4)
    assert not any("bias" in name for name in mixer.state_dict())


def test_no_control_is_too_large():
    """A slot's share of a mean does not overflow where exp does."""
    mixer, x = ABC(D, H, n_slots=M), torch.randn(1, T, D)
    mixer.control.weight.data *= 1e4
    y, state = mixer(x)
    assert y.isfinite().all() and state.keys.isfinite().all() and state.z.max() > 1e3


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 32, n_heads is 5"):
        ABC(D, 5)


@pytest.mark.oracle
@pytest.mark.parametrize("reference", ["naive_recurrent_abc", "naive_cumsum_abc"])
def test_abc_against_fla(fla, reference):
    mixer, x = ABC(D, H, n_slots=M), torch.randn(2, 50, D)
    y, _ = getattr(fla("abc"), reference)(*(u.transpose(1, 2) for u in parts(mixer, x)))
    expected = mixer.out(y.transpose(1, 2).flatten(-2))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-4, atol=1e-5)
