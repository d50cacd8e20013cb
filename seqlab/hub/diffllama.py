"""DiffLlama: Llama with the difference of two softmaxes."""

from collections.abc import Callable
from functools import partial

from einops import rearrange
from torch import Tensor

from seqlab.hub import llama, rope
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, into
from seqlab.mixers.differential import Differential
from seqlab.model import LanguageModel

FIELDS = llama.FIELDS | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
}


def differential(c: Config, depth: int) -> Callable[[int], Differential]:
    """A factory of layer `depth`'s mixer. Its heads are pairs of theirs; its norm has no weight."""
    kv_heads = c.num_key_value_heads or c.num_attention_heads
    if kv_heads % 2:
        c.refuse("num_key_value_heads", f"is {kv_heads}: heads come in pairs")
    d_head = c.head_dim or c.hidden_size // c.num_attention_heads
    heads = {"n_heads": c.num_attention_heads // 2, "n_kv_heads": kv_heads // 2, "d_head": d_head}
    options = {
        "depth": depth,
        "bias": c.attention_bias,
        "eps": c.rms_norm_eps,
        **rope.rope(c, d_head),
    }

    def make(d_model):
        mixer = Differential(d_model, **heads, **options)
        mixer.norm.register_parameter("weight", None)
        return mixer

    return make


def build(c: Config) -> LanguageModel:
    mixers = [differential(c, depth) for depth in range(c.num_hidden_layers)]
    return llama.model_of(c, mixers, llama.swiglu(c))


def names(c: Config) -> Names:
    kv_heads = c.num_key_value_heads or c.num_attention_heads
    # Half of their value heads is the first half of each of our wide ones.
    halves = partial(rearrange, pattern="(two h k) ... -> (h two k) ...", two=2, h=kv_heads // 2)
    attention = "model.layers.*.self_attn"
    table = {f"{attention}.v_proj": into("blocks.*.mixer.v", by=halves)}
    for x in "qk":
        for i in range(2):
            row = f"blocks.*.mixer.lambda_{x}[{i}:{i + 1}]"
            table[f"{attention}.lambda_{x}{i + 1}"] = into(row, by=_row)
    return llama.NAMES | table


def _row(vector: Tensor) -> Tensor:
    return vector[None]


DIFFLLAMA = Family("diffllama", FIELDS, build, names, frozenset({"lambda_std_dev"}))
