"""`compile_report` against other tools that read the same binary, and against counts by hand."""

import importlib.util
import linecache
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

import triton

from seqlab.gpu.compile import TARGETS, compile_report, occupancy

TOYS = Path(__file__).parent / "toy_kernels.py"
spec = importlib.util.spec_from_file_location("toy_kernels", TOYS)
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)


def meta(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")


def meta32(*shape):
    return meta(*shape, dtype=torch.float32)


def report_of_add(*args, kernel=toys.add, BLOCK=64):
    return compile_report(kernel, *args, BLOCK=BLOCK, targets=("sm_90",))


POINTERS = ("*fp32", "*fp32", "*fp32")


@pytest.fixture(scope="module")
def product():
    inputs = meta(128, 1024), meta(1024, 128), meta32(128, 128)
    return compile_report(toys.product, *inputs, 1024, BLOCK=128, STEP=64)


def line_of(text):
    lines = Path(toys.__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if text in line)


def test_four_targets_are_compiled_once_each_with_nothing_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled, compile_one = [], triton.compile
    monkeypatch.setattr(
        triton, "compile", lambda *xs, **named: compiled.append(0) or compile_one(*xs, **named)
    )
    report = compile_report(toys.product, "*fp16", "*fp16", "*fp32", 512, BLOCK=64, STEP=32)
    assert tuple(report.targets) == TARGETS and list(tmp_path.iterdir())
    assert len(compiled) == len(TARGETS)


def test_each_architecture_uses_its_own_matrix_instruction(product):
    names = {target: set(product[target].tensor_cores) for target in TARGETS}
    assert names == {
        "sm_80": {"mma.sync"},
        "sm_90": {"wgmma.mma_async"},
        "sm_100": {"tcgen05.mma"},
        "gfx942": {"v_mfma"},
    }


def test_the_tensor_cores_do_the_flops_of_one_tile(product):
    """An instruction's shape is in its name: m16n8k16 multiplies 16·8·16 a warp.

    A loop may be unrolled, but never shortened.
    """
    stage = product["sm_80"].stages["ptx"]
    shapes = [re.search(r"m(\d+)n(\d+)k(\d+)", s.text) for s in stage if "mma.sync" in s.text]
    done = 4 * sum(int(m[1]) * int(m[2]) * int(m[3]) for m in shapes)  # four warps
    assert done % (128 * 128 * 64) == 0 and done > 0


def test_an_addition_needs_no_tensor_core_and_no_shared_memory():
    report = compile_report(toys.add, *[meta32(4096)] * 3, 4096, BLOCK=1024)
    for c in report.targets.values():
        assert c.tensor_cores == {} and c.shared == 0 and c.spills == 0
    assert all(c.occupancy.share == 1 for c in report.targets.values())


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_registers_and_spills_are_what_ptxas_says(target, tmp_path, monkeypatch, capsys):
    """ptxas counts them itself while it compiles, and Triton can print its log."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.knobs.nvidia, "dump_ptxas_log", True)
    report = compile_report(
        toys.greedy, "*fp32", "*fp32", BLOCK=16384, num_warps=4, targets=(target,)
    )
    said = capsys.readouterr().out
    assert int(re.search(r"(\d+) bytes stack frame", said)[1]) == report[target].spills > 0
    assert int(re.search(r"(\d+) bytes spill stores", said)[1]) > 0
    assert int(re.search(r"Used (\d+) registers", said)[1]) == report[target].registers


def test_a_line_of_the_kernel_leads_to_what_it_became_in_every_stage(product):
    dot = line_of("# the line of the dot")
    words = {"ttir": "tt.dot", "ttgir": "warp_group_dot", "ptx": "wgmma.mma_async"}
    for stage, word in words.items():
        lines = product["sm_90"].stages[stage]
        found = {line.source for line in lines if word in line.text.split("//")[0]}
        assert dot in found, stage
    assert any("v_mfma" in text for text in product.made_by(dot, "gfx942", "amdgcn"))
    store = line_of("tl.store(p_c")
    assert any("st.global" in text for text in product.made_by(store, "sm_90", "ptx"))
    assert not any("wgmma.mma" in text for text in product.made_by(store, "sm_90", "ptx"))
    assert product.source[store].strip().startswith("tl.store")


def test_what_a_library_function_became_belongs_to_the_line_that_called_it():
    report = compile_report(toys.summed, meta32(1024), meta32(1), BLOCK=1024)
    line = line_of("tl.store(p_y, tl.sum(")
    assert any("tt.reduce" in text for text in report.made_by(line, "sm_90", "ttir"))
    ptx, amdgcn = report["sm_90"].stages["ptx"], report["gfx942"].stages["amdgcn"]
    assert {s.source for s in ptx if "shfl" in s.text} == {line}
    assert {s.source for s in amdgcn if "v_add_f32_dpp" in s.text} == {line}


def test_the_lines_of_inline_assembly_belong_to_the_line_that_asked_for_it():
    """Inside it LLVM keeps counting, as if each line of assembly were a line of the kernel."""
    report = compile_report(toys.summed, meta32(1024), meta32(1), BLOCK=1024)
    loads = [s for s in report["sm_90"].stages["ptx"] if "ld.global" in s.text]
    assert {s.source for s in loads} == {line_of("tl.store(p_y, tl.sum(")} and len(loads) == 2


def test_the_texts_carry_no_location_marks(product):
    for target in TARGETS:
        for stage in product[target].stages:
            text = product.text(target, stage)
            assert "loc(" not in text and ".loc\t" not in text and "debug" not in text
            assert len(text) > 500


def test_a_divisor_of_sixteen_and_a_one_are_compiled_in():
    def text(n):
        return report_of_add(*POINTERS, n, BLOCK=128).text("sm_90", "ttir")

    assert re.search(r"%n: i32 \{tt.divisibility = 16", text(4096))
    assert re.search(r"%n: i32[,)]", text(4097)) and "%n" not in text(1)
    assert "%n: i64" in text(2**31 + 1)


def test_a_view_off_the_grid_is_not_called_aligned():
    x = torch.empty(4096, device="meta")
    for view, aligned in ((x[4:], True), (x[1:], False)):
        ttir = report_of_add(view, x, x, 64).text("sm_90", "ttir")
        found = re.search(r"%p_x: !tt.ptr<f32> \{tt.divisibility = 16", ttir)
        assert (found is not None) == aligned


@pytest.mark.parametrize(
    ("arguments", "blocks", "limit"),
    [
        (("sm_80", 4, 32, 0), 16, "warps"),
        (("sm_90", 4, 128, 0), 4, "registers"),  # 65536 / (128 threads · 128)
        (("sm_90", 4, 129, 0), 3, "registers"),  # a warp gets 256 at a time: 136 a thread
        (("sm_90", 1, 16, 0), 32, "blocks"),
        (("sm_90", 4, 32, 99 * 1024), 2, "shared memory"),  # plus 1 KB reserved: 228 / 100
        (("sm_80", 4, 32, 99 * 1024), 1, "shared memory"),
        (("sm_80", 4, 32, 164 * 1024), 0, "shared memory: does not fit"),
        (("sm_100", 4, 32, 0, 256), 2, "tensor memory"),
        (("gfx942", 4, 128, 0), 4, "registers"),  # 512 / 128 waves a SIMD, four SIMDs
        (("gfx942", 4, 32, 40 * 1024), 1, "shared memory"),
        (("gfx942", 4, 32, 0), 8, "warps"),
    ],
)
def test_occupancy_by_hand(arguments, blocks, limit):
    held = occupancy(*arguments)
    assert (held.blocks, held.limit) == (blocks, limit)
    assert held.share == blocks * arguments[1] / (32 if arguments[0] == "gfx942" else 64)


def test_the_waves_of_amd_are_those_that_llvm_counts():
    """LLVM writes "Occupancy" into the assembly: waves on a SIMD, limited by registers alone."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {"BLOCK": 128, "STEP": 64}
    types = {"p_a": "*fp16", "p_b": "*fp16", "p_c": "*fp32", "n": "i32"}
    types |= dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(4)}
    source = ASTSource(toys.product, types, constants, aligned)
    options = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    target = GPUTarget("hip", "gfx942", 64)
    asm = triton.compile(source, target=target, options=options).asm["amdgcn"]
    registers = int(re.search(r"; TotalNumVgprs: (\d+)", asm)[1])
    waves = int(re.search(r"; Occupancy: (\d+)", asm)[1])
    assert occupancy("gfx942", 4, registers, 0).limits["registers"] == waves


def test_the_table_says_what_the_data_say(product):
    rows = repr(product).splitlines()
    assert rows[1].split()[:3] == ["target", "warps", "registers"] and len(rows) == 2 + len(TARGETS)
    columns = ("target", "warps", "registers", "spills", "shared")
    for row, data in zip(rows[2:], product.data(), strict=True):
        assert row.split()[:5] == [str(data[column]) for column in columns]
        assert f"{data['occupancy']:.0%}" in row and data["limit"] in row


def test_an_autotuned_kernel_is_looked_through():
    tuned = triton.autotune([triton.Config({"BLOCK": 64})], key=["n"])(toys.add)
    assert report_of_add(*POINTERS, 64, kernel=tuned).kernel == "add"


def test_a_wrong_call_gets_a_sentence(product):
    with pytest.raises(ValueError, match="targets has 'sm_1': choose from sm_80"):
        compile_report(toys.add, targets=("sm_1",))
    with pytest.raises(ValueError, match="add needs p_z: pass it as in a launch"):
        compile_report(toys.add, "*fp32", "*fp32", BLOCK=64)
    with pytest.raises(RuntimeError, match=r"decorated with @triton.jit, not a function"):
        compile_report(lambda x: x)
    said = "sm_90 has no stage 'amdgcn': choose one of ttir, ttgir, ptx"
    with pytest.raises(ValueError, match=said):
        product.text("sm_90", "amdgcn")


def test_a_kernel_of_the_interpreter_is_refused_in_a_sentence():
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("toys", {toys.__file__!r})
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
from seqlab.gpu.compile import compile_report
try:
    compile_report(toys.add, "*fp32", "*fp32", "*fp32", 64, BLOCK=64)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "TRITON_INTERPRET was set" in done.stdout, done.stderr


def test_without_triton_or_its_tools_one_sentence_says_so(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "triton", None)
        said = "needs Triton, which is not installed here: on Linux run `pip install"
        with pytest.raises(RuntimeError, match=said):
            compile_report(toys.add)
    monkeypatch.setattr(triton, "__file__", str(tmp_path / "triton" / "__init__.py"))
    with pytest.raises(RuntimeError, match="needs cuobjdump, which Triton's Linux wheels contain"):
        report_of_add(*POINTERS, 64)


def test_a_source_is_parsed_for_one_target_at_a_time(tmp_path, monkeypatch):
    """In two threads Python 3.11 fails now and then: "AST constructor recursion depth mismatch"."""
    parse = triton.runtime.JITFunction.parse
    inside, together = [], []

    def slowly(kernel):
        inside.append(kernel)
        together.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return parse(kernel)

    monkeypatch.setattr(triton.runtime.JITFunction, "parse", slowly)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compile_report(toys.add, *POINTERS, 80, BLOCK=16)
    assert len(together) >= 4 and set(together) == {1}


def test_the_filters_of_warnings_are_as_before():
    before = list(warnings.filters)
    compile_report(toys.add, *POINTERS, 48, BLOCK=16)
    assert warnings.filters == before


def test_a_kernel_of_a_notebook_cell_is_shown_with_its_lines():
    file = "/tmp/ipykernel_1/3.py"
    source = Path(toys.__file__).read_text()
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    scope = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), scope)
    report = report_of_add(*POINTERS, 64, kernel=scope["add"])
    line = line_of("tl.store(p_z + i")
    assert "tl.store(p_z + i" in report.source[line]
    assert any("st.global" in text for text in report.made_by(line, "sm_90", "ptx"))


PTX = "mov.b32 $0, $1;"


def kernel_with(line, **names):
    """A kernel of a cell of its own, with one line in the middle."""
    source = f"""import triton
import triton.language as tl
@triton.jit
def odd(p_x, N: tl.constexpr):
    i = tl.arange(0, N)
    b_x = tl.load(p_x + i)
    {line}
    tl.store(p_x + i, b_x)
"""
    file = f"/tmp/ipykernel_1/{abs(hash(line))}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    scope = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), scope)
    return scope["odd"]


def assembly(text):
    return (
        f'b_x = tl.inline_asm_elementwise("{text}", "=r,r", [b_x], '
        "dtype=tl.float32, is_pure=True, pack=1)"
    )


def test_a_target_that_refuses_the_kernel_is_a_row_and_the_others_stay(capfd):
    report = compile_report(kernel_with(assembly(PTX)), "*fp32", N=64)
    assert list(report.targets) == ["sm_80", "sm_90", "sm_100"]
    said = "is PTX, the assembly of NVIDIA's GPUs, which gfx942 does not run"
    assert report.failed == {"gfx942": f"`mov.b32 $0, $1` {said}"}
    assert repr(report).splitlines()[-1].startswith("gfx942  does not compile: `mov.b32")
    assert report.data()[-1]["error"] == report.failed["gfx942"]
    assert "does not compile: `mov.b32" in report._repr_html_()
    with pytest.raises(RuntimeError, match="odd does not compile for gfx942: `mov"):
        report["gfx942"]
    assert capfd.readouterr() == ("", "")


def test_amds_own_assembly_is_no_ptx():
    line = assembly("v_mov_b32 $0, $1").replace("=r,r", "=v,v")
    assert compile_report(kernel_with(line), "*fp32", N=64, targets=("gfx942",))["gfx942"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (assembly("move.b32 $0, $1;"), "Not a name of any known instruction: 'move'"),
        ("b_x = tl.loda(p_x)", "`b_x = tl.loda(p_x)`; AttributeError("),
        ("b_x = tl.dot(b_x, b_x)", "`b_x = tl.dot(b_x, b_x)`; "),
        ("tl.static_assert(N == 3, 'N must be 3')", "N must be 3"),
    ],
)
def test_the_compilers_first_words_are_said_and_its_pages_are_not(line, said, capfd):
    report = compile_report(kernel_with(line), "*fp32", N=64, targets=("sm_80", "sm_90"))
    assert not report.targets and report.data() and report._repr_html_() is None
    for why in report.failed.values():
        assert said in why and "\n" not in why and len(why) < 400 and "ld.param" not in why
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_what_a_print_puts_on_the_stack_is_not_called_spilled(target):
    loud, quiet = (
        compile_report(toys.clamped, "*fp32", "*fp32", 4096, LOUD=l, BLOCK=256, targets=(target,))
        for l in (True, False)
    )
    assert any("__local_depot" in line.text for line in loud[target].stages["ptx"])
    assert loud[target].spills == quiet[target].spills == 0


def test_what_spills_in_a_kernel_that_prints_is_still_counted():
    line = "b_x = b_x / tl.sum(tl.cumsum(b_x, 0), 0) + tl.cumsum(b_x, 0) * tl.max(b_x, 0)"
    silent = kernel_with(line)
    loud = kernel_with(line + "; tl.device_print('x', p_x)")
    a, b = (
        compile_report(k, "*fp32", N=16384, targets=("sm_80",))["sm_80"] for k in (silent, loud)
    )
    assert a.spills > 0 and abs(b.spills - a.spills) <= a.spills / 2
