"""Ask a server that speaks the OpenAI chat protocol about films; only one that the user names."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from enum import StrEnum
from http.client import HTTPException
from typing import Any, cast, final

import numpy as np
from PIL import Image

from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel.answerers import FPS, Reply, View
from timeviper.processing.timestamps import format_time
from timeviper.video.clips import iterate_clips
from timeviper.video.source import open_video

# What a model that does not know the benchmark must be told to give answers that can be read.
HOW_TO_ANSWER = (
    "Answer in as few words as you can. Write times as MM:SS, an interval as from MM:SS to MM:SS, "
    "and if several events are asked for, one a line with its start and end."
)
_QUALITY = 85
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504}
# Seconds that a server's own wish to wait is followed at most.
_LONGEST_PAUSE = 60.0


class Sending(StrEnum):
    """How a film reaches the server."""

    # Pictures in the order of time, each with its time in words before it.
    FRAMES = "frames"
    # A path as file:// URL, which the server must be able and allowed to read.
    FILE = "file"
    # The whole file inside the request.
    DATA = "data"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server and how it is asked.

    Args:
        url: up to and with `/v1`, or the whole address of `chat/completions`.
        model: name of the model there.
        frames: pictures of a film at most, evenly over it; never more than one a second.
        sending: how a film reaches the server.
        key_variable: environment variable that holds the key; none is sent where it is not set.
        timeout: seconds that an answer may take.
        tries: how often a question is put to a server that is busy or silent.
        pause: seconds before the second try; each further pause is twice as long.
        parallel: questions under way at once.

    Raises:
        RequestError: what no server can be asked.
    """

    url: str
    model: str
    frames: int = 64
    sending: Sending = Sending.FRAMES
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 300.0
    tries: int = 5
    pause: float = 1.0
    parallel: int = 4

    def __post_init__(self) -> None:
        """Refuse addresses that are none, and numbers below one."""
        if not self.url.startswith(("http://", "https://")):
            raise RequestError(
                want="an address that begins with http:// or https://",
                got=repr(self.url),
                do="give --endpoint such as http://host:8000/v1",
            )
        if not self.model:
            raise RequestError(
                want="the name of a model at the endpoint",
                got="none",
                do="give --endpoint-model",
            )
        if min(self.frames, self.tries, self.parallel) < 1:
            raise RequestError(
                want="at least one picture, try and question at once",
                got=(self.frames, self.tries, self.parallel),
                do="raise the one that is below 1",
            )

    @property
    def address(self) -> str:
        """Where questions are posted."""
        stem = self.url.rstrip("/")
        return stem if stem.endswith("/chat/completions") else f"{stem}/chat/completions"


@final
class EndpointAnswerer:
    """Answers of a server.

    Args:
        endpoint: which, and how it is asked.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def answers(self, view: View, prompts: Sequence[str], *, max_tokens: int) -> list[Reply]:
        """As `Answerer.answers`.

        Raises:
            RequestError: a server that cannot be reached, refuses, or answers something else.
        """
        shown, looked = self._shown(view)

        def one(prompt: str) -> Reply:
            began = time.perf_counter()
            words = {"type": "text", "text": f"{prompt}\n{HOW_TO_ANSWER}"}
            text = self._post([*shown, words], max_tokens)
            return Reply(text=text, looked=looked, seconds=time.perf_counter() - began)

        with ThreadPoolExecutor(min(self._endpoint.parallel, max(1, len(prompts)))) as pool:
            return list(pool.map(one, prompts))

    def identity(self) -> dict[str, Any]:
        """Address, model and how films are sent."""
        at = self._endpoint
        return {
            "kind": "endpoint",
            "model": at.model,
            "url": at.url,
            "sending": at.sending.value,
            "frames": at.frames,
        }

    def _shown(self, view: View) -> tuple[list[dict[str, Any]], int]:
        """Parts of a message that show a view, and how many pictures they are."""
        if view.path is None:
            return [], 0
        sending = self._endpoint.sending
        if sending is Sending.FRAMES:
            return self._pictures(view)
        if view.start is not None or view.end is not None:
            raise RequestError(
                want="pictures where only a part of a film is shown",
                got=f"films sent as {sending.value}",
                do="leave --endpoint-video out with --control oracle",
            )
        url = view.path.resolve().as_uri()
        if sending is Sending.DATA:
            url = f"data:video/mp4;base64,{base64.b64encode(view.path.read_bytes()).decode()}"
        # How many frames a server takes of a film is its own affair.
        return [{"type": "video_url", "video_url": {"url": url}}], 0

    def _pictures(self, view: View) -> tuple[list[dict[str, Any]], int]:
        source = open_video(str(view.path))
        duration = source.info.duration_seconds
        start, end = view.start or 0.0, min(view.end or duration, duration)
        count = max(1, min(self._endpoint.frames, round((end - start) * FPS)))
        times = start + np.arange(count) * (end - start) / count
        lasts = f"These are {count} pictures of a video that lasts {format_time(duration)}."
        parts: list[dict[str, Any]] = [{"type": "text", "text": lasts}]
        for clip in iterate_clips(source, times):
            for frame, at in zip(clip.frames, clip.asked, strict=True):
                parts.append({"type": "text", "text": format_time(float(at))})
                parts.append({"type": "image_url", "image_url": {"url": _jpeg(frame)}})
        return parts, count

    def _post(self, content: list[dict[str, Any]], max_tokens: int) -> str:
        at = self._endpoint
        body = {
            "model": at.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(at.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            at.address, data=json.dumps(body).encode(), headers=headers, method="POST"
        )
        return _text(_persist(request, at), at.address)


def _persist(request: urllib.request.Request, at: Endpoint) -> bytes:
    """Ask until the server answers, or has been asked often enough."""
    trouble = ""
    for attempt in range(at.tries):
        wait = at.pause * 2**attempt
        try:
            with urllib.request.urlopen(request, timeout=at.timeout) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            trouble = f"status {error.code}: {_excerpt(error)}"
            if error.code not in _BUSY:
                raise _refused(at, trouble) from None
            wait = _wished(error.headers) or wait
        except (OSError, HTTPException) as error:
            # Refused, reset, unknown host, timed out: URLError is an OSError.
            trouble = str(error) or type(error).__name__
        if attempt + 1 < at.tries:
            time.sleep(min(wait, _LONGEST_PAUSE))
    raise RequestError(
        want=f"an answer from {at.address}",
        got=f"{trouble} ({at.tries} tries)",
        do="see that the server runs and repeat the command: it goes on where it was",
    )


def _refused(at: Endpoint, trouble: str) -> RequestError:
    return RequestError(
        want=f"{at.address} to accept the question",
        got=trouble,
        do=f"check --endpoint, --endpoint-model and the key in ${at.key_variable}, "
        "or send fewer pictures with --endpoint-frames",
    )


def _text(data: bytes, address: str) -> str:
    try:
        reply = cast("Mapping[str, Any]", json.loads(data))
        text = reply["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise RequestError(
            want=f"an answer in the form of chat completions from {address}",
            got=data[:200].decode("utf-8", errors="replace"),
            do="check that --endpoint is the address of an OpenAI-compatible server",
        )
    return text


def _excerpt(error: urllib.error.HTTPError) -> str:
    return " ".join(error.read(300).decode("utf-8", errors="replace").split()) or error.reason


def _wished(headers: Message) -> float | None:
    wish = headers.get("Retry-After", "")
    return float(wish) if wish.isdecimal() else None


def _jpeg(frame: np.ndarray[Any, Any]) -> str:
    """A picture as data URL."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
