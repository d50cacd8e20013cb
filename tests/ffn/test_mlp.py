import pytest
import torch
import torch.nn.functional as F

from seqlab.ffn import MLP, SwiGLU

D = 12


def draw(*shape):
    return torch.randn(*shape, D, dtype=torch.float64)


def copy_llama(ours, theirs):
    ours.gate.load_state_dict(theirs.gate_proj.state_dict())
    ours.up.load_state_dict(theirs.up_proj.state_dict())
    ours.down.load_state_dict(theirs.down_proj.state_dict())


def test_mlp_is_the_transformers_feed_forward_layer():
    """Against torch.nn's encoder layer, whose attention is silenced: x + feed-forward(norm(x))."""
    options = {"dropout": 0, "batch_first": True, "norm_first": True}
    theirs = torch.nn.TransformerEncoderLayer(D, 1, 20, **options).double()
    for p in (theirs.self_attn.out_proj.weight, theirs.self_attn.out_proj.bias):
        torch.nn.init.zeros_(p)
    ours = MLP(D, 20, activation=F.relu).double()
    ours.up.load_state_dict(theirs.linear1.state_dict())
    ours.down.load_state_dict(theirs.linear2.state_dict())
    x = draw(2, 5)
    torch.testing.assert_close(x + ours(theirs.norm2(x)), theirs(x), rtol=0, atol=1e-12)


def test_a_gate_of_sigmoid_is_glu():
    """F.glu: a · sigmoid(b) of one stacked projection."""
    ffn, x = SwiGLU(D, 20, bias=True, activation=torch.sigmoid).double(), draw(3)
    weight = torch.cat([ffn.up.weight, ffn.gate.weight])
    bias = torch.cat([ffn.up.bias, ffn.gate.bias])
    stacked = F.linear(x, weight, bias)
    torch.testing.assert_close(ffn(x), ffn.down(F.glu(stacked)), rtol=0, atol=1e-12)


def count(ffn):
    return sum(p.numel() for p in ffn.parameters())


def test_the_widths_default_to_equal_cost():
    """Two matrices of 4 D, or three of 8/3 D."""
    assert count(SwiGLU(48)) == count(MLP(48, bias=False)) == 8 * 48**2
    assert MLP(48).up.out_features == 192 and SwiGLU(48).up.out_features == 128


def test_the_defaults_are_an_exact_gelu_with_biases_and_a_silu_without():
    mlp, swiglu, x = MLP(D).double(), SwiGLU(D).double(), draw(3)
    assert mlp.up.bias is not None and mlp.down.bias is not None
    assert all(part.bias is None for part in (swiglu.gate, swiglu.up, swiglu.down))
    u = mlp.up(x)
    gelu = u * (1 + torch.erf(u / 2**0.5)) / 2
    torch.testing.assert_close(mlp(x), mlp.down(gelu), rtol=0, atol=1e-12)
    g = swiglu.gate(x)
    gated = g / (1 + torch.exp(-g)) * swiglu.up(x)
    torch.testing.assert_close(swiglu(x), swiglu.down(gated), rtol=0, atol=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [False, True])
def test_swiglu_is_llamas_mlp(bias):
    llama = pytest.importorskip("transformers.models.llama")
    sizes = {"hidden_size": D, "intermediate_size": 20, "num_attention_heads": 2}
    config = llama.LlamaConfig(**sizes, mlp_bias=bias)
    theirs = llama.modeling_llama.LlamaMLP(config).double()
    ours, x = SwiGLU(D, 20, bias=bias).double(), draw(2, 5)
    copy_llama(ours, theirs)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


@pytest.mark.oracle
def test_geglu_with_biases_is_recurrent_gemmas_mlp():
    gemma = pytest.importorskip("transformers.models.recurrent_gemma")
    # Theirs is the width of gate and up together.
    config = gemma.RecurrentGemmaConfig(hidden_size=D, intermediate_size=40)
    theirs = gemma.modeling_recurrent_gemma.RecurrentGemmaMlp(config).double()
    ours = SwiGLU(D, 20, bias=True, activation=lambda x: F.gelu(x, approximate="tanh")).double()
    copy_llama(ours, theirs)
    x = draw(2, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)
