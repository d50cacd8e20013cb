"""A compiled kernel, its source beside what every line became: HTML that needs no running kernel.

The texts travel compressed inside the page, for they are long. Where scripts do not run (GitHub, a
notebook that is not trusted) the table of numbers stays, and a sentence says what is missing.
"""

import ast
import base64
import html
import json
import zlib
from collections import Counter

from IPython.display import HTML

from seqlab.gpu.compile import TENSOR_CORES, Report

NAMES = {"ttir": "TTIR", "ttgir": "TTGIR", "ptx": "PTX", "amdgcn": "AMD assembly"}


def compiled(report: Report) -> HTML:
    """The numbers as a table; below it source, TTIR, TTGIR and assembly, a target at a time.

    A click on a line, or the arrow keys, marks one source line and all it became. Opens on the line
    of the most tensor core instructions, or of the most lines of assembly where there is none.
    """
    shown = _source(report)
    stages = {
        target: {
            NAMES[name]: [[line.text, line.source or 0] for line in lines]
            for name, lines in c.stages.items()
        }
        for target, c in report.targets.items()
    }
    data = {"source": shown, "targets": stages, "first": _first(report)}
    packed = base64.b64encode(zlib.compress(json.dumps(data).encode(), 9)).decode()
    return HTML(_PAGE.replace("TABLE", _table(report)).replace("DATA", packed))


def _first(report: Report) -> int:
    assembly = [
        line for c in report.targets.values() for line in list(c.stages.values())[-1] if line.source
    ]
    dots = [line for line in assembly if TENSOR_CORES.match(line.text)]
    made = Counter(line.source for line in dots or assembly)
    return made.most_common(1)[0][0] if made else 0


def _source(report: Report) -> list[list]:
    """[text, number] of the functions that became code, in the order of the file."""
    lines = {
        line.source
        for c in report.targets.values()
        for stage in c.stages.values()
        for line in stage
    } - {None}
    if not lines:
        return []
    spans = [(min(lines), max(lines))]
    try:
        body = ast.parse("\n".join(report.source.values())).body
        spans = [
            (min([n.lineno, *(d.lineno for d in getattr(n, "decorator_list", ()))]), n.end_lineno)
            for n in body
        ]
    except SyntaxError:  # a notebook cell with a magic command
        pass
    kept = [(a, b) for a, b in spans if any(a <= n <= b for n in lines)]
    return [[report.source[n], n] for a, b in kept for n in range(a, b + 1) if n in report.source]


def _table(report: Report) -> str:
    head, *rows = report.rows()
    cells = [[html.escape(cell) for cell in row] for row in (head, *rows)]
    body = "".join(
        f"<tr><th scope='row'>{r[0]}</th>{''.join(f'<td>{c}</td>' for c in r[1:])}</tr>"
        for r in cells[1:]
    )
    head = "".join(f"<th scope='col'>{c}</th>" for c in cells[0])
    title = f"<p><b>{html.escape(report.kernel)}</b>, compiled, not run</p>"
    return f"{title}<div class='wide'><table><tr>{head}</tr>{body}</table></div>"


_PAGE = """<div class="seqlab-compiled">
<style>
.seqlab-compiled { container-type: inline-size; }
.seqlab-compiled .wide { overflow-x: auto; }
.seqlab-compiled table { font-size: 12px; margin: 4px 0 10px 0; }
.seqlab-compiled table :is(th, td) { padding: 2px 12px 2px 0; text-align: right; }
.seqlab-compiled table :is(:first-child, :nth-child(n+7)) { text-align: left; }
.seqlab-compiled button { font: inherit; font-size: 13px; padding: 2px 12px; margin: 0 4px 8px 0;
  border-radius: 3px; cursor: pointer; border: 1px solid #8C8C8C; background: transparent; color: inherit; }
.seqlab-compiled button[aria-selected=true] { border-color: #0072B2; background: #0072B2; color: #FFF;
  font-weight: 600; }
.seqlab-compiled .boxes { display: grid; gap: 8px; grid-template-columns: repeat(4, 1fr); }
@container (max-width: 1500px) { .seqlab-compiled .boxes { grid-template-columns: repeat(2, 1fr); } }
@container (max-width: 560px) { .seqlab-compiled .boxes { grid-template-columns: 1fr; } }
.seqlab-compiled .stage { min-width: 0; }
.seqlab-compiled .title { font-size: 12px; margin-bottom: 2px; }
.seqlab-compiled .box { max-height: 300px; overflow: auto; position: relative; cursor: pointer;
  border: 1px solid #B5B5B5; border-radius: 3px; white-space: pre;
  font: 11px/1.4 "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.seqlab-compiled .box:focus-visible, .seqlab-compiled button:focus-visible { outline: 2px solid #0072B2;
  outline-offset: 1px; }
.seqlab-compiled .lines { display: inline-block; min-width: 100%; }
.seqlab-compiled .line { padding: 0 8px 0 0; border-left: 4px solid transparent; }
.seqlab-compiled .number { display: inline-block; width: 4ch; margin-right: 1ch; text-align: right; opacity: .55; }
.seqlab-compiled .nothing { opacity: .55; cursor: default; }
.seqlab-compiled .marked { background: #FCE4C8; color: #222; border-left-color: #D55E00; }
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
    "Click a line, or press ↑ and ↓ in a box: what one source line became is marked in every stage.";
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
      head.replaceChildren(Object.assign(document.createElement("b"), {textContent: title}), ` · ${count}`);
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
    shown = [box("Source", data.source), ...Object.entries(stages()).map(([name, lines]) => box(name, lines))];
    const some = new Set(made());
    shown[0].rows.forEach(row => row.classList.toggle("nothing", !some.has(Number(row.dataset.source))));
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
      const all = [...tabs.children], next = all[(all.indexOf(button) + step + all.length) % all.length];
      next.click();
      next.focus();
    });
  }
  draw();
})();
</script>
</div>
"""
