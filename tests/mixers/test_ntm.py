import math

import pytest
import torch

from seqlab.core.addressing import address, cosine, erase_and_add, sharpened, shifted
from seqlab.mixers.ntm import NTM, NTMState

B, T, D, N, M = 2, 9, 6, 5, 4


def the_papers_weights(memory, last, told):
    """Equations 5 to 9 of the paper for one head, number by number."""
    k, beta, g, s, gamma = told[:M], told[M], told[M + 1], told[M + 2 : M + 5], told[M + 5]
    beta, gamma = math.log1p(math.exp(beta)), 1 + math.log1p(math.exp(gamma))
    g = 1 / (1 + math.exp(-g))
    likeness = [
        sum(a * b for a, b in zip(k, row, strict=True))
        / math.sqrt(sum(a * a for a in k) + 1e-8)
        / math.sqrt(sum(b * b for b in row) + 1e-8)
        for row in memory
    ]
    total = sum(math.exp(beta * x) for x in likeness)
    content = [math.exp(beta * x) / total for x in likeness]
    gated = [g * c + (1 - g) * w for c, w in zip(content, last, strict=True)]
    total = sum(math.exp(x) for x in s)
    s = [math.exp(x) / total for x in s]
    moved = [sum(s[j + 1] * gated[(n - j) % N] for j in (-1, 0, 1)) for n in range(N)]
    total = sum(w**gamma for w in moved)
    return [w**gamma / total for w in moved]


def the_paper(ntm, x):
    """One sequence x (T, D), in plain numbers: the outputs, and the weights of both heads."""
    linear = lambda layer, u: (layer.weight @ u + layer.bias).tolist()  # noqa: E731
    memory = [[1e-6] * M for _ in range(N)]
    heads = [[1.0] + [0.0] * (N - 1) for _ in range(2)]
    read, ys, history = [0.0] * M, [], []
    for x_t in x.tolist():
        u = [
            math.tanh(z)
            for z in linear(ntm.controller, torch.tensor(x_t + read, dtype=torch.float64))
        ]
        told = linear(ntm.heads, torch.tensor(u, dtype=torch.float64))
        heads = [
            the_papers_weights(memory, heads[h], told[h * (M + 6) : (h + 1) * (M + 6)])
            for h in range(2)
        ]
        wanted = linear(ntm.write, torch.tensor(u, dtype=torch.float64))
        erase = [1 / (1 + math.exp(-z)) for z in wanted[:M]]
        for n in range(N):
            for m in range(M):
                w = heads[0][n]
                memory[n][m] = memory[n][m] * (1 - w * erase[m]) + w * wanted[M + m]
        read = [sum(heads[1][n] * memory[n][m] for n in range(N)) for m in range(M)]
        ys.append(linear(ntm.out, torch.tensor(u + read, dtype=torch.float64)))
        history.append(heads)
    return (
        torch.tensor(ys, dtype=torch.float64),
        torch.tensor(history, dtype=torch.float64),
        memory,
        read,
    )


@torch.no_grad()
def test_it_is_the_papers_machine_number_by_number():
    ntm = NTM(D, n_rows=N, d_row=M).double()
    for p in ntm.parameters():
        p.mul_(2)  # so that the heads do move
    x = torch.randn(B, T, D, dtype=torch.float64)
    y, state, weights = ntm.run(x)
    for b in range(B):
        expected, heads, memory, read = the_paper(ntm, x[b])
        torch.testing.assert_close(y[b], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(weights[b], heads, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.memory[b], torch.tensor(memory, dtype=torch.float64))
        torch.testing.assert_close(state.read[b], torch.tensor(read, dtype=torch.float64))
        torch.testing.assert_close(state.weights[b], heads[-1], rtol=0, atol=1e-12)
    assert (weights[:, -1].argmax(-1) != 0).any()


def test_its_gradients_are_those_of_finite_differences():
    ntm = NTM(3, n_rows=3, d_row=2).double()
    parameters = {n: p.detach() for n, p in ntm.named_parameters()}
    x = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)

    def run(x, *values):
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(ntm, named, (x,))[0]

    leaves = [p.clone().requires_grad_() for p in parameters.values()]
    assert torch.autograd.gradcheck(run, (x, *leaves))


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_a_shut_gate_and_a_shift_of_one_move_the_head_to_the_next_row():
    last = torch.eye(N).double()[None, 3:]  # two heads, at rows 3 and 4
    on = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(1, 2, 3)
    one = torch.ones(1, 2, 1).double()
    w = address(draw(1, N, M), last, draw(1, 2, M), one, 0 * one, on, one)
    torch.testing.assert_close(w, torch.eye(N).double()[None, [4, 0]], rtol=0, atol=1e-12)


def test_a_sharp_key_finds_its_row_whatever_the_last_weights():
    memory = draw(1, N, M)
    stay = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(1, 1, 3)
    one = torch.ones(1, 1, 1).double()
    w = address(memory, draw(1, 1, N).softmax(-1), 3 * memory[:, 2:3], 1e3 * one, one, stay, one)
    torch.testing.assert_close(w[0, 0], torch.eye(N).double()[2], rtol=0, atol=1e-9)


def test_the_parts_of_an_address_are_what_they_are_called():
    w = draw(2, 3, N).softmax(-1)
    s = draw(2, 3, 3).softmax(-1)
    for moved in (shifted(w, s), sharpened(w, torch.full((2, 3, 1), 7.0).double())):
        torch.testing.assert_close(moved.sum(-1), torch.ones(2, 3).double())
    torch.testing.assert_close(sharpened(w, torch.ones(2, 3, 1).double()), w)
    assert sharpened(w, torch.full((2, 3, 1), 500.0).double()).isfinite().all()
    memory, k = draw(2, N, M), draw(2, 3, M)
    expected = torch.cosine_similarity(k[:, :, None], memory[:, None], dim=-1)
    torch.testing.assert_close(cosine(memory, k), expected, rtol=0, atol=1e-7)
    assert cosine(0 * memory, k).abs().max() == 0


def test_a_full_erase_then_an_add_overwrites_one_row():
    memory, a = draw(1, N, M), draw(1, M)
    w = torch.eye(N).double()[None, 1]
    after = erase_and_add(memory, w, torch.ones(1, M).double(), a)
    torch.testing.assert_close(after[0, 1], a[0])
    torch.testing.assert_close(after[0, [0, 2, 3, 4]], memory[0, [0, 2, 3, 4]], rtol=0, atol=0)


def test_sizes_and_states_that_do_not_fit_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_rows is 0: it must be at least 1"):
        NTM(D, n_rows=0)
    x = torch.randn(1, 2, D)
    _, state = NTM(D, n_rows=N, d_row=M)(x)
    with pytest.raises(ValueError, match=r"the state's memory has shape \(1, 5, 4\)"):
        NTM(D, n_rows=N + 1, d_row=M)(x, state)
    with pytest.raises(ValueError, match=r"the state's read has shape \(1, 3\)"):
        NTM(D, n_rows=N, d_row=M)(x, NTMState(state.memory, state.weights, state.read[:, :3]))
