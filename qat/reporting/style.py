"""The style sheet of reports: wide and narrow, light and dark, on a screen and on paper."""

from __future__ import annotations

LIGHT = """--paper:#ffffff;--card:#f5f7f9;--ink:#1a2027;--muted:#57616d;--rule:#d7dde4;--good:#00724e;--bad:#b3401a;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b5588f;--c4:#b98600;--c5:#3d97cf;--c6:#5b6470;--c7:#8a6d3b"""
DARK = """--paper:#12161b;--card:#1b2128;--ink:#e4e8ec;--muted:#9ca7b3;--rule:#333c46;--good:#4fc79d;--bad:#ff9a6b;
--c0:#5ab4f0;--c1:#ff9350;--c2:#4fc79d;--c3:#e39ac6;--c4:#e8bd4a;--c5:#8fd0ff;--c6:#9ca7b3;--c7:#c9aa74"""
CLASSES = "".join(f".c{k}{{--c:var(--c{k})}}" for k in range(8))
OPACITIES = "".join(f"svg .o{k}{{fill-opacity:{0.1 + 0.1 * k:.1f}}}" for k in range(10))
STYLE = (
    f""":root{{color-scheme:light dark;{LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}
@media print{{:root{{color-scheme:light;{LIGHT}}}}}
{CLASSES}
{OPACITIES}"""
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{font:15px/1.55 "Segoe UI","Helvetica Neue",Helvetica,Arial,"DejaVu Sans",sans-serif;color:var(--ink);
background:var(--paper);margin:0 auto;max-width:78rem;padding:1.6rem 1.2rem 3rem;overflow-wrap:anywhere}
h1{font-size:1.65rem;line-height:1.25;margin:0 0 .3rem}
h2{font-size:1.2rem;margin:0 0 .5rem;line-height:1.3}
h3{font-size:1rem;margin:0 0 .25rem}
p{margin:.4rem 0;max-width:46rem}
a{color:var(--c0)}
.from,.note,figcaption,caption{color:var(--muted)}
.note,figcaption{font-size:.87rem}
nav{margin:1.1rem 0;padding:.55rem 0;border-block:1px solid var(--rule)}
nav a{display:inline-block;margin:.1rem 1rem .1rem 0;text-decoration:none}
nav a:hover{text-decoration:underline}
section{margin:2.4rem 0 0;padding-top:.9rem;border-top:1px solid var(--rule)}
nav+section{border-top:0;margin-top:1rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.6rem,1fr));gap:.7rem;margin:1.1rem 0}
.tile{background:var(--card);border-radius:8px;padding:.6rem .8rem}
.tile b{display:block;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums}
.tile span{display:block;color:var(--muted);font-size:.85rem;line-height:1.35}
.tile.good b{color:var(--good)}
.tile.bad b{color:var(--bad)}
.wide{overflow-x:auto;margin:.7rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.22rem .7rem;text-align:right;border-bottom:1px solid var(--rule);overflow-wrap:normal;
vertical-align:top}
th{border-bottom:2px solid var(--rule);font-weight:600;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;padding-left:0;overflow-wrap:anywhere;min-width:7rem}
td.share{min-width:7rem;text-align:left}
td.share i{display:block;height:.65em;margin-top:.45em;background:var(--c0);border-radius:2px}
table.facts td{text-align:left;min-width:0;overflow-wrap:anywhere}
table.facts td:first-child{color:var(--muted);white-space:nowrap;min-width:6.5rem}
tr.total td{font-weight:600;border-bottom:0}
pre{background:var(--card);border-radius:6px;padding:.7rem .9rem;margin:.6rem 0;white-space:pre-wrap;
overflow-wrap:anywhere;font:13px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre span{display:inline-block;max-width:100%;vertical-align:top}
figure{margin:.6rem 0;min-width:0}
figure svg{display:block;width:100%;height:auto}
figure svg.plot{fill:var(--ink);width:auto;max-width:100%}
figcaption{margin-top:.15rem;max-width:46rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:.6rem 1.6rem;
align-items:start}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17.5rem),1fr));gap:.9rem;margin:.8rem 0}
.card{background:var(--card);border-radius:8px;padding:.65rem .8rem;min-width:0}
details summary{cursor:pointer;color:var(--c0);margin:.8rem 0}
.card p{font-size:.87rem;margin:.15rem 0}
.flow{display:flex;flex-wrap:wrap;gap:0 1.2rem;align-items:flex-start}
.flow svg{flex:0 1 22rem;width:min(100%,22rem);height:auto}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:.9rem;margin:.8rem 0}
.samples pre span{display:inline-block;max-width:100%;vertical-align:top}
figure{margin:0}
.samples img{display:block;width:100%;max-width:9.5rem;height:auto;border-radius:4px;background:var(--card)}
.samples img.small{image-rendering:pixelated}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;font-size:.87rem;color:var(--muted);margin:.15rem 0;
max-width:none}
.legend i{display:inline-block;width:.85em;height:.85em;margin-right:.4em;border-radius:2px;background:var(--c);
vertical-align:-.06em}
.legend i.rule{height:2px;vertical-align:.28em;width:1.1em}
.legend i.rule.limit,.legend i.limit{height:2px;width:1.7em;vertical-align:.25em;border-radius:0;
background:repeating-linear-gradient(90deg,var(--c,var(--muted)) 0 5px,transparent 5px 8px)}
svg text{font:11px "Segoe UI","Helvetica Neue",Helvetica,Arial,"DejaVu Sans",sans-serif;fill:var(--ink)}
svg .tick,svg .label,svg .small{fill:var(--muted)}
svg .tick,svg .small{font-size:10px}
svg .name{font-weight:600;font-size:12px}
svg .onit{fill:var(--paper)}
svg .grid{stroke:var(--rule);fill:none;stroke-width:.8}
svg .axis{stroke:var(--muted);fill:none}
svg .line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
svg .dash{stroke-dasharray:5 3}
svg .thin{stroke-width:1.1}
svg .fill{fill:var(--c)}
svg .soft{fill:var(--c);fill-opacity:.32;stroke:var(--c);stroke-width:.7}
svg .pale{fill:var(--c);fill-opacity:.16}
svg .code{stroke:var(--c);stroke-width:.8;fill:none}
svg .node{fill:var(--card);stroke:var(--rule)}
svg .edge{fill:none;stroke:var(--muted);stroke-width:1.4}
svg .arrow{fill:var(--muted)}
svg .lane{fill:none;stroke:var(--c);stroke-width:1.8}
svg .lanearrow{fill:var(--c)}
svg .limit{stroke:var(--c,var(--muted));stroke-width:1.4;stroke-dasharray:4 3;fill:none}
svg .cell{stroke:var(--paper);stroke-width:1}
svg .empty{fill:var(--card)}
.pair.stages{margin-top:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}
footer{margin-top:3rem;color:var(--muted);font-size:.87rem}
@media (max-width:600px){.samples{grid-template-columns:repeat(auto-fill,minmax(6.4rem,1fr))}
body{padding:1.1rem .9rem 2rem}
h1{font-size:1.35rem}
.tiles{grid-template-columns:1fr 1fr}
th,td{padding:.2rem .4rem;font-size:.85rem}
td.share{min-width:3rem}
.minor{display:none}
th:first-child,td:first-child{min-width:5.4rem}
.tile b{font-size:1.15rem}}
@media print{body{font-size:10.5pt;max-width:none;padding:0}
nav{display:none}
section{margin-top:1.4rem}
.card,.tile{border:1px solid var(--rule)}
.card,figure,tr,.tile,pre,.flow svg{break-inside:avoid}
h2,h3{break-after:avoid}
.wide{overflow:visible}
.cards{grid-template-columns:1fr 1fr 1fr;gap:.5rem}
table{font-size:8pt}
th,td{padding:.12rem .4rem}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
@page{margin:14mm}
"""
)
