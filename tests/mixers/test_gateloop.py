import pytest
import torch

from seqlab.core.position import rotate
from seqlab.core.recurrence import chunkwise
from seqlab.mixers.gateloop import GateLoop

D, H, T = 32, 4, 19


@pytest.mark.parametrize("n_heads", [4, 32], ids=["four heads", "each head one complex number"])
def test_it_is_the_papers_complex_recurrence(n_heads):
    """h = a h + k vᵀ with complex a, y = Re(q h); our state is h, real part beside imaginary."""
    mixer, x = GateLoop(D, n_heads).double(), torch.randn(2, T, D, dtype=torch.float64)
    projections = (mixer.q, mixer.k, mixer.v, mixer.fade, mixer.turn)
    q, k, v, alpha, beta = (W(x).unflatten(-1, (n_heads, -1)) for W in projections)
    a, h, ys = torch.polar(torch.sigmoid(alpha), beta), 0, []
    for t in range(T):
        h = a[:, t, :, :, None] * h + k[:, t, :, :, None] * v[:, t, :, None, :]
        ys.append((q[:, t, :, :, None] * h).sum(-2).real)
    y = torch.stack(ys, dim=1)
    if n_heads < D:
        y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    gate = mixer.g(x)
    ours, state = mixer(x)
    expected = mixer.out(gate * torch.sigmoid(gate) * y.flatten(-2))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(state, torch.cat([h.real, h.imag], dim=-2).mT, rtol=0, atol=1e-9)


def test_without_a_turn_it_is_gated_linear_attention():
    mixer, x = GateLoop(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    mixer.turn.weight.data.zero_(), mixer.turn.bias.data.zero_()
    inputs, K = mixer.project(x), D // H
    real = {name: inputs[name][..., :K] for name in ("q", "k", "log_a")}
    expected = chunkwise(**real, v=inputs["v"])[0]
    torch.testing.assert_close(chunkwise(**inputs)[0], expected, rtol=0, atol=1e-9)


def test_a_constant_turn_is_rope():
    """Angles that do not depend on the token: q·k is that of RoPE's rotated pairs (u, 0)."""
    mixer, x = GateLoop(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    theta = torch.linspace(0.1, 2, D // H, dtype=torch.float64)
    mixer.turn.weight.data.zero_()
    mixer.turn.bias.data = theta.repeat(H)
    inputs = mixer.project(x)
    q, k = (W(x).unflatten(-1, (H, D // H)) for W in (mixer.q, mixer.k))
    q, k = (torch.nn.functional.pad(u, (0, D // H)) for u in (q, k))
    q, k = (rotate(u, torch.arange(T), theta) for u in (q, k))
    expected = chunkwise(q, k, inputs["v"], log_a=inputs["log_a"])[0]
    torch.testing.assert_close(chunkwise(**inputs)[0], expected, rtol=0, atol=1e-9)


def test_it_has_four_heads_by_default_and_a_bias_on_the_gate_alone():
    mixer = GateLoop(D)
    assert mixer(torch.randn(1, T, D))[1].shape == (1, 4, D // 4, 2 * D // 4)
    assert [name for name in mixer.state_dict() if "bias" in name] == ["fade.bias", "turn.bias"]


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 32, n_heads is 5"):
        GateLoop(D, 5)
