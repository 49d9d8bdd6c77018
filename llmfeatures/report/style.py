"""The style of a report: light and dark, and readable on a narrow screen."""

from typing import Final

CSS: Final = """
:root{color-scheme:light dark;--bg:#fbfaf8;--card:#fff;--ink:#1d2430;--soft:#566070;--line:#dfe1e5;--bar:#3b6fb6;
--present:#2f7d6d;--null:#8a94a3;--expired:#d9932a;--missing:#c9685d;--mark:#fde9b8;--markink:#4a3200;--track:#eef0f3}
@media (prefers-color-scheme:dark){:root{--bg:#14171c;--card:#1c2027;--ink:#e6e9ee;--soft:#a5afbd;--line:#323843;
--bar:#6ea3ec;--present:#4fb39e;--null:#7b8594;--expired:#e3a84c;--missing:#c96a60;--mark:#5a4513;--markink:#ffeec2;
--track:#282d36}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 64px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:44px 0 12px}h3{font-size:1.02rem;margin:0;overflow-wrap:anywhere}
h4{font-size:.82rem;font-weight:600;color:var(--soft);margin:18px 0 6px}
p{margin:0 0 10px;overflow-wrap:anywhere}.soft,figcaption,caption{color:var(--soft);font-size:.86rem}
code,pre{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,monospace;font-size:.84rem}
.figures{display:flex;flex-wrap:wrap;gap:1px;background:var(--line);
border:1px solid var(--line);border-radius:8px;overflow:hidden;margin:18px 0}
.figures div{flex:1 1 132px;background:var(--card);padding:12px 14px}.figures dt{color:var(--soft);font-size:.8rem}
dl.figures{margin-left:0}.figures dd{margin:0;font-size:1.12rem;font-weight:600;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:16px 18px;
margin:0 0 16px;min-width:0}
.head{display:flex;flex-wrap:wrap;gap:2px 12px;align-items:baseline;justify-content:space-between}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:0 32px}
.two>*{min-width:0}.pair{gap:16px}
figure{margin:10px 0 0}svg{display:block;width:100%;height:110px;background:var(--track);border-radius:3px}
.axis{display:flex;justify-content:space-between;gap:8px;color:var(--soft);font-size:.78rem;margin-top:3px}
.key{display:flex;flex-wrap:wrap;gap:4px 16px;list-style:none;margin:10px 0 0;padding:0;font-size:.86rem}
.key li{font-variant-numeric:tabular-nums}
.key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
.present{fill:var(--present);background:var(--present)}.null{fill:var(--null);background:var(--null)}
.expired{fill:var(--expired);background:var(--expired)}.missing{fill:var(--missing);background:var(--missing)}
table{border-collapse:collapse;width:100%;font-size:.86rem}caption{text-align:left;padding-bottom:4px}
th,td{text-align:left;font-weight:400;padding:2px 8px 2px 0;vertical-align:middle}
thead th{color:var(--soft);font-size:.78rem}th[scope=row]{max-width:190px;overflow-wrap:anywhere;width:34%}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;padding-right:0;padding-left:8px;width:1%}
.bar{height:13px;background:var(--bar);border-radius:2px;min-width:1px}td.b{width:auto}
table+p{margin-top:8px}
details{margin-top:10px;font-size:.86rem}summary{cursor:pointer;color:var(--soft)}.scroll{overflow-x:auto;max-height:320px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:10px 0 0;max-height:420px;overflow:auto;line-height:1.5}
mark{background:var(--mark);color:var(--markink);border-radius:2px;padding:0 1px}
ul.plain{padding-left:18px;margin:4px 0}ul.plain li{overflow-wrap:anywhere}
:focus-visible{outline:2px solid var(--bar);outline-offset:2px}
@media (max-width:480px){main{padding:18px 12px 48px}.card{padding:13px 12px}h1{font-size:1.4rem}}
@media print{pre,.scroll{max-height:none}.card{break-inside:avoid}}
"""
