import pytest
import torch
import torch.nn.functional as F

from seqlab.ffn import MLP, SwiGLU

D = 12


def draw(*shape):
    return torch.randn(*shape, D, dtype=torch.float64)


def copy_llama(ours, theirs):
    pairs = (
        (ours.gate, theirs.gate_proj),
        (ours.up, theirs.up_proj),
        (ours.down, theirs.down_proj),
    )
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())


def test_mlp_is_the_transformers_feed_forward_layer():
    """Against torch.nn's encoder layer: with norm and attention silent, it is x +
    feed-forward(x).
    """
    theirs = torch.nn.TransformerEncoderLayer(
        D, 1, 20, dropout=0, batch_first=True, norm_first=True
    ).double()
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
    stacked = F.linear(
        x, torch.cat([ffn.up.weight, ffn.gate.weight]), torch.cat([ffn.up.bias, ffn.gate.bias])
    )
    torch.testing.assert_close(ffn(x), ffn.down(F.glu(stacked)), rtol=0, atol=1e-12)


def test_the_widths_default_to_equal_cost():
    """Two matrices of 4 D, or three of 8/3 D."""
    count = lambda ffn: sum(p.numel() for p in ffn.parameters())  # noqa: E731
    assert count(SwiGLU(48)) == count(MLP(48, bias=False)) == 8 * 48**2


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [False, True])
def test_swiglu_is_llamas_mlp(bias):
    llama = pytest.importorskip("transformers.models.llama")
    config = llama.LlamaConfig(
        hidden_size=D, intermediate_size=20, num_attention_heads=2, mlp_bias=bias
    )
    theirs, ours, x = (
        llama.modeling_llama.LlamaMLP(config).double(),
        SwiGLU(D, 20, bias=bias).double(),
        draw(2, 5),
    )
    copy_llama(ours, theirs)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


@pytest.mark.oracle
def test_geglu_with_biases_is_recurrent_gemmas_mlp():
    gemma = pytest.importorskip("transformers.models.recurrent_gemma")
    config = gemma.RecurrentGemmaConfig(
        hidden_size=D, intermediate_size=40
    )  # the width of gate and up together
    theirs = gemma.modeling_recurrent_gemma.RecurrentGemmaMlp(config).double()
    ours = SwiGLU(D, 20, bias=True, activation=lambda x: F.gelu(x, approximate="tanh")).double()
    copy_llama(ours, theirs)
    x = draw(2, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)
