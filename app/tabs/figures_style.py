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
ul.legend .swatch.upright { border-color: #8a837d; border-top-style: dotted; }
"""
