"""What a release holds, and how it is kept: JSON of format 1, whose id is the SHA-256 of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from llmfeatures.errors import FormatError
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.file import PromptFile
from llmfeatures.prompts.texts import PromptTexts

FORMAT: Final = 1
SHOWN: Final = 12
"""So many digits of an id, or of a version, are shown to people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedPrompt:
    """A prompt of a release: its whole file, the names of its partials, and what it reads.

    ``features`` are the names in its template; ``on_demand`` its on-demand features as ``entity.name``; ``retrievers``
    those of its documents.
    """

    name: str
    version: str
    source: str
    partials: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    on_demand: tuple[str, ...] = ()
    retrievers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """All that decides the prompts of a project at one moment. Immutable: ``id`` is the hash of all but the last three.

    ``library`` is the version of llmfeatures that made it, ``formats`` the numbers of its formats, ``registry`` the
    definitions as JSON, ``partials`` the texts by ``_shared/NAME``. ``created`` is a stamp (UTC),
    ``parent`` the release that was active then.
    """

    id: str
    library: str
    formats: Mapping[str, int]
    registry: Mapping[str, Any]
    prompts: Mapping[str, ReleasedPrompt]
    partials: Mapping[str, str]
    created: str
    message: str = ""
    parent: str | None = None

    @property
    def short(self) -> str:
        """The beginning of the id, for people."""
        return self.id[:SHOWN]

    def texts(self) -> PromptTexts:
        """The prompt files, to compile."""
        prompts = {name: one.source for name, one in self.prompts.items()}
        return PromptTexts(prompts, self.partials, where=f"{self.short}:")

    def content(self) -> dict[str, Any]:
        """What the id is the hash of, as JSON."""
        return {
            "formats": dict(self.formats),
            "library": self.library,
            "partials": dict(self.partials),
            "prompts": {
                name: {
                    "features": list(one.features),
                    "on_demand": list(one.on_demand),
                    "partials": list(one.partials),
                    "source": one.source,
                    "version": one.version,
                    **({"retrievers": list(one.retrievers)} if one.retrievers else {}),
                }
                for name, one in self.prompts.items()
            },
            "registry": self.registry,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptVersion:
    """A version of a prompt that a release holds."""

    prompt: str
    version: str
    source: str
    partials: Mapping[str, str]
    release: Release

    def file(self) -> PromptFile:
        """The prompt file of this version."""
        return self.release.texts().read(self.prompt)

    def environment(self) -> PromptEnvironment:
        """The environment to compile it in: it finds the partials of the time."""
        return PromptTexts({}, self.partials, where=f"{self.release.short}:").environment()


def release_id(content: Mapping[str, Any]) -> str:
    """The id of a release of this content."""
    written = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()


def written(release: Release) -> bytes:
    """The bytes in which a release is kept; the same for equal releases."""
    data = {
        "content": release.content(),
        "created": release.created,
        "format": FORMAT,
        "id": release.id,
        "message": release.message,
        "parent": release.parent,
    }
    return (json.dumps(data, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


def read(kept: bytes, identity: str) -> Release:
    """A release from the bytes in which it is kept under this id.

    Raises:
        FormatError: they have another format, or are not what was written.
    """
    try:
        data: Any = json.loads(kept)
        found = data["format"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(identity) from None
    if found != FORMAT:
        raise FormatError(
            f"release {identity[:SHOWN]} has format {found}, this version reads {FORMAT}; upgrade llmfeatures"
        )
    try:
        content = cast("dict[str, Any]", data["content"])
        if release_id(content) != identity:
            raise _damaged(identity)
        prompts = {name: _prompt(name, one) for name, one in content["prompts"].items()}
        return Release(
            id=identity,
            library=content["library"],
            formats=content["formats"],
            registry=content["registry"],
            prompts=prompts,
            partials=content["partials"],
            created=data["created"],
            message=data["message"],
            parent=data["parent"],
        )
    except (KeyError, TypeError, AttributeError):
        raise _damaged(identity) from None


def _prompt(name: str, one: Mapping[str, Any]) -> ReleasedPrompt:
    return ReleasedPrompt(
        name=name,
        version=one["version"],
        source=one["source"],
        partials=tuple(one["partials"]),
        features=tuple(one["features"]),
        on_demand=tuple(one["on_demand"]),
        retrievers=tuple(one.get("retrievers", ())),
    )


def _damaged(identity: str) -> FormatError:
    return FormatError(
        f"release {identity[:SHOWN]} is damaged: it is not what was written; restore its file from a backup, or run "
        "llmfeatures apply with the same files, which writes it again"
    )
