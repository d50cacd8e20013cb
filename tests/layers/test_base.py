"""What `Mixer` does for every mixer: forms, checks, states that own their memory, torch.func."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from seqlab.core import recurrence
from seqlab.layers.base import Mixer, check_layer, check_shape, head_width, own
from seqlab.mixers import GLA, S5, Attention, Elman, Mamba2

D = 8


class Memory(NamedTuple):
    sums: tuple[torch.Tensor, torch.Tensor]
    last: torch.Tensor
    position: int


class Sums(Mixer):
    """Running sums, with a state of every kind: a NamedTuple of a tuple, a tensor and a number."""

    FORMS = recurrence.FORMS

    def __init__(self, form="chunkwise", chunk_size=None):
        super().__init__(D, form, chunk_size)
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, x, state=None):
        before = 0 if state is None else state.sums[0]
        start = 0 if state is None else state.position
        y = before + self.scale * x.cumsum(1)
        total = y[:, -1:]
        return y, Memory((total, y.sum(1)), x[:, -1], start + x.shape[1])


def test_a_form_is_a_name_or_a_function_and_chunks_are_bound_to_it():
    assert Sums("recurrent").in_form is recurrence.recurrent
    assert Sums("chunkwise", 4).in_form.keywords == {"chunk_size": 4}
    assert Sums(recurrence.step).in_form is recurrence.step
    mixer = Sums()
    mixer.form = "parallel"
    assert mixer.in_form is recurrence.parallel


def test_a_wrong_form_or_size_gets_one_clear_sentence():
    class Two(Sums):
        FORMS = ("fast", "slow")

    assert Two("slow").form == "slow"
    with pytest.raises(ValueError, match=r"^form is 'medium': choose 'fast' or 'slow'$"):
        Two("medium")
    with pytest.raises(ValueError, match="form is 'slow': choose one of recurrent, parallel"):
        Sums("slow")
    for mixer in (Sums, Two):
        with pytest.raises(ValueError, match="chunk_size is 0: it must be at least 1"):
            mixer("fast" if mixer is Two else "chunkwise", chunk_size=0)
    with pytest.raises(ValueError, match="d_model is 0: it must be at least 1"):
        Mixer(0)


@pytest.mark.parametrize("B", [0, 2])
def test_a_state_of_any_kind_is_carried_and_owns_its_memory(B):
    mixer, x = Sums(), torch.randn(B, 300, D)
    y, state = mixer(x)
    assert y.shape == (B, 300, D) and isinstance(state, Memory) and state.position == 300
    for part in (*state.sums, state.last):
        assert len(part) == B
        assert part.untyped_storage().nbytes() <= 2 * part.numel() * part.element_size()
    y, state = mixer(x[:, :7], state)
    assert y.shape == (B, 7, D) and state.position == 307


def test_own_copies_only_a_view_of_much_more_memory():
    x = torch.randn(10, 4)
    assert own(x) is x
    half, less = x[:5], x[:4]
    assert own(half) is half  # twice its size is allowed
    copy = own(less)
    assert torch.equal(copy, less) and copy.untyped_storage().nbytes() == 4 * 4 * 4
    assert vmap(own)(x).shape == x.shape  # a tensor of torch.func has no memory to ask about


def test_the_dtypes_that_go_together():
    mixer, x = Sums(), torch.randn(2, 3, D)
    with pytest.raises(TypeError, match=r"Sums: x is torch.float64, the weights are torch.float32"):
        mixer(x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixer(x.bfloat16())
        with pytest.raises(TypeError, match=r"x is torch.float64"):
            mixer(x.double())
        with pytest.raises(TypeError, match=r"x is torch.bfloat16, the weights are torch.float64"):
            mixer.double()(x.bfloat16())


def test_the_state_of_another_batch_gets_one_clear_sentence():
    mixer, x = Sums(), torch.randn(2, 3, D)
    _, state = mixer(x)
    sentence = r"tensor of shape \(2, 1, 8\), x has 1 sequences: a state belongs to the batch"
    with pytest.raises(ValueError, match=sentence):
        mixer(x[:1], state)


def test_the_width_of_a_head():
    assert head_width(24, 3) == 8 and head_width(24, 3, parts=2) == 4
    assert head_width(24, 5, d_head=7) == 7
    assert head_width(24, 4, even=True) == 6
    wrong = {
        "d_model is 24, n_heads is 5: the first must be a multiple of": {"n_heads": 5},
        "keys is 24, 2 n_heads is 10: the first": {"n_heads": 5, "parts": 2, "name": "keys"},
        "d_model is 24, n_heads is 8: each head needs an even width": {"n_heads": 8, "even": True},
        "d_head is 5: each head needs an even width": {"n_heads": 2, "d_head": 5, "even": True},
        "n_heads is 0: it must be at least 1": {"n_heads": 0},
        "a head's width is 0: it must be at least 1": {"n_heads": 2, "d_head": 0},
    }
    for sentence, options in wrong.items():
        with pytest.raises(ValueError, match=f"^{sentence}"):
            head_width(24, **options)


def test_layers_and_shapes_get_one_clear_sentence():
    check_layer(0, 1), check_layer(2, 3)
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=f"^layer is {layer}, n_layers is 3: layers are numb"):
            check_layer(layer, 3)
    check_shape("h", torch.zeros(2, 3), (2, 3))
    with pytest.raises(ValueError, match=r"^h has shape \(2, 3\): \(3, 2\) is needed$"):
        check_shape("h", torch.zeros(2, 3), (3, 2))


def loss(mixer, parameters, x):
    return functional_call(mixer, parameters, (x,))[0].square().sum()


@pytest.mark.parametrize(
    "make",
    [
        GLA,
        Mamba2,
        lambda d: Attention(d, form="tiled"),
        lambda d: S5(d, form="scan"),
        lambda d: Elman(d, form="fused"),
    ],
    ids=["GLA", "Mamba2", "attention in tiles", "S5 by a scan", "fused RNN"],
)
def test_gradients_per_sample_are_those_of_each_sample_alone(make):
    mixer, x = make(16).double(), torch.randn(3, 9, 16, dtype=torch.float64)
    parameters = dict(mixer.named_parameters())
    ours = vmap(grad(lambda p, x: loss(mixer, p, x[None])), (None, 0))(parameters, x)
    for i in range(3):
        alone = torch.autograd.grad(mixer(x[i : i + 1])[0].square().sum(), parameters.values())
        for name, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(ours[name][i], expected, rtol=1e-9, atol=1e-9)


# PyTorch writes some of its forward derivatives in TorchScript, which it deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [GLA, Mamba2])
def test_a_forward_derivative_is_that_of_finite_differences(make):
    mixer, x = make(16).double(), torch.randn(2, 9, 16, dtype=torch.float64)
    v = torch.randn_like(x)
    _, ours = jvp(lambda x: mixer(x)[0], (x,), (v,))
    ahead, behind = mixer(x + 1e-5 * v)[0], mixer(x - 1e-5 * v)[0]
    torch.testing.assert_close(ours, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_torch_func_cannot_do_is_as_the_docstring_says():
    x, fused = torch.randn(2, 9, 16), Elman(16, form="fused")
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):
        vmap(lambda x: fused(x[None])[0])(x)
    for mixer in (S5(16, form="scan"), Attention(16, form="tiled"), Attention(16, form="sdpa")):
        with pytest.raises(NotImplementedError):
            jvp(lambda x, f=mixer: f(x)[0], (x,), (x,))
