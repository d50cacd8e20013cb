"""The zoo as data and as text."""

import re
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from seqlab import mixers
from seqlab.course import cli
from seqlab.ffn import PEER, MoE
from seqlab.zoo import CHANNEL_MIXERS, RECIPES, ZOO, recipe, row, table
from seqlab.zoo.find import find, plain

ROOT = Path(__file__).parents[1]
PARTS = [*ZOO, *CHANNEL_MIXERS]


def zoo(*arguments, columns=200):
    with pytest.MonkeyPatch.context() as patch:  # a console keeps the width it had when it was made
        patch.setattr(cli, "out", Console(highlight=False, width=columns))
        return CliRunner().invoke(cli.app, ["zoo", *arguments])


def test_names_are_unique():
    names = [plain(e.name) for e in [*PARTS, *RECIPES]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("r", PARTS, ids=lambda r: r.name)
def test_a_row_names_its_source(r):
    assert (
        re.match(r"arXiv:\d{4}\.\d{4,5}$|doi:10\.", r.paper)
        and r.oracle
        and (r.gate if r in ZOO else r.route)
    )
    assert 1986 <= r.year <= 2027 and 0 <= r.chapter <= 29
    assert (ROOT / table.source_file(r)).is_file()
    year = int(r.paper[6:8]) + 2000 if r.paper.startswith("arXiv") else r.year
    assert r.year in (year, year + 1), "an arXiv number starts with the year"


@pytest.mark.parametrize("r", ZOO, ids=lambda r: r.name)
def test_a_row_has_an_oracle_test_of_its_own(r):
    name = table.mixer_class(r).__name__
    tests = [p.read_text() for p in (ROOT / "tests/mixers").glob("test_*.py")]
    assert any(re.search(rf"import .*\b{name}\b", text) and f"{name}(" in text for text in tests)


def test_an_unknown_row_is_named_with_what_there_is():
    with pytest.raises(KeyError, match=r"no architecture is called 'S6': there are .*RetNet"):
        row("S6")
    assert row("retnet").year == 2023
    with pytest.raises(KeyError, match="no model is called 'GPT'"):
        recipe("GPT")


def test_a_state_is_shown_in_three_digits():
    assert [table.size(n) for n in (7, 999, 1000, 8192, 999_960, 33_554_432)] == [
        "7",
        "999",
        "1K",
        "8.2K",
        "1M",
        "34M",
    ]
    assert table.state(row("RetNet")) == "33K" and table.state(row("attention")) == "524K → 34M"


@pytest.mark.parametrize("r", ZOO, ids=lambda r: r.name)
def test_a_mixer_of_the_zoo_is_exported(r):
    name = table.mixer_class(r).__name__
    assert getattr(mixers, name, None) is table.mixer_class(r), (
        f"add {name} to seqlab/mixers/__init__.py"
    )
    assert name in mixers.__all__


@torch.no_grad()
@pytest.mark.parametrize("r", CHANNEL_MIXERS, ids=lambda r: r.name)
def test_a_token_meets_as_many_weights_as_the_row_says(r):
    """Weights that no token meets may be anything: with nan there, nothing changes. (Expert choice:
    2 by average.)
    """
    ffn, x = r.make(32).eval(), torch.randn(1, 1 if r.causal else 8, 32)
    y, unmet = ffn(x), []
    if isinstance(ffn, MoE):
        used = (
            ffn.routing.experts[ffn.routing.kept]
            if ffn.routing.kept is not None
            else ffn.routing.experts
        )
        unmet = [p for e, E in enumerate(ffn.experts) if e not in used for p in E.parameters()]
    if isinstance(ffn, PEER):
        others = torch.ones(len(ffn.down), dtype=torch.bool).index_fill(
            0, ffn.route(x[0])[0].flatten(), False
        )
        twice = int(others.sum()) - len(others) + ffn.n_heads * ffn.top_k  # chosen by two heads
        unmet = [W[i] for W in (ffn.down, ffn.up) for i in others.nonzero()[twice:]]
    met = sum(p.numel() for p in ffn.parameters())
    if r.causal:
        for p in unmet:
            p.fill_(torch.nan)
        met -= sum(p.numel() for p in unmet)
        torch.testing.assert_close(ffn(x), y, rtol=0, atol=0)
    else:
        each = sum(p.numel() for p in ffn.experts[0].parameters())
        met -= (len(ffn.experts) - int(ffn.routing.load.sum()) // x.shape[1]) * each
    assert r.touched(32) == met


@pytest.mark.parametrize("r", PARTS, ids=lambda r: r.name)
def test_the_small_example_is_the_call_that_is_printed(r):
    code, imports = table.call(r.make)
    names = {"d_model": 32}
    exec("\n".join(imports), names)
    made, expected = eval(code, names), r.make(32)
    assert type(made) is type(expected)
    shapes = [
        {name: (p.shape, p.dtype) for name, p in m.state_dict().items()} for m in (made, expected)
    ]
    assert shapes[0] == shapes[1] and code in zoo(r.name, columns=400).output


def test_the_command_prints_every_name():
    shown = zoo()
    assert shown.exit_code == 0
    assert all(e.name in shown.output for e in [*PARTS, *RECIPES])


@pytest.mark.parametrize(
    ("columns", "dropped"), [(60, "forgets|goes|forms|year"), (80, "forms|year"), (160, "")]
)
def test_a_narrow_window_shows_fewer_columns_and_breaks_no_name(columns, dropped):
    lines = zoo(columns=columns).output.splitlines()
    assert max(map(cell_len, lines)) <= columns  # a combining mark takes no room
    for e in [*PARTS, *RECIPES]:
        assert any(line.startswith(f"{e.name}  ") for line in lines), e.name
    head = " ".join(line for line in lines if line.endswith("ch."))
    for word in (
        "architecture",
        "channel mixer",
        "model",
        "state",
        "weights",
        "forgets",
        "goes",
        "forms",
        "year",
    ):
        assert (word in head) == (word not in dropped.split("|"))


def test_no_models_no_table(monkeypatch):
    monkeypatch.setattr("seqlab.zoo.RECIPES", [])
    assert "layout" not in zoo().output


def test_the_command_says_more_about_one():
    shown = zoo("retnet")
    assert shown.exit_code == 0 and "S_t = γ_h S_{t-1} + v_t k_tᵀ" in shown.output
    assert "seqlab/mixers/retnet.py" in shown.output and "fla.ops.retention.naive" in shown.output
    assert "RetNet(d_model, n_heads=4)" in shown.output and "n_heads=4, *, " in shown.output
    assert (
        "33K numbers per sequence: the small example, 256 wide, after 1,024 tokens\n"
        in shown.output
    )
    assert "50K of 558K, 256 wide" in zoo("peer").output


def test_a_name_may_be_several_words():
    assert zoo("gated", "deltanet").output == zoo("Gated DeltaNet").output


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("mamba2", "Mamba-2"),
        ("GatedDeltaNet", "Gated DeltaNet"),
        ("gated_deltanet", "Gated DeltaNet"),
        ("RWKV-7", "RWKV-7 Goose"),
        ("rwkv7", "RWKV-7 Goose"),
        ("goose", "RWKV-7 Goose"),
        ("performer", "Performer features"),
        ("Differential", "Differential Transformer"),
        ("streaming", "StreamingLLM"),
        ("MemoryAsGate", "Titans MAG"),
        ("zamba", "Zamba"),
        ("hyena", "Hyena"),
        ("Mixtral", "Mixtral"),
        ("MixtralRouter", "Mixtral experts"),
        ("qwen 3 next", "Qwen3-Next"),
    ],
)
def test_a_name_is_found_in_any_spelling(asked, name):
    assert find(asked).name == name


@pytest.mark.parametrize("e", [*PARTS, *RECIPES], ids=lambda e: e.name)
def test_every_entry_is_found_by_its_name(e):
    assert find(e.name) is e


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("retned", "nothing is called 'retned': did you mean RetNet"),
        ("mambo", r"did you mean Mamba, Mamba-2, Zamba\?"),
        ("xyz", "nothing is called 'xyz': see seqlab zoo"),
        ("--", "nothing is called '--': see seqlab zoo"),
        (
            "rwkv-",
            "'rwkv-' fits RWKV-4, RWKV-5 Eagle, RWKV-6 Finch, RWKV-7 Goose, RWKV channel mix: say which",
        ),
        ("MoE", "fits soft mixture of experts, .*expert choice: say which"),
        ("s", r"and \d+ more: say which"),
    ],
)
def test_a_name_that_fits_none_or_many_gets_one_clear_sentence(asked, says):
    with pytest.raises(ValueError, match=says):
        table.one(asked)


def test_tables_and_a_name_do_not_go_together():
    with pytest.raises(ValueError, match="--markdown prints the whole tables"):
        CliRunner().invoke(cli.app, ["zoo", "retnet", "--markdown"], catch_exceptions=False)


def test_a_page_is_made_anew_between_its_marks():
    page = f"before {table.START} old {table.END} after"
    assert table.rewritten(page) == f"before {table.START}\n{table.markdown()}\n{table.END} after"
    assert table.rewritten(table.rewritten(page)) == table.rewritten(page)
    with pytest.raises(ValueError, match="the page has no tables to make anew"):
        table.rewritten(f"{table.END} {table.START}")


def test_the_readmes_tables_are_the_zoo():
    page = (ROOT / "README.md").read_text()
    is_new = table.rewritten(page) == page
    assert is_new, (
        "the tables of the README are not those of the zoo: run python -m seqlab.zoo.table README.md"
    )
