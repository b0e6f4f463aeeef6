"""Output streams, and the files that they go to.

The kernel moves the bytes: splice(2) takes out of a pipe what it has written to a file, in one call. So a process that is killed has
lost nothing and written nothing twice, and its successor goes on with the pipe and the file as they are.
"""

import errno
import json
import os
import selectors
import threading
import time

CHUNK = 1 << 20
AGAIN_AFTER = 1.0  # seconds after a write that failed


class Stream:
    """One output stream. Its fields are the lock's of Streams, but for those that never change."""

    def __init__(self, opening, kind, far, path, sync):
        self.opening, self.kind, self.far, self.path, self.sync = opening, kind, far, path, sync
        self.out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.base = os.lseek(self.out, 0, os.SEEK_END)  # what was in the file before the stream
        self.eof = self.flushed = self.cut = False
        self.failed = self.trouble = ""
        self.retry = 0.0  # when to try again, after a trouble

    @property
    def bytes(self):
        return os.lseek(self.out, 0, os.SEEK_END) - self.base

    @property
    def over(self):
        return self.flushed or bool(self.failed)


class Streams:
    """All streams of the process. One thread moves them; tell is called with each stream that has changed, under lock."""

    def __init__(self, tell):
        self.lock = threading.RLock()
        self.tell = tell
        self.ready = selectors.DefaultSelector()
        self.waiting = set()  # streams with a trouble
        self.wake, self.waker = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(self.waker, False)
        self.ready.register(self.wake, selectors.EVENT_READ)
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, s):
        with self.lock:
            self.ready.register(s.far, selectors.EVENT_READ, s)

    def _run(self):
        while True:
            with self.lock:
                pause = min((s.retry for s in self.waiting), default=None)
            events = self.ready.select(None if pause is None else max(0, pause - time.monotonic()))
            with self.lock:
                for key, _ in events:
                    if key.data is None:
                        os.read(self.wake, 4096)
                    elif key.fd in self.ready.get_map():
                        self._move(key.data)
                for s in [s for s in self.waiting if s.retry <= time.monotonic()]:
                    self.waiting.discard(s)
                    self.ready.register(s.far, selectors.EVENT_READ, s)

    def _move(self, s):
        """Move what stands in the pipe, and see to the stream's end."""
        try:
            os.lseek(s.out, 0, os.SEEK_END)
            n = os.splice(s.far, s.out, CHUNK, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
            if s.sync and n:
                os.fsync(s.out)
            if s.trouble:
                s.trouble = ""
                self.tell(s)
            if n == 0:
                self._end(s)
        except BlockingIOError:
            if s.cut:
                self._end(s)
        except OSError as e:
            s.trouble, s.retry = f"write {s.path}: {e.strerror}", time.monotonic() + AGAIN_AFTER
            if s.cut:
                return self._end(s, f"{s.trouble}; what is in the pipe is lost")
            self.ready.unregister(s.far)
            self.waiting.add(s)
            os.write(self.waker, b"x")
            self.tell(s)

    def _end(self, s, failed=""):
        if s.far in self.ready.get_map():
            self.ready.unregister(s.far)
        self.waiting.discard(s)
        s.eof = True
        s.failed, s.flushed, s.trouble = failed, not failed, ""
        self.tell(s)

    def cut_off(self, s):
        """End s as soon as nothing can be read from it without waiting."""
        with self.lock:
            s.cut = True
            while not s.over:
                self._move(s)

    def leave(self, s):
        """End s between two bytes: what is in the pipe is somebody else's."""
        with self.lock:
            if not s.over:
                self._end(s)
            return s.bytes

    def release(self, s):
        with self.lock:
            os.close(s.far)
            os.close(s.out)


def remember(opening, streams):
    """Return a memfd that says where in their files the streams began, owned by the caller."""
    fd = os.memfd_create("base", os.MFD_CLOEXEC)
    os.write(fd, json.dumps({s.kind: s.base for s in streams}).encode())
    return fd


def recall(fd, streams):
    """Set where the streams began from a predecessor's memfd."""
    bases = json.loads(os.pread(fd, 1 << 16, 0))
    for s in streams:
        s.base = bases.get(str(s.kind), s.base)
