import pytest
import torch
import torch.nn.functional as F

from seqlab.core.recurrence import chunkwise
from seqlab.mixers import RetNet

D, H, T = 32, 4, 19


def test_it_is_the_papers_complex_sum():
    """o_n = Σ_m γ^(n-m) Re⟨q_n e^{inθ}, k_m e^{imθ}⟩ v_m; pairs of channels are complex numbers."""
    mixer, x = RetNet(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    K = D // H
    q, k = (torch.view_as_complex(W(x).unflatten(-1, (H, K // 2, 2))) for W in (mixer.q, mixer.k))
    v = mixer.v(x).unflatten(-1, (H, 2 * K))
    theta = torch.tensor([10000 ** (-i / (K // 2 - 1)) for i in range(K // 2)], dtype=torch.float64)
    y = torch.zeros_like(v)
    for n in range(T):
        for m in range(n + 1):
            turn = torch.polar(torch.ones_like(theta), (n - m) * theta)
            score = (q[:, n] * k[:, m].conj() * turn).sum(-1).real / K**0.5  # (B, H)
            for h in range(H):
                y[:, n, h] += (1 - 2 ** (-5 - h)) ** (n - m) * score[:, h, None] * v[:, m, h]
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    gate = mixer.g(x)
    expected = mixer.out(gate * torch.sigmoid(gate) * y.flatten(-2))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-8)


def test_the_papers_rescalings_of_the_parallel_form_vanish_in_the_norm():
    """Division of D by √(its row sums), and of R by its absolute row sums, changes no output.

    A norm of each head follows, in which any positive factor cancels.
    """
    mixer, x = RetNet(D, H).double(), torch.randn(1, T, D, dtype=torch.float64)
    inputs = mixer.project(x)
    span = torch.arange(T)[:, None] - torch.arange(T)
    mask = (mixer.log_gamma.double()[:, None, None] * span).exp().tril()  # (H, T, T)
    mask = mask / mask.sum(-1, keepdim=True).sqrt()
    R = torch.einsum("bihk, bjhk -> bhij", inputs["q"], inputs["k"]) * mask
    R = R / R.abs().sum(-1, keepdim=True).clamp(min=1, max=5e4)
    rescaled = torch.einsum("bhij, bjhv -> bihv", R, inputs["v"])
    ours, theirs = (F.normalize(y, dim=-1) for y in (chunkwise(**inputs)[0], rescaled))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_an_old_token_counts_less_by_gamma_per_step():
    """γ = 1 - 2^-5 halves a weight in 21.83 tokens; each further head remembers twice as long."""
    half_lives = torch.log(torch.tensor(0.5)) / RetNet(D, H).log_gamma
    assert half_lives[0] == pytest.approx(21.83, abs=0.01)
    assert (half_lives[1:] / half_lives[:-1]).round().eq(2).all()


def test_a_model_in_bf16_keeps_its_decays():
    """bfloat16 would round γ of the slowest heads by far more than two of them differ."""
    mixer = RetNet(64, 8).bfloat16()
    log_a = mixer.project(torch.randn(1, 3, 64, dtype=torch.bfloat16))["log_a"][0, 0, :, 0]
    exact = torch.tensor([1 - 2.0 ** (-5 - h) for h in range(8)], dtype=torch.float64).log()
    torch.testing.assert_close(log_a.double(), exact, rtol=1e-6, atol=0)


def test_the_matrices_start_as_the_authors():
    """torchscale: Xavier uniform, ±gain √(6 / (in + out)), gain 2^-2.5, and 2^-1 for W_o."""
    mixer = RetNet(64)
    assert mixer.n_heads == 4
    for W, bound in (
        (mixer.q, 2**-2.5 * (6 / 128) ** 0.5),
        (mixer.k, 2**-2.5 * (6 / 128) ** 0.5),
        (mixer.v, 2**-2.5 * (6 / 192) ** 0.5),  # V = 2 K
        (mixer.g, 2**-2.5 * (6 / 192) ** 0.5),
        (mixer.out, 0.5 * (6 / 192) ** 0.5),
    ):
        assert W.bias is None
        assert W.weight.min().item() == pytest.approx(-bound, rel=0.01)
        assert W.weight.max().item() == pytest.approx(bound, rel=0.01)
        assert W.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


def test_positions_go_on_where_the_state_stopped():
    mixer, x = RetNet(D, H), torch.randn(1, 7, D)
    _, state = mixer(x)
    assert state.position == 7
    assert mixer(x, state)[1].position == 14


def test_an_odd_head_width_gets_one_clear_sentence():
    sentence = "d_model is 12, n_heads is 4: each head needs an even width"
    with pytest.raises(ValueError, match=sentence):
        RetNet(12, 4)


@pytest.mark.oracle
def test_retention_against_fla(fla):
    """fla scales q by K^-1/2 where RetNet scales k; here q is scaled back."""
    mixer, x = RetNet(D, H), torch.randn(2, 50, D)
    inputs = mixer.project(x)
    q, k, v = (inputs[name].transpose(1, 2) for name in "qkv")
    y = fla("retention").naive_retention(q * (D // H) ** 0.5, k, v).transpose(1, 2)
    torch.testing.assert_close(chunkwise(**inputs)[0], y, rtol=1e-4, atol=1e-5)
