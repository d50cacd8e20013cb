"""What a model keeps: counted on its real states after texts of several lengths."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from seqlab.zoo import RECIPES, recipe
from seqlab.zoo.memory import kept, kept_by

BUILT = [pytest.param(r, id=r.name) for r in RECIPES]


@pytest.mark.parametrize("entry", BUILT)
def test_what_is_kept_is_what_the_states_hold(entry):
    model = entry.tiny().eval()
    expected = kept_by(model)
    for n_tokens in (1, 3, 40):
        with torch.no_grad():
            _, states = model(torch.randint(200, (1, n_tokens)))
        held = [x for state in states for x in tree_leaves(_plain(state)) if isinstance(x, Tensor)]
        assert expected.numbers(n_tokens) == sum(x.numel() for x in held)


def _plain(state):
    """Objects with attributes as dicts, which tree_leaves opens."""
    if isinstance(state, list | tuple):
        return [_plain(part) for part in state]
    if isinstance(state, Tensor) or not hasattr(state, "__dict__"):
        return state
    return {name: _plain(part) for name, part in vars(state).items()}


def test_published_sizes_by_hand():
    llama = kept("Transformer 2026", "Llama 3.1 70B")
    assert llama == (0, 2 * 80 * 8 * 128, {})
    assert llama.bytes(2**17) == 2 * 2 * 80 * 8 * 128 * 2**17
    # 26 layers; each third is attention over the last 2,048 tokens with one head of 256 keys.
    gemma = kept("RecurrentGemma", "2B")
    assert gemma.growing == 0 and gemma.windows == {2048: 8 * 2 * 256}
    assert gemma.fixed == 18 * (2560 + 3 * 2560)  # state, and three inputs of the convolution
    assert gemma.bytes(10**6) == 4 * gemma.fixed + 2 * 2048 * 8 * 2 * 256
    # DeepSeek-V3 keeps 512 latent numbers and a key of 64 per token and layer.
    assert kept("DeepSeek-V3", "V3") == (0, 61 * (512 + 64), {})


def test_the_tiny_model_is_left_as_it_was():
    model = recipe("Mixtral").tiny()
    kept_by(model)
    assert all(block.ffn is not None for block in model.blocks)


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match=r"Llama 3\.1 8B"):
        kept("Transformer 2026", "Llama 2")
