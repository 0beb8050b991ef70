"""A camera on this machine: H.264 in MPEG-TS over HTTP, as time goes by; it can go and return."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np

FPS, SIDE = 20, 48
_TICKS = 90_000


class Camera:
    """Serves the same moving picture to whoever connects, from the moment on that he connects.

    Args:
        stamp: presentation time of frame n in seconds; lies when it is not n / FPS.
        port: 0 takes a free one.
    """

    def __init__(self, stamp: Callable[[int], float] = lambda n: n / FPS, port: int = 0) -> None:
        self._stamp, self._port = stamp, port
        self._server: ThreadingHTTPServer | None = None
        self._gone = threading.Event()
        self.silent = threading.Event()
        self.come()

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}/live"

    def come(self) -> None:
        """Answer from now on."""
        camera, self._gone = self, threading.Event()
        gone = self._gone

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                try:
                    camera._film(self.wfile, gone)
                except (OSError, av.error.FFmpegError):
                    return

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def go(self) -> None:
        """Drop everybody and answer nobody."""
        self._gone.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _film(self, sink, gone: threading.Event) -> None:
        start = time.monotonic()
        for number, packet in enumerate(film(self._stamp)):
            while self.silent.is_set() and not gone.is_set():
                time.sleep(0.02)
            if gone.is_set():
                return
            sink.write(packet)
            sink.flush()
            time.sleep(max(0.0, start + (number + 1) / FPS - time.monotonic()))


def film(stamp: Callable[[int], float], frames: int = 10**6) -> Iterator[bytes]:
    """The bytes of each frame of a transport stream."""
    sent: list[bytes] = []

    class Sink:
        def write(self, data: bytes) -> int:
            sent.append(bytes(data))
            return len(data)

    rng = np.random.default_rng(0)
    with av.open(Sink(), "w", format="mpegts", options={"flush_packets": "1"}) as out:
        options = {"tune": "zerolatency", "preset": "ultrafast"}
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.height = stream.width = SIDE
        stream.pix_fmt, stream.gop_size = "yuv420p", 5
        stream.codec_context.time_base = Fraction(1, _TICKS)
        for number in range(frames):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(stamp(number) * _TICKS), Fraction(1, _TICKS)
            out.mux(stream.encode(frame))
            yield b"".join(sent)
            sent.clear()
        out.mux(stream.encode(None))
    yield b"".join(sent)


@contextmanager
def camera(stamp: Callable[[int], float] = lambda n: n / FPS) -> Iterator[Camera]:
    """A camera that goes when the test ends."""
    one = Camera(stamp)
    try:
        yield one
    finally:
        one.go()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    Camera(port=int(sys.argv[1]))
    print("ready", flush=True)
    threading.Event().wait()
