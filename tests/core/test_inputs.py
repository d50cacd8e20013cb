"""What the core accepts, and in which precision it works."""

import pytest
import torch

from seqlab.core.inputs import (
    at_least_one,
    check_attention,
    check_decay,
    check_inputs,
    choose,
    full_precision,
    wide,
)

NARROW = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32, torch.float64])
def test_wide_is_float32_at_least(dtype):
    x = torch.ones(2, dtype=dtype)
    assert wide(x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert wide(x) is x or dtype in NARROW


@full_precision
def product(x, *, y):
    """The type of a matrix product, and of the second factor."""
    return (x @ y).dtype, y.dtype


def test_full_precision_widens_under_autocast_and_changes_nothing_without():
    x, y = torch.ones(2, 2), torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(x, y=y.bfloat16()) == (torch.float32, torch.float32)
        assert product(x.double(), y=y.double()) == (torch.float64, torch.float64)
        assert (x @ y).dtype == torch.bfloat16
    assert product(x.bfloat16(), y=y.bfloat16()) == (torch.bfloat16, torch.bfloat16)


def test_full_precision_of_a_method_without_tensors_asks_the_weights_for_their_device():
    class Weights(torch.nn.Linear):
        @full_precision
        def gram(self):
            return self.weight.T @ self.weight

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Weights(3, 2).gram().dtype == torch.float32


def test_a_form_is_a_name_or_a_function_and_chunk_size_belongs_to_chunkwise():
    def chunkwise(chunk_size=64):
        return chunk_size

    def recurrent():
        return "no chunks"

    forms = {"chunkwise": chunkwise, "recurrent": recurrent}
    assert choose("chunkwise", forms)() == 64 and choose("chunkwise", forms, chunk_size=7)() == 7
    assert choose("recurrent", forms, chunk_size=7) is recurrent
    assert choose(len, forms, chunk_size=7) is len


@pytest.mark.parametrize("form", ["fast", None])
def test_an_unknown_form_gets_one_clear_sentence(form):
    sentence = f"order is {form!r}: choose one of a, b, or pass a function"
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        choose(form, {"a": len, "b": max}, name="order")


def test_a_size_below_one_gets_one_clear_sentence():
    at_least_one(rows=1, columns=2)
    with pytest.raises(ValueError, match=r"^columns is 0: it must be at least 1$"):
        at_least_one(rows=1, columns=0)


def test_a_positive_log_decay_gets_one_clear_sentence_wherever_values_can_be_read():
    good, bad = torch.tensor([-1.0, 0.0]), torch.tensor([-1.0, 0.25])
    check_decay("log_b", good)
    sentence = r"^log_b reaches 0.25: .* at most 0 \(pass log b, with b in \[0, 1\]\)$"
    with pytest.raises(ValueError, match=sentence):
        check_decay("log_b", bad)
    check_decay("log_b", bad.to("meta"))  # has no values


def test_values_inside_a_transform_are_not_checked():
    bad = torch.tensor([-1.0, 0.25])

    def sum_of(x):
        check_decay("log_a", x)
        return x.sum()

    torch.testing.assert_close(torch.func.vmap(sum_of)(bad), bad)
    assert torch.func.vmap(torch.func.grad(sum_of))(bad[:, None]).tolist() == [[1.0], [1.0]]


WRONG = {  # what the recurrence is given in place of the right thing, and what it says
    "k is a list: a torch.Tensor is needed": {"k": [1.0]},
    "v has dtype torch.int64: a real floating-point tensor is needed": {
        "v": torch.ones(2, 4, 3, 6).long()
    },
    "beta is torch.float64, q is torch.float32: use one dtype for all": {
        "beta": torch.ones(2, 4, 3).double()
    },
    r"q has shape \(2, 4, 3\): \(B, T, H, width\) is needed": {"q": torch.ones(2, 4, 3)},
    r"beta has shape \(2, 4, 3, 1\): \(B, T, H\) is needed": {"beta": torch.ones(2, 4, 3, 1)},
    r"k has \(B, T, H\) = \(2, 4, 1\), q has \(2, 4, 3\): they must match": {
        "k": torch.ones(2, 4, 1, 5)
    },
    "k has width 6, q has 5: q and k must match": {"k": torch.ones(2, 4, 3, 6)},
    r"log_a has width 6: 1 \(a decay per head\) or 5": {"log_a": -torch.ones(2, 4, 3, 6)},
    "log_a reaches 1: a log decay is at most 0": {"log_a": torch.ones(2, 4, 3, 1)},
    r"state has shape \(2, 3, 5, 6\): \(B, H, V, K\) = \(2, 3, 6, 5\)": {
        "state": torch.ones(2, 3, 5, 6)
    },
}


def recurrence_inputs(**changed):
    q, k, v = torch.ones(2, 4, 3, 5), torch.ones(2, 4, 3, 5), torch.ones(2, 4, 3, 6)
    return {"q": q, "k": k, "v": v, **changed}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_inputs_of_the_recurrence_get_one_clear_sentence(sentence):
    with pytest.raises((TypeError, ValueError), match=f"^{sentence}"):
        check_inputs(**recurrence_inputs(**WRONG[sentence]))


def test_the_recurrence_takes_what_it_should():
    """One token, any widths; a decay wider than q: float32 beside bf16."""
    x = recurrence_inputs(log_a=-torch.ones(2, 4, 3, 5), beta=torch.ones(2, 4, 3))
    check_inputs(**x, state=torch.ones(2, 3, 6, 5))
    check_inputs(**{name: t[:, :1] for name, t in x.items()})
    narrow = {name: t if name == "log_a" else t.bfloat16() for name, t in x.items()}
    check_inputs(**{**narrow, "log_a": x["log_a"][..., :1]})
    with pytest.raises(ValueError, match=r"^the sequence is empty: T must be at least 1"):
        check_inputs(**{name: t[:, :0] for name, t in x.items()})


def test_attention_takes_grouped_heads_and_other_lengths():
    q, k, v = torch.ones(2, 7, 6, 5), torch.ones(2, 4, 3, 5), torch.ones(2, 4, 3, 8)
    check_attention(q, k, v)
    check_attention(q, k, v, causal=True, window=3)
    wrong = {
        "k has width 8, q has 5: q and k must match": (q, v, v, False, None),
        r"k has \(B, T, H\) = \(2, 4, 3\), v has \(2, 3, 3\): they": (q, k, v[:, :3], False, None),
        "k and v have 4 heads, q has 6: the second must be a multiple": (
            q, torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5), False, None
        ),
        "window counts backwards from the query: pass causal=True": (q, k, v, False, 3),
    }  # fmt: skip
    for sentence, inputs in wrong.items():
        with pytest.raises(ValueError, match=f"^{sentence}"):
            check_attention(*inputs)
