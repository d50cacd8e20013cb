"""`roofline`: by hand, on numbers that data sheets print."""

import pytest

from seqlab.figures.roofline import roofline as drawn
from seqlab.gpu.devices import DEVICES, MULTIPROCESSORS
from seqlab.gpu.roofline import roofline


def test_a_copy_is_bound_by_memory_and_takes_bytes_over_bandwidth():
    floor = roofline(4.8e9, 0, "H200")
    assert floor.bound == "memory" and floor.seconds == pytest.approx(1e-3)
    assert floor.flops_per_second == 0


def test_a_large_matmul_is_bound_by_compute_and_takes_flops_over_peak():
    n = 8192
    floor = roofline(3 * 2 * n**2, 2 * n**3, "A100")
    assert floor.bound == "compute" and floor.seconds == pytest.approx(2 * n**3 / 312e12)
    assert floor.intensity == pytest.approx(n / 3)
    assert floor.flops_per_second == pytest.approx(312e12)


@pytest.mark.parametrize("device", DEVICES)
def test_at_the_ridge_moving_and_computing_take_equally_long(device):
    for dtype, peak in DEVICES[device].flops.items():
        ridge = roofline(1, 1, device, dtype).ridge
        floor = roofline(1e9, ridge * 1e9, device, dtype)
        assert floor.memory_seconds == pytest.approx(floor.compute_seconds)
        assert floor.flops_per_second == pytest.approx(peak)


def test_tensor_cores_outrun_the_rest_and_types_with_half_the_bits_are_no_slower():
    for device in DEVICES.values():
        assert device.flops["fp16"] >= device.flops.get("tf32", 0) >= 0
        assert device.flops["fp16"] > device.flops["fp32"]
        assert device.source and device.checked
        assert device.target in MULTIPROCESSORS or device.target == "sm_75"


def test_several_devices_are_printed_one_a_line():
    text = repr(roofline(1e9, 1e12, ("A100", "H100", "MI300X")))
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == ["A100", "H100", "MI300X"]
    # 1e9 / 2039e9 and 1e12 / 312e12
    assert "compute-bound: 490 µs to move, 3.21 ms to compute" in text


def test_a_measurement_is_a_fraction_of_the_floor():
    assert roofline(4.8e9, 0, "H200").fraction(2e-3) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, 1, "H1000"), "choose one of T4"),
        ((1, 1, "T4", "bf16"), "T4 has a published peak for fp16, fp32"),
        ((-1, 1), "neither can be negative"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(arguments, words):
    with pytest.raises(ValueError, match=words):
        roofline(*arguments)


def test_a_mark_is_on_the_roof_and_a_measured_one_below():
    kernels = {"copy": (1e9, 1e9), "matmul": (1e9, 1e13)}
    fig = drawn(kernels, ("A100", "H200"), measured={("copy", "A100"): 1e-3}, title="Two kernels")
    marks = {t.name: t for t in fig.data}
    assert len(fig.data) == 5
    assert list(marks["matmul: the most it can reach"].y) == [312, 989.4]
    assert list(marks["copy: the most it can reach"].y) == pytest.approx([2.039, 4.8])
    assert list(marks["copy, measured"].y) == [1.0]
    assert "49% of the roof" in marks["copy, measured"].hovertext[0]
    with pytest.raises(ValueError, match="nothing to draw"):
        drawn({})
