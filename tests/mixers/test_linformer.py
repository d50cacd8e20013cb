import pytest
import torch
import torch.nn.functional as F

from seqlab.mixers.linformer import Linformer

D, H, T = 32, 4, 11


def make(**options):
    return Linformer(D, H, **{"rank": 5, "max_length": 16} | options).double()


def draw(T=T):
    return torch.randn(2, T, D, dtype=torch.float64)


@pytest.mark.parametrize("share_kv", [False, True])
@pytest.mark.parametrize("length", [1, T, 16])
def test_it_is_attention_over_projected_keys_and_values(length, share_kv):
    """PyTorch's attention, on E K and F V."""
    mixer, x = make(share_kv=share_kv), draw(length)
    q, k, v = (W(x).unflatten(-1, (H, -1)).transpose(1, 2) for W in (mixer.q, mixer.k, mixer.v))
    y = F.scaled_dot_product_attention(q, mixer.E[:, :length] @ k, mixer.F[:, :length] @ v)
    torch.testing.assert_close(
        mixer(x)[0], mixer.out(y.transpose(1, 2).flatten(2)), rtol=0, atol=1e-9
    )


def test_changing_the_future_changes_the_past():
    """Why it has no causal form: every mixture of keys contains later tokens."""
    mixer, x = make(), draw()
    changed = x.clone()
    changed[:, -1] += 1
    assert ((mixer(changed)[0] - mixer(x)[0])[:, :-1].abs() > 1e-6).any(-1).all()


def test_with_the_identity_for_projections_it_is_full_attention():
    mixer, x = make(rank=T, max_length=T), draw()
    mixer.E.data, mixer.F.data = torch.eye(T).double(), torch.eye(T).double()
    q, k, v = (W(x).unflatten(-1, (H, -1)).transpose(1, 2) for W in (mixer.q, mixer.k, mixer.v))
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y), rtol=0, atol=1e-9)


def test_shared_projections_are_one_parameter():
    separate, shared = (
        sum(p.numel() for p in make(share_kv=s).parameters()) for s in (False, True)
    )
    assert separate - shared == 5 * 16


def test_wrong_input_gets_one_clear_sentence():
    with pytest.raises(
        ValueError, match="the sequence has 17 tokens: E and F were made for max_length=16"
    ):
        make()(draw(17))
    with pytest.raises(ValueError, match="Linformer has no state"):
        make()(draw(), state=())
    with pytest.raises(ValueError, match="d_model is 30, n_heads is 4"):
        Linformer(30, 4)
