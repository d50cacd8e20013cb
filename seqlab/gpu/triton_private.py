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
import builtins
import contextlib
import inspect
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from seqlab.gpu import affine, libdevice
from seqlab.gpu.affine import DATA, VARIES
from seqlab.gpu.events import LabError
from seqlab.gpu.formats import FP8, NARROW, narrowed, widened
from seqlab.gpu.joins import parted
from seqlab.gpu.refusals import check_assembly

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


class Configuration(NamedTuple):
    """What an autotuner would try first.

    constants: values of the kernel's parameters. options: num_warps and such. hook: called with all
    arguments before the kernel starts.
    """

    constants: dict[str, Any]
    options: dict[str, Any]
    hook: Callable[[dict], Any] | None
    of: int

    def __str__(self) -> str:
        said = ", ".join(f"{name} = {value}" for name, value in self._all().items())
        return f"{said} (the first of {self.of} configurations)" if self.of > 1 else said

    def _all(self) -> dict[str, Any]:
        return self.constants | self.options


class Unwrapped(NamedTuple):
    """A kernel's Python function, and what its autotuner and its heuristics add to a launch."""

    function: FunctionType
    configuration: Configuration | None
    additions: list[Callable[[dict], dict]]

    def completed(self, args: Sequence, named: dict) -> dict:
        """The arguments passed by name, with those that the wrappers add."""
        names = self.function.__code__.co_varnames
        for add in self.additions:
            named = named | add(dict(zip(names, args, strict=False)) | named)
        return named


def unwrapped(kernel: Any) -> Unwrapped:
    """Looks through autotuners, which add their first configuration, and heuristics."""
    _triton()
    additions, decorated, configuration = [], kernel, None
    while not inspect.isfunction(kernel):
        if not hasattr(kernel, "fn"):
            name = type(decorated).__name__
            raise TypeError(f"kernel is a {name}: pass a function decorated with @triton.jit")
        if hasattr(kernel, "configs"):
            configuration = _first_of(kernel.configs)
            additions.append(partial(_of_config, configuration.constants))
        elif hasattr(kernel, "values"):
            additions.append(partial(_of_heuristics, kernel.values))
        kernel = kernel.fn
    if kernel is decorated:
        raise TypeError(f"{kernel.__name__} is a plain function: decorate it with @triton.jit")
    return Unwrapped(kernel, configuration, additions)


def _first_of(configs: list) -> Configuration:
    first = configs[0]
    names = ("num_warps", "num_stages", "num_ctas", "maxnreg")
    options = {name: getattr(first, name, None) for name in names}
    if options["num_ctas"] == 1:
        del options["num_ctas"]
    options = {name: value for name, value in options.items() if value is not None}
    hook = getattr(first, "pre_hook", None)
    return Configuration(dict(first.kwargs), options, hook, len(configs))


def _of_config(config: dict, known: dict) -> dict:
    return {name: value for name, value in config.items() if name not in known}


def _of_heuristics(rules: dict, known: dict) -> dict:
    found: dict = {}
    for name, rule in rules.items():
        found[name] = rule(known | found)
    return found


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
    _import_all()
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    for name in _USED:
        getattr(interpreter, name)
    for name in _OVERRIDDEN:
        getattr(interpreter.InterpreterBuilder, f"create_{name}")
    language: Any = tl
    module: Any = interpreter
    builder = _builder_class(module, language)
    types = (JITFunction, interpreter.InterpretedFunction)
    return Interpreter(interpreter, language, types, builder)


def _import_all() -> None:
    """Import what Triton would otherwise import in the middle of a run, and keep patched.

    Its compiler keeps the functions that it finds in `triton.language` when it is imported.
    """
    import_module("triton.compiler.code_generator")
    import_module("triton.tools.tensor_descriptor")
    for name in ("backends.nvidia.compiler", "backends.amd.compiler", *_LIBDEVICE):
        with contextlib.suppress(ImportError):  # not in every version
            import_module(f"triton.{name}")


_LIBDEVICE = (
    "language.extra.libdevice",
    "language.extra.cuda.libdevice",
    "language.extra.hip.libdevice",
)

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
    def replaced(self, observer, marks: dict, follow: bool = False):
        """For the time of the block, `triton.language` computes on CPU. Yields a Run.

        observer: gets every access, dot and use of bfloat16. marks: put into the globals of
        rewritten kernels. follow: also tell the observer how accesses depend on the program's id.
        """
        handle = self.module.TensorHandle
        builder = _following_class(self.builder, handle, self.language) if follow else self.builder
        tl = self.language
        places = [tl, tl.core, tl.math, tl.tensor, tl.dtype, self.module, *self.function_types]
        for name in ("condition", "tensor_descriptor_base"):  # not in every version
            if hasattr(tl.core, name):
                places.append(getattr(tl.core, name))
        places += _libdevice_modules()
        before = [(place, dict(vars(place))) for place in places]
        try:
            with _known("interpreter"):
                run = Run(self, builder(observer), marks)
                self._put_in(run)
                run.replacements = _replacements(before)
            yield run
        finally:
            for place, names in before:
                _restore(place, names)

    def _put_in(self, run: "Run") -> None:
        tl, module = self.language, self.module
        module.interpreter_builder = run.builder
        module.interpreter_semantic = module.TritonSemantic(run.builder)
        module._patch_lang(FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core}))
        module._get_np_dtype = _by_name(module._get_np_dtype)
        truth = tl.tensor.__bool__

        def as_index(tensor):
            run.builder.decided(tensor.handle)
            return _as_index(tensor)

        def as_bool(tensor):
            # There "if other" asks whether it was passed, and a scalar 0 would not count.
            if sys._getframe(1).f_globals.get("__name__") == "triton.language.semantic":
                return True
            run.builder.decided(tensor.handle)
            return truth(tensor)

        tl.tensor.__index__ = as_index
        tl.tensor.__bool__ = as_bool

        def call(self, *args, **kwargs):
            return run.rewritten(self.fn)(*args, **kwargs)

        for kind in self.function_types:
            kind.__call__ = call
        for name, member in dict(vars(tl.tensor)).items():
            if isinstance(member, self.function_types):
                setattr(tl.tensor, name, _as_method(member))
        for place in (tl, tl.core):
            for name in ("reduce", "associative_scan"):
                scans = name == "associative_scan"
                setattr(place, name, run.builder.reduction(getattr(place, name), scans))
            place.range = run.loop
            place.static_range = run.unrolled
        for place in _libdevice_modules():
            for name, member in dict(vars(place)).items():
                if inspect.isfunction(member) and not name.startswith("_"):
                    setattr(place, name, run.library(name, member))


def _by_name(numpy_type: Callable) -> Callable:
    """Triton's own search for a numpy type, which makes a table for each question, remembered."""
    known: dict[str, Any] = {}

    def found(kind):
        if kind.name not in known:
            known[kind.name] = numpy_type(kind)
        return known[kind.name]

    return found


def _libdevice_modules() -> list[Any]:
    modules = [sys.modules.get(f"triton.{name}") for name in _LIBDEVICE]
    return [module for module in modules if module is not None]


def _replacements(before: list[tuple[Any, dict]]) -> dict[int, Any]:
    """What now stands in for each function of Triton, by the old one's id.

    A kernel may hold one by another name: `exp = tl.exp`, `from triton.language import load`.
    """
    found = {}
    for place, names in before:
        if inspect.ismodule(place) and "interpreter" not in place.__name__:
            for name, old in names.items():
                if callable(old) and vars(place).get(name) is not old:
                    found[id(old)] = vars(place)[name]
    return found


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
        self.replacements: dict[int, Any] = {}
        self.cuda = dict(vars(sys.modules.get("triton.language.extra.cuda.libdevice", object)))
        self._done: dict[FunctionType, FunctionType] = {}

    def start(self, program: tuple[int, ...], grid: tuple[int, ...]) -> None:
        self.builder.set_grid_dim(*grid, *(1,) * (3 - len(grid)))
        self.builder.set_grid_idx(*program, *(0,) * (3 - len(program)))

    def to_triton(self, value: Any) -> Any:
        """An argument, as the kernel gets it."""
        tl = self.parts.language
        if isinstance(value, bool):
            return tl.tensor(self.builder.get_int1(value), tl.int1)
        if isinstance(value, float):
            return tl.tensor(self.builder.get_fp32(value), tl.float32)
        made = self.parts.module._implicit_cvt(value)
        for part in made if isinstance(made, tuple) else (made,):
            if isinstance(getattr(part, "handle", None), self.parts.module.TensorHandle):
                part.handle.shadow = affine.CONSTANT
        return made

    def loop(self, first, last=None, step=1, **options) -> Iterator[Any]:
        """`range` as a kernel knows it: the loop variable is a number of Triton's."""
        start, stop = (0, first) if last is None else (first, last)
        bounds = [start, stop, 1 if step is None else step]
        types = [bound.dtype for bound in bounds if hasattr(bound, "dtype")]
        tl = self.parts.language
        wide = any(kind.is_int() and kind.primitive_bitwidth == 64 for kind in types)
        kind = tl.int64 if wide else tl.int32
        make = self.builder.get_int64 if wide else self.builder.get_int32
        numbers = (tl.tensor(make(i), kind) for i in range(*map(int, bounds)))
        return self.builder.observer.steps_of(numbers)

    def unrolled(self, first, last=None, step=None, **options) -> Iterator[int]:
        """`tl.static_range`: its variable is a constant."""
        bounds = [first] if last is None else [first, last, 1 if step is None else step]
        return self.builder.observer.steps_of(range(*map(int, bounds)))

    def library(self, name: str, function: Callable) -> Callable:
        """A function of libdevice. The module without a target has stubs: take CUDA's."""
        if function.__module__ == "triton.language.extra.libdevice":
            function = self.cuda.get(name, function)

        def called(*args, **kwargs):
            return function(*args, **kwargs, _semantic=self.parts.module.interpreter_semantic)

        return called

    def extreme(self, name: str) -> Callable:
        """`min` or `max` as a kernel knows it."""
        plain = getattr(builtins, name)
        of_tensors = getattr(self.parts.language, f"{name}imum")

        def chosen(*values):
            several = any(isinstance(value, self.parts.language.tensor) for value in values)
            return of_tensors(*values) if several else plain(*values)

        return chosen

    def rewritten(self, function: FunctionType) -> FunctionType:
        """The kernel as an ordinary function with globals of its own and the same line numbers."""
        if function not in self._done:
            self._done[function] = self._rewrite(function)
        return self._done[function]

    def _rewrite(self, function: FunctionType) -> FunctionType:
        module = self.parts.module
        scope = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
        scope = {name: self.replacements.get(id(value), value) for name, value in scope.items()}
        for name in ("interpreter_semantic", "_InterpreterComparison"):  # rewritten lines call both
            scope[name] = getattr(module, name, None)
        if not function.__module__.startswith("triton."):
            ours = {"range": self.loop, "min": self.extreme("min"), "max": self.extreme("max")}
            scope = ours | scope | self.marks
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
def _builder_class(module: Any, tl: Any) -> Any:
    """Triton's interpreter, with our memory behind its loads and stores, and correct bfloat16.

    Triton keeps bfloat16 numbers as 16-bit integers, computes with those integers, and truncates
    where it should round. Here they are widened to float32 before an operation and rounded after
    it, as on a GPU, and the observer hears of it. So are numbers of eight bits.
    """
    base, handle = module.InterpreterBuilder, module.TensorHandle

    class Builder(base):
        def __init__(self, observer):
            super().__init__()
            self.observer = observer
            self.atomic = False
            # Otherwise it computes each sum of 32-bit integers a second time in 64 bits, for an
            # assertion that it then ignores.
            self.options = replace(self.options, sanitize_overflow=False)

        # Memory: an address says which tensor it belongs to, and becomes one in that tensor's copy.

        def reach(self, kind, ptrs, mask, exchanges=False, stored=None):
            """The real addresses of one access, and which of its lanes may touch them."""
            address = np.ascontiguousarray(ptrs.data, dtype=np.uint64)
            on = np.broadcast_to(np.asarray(mask.data, dtype=bool), address.shape)
            width = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
            kind = "atomic" if self.atomic else kind
            if stored is not None:
                stored = np.broadcast_to(stored, address.shape)
            real, allowed = self.observer.access(kind, address, on, width, exchanges, stored)
            return handle(real, ptrs.dtype), allowed

        def create_masked_load(self, ptrs, mask, other, *args, **kwargs):
            real, allowed = self.reach("load", ptrs, mask)
            if other is None and not np.all(mask.data):
                other = self._undefined(ptrs)
            return super().create_masked_load(real, _flags(allowed, mask), other, *args, **kwargs)

        def _undefined(self, ptrs):
            kind = ptrs.get_element_ty()
            poison = self.observer.undefined(module._get_np_dtype(kind))
            if poison is None:
                return None
            if kind.name in NARROW:
                poison = narrowed(np.asarray(poison, np.float32), kind.name)
            return handle(np.full(ptrs.data.shape, poison, module._get_np_dtype(kind)), kind)

        def create_masked_store(self, ptrs, value, mask, *args, **kwargs):
            real, allowed = self.reach("store", ptrs, mask, stored=value.data)
            return super().create_masked_store(real, value, _flags(allowed, mask), *args, **kwargs)

        def create_barrier(self):
            self.observer.barrier(named=True)

        def create_trans(self, *args):
            self.observer.barrier()
            return super().create_trans(*args)

        def create_reshape(self, *args):
            self.observer.barrier()
            return super().create_reshape(*args)

        def create_histogram(self, *args):
            self.observer.barrier()
            return super().create_histogram(*args)

        def create_gather(self, *args):
            self.observer.barrier()
            return super().create_gather(*args)

        def create_atomic_rmw(self, operation, ptr, val, mask, *args):
            exchanges = "XCHG" in str(operation)
            if _bf16(val) and not exchanges:
                said = "atomic operations on bfloat16 do not run on CPU: use float32"
                raise NotImplementedError(said)
            real, allowed = self.reach("atomic", ptr, mask, exchanges)
            return super().create_atomic_rmw(operation, real, val, _flags(allowed, mask), *args)

        def create_atomic_cas(self, ptr, cmp, val, *args):
            every = handle(np.ones(np.shape(ptr.data), dtype=bool), tl.int1)
            real, _ = self.reach("atomic", ptr, every, True)
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
            self.observer.barrier()
            if _bf16(a) or _bf16(b):
                self.observer.wrong_bf16("a dot")
            *batch, m, k = a.data.shape
            n = b.data.shape[-1]
            minimum = smallest_dot(a.dtype, b.dtype)
            self.observer.dot(m, n, k, int(np.prod(batch)), str(a.dtype), minimum)
            return _like(d, super().create_dot(_wide(a), _wide(b), _wide(d), *args))

        def create_extern_elementwise(self, lib, path, symbol, args, ret_type, is_pure):
            compute = libdevice.function(symbol)
            if compute is None:
                name = libdevice.name_of(symbol)
                raise NotImplementedError(f"libdevice.{name} does not run on CPU: use tl instead")
            kind = ret_type.scalar
            data = compute(*(_wide(x).data for x in args))
            return handle(np.asarray(data).astype(module._get_np_dtype(kind)), kind)

        def create_inline_asm(self, *args):
            raise NotImplementedError("inline assembly does not run on CPU")

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
            if not any(kind.scalar.name in NARROW for kind in (src.dtype, dst_type)):
                return super().create_fp_to_fp(src, dst_type, rounding)
            to_zero = "RTZ" in str(rounding)
            if to_zero and dst_type.scalar.name in FP8:
                return super().create_fp_to_fp(src, dst_type, rounding)
            return self._cast(src, dst_type, super().cast_impl, to_zero)

        def _cast(self, src, dst_type, cast, to_zero=False):
            """From and to narrow numbers by way of float32."""
            old, new = src.dtype.scalar.name, dst_type.scalar.name
            if "bf16" in (old, new) and {old, new} - {"bf16", "fp32"}:
                self.observer.wrong_bf16(f"a conversion from {old} to {new}")
            if new not in NARROW:
                return cast(_wide(src), dst_type)
            wide = cast(_wide(src), tl.float32).data
            return handle(narrowed(wide, new, to_zero), dst_type.scalar)

        def reduction(self, reduction, scans=False):
            """tl.reduce or tl.associative_scan, with bfloat16 widened before and rounded after."""

            def watched(input, *args, **kwargs):
                self.observer.barrier()
                several = isinstance(input, tuple)
                given = input if several else (input,)
                if not any(x.dtype.is_bf16() for x in given):
                    result = reduction(input, *args, **kwargs)
                    if scans:
                        self.joined(given, result, *args, **kwargs)
                    return self.reduced(given, result)
                self.observer.wrong_bf16("a reduction or scan")
                wide = tuple(x.to(tl.float32) if x.dtype.is_bf16() else x for x in given)
                result = reduction(wide, *args, **kwargs)
                if scans:
                    self.joined(wide, result, *args, **kwargs)
                result = tuple(
                    r.to(x.dtype) if x.dtype.is_bf16() else r
                    for x, r in zip(given, result, strict=True)
                )
                return self.reduced(given, result if several else result[0])

            return watched

        def joined(self, given, result, axis, operator, reverse=False, **_):
            """A scan was joined in turn: the observer may ask what a tree of joins gives."""
            join = getattr(operator, "fn", operator)
            if join.__module__.startswith("triton."):
                return  # sums and products, which are computed as such
            in_turn = result if isinstance(result, tuple) else (result,)

            def apart():
                try:
                    made = _joined_in_a_tree(given, int(axis), join, bool(reverse))
                except Exception:  # it takes single elements only
                    return ""
                return parted([x.handle.data for x in in_turn], made)

            self.observer.scan(apart)

        def reduced(self, given, result):
            """A reduction or scan of these gave the result, which is returned."""
            return result

        def decided(self, asked):
            """The kernel took a decision in Python by this number."""

    def _joined_in_a_tree(given, axis, join, reverse):
        """The arrays of a scan in which each element joins runs of 1, 2, 4, … neighbours."""
        arrays = [np.flip(x.handle.data, axis) if reverse else x.handle.data for x in given]
        length = arrays[0].shape[axis]
        place = np.arange(length).reshape([-1 if i == axis else 1 for i in range(arrays[0].ndim)])

        def tensors(arrays):
            pairs = zip(given, arrays, strict=True)
            return [tl.core.tensor(handle(a, x.dtype.scalar), x.type) for x, a in pairs]

        for run in (1 << i for i in range((length - 1).bit_length())):
            earlier = [np.roll(a, run, axis) for a in arrays]
            both = join(*tensors(earlier), *tensors(arrays))
            both = both if isinstance(both, tuple) else (both,)
            both = [np.asarray(x.handle.data if hasattr(x, "handle") else x) for x in both]
            pairs = zip(both, arrays, strict=True)
            arrays = [np.where(place >= run, x, a).astype(a.dtype) for x, a in pairs]
        return [np.flip(a, axis) if reverse else a for a in arrays]

    def _flags(allowed, mask):
        is_handle = hasattr(mask, "dtype") and hasattr(mask, "attr")
        return handle(allowed, mask.dtype) if is_handle else allowed

    def _wide(x):
        kind = _narrow(x)
        return handle(widened(x.data, kind), tl.float32) if kind else x

    def _like(operand, result):
        """The result of widened operands, rounded to the operand's type; a comparison stays."""
        kind = _narrow(operand)
        if not kind:
            return result
        if result.data.dtype == np.bool_:
            return handle(result.data, tl.int1)
        return handle(narrowed(result.data, kind), operand.dtype.scalar)

    return Builder


@cache
def _following_class(base: Any, handle: Any, tl: Any) -> Any:
    """The same, which also follows how numbers depend on the program's id (see `affine.py`)."""

    class Following(base):
        def __init__(self, observer):
            super().__init__(observer)
            self.by_descriptor = False

        def create_load(self, ptr, *args):
            return self.create_masked_load(ptr, _every(ptr), None, *args)

        def create_store(self, ptr, value, *args):
            return self.create_masked_store(ptr, value, _every(ptr), *args)

        def reach(self, kind, ptrs, mask, *args, **kwargs):
            shadow = VARIES if self.by_descriptor else _shadow(ptrs)
            conditions = affine.as_mask(_shadow(mask), np.asarray(mask.data))
            address = ptrs.data.astype(np.int64)
            width = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
            kind = "atomic" if self.atomic else kind
            self.observer.follow(kind, address, width, shadow, conditions, self.by_descriptor)
            return super().reach(kind, ptrs, mask, *args, **kwargs)

        def reduced(self, given, result):
            found = affine.joined([_shadow(x.handle) for x in given])
            for x in result if isinstance(result, tuple) else (result,):
                x.handle.shadow = found
            return result

        def decided(self, asked):
            self.observer.decide(_shadow(asked))

    def _every(ptr):
        every = handle(np.ones_like(ptr.data, dtype=bool), tl.int1)
        every.shadow = affine.CONSTANT
        return every

    for name in dir(base):
        wanted = name.startswith("create_") or re.fullmatch(
            r"get_(u?int|fp|bf)\d+|get_\w+_value", name
        )
        if wanted and name not in vars(Following):
            setattr(Following, name, _followed(name, getattr(base, name), handle))
    return Following


def _followed(name: str, method: Callable, handle: Any) -> Callable:
    """The method, which also notes what its result depends on."""
    by_descriptor = "descriptor_" in name and "make" not in name

    def called(self, *args, **kwargs):
        if by_descriptor:
            self.by_descriptor = True
        try:
            result = method(self, *args, **kwargs)
        finally:
            if by_descriptor:
                self.by_descriptor = False
        for made in result if isinstance(result, tuple) else (result,):
            if isinstance(made, handle):
                made.shadow = _rule(name, args, made, handle)
        return result

    return called


def _shadow(x: Any) -> affine.Shadow:
    return getattr(x, "shadow", VARIES)


def _rule(name: str, args: tuple, made: Any, handle: Any) -> affine.Shadow:
    """What the result of a builder's method depends on."""
    name = name.removeprefix("create_")
    if name.startswith("get_program_id"):
        return affine.Affine({int(args[0]): np.ones(1, dtype=np.int64)})
    if name.startswith("get_") or name == "make_range":
        return affine.CONSTANT
    if "load" in name or "atomic" in name or "gather" in name:
        return DATA
    given = [x for x in args if isinstance(x, handle)]
    shadows = [_shadow(x) for x in given]
    if name in ("add", "sub"):
        return affine.total(shadows[0], shadows[1], 1 if name == "add" else -1)
    if name == "addptr":
        width = max(1, args[0].get_element_ty().primitive_bitwidth // 8)
        return affine.total(shadows[0], affine.scaled(shadows[1], np.asarray(width)))
    pair: tuple[Any, ...] = (*shadows, *(np.asarray(x.data) for x in given))
    if name == "mul":
        return affine.product(*pair)
    if name == "and":
        return affine.both(*pair)
    if name.startswith("icmp"):
        return affine.compared(name.removeprefix("icmp"), *pair)
    if name in ("int_cast", "bitcast"):
        return shadows[0]
    if name in ("splat", "broadcast", "expand_dims", "trans", "reshape"):
        return _moved(name, args, given[0], made)
    return affine.joined(shadows)


def _moved(name: str, args: tuple, given: Any, made: Any) -> affine.Shadow:
    data, shape = np.asarray(given.data), np.shape(made.data)
    moves: dict[str, Callable] = {
        "splat": lambda x: np.broadcast_to(x.reshape(-1)[0], shape),
        "broadcast": lambda x: np.broadcast_to(x, shape),
        "trans": lambda x: np.transpose(x, args[1]),
    }
    return affine.moved(_shadow(given), data.shape, moves.get(name, lambda x: x.reshape(shape)))


def _bf16(x) -> bool:
    return _narrow(x) == "bf16"


def _narrow(x) -> str:
    """The kind of narrow numbers in a handle, or ""."""
    name = x.dtype.scalar.name if hasattr(x, "dtype") else ""
    return name if name in NARROW else ""


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
        if not cuda:
            check_assembly(binary.asm["ttir"], target)
    except Exception as error:
        if "ptxas" in str(error) and "find" in str(error).lower():
            said = f"compiling for {target} needs ptxas, which Triton's Linux wheels contain"
            raise LabError(said) from error
        raise NotCompiled(target) from error
    with _known("compiler"):
        stages = {name: text for name, text in binary.asm.items() if isinstance(text, str)}
        meta = binary.metadata
        if cuda:
            registers, spills = _nvidia_usage(binary.asm["cubin"], stages["ptx"])
        else:
            registers, spills = _amd_usage(stages["amdgcn"])
        return Binary(
            stages=stages,
            warps=meta.num_warps,
            shared=meta.shared,
            tensor_memory=getattr(meta, "tmem_size", 0) or 0,
            registers=registers,
            spills=spills,
        )


class NotCompiled(Exception):
    """A target refused the kernel; its __cause__ says why."""


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
                made = super().make_ir(*args, **kwargs)
            if args[0].backend == "hip":
                check_assembly(str(made), args[0].arch)
            return made

    return Source


def _nvidia_usage(cubin: bytes, ptx: str) -> tuple[int, int]:
    """Registers, and bytes of stack for what was spilled, of a thread.

    A kernel has no arrays of its own, so all that is on the stack was spilled: unless it prints.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = _said_by("cuobjdump", "-res-usage", file.name)
    registers, stack = _number(r"REG:(\d+)", said), _number(r"STACK:(\d+)", said)
    own = [int(n) for n in re.findall(r"__local_depot\d+\[(\d+)\]", ptx)]
    if own or "call.uni" in ptx:
        stack = max(0, stack - sum(own)) if _spill_stores(ptx) else 0
    return registers, stack


def _spill_stores(ptx: str) -> int:
    """Bytes of registers that ptxas stores on the stack, by its own count."""
    architecture = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    if architecture is None:
        raise KeyError(".target")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        chosen = (f"--gpu-name={architecture[1]}", file.name, "-o", os.devnull)
        try:
            said = _said_by("ptxas", "-v", *chosen)
        except subprocess.CalledProcessError:  # PTX newer than this ptxas: there is another
            said = _said_by("ptxas-blackwell", "-v", *chosen)
    return sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))


def _said_by(name: str, *arguments: str) -> str:
    """What one of the tools in Triton's wheel prints."""
    tool = Path(_triton().__file__).parent / "backends" / "nvidia" / "bin" / name
    if not tool.exists():
        raise LabError(
            f"reading registers needs {name}, which Triton's Linux wheels contain: reinstall triton"
        )
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _amd_usage(assembly: str) -> tuple[int, int]:
    registers = _number(r"^; TotalNumVgprs: (\d+)", assembly)
    spills = _number(r"^; ScratchSize: (\d+)", assembly)
    return registers, spills


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise KeyError(pattern)
    return int(found[1])
