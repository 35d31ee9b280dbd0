"""A program of its own: a spreadsheet on standard input, its sheets (pickled) on standard output, which is a file.

calamine ends the whole process where a damaged file speaks of more cells than there is memory, and panics on others:
the process that ends so is this one.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, BinaryIO

LOCKED, DAMAGED = 3, 4
"""Exit codes: a password; not to be read."""
INDEX_SIZE = 8
"""Last bytes of the output: where in it the index begins, [(name, hidden, where the sheet's rows begin)]."""
_MEMORY = 4 << 30
_CHUNK = 5_000


def unfold(content: bytes, output: BinaryIO) -> None:
    """Write the rows of each sheet of cells, lists of (line, raw cells) and then None; see calamine for its exceptions.

    A cell that is merged downwards has its value in each of its lines.
    """
    import python_calamine as calamine

    index: list[tuple[str, bool, int]] = []
    with calamine.CalamineWorkbook.from_filelike(io.BytesIO(content)) as book:
        for meta in book.sheets_metadata:
            if meta.typ == calamine.SheetTypeEnum.WorkSheet:
                index.append((meta.name, meta.visible != calamine.SheetVisibleEnum.Visible, output.tell()))
                chunk: list[tuple[int, list[Any]]] = []
                for row in _rows(book.get_sheet_by_name(meta.name)):
                    chunk.append(row)
                    if len(chunk) == _CHUNK:
                        pickle.dump(chunk, output)
                        chunk = []
                pickle.dump(chunk, output)
                pickle.dump(None, output)
    place = output.tell()
    pickle.dump(index, output)
    output.write(place.to_bytes(INDEX_SIZE, "big"))


def _rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    """The rows that are not empty, with their lines."""
    # Downwards only: a title merged over the columns is one cell, not a value of each of them.
    begun: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for (top, left), (bottom, _) in sheet.merged_cell_ranges or ():
        if bottom > top:
            begun[top].append((left, bottom))
    going: list[tuple[int, int, Any]] = []
    for line, row in enumerate(sheet.iter_rows()):
        cells = list(row)
        for left, bottom, value in going:
            if line <= bottom and left < len(cells) and cells[left] in ("", None):
                cells[left] = value
        going = [merged for merged in going if line < merged[1]]
        going += [(left, bottom, cells[left]) for left, bottom in begun.get(line, ()) if left < len(cells)]
        if any(cell not in ("", None) for cell in cells):
            yield line + 1, cells


def main() -> int:
    import python_calamine as calamine

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):  # not on this system
        pass
    try:
        unfold(sys.stdin.buffer.read(), sys.stdout.buffer)
    except calamine.PasswordError:
        return LOCKED
    except (calamine.CalamineError, ValueError, OSError, KeyError):
        return DAMAGED
    return 0


if __name__ == "__main__":
    sys.exit(main())
