"""Checking what people write, and releasing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmfeatures.errors import ReleaseError
from llmfeatures.project.stores import Stores

if TYPE_CHECKING:
    from llmfeatures.checker.findings import Finding
    from llmfeatures.diff.against import Against
    from llmfeatures.releases.making import Applied


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that `Project.check` found. ``where`` is a view, or a prompt file with line and column; ``code`` is the
    rule's."""

    severity: Literal["error", "warning"]
    where: str
    message: str
    code: str


class Authoring(Stores):
    """Checking what people write, and releasing it."""

    def check(self) -> list[Problem]:
        """Everything that is wrong with the registry's sources and the prompt files, without rendering one."""
        from llmfeatures.checker.output import where as place_of

        return [
            Problem(
                severity=one.severity,
                where=place_of(one),
                message=f"{one.message}; {one.help}" if one.help else one.message,
                code=one.code,
            )
            for one in self.findings()
            if one.severity != "info"
        ]

    def findings(self, *, sources: bool = True) -> list[Finding]:
        """What `check` says and what is only worth knowing, each with its place, its code and the edits that mend it.

        Args:
            sources: whether to look into the views' sources, which takes longer.
        """
        from llmfeatures.checking import ProjectCheck  # loads the checker, which an application that calls does without

        checks = ProjectCheck(
            config=self.config, registry=self.registry, options=self.config.check.options(), cached=False
        )
        return checks.findings(offline=(lambda: self.offline) if sources else None)

    def check_against(self, against: str) -> Against:
        """What changed in the registry and the prompts since a revision of the project, and what that does: to the
        prompts that read what changed, and to last week's prompts. The registry of the revision is code, and runs.

        Args:
            against: ``git:REV``.

        Raises:
            RequestError: there is no such revision, or the project of it cannot be loaded.
        """
        from llmfeatures.diff.against import check_against

        return check_against(
            self.config,
            self.registry,
            against,
            offline=lambda: self.offline,
            retrievers=self.retrieving,
            now=self.clock(),
        )

    def apply(self, message: str = "", *, dry_run: bool = False) -> Applied:
        """Check everything, and make the registry and the prompt files, as they are now, the active release.

        A release is kept for ever in the project's state. A running ``llmfeatures serve`` goes over to it by itself.
        When the files are those of the active release, nothing changes.

        Args:
            message: what changed and why, for people.
            dry_run: say what would change, and keep nothing.

        Raises:
            ReleaseError: `check` found errors (``problems`` has them), a file changed meanwhile, or the project is
                `at_release`.
            ConfigError: the state cannot be written.
        """
        from llmfeatures.releases.applying import apply

        if self.release is not None:
            raise ReleaseError("this project is at a release, which is kept already; apply the files, or roll back")

        def check() -> None:
            errors = [one for one in self.check() if one.severity == "error"]
            if errors:
                raise ReleaseError.of([f"{one.where}: {one.severity}: {one.message}" for one in errors])

        return apply(
            self.releases,
            self.registry,
            self.config.prompts,
            check=check,
            now=self.clock(),
            message=message,
            dry_run=dry_run,
        )

    def roll_back(self, release: str = "previous", message: str = "") -> Applied:
        """Make an earlier release the active one. The files stay as they are.

        Args:
            release: an id or the beginning of one, or ``previous``.
            message: why, for people.

        Raises:
            UnknownNameError: there is no such release.
            ReleaseError: it cannot be rendered here as it was, or there is none before.
        """
        from llmfeatures.releases.applying import roll_back

        registry = (self._stores or self).registry
        return roll_back(self.releases, registry, release, now=self.clock(), message=message)
