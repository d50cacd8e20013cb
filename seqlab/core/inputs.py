"""What the core accepts. Anything else gets one sentence: what was passed, and what is needed."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable)


def full_precision(function: Function) -> Function:
    """Run `function` without autocast and with its tensors in float32 at least.

    So no state or decay is rounded. Outside autocast nothing changes.
    """

    @wraps(function)
    def run(*args, **options):
        device = _device(args, options)
        if not autocasts(device):
            return function(*args, **options)
        with torch.autocast(device, enabled=False):
            return function(*map(_widen, args), **{name: _widen(x) for name, x in options.items()})

    return cast(Function, run)


def autocasts(device: str) -> bool:
    """Whether autocast is on for tensors there; on the meta device there is none."""
    return device != "meta" and torch.is_autocast_enabled(device)


def _device(args, options) -> str:
    """Where the first tensor is; without a tensor, where the module's weights are."""
    for x in (*args, *options.values()):
        if isinstance(x, Tensor):
            return x.device.type
    module = next(x for x in args if isinstance(x, nn.Module))
    return next(module.parameters()).device.type


def _widen(x):
    narrow = isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if narrow else x


def wide(x: Tensor) -> Tensor:
    """x in float32 at least, so that decays and sums are not rounded further in a bf16 model."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def choose(
    form: str | Callable | None,
    forms: Mapping[str, Callable],
    *,
    chunk_size: int | None = None,
    name: str = "form",
) -> Callable:
    """The function behind `form`: forms[form], or `form` itself if it is a function (a kernel).

    chunk_size is bound to the form "chunkwise". An unknown form raises a ValueError.
    """
    if chunk_size is not None:
        at_least_one(chunk_size=chunk_size)
    if callable(form):
        return form
    if form is None or form not in forms:
        names = ", ".join(forms)
        raise ValueError(f"{name} is {form!r}: choose one of {names}, or pass a function")
    if form == "chunkwise" and chunk_size is not None:
        return partial(forms[form], chunk_size=chunk_size)
    return forms[form]


def at_least_one(**sizes: int) -> None:
    """ValueError for the first size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: it must be at least 1")


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor | None = None,
    beta: Tensor | None = None,
    state: Tensor | None = None,
) -> None:
    """Raise ValueError or TypeError, in one sentence, for inputs that the equation cannot take."""
    for name, x in {"q": q, "k": k, "v": v, "log_a": log_a, "beta": beta}.items():
        if x is not None:
            _check_one(name, x, q)
    B, T, H, K = q.shape
    if T == 0:
        raise ValueError("the sequence is empty: T must be at least 1")
    if k.shape[-1] != K:
        raise ValueError(f"k has width {k.shape[-1]}, q has {K}: q and k must match")
    if log_a is not None:
        if log_a.shape[-1] not in (1, K):
            raise ValueError(
                f"log_a has width {log_a.shape[-1]}: "
                f"1 (a decay per head) or {K} (one per key channel) is needed"
            )
        check_decay("log_a", log_a)
    wanted = (B, H, v.shape[-1], K)
    if state is not None and state.shape != wanted:
        raise ValueError(f"state has shape {tuple(state.shape)}: (B, H, V, K) = {wanted} is needed")


def _check_one(name: str, x: Tensor, q: Tensor) -> None:
    """Type, dtype and (B, T, H) of one of the inputs."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}: a torch.Tensor is needed")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}: a real floating-point tensor is needed")
    # log_a may be wider than q: in mixed precision, decays are float32.
    if x.dtype != q.dtype and name != "log_a":
        raise TypeError(f"{name} is {x.dtype}, q is {q.dtype}: use one dtype for all")
    if x.ndim != (3 if name == "beta" else 4):
        wanted = "(B, T, H)" if name == "beta" else "(B, T, H, width)"
        raise ValueError(f"{name} has shape {tuple(x.shape)}: {wanted} is needed")
    if x.shape[:3] != q.shape[:3]:
        ours, theirs = tuple(x.shape[:3]), tuple(q.shape[:3])
        raise ValueError(f"{name} has (B, T, H) = {ours}, q has {theirs}: they must match")


def check_decay(name: str, log_decay: Tensor) -> None:
    """ValueError if a log decay is positive. Values that cannot be read are not checked.

    On a GPU reading would mean waiting, "meta" tensors have no values, compiled code would break
    in two, and `torch.func.vmap` refuses to turn a value into a bool.
    """
    if log_decay.device.type != "cpu" or torch.compiler.is_compiling():
        return
    try:
        positive = bool((log_decay > 0).any())
    except RuntimeError:
        return
    if positive:
        top, letter = log_decay.max(), name.removeprefix("log_")
        raise ValueError(
            f"{name} reaches {top:.3g}: a log decay is at most 0 "
            f"(pass log {letter}, with {letter} in [0, 1])"
        )


def check_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, window: int | None = None
) -> None:
    """`check_inputs` for softmax attention.

    q is (B, T_q, H, K), k (B, T_k, h, K) and v (B, T_k, h, V), with H a multiple of h.
    """
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k has width {k.shape[-1]}, q has {q.shape[-1]}: q and k must match")
    if k.shape[:3] != v.shape[:3]:
        ours, theirs = tuple(k.shape[:3]), tuple(v.shape[:3])
        raise ValueError(f"k has (B, T, H) = {ours}, v has {theirs}: they must match")
    check_groups(k.shape[2], q.shape[2])
    if window is not None and not causal:
        raise ValueError("window counts backwards from the query: pass causal=True with it")


def check_groups(n_kv_heads: int, n_heads: int) -> None:
    """ValueError unless each head of k and v serves the same number of heads of q."""
    if n_heads % n_kv_heads:
        raise ValueError(
            f"k and v have {n_kv_heads} heads, q has {n_heads}: "
            "the second must be a multiple of the first"
        )
