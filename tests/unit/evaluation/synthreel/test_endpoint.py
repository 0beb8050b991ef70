"""A real server on the loopback that speaks the OpenAI chat protocol, and all it may do wrong."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.toy_engine import noise, write_video
from tests.unit.evaluation.synthreel.bench import plan_of, silent, small_grid
from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel.answerers import Control, View
from timeviper.evaluation.synthreel.endpoint import Endpoint, EndpointAnswerer, Sending
from timeviper.evaluation.synthreel.rows import read_rows
from timeviper.evaluation.synthreel.run import answer_files, run
from timeviper.synth.tasks import Task

Reply = tuple[int, Any]


def told(text: str) -> Reply:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}


@dataclass
class Server:
    """What was asked, and by what rule it is answered: question and number of the request."""

    rule: Callable[[str, int], Reply] = lambda words, number: told(f"heard {words}")
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append(body)
            state.headers.append({"path": self.path} | dict(self.headers))
            words = body["messages"][0]["content"][-1]["text"].splitlines()[0]
            status, reply = state.rule(words, len(state.asked))
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing while testing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds, one frame each."""
    return write_video(tmp_path_factory.mktemp("film") / "noise.mp4", noise(12, side=32))


def at(server: Server, **changes: Any) -> Endpoint:
    return replace(Endpoint(url=server.url, model="m", pause=0.01, frames=4), **changes)


def ask(server: Server, view: View, *prompts: str, **changes: Any) -> list[str]:
    answerer = EndpointAnswerer(at(server, **changes))
    replies = answerer.answers(view, prompts or ("What?",), max_tokens=9)
    return [reply.text for reply in replies]


def parts(server: Server, kind: str) -> list[dict[str, Any]]:
    return [part for part in server.asked[-1]["messages"][0]["content"] if part["type"] == kind]


def test_pictures_go_out_in_order_with_their_times(server: Server, film: Path) -> None:
    replies = EndpointAnswerer(at(server)).answers(View(path=film), ["What?"], max_tokens=9)
    assert (replies[0].text, replies[0].looked) == ("heard What?", 4)
    asked = server.asked[0]
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("m", 9, 0)
    texts = [part["text"] for part in parts(server, "text")]
    assert "4 pictures of a video that lasts 00:12" in texts[0]
    assert texts[1:5] == ["00:00", "00:03", "00:06", "00:09"]
    pictures = [part["image_url"]["url"] for part in parts(server, "image_url")]
    assert len(set(pictures)) == 4
    head, data = pictures[0].split(",", 1)
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.format, image.size) == ("JPEG", (32, 32))
    assert server.headers[0]["path"] == "/v1/chat/completions"


def test_never_more_than_a_picture_a_second_and_only_of_the_part(
    server: Server, film: Path
) -> None:
    ask(server, View(path=film, start=3.0, end=6.0), frames=64)
    assert [part["text"] for part in parts(server, "text")][1:4] == ["00:03", "00:04", "00:05"]
    assert len(parts(server, "image_url")) == 3


def test_the_blind_send_no_picture(server: Server) -> None:
    assert ask(server, View(path=None)) == ["heard What?"]
    assert len(server.asked[0]["messages"][0]["content"]) == 1


def test_a_film_may_go_out_whole(server: Server, film: Path) -> None:
    ask(server, View(path=film), sending=Sending.FILE)
    assert parts(server, "video_url")[0]["video_url"]["url"] == film.as_uri()
    ask(server, View(path=film), sending=Sending.DATA)
    data = parts(server, "video_url")[0]["video_url"]["url"].split(",", 1)[1]
    assert base64.b64decode(data) == film.read_bytes()
    with pytest.raises(RequestError, match="leave --endpoint-video out"):
        ask(server, View(path=film, start=1.0, end=2.0), sending=Sending.FILE)


def test_answers_keep_the_order_of_their_prompts(server: Server) -> None:
    prompts = [f"Number {n}?" for n in range(9)]
    assert ask(server, View(path=None), *prompts) == [f"heard {p}" for p in prompts]


def test_the_key_comes_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    ask(server, View(path=None), key_variable="MY_KEY")
    assert server.headers[-1]["Authorization"] == "Bearer secret"
    assert "secret" not in json.dumps(EndpointAnswerer(at(server)).identity())
    monkeypatch.delenv("MY_KEY")
    ask(server, View(path=None), key_variable="MY_KEY")
    assert "Authorization" not in server.headers[-1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.rule = lambda words, number: (status, {}) if number < 3 else told("at last")
    assert ask(server, View(path=None)) == ["at last"]
    assert len(server.asked) == 3


def test_a_server_that_stays_busy_is_told(server: Server) -> None:
    server.rule = lambda words, number: (503, {"error": "overloaded"})
    with pytest.raises(RequestError, match="goes on where it was") as caught:
        ask(server, View(path=None), tries=3)
    assert "overloaded" in caught.value.got
    assert "3 tries" in caught.value.got
    assert len(server.asked) == 3


@pytest.mark.parametrize(("status", "word"), [(401, "bad key"), (404, "no model"), (413, "large")])
def test_a_refusal_is_told_at_once(server: Server, status: int, word: str) -> None:
    server.rule = lambda words, number: (status, {"error": word})
    with pytest.raises(RequestError, match="--endpoint-model") as caught:
        ask(server, View(path=None))
    assert f"status {status}" in caught.value.got
    assert word in caught.value.got
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "reply", [b"<html>hello</html>", {}, {"choices": []}, [], {"choices": [{"message": {}}]}]
)
def test_what_is_no_answer_is_told(server: Server, reply: Any) -> None:
    server.rule = lambda words, number: (200, reply)
    with pytest.raises(RequestError, match="OpenAI-compatible"):
        ask(server, View(path=None))


def test_nobody_there_and_nobody_answering_are_told(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(RequestError, match="see that the server runs"):
            ask(server, View(path=None), url=url, tries=2)
        # It takes the connection and never answers.
        free.listen()
        with pytest.raises(RequestError, match=r"timed out.*\(1 tries\)"):
            ask(server, View(path=None), url=url, tries=1, timeout=0.2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"url": "localhost:8000"}, "http://"),
        ({"url": "file:///etc/hosts"}, "http://"),
        ({"model": ""}, "--endpoint-model"),
        ({"frames": 0}, "at least one"),
    ],
)
def test_what_cannot_be_asked_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        replace(Endpoint(url="http://host/v1", model="m"), **changes)


def test_the_address_may_be_whole() -> None:
    addresses = {
        Endpoint(url=url, model="m").address
        for url in ("http://h/v1", "http://h/v1/", "http://h/v1/chat/completions")
    }
    assert addresses == {"http://h/v1/chat/completions"}


def test_a_whole_benchmark_runs_against_a_server(server: Server, tmp_path: Path) -> None:
    grid = small_grid(Task.ABSENT, Task.RETRIEVAL)
    server.rule = lambda words, number: told("Yes, (A).")
    answerer = EndpointAnswerer(at(server))
    run(plan_of(tmp_path, grid, control=Control.NONE), answerer, silent)
    rows = read_rows(answer_files(tmp_path))
    assert len(rows) == len(server.asked) == 2 * 3 + 2 * 5
    assert {row.looked for row in rows} == {4}
    assert {row.got for row in rows} == {"Yes, (A)."}


def test_a_server_that_goes_down_loses_nothing(server: Server, tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL)
    answerer = EndpointAnswerer(at(server, tries=1, parallel=1))
    server.rule = lambda words, number: told("the cat.") if number < 8 else (500, {})
    with pytest.raises(RequestError, match="answer from"):
        run(plan_of(tmp_path, grid), answerer, silent)
    assert len(read_rows(answer_files(tmp_path))) == 5
    server.rule = lambda words, number: told("the cat.")
    run(plan_of(tmp_path, grid), answerer, silent)
    assert len(read_rows(answer_files(tmp_path))) == 10
