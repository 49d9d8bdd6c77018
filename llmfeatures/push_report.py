"""What a push is answered with: here, and by a service, which a client reads without the libraries that push."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmfeatures.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """What became of a push that is durable.

    ``rows`` were accepted under ``push_id``; when it is ``repeated``, an earlier push with this id has them, and
    nothing was added. ``online`` is False when they could not be written online, for the reason ``problem``: the next
    materialize does it. ``cause`` is the exception behind it; None from a service.
    """

    view: str
    push_id: str
    rows: int
    repeated: bool
    online: bool
    problem: str | None = None
    cause: StoreError | None = field(default=None, repr=False, compare=False)
