"""Zamba's recipe against `transformers`: with one Mamba head the two are the same model."""

import pytest
import torch
from einops import rearrange

from seqlab.hub.weights import fill, into
from seqlab.zoo import recipe

T = 13
CONFIG = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 9,
    "n_mamba_heads": 1,
}
CONFIG |= {"num_attention_heads": 4, "num_key_value_heads": 4, "mamba_d_state": 8}


def first(weight):
    return weight[0]


def names():
    table = {"model.embed_tokens": "embedding", "model.final_layernorm": "norm", "lm_head": "head"}
    table["model.layers.*.linear"] = "blocks.*.out"
    theirs, ours = "model.layers.*.shared_transf", "blocks.*.transformer"
    table |= {
        f"{theirs}.input_layernorm": f"{ours}.norm",
        f"{theirs}.pre_ff_layernorm": f"{ours}.ffn_norm",
    }
    table |= {f"{theirs}.self_attn.{x}_proj": f"{ours}.attention.{x}" for x in "qkv"}
    table |= {f"{theirs}.self_attn.o_proj": f"{ours}.attention.out"}
    table |= {
        f"{theirs}.feed_forward.{part}_proj": f"{ours}.ffn.{part}"
        for part in ("gate", "up", "down")
    }
    for layer in ("model.layers.*", "model.layers.*.mamba_decoder"):
        mamba, mixer = f"{layer}.mamba", "blocks.*.mixer"
        table[f"{layer}.input_layernorm"] = "blocks.*.mixer_norm"
        # x and gate side by side in every channel
        table[f"{mamba}.in_proj.weight"] = into(f"{mixer}.in_proj.weight", by=halves)
        table[f"{mamba}.conv1d.weight"] = into(f"{mixer}.conv.weight", by=lambda w: w[:, 0])
        table |= {f"{mamba}.conv1d.bias": f"{mixer}.conv.bias", f"{mamba}.out_proj": f"{mixer}.out"}
        table |= {f"{mamba}.{x}": into(f"{mixer}.{x}", by=first) for x in ("A_log", "D")}
        table |= {
            f"{mamba}.{x}_proj_weight": into(f"{mixer}.{x}_proj.weight", by=first)
            for x in ("x", "dt")
        }
        table[f"{mamba}.dt_proj_bias"] = into(f"{mixer}.dt_proj.bias", by=first)
    return table


def halves(weight):
    return rearrange(weight, "(e two) d -> (two e) d", two=2)


@pytest.mark.oracle
@torch.inference_mode()
def test_zamba_is_that_of_transformers(transformers_family, float64_throughout):
    config, model = transformers_family("zamba")
    with float64_throughout():
        theirs = model(config(**CONFIG)).double().eval()
    for p in theirs.parameters():
        p += torch.randn_like(p) * (0.2 if p.ndim < 2 else p.shape[-1] ** -0.5)
    ours, tokens = recipe("Zamba").tiny().double().eval(), torch.randint(256, (2, T))
    fill(ours, theirs.state_dict().items(), names())
    with float64_throughout():
        logits = theirs(tokens).logits
    assert logits.std() > 0.1
    torch.testing.assert_close(ours(tokens)[0], logits, rtol=0, atol=1e-9)
