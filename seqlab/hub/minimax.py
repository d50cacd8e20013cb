"""MiniMax-01: lightning attention with a softmax attention every few layers, and experts.

Its stream is h = norm(x), then α h + β part(h), and so on to the last norm. That is a post-norm
stream, shifted by one: each norm belongs to the part before it, and the first one to the embedding.
So each of their norms is ours one place earlier.
"""

from collections.abc import Callable
from functools import partial

from einops import rearrange

from seqlab.hub import llama, mixtral
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, into, same_as
from seqlab.mixers.lightning import LightningAttention
from seqlab.model import LanguageModel, PostNormBlock

FIELDS = mixtral.FIELDS | {
    "layer_types": None,
    "full_attn_alpha_factor": 1,
    "full_attn_beta_factor": 1,
    "linear_attn_alpha_factor": 1,
    "linear_attn_beta_factor": 1,
    "mlp_alpha_factor": 1,
    "mlp_beta_factor": 1,
}


def layer_types(c: Config) -> list[str]:
    kinds = ("full_attention", "linear_attention")
    return c.layer_types or [kinds[i % 2] for i in range(c.num_hidden_layers)]


def lightning(c: Config, layer: int) -> partial[LightningAttention]:
    if c.hidden_act not in ("silu", "swish"):
        why = f"is {c.hidden_act!r}: only 'silu' is supported with lightning attention"
        c.refuse("hidden_act", why)
    d_head = c.head_dim or c.hidden_size // c.num_attention_heads
    sizes = {"n_heads": c.num_attention_heads, "d_head": d_head}
    return partial(LightningAttention, **sizes, layer=layer, n_layers=c.num_hidden_layers)


def block(c: Config, layer: int, kind: str) -> Callable[[int], PostNormBlock]:
    """A factory of one layer's Block."""
    scales = {
        "linear_attention": (c.linear_attn_alpha_factor, c.linear_attn_beta_factor),
        "full_attention": (c.full_attn_alpha_factor, c.full_attn_beta_factor),
    }
    if kind not in scales:
        c.refuse("layer_types", f"holds {kind!r}: only {' and '.join(scales)} are supported")
    softmax = llama.attention(c, mixtral.BASE, window=c.sliding_window)
    mixer = lightning(c, layer) if kind == "linear_attention" else softmax
    ffn = mixtral.moe(c)
    eps = c.rms_norm_eps
    options = {"mixer_scale": scales[kind], "ffn_scale": (c.mlp_alpha_factor, c.mlp_beta_factor)}

    def make(d_model):
        return PostNormBlock(d_model, mixer(d_model), ffn(d_model), eps, **options)

    return make


def build(c: Config) -> LanguageModel:
    return LanguageModel(
        c.vocab_size,
        c.hidden_size,
        [block(c, layer, kind) for layer, kind in enumerate(layer_types(c))],
        eps=c.rms_norm_eps,
        tie=c.tie_word_embeddings,
        embedding_norm=True,
        final_norm=False,
    )


def names(c: Config) -> Names:
    n = c.num_hidden_layers
    heads = c.num_attention_heads
    table = dict(llama.NAMES)
    # Each head has its q, k and v side by side.
    thirds = partial(rearrange, pattern="(h qkv k) d -> (qkv h k) d", h=heads, qkv=3)
    qkv = (f"blocks.*.mixer.{x}.weight" for x in "qkv")
    attention = "model.layers.*.self_attn"
    table |= mixtral.moe_names(c) | {
        f"{attention}.qkv_proj.weight": into(*qkv, by=thirds),
        f"{attention}.output_gate": "blocks.*.mixer.g",
        f"{attention}.norm": "blocks.*.mixer.norm",
        f"{attention}.out_proj": "blocks.*.mixer.out",
        "model.layers.*.post_attention_layernorm": "blocks.*.mixer_norm",
        "model.layers.0.input_layernorm": "embedding_norm",
        "model.norm": f"blocks.{n - 1}.ffn_norm",
    }
    table |= {f"model.layers.{i + 1}.input_layernorm": f"blocks.{i}.ffn_norm" for i in range(n - 1)}
    for i, kind in enumerate(layer_types(c)):
        if kind == "linear_attention":
            slopes = -lightning(c, i)(heads).log_decay
            table[f"model.layers.{i}.self_attn.slope_rate"] = same_as(slopes)
    # The other constants are powers of the slopes.
    return table | {f"{attention}.{x}_decay": None for x in ("query", "key", "diagonal")}


MINIMAX = Family("minimax", FIELDS, build, names, frozenset({"block_size"}))
