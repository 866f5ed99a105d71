"""The look of cards, lists and the blind test."""

CSS = """
table.list { border-collapse: collapse; width: 100%; font-size: .92rem; }
table.list th, table.list td { text-align: left; padding: .35rem .6rem; vertical-align: top; overflow-wrap: anywhere;
  border: 0; border-bottom: 1px solid var(--border-color-primary); }
table.list th[scope=row] { min-width: 9rem; }
table.list td { overflow-wrap: break-word !important; }
table.list thead th { white-space: nowrap; overflow-wrap: normal; }
table.list tr.open th { box-shadow: inset 4px 0 0 #ea580c; }
table.list tr.differs { background: rgba(217, 119, 6, .12); }
.pin { font-size: .8rem; font-weight: 400; padding: 0 .35rem; border: 1px solid currentColor; border-radius: 4px; }
.card h2 { font-size: 1.3rem; margin: .6rem 0 .2rem; overflow-wrap: anywhere; }
.card h3 { margin: 1rem 0 .3rem; }
.card h4 { margin: .5rem 0 .2rem; overflow-wrap: anywhere; }
.card pre { padding: .6rem .8rem; border-radius: 6px; background: var(--background-fill-secondary);
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
.links { display: flex; flex-wrap: wrap; gap: .5rem; }
.links a { display: inline-block; padding: .45rem .8rem; border: 1px solid currentColor; border-radius: 6px; }
.figures { display: flex; flex-wrap: wrap; gap: .6rem; }
.figures figure { margin: 0; max-width: 192px; }
.figures img { width: 100%; height: auto; }
#blind { align-items: flex-start; flex-wrap: nowrap; }
#blind > .side { flex: 1 1 0; max-width: 512px; min-width: 0 !important; }
"""
