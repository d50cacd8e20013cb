import pytest
import torch

from seqlab.core import recurrence
from seqlab.mixers.dfw import DFW

D, H, T = 32, 4, 19


def test_it_is_the_papers_recurrence():
    """S = (σ(z) σ(f)ᵀ) ⊙ S + v kᵀ, y = S q."""
    mixer, x = DFW(D, H).double(), 3 * torch.randn(2, T, D, dtype=torch.float64)
    q, k, v, f, z = (
        W(x).unflatten(-1, (H, D // H)) for W in (mixer.q, mixer.k, mixer.v, mixer.a, mixer.b)
    )
    S, ys = torch.zeros(2, H, D // H, D // H, dtype=torch.float64), []
    for t in range(T):
        gate = torch.einsum("bhv, bhk -> bhvk", torch.sigmoid(z[:, t]), torch.sigmoid(f[:, t]))
        S = gate * S + torch.einsum("bhv, bhk -> bhvk", v[:, t], k[:, t])
        ys.append(torch.einsum("bhvk, bhk -> bhv", S, q[:, t]))
    ours, state = mixer(x)
    torch.testing.assert_close(
        ours, mixer.out(torch.stack(ys, dim=1).flatten(-2)), rtol=0, atol=1e-9
    )
    torch.testing.assert_close(state, S, rtol=0, atol=1e-9)


def test_with_open_rows_it_is_gated_linear_attention():
    mixer, x = DFW(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    mixer.b.weight.data.zero_(), mixer.b.bias.data.fill_(60.0)  # σ(60) = 1 - 1e-26
    inputs = mixer.project(x)
    del inputs["log_b"]
    y, S = recurrence.chunkwise(**inputs)
    ours, state = mixer(x)
    torch.testing.assert_close((ours, state), (mixer.out(y.flatten(-2)), S), rtol=0, atol=1e-9)


def test_a_function_may_stand_for_the_form():
    from seqlab.core.two_sided import chunkwise

    mixer, x = DFW(D, H), torch.randn(2, T, D)
    y, _ = mixer(x)
    mixer.form = chunkwise
    torch.testing.assert_close(mixer(x)[0], y)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 32, n_heads is 5"):
        DFW(D, 5)
