"""A program of its own: a spreadsheet on standard input, its sheets (pickled) on standard output.

calamine ends the whole process where a damaged file speaks of more cells than there is memory, and panics on others:
the process that ends so is this one.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

LOCKED, DAMAGED = 3, 4
"""Exit codes: a password; not to be read."""
_MEMORY = 4 << 30


def unfold(content: bytes) -> list[tuple[str, bool, list[list[Any]], list[Any]]]:
    """(name, hidden, rows of raw cells, merged ranges) of each sheet of cells; see calamine for its exceptions."""
    import python_calamine as calamine

    sheets = []
    with calamine.CalamineWorkbook.from_filelike(io.BytesIO(content)) as book:
        for meta in book.sheets_metadata:
            if meta.typ == calamine.SheetTypeEnum.WorkSheet:
                sheet = book.get_sheet_by_name(meta.name)
                hidden = meta.visible != calamine.SheetVisibleEnum.Visible
                rows = [list(cells) for cells in sheet.to_python(skip_empty_area=False)]
                sheets.append((meta.name, hidden, rows, list(sheet.merged_cell_ranges or ())))
    return sheets


def main() -> int:
    import python_calamine as calamine

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):  # not on this system
        pass
    try:
        sheets = unfold(sys.stdin.buffer.read())
    except calamine.PasswordError:
        return LOCKED
    except (calamine.CalamineError, ValueError, OSError, KeyError):
        return DAMAGED
    pickle.dump(sheets, sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
