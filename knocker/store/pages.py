"""Lines of text by name, kept as few large texts, so that a copy of all costs next to nothing and so does a write.

A line lies in the page that its name's checksum tells, by linear hashing (Litwin 1980): the pages grow and shrink one
at a time, so that no change ever touches more than three of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_FULL = 64  # lines a page, on average at most; and a quarter of that at least


class Pages:
    """Lines, each of which begins with ``{"id": "NAME"``, has a name that no other has, and no line break."""

    def __init__(self) -> None:
        self._pages = [b""]  # of lines, each behind a comma and a line break
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        """All lines, in no order that means anything."""
        for page in self._pages:
            yield from page.split(b",\n")[1:]

    def copy(self) -> Pages:
        """All of it as it is now, whatever becomes of either."""
        other = Pages()
        other._pages, other._count = self._pages.copy(), self._count
        return other

    def chunks(self) -> Iterator[bytes]:
        """The lines, each behind a comma and a line break, as they are kept: joined they would be as much again."""
        return iter(self._pages)

    def put(self, name: str, line: bytes) -> None:
        """Have this line, in place of the one of that name if there is one."""
        self.drop(name)
        self._pages[self._place(name.encode())] += b",\n" + line
        self._count += 1
        if self._count > _FULL * len(self._pages):
            self._split()

    def drop(self, name: str) -> None:
        """Have no line of that name; none is no error."""
        key = name.encode()
        place = self._place(key)
        page = self._pages[place]
        start = page.find(b',\n{"id": "%b"' % key)
        if start < 0:
            return
        end = page.find(b",\n", start + 2)
        self._pages[place] = page[:start] + (page[end:] if end >= 0 else b"")
        self._count -= 1
        if len(self._pages) > 1 and self._count < _FULL // 4 * len(self._pages):
            self._merge()

    def _place(self, key: bytes) -> int:
        """Which page a name belongs to: its checksum's lowest bits, as many as there are pages for."""
        count, sum_ = len(self._pages), zlib.crc32(key)
        size = 1 << count.bit_length() - 1  # pages of the last full doubling
        place = sum_ & 2 * size - 1
        return place if place < count else sum_ & size - 1

    def _split(self) -> None:
        count = len(self._pages)
        old = count - (1 << count.bit_length() - 1)
        lines = self._pages[old].split(b",\n")[1:]
        self._pages[old] = b""
        self._pages.append(b"")
        for line in lines:
            self._pages[self._place(_name(line))] += b",\n" + line

    def _merge(self) -> None:
        last = self._pages.pop()
        count = len(self._pages)
        self._pages[count - (1 << count.bit_length() - 1)] += last


def _name(line: bytes) -> bytes:
    return line.split(b'"', 4)[3]
