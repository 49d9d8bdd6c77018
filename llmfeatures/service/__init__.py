"""The HTTP service: `create_app` makes the FastAPI application of a project, ``llmfeatures serve`` runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmfeatures.service.app import create_app as create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """Load FastAPI only when the application is made."""
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmfeatures.service.app import create_app

    return create_app
