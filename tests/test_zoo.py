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
from seqlab.zoo.papers import PAPERS

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
    assert r.oracle
    assert r.gate if r in ZOO else r.route
    assert 0 <= r.chapter <= 29
    assert (ROOT / table.source_file(r)).is_file()
    assert r.year == PAPERS[r.paper].year


@pytest.mark.parametrize("r", RECIPES, ids=lambda r: r.name)
def test_a_model_names_its_own_source_or_says_whose_method_it_is(r):
    if r.paper.startswith(("arXiv:", "doi:")):
        assert r.year == PAPERS[r.paper].year
    else:
        assert r.paper == "" or re.fullmatch(r"card:[\w-]+/[\w.-]+", r.paper)
        assert PAPERS[r.method].year <= r.year
    assert r.paper not in PAPERS or PAPERS[r.paper] != PAPERS.get(r.method)
    assert "method: " in table.recipes_markdown() and 0 <= r.chapter <= 29


NUMBER = r"arXiv:\d{4}\.\d{4,5}|doi:10\.[\w./-]*\w"
CITING = [
    path
    for pattern in ("seqlab/**/*.py", "kernels/*.py", "chapters/src/*.py", "CONTRIBUTING.md")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "papers.py"
]


def test_the_table_of_papers_holds_what_is_cited_and_nothing_else():
    texts = [p.read_text().replace("arxiv.org/abs/", "arXiv:") for p in CITING]  # links count too
    cited = {n for text in texts for n in re.findall(NUMBER, text)}
    assert cited - PAPERS.keys() == set(), "add these to seqlab/zoo/papers.py"
    assert PAPERS.keys() - cited == set(), "nothing cites these"


@pytest.mark.parametrize("number", PAPERS)
def test_a_papers_year_is_that_of_its_number(number):
    paper = PAPERS[number]
    assert paper.title and paper.author
    if number.startswith("arXiv"):
        assert paper.year == 2000 + int(number[6:8])
    else:
        assert 1986 <= paper.year <= 2026


@pytest.mark.parametrize("path", CITING, ids=lambda p: str(p.relative_to(ROOT)))
def test_an_author_and_a_year_beside_a_number_are_the_papers(path):
    """As in (Beck et al. 2024, arXiv:2405.04517), also across the end of a line."""
    text = re.sub(r"\s+#?\s*", " ", path.read_text())
    for authors, year, number in re.findall(rf"([^();]+) (\d{{4}}), ({NUMBER})", text):
        paper = PAPERS[number]
        assert int(year) == paper.year, number
        assert any(name in authors for name in re.findall(r"[\w-]+", paper.author)), number


def test_the_forget_gate_is_not_credited_to_1997():
    assert "Gers et al. 2000" in row("LSTM").gate and row("LSTM").year == 1997


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
    shown = {7: "7", 999: "999", 1000: "1K", 8192: "8.2K", 999_960: "1M", 33_554_432: "34M"}
    assert {n: table.size(n) for n in shown} == shown
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
def test_a_token_uses_as_many_weights_as_the_row_says(r):
    """With NaN in the weights that the token does not use, nothing changes.

    Expert choice gives a token 2 experts on average, so there the average is counted.
    """
    ffn = r.make(32).eval()
    x = torch.randn(1, 1 if r.causal else 8, 32)
    y = ffn(x)
    used = sum(p.numel() for p in ffn.parameters())
    if r.causal:
        unused = _unused(ffn, x)
        for p in unused:
            p.fill_(torch.nan)
        used -= sum(p.numel() for p in unused)
        torch.testing.assert_close(ffn(x), y, rtol=0, atol=0)
    else:
        each = sum(p.numel() for p in ffn.experts[0].parameters())
        used -= (len(ffn.experts) - int(ffn.routing.load.sum()) // x.shape[1]) * each
    assert r.touched(32) == used


def _unused(ffn, x):
    """The weights that the one token of x did not use in the last call."""
    if isinstance(ffn, MoE):
        chosen, kept = ffn.routing.experts, ffn.routing.kept
        chosen = chosen if kept is None else chosen[kept]
        return [p for e, E in enumerate(ffn.experts) if e not in chosen for p in E.parameters()]
    if isinstance(ffn, PEER):
        chosen = ffn.route(x[0])[0].flatten()
        others = torch.ones(len(ffn.down), dtype=torch.bool).index_fill(0, chosen, False)
        # An expert that two heads chose counts twice.
        twice = int(others.sum()) - len(others) + ffn.n_heads * ffn.top_k
        return [W[i] for W in (ffn.down, ffn.up) for i in others.nonzero()[twice:]]
    return []


@pytest.mark.parametrize("r", PARTS, ids=lambda r: r.name)
def test_the_small_example_is_the_call_that_is_printed(r):
    code, imports = table.call(r.make)
    names = {"d_model": 32}
    exec("\n".join(imports), names)
    made, expected = eval(code, names), r.make(32)
    assert type(made) is type(expected)
    assert _shapes(made) == _shapes(expected)
    assert code in zoo(r.name, columns=400).output


def _shapes(module):
    return {name: (p.shape, p.dtype) for name, p in module.state_dict().items()}


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
    words = "architecture|channel mixer|model|state|weights|forgets|goes|forms|year"
    for word in words.split("|"):
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
    assert "Retentive Network (Sun, 2023)" in shown.output
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
        ("retned", "nothing in the zoo is called 'retned': did you mean RetNet"),
        ("mambo", r"did you mean Mamba, Mamba-3, Mamba-2\?"),
        ("xyz", "nothing in the zoo is called 'xyz': seqlab zoo lists all names"),
        ("--", "nothing in the zoo is called '--': seqlab zoo lists all names"),
        (
            "rwkv-",
            "'rwkv-' fits RWKV-4, RWKV-5 Eagle, RWKV-6 Finch, RWKV-7 Goose, RWKV channel mix, "
            "RWKV World3: say ",
        ),
        ("MoE", "fits soft mixture of experts, .*expert choice: say which one you mean"),
        ("s", r"and \d+ more: say which one"),
    ],
)
def test_a_name_that_fits_none_or_many_gets_one_clear_sentence(asked, says):
    with pytest.raises(ValueError, match=says):
        table.one(asked)


def test_tables_and_a_name_do_not_go_together():
    with pytest.raises(ValueError, match="--markdown prints the whole tables"):
        CliRunner().invoke(cli.app, ["zoo", "retnet", "--markdown"], catch_exceptions=False)


def test_a_page_is_rewritten_between_its_marks():
    page = f"before {table.START} old {table.END} after"
    assert table.rewritten(page) == f"before {table.START}\n{table.markdown()}\n{table.END} after"
    assert table.rewritten(table.rewritten(page)) == table.rewritten(page)
    with pytest.raises(ValueError, match="the page has no place for the tables"):
        table.rewritten(f"{table.END} {table.START}")


def test_the_tables_of_docs_are_the_zoo():
    page = (ROOT / "docs/zoo.md").read_text()
    is_new = table.rewritten(page) == page
    assert is_new, "docs/zoo.md is stale: run python -m seqlab.zoo.table docs/zoo.md"


def test_every_file_the_tables_link_to_is_there():
    links = re.findall(r"\]\((\.\./[^)]+)\)", (ROOT / "docs/zoo.md").read_text())
    assert len(links) == len(PARTS)
    assert not [link for link in links if not (ROOT / "docs" / link).is_file()]
