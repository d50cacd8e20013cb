import pytest
import torch

from seqlab.core import recurrence, two_sided
from seqlab.mixers.dfw import DFW

D, H, T = 32, 4, 19


def test_it_is_the_papers_recurrence():
    """S = (σ(z) σ(f)ᵀ) ⊙ S + v kᵀ, y = S q."""
    mixer, x = DFW(D, H).double(), 3 * torch.randn(2, T, D, dtype=torch.float64)
    projections = (mixer.q, mixer.k, mixer.v, mixer.a, mixer.b)
    q, k, v, f, z = (W(x).unflatten(-1, (H, D // H)) for W in projections)
    S, ys = torch.zeros(2, H, D // H, D // H, dtype=torch.float64), []
    for t in range(T):
        gate = torch.einsum("bhv, bhk -> bhvk", torch.sigmoid(z[:, t]), torch.sigmoid(f[:, t]))
        S = gate * S + torch.einsum("bhv, bhk -> bhvk", v[:, t], k[:, t])
        ys.append(torch.einsum("bhvk, bhk -> bhv", S, q[:, t]))
    ours, state = mixer(x)
    expected = mixer.out(torch.stack(ys, dim=1).flatten(-2))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(state, S, rtol=0, atol=1e-9)


def test_with_open_rows_it_is_gated_linear_attention():
    mixer, x = DFW(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    mixer.b.weight.data.zero_(), mixer.b.bias.data.fill_(60.0)  # σ(60) = 1 - 1e-26
    inputs = mixer.project(x)
    del inputs["log_b"]
    y, S = recurrence.chunkwise(**inputs)
    ours, state = mixer(x)
    torch.testing.assert_close((ours, state), (mixer.out(y.flatten(-2)), S), rtol=0, atol=1e-9)


def test_its_gates_start_uniform():
    """arXiv:1910.09890: σ of each bias is uniform in [1/D, 1 - 1/D], in both gates.

    A gate g remembers about 1 / (1 - g) tokens, so D at most. Bounds of five standard errors.
    """
    mixer = DFW(2000, 4)
    starts = [gate.bias.detach().sigmoid() for gate in (mixer.a, mixer.b)]
    for start in starts:
        assert 1 / 2001 < start.min() < 0.01 and 0.99 < start.max() < 1 - 1 / 2001
        assert start.mean().item() == pytest.approx(0.5, abs=5 * 12**-0.5 / 2000**0.5)
        assert start.std().item() == pytest.approx(12**-0.5, rel=0.05)
    assert not starts[0].equal(starts[1])
    assert DFW(2, 1).a.bias.eq(0).all()  # uniform in [1/2, 1/2]
    assert DFW(1, 1).a.bias.isfinite().all()


def test_it_has_four_heads_by_default_and_a_bias_on_the_gates_alone():
    mixer = DFW(D)
    assert mixer(torch.randn(1, T, D))[1].shape == (1, 4, D // 4, D // 4)
    assert [name for name in mixer.state_dict() if "bias" in name] == ["a.bias", "b.bias"]


def test_a_function_may_be_the_form():
    mixer, x = DFW(D, H), torch.randn(2, T, D)
    y, _ = mixer(x)
    mixer.form = two_sided.chunkwise
    torch.testing.assert_close(mixer(x)[0], y)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 32, n_heads is 5"):
        DFW(D, 5)
