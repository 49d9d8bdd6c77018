"""`Project`: everything that one can do with a project, in one place."""

from __future__ import annotations

from pathlib import Path

from llmfeatures import config as configuration
from llmfeatures.clock import Clock
from llmfeatures.project.authoring import Authoring, Problem
from llmfeatures.project.historical import Historical
from llmfeatures.project.operating import Operating
from llmfeatures.registry import load_registry

__all__ = ["Problem", "Project"]


class Project(Operating, Historical, Authoring):
    """A project: its configuration, registry, stores and prompts. Stores are opened when they are first used.

    Its prompts and registry are those of the files, or (`at_release`) those of ``release``.
    """

    @classmethod
    def load(cls, path: str | Path = ".", *, now: Clock | None = None, release: str | None = None) -> Project:
        """The project that ``path`` lies in; its configuration is searched upwards.

        Args:
            path: a folder or file in the project.
            now: a function that returns the current moment, aware; None is the project's clock.
            release: as for `at_release`; None is the files.

        Raises:
            ConfigError: there is no project, or its configuration is wrong.
            DefinitionError: the registry is wrong.
            ReleaseError: as `at_release`.
        """
        config = configuration.find_config(path)
        loaded = cls(config, load_registry(config.project.registry, config.root), now=now)
        if release is None:
            return loaded
        made = loaded.at_release(release)
        made._owns = True
        return made
