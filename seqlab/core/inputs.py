"""What the recurrence accepts. Everything else gets one sentence: what was passed, what is
needed.
"""

from functools import partial, wraps

import torch
from torch import Tensor, nn


def full_precision(function):
    """`function` with autocast off and its tensors in float32 at least, so that no state or decay
    is rounded.

    Where autocast is not on, nothing changes.
    """

    @wraps(function)
    def run(*args, **options):
        device = _device(args, options)
        if not torch.is_autocast_enabled(device):
            return function(*args, **options)
        with torch.autocast(device, enabled=False):
            return function(*map(_widen, args), **{name: _widen(x) for name, x in options.items()})

    return run


def _device(args, options):
    """Where the first tensor is; if there is none, where the module's weights are."""
    for x in (*args, *options.values()):
        if isinstance(x, Tensor):
            return x.device.type
    return next(x for x in args if isinstance(x, nn.Module)).parameters().__next__().device.type


def _widen(x):
    narrow = isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if narrow else x


def wide(x: Tensor) -> Tensor:
    """x in float32 at least: what sets a decay or is summed is not rounded further in a bf16
    model.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def choose(form, forms: dict, *, chunk_size: int | None = None, name: str = "form"):
    """The function behind `form`: forms[form], or `form` itself if it is a function (a kernel).

    chunk_size is bound to the form "chunkwise". An unknown form is a ValueError of one sentence.
    """
    if chunk_size is not None:
        at_least_one(chunk_size=chunk_size)
    if callable(form):
        return form
    if form not in forms:
        raise ValueError(
            f"{name} is {form!r}: choose one of {', '.join(forms)}, or pass a function"
        )
    if form == "chunkwise" and chunk_size is not None:
        return partial(forms[form], chunk_size=chunk_size)
    return forms[form]


def at_least_one(**sizes):
    """ValueError for the first that is not."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: it must be at least 1")


def check_inputs(q, k, v, log_a=None, beta=None, state=None):
    """Raise ValueError or TypeError, in one sentence, for inputs the equation has no meaning
    for.
    """
    named = {"q": q, "k": k, "v": v, "log_a": log_a, "beta": beta}
    named = {name: x for name, x in named.items() if x is not None}
    for name, x in named.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}: a torch.Tensor is needed")
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}: a real floating-point tensor is needed")
        if (
            x.dtype != q.dtype and name != "log_a"
        ):  # log_a may be wider than q: decays are float32 in mixed precision
            raise TypeError(f"{name} is {x.dtype}, q is {q.dtype}: use one dtype for all")
        if x.ndim != (3 if name == "beta" else 4):
            wanted = "(B, T, H)" if name == "beta" else "(B, T, H, width)"
            raise ValueError(f"{name} has shape {tuple(x.shape)}: {wanted} is needed")
        if x.shape[:3] != q.shape[:3]:
            raise ValueError(
                f"{name} has (B, T, H) = {tuple(x.shape[:3])}, q has {tuple(q.shape[:3])}: they must match"
            )
    B, T, H, K = q.shape
    if T == 0:
        raise ValueError("the sequence is empty: T must be at least 1")
    if k.shape[-1] != K:
        raise ValueError(f"k has width {k.shape[-1]}, q has {K}: q and k must match")
    if log_a is not None and log_a.shape[-1] not in (1, K):
        raise ValueError(
            f"log_a has width {log_a.shape[-1]}: 1 (a decay per head) or {K} (one per key channel) is needed"
        )
    if log_a is not None and _readable(log_a) and (log_a > 0).any():
        raise ValueError(
            f"log_a reaches {log_a.max():.3g}: a log decay is at most 0 (pass log a, with a in [0, 1])"
        )
    if state is not None and state.shape != (B, H, v.shape[-1], K):
        raise ValueError(
            f"state has shape {tuple(state.shape)}: (B, H, V, K) = {(B, H, v.shape[-1], K)} is needed"
        )


def _readable(x) -> bool:
    """Values are looked at on CPU only: a GPU would have to be waited for, and "meta" has none."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def check_attention(q, k, v, causal=False, window=None):
    """The same for softmax attention: q (B, T_q, H, K), k (B, T_k, h, K), v (B, T_k, h, V), H a
    multiple of h.
    """
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k has width {k.shape[-1]}, q has {q.shape[-1]}: q and k must match")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"k has (B, T, H) = {tuple(k.shape[:3])}, v has {tuple(v.shape[:3])}: they must match"
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"k and v have {k.shape[2]} heads, q has {q.shape[2]}: the second must be a multiple of the first"
        )
    if window is not None and not causal:
        raise ValueError("window counts backwards from the query: pass causal=True with it")
