"""RWKV-4.

In eval mode `transformers` halves the stream after every `rescale_every` layers, and divides the
weights that write to it to match, so that the numbers stay in float16's range. A LayerNorm undoes a
division of its input by 2^k, except that its eps then counts 4^k times as much. So our weights and
stream are the undivided ones, and the norms' eps is multiplied instead. (A folder that was saved
after a pass in eval mode holds divided weights, without any sign of it.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.core.inputs import wide
from seqlab.ffn.rwkv import ChannelMix
from seqlab.hub.config import Config
from seqlab.hub.family import Family
from seqlab.hub.weights import Names, into
from seqlab.mixers.rwkv4 import RWKV4
from seqlab.model import Block, LanguageModel

FIELDS = {
    "vocab_size": 50277,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "attention_hidden_size": None,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-5,
    "rescale_every": 6,
    "tie_word_embeddings": False,
}
TIME = "rwkv.blocks.*.attention"
CHANNEL = "rwkv.blocks.*.feed_forward"


def _row(mu: Tensor) -> Tensor:
    return mu.view(1, -1)


def _vector(mu: Tensor) -> Tensor:
    return mu.flatten()


NAMES: Names = {
    "rwkv.embeddings": "embedding",
    "rwkv.blocks.0.pre_ln": "embedding_norm",
    "rwkv.blocks.*.ln1": "blocks.*.mixer_norm",
    "rwkv.blocks.*.ln2": "blocks.*.ffn_norm",
    f"{TIME}.time_decay": "blocks.*.mixer.decay",
    f"{TIME}.time_first": "blocks.*.mixer.bonus",
    f"{TIME}.time_mix_receptance": into("blocks.*.mixer.mu[0:1]", by=_row),
    f"{TIME}.time_mix_key": into("blocks.*.mixer.mu[1:2]", by=_row),
    f"{TIME}.time_mix_value": into("blocks.*.mixer.mu[2:3]", by=_row),
    f"{TIME}.receptance": "blocks.*.mixer.r",
    f"{TIME}.key": "blocks.*.mixer.k",
    f"{TIME}.value": "blocks.*.mixer.v",
    f"{TIME}.output": "blocks.*.mixer.out",
    f"{CHANNEL}.time_mix_receptance": into("blocks.*.ffn.mu_r", by=_vector),
    f"{CHANNEL}.time_mix_key": into("blocks.*.ffn.mu_k", by=_vector),
    f"{CHANNEL}.receptance": "blocks.*.ffn.r",
    f"{CHANNEL}.key": "blocks.*.ffn.k",
    f"{CHANNEL}.value": "blocks.*.ffn.v",
    "rwkv.ln_out": "norm",
    "head": "head",
}


class HalvedLayerNorm(nn.LayerNorm):
    """LayerNorm of x / 2^halvings in eval mode, of x in training, in float32 at least."""

    def __init__(self, d_model: int, eps: float, halvings: int):
        super().__init__(d_model, eps)
        self.halvings = halvings

    def forward(self, x: Tensor) -> Tensor:
        eps = self.eps if self.training else self.eps * 4**self.halvings
        weight, bias = wide(self.weight), wide(self.bias)
        return F.layer_norm(wide(x), self.normalized_shape, weight, bias, eps).to(x.dtype)


def halvings(layer: int, every: int) -> int:
    """The number of times the stream was halved before `layer`."""
    return layer // every if every > 0 else 0


def block(c: Config, layer: int) -> Callable[[int], Block]:
    """A factory of one layer's Block."""
    n = c.num_hidden_layers
    eps = c.layer_norm_epsilon
    time = partial(RWKV4, d_inner=c.attention_hidden_size, layer=layer, n_layers=n)
    channel = partial(ChannelMix, d_ff=c.intermediate_size, layer=layer, n_layers=n)
    norm = partial(HalvedLayerNorm, halvings=halvings(layer, c.rescale_every))
    return lambda d_model: Block(d_model, time(d_model), channel(d_model), eps, norm)


def build(c: Config) -> LanguageModel:
    n = c.num_hidden_layers
    blocks = [block(c, layer) for layer in range(n)]
    model = LanguageModel(
        c.vocab_size,
        c.hidden_size,
        blocks,
        None,
        norm=partial(HalvedLayerNorm, halvings=0),
        eps=c.layer_norm_epsilon,
        tie=c.tie_word_embeddings,
        embedding_norm=True,
    )
    # The eps of the last norm is not the config's.
    model.norm = HalvedLayerNorm(c.hidden_size, 1e-5, halvings(n, c.rescale_every))
    return model


def undivided(model: Any) -> dict[str, Tensor]:
    """The weights that were trained: those that `transformers` has divided, times 2^k again."""
    weights = model.state_dict()
    every = model.config.rescale_every
    if model.rwkv.layers_are_rescaled:
        for layer in range(model.config.num_hidden_layers):
            for part in ("attention.output", "feed_forward.value"):
                name = f"rwkv.blocks.{layer}.{part}.weight"
                weights[name] = weights[name] * 2 ** halvings(layer, every)
    return weights


RWKV = Family("rwkv", FIELDS, build, lambda c: NAMES, frozenset({"context_length"}), undivided)
