# ruff: noqa: E402
"""`sanitize`: each kind of fault, planted at a marked line of three kernels, is found there.

Clean kernels give no finding.
"""

import os
import subprocess
import sys

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl

from seqlab.gpu.interpreter import Launch, launch
from seqlab.gpu.sanitize import KINDS, sanitize

# FAULT chooses what is wrong; the line that is wrong ends with its name.


@triton.jit
def fading(a, b):
    """Half of what came before: (x ∘ y) ∘ z has x / 4, x ∘ (y ∘ z) has x / 2."""
    return 0.5 * a + b


@triton.jit
def forgetful(a1, b1, a2, b2):
    """Two steps h → a h + b as one, without the product of the gates."""
    return a2, a2 * b1 + b2


@triton.jit
def composed(a1, b1, a2, b2):
    return a1 * a2, a2 * b1 + b2


@triton.jit
def add(p_x, p_y, p_out, n, BT: tl.constexpr, FAULT: tl.constexpr):
    o = tl.program_id(0) * BT + tl.arange(0, BT)
    m = o < n
    b_x = tl.load(p_x + o, mask=m, other=0.0)
    b_y = tl.load(p_y + o, mask=m, other=0.0)
    if FAULT == "bf16":
        b_x = b_x * b_y  # bf16
    b_x = b_x.to(tl.float32)
    b_y = b_y.to(tl.float32)
    if FAULT == "out of bounds":
        b_y = tl.load(p_y + o)  # out of bounds
    if FAULT == "unwritten read":
        b_y += tl.load(p_out + o, mask=m)  # unwritten read
    if FAULT == "order":
        b_y += tl.load(p_out + o - BT, mask=m & (o >= BT), other=0.0)
    if FAULT == "scan order":
        b_y += tl.associative_scan(b_x, 0, fading)  # scan order
    if FAULT == "small dot":
        b_z = tl.reshape(b_x, [BT // 4, 4])
        b_y += tl.sum(tl.dot(b_z, tl.trans(b_z)))  # small dot
    if FAULT == "undefined":
        b_y += tl.sum(tl.load(p_x + o, mask=m), 0)  # undefined
    if FAULT == "two lanes":
        tl.store(p_out + o // 2 * 2, b_x + b_y, mask=m)  # two lanes
    if FAULT == "lane order":
        tl.store(p_out + o, b_x, mask=m)
        r = tl.program_id(0) * BT + BT - 1 - tl.arange(0, BT)
        b_y += tl.load(p_out + r, mask=r < n, other=0.0)  # lane order
    if FAULT == "never written":
        tl.store(p_out + o, b_x + b_y, mask=o < n - 1)  # never written
    else:
        tl.store(p_out + o, b_x + b_y, mask=m)  # order
    if FAULT == "two writers":
        tl.store(p_out + o - 1, b_x + b_y, mask=m & (o > 0))  # two writers


@triton.jit
def softmax(p_x, p_y, p_sum, R, C, BC: tl.constexpr, FAULT: tl.constexpr):
    r = tl.program_id(0)
    c = tl.arange(0, BC)
    m = c < C
    b_x = tl.load(p_x + r * C + c, mask=m, other=-float("inf"))
    if FAULT == "bf16":
        b_x = tl.where(b_x > tl.load(p_x), b_x, tl.load(p_x))  # bf16
    b_x = b_x.to(tl.float32)
    if FAULT == "order":
        b_x += tl.load(p_sum + r - 1, mask=r > 0, other=0.0) * c
    if FAULT == "unwritten read":
        b_x += tl.load(p_sum + (r + 1) % R) * c  # unwritten read
    if FAULT == "undefined":
        b_x += tl.sum(tl.load(p_x + r * C + c, mask=m), 0) * c  # undefined
    b_e = tl.exp(b_x - tl.max(b_x, 0))
    if FAULT == "two lanes":
        tl.store(p_y + r * C + c // 2, b_e, mask=m)  # two lanes
    if FAULT == "lane order":
        tl.store(p_y + r * C + c, b_e, mask=m)
        b_e += tl.load(p_y + r * C + C - 1 - c, mask=m, other=0.0)  # lane order
    if FAULT == "scan order":
        b_e += tl.associative_scan(b_e, 0, fading, reverse=True)  # scan order
    if FAULT == "small dot":
        b_z = tl.reshape(b_e, [4, BC // 4])
        b_e += tl.sum(tl.dot(tl.trans(b_z), b_z))  # small dot
    b_sum = tl.sum(b_e, 0)
    if FAULT == "out of bounds":
        tl.store(p_y + r * C + c, b_e / b_sum)  # out of bounds
    else:
        tl.store(p_y + r * C + c, b_e / b_sum, mask=m)  # order
    if FAULT == "two writers":
        tl.store(p_sum + r // 2 * 2 + tl.arange(0, 2), b_sum)  # two writers
    elif FAULT != "never written":
        tl.store(p_sum + r, b_sum)


@triton.jit
def matmul(p_a, p_b, p_c, M, N, K,
           BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
           FAULT: tl.constexpr):  # fmt: skip
    """Split over K: each program adds the part of one block of K, atomically."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    m_a = (m < M)[:, None] & (k < K)[None, :]
    m_c = (m < M)[:, None] & (n < N)[None, :]
    m_b = (k < K)[:, None] & (n < N)[None, :]
    b_a = tl.load(p_a + m[:, None] * K + k[None, :], mask=m_a, other=0.0)
    b_b = tl.load(p_b + k[:, None] * N + n[None, :], mask=m_b, other=0.0)
    if FAULT == "out of bounds":
        b_a = tl.load(p_a + m[:, None] * K + k[None, :])  # out of bounds
    if FAULT == "undefined":
        b_a = tl.load(p_a + m[:, None] * K + k[None, :], mask=m_a)  # undefined
    b_c = tl.dot(b_a, b_b)  # small dot, bf16
    if FAULT == "scan order":
        b_c, _ = tl.associative_scan((b_c, b_c), 1, forgetful)  # scan order
    p_t = p_c + m[:, None] * N + n[None, :]
    if FAULT == "two lanes":
        tl.store(p_t - n[None, :] % 2, b_c, mask=m_c)  # two lanes
    if FAULT == "lane order":
        tl.store(p_t, b_c, mask=m_c)
        p_r = p_c + m[:, None] * N + (N + 1 - n)[None, :]
        b_c += tl.load(p_r, mask=m_c & (n > 1)[None, :], other=0.0)  # lane order
    if FAULT == "order":
        b_c += tl.load(p_t - BN, mask=m_c & (n >= BN)[None, :], other=0.0)
    if FAULT == "two writers":
        tl.store(p_t, b_c, mask=m_c)  # two writers
    elif FAULT == "never written":
        tl.store(p_t, b_c, mask=m_c & (n < N - 1)[None, :])  # never written
    else:
        tl.atomic_add(p_t, b_c, mask=m_c)  # unwritten read, order


def run_add(fault, run=sanitize):
    dtype = torch.bfloat16 if fault == "bf16" else torch.float32
    x, y = torch.randn(50).to(dtype), torch.randn(50).to(dtype)
    return run(add, (4,), x, y, torch.full((50,), torch.nan), 50, 16, fault)


def run_softmax(fault, run=sanitize):
    x = torch.randn(6, 13).bfloat16() if fault == "bf16" else torch.randn(6, 13)
    y, total = torch.full((6, 13), torch.nan), torch.full((6,), torch.nan)
    return run(softmax, (6,), x, y, total, 6, 13, BC=16, FAULT=fault)


def run_matmul(fault, run=sanitize):
    a, b, c = torch.randn(20, 40), torch.randn(40, 33), torch.zeros(20, 33)
    if fault == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    if fault in ("unwritten read", "never written"):
        c.fill_(torch.nan)
    BK = {"small dot": 4, "never written": 64}.get(fault, 16)
    return run(matmul, (2, 3, -(-40 // BK)), a, b, c, 20, 33, 40, BM=16, BN=16, BK=BK, FAULT=fault)


RUNS = {"add": run_add, "softmax": run_softmax, "matmul": run_matmul}

# fault, kernel: how the sentence of the first occurrence begins
SENTENCES = {
    "out of bounds": {
        "add": "program 3 loads p_y[50], outside p_y of shape (50,)",
        "softmax": "program 5 stores p_y[6, 0], outside p_y of shape (6, 13)",
        "matmul": "program (1, 0, 0) loads p_a[20, 0], outside p_a of shape (20, 40)",
    },
    "never written": {
        "add": "no program writes p_out[49], in all 1 of 50 elements of p_out",
        "softmax": (
            "no program reads or writes p_sum: if it is an output, p_sum[0] and the rest lack"
        ),
        "matmul": "no program writes p_c[0, 32], in all 20 of 660 elements of p_c",
    },
    "two writers": {
        "add": "program 1 writes p_out[15], which program 0 wrote too",
        "softmax": "program 1 writes p_sum[0], which program 0 wrote too at the same line",
        "matmul": (
            "program (0, 0, 1) writes p_c[0, 0], which program (0, 0, 0) wrote too at the same line"
        ),
    },
    "two lanes": {
        "add": "program 0 stores different values to p_out[0] in lane 0 and in lane 1",
        "softmax": "program 0 stores different values to p_y[0, 0] in lane 0 and in lane 1",
        "matmul": (
            "program (0, 0, 0) stores different values to p_c[0, 0] in lane 0 and in lane 1"
        ),
    },
    "lane order": {
        "add": (
            "program 0 reads p_out[15], which another lane of the program has just stored: "
            "put tl.debug_barrier() between"
        ),
        "softmax": "program 0 reads p_y[0, 12], which another lane of the program has just stored",
        "matmul": (
            "program (0, 1, 0) reads p_c[0, 18], which another lane of the program has just stored"
        ),
    },
    "undefined": {
        "add": (
            "program 3 loads without other=, and lanes that the mask switches off reach p_out[48]"
        ),
        "softmax": (
            "program 0 loads without other=, and lanes that the mask switches off reach p_y[0, 0]"
        ),
        "matmul": (
            "program (0, 0, 2) loads without other=, and lanes that the mask switches off "
            "reach p_c[0, 0]"
        ),
    },
    "order": {
        "add": "program 1 leaves p_out[16] = ",
        "softmax": "program 1 leaves p_y[1, 0] = ",
        "matmul": "program (0, 1, 2) leaves p_c[0, 16] = ",
    },
    "small dot": {
        "add": "program 0 multiplies (4, 4) by (4, 4) in fp32, with k = 4: a GPU takes no tl.dot",
        "softmax": (
            "program 0 multiplies (4, 4) by (4, 4) in fp32, with k = 4: a GPU takes no tl.dot"
        ),
        "matmul": (
            "program (0, 0, 0) multiplies (16, 4) by (4, 16) in fp32, with k = 4: "
            "a GPU takes no tl.dot"
        ),
    },
    "scan order": {
        "add": "program 0 joins a scan by an operator that is not associative: element [2] of",
        "softmax": "program 0 joins a scan by an operator that is not associative: element [",
        "matmul": "program (0, 0, 0) joins a scan by an operator that is not associative",
    },
    "bf16": {
        "add": "program 0 computes 'multiply' on bfloat16 numbers",
        "softmax": "program 0 computes 'greater' on bfloat16 numbers",
        "matmul": "program (0, 0, 0) computes a dot on bfloat16 numbers",
    },
    "unwritten read": {
        "add": "program 0 reads p_out[0], which nothing has written",
        "softmax": "program 0 reads p_sum[1], which nothing has written",
        "matmul": "program (0, 0, 0) reads p_c[0, 0], which nothing has written",
    },
}
EXPECTED = {(kernel, fault): SENTENCES[fault][kernel] for fault in SENTENCES for kernel in RUNS}
# A fault may bring others with it: a program that overwrites a neighbour's element also makes the
# order matter.
FOLLOWS = {
    "two writers": {"order"},
    "out of bounds": {"two writers", "order"},
    "unwritten read": {"order"},
    "two lanes": {"two writers", "order"},
    "lane order": {"two writers", "order"},
}


@pytest.mark.parametrize(("kernel", "fault"), EXPECTED)
def test_a_planted_fault_is_found_at_its_line(kernel, fault):
    findings = RUNS[kernel](fault)
    assert {f.kind for f in findings} - FOLLOWS.get(fault, set()) == {fault}
    found = next(f for f in findings if f.kind == fault)
    assert str(found).startswith(EXPECTED[kernel, fault])
    if (kernel, fault) == ("softmax", "never written"):  # a missing store has no line
        assert found.line is None
    else:
        assert fault in found.line.text.split("#")[1]
        assert f"test_sanitize.py:{found.line.number} `{found.line.text}`" in str(found)


def test_every_kind_is_planted_in_three_kernels():
    assert {(kernel, kind) for kernel in RUNS for kind in KINDS} == set(EXPECTED)


@pytest.mark.parametrize("kernel", RUNS)
def test_a_clean_kernel_gives_no_finding(kernel):
    assert RUNS[kernel]("") == []


@triton.jit
def scanned(p_a, p_b, p_y, BT: tl.constexpr, BW: tl.constexpr, OP: tl.constexpr):
    o = tl.arange(0, BT)[:, None] * BW + tl.arange(0, BW)[None, :]
    b_a, b_y = tl.associative_scan((tl.load(p_a + o), tl.load(p_b + o)), 0, OP)
    tl.store(p_y + o, tl.cumsum(b_y, 0) + b_a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gate", [0.0, 0.9, 1.0, 1.5])
def test_an_associative_operator_gives_no_finding_whatever_it_rounds(dtype, gate):
    a, b = torch.full((32, 4), gate), torch.randn(32, 4)
    a, b = a.to(dtype), b.to(dtype)
    found = sanitize(scanned, (1,), a, b, torch.empty_like(b), BT=32, BW=4, OP=composed)
    assert [f for f in found if f.kind != "bf16"] == []
    if gate in (0.9, 1.5):
        (finding,) = (
            f
            for f in sanitize(scanned, (1,), a, b, torch.empty_like(b), BT=32, BW=4, OP=forgetful)
            if f.kind != "bf16"
        )
        assert finding.kind == "scan order" and "GPU joins in a tree" in str(finding)


def test_bf16_that_is_made_float32_right_after_the_load_gives_no_finding():
    x, out = torch.randn(50).bfloat16(), torch.full((50,), torch.nan)
    assert sanitize(add, (4,), x, x, out, 50, 16, "") == []


@pytest.mark.parametrize("fault", ["", *KINDS])
@pytest.mark.parametrize("kernel", RUNS)
def test_the_callers_tensors_are_never_changed(kernel, fault):
    def run(kernel, grid, *args, **constexprs):
        before = [x.clone() for x in args if isinstance(x, torch.Tensor)]
        sanitize(kernel, grid, *args, **constexprs)
        for x, y in zip([x for x in args if isinstance(x, torch.Tensor)], before, strict=True):
            assert torch.equal(x.view(torch.uint8), y.view(torch.uint8))

    RUNS[kernel](fault, run)


@triton.jit
def put_row(p_cache, p_x, t, C: tl.constexpr):
    c = tl.arange(0, C)
    tl.store(p_cache + t * C + c, tl.load(p_x + c))


def test_initialised_and_outputs_say_what_the_numbers_cannot():
    cache, x = torch.zeros(5, 8), torch.ones(8)
    assert [f.kind for f in sanitize(put_row, (1,), cache, x, 2, C=8)] == ["never written"]
    assert sanitize(put_row, (1,), cache, x, 2, C=8, initialised=["p_cache"]) == []
    found = sanitize(put_row, (1,), x, x, 0, C=8, outputs=["p_x"])
    assert [f.kind for f in found] == ["unwritten read"]
    with pytest.raises(ValueError, match="put_row has no tensor cache: it has p_cache, p_x"):
        sanitize(put_row, (1,), cache, x, 2, C=8, initialised=["cache"])


@triton.jit
def locked_sum(p_x, p_out, p_lock):
    i = tl.program_id(0)
    while tl.atomic_cas(p_lock, 0, 1) == 1:
        pass
    tl.store(p_out, tl.load(p_out) + tl.load(p_x + i))
    tl.atomic_xchg(p_lock, 0)


@triton.jit
def chained(p_x, p_out, p_flag):
    i = tl.program_id(0)
    while tl.atomic_add(p_flag, 0) != i:
        pass
    tl.store(p_out + i, tl.load(p_x + i))
    tl.atomic_add(p_flag, 1)


def test_writes_under_a_lock_are_no_fault():
    lock = torch.zeros(1, dtype=torch.int32)
    assert sanitize(locked_sum, (4,), torch.arange(4.0), torch.zeros(1), lock) == []


def test_a_program_that_waits_for_an_earlier_one_is_found_and_ends():
    flag = torch.zeros(1, dtype=torch.int32)
    (finding,) = sanitize(chained, (4,), torch.arange(4.0), torch.zeros(4), flag)
    assert finding.kind == "order" and finding.tensor == "p_flag"
    said = "program 3 waits for ever when programs run reversed: it polls p_flag"
    assert str(finding).startswith(said)


@triton.jit
def product(p_a, p_b, p_c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    b_a = tl.load(p_a + m[:, None] * K + k[None, :])
    b_b = tl.load(p_b + k[:, None] * N + n[None, :])
    tl.store(p_c + m[:, None] * N + n[None, :], tl.dot(b_a, b_b))


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    "sizes", [(16, 16, 16), (8, 16, 16), (16, 8, 16), (16, 16, 8), (16, 16, 4)]
)
def test_a_dot_is_found_exactly_where_tritons_compiler_rejects_it(sizes, dtype):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, CompilationError

    m, n, k = sizes
    a, b = torch.zeros(m, k, dtype=dtype), torch.zeros(k, n, dtype=dtype)
    found = [f.kind for f in sanitize(product, (1,), a, b, torch.full((m, n), torch.nan), *sizes)]
    if not hasattr(product, "params"):
        pytest.skip("under TRITON_INTERPRET=1 nothing is compiled")
    pointer = "*fp16" if dtype == torch.float16 else "*fp32"
    constants = dict(zip("MNK", sizes, strict=True))
    types = {"p_a": pointer, "p_b": pointer, "p_c": "*fp32"}
    source = ASTSource(product, types | dict.fromkeys(constants, "constexpr"), constants)
    try:
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
        rejected = False
    except CompilationError:
        rejected = True
    assert found == (["small dot"] if rejected else [])


@triton.jit
def far(p_x, n):
    tl.store(p_x + n, 1.0)


@pytest.mark.parametrize("n", [10**9, -(10**9), 2**31 - 1])
def test_an_address_far_away_is_caught_too(n):
    x = torch.zeros(4)
    (finding,) = sanitize(far, (1,), x, n, initialised=["p_x"])
    assert finding.kind == "out of bounds" and finding.index == n
    assert x.eq(0).all()


def test_findings_at_one_line_are_one_sentence():
    (finding,) = run_add("out of bounds")
    assert str(finding).endswith("# out of bounds`; in all 14 elements)")
    assert repr(run_add("out of bounds")) == str(finding) and repr(run_add("")) == "nothing found"
    assert (finding.program, finding.tensor, finding.index) == ((3,), "p_y", 50)


def test_a_kernel_whose_programs_share_nothing_costs_one_run(monkeypatch):
    """64 programs of a 64³ dot, each of which writes a tile of its own."""
    runs, run = [], Launch.run
    monkeypatch.setattr(Launch, "run", lambda *xs: runs.append(0) or run(*xs))
    a, b, c = torch.randn(512, 64), torch.randn(64, 512), torch.zeros(512, 512)
    assert sanitize(matmul, (8, 8, 1), a, b, c, 512, 512, 64, BM=64, BN=64, BK=64, FAULT="") == []
    assert len(runs) == 1


def test_a_kernel_launched_after_a_sanitized_one_runs_as_before():
    run_matmul("out of bounds")
    x, out = torch.randn(50), torch.zeros(50)
    launch(add, (4,), x, x, out, 50, BT=16, FAULT="")
    assert torch.equal(out, 2 * x)


def test_the_same_is_found_under_tritons_own_interpreter():
    """TRITON_INTERPRET=1 changes what @triton.jit returns; the findings stay the same."""
    tests = ["test_a_planted_fault_is_found_at_its_line", "test_a_clean_kernel_gives_no_finding"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not matmul"]
    command += [f"{__file__}::{test}" for test in tests]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
