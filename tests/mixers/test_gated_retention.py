import pytest
import torch

from seqlab.core.recurrence import chunkwise
from seqlab.mixers.gated_retention import GatedRetention

D, H, T = 32, 4, 19


def test_it_is_the_papers_complex_sum_with_a_gate_per_token():
    """o_n = Σ_m (Π γ over m+1 .. n) Re⟨q_n e^{inθ}, k_m e^{imθ}⟩ v_m, pairs of channels as complex
    numbers.
    """
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


def test_at_first_a_head_keeps_about_96_percent():
    mixer = GatedRetention(D, H)
    log_a = mixer.project(torch.zeros(1, 3, D))["log_a"]
    torch.testing.assert_close(log_a.exp(), torch.full_like(log_a, 0.5 ** (1 / 16)))


def test_an_odd_head_width_gets_one_clear_sentence():
    with pytest.raises(
        ValueError, match="d_model is 12, n_heads is 4: each head needs an even width"
    ):
        GatedRetention(12, 4)


@pytest.mark.oracle
@pytest.mark.parametrize("reference", ["naive_recurrent_simple_gla", "naive_chunk_simple_gla"])
def test_gated_retention_against_fla(fla, reference):
    """fla scales q by K^-1/2 where gated retention scales k."""
    mixer, x = GatedRetention(D, H), torch.randn(2, 128, D)
    inputs = mixer.project(x)
    q, log_a = inputs["q"] * (D // H) ** 0.5, inputs["log_a"][..., 0]
    y, S = getattr(fla("simple_gla"), reference)(
        q, inputs["k"], inputs["v"], log_a, output_final_state=True
    )
    ours, state = chunkwise(**inputs)
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, S.mT, rtol=1e-4, atol=1e-5)
