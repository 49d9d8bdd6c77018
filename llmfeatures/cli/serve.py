"""``llmfeatures serve``: the HTTP service, and the keys that it lets in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    help="Serve features and prompts over HTTP.",
    epilog="\b\nExample:\n  llmfeatures serve\n  llmfeatures serve --host 0.0.0.0 --port 8080 --workers 4\n"
    "  llmfeatures serve keys new web-app --scope prompts:recommender",
)
keys = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Make, list and take back API keys.",
    epilog="\b\nExample:\n  llmfeatures serve keys new web-app --scope prompts:* --scope read\n"
    "  llmfeatures serve keys new player --scope push:taste\n"
    "  llmfeatures serve keys new viewer-8a2f --scope prompts:recommender --entity user_id=8a2f\n"
    "  llmfeatures serve keys remove 1f2e3d4c5b6a",
)
app.add_typer(keys, name="keys")


@app.callback()
def serve(
    call: typer.Context,
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="And on which port.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Processes.")] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="FORMAT", help="A line per request: json, text or off.")
    ] = None,
    working: Annotated[
        bool, typer.Option("--working", help="Serve the files as they are now, and no release.")
    ] = False,
    project: ProjectOption = HERE,
) -> None:
    """Serve features and prompts over HTTP; options that are not given are those of [serve].

    It serves the active release (llmfeatures apply), and goes over to each that follows; the files until there is one.
    """
    if call.invoked_subcommand is not None:
        return
    from llmfeatures.errors import RequestError, did_you_mean
    from llmfeatures.service.run import run

    formats = ("json", "text", "off")
    if log_format is not None and log_format not in formats:
        raise RequestError(f"unknown log format {log_format!r}{did_you_mean(log_format, formats)}")
    given = {"host": host, "port": port, "workers": workers, "log": log_format}
    run(project, {name: value for name, value in given.items() if value is not None}, working=working)


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for people.")],
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="SCOPE", help="read, metrics, prompts:NAME, prompts:*, push:VIEW or push:*."),
    ] = None,
    entity: Annotated[
        list[str] | None,
        typer.Option(
            "--entity", metavar="KEY=VALUE", help="Bind the key to one entity; KEY alone lets any value of it pass."
        ),
    ] = None,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is printed once, and kept nowhere."""
    from llmfeatures.clock import system_clock
    from llmfeatures.project import Project
    from llmfeatures.service.keys import KeyFile

    loaded = Project.load(project)
    bound = _entity(entity or [], loaded)
    _check_scopes(scopes or [], loaded)
    file = KeyFile(loaded.config.keys)
    key, token = file.add(name, scopes or [], now=system_clock(), entity=bound)
    if as_json:
        terminal.write_json({"id": key.id, "name": key.name, "scopes": list(key.scopes), "key": token})
        return
    terminal.write(token)
    terminal.note(f"this is the only time that the key is shown; its hash is in {_shown(file.path)}")


@keys.command("list")
def list_keys(project: ProjectOption = HERE, as_json: JsonOption = False) -> None:
    """List the keys, without their secrets."""
    from llmfeatures.project import Project
    from llmfeatures.service.keys import KeyFile

    found = KeyFile(Project.load(project).config.keys).keys().values()
    if as_json:
        terminal.write_json(
            {
                "keys": [
                    {
                        "id": key.id,
                        "name": key.name,
                        "scopes": list(key.scopes),
                        "bound_to": key.bound_to,
                        "created": key.created,
                    }
                    for key in found
                ]
            }
        )
        return
    rows = [
        (key.id, key.name, " ".join(key.scopes), "-" if (to := key.bound_to) is None else ", ".join(to), key.created)
        for key in found
    ]
    terminal.table(("id", "name", "scopes", "bound to", "created"), rows)


@keys.command("remove")
def remove_key(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As list shows it; the part after llf_.")],
    project: ProjectOption = HERE,
) -> None:
    """Take a key back; a service that runs lets it in no longer than a second."""
    from llmfeatures.project import Project
    from llmfeatures.service.keys import KeyFile

    gone = KeyFile(Project.load(project).config.keys).remove(identity)
    terminal.note(f"key {gone.id} of {gone.name} is gone")


def _check_scopes(scopes: list[str], project: object) -> None:
    """A scope that names what is not there is a mistake."""
    from llmfeatures.errors import UnknownNameError
    from llmfeatures.project import Project

    assert isinstance(project, Project)
    for scope in scopes:
        kind, _, name = scope.partition(":")
        if kind == "push" and name not in ("", "*"):
            project.registry.view(name)
        if kind == "prompts" and name not in ("", "*") and name not in (known := project.prompts.names()):
            raise UnknownNameError("prompt", name, known)


def _entity(words: list[str], project: object) -> dict[str, str | None] | None:
    """The entity that a key is bound to, its values checked against the join keys' dtypes."""
    from llmfeatures.errors import InvalidValueError, RequestError, UnknownNameError
    from llmfeatures.project import Project

    assert isinstance(project, Project)
    dtypes = {name: dtype for one in project.registry.entities for name, dtype in one.join_keys.items()}
    bound: dict[str, str | None] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in dtypes:
            raise UnknownNameError("join key", name, dtypes)
        if equals:
            if not value.strip():  # a variable of the shell that is not set would make a key of nobody's
                raise RequestError(f"--entity {name}= has no value; give one, like --entity {name}=8a2f")
            try:
                dtypes[name].parse(value)
            except InvalidValueError as error:
                raise RequestError(f"{name} is of type {dtypes[name]}: {error}") from None
        bound[name] = value if equals else None
    return bound or None


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
