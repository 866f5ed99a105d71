"""The table of the picture script's flags; the files beside this one enter their rows."""

from __future__ import annotations

from tests.diffusion.flags.seen import Seen
from tests.flags import Table

TABLE: Table[Seen] = Table()
row, elsewhere = TABLE.row, TABLE.see
