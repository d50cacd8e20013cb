"""Everything the lab uses of Triton that Triton does not document: the one file to mend when a new
version moves it.

Made with Triton 3.6 to 3.9; tests/gpu/test_versions.py runs the lab with each. What is missing in
another version is said in one sentence, a LabError. In the first part a kernel is looked into, in
the second it runs on CPU, in the third it is compiled.

The interpreter need not have been chosen by TRITON_INTERPRET=1 when the kernel was decorated: its
source is rewritten here as the interpreter does, into a copy of its globals. `replaced` puts back
all it changed in `triton.language`.
"""

import ast
import contextlib
import inspect
import re
import subprocess
import tempfile
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from seqlab.gpu.events import LabError

FIRST, LAST = (3, 6), (3, 9)


@contextlib.contextmanager
def _known(what: str):
    """Turns a part of Triton that is not where it was into one sentence."""
    triton = _triton()
    try:
        yield
    except (ImportError, AttributeError, TypeError, KeyError) as error:
        raise LabError(
            f"the kernel lab does not know the {what} of Triton {triton.__version__} ({error}): "
            f"it was made with Triton {_name(FIRST)} to {_name(LAST)}, so install one of these"
        ) from error


def _triton():
    try:
        import triton
    except ImportError:
        raise LabError(
            "the kernel lab needs Triton, which is not installed here: on Linux run `pip install triton`; "
            "on macOS and Windows there is no Triton, and the kernel chapters can only be read"
        ) from None
    return triton


def remark() -> str:
    """What to add to an error that a version of Triton may have caused; nothing where the version
    is known.
    """
    version = _triton().__version__
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and FIRST <= tuple(map(int, found.groups())) <= LAST:
        return ""
    return f" (perhaps because of Triton {version}: the lab was made with {_name(FIRST)} to {_name(LAST)})"


def _name(version) -> str:
    return ".".join(map(str, version))


# A kernel looked into.


def unwrapped(kernel) -> tuple[FunctionType, list[Callable[[dict], dict]]]:
    """The kernel's Python function, and what autotuners (their first configuration) and heuristics
    add to arguments.
    """
    _triton()
    additions, decorated = [], kernel
    while not inspect.isfunction(kernel):
        if not hasattr(kernel, "fn"):
            raise TypeError(
                f"kernel is a {type(decorated).__name__}: pass a function decorated with @triton.jit"
            )
        if hasattr(kernel, "configs"):
            first = kernel.configs[0].kwargs
            additions.append(
                lambda known, first=first: {k: v for k, v in first.items() if k not in known}
            )
        elif hasattr(kernel, "values"):
            additions.append(
                lambda known, rules=kernel.values: {
                    name: rule(known) for name, rule in rules.items()
                }
            )
        kernel = kernel.fn
    if kernel is decorated:
        raise TypeError(f"{kernel.__name__} is a plain function: decorate it with @triton.jit")
    return kernel, additions


class Parameter(NamedTuple):
    name: str
    default: Any  # inspect.Parameter.empty where there is none
    constant: bool  # annotated as tl.constexpr
    specialised: bool  # a launch looks whether it is 1, or divisible by 16


def compilable(kernel) -> tuple[Any, FunctionType, list[Parameter]]:
    """What `compiled` takes, found inside autotuners and heuristics, its Python function and its
    parameters.
    """
    with _known("kernels"):
        from triton.runtime.jit import JITFunction
    inner = kernel
    while not isinstance(inner, JITFunction) and hasattr(inner, "fn"):
        inner = inner.fn
    if not isinstance(inner, JITFunction):
        interpreted = "Interpreted" in type(kernel).__name__
        raise LabError(
            "this kernel was decorated while TRITON_INTERPRET was set, so Triton cannot compile it: start without it"
            if interpreted
            else f"compile_report compiles a function decorated with @triton.jit, not a {type(kernel).__name__}"
        )
    with _known("kernels"):
        empty = inspect.Parameter.empty
        parameters = [
            Parameter(
                p.name,
                p.default if p.has_default else empty,
                p.is_constexpr,
                not p.do_not_specialize,
            )
            for p in inner.params
        ]
        return inner, inner.fn, parameters


# A kernel run on CPU.


def interpreter() -> "Interpreter":
    """Raises LabError, one sentence, where Triton is missing or its interpreter is not built as
    this file expects.
    """
    with _known("interpreter"):
        return _interpreter()


def _interpreter():
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    for name in (
        "ASTTransformer",
        "TritonSemantic",
        "_implicit_cvt",
        "_patch_lang",
        "interpreter_semantic",
    ):
        getattr(interpreter, name)
    for name in (
        "masked_load",
        "masked_store",
        "atomic_rmw",
        "atomic_cas",
        "dot",
        "fma",
        "fp_to_fp",
    ):
        getattr(interpreter.InterpreterBuilder, f"create_{name}")
    builder = _builder_class(interpreter.InterpreterBuilder, interpreter.TensorHandle, tl)
    return Interpreter(interpreter, tl, (JITFunction, interpreter.InterpretedFunction), builder)


class Interpreter(NamedTuple):
    """The parts of Triton that are used while a kernel runs, and those that are replaced."""

    module: Any
    language: Any
    function_types: tuple[type, ...]
    builder: type

    @contextlib.contextmanager
    def replaced(self, observer, marks: dict):
        """Make `triton.language` compute with numbers for the time of the block, and tell an
        observer. Yields a Run.

        marks: put into the globals of rewritten kernels.
        """
        tl = self.language
        places = [tl, tl.core, tl.math, tl.tensor, tl.dtype, self.module, *self.function_types]
        places += [
            c
            for name in ("condition", "tensor_descriptor_base")
            if (c := getattr(tl.core, name, None))
        ]
        before = [(place, dict(vars(place))) for place in places]
        try:
            with _known("interpreter"):
                run = Run(self, self.builder(observer), marks)
                self._put_in(run)
            yield run
        finally:
            for place, names in before:
                for name in [name for name in vars(place) if name not in names]:
                    delattr(place, name)
                for name, value in names.items():
                    if vars(place)[name] is not value:
                        setattr(place, name, value)

    def _put_in(self, run: "Run") -> None:
        tl, module = self.language, self.module
        module.interpreter_builder = run.builder
        module.interpreter_semantic = module.TritonSemantic(run.builder)
        module._patch_lang(FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core}))
        tl.tensor.__index__ = lambda self: int(
            np.ravel(self.handle.data)[0]
        )  # numpy 2.4 is strict, old Triton is not
        for kind in self.function_types:
            kind.__call__ = lambda self, *args, **kwargs: run.rewritten(self.fn)(*args, **kwargs)
        for name, member in dict(vars(tl.tensor)).items():
            if isinstance(member, self.function_types):  # x.sum(): as a method, bound to x
                setattr(
                    tl.tensor, name, lambda *args, member=member, **kwargs: member(*args, **kwargs)
                )
        for place in (tl, tl.core):
            for name in ("reduce", "associative_scan"):
                setattr(place, name, run.builder.reduction(getattr(place, name)))


class Run:
    """The interpreter, ready to run programs."""

    def __init__(self, parts: Interpreter, builder, marks: dict):
        self.parts, self.builder, self.marks, self._done = parts, builder, marks, {}

    def start(self, program: tuple[int, ...], grid: tuple[int, ...]) -> None:
        self.builder.set_grid_dim(*grid, *(1,) * (3 - len(grid)))
        self.builder.set_grid_idx(*program, *(0,) * (3 - len(program)))

    def to_triton(self, value):
        """An argument as the kernel sees it."""
        return self.parts.module._implicit_cvt(value)

    def rewritten(self, function: FunctionType) -> FunctionType:
        """The kernel as an ordinary function, in globals of its own; its lines keep their
        numbers.
        """
        if function not in self._done:
            self._done[function] = self._rewrite(function)
        return self._done[function]

    def _rewrite(self, function):
        module = self.parts.module
        scope = function.__globals__ | inspect.getclosurevars(function).nonlocals
        for name in (
            "interpreter_semantic",
            "_InterpreterComparison",
        ):  # what the rewritten lines call
            scope[name] = getattr(module, name, None)
        if not function.__module__.startswith("triton."):
            scope |= self.marks
        exec(_code(function, module.ASTTransformer), scope)
        new = scope[function.__name__]
        new.__defaults__, new.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
        return new


@lru_cache(256)
def _code(function, transformer):
    """The kernel's source, rewritten for the interpreter and compiled: the same on every run."""
    source, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(source)))
    tree.body[0].decorator_list = []
    ast.increment_lineno(tree, first - 1)
    tree = ast.fix_missing_locations(transformer().visit(tree))
    return compile(tree, function.__code__.co_filename, "exec")


@cache
def _builder_class(base, handle, tl):
    """Triton's interpreter with our memory behind its loads and stores, and with right bfloat16.

    Triton keeps bfloat16 numbers as 16-bit integers, computes with these, and cuts off where it
    should round. Here they are widened to float32 before an operation and rounded after it, as on a
    GPU; the observer is told.
    """

    class Builder(base):
        def __init__(self, observer):
            super().__init__()
            self.observer, self.atomic = observer, False
            # It would compute each sum of 32-bit integers again in 64, for an assertion that it
            # then passes over.
            self.options = replace(self.options, sanitize_overflow=False)

        # Memory: from addresses that say which argument they belong to, to those of the copies.

        def reach(self, kind, ptrs, mask, exchanges=False):
            """The lanes of one access: (addresses of real memory, which lanes may touch it)."""
            address = np.ascontiguousarray(ptrs.data, dtype=np.uint64)
            on = np.broadcast_to(np.asarray(mask, dtype=bool), address.shape)
            width = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
            kind = "atomic" if self.atomic else kind
            real, allowed = self.observer.access(kind, address, on, width, exchanges)
            return handle(real, ptrs.dtype), allowed

        def create_masked_load(self, ptrs, mask, other, *args, **kwargs):
            real, allowed = self.reach("load", ptrs, mask.data)
            return super().create_masked_load(real, _flags(allowed, mask), other, *args, **kwargs)

        def create_masked_store(self, ptrs, value, mask, *args, **kwargs):
            real, allowed = self.reach("store", ptrs, mask.data)
            return super().create_masked_store(real, value, _flags(allowed, mask), *args, **kwargs)

        def create_atomic_rmw(self, operation, ptr, val, mask, *args):
            exchanges = "XCHG" in str(operation)
            if _bf16(val) and not exchanges:
                raise NotImplementedError(
                    "atomic operations on bfloat16 do not run on CPU: use float32"
                )
            real, allowed = self.reach("atomic", ptr, mask.data, exchanges)
            return super().create_atomic_rmw(operation, real, val, _flags(allowed, mask), *args)

        def create_atomic_cas(self, ptr, cmp, val, *args):
            real, _ = self.reach("atomic", ptr, np.ones(np.shape(ptr.data), dtype=bool), True)
            return super().create_atomic_cas(real, cmp, val, *args)

        def create_atomic_load(self, *args):
            with self._atomically():
                return super().create_atomic_load(*args)

        def create_atomic_store(self, *args):
            with self._atomically():
                return super().create_atomic_store(*args)

        def create_atomic_poll(self, *args):
            with self._atomically():
                return super().create_atomic_poll(*args)

        @contextlib.contextmanager
        def _atomically(self):
            self.atomic = True
            try:
                yield
            finally:
                self.atomic = False

        # Arithmetic: dots are counted, bfloat16 is widened and rounded.

        def create_dot(self, a, b, d, *args):
            if _bf16(a) or _bf16(b):
                self.observer.wrong_bf16("a dot")
            (*batch, m, k), n = a.data.shape, b.data.shape[-1]
            self.observer.dot(
                m, n, k, int(np.prod(batch)), str(a.dtype), smallest_dot(a.dtype, b.dtype)
            )
            return _like(d, super().create_dot(_wide(a), _wide(b), _wide(d), *args))

        def binary_op(self, lhs, rhs, op):
            if _bf16(lhs) and op not in (np.equal, np.not_equal):
                self.observer.wrong_bf16(f"'{op.__name__}'")
            return _like(lhs, super().binary_op(_wide(lhs), _wide(rhs), op))

        def unary_op(self, arg, op):
            if _bf16(arg):
                self.observer.wrong_bf16(f"'{op.__name__}'")
            return _like(arg, super().unary_op(_wide(arg), op))

        def ternary_op(self, lhs, rhs, other, op):
            if op is np.where:
                return super().ternary_op(lhs, rhs, other, op)
            if _bf16(other):
                self.observer.wrong_bf16(f"'{op.__name__}'")
            return _like(other, super().ternary_op(_wide(lhs), _wide(rhs), _wide(other), op))

        def create_fma(self, x, y, z):
            if _bf16(z):
                self.observer.wrong_bf16("'fma'")
            return _like(z, super().create_fma(_wide(x), _wide(y), _wide(z)))

        def get_bf16(self, value):
            return self.cast_impl(self.get_fp32(value), tl.bfloat16)

        def cast_impl(self, src, dst_type):
            return self._cast(src, dst_type, super().cast_impl)

        def create_fp_to_fp(self, src, dst_type, rounding):
            kinds = src.dtype.scalar, dst_type.scalar
            if not any(kind.is_bf16() for kind in kinds):
                return super().create_fp_to_fp(src, dst_type, rounding)
            eight_bits = any(kind.primitive_bitwidth == 8 for kind in kinds)
            convert = super().create_fp_to_fp
            cast = (lambda x, to: convert(x, to, rounding)) if eight_bits else super().cast_impl
            return self._cast(src, dst_type, cast, to_zero="RTZ" in str(rounding))

        def _cast(self, src, dst_type, cast, to_zero=False):
            """From and to bfloat16 by way of float32."""
            kinds = {str(src.dtype.scalar), str(dst_type.scalar)}
            if "bf16" in kinds and not kinds <= {"bf16", "fp32"}:
                self.observer.wrong_bf16(
                    f"a conversion from {src.dtype.scalar} to {dst_type.scalar}"
                )
            if str(dst_type.scalar) != "bf16":
                return cast(_wide(src), dst_type)
            return handle(to_bf16(cast(_wide(src), tl.float32).data, to_zero), tl.bfloat16)

        def reduction(self, reduction):
            """tl.reduce or tl.associative_scan: bfloat16 is widened before all of it, and rounded
            once, after it.
            """

            def watched(input, *args, **kwargs):
                several = isinstance(input, tuple)
                given = input if several else (input,)
                if not any(x.dtype.is_bf16() for x in given):
                    return reduction(input, *args, **kwargs)
                self.observer.wrong_bf16("a reduction or scan")
                wide = tuple(x.to(tl.float32) if x.dtype.is_bf16() else x for x in given)
                result = reduction(wide, *args, **kwargs)
                result = tuple(
                    r.to(x.dtype) if x.dtype.is_bf16() else r
                    for x, r in zip(given, result, strict=True)
                )
                return result if several else result[0]

            return watched

    def _flags(allowed, mask):
        return (
            handle(allowed, mask.dtype)
            if hasattr(mask, "dtype") and hasattr(mask, "attr")
            else allowed
        )

    def _wide(x):
        return handle(from_bf16(x.data), tl.float32) if _bf16(x) else x

    def _like(operand, result):
        """The result of widened operands, as narrow as the operand was, unless it is the truth of a
        comparison.
        """
        if not _bf16(operand):
            return result
        is_truth = result.data.dtype == np.bool_
        return (
            handle(result.data, tl.int1) if is_truth else handle(to_bf16(result.data), tl.bfloat16)
        )

    return Builder


def _bf16(x) -> bool:
    return hasattr(x, "dtype") and x.dtype.scalar.is_bf16()


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(x: np.ndarray, to_zero: bool = False) -> np.ndarray:
    """The bits of float32 numbers rounded to bfloat16: to the nearest, and from the middle to the
    even one.
    """
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits if to_zero else bits + (0x7FFF + (bits >> 16 & 1))
    return np.where(np.isnan(x), 0x7FC0, rounded >> 16).astype(np.uint16)


def smallest_dot(lhs, rhs) -> tuple[int, int, int]:
    """The least m, n and k that Triton's compiler takes for NVIDIA GPUs, by its own rule; 16 each
    if that moved.
    """
    try:
        from triton.backends.compiler import GPUTarget
        from triton.backends.nvidia.compiler import min_dot_size

        return tuple(min_dot_size(GPUTarget("cuda", 90, 32))(lhs, rhs))
    except (ImportError, TypeError, AssertionError):
        return 16, 16, 16


# A kernel compiled.


class Binary(NamedTuple):
    """What the compiler made. spills: bytes of stack a thread needs; tensor_memory: columns of a
    block (sm_100).
    """

    stages: dict[str, str]
    warps: int
    shared: int
    tensor_memory: int
    registers: int
    spills: int


def compiled(
    kernel, target: str, signature: dict, constants: dict, attributes: dict, options: dict
) -> Binary:
    """kernel: from `compilable`. attributes: (number of a parameter,) -> what is known of its
    value.
    """
    with _known("compiler"):
        triton, cuda = _triton(), target.startswith("sm_")
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        chip = GPUTarget("cuda", int(target[3:]), 32) if cuda else GPUTarget("hip", target, 64)
        source = _one_at_a_time(ASTSource)(kernel, signature, constants, attributes)
    try:
        binary = triton.compile(source, target=chip, options=options)
    except RuntimeError as error:
        if "ptxas" in str(error) and "find" in str(error).lower():
            raise LabError(
                f"compiling for {target} needs ptxas, which Triton's Linux wheels contain"
            ) from error
        raise
    with _known("compiler"):
        stages = {name: text for name, text in binary.asm.items() if isinstance(text, str)}
        meta = binary.metadata
        usage = _nvidia_usage(binary.asm["cubin"]) if cuda else _amd_usage(stages["amdgcn"])
        return Binary(
            stages, meta.num_warps, meta.shared, getattr(meta, "tmem_size", 0) or 0, *usage
        )


@cache
def _one_at_a_time(base):
    """A source of which only one is read at a time: Python 3.11 cannot parse in two threads. All
    after that may.
    """
    reading = threading.Lock()

    class Source(base):
        def hash(self):
            with reading:
                return super().hash()

        def make_ir(self, *args, **kwargs):
            with reading:
                return super().make_ir(*args, **kwargs)

    return Source


def _nvidia_usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread. A Triton kernel has no arrays of its own: what is
    there was spilled.
    """
    tool = Path(_triton().__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        raise LabError(
            "reading registers needs cuobjdump, which Triton's Linux wheels contain: reinstall triton"
        )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return int(re.search(r"REG:(\d+)", said)[1]), int(re.search(r"STACK:(\d+)", said)[1])


def _amd_usage(assembly: str) -> tuple[int, int]:
    registers, spills = (
        int(re.search(rf"^; {name}: (\d+)", assembly, re.M)[1])
        for name in ("TotalNumVgprs", "ScratchSize")
    )
    return registers, spills
