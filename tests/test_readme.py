"""The README's code blocks run, in order, in a project made of them and the sample's data, and print what it shows."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import ContextBuilder, Project

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, list[str]]:
    """The README's labelled blocks."""
    found: dict[str, list[str]] = {}
    for language, label, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        found.setdefault(label or language, []).append(text)
    return found


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A chat completions endpoint on loopback that keeps what it is sent; the real client talks to it."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            answer = {
                "id": "1", "object": "chat.completion", "created": 0, "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Dune"}}],
            }  # fmt: skip
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    yield received
    server.shutdown()
    server.server_close()
    thread.join()


def run(code: str) -> str:
    """What a block of Python prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    return out.getvalue()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: list[Any]) -> None:
    found = blocks()
    shutil.copytree(ROOT / "data", tmp_path / "data")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "features.py").write_text(found["registry"][0])
    (tmp_path / "prompts" / "recommender.prompt.j2").write_text(found["prompt"][0])
    (tmp_path / "llmfeatures.toml").write_text(
        '[project]\nname = "readme"\nregistry = "features.py"\nnow = "2026-05-07T23:00:00Z"\n'
    )
    monkeypatch.chdir(tmp_path)
    Project.load(".").materialize()

    shown, changed, rows = found["output"]
    assert run(found["call"][0]) == shown
    assert model[0]["messages"] == [
        {"role": "system", "content": shown.rstrip("\n")},
        {"role": "user", "content": "What should I watch?"},
    ]
    builder = ContextBuilder.from_project(".")
    now = builder.build_context("recommender", user_id="8a2f").text.splitlines()
    then = builder.build_context("recommender", user_id="8a2f", as_of="2026-05-05T22:00Z").text.splitlines()
    assert [line for line in difflib.ndiff(now, then) if line[0] in "+-"] == [
        f"{line[0]} {line[1:]}" for line in changed.splitlines()
    ]
    assert run(found["history"][0]) == rows


def test_the_first_prompt_of_the_readme_is_the_sample_s() -> None:
    assert blocks()["prompt"][0] == (ROOT / "prompts" / "recommender.prompt.j2").read_text(encoding="utf-8")
