import pytest
import torch

from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.mixers.gla import GLA

D, H, T = 32, 4, 19


def test_it_is_the_papers_recurrence():
    mixer, x = GLA(D, H).double(), 3 * torch.randn(2, T, D, dtype=torch.float64)
    K, V = D // 2 // H, D // H
    alpha = torch.sigmoid(mixer.decay(x)) ** (1 / 16)
    q, k, alpha = (u.unflatten(-1, (H, K)) for u in (mixer.q(x), mixer.k(x), alpha))
    v = mixer.v(x).unflatten(-1, (H, V))
    S, ys = torch.zeros(2, H, K, V, dtype=torch.float64), []
    for t in range(T):
        S = alpha[:, t, :, :, None] * S + k[:, t, :, :, None] * v[:, t, :, None, :]
        ys.append(torch.einsum("bhk, bhkv -> bhv", q[:, t], S) / K**0.5)
    y = torch.stack(ys, dim=1)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight
    gate = mixer.g(x)
    ours, state = mixer(x)
    expected = mixer.out(y.flatten(-2) * gate * torch.sigmoid(gate))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(state, S.mT, rtol=0, atol=1e-9)


def test_with_unit_gate_it_is_linear_attention():
    mixer, x = GLA(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    mixer.decay[1].weight.data.zero_()
    mixer.decay[1].bias.data.fill_(60.0)  # σ(60) = 1 - 1e-26
    inputs = mixer.project(x)
    ungated = chunkwise(inputs["q"], inputs["k"], inputs["v"])
    torch.testing.assert_close(chunkwise(**inputs), ungated, rtol=0, atol=1e-9)


def test_with_one_gate_per_head_it_is_gated_retention():
    mixer, x = GLA(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    last = mixer.decay[1]
    for p in (last.weight, last.bias):  # every channel of a head gets the gate of the first
        first = p.data.unflatten(0, (H, -1))[:, 0]
        p.data = first.repeat_interleave(D // 2 // H, dim=0)
    inputs = mixer.project(x)
    scalar = inputs | {"log_a": inputs["log_a"][..., :1]}
    torch.testing.assert_close(chunkwise(**inputs), chunkwise(**scalar), rtol=0, atol=1e-9)


def test_the_matrices_start_by_xaviers_rule_with_the_authors_gain():
    """Uniform in ±2^-2.5 √(6 / (n_in + n_out)), all of them, W_o and both of the gate too."""
    mixer = GLA(512, H)
    for W in (mixer.q, mixer.k, mixer.v, mixer.g, mixer.out, *mixer.decay):
        bound = 2**-2.5 * (6 / sum(W.weight.shape)) ** 0.5
        assert 0.99 * bound < W.weight.abs().max() <= bound
        error = bound / (3 * W.weight.numel()) ** 0.5
        assert W.weight.mean().item() == pytest.approx(0, abs=5 * error)


def test_the_defaults_are_the_papers():
    """K is half of V, the gate has rank 16; of the projections only W₂ and W_g have a bias."""
    mixer = GLA(D)
    assert mixer(torch.randn(1, T, D))[1].shape == (1, 4, D // 4, D // 8)
    assert mixer.decay[0].out_features == 16 and mixer.norm.weight.eq(1).all()
    assert [name for name in mixer.state_dict() if "bias" in name] == ["decay.1.bias", "g.bias"]


def test_a_model_in_bf16_keeps_its_decays_in_float32():
    inputs = GLA(D, H).bfloat16().project(torch.randn(1, 3, D, dtype=torch.bfloat16))
    assert inputs["log_a"].dtype == torch.float32 and inputs["q"].dtype == torch.bfloat16
    assert recurrent(**inputs)[1].dtype == torch.float32


def test_wrong_options_get_one_clear_sentence():
    sentence = "keys are 16 wide, values 32: both must be a multiple of n_heads = 5"
    with pytest.raises(ValueError, match=sentence):
        GLA(D, 5)
    with pytest.raises(ValueError, match="keys are 16 wide, values 36"):  # either is enough
        GLA(D, 8, expand_v=36 / 32)
    with pytest.raises(ValueError, match="form is 'scan': choose one of"):
        GLA(D, H, form="scan")(torch.randn(1, 2, D))


@pytest.mark.oracle
def test_gla_against_fla(fla):
    mixer, x = GLA(D, H), 3 * torch.randn(2, 50, D)
    inputs = mixer.project(x)
    q = inputs["q"] * (D // 2 // H) ** 0.5  # fla scales q by itself
    theirs = fla("gla").naive_recurrent_gla
    y, S = theirs(q, inputs["k"], inputs["v"], inputs["log_a"], output_final_state=True)
    expected = mixer.out(torch.nn.functional.silu(mixer.g(x)) * mixer.norm(y).flatten(-2))
    ours, state = mixer(x)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, S.mT, rtol=1e-4, atol=1e-5)
