import warnings
from functools import partial

import pytest
import torch

from seqlab.ffn import MLP, SwiGLU
from seqlab.mixers import Attention, LinearAttention, RetNet
from seqlab.model import Block, LanguageModel, generate, stream
from seqlab.zoo import ZOO

HYBRID = [partial(LinearAttention, n_heads=2), partial(RetNet, n_heads=2), partial(Attention, n_heads=2, window=8)]


@pytest.fixture
def model():
    return LanguageModel(29, 16, HYBRID).double().eval()


def test_greedy_decoding_is_the_whole_sequence_read_again(model):
    """Each new token, drawn with carried states, is the argmax of one fresh forward over everything before it."""
    prompt = torch.randint(29, (2, 5))
    tokens = generate(model, prompt, 12, temperature=0.0)
    assert tokens.shape == (2, 17) and torch.equal(tokens[:, :5], prompt)
    logits, _ = model(tokens[:, :-1])
    assert torch.equal(tokens[:, 5:], logits[:, 4:].argmax(-1))


def test_sampling_is_seeded_and_top_k_limits_it(model):
    prompt = torch.randint(29, (3, 4))
    first, again = (generate(model, prompt, 8, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(generate(model, prompt, 8, top_k=1), generate(model, prompt, 8, temperature=0.0))
    assert len(list(stream(model, prompt, 3))) == 3
    assert torch.equal(generate(model, prompt, 0), prompt)


def test_wrong_sampling_gets_one_clear_sentence(model):
    with pytest.raises(ValueError, match="the prompt is empty"):
        generate(model, torch.zeros(1, 0, dtype=torch.long), 3)
    with pytest.raises(ValueError, match="temperature is -1"):
        generate(model, torch.zeros(1, 1, dtype=torch.long), 3, temperature=-1.0)


@pytest.mark.parametrize("r", ZOO, ids=lambda r: r.name)
def test_every_row_makes_a_language_model_that_learns(r):
    """Ten steps on one batch lower its loss, and every weight gets a gradient."""
    torch.manual_seed(0)
    model, tokens = LanguageModel(17, 32, [r.make] * 2), torch.randint(17, (4, 12))
    optimiser, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(10):
        logits, _ = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_block_adds_each_part_to_the_stream():
    block, x = Block(16, RetNet(16, 2), MLP(16)), torch.randn(2, 6, 16)
    after_mixer = x + block.mixer(block.mixer_norm(x))[0]
    torch.testing.assert_close(block(x)[0], after_mixer + block.ffn(block.ffn_norm(after_mixer)))
    alone = Block(16, block.mixer)
    torch.testing.assert_close(alone(x)[0], x + block.mixer(alone.mixer_norm(x))[0])


def test_a_tied_head_is_the_embedding():
    model = LanguageModel(29, 16, HYBRID[:1], tie=True)
    assert model.head.weight is model.embedding.weight
    assert SwiGLU(24).gate.out_features == 64


@pytest.mark.oracle
def test_a_list_of_attention_blocks_is_llama():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        config = transformers.LlamaConfig(
            vocab_size=31,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
        theirs = transformers.LlamaForCausalLM(config).double().eval()
    mixer = partial(Attention, n_heads=4, n_kv_heads=2)
    ours = LanguageModel(31, 32, [mixer] * 2, partial(SwiGLU, d_ff=48)).double().eval()
    names = {"embedding": theirs.model.embed_tokens, "norm": theirs.model.norm, "head": theirs.lm_head}
    for name, part in names.items():
        getattr(ours, name).load_state_dict(part.state_dict())
    for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
        block.mixer_norm.load_state_dict(layer.input_layernorm.state_dict())
        block.ffn_norm.load_state_dict(layer.post_attention_layernorm.state_dict())
        for name, part in zip(["q", "k", "v", "out"], ["q_proj", "k_proj", "v_proj", "o_proj"], strict=True):
            getattr(block.mixer, name).load_state_dict(getattr(layer.self_attn, part).state_dict())
        for name in ("gate", "up", "down"):
            getattr(block.ffn, name).load_state_dict(getattr(layer.mlp, f"{name}_proj").state_dict())
    tokens = torch.randint(31, (2, 19))
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens)[0], theirs(tokens).logits, rtol=0, atol=1e-5)  # their angles: float32
