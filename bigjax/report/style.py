"""The page's style sheet: system fonts, light and dark, one column on a phone."""

CSS = """
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2130; --muted: #667085; --line: #e4e7ec;
  --train: #2f6fdb; --validation: #d9680d; --test: #8b3fd1; --other: #0d8a6a;
  --bad: #c8273a; --good: #16794a;
  --right: 37 99 213; --error: 217 55 55; --strong-ink: #ffffff;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11141a; --card: #1a1f28; --ink: #e6e9ef; --muted: #98a2b3; --line: #2b323e;
    --train: #74a7ff; --validation: #f79a4f; --test: #c496f5; --other: #4fcaa5;
    --bad: #ff7b85; --good: #5fd39a;
    --right: 60 120 230; --error: 226 72 72;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 48px 24px 72px; }
section { margin-top: 48px; }
h1 {
  display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; margin: 0 0 18px;
  font-size: 32px; line-height: 1.2; letter-spacing: -0.02em; overflow-wrap: anywhere;
}
h2 { margin: 0 0 14px; font-size: 19px; letter-spacing: -0.01em; }
h3 { margin: 26px 0 6px; font-size: 15px; }
p { margin: 0 0 14px; color: var(--muted); }
small { font-size: 12px; font-weight: 400; color: var(--muted); }
figure, dl, dd { margin: 0; }
pre { margin: 0; font-family: var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }

.status {
  padding: 3px 11px; border: 1px solid currentColor; border-radius: 99px; color: var(--validation);
  font-size: 13px; font-weight: 600; letter-spacing: 0;
}
.status.done { color: var(--good); }
header dl { display: flex; flex-wrap: wrap; gap: 10px 32px; }
dt { color: var(--muted); font-size: 13px; }
header dd { font-weight: 600; font-variant-numeric: tabular-nums; }

.headline { display: flex; flex-wrap: wrap; gap: 14px; }
.headline div, .plots figure, .images, .sample, .scroll, .command, .settings-columns > * {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
}
.headline div { min-width: 150px; padding: 16px 20px; }
.headline div { display: flex; flex-direction: column; justify-content: flex-end; }
.headline dd { font-size: 24px; font-weight: 600; line-height: 1.2; }
.headline div:first-child { min-width: 230px; }
.headline div:first-child dd { font-size: 46px; letter-spacing: -0.02em; }

.plots { display: grid; gap: 14px; }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
.plots figure { display: flex; flex-direction: column; padding: 16px 16px 10px; min-width: 0; }
.plots h3 { display: flex; justify-content: space-between; align-items: baseline; margin: 0; }
.plots h3 { gap: 10px; overflow-wrap: anywhere; }
.plots figcaption { display: flex; flex-wrap: wrap; gap: 0 12px; margin-bottom: 8px; }
.plots figcaption { color: var(--muted); font-size: 13px; }
.plots figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; }
.plots i { display: inline-block; width: 9px; height: 9px; margin-right: 6px; border-radius: 50%; }
.plots svg { display: block; width: 100%; height: auto; margin-top: auto; }
.plots svg text { fill: var(--muted); }

.images { display: grid; gap: 18px 14px; padding: 20px; }
.images { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
.images img { display: block; width: 100%; padding: 2px; border: 2px solid transparent; }
.images img { border-radius: 8px; }
.images small { white-space: nowrap; }
.pixelated { image-rendering: pixelated; }
.images figcaption { margin-top: 5px; font-size: 13px; line-height: 1.35; overflow-wrap: anywhere; }
.images b { margin-right: 6px; font-weight: 600; color: var(--good); }
.images span { display: block; }
.images .wrong img { border: 2px dashed var(--bad); }
.images .wrong b { color: var(--bad); }

.scroll { overflow-x: auto; padding: 18px 20px; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.matrix { border-collapse: separate; border-spacing: 2px; font-size: 13px; }
.matrix th { padding: 3px 8px; color: var(--muted); font-weight: 500; white-space: nowrap; }
.matrix th[scope=row] { text-align: right; }
.matrix td { min-width: 36px; height: 30px; padding: 0 6px; border-radius: 5px; }
.matrix td { text-align: center; }
.matrix.upright th[scope=col] { vertical-align: bottom; }
.matrix.upright th:not(.recall) span { writing-mode: vertical-rl; transform: rotate(180deg); }
.matrix .none { color: var(--muted); opacity: 0.45; }
.matrix .right { background: rgb(var(--right) / var(--strength)); }
.matrix .error { background: rgb(var(--error) / var(--strength)); font-weight: 600; }
.matrix .strong { color: var(--strong-ink); }
.matrix .recall { padding-left: 14px; text-align: right; }
.pairs th, .pairs td { padding: 5px 0 5px 18px; text-align: left; }
.pairs th, .pairs td { border-bottom: 1px solid var(--line); }
.pairs tr :first-child { padding-left: 0; }
.pairs th { color: var(--muted); font-size: 13px; font-weight: 500; }
.pairs tr:last-child td { border-bottom: 0; }
.pairs tr .number { text-align: right; }

.rows { font-size: 13.5px; }
.rows th, .rows td { padding: 6px 14px 6px 0; text-align: left; vertical-align: top; }
.rows th, .rows td { border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
.rows th { color: var(--muted); font-size: 13px; font-weight: 500; }
.rows td:first-child { color: var(--good); font-weight: 600; }
.rows .wrong td:first-child { color: var(--bad); }

.sample { margin-bottom: 14px; padding: 14px 20px 18px; }
.sample figcaption { margin-bottom: 8px; font-size: 13px; color: var(--muted); }
.sample pre { font-size: 13.5px; line-height: 1.6; }
mark { background: none; color: var(--train); font-weight: 600; }
mark { text-decoration: underline; text-underline-offset: 4px; }

.command { padding: 12px 16px; font-size: 13px; user-select: all; }
.settings-columns { columns: 330px; column-gap: 14px; }
.settings-columns > * { break-inside: avoid; margin-bottom: 14px; padding: 10px 16px; }
.settings { width: 100%; font-size: 13px; }
.settings th, .settings td { padding: 4px 0; text-align: left; vertical-align: top; }
.settings th { padding-right: 16px; color: var(--muted); font-weight: 400; }
.settings td { font-family: var(--mono); font-size: 12.5px; text-align: right; }
.settings td { overflow-wrap: anywhere; }
.settings tr + tr > * { border-top: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; }
details details { margin: 6px 0 6px 10px; }

@media (max-width: 600px) {
  main { padding: 28px 14px 48px; }
  h1 { font-size: 26px; }
  .headline div { flex: 1; min-width: 110px; padding: 12px 16px; }
  .headline div:first-child { flex-basis: 100%; }
  .images { grid-template-columns: repeat(auto-fill, minmax(74px, 1fr)); gap: 14px 10px; }
}
@media print {
  body { background: none; }
  figure, .headline div { break-inside: avoid; }
}
"""
