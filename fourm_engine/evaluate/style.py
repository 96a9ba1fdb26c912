"""The report's style sheet: light and dark by the reader's setting, narrow and wide screens."""

STYLE = """
:root { color-scheme: light dark; --fg: #1c1f23; --soft: #667; --bg: #fff; --line: #d9dce1; --card: #f6f7f9;
  --good: 22 140 80; --bad: 200 50 50; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e8eb; --soft: #9aa3ad; --bg: #14171a; --line: #333a41;
  --card: #1d2126; --good: 40 170 100; --bad: 220 80 80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 84rem; color: var(--fg); background: var(--bg);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 70ch; } .soft, figcaption, th small { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; } .scores th:nth-child(2) { text-align: left; }
thead th { vertical-align: bottom; }
td.best { font-weight: 600; } td small { display: block; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.sample { background: var(--card); border-radius: .5rem; padding: .6rem .7rem; margin: .6rem 0; }
.sample > .soft { font-size: .8rem; }
.groups { display: flex; flex-wrap: wrap; gap: .8rem 1.4rem; align-items: flex-start; }
.group > b { font-size: .85rem; } .trio { display: flex; gap: .35rem; flex-wrap: wrap; }
figure { margin: 0; width: 8rem; } figure.text { width: 11.5rem; }
figure img { width: 100%; display: block; border-radius: .2rem;
  outline: 1px solid var(--line); } img.small { image-rendering: pixelated; }
figcaption { font-size: .75rem; } blockquote { margin: 0; padding: .3rem .5rem; border-left: 3px solid var(--line);
  font-size: .82rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .6rem; }
.curve { background: var(--card); border-radius: .4rem; padding: .3rem; }
.curve svg { width: 100%; height: auto; display: block; }
.key { display: inline-block; width: 1.4em; height: .25em; vertical-align: middle; margin-right: .3em; }
@media (max-width: 34rem) { figure { width: 6.1rem; } figure.text { width: 9.5rem; } body { padding: .7rem; } }
"""
