import pytest
import torch

from seqlab.core.recurrence import chunkwise
from seqlab.mixers.gated_retention import GatedRetention

D, H, T = 32, 4, 19


def test_it_is_the_papers_complex_sum_with_a_gate_per_token():
    """o_n = Σ_m (Π γ over m+1 .. n) Re⟨q_n e^{inθ}, k_m e^{imθ}⟩ v_m, channel pairs as complex."""
    mixer, x = GatedRetention(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    K = D // H
    q, k = (torch.view_as_complex(W(x).unflatten(-1, (H, K // 2, 2))) for W in (mixer.q, mixer.k))
    v, gamma = mixer.v(x).unflatten(-1, (H, K)), torch.sigmoid(mixer.decay(x)) ** (1 / 16)
    theta = torch.tensor([10000 ** (-i / (K // 2 - 1)) for i in range(K // 2)], dtype=torch.float64)
    y = torch.zeros_like(v)
    for n in range(T):
        for m in range(n + 1):
            turn = torch.polar(torch.ones_like(theta), (n - m) * theta)
            score = (q[:, n] * k[:, m].conj() * turn).sum(-1).real / K**0.5  # (B, H)
            y[:, n] += (gamma[:, m + 1 : n + 1].prod(1) * score)[..., None] * v[:, m]
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    gate = mixer.g(x)
    expected = mixer.out(gate * torch.sigmoid(gate) * y.flatten(-2))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-9)


def test_a_carried_state_continues_at_its_position():
    """S = Σ_m (Π γ over m+1 .. T) v_m (k_m e^{imθ})ᵀ / √K, m counted from the very start.

    It is the same wherever the sequence is cut, and its position is T.
    """
    mixer, x = GatedRetention(D, H).double(), torch.randn(1, T, D, dtype=torch.float64)
    K = D // H
    k = torch.view_as_complex(mixer.k(x).unflatten(-1, (H, K // 2, 2)))
    v, gamma = mixer.v(x).unflatten(-1, (H, K)), torch.sigmoid(mixer.decay(x)) ** (1 / 16)
    theta = torch.tensor([10000 ** (-i / (K // 2 - 1)) for i in range(K // 2)], dtype=torch.float64)
    S = 0
    for m in range(T):
        turned = torch.view_as_real(k[:, m] * torch.polar(torch.ones_like(theta), m * theta))
        S = gamma[:, m, :, None, None] * S + v[:, m, :, :, None] * turned.flatten(-2)[..., None, :]
    for cut in (1, 7, T - 1):
        _, state = mixer(x[:, :cut])
        _, state = mixer(x[:, cut:], state)
        torch.testing.assert_close(state.S, S / K**0.5, rtol=0, atol=1e-9)
        assert state.position == T


def test_the_matrices_start_as_retnets():
    """Xavier: uniform in ±gain √(6 / (n_in + n_out)), gain 2^-2.5 and for W_o 2^-1."""
    mixer = GatedRetention(512, H)
    starts = {mixer.out: 2**-1} | {
        W: 2**-2.5 for W in (mixer.q, mixer.k, mixer.v, mixer.g, mixer.decay)
    }
    for W, gain in starts.items():
        bound = gain * (6 / sum(W.weight.shape)) ** 0.5
        assert 0.99 * bound < W.weight.abs().max() <= bound
        error = bound / (3 * W.weight.numel()) ** 0.5
        assert W.weight.mean().item() == pytest.approx(0, abs=5 * error)


def test_it_has_four_heads_by_default():
    mixer = GatedRetention(D)
    assert mixer(torch.randn(1, T, D))[1].S.shape == (1, 4, D // 4, D // 4)
    assert not any("bias" in name for name in mixer.state_dict())


def test_at_first_a_head_keeps_about_96_percent():
    mixer = GatedRetention(D, H)
    log_a = mixer.project(torch.zeros(1, 3, D))["log_a"]
    torch.testing.assert_close(log_a.exp(), torch.full_like(log_a, 0.5 ** (1 / 16)))


def test_an_odd_head_width_gets_one_clear_sentence():
    sentence = "d_model is 12, n_heads is 4: each head needs an even width"
    with pytest.raises(ValueError, match=sentence):
        GatedRetention(12, 4)


@pytest.mark.oracle
@pytest.mark.parametrize("reference", ["naive_recurrent_simple_gla", "naive_chunk_simple_gla"])
def test_gated_retention_against_fla(fla, reference):
    """fla scales q by K^-1/2 where gated retention scales k."""
    mixer, x = GatedRetention(D, H), torch.randn(2, 128, D)
    inputs = mixer.project(x)
    q, log_a = inputs["q"] * (D // H) ** 0.5, inputs["log_a"][..., 0]
    theirs = getattr(fla("simple_gla"), reference)
    y, S = theirs(q, inputs["k"], inputs["v"], log_a, output_final_state=True)
    ours, state = chunkwise(**inputs)
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, S.mT, rtol=1e-4, atol=1e-5)
