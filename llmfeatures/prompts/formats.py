"""Text forms of numbers, moments and words: pure, in English, the same on every machine.

A float counts as the shortest decimal that reads back the same, so that 2.675 is rounded as it is written, and halves
go to the even digit. Numbers are computed in a context of our own: a caller's decimal context changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final

Number = int | float | Decimal
Moment = datetime | date

_EXACT: Final = Context(prec=20_000, rounding=ROUND_HALF_EVEN, Emin=-999_999, Emax=999_999)
_SCALES: Final = ((3, "k"), (6, "M"), (9, "B"))

SYMBOLS: Final[Mapping[str, str]] = {
    "AUD": "A$", "BRL": "R$", "CAD": "CA$", "CNY": "CN¥", "EUR": "€", "GBP": "£", "HKD": "HK$", "ILS": "₪",
    "INR": "₹", "JPY": "¥", "KRW": "₩", "MXN": "MX$", "NZD": "NZ$", "PHP": "₱", "TWD": "NT$", "USD": "$", "VND": "₫",
}  # fmt: skip
"""The signs of currencies in English; any other is written as its code."""
_NO_PLACES: Final = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"}
)  # fmt: skip
_THREE_PLACES: Final = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})

MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
)  # fmt: skip
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIME_DIRECTIVES: Final = frozenset({"%H", "%-H", "%I", "%-I", "%M", "%S", "%f", "%p", "%T", "%Z"})
"""The directives that a date without a time has no text for."""
_DIRECTIVE: Final = re.compile(r"(%-?.?)", re.DOTALL)

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_AGES: Final = ((365 * _DAY, "year"), (30 * _DAY, "month"), (_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"))
_LENGTHS: Final = (
    (_DAY * 10**6, "d"), (_HOUR * 10**6, "h"), (_MINUTE * 10**6, "min"), (10**6, "s"), (10**3, "ms"),
)  # fmt: skip

_IRREGULAR: Final[Mapping[str, str]] = {
    "child": "children", "epoch": "epochs", "foot": "feet", "goose": "geese", "half": "halves", "hero": "heroes",
    "knife": "knives", "leaf": "leaves", "life": "lives", "man": "men", "mouse": "mice", "person": "people",
    "potato": "potatoes", "quiz": "quizzes", "shelf": "shelves", "stomach": "stomachs", "tomato": "tomatoes",
    "tooth": "teeth", "wife": "wives", "wolf": "wolves", "woman": "women",
}  # fmt: skip
_SAME: Final = frozenset(
    {"aircraft", "data", "deer", "fish", "media", "news", "offspring", "series", "sheep", "species"}
)  # fmt: skip
_LAST_WORD: Final = re.compile(r"[^\W\d_]+\Z")


def decimal_of(value: Number) -> Decimal:
    """The exact number that ``value`` is written as; zero has no sign.

    Raises:
        ValueError: it is not finite.
    """
    number = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise ValueError("not finite")
    return number or number.copy_abs()


def rounded(number: Decimal, places: int) -> Decimal:
    """The number with so many decimals, halves to the even digit; zero has no sign."""
    made = number.quantize(Decimal(1).scaleb(-places, context=_EXACT), context=_EXACT)
    return made or made.copy_abs()


def number_text(value: Number, places: int | None = None) -> str:
    """Digits in groups of three, with so many decimals; None: those that the value has, a float without ``.0``."""
    number = decimal_of(value)
    if places is not None:
        return f"{rounded(number, places):,f}"
    written = f"{number:,f}"
    return written.removesuffix(".0") if isinstance(value, float) else written


def compact_text(value: Number, places: int = 1) -> str:
    """The number in thousands, millions or billions, with at most so many decimals."""
    number = decimal_of(value)
    made, sign = _shortened(number, places), ""
    for power, letter in _SCALES:
        # what rounds up to a thousand of one unit is one of the next
        if made.copy_abs() < 1000:
            break
        made, sign = _shortened(number.scaleb(-power, context=_EXACT), places), letter
    return f"{made:,f}{sign}"


def percent_text(value: Number, places: int = 0) -> str:
    """A share of one as a percentage."""
    return f"{rounded(decimal_of(value).scaleb(2, context=_EXACT), places):,f}%"


def money_text(value: Number, currency: str, places: int | None = None) -> str:
    """The amount with its currency's sign or code, and the decimals that the currency has."""
    if places is None:
        places = 0 if currency in _NO_PLACES else 3 if currency in _THREE_PLACES else 2
    number = rounded(decimal_of(value), places)
    sign = "-" if number < 0 else ""
    return f"{sign}{SYMBOLS.get(currency, f'{currency} ')}{number.copy_abs():,f}"


def _shortened(number: Decimal, places: int) -> Decimal:
    made = rounded(number, places)
    whole = made.to_integral_value()
    return whole if made == whole else made.normalize(_EXACT)


# -- moments ---------------------------------------------------------------------------------------------------------


def directives(form: str) -> list[str]:
    """A date's form in pieces: what is written, then a directive, and so on; one that `DIRECTIVES` does not have has
    no meaning."""
    return _DIRECTIVE.split(form)


def _at(moment: Moment) -> datetime:
    return moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001


def _twelve(moment: Moment) -> int:
    return (_at(moment).hour + 11) % 12 + 1


DIRECTIVES: Final[Mapping[str, Callable[[Moment], str]]] = {
    "%Y": lambda moment: f"{moment.year:04}",
    "%y": lambda moment: f"{moment.year % 100:02}",
    "%m": lambda moment: f"{moment.month:02}",
    "%-m": lambda moment: f"{moment.month}",
    "%B": lambda moment: MONTHS[moment.month - 1],
    "%b": lambda moment: MONTHS[moment.month - 1][:3],
    "%d": lambda moment: f"{moment.day:02}",
    "%-d": lambda moment: f"{moment.day}",
    "%A": lambda moment: DAYS[moment.weekday()],
    "%a": lambda moment: DAYS[moment.weekday()][:3],
    "%j": lambda moment: f"{moment.timetuple().tm_yday:03}",
    "%G": lambda moment: f"{moment.isocalendar().year:04}",
    "%V": lambda moment: f"{moment.isocalendar().week:02}",
    "%u": lambda moment: f"{moment.isoweekday()}",
    "%F": lambda moment: f"{moment.year:04}-{moment.month:02}-{moment.day:02}",
    "%H": lambda moment: f"{_at(moment).hour:02}",
    "%-H": lambda moment: f"{_at(moment).hour}",
    "%I": lambda moment: f"{_twelve(moment):02}",
    "%-I": lambda moment: f"{_twelve(moment)}",
    "%M": lambda moment: f"{_at(moment).minute:02}",
    "%S": lambda moment: f"{_at(moment).second:02}",
    "%f": lambda moment: f"{_at(moment).microsecond:06}",
    "%p": lambda moment: "PM" if _at(moment).hour >= 12 else "AM",
    "%T": lambda moment: f"{_at(moment).hour:02}:{_at(moment).minute:02}:{_at(moment).second:02}",
    "%Z": lambda _: "UTC",
    "%%": lambda _: "%",
}
"""What each directive of a date's form writes."""


def ago_text(moment: Moment, as_of: Moment) -> str:
    """How long before or after ``as_of`` the moment is, in its largest whole unit; of a date, in days.

    A month is 30 days and a year 365.
    """
    if isinstance(moment, datetime) and isinstance(as_of, datetime):
        seconds = abs(as_of - moment) // timedelta(seconds=1)
        near = "just now" if seconds < _MINUTE else None
    else:
        moment, as_of = _day(moment), _day(as_of)
        days = (as_of - moment).days
        seconds, near = abs(days) * _DAY, {0: "today", 1: "yesterday", -1: "tomorrow"}.get(days)
    if near is not None:
        return near
    size, unit = next((size, unit) for size, unit in _AGES if seconds >= size)
    count = seconds // size
    said = f"{count:,} {unit}" if count == 1 else f"{count:,} {unit}s"
    return f"in {said}" if moment > as_of else f"{said} ago"


def duration_text(value: Number | timedelta) -> str:
    """A length of time in its two largest units of d, h, min, s and ms; what is left is cut off."""
    micros = value // timedelta(microseconds=1) if isinstance(value, timedelta) else _micros(value)
    sign, left = ("-" if micros < 0 else ""), abs(micros)
    for place, (size, unit) in enumerate(_LENGTHS):
        count, rest = divmod(left, size)
        if count:
            said = f"{sign}{count:,} {unit}"
            smaller, small = _LENGTHS[place + 1] if place + 1 < len(_LENGTHS) else (1, "")
            return f"{said} {rest // smaller} {small}" if small and rest // smaller else said
    return "0 s"


def _micros(value: Number) -> int:
    return int(decimal_of(value).scaleb(6, context=_EXACT).to_integral_value(rounding="ROUND_DOWN"))


def _day(moment: Moment) -> date:
    return moment.date() if isinstance(moment, datetime) else moment


# -- words -----------------------------------------------------------------------------------------------------------


def plural_of(words: str) -> str:
    """The plural of an English noun, or of the last word of several."""
    match = _LAST_WORD.search(words)
    if match is None:
        return f"{words}s"
    return words[: match.start()] + _plural(match[0])


def _plural(word: str) -> str:
    low = word.lower()
    if low in _SAME:
        return word
    if low in _IRREGULAR:
        made = _IRREGULAR[low]
        return made.upper() if word.isupper() else made.capitalize() if word[0].isupper() else made
    if word.isupper() and len(word) > 1:
        return f"{word}s"
    if low.endswith("y") and low[-2:-1] not in {"", *"aeiou"}:
        return f"{word[:-1]}ies"
    return f"{word}es" if low.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"
