"""A small project whose prompts are for chats."""

from __future__ import annotations

from pathlib import Path

from llmfeatures import ContextBuilder, Project
from tests.projects import at, make_project, segment, watched

HEADER = "---\nfeatures:\n  segment: {default: unknown}\n  watched: {default: 0}\n"
CHAT = (
    HEADER
    + """---
{% message "system" %}
You recommend shows for a streaming service.
{% cache_break %}
Viewer: {{ segment }}, watched {{ watched }}.
{% endmessage %}
{% conversation %}
"""
)
ASK = (
    HEADER
    + """inputs:
  question: str
---
{% message "developer" %}
Answer for a {{ segment }} viewer.{% cache_break %}
{% endmessage %}
{% message "user" %}
An example.
{% endmessage %}
{% message "assistant" %}
A short answer.{% cache_break %}
{% endmessage %}

{% conversation %}

{% message "system" %}
Be brief.
{% endmessage %}
{% message "user" %}
{{ question }} ({{ watched }} watched){% cache_break %}
{% endmessage %}
"""
)
PLAIN = HEADER + "---\nYou recommend shows. Viewer: {{ segment }}, watched {{ watched }}.\n"
FINAL = (
    HEADER + '---\n{% message "system" %}Viewer: {{ segment }}.{% endmessage %}{% message "user" %}Hi{% endmessage %}\n'
)
PROMPTS = {"chat": CHAT, "ask": ASK, "plain": PLAIN, "final": FINAL}


def chat_project(root: Path) -> Project:
    """The project, with two viewers online."""
    make_project(
        root,
        segments=[segment("8a2f", "power_user", at(1)), segment("b13c", "casual", at(1))],
        counts=[watched("8a2f", 47, at(1)), watched("b13c", 5, at(1))],
        prompts=PROMPTS,
    )
    project = Project.load(root)
    project.materialize()
    return project


def chat_builder(root: Path) -> ContextBuilder:
    """Its builder."""
    return chat_project(root).builder()
