"""What every mixer promises (CONTRIBUTING, "A mixer"), run over every row of the zoo."""

import copy
import io
import pickle

import pytest
import torch

from seqlab.zoo import ZOO

B, T, D = 2, 21, 32
rows = pytest.mark.parametrize("r", ZOO, ids=lambda r: r.name)
causal_rows = pytest.mark.parametrize("r", [r for r in ZOO if r.causal], ids=lambda r: r.name)
formed_rows = pytest.mark.parametrize("r", [r for r in ZOO if r.forms], ids=lambda r: r.name)


def make(r, **options):
    torch.manual_seed(0)
    return r.make(D, **options).double()


def draw(T=T, B=B):
    return torch.randn(B, T, D, dtype=torch.float64)


def tensors(state):
    if isinstance(state, torch.Tensor):
        return [torch.view_as_real(state) if state.is_complex() else state]
    return (
        [t for part in state for t in tensors(part)] if isinstance(state, tuple | list) else []
    )  # ints: positions


def assert_same_state(ours, theirs):
    for a, b in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@rows
def test_causal(r):
    mixer, x = make(r), draw()
    changed = x.clone()
    changed[:, 12:] += torch.randn_like(changed[:, 12:])
    same = torch.isclose(mixer(changed)[0], mixer(x)[0], rtol=0, atol=1e-9).all(-1).all(0)
    assert same[:12].all() == r.causal
    assert not same[12:].any()


@causal_rows
@pytest.mark.parametrize(
    "cuts", [[8], [1, 2, 20], list(range(1, T))], ids=["halves", "odd parts", "token by token"]
)
def test_parts_with_the_state_carried_are_the_whole(r, cuts):
    mixer, x = make(r), draw()
    y, whole = mixer(x)
    state, parts = None, []
    for part in torch.tensor_split(x, cuts, dim=1):
        y_part, state = mixer(part, state)
        parts.append(y_part)
    torch.testing.assert_close(torch.cat(parts, dim=1), y, rtol=0, atol=1e-9)
    assert_same_state(state, whole)


@rows
def test_every_form_agrees_with_its_gradients(r):
    x, results = draw(70), {}
    for form in r.forms or [None]:
        mixer, leaf = make(r, **({"form": form} if form else {})), x.clone().requires_grad_()
        y, state = mixer(leaf)
        loss = y.square().sum() + sum(t.cos().sum() for t in tensors(state))
        results[form] = (y, state, torch.autograd.grad(loss, [leaf, *mixer.parameters()]))
    y, state, grads = next(iter(results.values()))
    for form in r.forms[1:]:
        torch.testing.assert_close(results[form][0], y, rtol=0, atol=1e-9)
        assert_same_state(results[form][1], state)
        for ours, theirs in zip(results[form][2], grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@rows
def test_a_row_of_a_batch_is_that_row_alone(r):
    mixer, x = make(r), draw(B=3)
    y, _ = mixer(x)
    torch.testing.assert_close(y[1:2], mixer(x[1:2])[0], rtol=0, atol=1e-12)


@causal_rows
def test_the_state_is_as_large_as_the_zoo_says(r):
    mixer = make(r)
    for T in (1, 5, 16, 40):
        assert sum(t.numel() for t in tensors(mixer(draw(T, B=1))[1])) == r.state_floats(T, D)


@causal_rows
@pytest.mark.parametrize("T", [1, 300])
def test_a_state_owns_its_memory(r, T):
    """A view of the last token would keep the whole prompt alive, and would be saved with it."""
    _, state = make(r)(draw(T))
    parts = tensors(state)
    told = sum(part.numel() * part.element_size() for part in parts)
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parts}
    assert sum(held.values()) <= 2 * told
    saved = io.BytesIO()
    torch.save(state, saved)
    assert saved.tell() <= 2 * told + 1024 * (1 + len(parts))  # torch's own 1 KiB a tensor


@rows
def test_a_batch_of_no_sequences_gives_no_outputs(r):
    mixer = make(r)
    y, state = mixer(draw(B=0))
    assert y.shape == (0, T, D)
    y.sum().backward()
    if r.causal:
        assert all(len(part) == 0 for part in tensors(state) if part.ndim)
        assert mixer(draw(T=1, B=0), state)[0].shape == (0, 1, D)


@rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e3])
def test_outputs_and_gradients_are_finite(r, scale, dtype):
    mixer, x = make(r).to(dtype), (draw(40) * scale).to(dtype).requires_grad_()
    y, state = mixer(x)
    y.square().mean().backward()
    assert y.dtype == dtype
    for t in [y, *tensors(state), x.grad, *(p.grad for p in mixer.parameters())]:
        assert t.isfinite().all()


def rounding(mixer, x, exact):
    """The error that a half-precision mixer may make: 5 %, or where a quotient or a norm makes the
    answer sensitive, four times what the rounding of x and of the weights alone does in float64.
    """
    rounded = copy.deepcopy(mixer).bfloat16().double()
    by_inputs = (rounded(x.bfloat16().double())[0] - exact).abs().max()
    return max(0.05 * exact.abs().max(), 4 * by_inputs)


@rows
def test_bf16_runs(r):
    mixer, x = make(r), draw()
    exact, _ = mixer(x)
    allowed = rounding(mixer, x, exact)
    y, _ = mixer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y - exact).abs().max() < allowed


@rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_states_and_decays_keep_their_precision(r, dtype):
    mixer, x = make(r), draw()
    exact, _ = mixer(x)
    allowed = rounding(mixer, x, exact)
    mixer = mixer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = mixer(x.to(dtype))
        if r.causal:
            assert mixer(x[:, :1].to(dtype), state)[0].isfinite().all()
    y.float().square().mean().backward()
    assert (y - exact).abs().max() < allowed
    for t in [y, *tensors(state), *(p.grad for p in mixer.parameters())]:
        assert t.isfinite().all()


WRONG = {  # what is passed, the error, and a piece of its sentence
    "another width": (
        lambda x: x[..., :-8],
        ValueError,
        r"x has shape \(2, 21, 24\): \(B, T, 32\)",
    ),
    "one sequence": (lambda x: x[0], ValueError, r"x has shape \(21, 32\): \(B, T, 32\)"),
    "no tokens": (
        lambda x: x[:, :0],
        ValueError,
        r"x has shape \(2, 0, 32\): \(B, T, 32\) with T at least 1",
    ),
    "integers": (lambda x: x.long(), TypeError, r"x has dtype torch.int64: floating-point vectors"),
    "another dtype": (
        lambda x: x.float(),
        TypeError,
        r"x is torch.float32, the weights are torch.float64",
    ),
    "a list": (lambda x: x.tolist(), TypeError, r"x is a list: a torch.Tensor \(B, T, 32\)"),
}


@rows
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_gets_one_clear_sentence(r, wrong):
    change, error, sentence = WRONG[wrong]
    mixer, x = make(r), draw()
    with pytest.raises(error, match=f"^{type(mixer).__name__}: {sentence}") as caught:
        mixer(change(x))
    assert "\n" not in str(caught.value)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(error),
    ):  # which does not cast float64
        mixer(change(x))


@causal_rows
def test_the_state_of_another_batch_gets_one_clear_sentence(r):
    mixer = make(r)
    _, state = mixer(draw())
    for T in (1, 5):
        with pytest.raises(
            ValueError, match=r"x has 3 sequences: a state belongs to the batch it came from"
        ):
            mixer(draw(T, B=3), state)


@formed_rows
def test_an_unknown_form_gets_one_clear_sentence_when_it_is_made(r):
    with pytest.raises(ValueError, match="form is 'bogus': choose") as caught:
        make(r, form="bogus")
    assert all(form in str(caught.value) for form in r.forms)


@formed_rows
def test_the_form_may_be_changed_later(r):
    mixer, x = make(r), draw()
    y, _ = mixer(x)
    for form in r.forms:
        mixer.form = form
        torch.testing.assert_close(mixer(x)[0], y, rtol=0, atol=1e-9)


@rows
def test_a_copy_by_any_way_is_the_same(r):
    mixer, x = make(r), draw()
    y, _ = mixer(x)
    for other in (copy.deepcopy(mixer), pickle.loads(pickle.dumps(mixer))):
        torch.testing.assert_close(other(x)[0], y, rtol=0, atol=0)


@rows
def test_wrong_sizes_get_one_clear_sentence(r):
    """Where it has heads or chunks; a width that its heads do not divide is an error, never
    rounded.
    """
    for name in ("n_heads", "chunk_size"):
        for size in (0, -1):
            with pytest.raises((ValueError, TypeError)) as caught:
                r.make(D, **{name: size})
            if caught.type is ValueError:
                assert str(caught.value) == f"{name} is {size}: it must be at least 1"
                if name == "n_heads":
                    with pytest.raises(
                        ValueError, match=r"(d_model|keys|lru_width).* must be a multiple of"
                    ):
                        r.make(30, n_heads=7)
            else:
                assert f"unexpected keyword argument '{name}'" in str(caught.value)
