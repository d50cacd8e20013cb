import pytest
import torch
import torch.nn.functional as F

from seqlab.mixers.abc import ABC
from seqlab.mixers.gsa import GSA

D, H, T, M = 32, 4, 19, 5


def parts(mixer, x):
    return (W(x).unflatten(-1, (H, -1)) for W in (mixer.q, mixer.k, mixer.v, mixer.decay))


def test_it_is_the_papers_recurrence():
    mixer, x = GSA(D, H, n_slots=M).double(), 3 * torch.randn(2, T, D, dtype=torch.float64)
    q, k, v, gate = parts(mixer, x)
    q, k, v, gate = F.silu(q), F.silu(k), F.silu(v), torch.sigmoid(gate) ** (1 / 8)
    keys, values, ys = 0, 0, []
    for t in range(T):
        a = gate[:, t, :, :, None]  # (B, H, M, 1)
        keys = a * keys + (1 - a) * k[:, t, :, None]
        values = a * values + (1 - a) * v[:, t, :, None]
        scores = torch.einsum("bhmk, bhk -> bhm", keys, q[:, t])
        ys.append(torch.einsum("bhm, bhmv -> bhv", scores.softmax(-1), values))
    y = F.silu(torch.stack(ys, dim=1).flatten(-2))
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight
    ours, state = mixer(x)
    torch.testing.assert_close(ours, mixer.out(y), rtol=0, atol=1e-9)
    torch.testing.assert_close((state.keys, state.values), (keys, values.mT), rtol=0, atol=1e-9)


def test_with_the_gate_of_a_running_mean_it_is_abc():
    """ABC's two passes are GSA's, with the gate 1 - share and the share taken from the control."""
    gsa, abc = GSA(D, H, n_slots=M).double(), ABC(D, H, n_slots=M).double()
    x = torch.randn(2, T, D, dtype=torch.float64)
    inputs = abc.project(x)
    # Except for the first token: its slot is empty, so ABC's gate may be anything there.
    share = -torch.expm1(inputs["log_gate"])
    torch.testing.assert_close(share[:, 1:], inputs["share"][:, 1:], rtol=0, atol=1e-9)
    gsa.project = lambda x: {name: inputs[name] for name in ("q", "k", "v", "share", "log_gate")}
    gsa.norm, gsa.out = torch.nn.Identity(), torch.nn.Identity()
    abc.out = torch.nn.Identity()
    torch.testing.assert_close(gsa(x)[0], F.silu(abc(x)[0]), rtol=0, atol=1e-12)


def test_scale_multiplies_the_scores():
    """softmax(scale · K̃ q): as the scores of GSA without it, multiplied before the softmax."""
    plain, scaled = GSA(D, H, n_slots=M).double(), GSA(D, H, n_slots=M, scale=0.3).double()
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(2, T, D, dtype=torch.float64)
    plain.project = lambda x, project=plain.project: project(x) | {"q": 0.3 * project(x)["q"]}
    torch.testing.assert_close(scaled(x)[0], plain(x)[0], rtol=0, atol=1e-12)


def test_the_defaults_are_those_of_the_authors():
    """Four heads of 64 slots, no bias, and a near 1 at first: σ(0)^(1/8) = 0.92."""
    mixer = GSA(D)
    assert mixer(torch.randn(1, T, D))[1].keys.shape == (1, 4, 64, D // 4)
    assert not any("bias" in name for name in mixer.state_dict())
    log_gate = mixer.project(torch.zeros(1, 1, D))["log_gate"]
    torch.testing.assert_close(log_gate.exp(), torch.full_like(log_gate, 0.5 ** (1 / 8)))


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 32, n_heads is 5"):
        GSA(D, 5)


@pytest.mark.oracle
def test_gsa_against_fla(fla):
    mixer, x = GSA(D, H, n_slots=M), torch.randn(2, 50, D)
    q, k, v, share, log_gate = mixer.project(x).values()
    y, (keys, values) = fla("gsa").naive_recurrent_gsa(
        q, k, v, share, log_gate, scale=1.0, output_final_state=True
    )
    ours, state = mixer(x)
    expected = mixer.out(mixer.norm(F.silu(y.flatten(-2))))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.keys, keys.mT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.values, values.mT, rtol=1e-4, atol=1e-5)
