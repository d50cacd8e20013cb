import warnings
from functools import partial

import pytest
import torch
from torch import nn

from seqlab.ffn import (
    MLP,
    PEER,
    ChannelMix,
    DeepSeekV3Router,
    ExpertChoiceRouter,
    MoE,
    SwiGLU,
    SwitchRouter,
)
from seqlab.layers.norm import RMSNorm
from seqlab.mixers import RWKV7, Attention, LinearAttention, Linformer, RetNet
from seqlab.model import Block, LanguageModel, Parallel, PostNormBlock, generate, stream
from seqlab.zoo import ZOO

HYBRID = [
    partial(LinearAttention, n_heads=2),
    partial(RetNet, n_heads=2),
    partial(Attention, n_heads=2, window=8),
]


ONE = torch.zeros(1, 1, dtype=torch.long)


@pytest.fixture
def model():
    return LanguageModel(29, 16, HYBRID).double().eval()


def test_greedy_decoding_is_the_whole_sequence_read_again(model):
    """Each new token is the argmax of a fresh forward pass over everything before it."""
    prompt = torch.randint(29, (2, 5))
    tokens = generate(model, prompt, 12, temperature=0.0)
    assert tokens.shape == (2, 17) and torch.equal(tokens[:, :5], prompt)
    logits, _ = model(tokens[:, :-1])
    assert torch.equal(tokens[:, 5:], logits[:, 4:].argmax(-1))


def test_sampling_is_seeded_and_top_k_limits_it(model):
    prompt = torch.randint(29, (3, 4))
    seeded = [torch.Generator().manual_seed(1) for _ in range(2)]
    first, again = (generate(model, prompt, 8, generator=generator) for generator in seeded)
    assert torch.equal(first, again)
    greedy = generate(model, prompt, 8, temperature=0.0)
    assert torch.equal(generate(model, prompt, 8, top_k=1), greedy)
    assert len(list(stream(model, prompt, 3))) == 3
    assert torch.equal(generate(model, prompt, 0), prompt)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Saying(LanguageModel):
    """A model that answers every token with the same logits."""

    def __init__(self, logits):
        nn.Module.__init__(self)
        self.logits = nn.Parameter(logits)

    def forward(self, tokens, states=None):
        return self.logits.expand(*tokens.shape, -1), states


@every_dtype
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_leaves_k_tokens_also_in_a_tie(dtype, top_k):
    model = Saying(torch.tensor([0.0, 2.0, 2.0, 2.0, 2.0, -1.0], dtype=dtype))
    drawn = generate(model, ONE.expand(200, 1), 1, top_k=top_k)[:, 1]
    assert len(drawn.unique()) == top_k and set(drawn.tolist()) <= {1, 2, 3, 4}


@every_dtype
@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-300, 1e-45, 1e-38, 1e-8, 1e-4])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_temperature_near_zero_is_the_argmax(dtype, temperature, scale):
    logits = (scale * torch.tensor([-3.0, 1.0, 6.0, 4.0, -5.0])).to(dtype)
    drawn = generate(Saying(logits), ONE.expand(50, 1), 1, temperature=temperature)[:, 1]
    assert (drawn == 2).all()


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, 3)])
def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(temperature, top_k):
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 1.5], dtype=torch.float64)
    drawn = generate(Saying(logits), ONE.expand(40_000, 1), 1, temperature=temperature, top_k=top_k)
    often = drawn[:, 1].bincount(minlength=5) / 40_000
    p = (logits / temperature).exp()
    if top_k is not None:
        p[[0, 3]] = 0
    # The standard error of a frequency is at most 0.0025.
    torch.testing.assert_close(often.double(), p / p.sum(), rtol=0, atol=0.015)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generated_tokens_can_be_trained_on(model, temperature):
    prompt = torch.randint(29, (2, 5))
    streamed = torch.stack(list(stream(model, prompt, 3, temperature=temperature)), dim=1)
    for tokens in (streamed, generate(model, prompt, 3, temperature=temperature)):
        logits, _ = model(tokens)
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_streaming_leaves_the_callers_gradients_on(model):
    for _ in stream(model, ONE, 2):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_batch_of_no_sequences(model):
    none = torch.zeros(0, 5, dtype=torch.long)
    logits, states = model(none)
    assert logits.shape == (0, 5, 29) and model(none, states)[0].shape == (0, 5, 29)
    for options in ({}, {"temperature": 0.0}, {"top_k": 3}):
        assert generate(model, none, 4, **options).shape == (0, 9)


@pytest.mark.parametrize(
    "ffn",
    [partial(PEER, n_experts=16, n_heads=2, top_k=2, d_key=8), MoE, ChannelMix, None],
    ids=["PEER", "MoE", "ChannelMix", "none"],
)
def test_no_sequences_pass_through_every_kind_of_block(ffn):
    mixers = [partial(Parallel, mixers=HYBRID), HYBRID[2], lambda d: PostNormBlock(d, RetNet(d, 2))]
    model = LanguageModel(29, 16, mixers, ffn)
    logits, states = model(torch.zeros(0, 5, dtype=torch.long))
    assert logits.shape == (0, 5, 29)
    logits.sum().backward()
    assert model(torch.zeros(0, 1, dtype=torch.long), states)[0].shape == (0, 1, 29)


@pytest.mark.parametrize(
    ("prompt", "n_tokens", "options", "says"),
    [
        (ONE[:, :0], 3, {}, "the prompt is empty"),
        (ONE[0], 3, {}, r"prompt has shape \(1,\): \(batch, time\) is needed"),
        (ONE, -1, {}, "n_tokens is -1: it must be 0 or more"),
        (ONE, 3, {"temperature": -1.0}, "temperature is -1"),
        (ONE, 3, {"top_k": 0}, "top_k is 0: at least 1 token"),
    ],
)
def test_wrong_sampling_gets_one_clear_sentence(model, prompt, n_tokens, options, says):
    with pytest.raises(ValueError, match=says):
        generate(model, prompt, n_tokens, **options)


def test_wrong_tokens_and_states_get_one_clear_sentence(model):
    for tokens, says in ((ONE.double(), "tokens is of torch.float64"), ([1], "tokens is a list")):
        with pytest.raises(TypeError, match=f"{says}: a tensor of integers"):
            model(tokens)
    with pytest.raises(TypeError, match="prompt is a str"):
        generate(model, "Hi", 3)
    with pytest.raises(ValueError, match=r"tokens has shape \(3,\)"):
        model(torch.zeros(3, dtype=torch.long))
    for states in ([], [None] * 4):
        with pytest.raises(ValueError, match=f"{len(states)} states for 3 blocks"):
            model(ONE, states)


def test_a_module_that_is_made_already_is_named():
    for mixers in ([HYBRID[0], RetNet(16)], [partial(Parallel, mixers=[HYBRID[0], RetNet(16)])]):
        with pytest.raises(
            TypeError, match=r"mixers\[1\] is already a module: give .* partial\(RetNet"
        ):
            LanguageModel(29, 16, mixers)
    with pytest.raises(TypeError, match=r"ffn\[0\] is already a module: give its factory, SwiGLU"):
        LanguageModel(29, 16, HYBRID, SwiGLU(16))


def test_what_is_no_list_of_factories_gets_a_clear_sentence():
    with pytest.raises(TypeError, match=r"mixers\[0\] is None: give a class"):
        LanguageModel(29, 16, [None])
    with pytest.raises(TypeError, match=r"give a list with one factory per block"):
        LanguageModel(29, 16, RetNet)


def test_a_layer_is_told_its_place_by_its_factory():
    equal = LanguageModel(29, 16, [RWKV7] * 2, None)
    placed = LanguageModel(29, 16, [partial(RWKV7, layer=i, n_layers=2) for i in range(2)], None)
    weights = [[b.mixer.norm.weight for b in model.blocks] for model in (equal, placed)]
    assert torch.equal(*weights[0]) and not torch.equal(*weights[1])
    assert equal.blocks[1].mixer.v_share is None and placed.blocks[1].mixer.v_share is not None


def test_what_is_generated_from_a_model_in_training_is_what_it_says_in_eval():
    router = partial(DeepSeekV3Router, top_k=2, n_groups=2, top_groups=1)

    def dropped(d):
        return nn.Sequential(SwiGLU(d), nn.Dropout())

    model = LanguageModel(29, 16, HYBRID, [partial(MoE, router=router), dropped, SwiGLU])
    frozen = model.blocks[2].eval()
    tokens = [token for token in stream(model, ONE, 5, temperature=0.0) if model.training]
    assert model.training and model.blocks[1].ffn[1].training and not frozen.training
    # Tokens of a generated text do not count as training.
    assert isinstance(model.blocks[0].ffn.router.seen, int)
    text = generate(model.eval(), ONE, 5, temperature=0.0)
    assert torch.equal(torch.stack(tokens, 1), text[:, 1:])


@pytest.mark.parametrize("mixer", [Linformer, HYBRID[0]])
def test_a_model_that_sees_later_tokens_cannot_continue_a_text(mixer):
    model = LanguageModel(29, 16, [mixer], partial(MoE, router=ExpertChoiceRouter))
    with pytest.raises(ValueError, match=r"(Linformer|ExpertChoiceRouter) sees the whole sequence"):
        generate(model, ONE, 2)


def test_a_router_with_places_decodes_with_a_warning():
    ffn = partial(MoE, router=SwitchRouter)
    with pytest.warns(UserWarning, match="SwitchRouter counts places"):
        generate(LanguageModel(29, 16, HYBRID, ffn), ONE, 2)
    free = partial(MoE, router=partial(SwitchRouter, capacity_factor=None))
    generate(LanguageModel(29, 16, HYBRID, free), ONE, 2)


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


class Shift(nn.Module):
    """An ffn with a state: it adds the token before."""

    has_state = True

    def forward(self, x, state=None):
        past = torch.zeros_like(x[:, :1]) if state is None else state
        return x + torch.cat([past, x[:, :-1]], dim=1), x[:, -1:]


class Recall(nn.Module):
    """A mixer that reads what the model shares, and leaves a note for the next one."""

    shares = True

    def forward(self, x, state=None, shared=None):
        shared["calls"] = shared.get("calls", 0) + 1
        return shared["calls"] * shared["embedding"], None


def halves(model, tokens):
    first, states = model(tokens[:, :5])
    return torch.cat([first, model(tokens[:, 5:], states)[0]], dim=1)


def test_an_ffn_with_a_state_decodes():
    ffns = [lambda d: Shift(), SwiGLU, None]
    model, tokens = LanguageModel(29, 16, HYBRID, ffns).double(), torch.randint(29, (2, 9))
    assert isinstance(model.blocks[0].ffn, Shift) and model.blocks[2].ffn is None
    logits, states = model(tokens)
    assert isinstance(states[0], tuple) and states[0][1].shape == (2, 1, 16)
    torch.testing.assert_close(halves(model, tokens), logits, rtol=0, atol=1e-12)


def test_one_ffn_per_block_is_needed():
    with pytest.raises(ValueError, match="ffn has 2 entries, mixers has 3"):
        LanguageModel(29, 16, HYBRID, [SwiGLU, None])


def test_blocks_share_a_dict_for_one_pass():
    model, tokens = LanguageModel(29, 16, [lambda d: Recall()] * 2, None), torch.randint(29, (2, 9))
    x = model.embedding(tokens)
    for _ in range(2):
        torch.testing.assert_close(model(tokens)[0], model.head(model.norm(x + 1 * x + 2 * x)))


def test_a_post_norm_block_normalises_the_sum():
    parts = RetNet(16, 2), MLP(16), 1e-5, nn.LayerNorm
    block = PostNormBlock(16, *parts, mixer_scale=(3.0, 0.5)).double()
    x = torch.randn(2, 6, 16).double()
    h = block.mixer_norm(3 * x + 0.5 * block.mixer(x)[0])
    torch.testing.assert_close(block(x)[0], block.ffn_norm(h + block.ffn(h)))


@pytest.mark.parametrize("norm", [RMSNorm, nn.LayerNorm])
def test_a_post_norm_stream_is_normalised(norm):
    options = {
        "block": PostNormBlock,
        "norm": norm,
        "final_norm": False,
        "embedding_norm": True,
        "head_bias": True,
    }
    model, tokens = LanguageModel(29, 16, HYBRID, **options).double(), torch.randint(29, (2, 9))
    assert isinstance(model.blocks[1].ffn_norm, norm) and isinstance(model.norm, nn.Identity)
    stream = (model(tokens)[0] - model.head.bias) @ torch.linalg.pinv(model.head.weight).mT
    ones = torch.ones(2, 9, dtype=torch.float64)
    torch.testing.assert_close(stream.square().mean(-1), ones, rtol=0, atol=1e-3)
    torch.testing.assert_close(halves(model, tokens), model(tokens)[0], rtol=0, atol=1e-12)


def test_a_block_among_the_mixers_brings_its_own_wiring():
    model = LanguageModel(29, 16, [HYBRID[0], lambda d: PostNormBlock(d, RetNet(d, 2))])
    assert model.blocks[1].ffn is None and type(model.blocks[0]) is Block


def test_parallel_mixers_are_averaged_after_a_norm_each():
    both, x = Parallel(16, [HYBRID[1], lambda d: Recall()]).double(), torch.randn(2, 9, 16).double()
    shared = {"embedding": x}
    one, two = both.norms[0](both.mixers[0](x)[0]), both.norms[1](x)
    y, states = both(x, None, shared)
    torch.testing.assert_close(y, (one + two) / 2)
    assert len(states) == 2
    model = LanguageModel(29, 16, [partial(Parallel, mixers=HYBRID)]).double()
    tokens = torch.randint(29, (2, 9))
    torch.testing.assert_close(halves(model, tokens), model(tokens)[0], rtol=0, atol=1e-12)


def test_scale_and_cap_at_the_two_ends():
    torch.manual_seed(1)
    plain, tokens = LanguageModel(29, 16, HYBRID).double(), torch.randint(29, (2, 9))
    torch.manual_seed(1)
    other = LanguageModel(29, 16, HYBRID, embedding_scale=4.0, logit_cap=0.1).double()
    logits = other(tokens)[0]
    plain.embedding.weight.data *= 4
    torch.testing.assert_close(logits, 0.1 * torch.tanh(plain(tokens)[0] / 0.1))
    assert logits.abs().max() <= 0.1  # tanh rounds to 1


@pytest.mark.oracle
def test_a_list_of_attention_blocks_is_llama():
    sizes = {
        "vocab_size": 31,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needs = "needs transformers: pip install -e '.[test]'"
        transformers = pytest.importorskip("transformers", reason=needs)
        config = transformers.LlamaConfig(**sizes, tie_word_embeddings=False)
        theirs = transformers.LlamaForCausalLM(config).double().eval()
    mixer = partial(Attention, n_heads=4, n_kv_heads=2)
    ours = LanguageModel(31, 32, [mixer] * 2, partial(SwiGLU, d_ff=48)).double().eval()
    pairs = [
        (ours.embedding, theirs.model.embed_tokens),
        (ours.norm, theirs.model.norm),
        (ours.head, theirs.lm_head),
    ]
    for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
        pairs += [
            (block.mixer_norm, layer.input_layernorm),
            (block.ffn_norm, layer.post_attention_layernorm),
            (block.mixer.q, layer.self_attn.q_proj),
            (block.mixer.k, layer.self_attn.k_proj),
            (block.mixer.v, layer.self_attn.v_proj),
            (block.mixer.out, layer.self_attn.o_proj),
            (block.ffn.gate, layer.mlp.gate_proj),
            (block.ffn.up, layer.mlp.up_proj),
            (block.ffn.down, layer.mlp.down_proj),
        ]
    for part, other in pairs:
        part.load_state_dict(other.state_dict())
    tokens = torch.randint(31, (2, 19))
    with torch.inference_mode():  # their angles are float32
        torch.testing.assert_close(ours(tokens)[0], theirs(tokens).logits, rtol=0, atol=1e-5)
