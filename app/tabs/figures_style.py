"""The look of curves, and of what text runs answer."""

CSS = """
.curve-grid { display: grid; gap: 1rem 1.6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
figure.curve { margin: 0; min-width: 0; }
figure.curve h3 { font-size: 1rem; margin: .3rem 0; }
ul.legend { list-style: none; margin: .3rem 0 0; padding: 0; font-size: .85rem; line-height: 1.35; }
ul.legend li { margin: .15rem 0; padding-left: 2rem; text-indent: -2rem; overflow-wrap: anywhere; }
ul.legend .swatch { display: inline-block; width: 1.5rem; margin-right: .5rem; vertical-align: middle;
  border-top: 3px solid; text-indent: 0; }
ul.legend .swatch.dashed { border-top-style: dashed; }
table.numbers td { white-space: nowrap; font-variant-numeric: tabular-nums; }
#run-a input, #run-b input { text-overflow: ellipsis; }
.asked { border-top: 1px solid var(--border-color-primary); padding: .4rem 0 .8rem; }
.asked h3 { font-size: 1rem; margin: .2rem 0; }
.asked .text { white-space: pre-wrap; overflow-wrap: anywhere; margin: .1rem 0 .4rem; }
.answers { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 210px), 1fr)); }
.answers section { padding: .4rem .6rem; border-radius: 6px; min-width: 0;
  background: var(--background-fill-secondary); }
.answers h4 { margin: 0 0 .2rem; font-size: .9rem; overflow-wrap: anywhere; }
.answers small { font-weight: 400; }
.mark { font-size: .8rem; padding: 0 .4rem; border-radius: 4px; border: 1px solid currentColor; white-space: nowrap; }
.mark.right { color: #15803d; } .mark.wrong { color: #b91c1c; }
.dark .mark.right { color: #86efac; } .dark .mark.wrong { color: #fca5a5; }
ul.legend .swatch.upright { border-color: #8a837d; border-top-style: dotted; }
"""
