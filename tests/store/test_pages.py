"""Pages hold what a plain dict of lines would, and a copy is a thing of its own."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from knocker.store.pages import Pages

NAMES = [f"name-{number}" for number in range(12)] + ["name", "name-1x", "-", "a" * 64]


def line(name: str, text: str = "") -> bytes:
    return f'{{"id": "{name}", "text": "{text}"}}'.encode()


def lines(chunks: Pages) -> list[bytes]:
    """What a reader of the chunks finds."""
    text = b"".join(chunks.chunks())
    return sorted(text.split(b",\n")[1:])


STEPS = st.lists(st.tuples(st.sampled_from(["put", "drop"]), st.sampled_from(NAMES), st.sampled_from("xyz")))


@given(STEPS)
def test_pages_hold_what_was_put_and_not_dropped(steps: list[tuple[str, str, str]]) -> None:
    pages, known = Pages(), dict[str, bytes]()
    for step, name, text in steps:
        if step == "put":
            pages.put(name, line(name, text))
            known[name] = line(name, text)
        else:
            pages.drop(name)
            known.pop(name, None)
        assert len(pages) == len(known)
    assert sorted(pages) == lines(pages) == sorted(known.values())


def test_pages_grow_and_shrink_with_what_they_hold() -> None:
    chance = random.Random(1)
    names = [f"{chance.getrandbits(96):024x}" for _ in range(20_000)]
    pages = Pages()
    for name in names:
        pages.put(name, line(name))
    assert lines(pages) == sorted(map(line, names))
    assert 20_000 // 64 <= len(list(pages.chunks())) <= 20_000 // 16
    copy = pages.copy()
    chance.shuffle(names)
    for name in names[100:]:
        pages.drop(name)
    for name in names[:50]:
        pages.put(name, line(name, "other"))
    assert lines(pages) == sorted([line(name, "other") for name in names[:50]] + [line(name) for name in names[50:100]])
    assert len(list(pages.chunks())) <= 100 // 16 + 1
    assert len(copy) == 20_000
    assert lines(copy) == sorted(map(line, names))


def test_no_page_is_much_longer_than_the_others() -> None:
    pages = Pages()
    for number in range(10_000):
        pages.put(f"grant-{number:014d}", line(f"grant-{number:014d}"))
    assert max(page.count(b"\n") for page in pages._pages) < 64 * 4
