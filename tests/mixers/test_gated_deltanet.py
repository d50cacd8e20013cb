import inspect
import math
import warnings

import pytest
import torch

from seqlab.mixers.gated_deltanet import GatedDeltaNet

D, T = 32, 23


def test_a_closed_gate_forgets_everything_before():
    """A huge decay at every token: each token reads only itself, as if it were alone."""
    mixer, x = GatedDeltaNet(D).double(), torch.randn(1, T, D, dtype=torch.float64)
    mixer.A_log.data += 20
    inputs = mixer.project(x)
    score = (inputs["q"] * inputs["k"]).sum(-1) * inputs["beta"]  # S_t = β v kᵀ
    y = mixer.read(score[..., None] * inputs["v"]).flatten(2)
    gate = mixer.gate(x)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y * gate * gate.sigmoid()), rtol=0, atol=1e-9)


def test_decay_first_then_read():
    """S̃ = a S; S = S̃ + β (v - S̃ k) kᵀ: the error is taken against the faded table."""
    mixer = GatedDeltaNet(D, negative_eigenvalues=True).double()
    x = torch.randn(1, T, D, dtype=torch.float64)
    inputs = {name: u[0, :, 0] for name, u in mixer.project(x).items()}  # head 0
    S = torch.zeros(12, 6, dtype=torch.float64)
    for q, k, v, log_a, beta in zip(*inputs.values(), strict=True):
        S = log_a.exp() * S @ (torch.eye(6) - beta * torch.outer(k, k)) + beta * torch.outer(v, k)
        assert q.norm() <= 6**-0.5
    torch.testing.assert_close(mixer(x)[1].S[0, 0], S, rtol=0, atol=1e-9)


def test_the_decays_at_the_start_are_those_of_the_authors():
    """A uniform in (0, 16) and softplus(b) log-uniform in [0.001, 0.1].

    So half-lives reach from under a token to thousands of tokens. Bounds of five standard errors.
    """
    mixer = GatedDeltaNet(D, 2000, d_key=1)
    A, dt = mixer.A_log.detach().exp(), torch.nn.functional.softplus(mixer.dt_bias.detach())
    assert 0 < A.min() < 0.2 and 15.8 < A.max() < 16
    assert A.mean().item() == pytest.approx(8, abs=5 * 4.6 / 2000**0.5)
    assert 0.99e-3 < dt.min() < 1.1e-3 and 0.09 < dt.max() < 0.101
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=5 * 1.33 / 2000**0.5)


def test_the_widths_are_those_of_the_authors():
    """K = ¾ d_model / n_heads, V = 2 K; β = σ(W_β x), up to 1; no bias but on request."""
    mixer = GatedDeltaNet(D)
    assert mixer(torch.randn(1, T, D))[1].S.shape == (1, 4, 12, 6)
    assert 0.9 < mixer.project(30 * torch.randn(1, T, D))["beta"].max() <= 1
    assert mixer.norm.eq(1).all() and mixer.eps == 1e-5
    assert [name for name in mixer.state_dict() if "bias" in name] == ["dt_bias"]
    assert GatedDeltaNet(D, conv_bias=True).conv.bias.eq(0).all()


def test_a_model_in_bf16_keeps_its_decays_in_float32():
    mixer, x = GatedDeltaNet(D), torch.randn(1, T, D)
    log_a = mixer.bfloat16().project(x.bfloat16())["log_a"]
    assert log_a.dtype == torch.float32


def test_wrong_heads_get_one_clear_sentence():
    sentence = "n_heads is 4, n_k_heads is 3: the first must be a multiple of the second"
    with pytest.raises(ValueError, match=sentence):
        GatedDeltaNet(D, 4, n_k_heads=3)


@pytest.fixture
def qwen(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.qwen3_next import modeling_qwen3_next as module
    # Their own PyTorch code, not the GPU's kernels.
    for name in (
        "torch_chunk_gated_delta_rule",
        "torch_recurrent_gated_delta_rule",
        "causal_conv1d_fn",
        "causal_conv1d_update",
    ):
        monkeypatch.setattr(module, name, inspect.unwrap(getattr(module, name)))
    return module


def from_qwen(layer):
    """Our mixer with a Qwen3-Next layer's weights, which are sorted by key head.

    The rows are q, k, v and z of the first head, then those of the second, and so on.
    """
    n_k, n_v, K, V = layer.num_k_heads, layer.num_v_heads, layer.head_k_dim, layer.head_v_dim
    sizes = {"n_k_heads": n_k, "d_key": K, "d_value": V, "d_conv": layer.conv_kernel_size}
    ours = GatedDeltaNet(layer.hidden_size, n_v, **sizes, eps=layer.layer_norm_epsilon).double()
    per_head = layer.in_proj_qkvz.weight.data.unflatten(0, (n_k, -1))
    per_head = per_head.split([K, K, *[n_v // n_k * V] * 2], dim=1)
    q, k, v, z = (w.flatten(0, 1) for w in per_head)
    beta, decay = layer.in_proj_ba.weight.data.unflatten(0, (n_k, 2, -1)).unbind(1)
    ours.qkv.weight.data = torch.cat([q, k, v])
    ours.gate.weight.data = z
    ours.beta.weight.data = beta.flatten(0, 1)
    ours.decay.weight.data = decay.flatten(0, 1)
    ours.conv.weight.data = layer.conv1d.weight.data[:, 0]
    ours.norm.data = layer.norm.weight.data
    ours.A_log.data = layer.A_log.data
    ours.dt_bias.data = layer.dt_bias.data
    ours.out.weight.data = layer.out_proj.weight.data
    return ours


@pytest.mark.oracle
@pytest.mark.parametrize(("n_k", "n_v", "K", "V"), [(2, 4, 8, 8), (4, 4, 6, 10), (1, 3, 5, 7)])
def test_it_is_qwen3_nexts_layer_in_prefill_and_token_by_token(qwen, wide_floats, n_k, n_v, K, V):
    config = qwen.Qwen3NextConfig(
        hidden_size=D,
        linear_num_key_heads=n_k,
        linear_num_value_heads=n_v,
        linear_key_head_dim=K,
        linear_value_head_dim=V,
        linear_conv_kernel_dim=3,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = qwen.Qwen3NextGatedDeltaNet(config, 0).double().eval()
    theirs.norm.weight.data.uniform_(0.5, 2)
    theirs.dt_bias.data.uniform_(-4, 1)
    ours, x = from_qwen(theirs), torch.randn(2, T, D, dtype=torch.float64)
    cache, state = qwen.DynamicCache(config=config), None
    for part in x.split([17, *[1] * 6], dim=1):
        y, state = ours(part, state)
        torch.testing.assert_close(y, theirs(part, cache_params=cache), rtol=0, atol=1e-9)
