import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Uniform

from seqlab.core import dplr
from seqlab.core.recurrence import recurrent
from seqlab.mixers.gated_deltanet2 import GatedDeltaNet2
from seqlab.mixers.kda import KDA

D, T, H = 32, 23, 4


def draw(B=2):
    return torch.randn(B, T, D, dtype=torch.float64)


def close(ours, theirs, atol=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def heads(u):
    return u.unflatten(-1, (H, -1))


def parts(mixer, x):
    """q, k, v, the log decay and the two gates, each (B, T, H, ·), from the layer's description."""
    q, k, v = mixer.conv(mixer.qkv(x))[0].split(mixer.widths, dim=-1)
    q, k = (u / (u.square().sum(-1, keepdim=True) + 1e-6).sqrt() for u in (heads(q), heads(k)))
    rate = F.softplus(mixer.decay[1](mixer.decay[0](x)) + mixer.dt_bias)
    g = -mixer.A_log.exp()[:, None] * heads(rate)
    b, w = (1 / (1 + torch.exp(-heads(W(x)))) for W in (mixer.erase, mixer.write))
    return q, k, heads(v), g, b, w


@pytest.mark.oracle
@pytest.mark.parametrize("reference", ["naive_recurrent_gdn2", "naive_chunk_gdn2"])
def test_it_is_flas_layer(fla, float64_for_float32, reference):
    module = fla("gdn2")
    float64_for_float32()
    mixer, x = GatedDeltaNet2(D, d_value=5).double(), draw()
    mixer.norm.data.uniform_(0.5, 2)
    y, S = getattr(module, reference)(*parts(mixer, x), output_final_state=True)
    y = mixer.norm * y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    gate = mixer.gate[1](mixer.gate[0](x)).sigmoid()
    ours, state = mixer(x)
    close(ours, mixer.out(y.flatten(2) * gate))
    close(state.S, S.mT)


def test_the_erased_and_the_written_part_have_channels_of_their_own():
    """In matrices written out: S (I - (b k) kᵀ) after the fading, then (w v) kᵀ."""
    mixer, x = GatedDeltaNet2(D, d_value=5).double(), draw(1)
    S = torch.zeros(5, 8, dtype=torch.float64)
    for _, k, v, g, b, w in zip(*(u[0, :, 0] for u in parts(mixer, x)), strict=True):
        S = S @ torch.diag(g.exp()) @ (torch.eye(8) - torch.outer(b * k, k)) + torch.outer(w * v, k)
    close(mixer(x)[1].S[0, 0], S)


def test_with_one_strength_for_both_gates_it_is_kda():
    mixer, x = GatedDeltaNet2(D).double(), draw()
    kda = KDA(D, gate_bias=True).double()
    shared = {k: u for k, u in mixer.state_dict().items() if not k.startswith(("erase", "write"))}
    kda.load_state_dict({**shared, "beta.weight": kda.beta.weight})
    for W in (mixer.erase, mixer.write):
        W.weight.data = kda.beta.weight.data.repeat_interleave(8, dim=0)
    ours, state = mixer(x)
    theirs, kda_state = kda(x)
    close(ours, theirs)
    close(state.S, kda_state.S)


def test_with_one_gate_and_one_decay_a_head_it_is_gated_deltanet():
    q, k, v, g, b, _ = parts(GatedDeltaNet2(D).double(), draw())
    g, b = g[..., :1], b[..., :1]
    ours = dplr.chunkwise(q, k, b * v, -g.exp() * b * k, k, g)
    theirs = recurrent(q, k, v, log_a=g, beta=b[..., 0])
    for a, c in zip(ours, theirs, strict=True):
        close(a, c)


def test_negative_eigenvalues_double_what_is_erased_alone():
    plain, x = GatedDeltaNet2(D, d_conv=1).double(), draw()
    doubled = GatedDeltaNet2(D, d_conv=1, negative_eigenvalues=True).double()
    doubled.load_state_dict(plain.state_dict())
    one, two = plain.project(x), doubled.project(x)
    close(two["e"], 2 * one["e"])
    close(two["v"], one["v"])


def test_the_starts_are_the_authors(drawn_from):
    mixer = GatedDeltaNet2(D, 4096, d_key=1)
    drawn_from(mixer.A_log.exp(), Uniform(1, 16, validate_args=False))
    dt = F.softplus(mixer.dt_bias).log()
    low, high = torch.tensor([1e-3, 0.1]).log().tolist()
    drawn_from(dt, Uniform(low, high, validate_args=False))
    assert mixer.gate[1].bias is not None and (mixer.norm == 1).all() and mixer.eps == 1e-5
    assert GatedDeltaNet2(64).decay[0].out_features == GatedDeltaNet2(64).gate[0].out_features == 16


def test_decays_are_in_float32_in_a_bfloat16_model():
    assert GatedDeltaNet2(D).bfloat16().project(draw().bfloat16())["log_a"].dtype == torch.float32
