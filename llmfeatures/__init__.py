"""Typed, fresh facts about a user in an LLM's prompt, and the exact prompt of any moment in history."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llmfeatures.version import __version__

if TYPE_CHECKING:
    from llmfeatures.builder import AsyncContextBuilder as AsyncContextBuilder
    from llmfeatures.builder import ContextBuilder as ContextBuilder
    from llmfeatures.client import AsyncClient as AsyncClient
    from llmfeatures.client import Client as Client
    from llmfeatures.context import FeatureValue as FeatureValue
    from llmfeatures.context import Manifest as Manifest
    from llmfeatures.context import PromptContext as PromptContext
    from llmfeatures.errors import LLMFeaturesError as LLMFeaturesError
    from llmfeatures.history import History as History
    from llmfeatures.ondemand import OnDemandFeature as OnDemandFeature
    from llmfeatures.ondemand import on_demand as on_demand
    from llmfeatures.project import Project as Project
    from llmfeatures.registry import Registry as Registry
    from llmfeatures.retriever import DocumentSource as DocumentSource
    from llmfeatures.retriever import FunctionEmbedder as FunctionEmbedder
    from llmfeatures.retriever import OnnxEmbedder as OnnxEmbedder
    from llmfeatures.retriever import OpenAIEmbedder as OpenAIEmbedder
    from llmfeatures.retriever import Retriever as Retriever
    from llmfeatures.schema import Aggregation as Aggregation
    from llmfeatures.schema import Entity as Entity
    from llmfeatures.schema import Expect as Expect
    from llmfeatures.schema import Feature as Feature
    from llmfeatures.schema import FeatureView as FeatureView
    from llmfeatures.schema import ParquetSource as ParquetSource
    from llmfeatures.schema import PushSource as PushSource
    from llmfeatures.schema import SqlSource as SqlSource
    from llmfeatures.tools import AsyncTools as AsyncTools
    from llmfeatures.tools import Tools as Tools

_WHERE = {
    "Aggregation": "schema",
    "AsyncClient": "client",
    "AsyncContextBuilder": "builder",
    "AsyncTools": "tools",
    "Client": "client",
    "ContextBuilder": "builder",
    "DocumentSource": "retriever",
    "Entity": "schema",
    "Expect": "schema",
    "Feature": "schema",
    "FeatureValue": "context",
    "FeatureView": "schema",
    "FunctionEmbedder": "retriever",
    "History": "history",
    "LLMFeaturesError": "errors",
    "Manifest": "context",
    "OnDemandFeature": "ondemand",
    "OnnxEmbedder": "retriever",
    "OpenAIEmbedder": "retriever",
    "ParquetSource": "schema",
    "Project": "project",
    "PromptContext": "context",
    "PushSource": "schema",
    "Registry": "registry",
    "Retriever": "retriever",
    "SqlSource": "schema",
    "Tools": "tools",
    "on_demand": "ondemand",
}

__all__ = [
    "Aggregation",
    "AsyncClient",
    "AsyncContextBuilder",
    "AsyncTools",
    "Client",
    "ContextBuilder",
    "DocumentSource",
    "Entity",
    "Expect",
    "Feature",
    "FeatureValue",
    "FeatureView",
    "FunctionEmbedder",
    "History",
    "LLMFeaturesError",
    "Manifest",
    "OnDemandFeature",
    "OnnxEmbedder",
    "OpenAIEmbedder",
    "ParquetSource",
    "Project",
    "PromptContext",
    "PushSource",
    "Registry",
    "Retriever",
    "SqlSource",
    "Tools",
    "__version__",
    "on_demand",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used, so that importing the package costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
