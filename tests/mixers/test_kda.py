import inspect
import warnings

import pytest
import torch

from seqlab.core.recurrence import recurrent
from seqlab.mixers.kda import KDA

D, T = 32, 23


def test_each_column_fades_by_itself():
    """S̃ = S diag(a), then the write of its error: in matrices written out."""
    mixer, x = (
        KDA(D, d_value=5, negative_eigenvalues=True).double(),
        torch.randn(1, T, D, dtype=torch.float64),
    )
    inputs = {name: u[0, :, 0] for name, u in mixer.project(x).items()}  # head 0
    S = torch.zeros(5, 8, dtype=torch.float64)
    for _, k, v, log_a, beta in zip(*inputs.values(), strict=True):
        S = S @ torch.diag(log_a.exp()) @ (
            torch.eye(8) - beta * torch.outer(k, k)
        ) + beta * torch.outer(v, k)
    torch.testing.assert_close(mixer(x)[1].S[0, 0], S, rtol=0, atol=1e-9)


def test_one_gate_for_all_channels_is_gated_deltanets():
    q, k, v, log_a, beta = (
        KDA(D).double().project(torch.randn(2, T, D, dtype=torch.float64)).values()
    )
    per_head = log_a[..., :1]
    for ours, theirs in zip(
        recurrent(q, k, v, log_a=per_head.expand_as(log_a), beta=beta),
        recurrent(q, k, v, log_a=per_head, beta=beta),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_the_decays_at_the_start_are_those_of_the_authors():
    mixer = KDA(D, 512, d_key=1)
    A, dt = mixer.A_log.detach().exp(), torch.nn.functional.softplus(mixer.dt_bias.detach())
    assert A.min() >= 1 and A.max() <= 16 and A.mean() == pytest.approx(8.5, abs=1)
    assert dt.min() > 0.99e-3 and dt.max() < 0.101


@pytest.fixture
def kimi(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.kimi_linear import modeling_kimi_linear as module
    for name in (
        "chunk_kimi_delta_attention",
        "recurrent_kimi_delta_attention",
        "causal_conv1d_fn",
    ):
        monkeypatch.setattr(
            module, name, inspect.unwrap(getattr(module, name))
        )  # not the GPU's kernels
    monkeypatch.setattr(module, "causal_conv1d_update", inspect.unwrap(module.causal_conv1d_update))
    return module


def from_kimi(layer):
    ours = KDA(
        layer.hidden_size, layer.num_heads, d_key=layer.head_dim, d_conv=layer.conv_kernel_size,
        eps=layer.layer_norm_epsilon,
    ).double()  # fmt: skip
    ours.qkv.weight.data = torch.cat(
        [W.weight.data for W in (layer.q_proj, layer.k_proj, layer.v_proj)]
    )
    forget = layer.forget_gate
    pairs = zip(
        [*ours.decay, *ours.gate],
        [forget.f_a_proj, forget.f_b_proj, layer.g_a_proj, layer.g_b_proj],
        strict=True,
    )
    for our, their in pairs:
        our.weight.data = their.weight.data
    ours.beta.weight.data, ours.out.weight.data = layer.b_proj.weight.data, layer.o_proj.weight.data
    ours.conv.weight.data, ours.norm.data = layer.conv1d.weight.data[:, 0], layer.o_norm.weight.data
    ours.A_log.data, ours.dt_bias.data = forget.A_log.data.flatten(), forget.dt_bias.data
    return ours


@pytest.mark.oracle
@pytest.mark.parametrize(("heads", "width"), [(4, 8), (3, 7)])
def test_it_is_kimi_linears_layer_in_prefill_and_token_by_token(kimi, heads, width):
    config = kimi.KimiLinearConfig(
        hidden_size=D, linear_num_heads=heads, linear_head_dim=width, linear_conv_kernel_dim=3, num_hidden_layers=1,
        layer_types=["linear_attention"],
    )  # fmt: skip
    theirs = kimi.KimiLinearDeltaAttention(config, 0).double().eval()
    theirs.forget_gate.A_log.data.uniform_(-1, 2)
    theirs.forget_gate.dt_bias.data.uniform_(-4, 1)
    theirs.o_norm.weight.data.uniform_(0.5, 2)
    ours, x = from_kimi(theirs), torch.randn(2, T, D, dtype=torch.float64)
    cache, state = kimi.DynamicCache(config=config), None
    for part in x.split([17, *[1] * 6], dim=1):
        y, state = ours(part, state)
        # Theirs computes in float32 inside.
        torch.testing.assert_close(y, theirs(part, cache_params=cache), rtol=0, atol=1e-6)
