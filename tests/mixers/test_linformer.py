import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

from seqlab.mixers.linformer import Linformer

D, H, T = 32, 4, 11


def make(**options):
    return Linformer(D, H, **{"rank": 5, "max_length": 16} | options).double()


def draw(T=T):
    return torch.randn(2, T, D, dtype=torch.float64)


def qkv(mixer, x):
    """q, k, v (B, H, T, K), as PyTorch's attention takes them."""
    return (W(x).unflatten(-1, (H, -1)).transpose(1, 2) for W in (mixer.q, mixer.k, mixer.v))


@pytest.mark.parametrize("share_kv", [False, True])
@pytest.mark.parametrize("length", [1, T, 16])
def test_it_is_attention_over_projected_keys_and_values(length, share_kv):
    """PyTorch's attention, on E K and F V."""
    mixer, x = make(share_kv=share_kv), draw(length)
    q, k, v = qkv(mixer, x)
    y = F.scaled_dot_product_attention(q, mixer.E[:, :length] @ k, mixer.F[:, :length] @ v)
    y = mixer.out(y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x)[0], y, rtol=0, atol=1e-9)


def test_changing_the_future_changes_the_past():
    """Why it has no causal form: every mixture of keys contains later tokens."""
    mixer, x = make(), draw()
    assert mixer.causal is False
    changed = x.clone()
    changed[:, -1] += 1
    assert ((mixer(changed)[0] - mixer(x)[0])[:, :-1].abs() > 1e-6).any(-1).all()


def test_with_the_identity_for_projections_it_is_full_attention():
    mixer, x = make(rank=T, max_length=T), draw()
    mixer.E.data, mixer.F.data = torch.eye(T).double(), torch.eye(T).double()
    y = F.scaled_dot_product_attention(*qkv(mixer, x)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y), rtol=0, atol=1e-9)


def test_scores_beyond_float16_are_computed_in_float32():
    """q = k = 256 in eight channels: q·k = 524,288, far beyond the largest half, 65,504."""
    mixer = Linformer(D, H, rank=T, max_length=T).half()
    eye = torch.eye(D).half()
    mixer.q.weight.data = mixer.k.weight.data = mixer.v.weight.data = mixer.out.weight.data = eye
    mixer.E.data, mixer.F.data = torch.eye(T).half(), torch.eye(T).half()
    x = torch.full((1, T, D), 256.0, dtype=torch.float16)
    torch.testing.assert_close(mixer(x)[0], x)  # all tokens alike: their mean is each of them


def test_keys_that_share_a_large_part_keep_their_differences_in_bfloat16():
    """The softmax ignores what all keys share: scores near 1000, where bfloat16 rounds to 4."""
    mixer = Linformer(D, 1, rank=T, max_length=T).bfloat16()
    eye = torch.eye(D).bfloat16()
    mixer.q.weight.data = mixer.k.weight.data = mixer.v.weight.data = mixer.out.weight.data = eye
    mixer.E.data, mixer.F.data = torch.eye(T).bfloat16(), torch.eye(T).bfloat16()
    x = (13 + torch.randn(1, T, D)).bfloat16()
    exact = F.scaled_dot_product_attention(x.double(), x.double(), x.double())
    # The weights and y are rounded to bfloat16's 8 digits, each by at most 2^-8 of its size. Scores
    # in bfloat16 would change weights by e^2.
    assert (mixer(x)[0] - exact).abs().max() < 2 * 2**-8 * x.abs().max()


def test_e_and_f_start_as_the_random_projections_of_the_papers_proofs(drawn_from):
    """Normal with variance 1/rank, so that on average Eᵀ E is the identity."""
    mixer = Linformer(8, 1)
    assert mixer.E.shape == mixer.F.shape == (128, 512)
    for projection in (mixer.E, mixer.F):
        drawn_from(projection, Normal(0, 128**-0.5))
    assert (mixer.E != mixer.F).any()


def test_shared_projections_are_one_parameter():
    counts = [sum(p.numel() for p in make(share_kv=s).parameters()) for s in (False, True)]
    assert counts[0] - counts[1] == 5 * 16


def test_wrong_input_gets_one_clear_sentence():
    too_long = "the sequence has 17 tokens: E and F were made for max_length=16"
    with pytest.raises(ValueError, match=too_long):
        make()(draw(17))
    with pytest.raises(ValueError, match="Linformer has no state"):
        make()(draw(), state=())
    with pytest.raises(ValueError, match="d_model is 30, n_heads is 4"):
        Linformer(30, 4)
