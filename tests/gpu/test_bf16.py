# ruff: noqa: E402
"""bfloat16 in the lab gives PyTorch's numbers, and a GPU's: computed in float32, then rounded."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl

from seqlab.gpu.events import LabError
from seqlab.gpu.interpreter import launch
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace


def any_bits(n):
    """float32 numbers of every kind: all exponents, ties, carries into the exponent, inf, NaN."""
    x = torch.randint(-(2**31), 2**31 - 1, (n,)).int()
    x[: n // 4] = x[: n // 4] & ~0xFFFF | 0x8000  # ties
    x[n // 4 : n // 2] |= 0x7F8000  # carries
    x[-4:] = torch.tensor([0x7F800000, -0x800000, 0x7FFFFFFF, 0x7F7FFFFF]).int()
    return x.view(torch.float32)


def same(x, y):
    assert x.dtype == y.dtype and torch.equal(x.isnan(), y.isnan())
    assert torch.equal(x.nan_to_num(0), y.nan_to_num(0))


@triton.jit
def convert(p_x, p_y, n, ZERO: tl.constexpr, BT: tl.constexpr):
    o = tl.program_id(0) * BT + tl.arange(0, BT)
    b_x = tl.load(p_x + o, mask=o < n)
    if ZERO:
        b_x = b_x.to(p_y.dtype.element_ty, fp_downcast_rounding="rtz")
    tl.store(p_y + o, b_x.to(p_y.dtype.element_ty), mask=o < n)


def test_a_cast_rounds_to_the_nearest_and_from_the_middle_to_the_even_one():
    x, y = any_bits(4096), torch.empty(4096).bfloat16()
    launch(convert, (4,), x, y, 4096, ZERO=False, BT=1024)
    same(y, x.bfloat16())


def test_a_cast_towards_zero_cuts_off():
    x, y = any_bits(4096), torch.empty(4096).bfloat16()
    launch(convert, (4,), x, y, 4096, ZERO=True, BT=1024)
    cut = (x.view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()
    same(y, torch.where(x.isnan(), x.bfloat16(), cut))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int32])
def test_every_number_survives_the_way_to_and_from_another_type(dtype):
    x = torch.randn(512).mul(100).to(dtype)
    x[:2] = 0 if dtype == torch.int32 else torch.tensor([torch.inf, torch.nan])
    y, z = torch.empty(512).bfloat16(), torch.empty(512, dtype=dtype)
    launch(convert, (1,), x, y, 512, ZERO=False, BT=512)
    same(y, x.bfloat16())
    launch(convert, (1,), y, z, 512, ZERO=False, BT=512)
    same(z, y.to(dtype))


def test_numbers_of_eight_bits_survive_that_way_too():
    x = torch.randn(512).mul(100).to(torch.float8_e5m2)
    y, z = torch.empty(512).bfloat16(), torch.empty(512).to(torch.float8_e5m2)
    launch(convert, (1,), x, y, 512, ZERO=False, BT=512)
    same(y, x.bfloat16())
    launch(convert, (1,), y, z, 512, ZERO=False, BT=512)
    assert torch.equal(z.float(), x.float())


@triton.jit
def compute(p_x, p_y, p_z, p_true, N: tl.constexpr, OP: tl.constexpr):
    o = tl.arange(0, N)
    b_x, b_y = tl.load(p_x + o), tl.load(p_y + o)
    if OP == "add":
        b_z = b_x + b_y
    elif OP == "sub":
        b_z = b_x - b_y
    elif OP == "mul":
        b_z = b_x * b_y
    elif OP == "div":
        b_z = (b_x / b_y).to(tl.bfloat16)
    elif OP == "neg":
        b_z = -b_x
    elif OP == "abs":
        b_z = tl.abs(b_x)
    elif OP == "maximum":
        b_z = tl.maximum(b_x, b_y)
    elif OP == "where":
        b_z = tl.where(b_x > b_y, b_x, 1.5)
    elif OP == "constant":
        b_z = b_x * 0.1 + tl.full([N], 3.14159, tl.bfloat16)
    tl.store(p_z + o, b_z)
    tl.store(p_true + o, (b_x < b_y) | (b_x == b_y))


OPERATIONS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x, y: -x,
    "abs": lambda x, y: abs(x),
    "maximum": lambda x, y: torch.maximum(x, y),
    "where": lambda x, y: torch.where(x > y, x, 1.5),
    "constant": lambda x, y: x * torch.tensor(0.1).bfloat16() + torch.tensor(3.14159).bfloat16(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_arithmetic_is_pytorchs(operation):
    x = any_bits(512).bfloat16()
    y = any_bits(512)[torch.randperm(512)].bfloat16()
    x[:100] = torch.randn(100).bfloat16()
    y[:100] = torch.randn(100).bfloat16()
    x[100:110] = y[100:110]
    if operation == "maximum":  # its result for NaN depends on the version
        x, y = x.nan_to_num(), y.nan_to_num()
    z, true = torch.empty(512).bfloat16(), torch.zeros(512, dtype=torch.bool)
    launch(compute, (1,), x, y, z, true, N=512, OP=operation)
    same(z, OPERATIONS[operation](x, y))
    assert torch.equal(true, x <= y)


@triton.jit
def plus(a, b):
    return a + b


@triton.jit
def reduce(p_x, p_sum, p_max, p_scan, p_own, N: tl.constexpr):
    o = tl.arange(0, N)
    b_x = tl.load(p_x + o)
    tl.store(p_sum, tl.sum(b_x, 0))
    tl.store(p_max, tl.max(b_x, 0))
    tl.store(p_scan + o, tl.cumsum(b_x, 0))
    tl.store(p_own, tl.reduce(b_x, 0, plus))


def test_sums_maxima_and_scans_are_those_of_float32_rounded_once():
    x = torch.randn(64).bfloat16()
    total, most, scan, own = (torch.empty(n).bfloat16() for n in (1, 1, 64, 1))
    launch(reduce, (1,), x, total, most, scan, own, N=64)
    exact = x.float()
    assert total == exact.sum().bfloat16() == own and most == x.max()
    assert torch.allclose(scan.float(), exact.cumsum(0), rtol=2**-8, atol=1e-3)


@triton.jit
def attend(p_q, p_k, p_v, p_y, N: tl.constexpr):
    i, j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    b_q, b_k, b_v = (tl.load(p + i * N + j) for p in (p_q, p_k, p_v))
    b_p = tl.exp(tl.dot(b_q, tl.trans(b_k)))
    tl.store(p_y + i * N + j, tl.dot(b_p.to(tl.bfloat16), b_v))


def test_a_dot_multiplies_rounded_numbers_and_sums_in_float32():
    q, k, v = (torch.randn(16, 16).mul(0.5).bfloat16() for _ in range(3))
    y = torch.empty(16, 16)
    launch(attend, (1,), q, k, v, y, N=16)
    p = (q.float() @ k.float().mT).exp().bfloat16()
    assert torch.allclose(y, p.float() @ v.float(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(y, (q.float() @ k.float().mT).exp() @ v.float(), rtol=1e-4, atol=1e-4)


def test_two_bytes_are_moved_for_each_number():
    q = torch.randn(16, 16).bfloat16()
    seen = trace(attend, (1,), q, q.clone(), q.clone(), torch.empty(16, 16), N=16)
    bytes_in = {name: t.bytes_in for name, t in seen.traffic.items()}
    assert bytes_in == {"p_q": 512, "p_k": 512, "p_v": 512, "p_y": 0}


def test_sanitize_says_what_tritons_own_interpreter_gets_wrong():
    q = torch.randn(16, 16).bfloat16()
    found = sanitize(attend, (1,), q, q.clone(), q.clone(), torch.full((16, 16), torch.nan), N=16)
    assert [f.kind for f in found] == ["bf16", "bf16"]
    assert "Triton's own interpreter" in str(found[0])


@triton.jit
def add_atomically(p_x, p_y):
    tl.atomic_add(p_y, tl.load(p_x))


def test_an_atomic_sum_is_refused_in_a_sentence():
    x = torch.ones(1).bfloat16()
    where = r"program 0 stopped at test_bf16.py:\d+ .*: "
    said = "atomic operations on bfloat16 do not run on CPU: use float32"
    with pytest.raises(LabError, match=where + said):
        launch(add_atomically, (1,), x, x.clone())
