"""The roofline: what a device can reach at each number of flops per byte, and kernels under it."""

from collections.abc import Iterable, Mapping
from typing import Any

import plotly.graph_objects as go

from seqlab.figures.theme import LINES, figure
from seqlab.figures.training import DASHES, SYMBOLS
from seqlab.gpu.roofline import roofline as floor_of


def roofline(
    kernels: Mapping[str, tuple[float, float]],
    devices: str | Iterable[str] = "H100",
    *,
    dtype: str = "bf16",
    measured: Mapping[tuple[str, str], float] | None = None,
    title: str = "",
) -> go.Figure:
    """Roofs of devices, and on each the most that a kernel can reach there.

    kernels: name -> (bytes, flops). measured: (kernel, device) -> seconds, drawn as a filled mark
    below the hollow one on the roof; its hover text says which share of the roof that is.
    """
    devices = [devices] if isinstance(devices, str) else list(devices)
    floors: dict[tuple[str, str], Any] = {
        (k, d): floor_of(*counts, d, dtype) for k, counts in kernels.items() for d in devices
    }
    if not floors:
        raise ValueError("there is nothing to draw: pass at least one kernel and one device")
    placed = [f.intensity for f in floors.values()] + [f.ridge for f in floors.values()]
    low, high = min(placed) / 3, max(placed) * 3
    colours = {device: LINES[n % 8] for n, device in enumerate(devices)}
    traces = []
    for n, device in enumerate(devices):
        floor = next(f for (_, d), f in floors.items() if d == device)
        traces.append(_roof(floor, low, high, DASHES[n % 4], colours[device]))
    measured = measured or {}
    for n, name in enumerate(kernels):
        symbol = SYMBOLS[n % 6]
        own = {d: floors[name, d] for d in devices}
        traces.append(_marks(f"{name}: the most it can reach", f"{symbol}-open", own, colours))
        times = {d: measured[name, d] for d in devices if (name, d) in measured}
        if times:
            traces.append(_marks(f"{name}, measured", symbol, own, colours, times))
    axes = {"x": "flops a byte (log scale)", "y": "TFLOP/s (log scale)"}
    fig = figure(*traces, title=title, height=440, **axes)
    fig.update_xaxes(type="log", dtick=1, exponentformat="power")
    fig.update_yaxes(type="log", dtick=1, exponentformat="power")
    return fig.update_layout(
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}, margin_b=120
    )


def _roof(floor, low, high, dash, colour) -> go.Scatter:
    peak, bandwidth = floor.device.flops[floor.dtype] / 1e12, floor.device.bytes_per_second / 1e12
    return go.Scatter(
        x=[low, floor.ridge, high],
        y=[low * bandwidth, peak, peak],
        mode="lines",
        name=f"{floor.device.name}: {bandwidth:.3g} TB/s, {peak:.4g} TFLOP/s",
        line={"color": colour, "dash": dash},
    )


def _marks(label, symbol, floors, colours, times=None) -> go.Scatter:
    """One kernel on every device: on the roof, or where `times` puts it."""
    shown = {d: f for d, f in floors.items() if times is None or d in times}
    reached = [
        f.flops_per_second if times is None else f.flops / times[d] for d, f in shown.items()
    ]
    return go.Scatter(
        x=[f.intensity for f in shown.values()],
        y=[float(f"{y / 1e12:.4g}") for y in reached],
        mode="markers",
        name=label,
        marker={
            "symbol": symbol,
            "size": 11,
            "line": {"width": 2},
            "color": [colours[d] for d in shown],
        },
        hovertext=[
            repr(f) if times is None else f"{d}: {f.fraction(times[d]):.0%} of the roof"
            for d, f in shown.items()
        ],
        hoverinfo="text",
    )
