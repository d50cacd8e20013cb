import warnings

import pytest
import torch

from seqlab.mixers import Attention

D, H = 32, 4


@pytest.fixture(scope="module")
def llama():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.llama import modeling_llama
    return modeling_llama


@pytest.mark.oracle
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("form", ["parallel", "sdpa"])
def test_against_llama_attention(llama, n_kv_heads, form):
    config = llama.LlamaConfig(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=n_kv_heads, attn_implementation="eager"
    )
    theirs = llama.LlamaAttention(config, layer_idx=0).double().eval()
    ours = Attention(D, H, n_kv_heads=n_kv_heads, form=form).double()
    for name in ("q", "k", "v"):
        getattr(ours, name).weight.data = getattr(theirs, f"{name}_proj").weight.data
    ours.out.weight.data = theirs.o_proj.weight.data
    x, positions = torch.randn(2, 23, D, dtype=torch.float64), torch.arange(23)[None]
    mask = torch.full((23, 23), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    angles = llama.LlamaRotaryEmbedding(config)(x, positions)
    y = theirs(x, position_embeddings=angles, attention_mask=mask)[0]
    torch.testing.assert_close(ours(x)[0], y, rtol=0, atol=1e-6)  # their angles are float32


@pytest.mark.parametrize("form", ["parallel", "sdpa"])
def test_a_window_sees_only_its_tokens(form):
    """y_t of a sliding window is attention over the last W tokens alone, at the same positions."""
    W, x = 5, torch.randn(1, 17, D, dtype=torch.float64)
    windowed = Attention(D, H, window=W, form=form).double()
    full = Attention(D, H).double()
    full.load_state_dict(windowed.state_dict())
    y = windowed(x)[0]
    for t in range(17):
        alone = full(x[:, max(0, t - W + 1) : t + 1])[0][:, -1]  # only differences of positions matter
        torch.testing.assert_close(y[:, t], alone, rtol=0, atol=1e-9)


def test_the_cache_of_a_window_stays_small():
    mixer, state = Attention(D, H, window=5), None
    for _ in range(12):
        _, state = mixer(torch.randn(1, 1, D), state)
    assert state.k.shape[1] == 5 and state.position == 12


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_heads is 4, n_kv_heads is 3"):
        Attention(D, H, n_kv_heads=3)
    with pytest.raises(ValueError, match="choose 'parallel' or 'sdpa'"):
        Attention(D, H, form="flash")
