"""What the other process does: it materializes a project that this one then reads."""

from __future__ import annotations

from datetime import datetime

from llmfeatures import Project
from tests.parity.faults import plant


def fill(root: str, moments: list[datetime], fault: str | None) -> None:
    """Materialize up to each moment in turn, in full first and then incrementally."""
    undo = plant(fault, where="filler")
    try:
        for moment in moments:
            project = Project.load(root, now=lambda moment=moment: moment)
            project.materialize()
            project.close()
    finally:
        undo()
