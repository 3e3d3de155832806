"""The two pages of a report from one data object: a self-contained HTML file and a Markdown file.

Everything that comes from a run is escaped (jinja2 autoescape; Markdown cells by hand): a model's answer can hold any
text. No script, no outside resource; figures are inlined as PNG with few colours to keep the file small.
"""

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from rlvr_lib.progress import clock
from rlvr_lib.report.formats import EMPTY, Table, markdown_text, plain
from rlvr_lib.report.scores import LABELS, WEB_LABELS

if TYPE_CHECKING:
    from rlvr_lib.report.build import Report
    from rlvr_lib.report.claims import Claim

BADGES = {"reproduced": "yes", "not reproduced": "no", "inconclusive": "open", "not run": "none"}

CSS_PAGE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;font-size:.85rem;margin:.6rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid #e2e2e2;text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left} thead th{border-bottom:1.5px solid #555}
figcaption,small{color:#555;font-size:.78rem} figure{margin:1rem 0} img{max-width:100%;height:auto}
.warn{border-left:4px solid #D55E00;padding:.4rem .8rem;background:#fdf1e8}
@media print{body{max-width:none;margin:0;font-size:10pt} figure,table,tr{break-inside:avoid} h2{break-after:avoid}
.wide{overflow:visible} table{font-size:7.5pt} th,td{padding:.1rem .25rem}}
"""

CSS_TABLES = """
.wide{overflow-x:auto} .wide td.text,.wide th.text,.wide td:first-child{text-align:left}
.wide th.paper,.wide td.paper{background:#f4f4f4;color:#444}
.badge{white-space:nowrap;padding:.05rem .5rem;border-radius:.6rem;border:1px solid #777;font-size:.8rem}
.yes{background:#0072B2;color:#fff} .no{background:#D55E00;color:#fff} .open{background:#eee} .none{border-style:dashed}
.gap{white-space:nowrap}
tr.part td{border-bottom:1px dotted #e2e2e2;color:#444} .wide tr.part td:first-child{padding-left:1.6rem}
"""

CLAIMS = """<div class="wide"><table><thead>
<tr><th>claim</th><th class="paper text">the paper</th><th>ours (points; scores times 100)</th><th>n</th>
<th class="text">verdict</th></tr></thead><tbody>
{% for c in claims %}<tr><td><b>{{ c.id }}</b> {{ c.statement }}</td><td class="paper text">{{ c.paper }}</td>
<td></td><td></td><td class="text"><span class="badge {{ badge[c.verdict] }}">{{ c.verdict }}</span>
{% if c.why %}<br><small>{{ c.why }}</small>{% endif %}</td></tr>
{% for p in c.parts %}<tr class="part"><td>{{ p.name }}{{ "" if p.decides else " (context, does not decide)" }}</td>
<td class="paper text">{{ p.paper }}</td><td class="gap">{{ p.text }}</td>
<td>{{ p.interval.n if p.interval else "" }}</td>
<td class="text">{{ p.verdict }}</td></tr>
{% endfor %}{% endfor %}</tbody></table></div>
"""

TABLE = """{% for title, block in t.blocks.items() %}<p><i>{{ title }}</i></p>
<div class="wide">{{ table(block) }}</div>{% endfor %}
<p><small>{{ t.caption }}</small></p>
{% if t.left_out %}<ul>{% for model, why in t.left_out.items() %}
<li><small>left out: {{ labels.get(model, model) }}: {{ why }}</small></li>{% endfor %}</ul>{% endif %}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>RLVR-World workbook: {{ r.profile }}</title><style>{{ css }}</style></head><body>
<h1>RLVR-World, reproduced: report of profile {{ r.profile }}</h1>
<p><small>arXiv 2505.13934 &middot; seed {{ r.seed }} &middot; weights: {{ r.weights }}</small></p>
{% for text in r.warnings %}<p class="warn"><b>{{ text }}</b></p>{% endfor %}
{% if r.remaining %}<p class="warn"><b>Still to come:</b></p>
<ul>{% for x in r.remaining %}<li>{{ x }}</li>{% endfor %}</ul>
{% endif %}
<h2>Verdict per claim</h2>
<p><small>{{ rule }}</small></p>
{{ claims_page(r.claims) }}
<h2>Tables</h2>
{% for t in r.tables %}<h3>{{ t.title }}</h3>
{{ table_page(t) }}
{% else %}<p>None yet.</p>{% endfor %}
<h2>Figures</h2>
{% for path, caption in r.figures %}<figure><img src="{{ inline(path) }}" alt="{{ caption }}">
<figcaption>{{ caption }}</figcaption></figure>{% else %}<p>None yet.</p>{% endfor %}
<h2>How it was run</h2>
{% if stages is not none %}<div class="wide">{{ table(stages) }}</div>
{% else %}<p>No stage has finished yet.</p>{% endif %}
<h3>What was substituted</h3>
<ul>{% for x in r.substitutions %}<li>{{ x }}</li>{% else %}<li>Nothing recorded.</li>{% endfor %}</ul>
<h3>What is missing</h3>
<ul>{% for x in r.missing %}<li>{{ x }}</li>{% else %}<li>Nothing.</li>{% endfor %}</ul>
{% if r.notebooks %}<h3>Executed notebooks</h3><ul>{% for x in r.notebooks %}
<li><a href="notebooks/{{ x|urlencode }}">{{ x }}</a></li>{% endfor %}</ul>{% endif %}
<p><small>Report: {{ r.provenance }}</small></p></body></html>
"""

RULE = (
    "A part is reproduced when the 95 % interval of its paired difference excludes zero in the claimed direction, not "
    "reproduced when it excludes zero in the other, inconclusive otherwise; a claim is reproduced when all parts that "
    "decide are. Intervals cover the choice of test cases, not the spread between training seeds."
)


def _render(template: str, **values: Any) -> Markup:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return Markup(
        environment.from_string(template).render(table=html_table, labels=WEB_LABELS | LABELS, badge=BADGES, **values)
    )


def claims_page(claims: "list[Claim]") -> Markup:
    """The table of verdicts, parts under their claim."""
    return _render(CLAIMS, claims=claims)


def table_page(table: Table) -> Markup:
    """A table's blocks, caption and what was left out."""
    return _render(TABLE, t=table)


def render_html(report: "Report") -> str:
    """The page as one string without outside resources."""
    values = {"css": Markup(CSS_PAGE + CSS_TABLES), "rule": RULE, "stages": stage_frame(report)}
    return _render(PAGE, r=report, inline=inline_png, claims_page=claims_page, table_page=table_page, **values)


def html_table(frame: pd.DataFrame) -> Markup:
    """A plain table, every cell escaped; columns whose name begins with ``paper`` are shaded."""
    marks = [' class="paper"' if str(name).startswith("paper") else "" for name in frame.columns]
    head = "".join(f"<th{mark}>{escape(str(name))}</th>" for name, mark in zip(frame.columns, marks, strict=True))
    rows = (
        "".join(f"<td{mark}>{escape(str(cell))}</td>" for cell, mark in zip(row, marks, strict=True))
        for row in frame.itertuples(index=False)
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return Markup(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def inline_png(path: Path) -> str:
    """A data URI of the picture reduced to 128 colours (enough for line art, a quarter of the size)."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def stage_frame(report: "Report") -> pd.DataFrame | None:
    """Stages as a table: time, memory, hash, date; None when there is none."""
    rows: list[dict[str, Any]] = []
    for stage in (stage for stage in report.stages if not stage.problem):
        memory = stage.peak_memory_gib
        rows.append(
            {
                "stage": stage.name,
                "time (min:s)": clock(stage.seconds),
                "peak memory (GiB)": EMPTY if memory is None else f"{memory:.1f}",
                "seed": EMPTY if stage.seed is None else stage.seed,
                "sha256": stage.sha256[:12],
                "made": stage.provenance.get("date", EMPTY),
                "commit": str(stage.provenance.get("commit") or EMPTY)[:12],
            }
        )
    if not rows:
        return None
    total = {key: "" for key in rows[0]} | {
        "stage": "all",
        "time (min:s)": clock(sum(s.seconds for s in report.stages)),
    }
    return pd.DataFrame([*rows, total])


def render_markdown(report: "Report") -> str:
    """The same content as Markdown; figures are linked, not inlined."""
    parts = [f"# RLVR-World, reproduced: report of profile {report.profile}"]
    parts += [f"arXiv 2505.13934 · seed {report.seed} · weights: {plain(report.weights)}"]
    parts += [f"> **{text}**" for text in report.warnings]
    if report.remaining:
        parts += ["**Still to come:**", bullets(report.remaining)]
    parts += ["## Verdict per claim", RULE, claim_lines(report), "## Tables"]
    parts += [markdown_text(table) for table in report.tables] or ["None yet."]
    parts += ["## Figures"]
    parts += [f"![{caption}](figures/{path.name})\n\n{caption}" for path, caption in report.figures] or ["None yet."]
    stages = stage_frame(report)
    table = (
        "No stage has finished yet."
        if stages is None
        else stages.map(plain).to_markdown(index=False, disable_numparse=True)
    )
    parts += ["## How it was run", table]
    parts += ["### What was substituted", bullets(report.substitutions or ["Nothing recorded."])]
    parts += ["### What is missing", bullets(report.missing or ["Nothing."])]
    return "\n\n".join([*parts, f"<sub>Report: {plain(report.provenance)}</sub>"]) + "\n"


def claim_lines(report: "Report") -> str:
    """Claims as a Markdown table, the parts under their claim."""
    lines = ["| claim | the paper | ours (points; scores times 100) | n | verdict |", "| --- | --- | --- | --- | --- |"]
    for one in report.claims:
        note = f" ({one.why})" if one.why else ""
        lines.append(
            f"| **{one.id}** {plain(one.statement)} | {plain(one.paper)} | | | **{one.verdict}**{plain(note)} |"
        )
        for part in one.parts:
            name = part.name if part.decides else f"{part.name} (context)"
            n = part.interval.n if part.interval else ""
            lines.append(f"| – {plain(name)} | {plain(part.paper)} | {part.text} | {n} | {part.verdict} |")
    return "\n".join(lines)


def bullets(texts: Iterable[str]) -> str:
    """A Markdown list of escaped lines."""
    return "\n".join(f"- {plain(text)}" for text in texts)
