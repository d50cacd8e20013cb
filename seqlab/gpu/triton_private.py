"""Everything the lab uses of Triton that Triton does not document, in one file.

It is the file to mend when a new version moves something. It knows Triton 3.6 to 3.9;
tests/gpu/test_versions.py runs the lab with each. If another version lacks a part, a LabError says
so in one sentence. The first part of the file looks into a kernel, the second runs it on CPU, the
third compiles it.

The interpreter need not have been chosen by TRITON_INTERPRET=1 when the kernel was decorated: the
kernel's source is rewritten here, as the interpreter does it, into a copy of its globals.
`replaced` restores everything it changed in `triton.language`.
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
from functools import cache, lru_cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from seqlab.gpu.events import LabError

FIRST, LAST = (3, 6), (3, 9)


@contextlib.contextmanager
def _known(what: str):
    """Turns the error of a part of Triton that has moved into one sentence."""
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
            "the kernel lab needs Triton, which is not installed here: "
            "on Linux run `pip install triton`; on macOS and Windows there is no Triton, "
            "and the kernel chapters can only be read"
        ) from None
    return triton


def remark() -> str:
    """What to add to an error that this version of Triton may have caused; "" for a known one."""
    version = _triton().__version__
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and FIRST <= tuple(map(int, found.groups())) <= LAST:
        return ""
    return (
        f" (perhaps because of Triton {version}: "
        f"the lab was made with {_name(FIRST)} to {_name(LAST)})"
    )


def _name(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# Looking into a kernel.


def unwrapped(kernel: Any) -> tuple[FunctionType, list[Callable[[dict], dict]]]:
    """The kernel's Python function, and what wraps it: functions from arguments to more of them.

    These are autotuners, which add their first configuration, and heuristics.
    """
    _triton()
    additions, decorated = [], kernel
    while not inspect.isfunction(kernel):
        if not hasattr(kernel, "fn"):
            name = type(decorated).__name__
            raise TypeError(f"kernel is a {name}: pass a function decorated with @triton.jit")
        if hasattr(kernel, "configs"):
            additions.append(partial(_of_config, kernel.configs[0].kwargs))
        elif hasattr(kernel, "values"):
            additions.append(partial(_of_heuristics, kernel.values))
        kernel = kernel.fn
    if kernel is decorated:
        raise TypeError(f"{kernel.__name__} is a plain function: decorate it with @triton.jit")
    return kernel, additions


def _of_config(config: dict, known: dict) -> dict:
    return {name: value for name, value in config.items() if name not in known}


def _of_heuristics(rules: dict, known: dict) -> dict:
    return {name: rule(known) for name, rule in rules.items()}


class Parameter(NamedTuple):
    """A parameter of a kernel.

    default: inspect.Parameter.empty if there is none. constant: annotated as tl.constexpr.
    specialised: a launch checks whether the value is 1, or divisible by 16.
    """

    name: str
    default: Any
    constant: bool
    specialised: bool


def compilable(kernel: Any) -> tuple[Any, FunctionType, list[Parameter]]:
    """What `compiled` takes, its Python function and its parameters.

    It is found inside any autotuners and heuristics.
    """
    with _known("kernels"):
        from triton.runtime.jit import JITFunction
    inner = kernel
    while not isinstance(inner, JITFunction) and hasattr(inner, "fn"):
        inner = inner.fn
    if not isinstance(inner, JITFunction):
        raise LabError(_says_not_compilable(type(kernel).__name__))
    with _known("kernels"):
        parameters = [
            Parameter(
                name=p.name,
                default=p.default if p.has_default else inspect.Parameter.empty,
                constant=p.is_constexpr,
                specialised=not p.do_not_specialize,
            )
            for p in inner.params
        ]
        return inner, inner.fn, parameters


def _says_not_compilable(kind: str) -> str:
    if "Interpreted" in kind:
        return (
            "this kernel was decorated while TRITON_INTERPRET was set, "
            "so Triton cannot compile it: start without it"
        )
    return f"compile_report compiles a function decorated with @triton.jit, not a {kind}"


# Running a kernel on CPU.


def interpreter() -> "Interpreter":
    """Triton's interpreter.

    Raises LabError, with one sentence, if Triton is missing or its interpreter has changed.
    """
    with _known("interpreter"):
        return _interpreter()


def _interpreter() -> "Interpreter":
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    for name in _USED:
        getattr(interpreter, name)
    for name in _OVERRIDDEN:
        getattr(interpreter.InterpreterBuilder, f"create_{name}")
    language: Any = tl
    builder = _builder_class(interpreter.InterpreterBuilder, interpreter.TensorHandle, language)
    types = (JITFunction, interpreter.InterpretedFunction)
    return Interpreter(interpreter, language, types, builder)


_USED = (
    "ASTTransformer",
    "TritonSemantic",
    "_implicit_cvt",
    "_patch_lang",
    "interpreter_semantic",
)
_OVERRIDDEN = (
    "masked_load",
    "masked_store",
    "atomic_rmw",
    "atomic_cas",
    "dot",
    "fma",
    "fp_to_fp",
)


class Interpreter(NamedTuple):
    """The parts of Triton that a run uses and replaces."""

    module: Any
    language: Any
    function_types: tuple[type, ...]
    builder: type

    @contextlib.contextmanager
    def replaced(self, observer, marks: dict):
        """For the time of the block, `triton.language` computes on CPU. Yields a Run.

        observer: gets every access, dot and use of bfloat16. marks: put into the globals of
        rewritten kernels.
        """
        tl = self.language
        places = [tl, tl.core, tl.math, tl.tensor, tl.dtype, self.module, *self.function_types]
        for name in ("condition", "tensor_descriptor_base"):  # not in every version
            if hasattr(tl.core, name):
                places.append(getattr(tl.core, name))
        before = [(place, dict(vars(place))) for place in places]
        try:
            with _known("interpreter"):
                run = Run(self, self.builder(observer), marks)
                self._put_in(run)
            yield run
        finally:
            for place, names in before:
                _restore(place, names)

    def _put_in(self, run: "Run") -> None:
        tl, module = self.language, self.module
        module.interpreter_builder = run.builder
        module.interpreter_semantic = module.TritonSemantic(run.builder)
        module._patch_lang(FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core}))
        tl.tensor.__index__ = _as_index

        def call(self, *args, **kwargs):
            return run.rewritten(self.fn)(*args, **kwargs)

        for kind in self.function_types:
            kind.__call__ = call
        for name, member in dict(vars(tl.tensor)).items():
            if isinstance(member, self.function_types):
                setattr(tl.tensor, name, _as_method(member))
        for place in (tl, tl.core):
            for name in ("reduce", "associative_scan"):
                setattr(place, name, run.builder.reduction(getattr(place, name)))


def _restore(place: Any, names: dict) -> None:
    """Make the attributes of a module or class what they were."""
    for name in [name for name in vars(place) if name not in names]:
        delattr(place, name)
    for name, value in names.items():
        if vars(place)[name] is not value:
            setattr(place, name, value)


def _as_index(tensor: Any) -> int:
    """A tensor of one element as an int: numpy 2.4 insists on a scalar, older Tritons do not."""
    return int(np.ravel(tensor.handle.data)[0])


def _as_method(function: Callable) -> Callable:
    """A plain function, which as a class attribute is bound to its tensor: x.sum()."""
    return lambda *args, **kwargs: function(*args, **kwargs)


class Run:
    """The interpreter, ready to run programs."""

    def __init__(self, parts: Interpreter, builder, marks: dict):
        self.parts = parts
        self.builder = builder
        self.marks = marks
        self._done: dict[FunctionType, FunctionType] = {}

    def start(self, program: tuple[int, ...], grid: tuple[int, ...]) -> None:
        self.builder.set_grid_dim(*grid, *(1,) * (3 - len(grid)))
        self.builder.set_grid_idx(*program, *(0,) * (3 - len(program)))

    def to_triton(self, value: Any) -> Any:
        """An argument, as the kernel gets it."""
        return self.parts.module._implicit_cvt(value)

    def rewritten(self, function: FunctionType) -> FunctionType:
        """The kernel as an ordinary function with globals of its own and the same line numbers."""
        if function not in self._done:
            self._done[function] = self._rewrite(function)
        return self._done[function]

    def _rewrite(self, function: FunctionType) -> FunctionType:
        module = self.parts.module
        scope = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
        for name in ("interpreter_semantic", "_InterpreterComparison"):  # rewritten lines call both
            scope[name] = getattr(module, name, None)
        if not function.__module__.startswith("triton."):
            scope |= self.marks
        exec(_code(function, module.ASTTransformer), scope)
        new = scope[function.__name__]
        new.__defaults__ = function.__defaults__
        new.__kwdefaults__ = function.__kwdefaults__
        return new


@lru_cache(256)
def _code(function: FunctionType, transformer: Callable):
    """The kernel's source, rewritten for the interpreter and compiled: the same for every run."""
    source, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(source)))
    kernel: Any = tree.body[0]
    kernel.decorator_list = []
    ast.increment_lineno(tree, first - 1)
    tree = ast.fix_missing_locations(transformer().visit(tree))
    return compile(tree, function.__code__.co_filename, "exec")


@cache
def _builder_class(base: Any, handle: Any, tl: Any) -> Any:
    """Triton's interpreter, with our memory behind its loads and stores, and correct bfloat16.

    Triton keeps bfloat16 numbers as 16-bit integers, computes with those integers, and truncates
    where it should round. Here they are widened to float32 before an operation and rounded after
    it, as on a GPU, and the observer hears of it.
    """

    class Builder(base):
        def __init__(self, observer):
            super().__init__()
            self.observer = observer
            self.atomic = False
            # Otherwise it computes each sum of 32-bit integers a second time in 64 bits, for an
            # assertion that it then ignores.
            self.options = replace(self.options, sanitize_overflow=False)

        # Memory: an address says which tensor it belongs to, and becomes one in that tensor's copy.

        def reach(self, kind, ptrs, mask, exchanges=False):
            """The real addresses of one access, and which of its lanes may touch them."""
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
                said = "atomic operations on bfloat16 do not run on CPU: use float32"
                raise NotImplementedError(said)
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
            *batch, m, k = a.data.shape
            n = b.data.shape[-1]
            minimum = smallest_dot(a.dtype, b.dtype)
            self.observer.dot(m, n, k, int(np.prod(batch)), str(a.dtype), minimum)
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
            convert = super().create_fp_to_fp
            kinds = src.dtype.scalar, dst_type.scalar
            if not any(kind.is_bf16() for kind in kinds):
                return convert(src, dst_type, rounding)

            def convert_eight_bits(x, to):
                return convert(x, to, rounding)

            eight_bits = any(kind.primitive_bitwidth == 8 for kind in kinds)
            cast = convert_eight_bits if eight_bits else super().cast_impl
            return self._cast(src, dst_type, cast, to_zero="RTZ" in str(rounding))

        def _cast(self, src, dst_type, cast, to_zero=False):
            """From and to bfloat16 by way of float32."""
            old, new = str(src.dtype.scalar), str(dst_type.scalar)
            if "bf16" in (old, new) and {old, new} - {"bf16", "fp32"}:
                self.observer.wrong_bf16(f"a conversion from {old} to {new}")
            if new != "bf16":
                return cast(_wide(src), dst_type)
            return handle(to_bf16(cast(_wide(src), tl.float32).data, to_zero), tl.bfloat16)

        def reduction(self, reduction):
            """tl.reduce or tl.associative_scan, with bfloat16 widened before and rounded after."""

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
        is_handle = hasattr(mask, "dtype") and hasattr(mask, "attr")
        return handle(allowed, mask.dtype) if is_handle else allowed

    def _wide(x):
        return handle(from_bf16(x.data), tl.float32) if _bf16(x) else x

    def _like(operand, result):
        """The result of widened operands, rounded to the operand's type; a comparison stays."""
        if not _bf16(operand):
            return result
        if result.data.dtype == np.bool_:
            return handle(result.data, tl.int1)
        return handle(to_bf16(result.data), tl.bfloat16)

    return Builder


def _bf16(x) -> bool:
    return hasattr(x, "dtype") and x.dtype.scalar.is_bf16()


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(x: np.ndarray, to_zero: bool = False) -> np.ndarray:
    """The bits of float32 numbers rounded to the nearest bfloat16, ties to even."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits if to_zero else bits + (0x7FFF + (bits >> 16 & 1))
    return np.where(np.isnan(x), 0x7FC0, rounded >> 16).astype(np.uint16)


def smallest_dot(lhs: Any, rhs: Any) -> tuple[int, int, int]:
    """The least m, n and k that Triton's compiler accepts for NVIDIA GPUs, by its own rule.

    If that rule has moved, 16 each.
    """
    try:
        from triton.backends.compiler import GPUTarget
        from triton.backends.nvidia.compiler import min_dot_size

        m, n, k = min_dot_size(GPUTarget("cuda", 90, 32))(lhs, rhs)
        return m, n, k
    except (ImportError, TypeError, AssertionError):
        return 16, 16, 16


# Compiling a kernel.


class Binary(NamedTuple):
    """What the compiler made.

    spills: bytes of stack that a thread needs. tensor_memory: columns that a block needs (sm_100).
    """

    stages: dict[str, str]
    warps: int
    shared: int
    tensor_memory: int
    registers: int
    spills: int


def compiled(
    kernel: Any, target: str, signature: dict, constants: dict, attributes: dict, options: dict
) -> Binary:
    """kernel: from `compilable`. attributes: (index of a parameter,) -> facts about its value."""
    triton = _triton()
    cuda = target.startswith("sm_")
    with _known("compiler"):
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        chip = GPUTarget("cuda", int(target[3:]), 32) if cuda else GPUTarget("hip", target, 64)
        source = _one_at_a_time(ASTSource)(kernel, signature, constants, attributes)
    try:
        binary = triton.compile(source, target=chip, options=options)
    except RuntimeError as error:
        if "ptxas" in str(error) and "find" in str(error).lower():
            said = f"compiling for {target} needs ptxas, which Triton's Linux wheels contain"
            raise LabError(said) from error
        raise
    with _known("compiler"):
        stages = {name: text for name, text in binary.asm.items() if isinstance(text, str)}
        meta = binary.metadata
        usage = _nvidia_usage(binary.asm["cubin"]) if cuda else _amd_usage(stages["amdgcn"])
        registers, spills = usage
        return Binary(
            stages=stages,
            warps=meta.num_warps,
            shared=meta.shared,
            tensor_memory=getattr(meta, "tmem_size", 0) or 0,
            registers=registers,
            spills=spills,
        )


@cache
def _one_at_a_time(base):
    """A source that is parsed under a lock: Python 3.11 cannot parse in two threads.

    The stages after that run in parallel.
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
    """Registers and bytes of stack of a thread.

    A Triton kernel has no arrays of its own, so all that is on the stack was spilled.
    """
    tool = Path(_triton().__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        raise LabError(
            "reading registers needs cuobjdump, which Triton's Linux wheels contain: "
            "reinstall triton"
        )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _number(r"REG:(\d+)", said), _number(r"STACK:(\d+)", said)


def _amd_usage(assembly: str) -> tuple[int, int]:
    registers = _number(r"^; TotalNumVgprs: (\d+)", assembly)
    spills = _number(r"^; ScratchSize: (\d+)", assembly)
    return registers, spills


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise KeyError(pattern)
    return int(found[1])
