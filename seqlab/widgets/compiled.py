"""A compiled kernel, its source beside what every line became: HTML that needs no running kernel.

The texts are long, so the page holds them compressed. If scripts do not run (on GitHub, or in a
notebook that is not trusted), the table of numbers stays, and a sentence says what is missing.
"""

import ast
import base64
import html
import json
import zlib
from collections import Counter

from IPython.display import HTML

from seqlab.figures.theme import COLORS, EDGE, MARKED, PAPER
from seqlab.gpu.compile import TENSOR_CORES, Report
from seqlab.gpu.stages import Line

NAMES = {"ttir": "TTIR", "ttgir": "TTGIR", "ptx": "PTX", "amdgcn": "AMD assembly"}


def compiled(report: Report) -> HTML:
    """The numbers as a table; below it source, TTIR, TTGIR and assembly, for one target at a time.

    A click on a line, or the arrow keys, marks one source line and all that it became. The page
    opens on the line with the most tensor core instructions; without any, on the line with the most
    lines of assembly.
    """
    targets = {target: _stages(c.stages) for target, c in report.targets.items()}
    data = {"source": _source(report), "targets": targets, "first": _first(report)}
    packed = base64.b64encode(zlib.compress(json.dumps(data).encode(), 9)).decode()
    page = _PAGE.replace("COLOURS", _COLOURS).replace("TABLE", _table(report))
    return HTML(page.replace("DATA", packed))


def _stages(stages: dict[str, list[Line]]) -> dict[str, list[list]]:
    """Name of a stage -> [text, source line] of each of its lines, 0 if it has no source."""
    return {
        NAMES[name]: [[line.text, line.source or 0] for line in lines]
        for name, lines in stages.items()
    }


def _first(report: Report) -> int:
    """The source line that is marked at first."""
    assembly = []
    for c in report.targets.values():
        assembly += [line for line in list(c.stages.values())[-1] if line.source]
    dots = [line for line in assembly if TENSOR_CORES.match(line.text)]
    made = Counter(line.source or 0 for line in dots or assembly)
    return made.most_common(1)[0][0] if made else 0


def _source(report: Report) -> list[list]:
    """[text, number] of the functions that became code, in the order of the file."""
    stages = [stage for c in report.targets.values() for stage in c.stages.values()]
    lines = {line.source for stage in stages for line in stage if line.source is not None}
    if not lines:
        return []
    try:
        spans = [_span(node) for node in ast.parse("\n".join(report.source.values())).body]
    except SyntaxError:  # a notebook cell with a magic command
        spans = [(min(lines), max(lines))]
    kept = [(a, b) for a, b in spans if any(a <= n <= b for n in lines)]
    return [[report.source[n], n] for a, b in kept for n in range(a, b + 1) if n in report.source]


def _span(node: ast.stmt) -> tuple[int, int]:
    """The first and last line of a statement, with its decorators."""
    decorators = [d.lineno for d in getattr(node, "decorator_list", ())]
    return min([node.lineno, *decorators]), node.end_lineno or node.lineno


def _table(report: Report) -> str:
    names, *rows = ([html.escape(cell) for cell in row] for row in report.rows())
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    body = ""
    for target, *numbers in rows:
        cells = "".join(f"<td>{number}</td>" for number in numbers)
        body += f"<tr><th scope='row'>{target}</th>{cells}</tr>"
    for target, said in report.failed.items():
        cell = f"<td colspan='{len(names) - 1}'>does not compile: {html.escape(said)}</td>"
        body += f"<tr><th scope='row'>{target}</th>{cell}</tr>"
    title = f"<p><b>{html.escape(report.kernel)}</b>, {html.escape(report.title)}</p>"
    return f"{title}<div class='wide'><table><tr>{head}</tr>{body}</table></div>"


_COLOURS = f"""--line: {COLORS["decay"]}; --chosen: {COLORS["q"]}; --on-chosen: {PAPER};
  --edge: {EDGE}; --marked: {MARKED}; --on-marked: {COLORS["softmax"]};
  --mark: {COLORS["write"]};"""

_PAGE = """<div class="seqlab-compiled">
<style>
.seqlab-compiled { COLOURS }
.seqlab-compiled { container-type: inline-size; }
.seqlab-compiled .wide { overflow-x: auto; }
.seqlab-compiled table { font-size: 12px; margin: 4px 0 10px 0; }
.seqlab-compiled table :is(th, td) { padding: 2px 12px 2px 0; text-align: right; }
.seqlab-compiled table :is(:first-child, :nth-child(n+7)) { text-align: left; }
.seqlab-compiled button { font: inherit; font-size: 13px; padding: 2px 12px; margin: 0 4px 8px 0;
  border-radius: 3px; cursor: pointer; border: 1px solid var(--line); background: transparent;
  color: inherit; }
.seqlab-compiled button[aria-selected=true] { border-color: var(--chosen);
  background: var(--chosen); color: var(--on-chosen); font-weight: 600; }
.seqlab-compiled .boxes { display: grid; gap: 8px; grid-template-columns: repeat(4, 1fr); }
@container (max-width: 1500px) {
  .seqlab-compiled .boxes { grid-template-columns: repeat(2, 1fr); }
}
@container (max-width: 560px) { .seqlab-compiled .boxes { grid-template-columns: 1fr; } }
.seqlab-compiled .stage { min-width: 0; }
.seqlab-compiled .title { font-size: 12px; margin-bottom: 2px; }
.seqlab-compiled .box { max-height: 300px; overflow: auto; position: relative; cursor: pointer;
  border: 1px solid var(--edge); border-radius: 3px; white-space: pre;
  font: 11px/1.4 "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.seqlab-compiled :is(.box, button):focus-visible { outline: 2px solid var(--chosen);
  outline-offset: 1px; }
.seqlab-compiled .lines { display: inline-block; min-width: 100%; }
.seqlab-compiled .line { padding: 0 8px 0 0; border-left: 4px solid transparent; }
.seqlab-compiled .number { display: inline-block; width: 4ch; margin-right: 1ch;
  text-align: right; opacity: .55; }
.seqlab-compiled .nothing { opacity: .55; cursor: default; }
.seqlab-compiled .marked { background: var(--marked); color: var(--on-marked);
  border-left-color: var(--mark); }
</style>
TABLE
<p class="note">TTIR, TTGIR and assembly beside the source: run this cell to see them here.</p>
<script>
(async () => {
  const root = document.currentScript.closest(".seqlab-compiled");
  const stream = new Blob([Uint8Array.from(atob("DATA"), c => c.charCodeAt(0))]).stream();
  const data = await new Response(stream.pipeThrough(new DecompressionStream("deflate"))).json();
  const make = (tag, name, parent, text) => {
    const node = document.createElement(tag);
    node.className = name;
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  root.querySelector(".note").textContent =
    "Click a line, or press ↑ and ↓ in a box: what one source line became is marked in each stage.";
  const tabs = make("div", "tabs", root), boxes = make("div", "boxes", root);
  tabs.setAttribute("role", "tablist");
  let target = Object.keys(data.targets)[0], selected = data.first, shown = [];

  function box(title, lines) {
    const whole = make("div", "stage", boxes), head = make("div", "title", whole);
    const view = make("div", "box", whole), list = make("div", "lines", view);
    view.tabIndex = 0;
    view.setAttribute("aria-label", title);
    view.dataset.lmSuppressShortcuts = "true";  // JupyterLab's own use of the arrow keys
    const rows = lines.map(([text, source]) => {
      const row = make("div", "line", list);
      make("span", "number", row, source || "");
      row.append(text || " ");
      row.dataset.source = source;
      return row;
    });
    view.addEventListener("click", e => choose(Number(e.target.closest(".line")?.dataset.source)));
    view.addEventListener("keydown", e => {
      const step = {ArrowUp: -1, ArrowDown: 1}[e.key];
      if (!step) return;
      e.preventDefault();
      e.stopPropagation();
      const at = made().indexOf(selected);
      choose(made()[Math.min(Math.max(at + step, 0), made().length - 1)]);
    });
    return {title, head, view, rows};
  }
  const stages = () => data.targets[target];
  const made = () => {
    const some = new Set(Object.values(stages()).flatMap(lines => lines.map(line => line[1])));
    return data.source.map(line => line[1]).filter(n => some.has(n));
  };
  function choose(source) {
    if (!made().includes(source)) return;
    selected = source;
    mark();
  }
  function mark() {
    for (const {title, head, view, rows} of shown) {
      const hits = rows.filter(row => Number(row.dataset.source) === selected);
      rows.forEach(row => row.classList.toggle("marked", hits.includes(row)));
      const count = rows.length === data.source.length && title === "Source" ? `line ${selected}` :
        `${hits.length} of ${rows.length} lines from line ${selected}`;
      const name = Object.assign(document.createElement("b"), {textContent: title});
      head.replaceChildren(name, ` · ${count}`);
      if (hits.length) {
        const first = hits[0].offsetTop, last = hits[hits.length - 1].offsetTop;
        const seen = first >= view.scrollTop && first < view.scrollTop + view.clientHeight - 20;
        if (!seen) view.scrollTop = Math.max(0, first - Math.min(view.clientHeight / 3, 100));
      }
    }
  }
  function draw() {
    boxes.replaceChildren();
    tabs.querySelectorAll("button").forEach(b => {
      b.setAttribute("aria-selected", b.textContent === target);
      b.tabIndex = b.textContent === target ? 0 : -1;
    });
    const source = box("Source", data.source);  // each box is appended to the page: first this one
    shown = [source, ...Object.entries(stages()).map(([name, lines]) => box(name, lines))];
    const some = new Set(made());
    shown[0].rows.forEach(
      row => row.classList.toggle("nothing", !some.has(Number(row.dataset.source))));
    if (!some.has(selected)) selected = made()[0];
    mark();
  }
  for (const name of Object.keys(data.targets)) {
    const button = make("button", "tab", tabs, name);
    button.type = "button";
    button.setAttribute("role", "tab");
    button.dataset.lmSuppressShortcuts = "true";
    button.addEventListener("click", () => { target = name; draw(); });
    button.addEventListener("keydown", e => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[e.key];
      if (!step) return;
      e.preventDefault();
      e.stopPropagation();
      const all = [...tabs.children];
      const next = all[(all.indexOf(button) + step + all.length) % all.length];
      next.click();
      next.focus();
    });
  }
  draw();
})();
</script>
</div>
"""
