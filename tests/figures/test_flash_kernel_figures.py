import pytest

from seqlab.figures import flash_kernel as figures

pytestmark = pytest.mark.filterwarnings("error")


def test_moved_stacks_the_tensors_and_writes_their_sum():
    fig = figures.moved({"a": {"q": 1024, "S": 2048}, "b": {"q": 1024}}, "t")
    assert [list(bar.y) for bar in fig.data] == [[1, 1], [2, 0]]
    assert [note.text for note in fig.layout.annotations] == ["3", "1"]


def test_rounding_has_a_mark_for_each_seed():
    fig = figures.rounding({"one": {64: [0.1, 0.2], 128: [0.3]}, "two": {64: [1.0]}}, "t")
    assert list(fig.data[0].x) == [64, 64, 128] and list(fig.data[1].y) == [1.0]


def test_registers_marks_what_spills_or_does_not_fit():
    row = {"sm_80": (96, 0, True), "sm_90": (255, 8, True), "gfx942": (64, 0, False)}
    heat = figures.registers({"64": row}, "t").data[0]
    assert heat.z.tolist() == [[0, 1, 1]]
    assert heat.text[0][0] == "96" and "spills 8 B" in heat.text[0][1]
    assert "does not fit" in heat.text[0][2]


def test_splits_says_how_many_are_enough():
    fig = figures.splits(8192, 8, 132)
    assert "32 splits" in fig.layout.title.text
    assert max(fig.data[0].y) == 100
    # 8 heads: 2 · 4 · 129 · 8 bytes a split, beside 2 · 2 · 8192 · 128 · 8 of cache
    assert fig.data[1].y[0] == pytest.approx(100 * 2 * 4 * 129 / (4 * 8192 * 128))
    assert "not even" in figures.splits(8192, 1, 10_000).layout.title.text
