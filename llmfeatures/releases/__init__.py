"""Releases: what a project's prompts and registry were when somebody applied them, kept for ever."""

from __future__ import annotations

from llmfeatures.releases.content import PromptVersion, Release, ReleasedPrompt
from llmfeatures.releases.kept import Releases, find_version

__all__ = ["PromptVersion", "Release", "ReleasedPrompt", "Releases", "find_version"]
