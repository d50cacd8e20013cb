import inspect
import warnings

import pytest
import torch

from seqlab.mixers.gated_deltanet import GatedDeltaNet

D, T = 32, 23


def test_a_closed_gate_forgets_everything_before():
    """A huge decay at every token: what is read is the token itself, as if it were alone."""
    mixer, x = GatedDeltaNet(D).double(), torch.randn(1, T, D, dtype=torch.float64)
    mixer.A_log.data += 20
    inputs = mixer.project(x)
    score = (inputs["q"] * inputs["k"]).sum(-1) * inputs["beta"]  # S_t = β v kᵀ
    y = mixer.read(score[..., None] * inputs["v"]).flatten(2)
    gate = mixer.gate(x)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y * gate * gate.sigmoid()), rtol=0, atol=1e-9)


def test_decay_first_then_read():
    """S̃ = a S; S = S̃ + β (v - S̃ k) kᵀ: the error is taken against the faded table, in matrices
    written out.
    """
    mixer, x = (
        GatedDeltaNet(D, negative_eigenvalues=True).double(),
        torch.randn(1, T, D, dtype=torch.float64),
    )
    inputs = {name: u[0, :, 0] for name, u in mixer.project(x).items()}  # head 0
    S = torch.zeros(12, 6, dtype=torch.float64)
    for q, k, v, log_a, beta in zip(*inputs.values(), strict=True):
        S = log_a.exp() * S @ (torch.eye(6) - beta * torch.outer(k, k)) + beta * torch.outer(v, k)
        assert q.norm() <= 6**-0.5
    torch.testing.assert_close(mixer(x)[1].S[0, 0], S, rtol=0, atol=1e-9)


def test_the_decays_at_the_start_are_those_of_the_authors():
    """A in (0, 16) and softplus(b) in [0.001, 0.1]: half-lives from under a token to thousands of
    them.
    """
    mixer = GatedDeltaNet(D, 512, d_key=1)
    A, dt = mixer.A_log.detach().exp(), torch.nn.functional.softplus(mixer.dt_bias.detach())
    assert A.min() > 0 and A.max() < 16 and A.mean() == pytest.approx(8, abs=1)
    assert (
        dt.min() > 0.99e-3 and dt.max() < 0.101 and dt.log().mean() == pytest.approx(-4.6, abs=0.3)
    )


def test_a_model_in_bf16_keeps_its_decays_in_float32():
    mixer, x = GatedDeltaNet(D), torch.randn(1, T, D)
    log_a = mixer.bfloat16().project(x.bfloat16())["log_a"]
    assert log_a.dtype == torch.float32


def test_wrong_heads_get_one_clear_sentence():
    with pytest.raises(
        ValueError, match="n_heads is 4, n_k_heads is 3: the first must be a multiple of the second"
    ):
        GatedDeltaNet(D, 4, n_k_heads=3)


@pytest.fixture
def qwen(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.qwen3_next import modeling_qwen3_next as module
    for name in (
        "torch_chunk_gated_delta_rule",
        "torch_recurrent_gated_delta_rule",
        "causal_conv1d_fn",
    ):
        monkeypatch.setattr(
            module, name, inspect.unwrap(getattr(module, name))
        )  # not the GPU's kernels
    monkeypatch.setattr(module, "causal_conv1d_update", inspect.unwrap(module.causal_conv1d_update))
    return module


def from_qwen(layer):
    """Our mixer with a Qwen3-Next layer's weights. Theirs are sorted by key head: q, k, v, z of
    one, ...
    """
    n_k, n_v, K, V = layer.num_k_heads, layer.num_v_heads, layer.head_k_dim, layer.head_v_dim
    ours = GatedDeltaNet(
        layer.hidden_size, n_v, n_k_heads=n_k, d_key=K, d_value=V, d_conv=layer.conv_kernel_size,
        eps=layer.layer_norm_epsilon,
    ).double()  # fmt: skip
    per_head = layer.in_proj_qkvz.weight.data.unflatten(0, (n_k, -1)).split(
        [K, K, *[n_v // n_k * V] * 2], dim=1
    )
    q, k, v, z = (w.flatten(0, 1) for w in per_head)
    beta, decay = layer.in_proj_ba.weight.data.unflatten(0, (n_k, 2, -1)).unbind(1)
    ours.qkv.weight.data, ours.gate.weight.data = torch.cat([q, k, v]), z
    ours.beta.weight.data, ours.decay.weight.data = beta.flatten(0, 1), decay.flatten(0, 1)
    ours.conv.weight.data, ours.norm.data = layer.conv1d.weight.data[:, 0], layer.norm.weight.data
    ours.A_log.data, ours.dt_bias.data, ours.out.weight.data = (
        layer.A_log,
        layer.dt_bias,
        layer.out_proj.weight,
    )
    return ours


@pytest.mark.oracle
@pytest.mark.parametrize(("n_k", "n_v", "K", "V"), [(2, 4, 8, 8), (4, 4, 6, 10), (1, 3, 5, 7)])
def test_it_is_qwen3_nexts_layer_in_prefill_and_token_by_token(qwen, n_k, n_v, K, V):
    config = qwen.Qwen3NextConfig(
        hidden_size=D, linear_num_key_heads=n_k, linear_num_value_heads=n_v, linear_key_head_dim=K,
        linear_value_head_dim=V, linear_conv_kernel_dim=3, num_hidden_layers=1, layer_types=["linear_attention"],
    )  # fmt: skip
    theirs = qwen.Qwen3NextGatedDeltaNet(config, 0).double().eval()
    theirs.norm.weight.data.uniform_(0.5, 2)
    theirs.dt_bias.data.uniform_(-4, 1)
    ours, x = from_qwen(theirs), torch.randn(2, T, D, dtype=torch.float64)
    cache, state = qwen.DynamicCache(config=config), None
    for part in x.split([17, *[1] * 6], dim=1):
        y, state = ours(part, state)
        # Theirs computes in float32 inside.
        torch.testing.assert_close(y, theirs(part, cache_params=cache), rtol=0, atol=1e-6)
