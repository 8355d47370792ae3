"""HTML that is escaped by construction, and figures in words."""

import html
import json
import math
import unicodedata

# Characters that reorder the text around them: a model may emit one.
BIDI_CONTROLS = frozenset(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
VOID_TAGS = frozenset({"img", "meta"})


class Html(str):
    """Text that is HTML already and enters a page as it is."""


def visible(text: str) -> str:
    """`text` with its control characters (all but newline and tab) spelt out, as in ⟨U+001B⟩."""

    def symbol(char: str) -> str:
        hidden = char in BIDI_CONTROLS or unicodedata.category(char) in ("Cc", "Cs")
        return f"⟨U+{ord(char):04X}⟩" if hidden and char not in "\n\t" else char

    return "".join(map(symbol, text))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """`<name attributes>children</name>`, where everything that is not `Html` is escaped.

    Children and attributes that are None are left out. The attribute `class_` is written `class`,
    `data_metric` is written `data-metric`.
    """
    opening = name
    for key, value in attributes.items():
        if value is not None:
            key = key.rstrip("_").replace("_", "-")
            opening += f' {key}="{html.escape(visible(str(value)))}"'
    if name in VOID_TAGS:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """The children one after the other, escaped where they are not `Html`; None is left out."""
    return Html(
        "".join(
            child if isinstance(child, Html) else html.escape(visible(str(child)))
            for child in children
            if child is not None
        )
    )


def figure(value: float, digits: int = 4) -> str:
    """A number for reading: `digits` significant digits, and 12.3k, 4.56M, 7.89G for large ones."""
    if not math.isfinite(value):
        return str(float(value))
    for least, size, unit in (
        (1e12, 1e12, "T"),
        (1e9, 1e9, "G"),
        (1e6, 1e6, "M"),
        (9999.5, 1e3, "k"),
    ):
        if abs(value) >= least:
            return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Seconds for reading: "12.3 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def settings(values: dict) -> Html:
    """A nested dict as tables of key and value, with a foldable block for each dict inside it.

    Long ones start folded.
    """
    rows, blocks = [], []
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict) and value:
            opened = "" if len(value) <= 16 else None
            blocks.append(tag("details", tag("summary", key), settings(value), open=opened))
        else:
            rows.append(tag("tr", tag("th", key, scope="row"), tag("td", _setting(value))))
    table = tag("div", tag("table", *rows, class_="settings")) if rows else None
    return join(table, *blocks)


def _setting(value: object) -> str:
    """A string as it is, everything else (and the empty string) as JSON."""
    if isinstance(value, str) and value:
        return value
    return json.dumps(value, ensure_ascii=False)
