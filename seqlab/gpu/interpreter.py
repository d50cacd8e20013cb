"""Run a `@triton.jit` kernel on CPU and watch it: the one file that touches the private parts of Triton's interpreter.

Every tensor argument is copied and given a window of addresses that exist only here. So each address a kernel forms
still says which argument it came from, an access outside that argument is known before any memory is touched, and the
caller's tensors stay as they were until `Launch.write_back`.

The kernel need not have been decorated under TRITON_INTERPRET=1: its source is rewritten here as the interpreter does,
into a copy of its globals. What must be replaced in `triton.language` for the time of a run is put back afterwards,
also after an exception. bfloat16 arithmetic is as wrong here as in Triton's interpreter (see `sanitize`); pointers that
a kernel keeps in memory, inline assembly and libdevice do not run.
"""

import ast
import contextlib
import inspect
import linecache
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import FunctionType

import numpy as np
import torch

from seqlab.gpu.events import Access, Argument, Dot, LabError, Line, Watcher, program_name

WINDOW = 44  # bits of address in each argument's window: 8 TiB to either side of its first element
MARK = "__a_kernel_of_the_reader__"  # in the globals of rewritten kernels, so that their frames are found on the stack
OPTIONS = {"num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion", "launch_pdl"}
OPTIONS |= {"launch_cooperative_grid", "waves_per_eu", "matrix_instr_nonkdim", "kpack", "debug"}
"""What a launch may name besides the kernel's parameters: they tune a GPU and mean nothing here."""


def launch(kernel, grid, *args, **constexprs) -> None:
    """`kernel[grid](*args, **constexprs)`: on a GPU where a tensor is there, else in the interpreter on CPU."""
    devices = {x.device.type for x in (*args, *constexprs.values()) if isinstance(x, torch.Tensor)}
    if devices - {"cpu", "meta"}:
        kernel[grid](*args, **constexprs)
        return
    run = Launch(kernel, grid, args, constexprs)
    run.run()
    run.write_back()


class Launch:
    """A kernel with its grid and copies of its arguments, ready to be run on CPU, once."""

    def __init__(self, kernel, grid, args: Sequence, constexprs: dict):
        self.private = private_parts()
        self.function, self.values = bind(kernel, args, constexprs)
        self.grid = _grid(grid, self.values)
        self.arguments: dict[str, Argument] = {}
        self._memories: dict[int, tuple] = {}  # of each storage: its number, the caller's, its copy
        self._given = {name: self._copied(name, value) for name, value in self.values.items()}
        self._builder = None

    def run(self, watcher: Watcher | None = None, order: Callable[[list], Iterable] = list) -> None:
        """Run the programs one after the other, in the given order of their ids."""
        programs = list(np.ndindex(self.grid))
        builder = self._builder = self.private.builder(self, watcher or Watcher())
        builder.set_grid_dim(*self.grid, *(1,) * (3 - len(self.grid)))
        with _ONE_AT_A_TIME, replaced(self.private, builder) as interpreted, _as_quiet_as_a_gpu():
            body = interpreted(self.function)
            fixed = _constexprs(self.function)
            named = {n: v if n in fixed else self.private.to_triton(v) for n, v in self._given.items()}
            for program in order(programs):
                builder.start(tuple(int(i) for i in program))
                _call(body, named, builder.program)

    def write_back(self) -> None:
        """Put what the kernel wrote into the caller's tensors."""
        for number, theirs, ours in self._memories.values():
            if number in self._builder.stored:
                theirs.copy_(ours)

    def _copied(self, name, value):
        if isinstance(value, torch.Tensor):
            return self._window(name, value)
        if isinstance(value, tuple):
            parts = [self._copied(f"{name}[{i}]", part) for i, part in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if hasattr(value, "block_shape") and isinstance(getattr(value, "base", None), torch.Tensor):
            descriptor = {key: getattr(value, key) for key in value.__dataclass_fields__}
            return type(value)(**descriptor | {"base": self._window(name, value.base)})
        return value

    def _window(self, name, tensor):
        """A pointer into a window of addresses of its own, behind which a copy of the tensor's storage stands."""
        if tensor.device.type == "meta":
            raise ValueError(f"{name} is a meta tensor, which holds no numbers: pass one on CPU")
        theirs = tensor.untyped_storage()
        if theirs.data_ptr() not in self._memories:
            ours = theirs.cpu() if theirs.device.type != "cpu" else theirs.clone()
            self._memories[theirs.data_ptr()] = (len(self._memories), theirs, ours)
        number, _, ours = self._memories[theirs.data_ptr()]
        copy = torch.empty(0, dtype=tensor.dtype)
        copy.set_(ours, tensor.storage_offset(), tensor.shape, tensor.stride())
        start = tensor.storage_offset() * tensor.dtype.itemsize
        argument = Argument(name, tuple(tensor.shape), tensor.stride(), tensor.dtype, number, start, copy)
        self.arguments[name] = argument
        window = len(self.arguments)
        return _Pointer(tensor.dtype, (window << WINDOW) + (1 << (WINDOW - 1)) + start % 256)


class _Pointer:
    """Stands for a tensor where Triton asks for its address and type."""

    def __init__(self, dtype, address):
        self.dtype, self.address = dtype, address

    def data_ptr(self):
        return self.address


def bind(kernel, args: Sequence, constexprs: dict) -> tuple[FunctionType, dict]:
    """The kernel's Python function and the value of each parameter; of an autotuned kernel, the first configuration."""
    layers = [kernel]
    while not inspect.isfunction(layers[-1]):
        if not hasattr(layers[-1], "fn"):
            raise TypeError(f"kernel is a {type(kernel).__name__}: pass a function decorated with @triton.jit")
        layers.append(layers[-1].fn)
    if len(layers) == 1:
        raise TypeError(f"{kernel.__name__} is a plain function: decorate it with @triton.jit")
    function = layers[-1]
    signature = inspect.signature(function)
    named = {name: value for name, value in constexprs.items() if name in signature.parameters}
    if unknown := set(constexprs) - set(named) - OPTIONS:
        raise TypeError(f"{function.__name__} has no parameter {', '.join(sorted(unknown))}")
    for layer in layers[:-2]:
        known = dict(zip(signature.parameters, args, strict=False)) | named
        if hasattr(layer, "configs"):
            named |= {k: v for k, v in layer.configs[0].kwargs.items() if k not in known}
        elif hasattr(layer, "values"):
            named |= {k: value(known) for k, value in layer.values.items()}
    try:
        bound = signature.bind(*args, **named)
    except TypeError as error:
        raise TypeError(f"{function.__name__}: {error}") from None
    bound.apply_defaults()
    return function, dict(bound.arguments)


def _constexprs(function) -> set[str]:
    """The parameters that are fixed when the kernel is compiled: the kernel gets their plain values."""
    return {name for name, kind in inspect.get_annotations(function).items() if "constexpr" in str(kind)}


def _grid(grid, values) -> tuple[int, ...]:
    grid = grid(values) if callable(grid) else grid
    grid = tuple(grid) if isinstance(grid, Iterable) else (grid,)
    if not 1 <= len(grid) <= 3 or not all(int(n) == n and n >= 0 for n in grid):
        raise ValueError(f"grid is {grid}: it must be one to three whole numbers, or a function that returns them")
    return tuple(int(n) for n in grid)


def _call(body, named, program):
    try:
        body(**named)
    except LabError:
        raise
    except Exception as error:
        line = _line_of_traceback(error.__traceback__)
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise LabError(f"{program_name(program)} stopped at {line}: {said}") from error


# The source line a kernel is at.


def current_line() -> Line:
    frame = sys._getframe(1)
    while frame is not None and MARK not in frame.f_globals:
        frame = frame.f_back
    return Line("?", 0, "?") if frame is None else _line(frame.f_code.co_filename, frame.f_lineno)


def _line_of_traceback(traceback) -> Line:
    line = Line("?", 0, "?")
    while traceback is not None:
        if MARK in traceback.tb_frame.f_globals:
            line = _line(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    return line


@cache
def _line(file, number):
    return Line(file, number, linecache.getline(file, number).strip())


# What is private to Triton, gathered at one place, and what is replaced in it while a kernel runs.

_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Private:
    """The parts of Triton's interpreter in use here. None of them is documented: each may move with a version."""

    interpreter: object
    language: object
    function_types: tuple[type, ...]
    builder: Callable
    to_triton: Callable


def private_parts() -> Private:
    """Raises LabError, one sentence, where Triton is missing or is not built the way this file expects."""
    try:
        import triton
    except ImportError:
        raise LabError(
            "the kernel lab needs Triton, which is not installed here: on Linux run `pip install triton`; "
            "on macOS and Windows there is no Triton, and the kernel chapters can only be read"
        ) from None
    try:
        import triton.language as tl
        from triton.runtime import interpreter
        from triton.runtime.jit import JITFunction

        for name in ("ASTTransformer", "TritonSemantic", "TensorHandle", "_patch_lang", "interpreter_semantic"):
            getattr(interpreter, name)
        for name in ("masked_load", "masked_store", "atomic_rmw", "atomic_cas", "dot", "fma"):
            getattr(interpreter.InterpreterBuilder, f"create_{name}")
        builder = _builder_class(interpreter.InterpreterBuilder, interpreter.TensorHandle)
        types = (JITFunction, interpreter.InterpretedFunction)
        return Private(interpreter, tl, types, builder, lambda value: interpreter._implicit_cvt(value))
    except (ImportError, AttributeError) as error:
        raise LabError(
            f"the kernel lab does not know the interpreter of Triton {triton.__version__} ({error}): "
            "it was made with Triton 3.6 to 3.9, so install one of these"
        ) from error


@contextlib.contextmanager
def _as_quiet_as_a_gpu():
    """No warnings for infinities and NaN."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


@contextlib.contextmanager
def replaced(private: Private, builder):
    """Make `triton.language` compute with numbers, for the time of the block. Yields how to rewrite a kernel for it."""
    tl, interpreter = private.language, private.interpreter
    places = [tl, tl.core, tl.math, tl.tensor, tl.dtype, interpreter, *private.function_types]
    places += [c for name in ("condition", "tensor_descriptor_base") if (c := getattr(tl.core, name, None))]
    before = [(place, dict(vars(place))) for place in places]
    rewritten = {}

    def interpreted(function):
        if function not in rewritten:
            rewritten[function] = _rewrite(function, interpreter)
        return rewritten[function]

    try:
        interpreter.interpreter_builder = builder
        interpreter.interpreter_semantic = interpreter.TritonSemantic(builder)
        interpreter._patch_lang(FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core}))
        tl.tensor.__index__ = lambda self: int(np.ravel(self.handle.data)[0])  # numpy 2.4 is strict, old Triton is not
        for kind in private.function_types:
            kind.__call__ = lambda self, *args, **kwargs: interpreted(self.fn)(*args, **kwargs)
        for name, member in dict(vars(tl.tensor)).items():
            if isinstance(member, private.function_types):  # x.sum(): as a method, bound to x
                setattr(tl.tensor, name, lambda *args, member=member, **kwargs: member(*args, **kwargs))
        for place in (tl, tl.core):
            for name in ("reduce", "associative_scan"):
                setattr(place, name, builder.watched_reduction(getattr(place, name)))
        yield interpreted
    finally:
        for place, names in before:
            for name in [name for name in vars(place) if name not in names]:
                delattr(place, name)
            for name, value in names.items():
                if vars(place)[name] is not value:
                    setattr(place, name, value)


def _rewrite(function, interpreter):
    """The kernel as an ordinary function, in globals of its own; its lines keep their numbers."""
    source, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(source)))
    tree.body[0].decorator_list = []
    ast.increment_lineno(tree, first - 1)
    tree = ast.fix_missing_locations(interpreter.ASTTransformer().visit(tree))
    scope = function.__globals__ | inspect.getclosurevars(function).nonlocals
    for name in ("interpreter_semantic", "_InterpreterComparison"):  # what the rewritten lines call
        scope[name] = getattr(interpreter, name, None)
    if not function.__module__.startswith("triton."):
        scope[MARK] = True
    exec(compile(tree, function.__code__.co_filename, "exec"), scope)
    new = scope[function.__name__]
    new.__defaults__, new.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return new


def smallest_dot(lhs, rhs) -> tuple[int, int, int]:
    """The least m, n and k that Triton's compiler takes for NVIDIA GPUs, by its own rule; 16 each if that moved."""
    try:
        from triton.backends.compiler import GPUTarget
        from triton.backends.nvidia.compiler import min_dot_size

        return min_dot_size(GPUTarget("cuda", 90, 32))(lhs, rhs)
    except (ImportError, TypeError, AssertionError):
        return 16, 16, 16


@cache
def _builder_class(base, handle):
    """Triton's interpreter, with our memory behind its loads and stores, telling a watcher what it does."""

    class Builder(base):
        def __init__(self, launch: Launch, watcher: Watcher):
            super().__init__()
            self.watcher, self.stored, self.program = watcher, set(), None
            self.axes = len(launch.grid)
            self.windows = list(launch.arguments.values())
            self.scratch = np.zeros(16, dtype=np.uint8)
            self.atomic = self.exchanges = False

        def start(self, program):
            self.program = program
            self.set_grid_idx(*program, *(0,) * (3 - self.axes))

        # Memory: from addresses that say which argument they belong to, to those of the copies.

        def watch(self, kind, ptrs, mask):
            """The lanes of one access: (addresses of real memory, which lanes may touch it). Tells the watcher."""
            address = np.ascontiguousarray(ptrs.data, dtype=np.uint64)
            on = np.broadcast_to(np.asarray(mask, dtype=bool), address.shape)
            real = np.full(address.shape, self.scratch.ctypes.data, dtype=np.uint64)
            allowed = np.zeros(address.shape, dtype=bool)
            width = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
            kind, line = "atomic" if self.atomic else kind, current_line()
            window = address >> np.uint64(WINDOW)
            for number in np.unique(window[on]).tolist():
                if not 1 <= number <= len(self.windows):
                    raise LabError(
                        f"{program_name(self.program)} {kind}s at an address that belongs to no argument ({line}): "
                        "the lab cannot follow pointers that a kernel reads from memory"
                    )
                lanes = on & (window == number)
                inside, there = self._touch(kind, self.windows[number - 1], number, address[lanes], width, line)
                real[lanes], allowed[lanes] = np.where(inside, there, self.scratch.ctypes.data), inside
            return handle(real, ptrs.dtype), allowed

        def _touch(self, kind, argument, number, address, width, line):
            start = (number << WINDOW) + (1 << (WINDOW - 1)) + argument.start % 256
            byte = address.astype(np.int64) - start
            size = argument.dtype.itemsize
            parts = max(1, width // size)  # a pointer cast to a wider type touches several elements a lane
            offset = (byte // size)[:, None] + np.arange(parts)
            element = argument.find(offset)
            inside = (element >= 0).all(1)
            hit, miss = element[inside].reshape(-1), offset[element < 0]
            access = Access(kind, self.program, argument, hit, miss, width // parts, line, self.exchanges)
            self.watcher.access(access)
            if kind != "load" and inside.any():
                self.stored.add(argument.memory)
            return inside, (byte + argument.copy.data_ptr()).astype(np.uint64)

        def create_masked_load(self, ptrs, mask, other, *args, **kwargs):
            real, allowed = self.watch("load", ptrs, mask.data)
            return super().create_masked_load(real, _flags(allowed, mask), other, *args, **kwargs)

        def create_masked_store(self, ptrs, value, mask, *args, **kwargs):
            real, allowed = self.watch("store", ptrs, mask.data)
            return super().create_masked_store(real, value, _flags(allowed, mask), *args, **kwargs)

        def create_atomic_rmw(self, operation, ptr, val, mask, *args):
            if val.dtype.scalar.is_bf16():
                self.bf16("an atomic operation")
            self.exchanges = "XCHG" in str(operation)
            real, allowed = self.watch("atomic", ptr, mask.data)
            self.exchanges = False
            return super().create_atomic_rmw(operation, real, val, _flags(allowed, mask), *args)

        def create_atomic_cas(self, ptr, cmp, val, *args):
            self.exchanges = True
            real, _ = self.watch("atomic", ptr, np.ones(np.shape(ptr.data), dtype=bool))
            self.exchanges = False
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

        # Arithmetic: dots are counted; bfloat16 lives here as 16-bit integers, which only casts to float32 respect.

        def bf16(self, operation):
            self.watcher.wrong_bf16(operation, self.program, current_line())

        def create_dot(self, a, b, d, *args):
            if a.dtype.scalar.is_bf16() or b.dtype.scalar.is_bf16():
                self.bf16("a dot")
            (*batch, m, k), n = a.data.shape, b.data.shape[-1]
            smallest = tuple(smallest_dot(a.dtype, b.dtype))
            dot = Dot(self.program, m, n, k, int(np.prod(batch)), str(a.dtype), smallest, current_line())
            self.watcher.dot(dot)
            return super().create_dot(a, b, d, *args)

        def binary_op(self, lhs, rhs, op):
            if lhs.dtype.scalar.is_bf16() and op not in (np.equal, np.not_equal):
                self.bf16(f"'{op.__name__}'")
            return super().binary_op(lhs, rhs, op)

        def unary_op(self, arg, op):
            if arg.dtype.scalar.is_bf16():
                self.bf16(f"'{op.__name__}'")
            return super().unary_op(arg, op)

        def ternary_op(self, lhs, rhs, other, op):
            if other.dtype.scalar.is_bf16() and op is not np.where:
                self.bf16(f"'{op.__name__}'")
            return super().ternary_op(lhs, rhs, other, op)

        def create_fma(self, x, y, z):
            if z.dtype.scalar.is_bf16():
                self.bf16("'fma'")
            return super().create_fma(x, y, z)

        def cast_impl(self, src, dst_type):
            kinds = {str(src.dtype.scalar), str(dst_type.scalar)}
            if "bf16" in kinds and not kinds <= {"bf16", "fp32"}:
                self.bf16(f"a conversion from {src.dtype.scalar} to {dst_type.scalar}")
            return super().cast_impl(src, dst_type)

        def watched_reduction(self, reduction):
            def watched(input, *args, **kwargs):
                for part in input if isinstance(input, tuple) else (input,):
                    if part.dtype.is_bf16():
                        self.bf16("a reduction or scan")
                return reduction(input, *args, **kwargs)

            return watched

    def _flags(allowed, mask):
        return handle(allowed, mask.dtype) if hasattr(mask, "dtype") and hasattr(mask, "attr") else allowed

    return Builder
