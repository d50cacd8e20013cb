import inspect
import math
import warnings

import pytest
import torch
from torch.distributions import Uniform
from torch.nn.functional import softplus

from seqlab.core.recurrence import recurrent
from seqlab.mixers.kda import KDA

D, T = 32, 23


def draw(B=2):
    return torch.randn(B, T, D, dtype=torch.float64)


def test_each_column_fades_by_itself():
    """S̃ = S diag(a), then the write of its error: in matrices written out."""
    mixer, x = KDA(D, d_value=5, negative_eigenvalues=True).double(), draw(1)
    inputs = {name: u[0, :, 0] for name, u in mixer.project(x).items()}  # head 0
    S, one = torch.zeros(5, 8, dtype=torch.float64), torch.eye(8)
    for _, k, v, log_a, beta in zip(*inputs.values(), strict=True):
        erase = one - beta * torch.outer(k, k)
        S = S @ torch.diag(log_a.exp()) @ erase + beta * torch.outer(v, k)
    torch.testing.assert_close(mixer(x)[1].S[0, 0], S, rtol=0, atol=1e-9)


def test_one_gate_for_all_channels_is_gated_deltanets():
    q, k, v, log_a, beta = KDA(D).double().project(draw()).values()
    per_head = log_a[..., :1]
    ours = recurrent(q, k, v, log_a=per_head.expand_as(log_a), beta=beta)
    theirs = recurrent(q, k, v, log_a=per_head, beta=beta)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_project_gives_what_the_recurrence_reads_with_and_without_a_state():
    mixer, x = KDA(D).double(), draw()
    _, S = recurrent(**mixer.project(x))
    _, state = mixer(x[:, :5])
    _, continued = recurrent(**mixer.project(x[:, 5:], state), state=state.S)
    for ours in (S, continued):
        torch.testing.assert_close(ours, mixer(x)[1].S, rtol=0, atol=1e-9)


def test_keys_have_length_1_and_queries_length_k_to_the_minus_half():
    """And the direction of silu(conv(W x)): q, k and v pass through one convolution."""
    mixer, x = KDA(D).double(), draw()
    inputs, qkv = mixer.project(x), mixer.conv(mixer.qkv(x))[0].unflatten(-1, (3, 4, 8))
    q, k, v = qkv.unbind(2)
    for name, u, length in (("q", q, 8**-0.5), ("k", k, 1)):
        # 1e-6 is added to the squared length.
        unit = u / (u.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(inputs[name], length * unit, rtol=0, atol=1e-12)
    torch.testing.assert_close(inputs["v"], v, rtol=0, atol=0)


def test_negative_eigenvalues_double_the_write_strength():
    x, options = draw(), {"d_conv": 1}
    plain, doubled = KDA(D, **options).double(), KDA(D, **options, negative_eigenvalues=True)
    doubled = doubled.double()
    doubled.load_state_dict(plain.state_dict())
    beta = plain.project(x)["beta"]
    torch.testing.assert_close(beta, (x @ plain.beta.weight.mT).sigmoid(), rtol=0, atol=1e-12)
    torch.testing.assert_close(doubled.project(x)["beta"], 2 * beta, rtol=0, atol=1e-12)


def test_the_decays_start_where_the_authors_start_them(drawn_from):
    mixer = KDA(D, 4096, d_key=1)
    A, dt = mixer.A_log.exp(), softplus(mixer.dt_bias)
    drawn_from(A, Uniform(1, 16, validate_args=False))
    drawn_from(dt.log(), Uniform(math.log(1e-3), math.log(0.1), validate_args=False))
    assert A.min() > 0.999 and A.max() < 16.001 and (mixer.norm == 1).all()


def test_the_default_sizes_are_the_authors():
    """K = V = d_model / n_heads, both low-rank maps through K channels, four taps, no bias."""
    mixer = KDA(64)
    assert mixer.n_heads == 4 and mixer.widths == [64, 64, 64] and mixer.norm.shape == (16,)
    assert mixer.decay[0].out_features == mixer.gate[0].out_features == 16
    assert mixer.conv.weight.shape == (3 * 64, 4) and mixer.eps == 1e-5
    assert {n for n, _ in mixer.named_parameters() if n.endswith("bias")} == {"dt_bias"}
    with_bias = KDA(64, gate_bias=True).gate
    assert with_bias[0].bias is None and with_bias[1].bias.shape == (64,)


def test_decays_are_in_float32_in_a_bfloat16_model():
    inputs = KDA(D).bfloat16().project(draw().bfloat16())
    assert inputs["log_a"].dtype == torch.float32 and inputs["q"].dtype == torch.bfloat16


@pytest.fixture
def kimi(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.kimi_linear import modeling_kimi_linear as module
    attention = "chunk_kimi_delta_attention", "recurrent_kimi_delta_attention"
    for name in (*attention, "causal_conv1d_fn", "causal_conv1d_update"):
        # Not the GPU's kernels.
        monkeypatch.setattr(module, name, inspect.unwrap(getattr(module, name)))
    return module


def from_kimi(layer):
    ours = KDA(
        layer.hidden_size,
        layer.num_heads,
        d_key=layer.head_dim,
        d_conv=layer.conv_kernel_size,
        eps=layer.layer_norm_epsilon,
    ).double()
    qkv = [W.weight.data for W in (layer.q_proj, layer.k_proj, layer.v_proj)]
    ours.qkv.weight.data = torch.cat(qkv)
    forget = layer.forget_gate
    thin = [forget.f_a_proj, forget.f_b_proj, layer.g_a_proj, layer.g_b_proj]
    for our, their in zip([*ours.decay, *ours.gate], thin, strict=True):
        our.weight.data = their.weight.data
    ours.beta.weight.data = layer.b_proj.weight.data
    ours.out.weight.data = layer.o_proj.weight.data
    ours.conv.weight.data = layer.conv1d.weight.data[:, 0]
    ours.norm.data = layer.o_norm.weight.data
    ours.A_log.data = forget.A_log.data.flatten()
    ours.dt_bias.data = forget.dt_bias.data
    return ours


@pytest.mark.oracle
@pytest.mark.parametrize(("heads", "width"), [(4, 8), (3, 7)])
def test_it_is_kimi_linears_layer_in_prefill_and_token_by_token(kimi, heads, width):
    config = kimi.KimiLinearConfig(
        hidden_size=D,
        linear_num_heads=heads,
        linear_head_dim=width,
        linear_conv_kernel_dim=3,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = kimi.KimiLinearDeltaAttention(config, 0).double().eval()
    theirs.forget_gate.A_log.data.uniform_(-1, 2)
    theirs.forget_gate.dt_bias.data.uniform_(-4, 1)
    theirs.o_norm.weight.data.uniform_(0.5, 2)
    ours, x = from_kimi(theirs), draw()
    cache, state = kimi.DynamicCache(config=config), None
    for part in x.split([17, *[1] * 6], dim=1):
        y, state = ours(part, state)
        # Theirs computes in float32 inside.
        torch.testing.assert_close(y, theirs(part, cache_params=cache), rtol=0, atol=1e-6)
