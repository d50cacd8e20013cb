# ruff: noqa: E402
"""A kernel runs on CPU and is watched: right numbers, in the caller's tensors, Triton unchanged."""

import builtins
import linecache
import subprocess
import sys
from os import environ

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton installs on Linux only")
import triton.language as tl

from seqlab.gpu import triton_private
from seqlab.gpu.events import LabError, OutOfBounds, Watcher
from seqlab.gpu.interpreter import Launch, launch


@triton.jit
def squared(x):
    return x * x


@triton.jit
def add(p_x, p_y, p_out, n, BT: tl.constexpr):
    o = tl.program_id(0) * BT + tl.arange(0, BT)
    m = o < n
    tl.store(p_out + o, tl.load(p_x + o, mask=m) + tl.load(p_y + o, mask=m), mask=m)


@triton.jit
def many_features(p_x, p_y, p_count, R, C: tl.constexpr):
    r = tl.program_id(0)
    o = tl.arange(0, C)
    b_x = tl.load(p_x + r * C + o).to(tl.float32)
    b_sum = b_x.sum(0) + tl.max(b_x, axis=0) + tl.sum(squared(b_x))
    for i in range(R):
        b_sum += i
    b_y = tl.cumsum(b_x, axis=0) + tl.where(o > 0, b_sum, 0.0) + tl.zeros([C], dtype=tl.float32)
    b_rows = b_x[:, None] + tl.zeros([C, C], tl.float32)
    b_y += tl.sum(tl.dot(b_rows, tl.trans(b_x[:, None] * b_x[None, :])), 0)
    tl.store(p_y + r * C + o, b_y)
    tl.atomic_add(p_count, 1)


@triton.jit
def fails(p_x, N: tl.constexpr):
    b_x = tl.load(p_x + tl.arange(0, N))
    tl.static_assert(N == 1, "N must be 1")
    tl.store(p_x + tl.arange(0, N), b_x)


@triton.jit
def compose(a1, b1, a2, b2):
    return a1 * a2, a2 * b1 + b2


@triton.jit
def linear_scan(inputs, p_y, T: tl.constexpr):
    t = tl.arange(0, T)
    _, b_y = tl.associative_scan((tl.load(inputs[0] + t), tl.load(inputs[1] + t)), 0, compose)
    tl.store(p_y + t, b_y)


@triton.jit
def copy_by_descriptors(p_x, d_y, R, C, BR: tl.constexpr, BC: tl.constexpr):
    i, j = tl.program_id(0) * BR, tl.program_id(1) * BC
    d_x = tl.make_tensor_descriptor(p_x, [R, C], [C, 1], [BR, BC])
    d_y.store([i, j], d_x.load([i, j]))


@triton.jit
def copy_by_pairs(p_x, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    b_x = tl.load(p_x.to(tl.pointer_type(tl.int64)) + o)
    tl.store(p_y.to(tl.pointer_type(tl.int64)) + o, b_x)


@triton.autotune(configs=[triton.Config({"BT": 8}), triton.Config({"BT": 16})], key=["n"])
@triton.heuristics({"EVEN": lambda values: values["n"] % values["BT"] == 0})
@triton.jit
def tuned(p_x, n, BT: tl.constexpr, EVEN: tl.constexpr):
    o = tl.program_id(0) * BT + tl.arange(0, BT)
    if EVEN:
        tl.store(p_x + o, BT)
    else:
        tl.store(p_x + o, BT, mask=o < n)


def test_a_kernel_runs_on_cpu_tensors_in_place():
    x, y, out = torch.randn(100), torch.randn(100), torch.zeros(100)

    def grid(meta):
        return (triton.cdiv(meta["n"], meta["BT"]),)

    launch(add, grid, x, y, out, 100, BT=16, num_warps=2)
    assert torch.equal(out, x + y)


def test_a_launch_on_copies_leaves_the_callers_tensors_alone():
    x, out = torch.randn(32), torch.zeros(32)
    run = Launch(add, (2,), (x, x, out, 32), {"BT": 16})
    run.run()
    assert out.eq(0).all()
    assert torch.equal(run.arguments["p_out"].copy, 2 * x)


def test_helper_kernels_methods_loops_reductions_dots_and_atomics_work():
    x, y, count = torch.randn(3, 16), torch.zeros(3, 16), torch.zeros(1, dtype=torch.int32)
    launch(many_features, (3,), x, y, count, 4, C=16)
    total = x.sum(1) + x.amax(1) + (x * x).sum(1) + 6
    outer = x[:, :, None] * x[:, None, :]
    dots = (x[:, :, None].expand(3, 16, 16) @ outer.mT).sum(1)
    expected = x.cumsum(1) + total[:, None] * (torch.arange(16) > 0) + dots
    assert torch.allclose(y, expected, atol=1e-4)
    assert count.item() == 3


def test_arguments_that_share_memory_still_do():
    x = torch.arange(32.0)
    launch(add, (2,), x, x, x, 32, BT=16)
    assert torch.equal(x, 2 * torch.arange(32.0))


def test_strided_views_are_seen_as_views():
    table = torch.zeros(4, 8)
    launch(add, (1,), torch.ones(8), torch.ones(8), table[2], 8, BT=8)
    assert table[2].eq(2).all() and table.sum() == 16
    # Inside the memory of the table, but outside its row.
    with pytest.raises(OutOfBounds, match=r"stores p_out\[8\]"):
        launch(add, (1,), torch.ones(16), torch.ones(16), table[2], 16, BT=16)


def test_an_access_out_of_bounds_is_stopped_before_it_touches_memory():
    said = r"program 3 loads p_x\[50\], but p_x has shape \(50,\) \(test_interpreter.py:"
    with pytest.raises(OutOfBounds, match=said):
        launch(add, (4,), torch.ones(50), torch.ones(64), torch.ones(64), 64, BT=16)


def test_tuples_of_tensors_and_scans_with_a_helper_kernel_work():
    a, b, y = torch.rand(16), torch.randn(16), torch.zeros(16)
    launch(linear_scan, (1,), (a, b), y, T=16)
    h = 0.0
    for t in range(16):
        h = a[t] * h + b[t]
        assert torch.isclose(y[t], h, atol=1e-6)


def test_tensor_descriptors_of_host_and_device_work():
    from triton.tools.tensor_descriptor import TensorDescriptor

    x, y = torch.randn(20, 36), torch.zeros(20, 36)
    d_y = TensorDescriptor.from_tensor(y, [8, 16])
    launch(copy_by_descriptors, (3, 3), x, d_y, 20, 36, BR=8, BC=16)
    assert torch.equal(x, y)


def test_a_pointer_cast_to_a_wider_type_touches_all_the_elements_it_spans():
    seen = {}

    class Elements(Watcher):
        def access(self, access):
            seen[access.kind] = (access.elements.tolist(), access.outside.tolist(), access.width)

    x = torch.randn(7)
    Launch(copy_by_pairs, (1,), (x, torch.zeros(8)), {"N": 4}).run(Elements())
    assert seen["load"] == ([0, 1, 2, 3, 4, 5], [7], 4)  # the last pair ends outside
    assert seen["store"] == (list(range(8)), [], 4)


def test_autotuned_kernels_take_their_first_configuration():
    x = torch.zeros(12)
    launch(tuned, (2,), x, 12)
    assert x.eq(8).all()


def test_programs_run_in_any_order_that_is_asked_for():
    seen = []

    class Order(Watcher):
        def access(self, access):
            seen.append(access.program)

    x = torch.zeros(8)
    Launch(add, (2, 2), (x, x, x, 8), {"BT": 4}).run(Order(), reversed)
    assert list(dict.fromkeys(seen)) == [(1, 1), (1, 0), (0, 1), (0, 0)]


def test_a_failure_inside_the_kernel_names_program_and_line():
    where = r"program 0 stopped at test_interpreter.py:\d+ `tl.static_assert.*`: "
    with pytest.raises(LabError, match=where + "AssertionError: N must be 1"):
        launch(fails, (1,), torch.zeros(4), N=4)


META = [torch.zeros(4, device="meta")] * 3


@pytest.mark.parametrize(
    ("kernel", "grid", "args", "said"),
    [
        (torch.add, (1,), (), "pass a function decorated with @triton.jit"),
        (lambda x: x, (1,), (), "is a plain function: decorate it with @triton.jit"),
        (add, (1,), (torch.zeros(4),), "add: missing a required argument: 'p_y'"),
        (add, (1,), [*META, 4, 4], "p_x is a meta tensor, which holds no numbers"),
        (add, (1, 1, 1, 1), [torch.zeros(4)] * 3 + [4, 4], "must be one to three whole numbers"),
    ],
)
def test_wrong_calls_get_one_sentence(kernel, grid, args, said):
    with pytest.raises((TypeError, ValueError), match=said):
        launch(kernel, grid, *args)


def test_a_parameter_the_kernel_does_not_have_is_named():
    with pytest.raises(TypeError, match="add has no parameter BLOCK"):
        launch(add, (1,), *[torch.zeros(4)] * 3, 4, BT=4, BLOCK=4)


def everything():
    """All that a run could have changed: the language, its classes, this file's globals."""
    from triton.runtime import interpreter as theirs
    from triton.runtime.jit import JITFunction

    places = [tl, tl.core, tl.math, tl.standard, tl.tensor, tl.dtype]
    places += [theirs, theirs.InterpretedFunction, JITFunction, sys.modules[__name__]]
    optional = ("condition", "tensor_descriptor_base")  # not in every version
    places += [getattr(tl.core, name) for name in optional if hasattr(tl.core, name)]
    return [dict(vars(place)) for place in places]


def test_nothing_stays_patched_even_after_an_exception():
    before = everything()
    test_helper_kernels_methods_loops_reductions_dots_and_atomics_work()
    assert everything() == before
    test_a_failure_inside_the_kernel_names_program_and_line()
    test_an_access_out_of_bounds_is_stopped_before_it_touches_memory()
    assert everything() == before


def test_no_part_of_triton_is_imported_while_the_language_is_replaced():
    """It would keep what it finds: then `min` is the interpreter's in every later compilation."""
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("test_interpreter", {__file__!r})
tests = importlib.util.module_from_spec(spec)
sys.modules["test_interpreter"] = tests
spec.loader.exec_module(tests)
inside = tests.triton_private.Interpreter._put_in
def put_in(*args):
    put_in.before = put_in.before or set(sys.modules)
    return inside(*args)
put_in.before = set()
tests.triton_private.Interpreter._put_in = put_in
tests.test_helper_kernels_methods_loops_reductions_dots_and_atomics_work()
tests.test_tensor_descriptors_of_host_and_device_work()
late = [name for name in set(sys.modules) - put_in.before if name.startswith("triton")]
assert put_in.before and not late, late
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_a_run_adds_is_removed():
    class Adds(Watcher):
        def access(self, access):
            tl.added_by_a_run = tl.tensor.added_by_a_run = True

    Launch(add, (1,), [torch.zeros(4)] * 3, {"n": 4, "BT": 4}).run(Adds())
    assert not hasattr(tl, "added_by_a_run") and not hasattr(tl.tensor, "added_by_a_run")


def test_a_line_of_a_notebook_is_named_by_its_cell():
    source = """import triton
import triton.language as tl
@triton.jit
def f(p_x):
    tl.store(p_x + 1, 1.0)
"""
    file = "/tmp/ipykernel_1/2.py"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    scope = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), scope)
    with pytest.raises(OutOfBounds, match=r"\(line 5 of the cell `tl.store\(p_x \+ 1, 1.0\)`\)"):
        launch(scope["f"], (1,), torch.zeros(1))


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_a_kernel_compiles_to_the_same_code_after_the_lab_has_run_it():
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def ttir():
        types = {"p_x": "*fp32", "p_y": "*fp32", "p_count": "*i32", "R": "i32", "C": "constexpr"}
        source = ASTSource(many_features, types, {"C": 16})
        return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"]

    if isinstance(many_features, triton_private.interpreter().function_types[1]):
        pytest.skip("under TRITON_INTERPRET=1 nothing is compiled")
    before = ttir()
    test_helper_kernels_methods_loops_reductions_dots_and_atomics_work()
    assert ttir() == before


def test_under_tritons_own_interpreter_the_lab_works_and_leaves_it_as_it_was():
    """This file in a process with TRITON_INTERPRET=1: Triton's own launch gives the same again."""
    code = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("test_interpreter", {__file__!r})
tests = importlib.util.module_from_spec(spec)
__import__("sys").modules["test_interpreter"] = tests
spec.loader.exec_module(tests)
def theirs():
    x, y = torch.arange(30.0), torch.zeros(30)
    tests.add[(2,)](x, x, y, 30, BT=16)
    return y
before = theirs()
tests.test_helper_kernels_methods_loops_reductions_dots_and_atomics_work()
tests.test_a_failure_inside_the_kernel_names_program_and_line()
tests.test_nothing_stays_patched_even_after_an_exception()
assert torch.equal(theirs(), before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_without_triton_one_sentence_says_what_to_do(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "triton":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    said = "needs Triton, which is not installed here: on Linux run `pip install triton`"
    with pytest.raises(LabError, match=said):
        launch(add, (1,), *[torch.zeros(4)] * 3, 4, BT=4)


@pytest.mark.parametrize("part", ["ASTTransformer", "_patch_lang", "InterpreterBuilder"])
def test_if_private_parts_moved_one_sentence_says_so(part, monkeypatch):
    from triton.runtime import interpreter as theirs

    monkeypatch.delattr(theirs, part)
    said = f"does not know the interpreter of Triton {triton.__version__}.*{part}"
    with pytest.raises(LabError, match=said):
        launch(add, (1,), *[torch.zeros(4)] * 3, 4, BT=4)


def test_importing_the_lab_imports_no_triton():
    code = "import sys, torch; had = 'triton' in sys.modules; import seqlab.gpu.interpreter; "
    code += "assert had or 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
