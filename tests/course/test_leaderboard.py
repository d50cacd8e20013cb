"""The leaderboard: equal sizes, results by content, nothing lost, and what is shown of it."""

import json
import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from seqlab.course import cli, paths
from seqlab.course.leaderboard import SETTINGS, SMALL, Contest, Setting, board, build, runs, source
from seqlab.course.leaderboard import command as commands
from seqlab.course.leaderboard.report import by_seed, mean_and_error
from seqlab.figures.leaderboard import accuracy_by_size, accuracy_by_state, speeds
from seqlab.tasks import IGNORE, Parity, Recall
from seqlab.train import train
from seqlab.zoo import ZOO, row

RECALL = Contest(
    "recall", "pairs", tuple((f"{n}", Recall(4, 4, n, overwrite=False)) for n in (1, 3)), 3, 4
)
PARITY = Contest("parity", "tokens", (("5", Parity(5)),), 3, 4)
TINY = Setting("tiny", ("attention", "GLA"), (RECALL, PARITY), lrs=(0.001, 0.01), seeds=(0, 1))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The results of TINY."""
    folder = tmp_path_factory.mktemp("runs")
    assert board.run_all(TINY, folder, show=False) == {}
    return folder


@pytest.mark.parametrize("name", [r.name for r in ZOO if r.causal])
def test_every_row_has_the_same_size_within_a_hundredth(name):
    """The budget allows 5 %."""
    for setting in SETTINGS.values():
        if name in setting.rows:
            for contest in setting.contests:
                model = build(setting, contest, name)
                size = runs.parameters(model)
                blocks = len(model.blocks)
                expected = blocks * setting.block_parameters + 32 * (2 * contest.vocab + 1)
                assert abs(size - expected) < 0.01 * expected
                assert type(model.blocks[-1].mixer) is type(row(name).make(32))
                assert blocks == 1 + contest.shift


def test_the_full_setting_has_every_causal_row_and_all_tasks_fit():
    assert set(SETTINGS["full"].rows) == {r.name for r in ZOO if r.causal}
    for setting in SETTINGS.values():
        assert len(setting.seeds) >= 3 and len(setting.lrs) >= 3
        for contest in setting.contests:
            batch = contest.task.batch(4, torch.Generator().manual_seed(0))
            assert batch.tokens.max() < contest.vocab and (batch.targets != IGNORE).any()
            assert eval(
                repr(contest), {**vars(__import__("seqlab.tasks").tasks), "Contest": Contest}
            )


def test_a_mixer_without_room_for_its_ffn_is_refused():
    with pytest.raises(ValueError, match="attention has 4,160 parameters a block"):
        build(replace(TINY, block_parameters=4000), RECALL, "attention")


@pytest.mark.parametrize("name", ["attention", "GLA", "RG-LRU", "LSTM"])
def test_the_bytes_of_state_are_what_the_zoo_says(name):
    """Four bytes a number, after as many tokens as the largest size has."""
    model = build(TINY, RECALL, name)
    T = 3 + 4
    assert runs.state_bytes(model, RECALL) == 4 * row(name).state_floats(T, 32)


def test_the_grid_is_each_learning_rate_once_and_then_the_other_seeds_at_the_best(store):
    files = [json.loads(p.read_text()) for p in store.glob("*.json")]
    assert not list(store.glob("*.pt")) and not list(store.glob("*.part"))
    trained = [f["what"] for f in files if f["what"]["lr"] is not None]
    assert len(files) == 2 + 2 * 2 * (2 + 1) and len(trained) == len(files) - 2
    for contest in TINY.contests:
        for name in TINY.rows:
            mine = [f for f in files if f["what"]["row"] == name and f["what"]["lr"]]
            mine = [f for f in mine if f["what"]["contest"] == repr(contest)]
            trials = {
                f["what"]["lr"]: sum(f["choosing"].values()) / len(contest.sizes)
                for f in mine
                if f["what"]["seed"] == 0
            }
            assert set(trials) == {0.001, 0.01}
            (other,) = [f["what"] for f in mine if f["what"]["seed"] == 1]
            assert trials[other["lr"]] == max(trials.values())


def test_a_result_is_what_training_that_model_gives(store):
    run = runs.Run(TINY, RECALL, "GLA", 0.01, 0)
    torch.manual_seed(0)
    model = build(TINY, RECALL, "GLA")
    train(model, RECALL.task, steps=3, batch_size=4, lr=0.01, seed=0, show=False)
    for label, task in RECALL.sizes:
        rng, right, asked = torch.Generator().manual_seed(20_000), 0, 0
        for _ in range(8):
            batch = task.batch(64, rng)
            right += (model(batch.tokens)[0].argmax(-1) == batch.targets).sum().item()
            asked += (batch.targets != IGNORE).sum().item()
        assert runs.kept(run, store)["accuracy"][label] == pytest.approx(right / asked)


def test_what_is_kept_is_not_run_again(store, monkeypatch):
    def never(*args):
        raise AssertionError("was run again")

    monkeypatch.setattr(runs, "trained", never)
    monkeypatch.setattr(runs, "measured_speed", never)
    assert board.run_all(TINY, store, show=False) == {}


def test_only_what_changed_runs_again(store, monkeypatch):
    """GLA's own source: neither attention nor its results change."""
    run = []
    monkeypatch.setattr(board, "perform", lambda r, store: run.append(r.row) or {})
    plain = source.plain
    monkeypatch.setattr(
        source, "plain", lambda m: plain(m) + ("#" if m == "seqlab.mixers.gla" else "")
    )
    source._code_hash.cache_clear()
    board.run_all(TINY, store, show=False)
    source._code_hash.cache_clear()
    assert set(run) == {"GLA"} and len(run) == 1 + 2 * 2  # the best rate is not known yet


@pytest.mark.parametrize(
    "change",
    [
        {"lrs": (0.002,)},
        {"seeds": (5,)},
        {"d_model": 48},
        {"depth": 2},
        {"block_parameters": 21_000},
    ],
)
def test_another_setting_has_another_key(change):
    old, new = runs.Run(TINY, RECALL, "GLA", 0.01, 0), replace(TINY, **change)
    lr = change.get("lrs", (0.01,))[0]
    assert runs.Run(new, RECALL, "GLA", lr, change.get("seeds", (0,))[0]).key != old.key
    assert runs.Run(replace(TINY, name="other"), RECALL, "GLA", 0.01, 0).key == old.key


def test_the_source_counts_without_comments_and_docstrings(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    plain = source.plain.__wrapped__
    texts = {
        "one_a": '"""A."""\n\ndef f(x):\n    """B."""\n    return x + 1\n',
        "one_b": "# a comment\ndef f(x):\n\n    return (x + 1)  # more\n",
        "one_c": "def f(x):\n    return x + 2\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert plain("one_a") == plain("one_b") != plain("one_c")


def test_the_code_behind_a_row_is_what_it_imports():
    """GLA is built on the core's recurrence, attention is not; neither needs the other's file."""

    def behind(name):
        seen, waiting = set(), list(source.modules_of(row(name).make))
        while waiting:
            module = waiting.pop()
            if module not in seen and not module.startswith("seqlab.zoo"):
                seen.add(module)
                waiting += source.imported(module)
        return seen

    gla, attention = behind("GLA"), behind("attention")
    assert {"seqlab.mixers.gla", "seqlab.core.recurrence", "seqlab.layers.base"} <= gla
    assert {"seqlab.mixers.attention", "seqlab.core.attention"} <= attention
    assert "seqlab.mixers.attention" not in gla and "seqlab.core.recurrence" not in attention
    assert "seqlab.mixers.titans" in behind("Titans MAG")
    assert "seqlab.mixers.attention" in behind("Titans MAG")


def test_an_interrupted_run_goes_on_and_gives_the_same(store, tmp_path, monkeypatch):
    run = runs.Run(TINY, RECALL, "attention", 0.01, 0)
    count, batch = [], Recall.batch

    def stopped(*args):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return batch(*args)

    def often(*args, **how):
        return train(*args, **how, every=1)

    monkeypatch.setattr(runs, "train", often)
    monkeypatch.setattr(Recall, "batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        runs.perform(run, tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".pt"]
    kept = torch.load(tmp_path / f"{run.key}.pt", weights_only=True)
    assert len(kept["history"]["loss"]) == 2
    monkeypatch.setattr(Recall, "batch", batch)
    again, whole = runs.perform(run, tmp_path), runs.kept(run, store)
    assert [p.name for p in tmp_path.iterdir()] == [f"{run.key}.json"]
    assert {k: again[k] for k in again if k != "seconds"} == {
        k: whole[k] for k in whole if k != "seconds"
    }


def test_a_row_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    def fails(setting, contest, name):
        if name == "GLA":
            raise ValueError("too wide")
        return build(setting, contest, name)

    monkeypatch.setattr(runs, "build", fails)
    setting = replace(TINY, contests=(PARITY,))
    failed = board.run_all(setting, tmp_path, show=False)
    assert len(failed) == 3 and set(failed.values()) == {"ValueError: too wide"}
    assert "GLA, parity, lr 0.01, seed 0" in failed
    assert [line["row"] for line in board.lines(setting, tmp_path)] == ["attention"]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(store, tmp_path):
    setting = replace(TINY, contests=(PARITY,))
    assert board.run_all(setting, tmp_path, workers=2, show=False) == {}
    for run in board.first_stage(setting, tmp_path)[2:] + board.second_stage(setting, tmp_path):
        one, two = runs.kept(run, store), runs.kept(run, tmp_path)
        assert one["accuracy"] == two["accuracy"] and one["loss"] == two["loss"]


def test_lines_hold_all_seeds_and_versions(store):
    lines = board.lines(TINY, store)
    assert [line["row"] for line in lines] == ["attention", "GLA"]
    for line in lines:
        result = line["contests"]["recall"]
        assert result["seeds"] == [0, 1] and list(result["accuracy"]) == ["1", "3"]
        assert all(len(xs) == 2 for xs in result["accuracy"].values())
        assert result["chance"] == {"1": 0.25, "3": 0.25} and "torch" in result["where"][0]
        assert line["training_tokens_per_second"] > 0 < line["decoding_tokens_per_second"]


def test_mean_and_error():
    assert by_seed({"accuracy": {"a": [0.2, 0.4], "b": [0.6, 1.0]}}) == pytest.approx([0.4, 0.7])
    assert mean_and_error([0.4, 0.7]) == pytest.approx((0.55, 0.15))
    assert mean_and_error([0.4]) == (0.4, 0.0)


def line(name, family, values, state):
    accuracy = {label: [v, v + 0.02, v - 0.02] for label, v in values.items()}
    result = {"what": "pairs", "accuracy": accuracy, "chance": dict.fromkeys(values, 0.25)}
    result |= {"state_bytes": state, "parameters": 1000, "lr": 0.01, "where": ["here"]}
    speed = {"training_tokens_per_second": 1234.5, "decoding_tokens_per_second": 99.9}
    return {"row": name, "family": family, "contests": {"recall": result}, **speed}


LINES = [
    line("low", "linear", {"4": 0.7, "8": 0.3}, 512),
    line("high", "attention", {"4": 0.9, "8": 0.8}, 4096),
]


def test_the_table_ranks_and_shows_the_error():
    setting = replace(TINY, contests=(RECALL,))
    text = commands.markdown(setting, LINES).splitlines()
    rows = [[cell.strip() for cell in t.strip("|").split("|")] for t in text if t[0:1] == "|"][2:]
    expected = 100 * 0.02 / math.sqrt(3)
    assert [r[0] for r in rows] == ["high", "low"]
    assert rows[0][3:5] == ["4,096", f"85.0 ± {expected:.1f}"] and rows[1][4][:4] == "50.0"
    assert rows[0][5:] == ["1,230", "100"]


def test_the_figures_show_the_lines():
    fig = accuracy_by_size(LINES, "recall")
    assert [t.name for t in fig.data] == ["low", "high"]
    assert list(fig.data[1].x) == [4, 8] and list(fig.data[1].y) == [0.9, 0.8]
    assert fig.data[0].error_y.array[0] == pytest.approx(0.02 / math.sqrt(3), abs=1e-4)
    assert [t.name for t in accuracy_by_size(LINES, "recall", rows=["high"]).data] == ["high"]
    with pytest.raises(ValueError, match="no result of other"):
        accuracy_by_size(LINES, "recall", rows=["other"])
    fig = accuracy_by_state(LINES, "recall")
    assert [(t.name, t.x[0], t.y[0]) for t in fig.data] == [
        ("linear", 512, 0.5),
        ("attention", 4096, 0.85),
    ]
    fig = speeds(LINES)
    assert [(t.x[0], t.y[0]) for t in fig.data] == [(1230, 99.9)] * 2
    for drawn in (fig, accuracy_by_state(LINES, "recall", title="a finding")):
        assert drawn.layout.title.text and drawn.to_json() == drawn.to_json()


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "work", lambda: tmp_path)
    monkeypatch.setitem(SETTINGS, "tiny", TINY)
    return lambda *words: CliRunner().invoke(cli.app, ["leaderboard", *words])


def test_the_command_runs_shows_and_writes(command, tmp_path):
    words = ["--setting", "tiny", "--task", "parity", "--row", "gla", "--workers", "1"]
    said = command(*words, "--show")
    assert said.exit_code == 0 and "no result yet" in said.output
    said = command(*words, "--figures", str(tmp_path / "pages"))
    assert said.exit_code == 0 and "GLA" in said.output and "attention" not in said.output
    stored = board.load(tmp_path / "leaderboard" / "tiny")
    assert [line["row"] for line in stored] == ["GLA"]
    assert (tmp_path / "leaderboard" / "tiny.md").read_text().startswith("# Leaderboard, tiny")
    pages = {p.name for p in (tmp_path / "pages").glob("*.html")}
    assert pages == {"parity_state.html", "speeds.html"}
    assert command(*words, "--show", "--to", str(tmp_path / "x")).exit_code == 0
    assert (tmp_path / "x.json").exists()


def test_the_command_says_what_is_not_there(command):
    assert "no setting 'huge'" in str(command("--setting", "huge").exception)
    assert "no contest 'chess'" in str(command("--task", "chess").exception)
    assert "no architecture" in str(command("--row", "abacus").exception)


def test_the_small_setting_has_the_five_families():
    wanted = {"attention", "sliding-window attention", "linear attention", "GLA", "DeltaNet"}
    assert wanted <= set(SMALL.rows)
