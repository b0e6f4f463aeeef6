"""The fd channel of muxd: PROTOCOL.md, section 3. Descriptors travel on it, each packet under a ticket."""

import os
import secrets
import socket
import struct
import threading
import time

HEADER = struct.Struct(">4sBBBB16s")
MAGIC, VERSION = b"MUXF", 1
HELLO, GIVE, ACK, REFUSE, PARK = 1, 2, 3, 4, 6
MAX_FDS, MAX_PAYLOAD = 250, 131072
KEEP_FOR, KEEP_MOST = 10, 64  # seconds for which a Give that no call names is kept, and how many
HELLO_WITHIN = 5


class Ended(Exception):
    """The channel has ended, or muxd has said no."""


def send(sock, kind, ticket, fds=(), payload=b""):
    header = HEADER.pack(MAGIC, VERSION, kind, len(fds), 0, ticket)
    try:
        socket.send_fds(sock, [header + payload], list(fds)) if fds else sock.sendall(header + payload)
    except OSError as e:
        raise Ended(f"send on the fd channel: {e}") from e


def receive(sock):
    """Return kind, ticket, payload and descriptors of the next packet; a malformed one is dropped, with what came."""
    while True:
        try:
            data, control, flags, _ = sock.recvmsg(
                HEADER.size + MAX_PAYLOAD, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
        except OSError as e:
            raise Ended(f"receive on the fd channel: {e}") from e
        fds = []
        for level, kind, body in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += [fd for (fd,) in struct.iter_unpack("i", body[:len(body) - len(body) % 4])]
        if not data and not fds:
            raise Ended("muxd has closed the fd channel")
        if not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) and len(data) >= HEADER.size:
            magic, version, kind, n, zero, ticket = HEADER.unpack_from(data)
            if (magic, version, n, zero) == (MAGIC, VERSION, len(fds), 0):
                return kind, ticket, data[HEADER.size:], fds
        close_all(fds)


def close_all(fds):
    for fd in fds:
        os.close(fd)


class Channel:
    """One fd channel. A thread of its own receives; every method may be called by any thread."""

    def __init__(self, sock):
        self.sock = sock
        self.changed = threading.Condition()
        self.given = {}  # ticket: (descriptors, when they came)
        self.wanted = set()  # tickets that a call waits for
        self.answers = {}  # ticket of a Park: None, or its answer
        self.ended = threading.Event()
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self):
        try:
            while True:
                self._dispatch(*receive(self.sock))
        except Ended:
            pass
        with self.changed:
            self.ended.set()
            self.changed.notify_all()
        for fds, _ in self.given.values():
            close_all(fds)

    def _dispatch(self, kind, ticket, payload, fds):
        with self.changed:
            if kind == GIVE and (ticket in self.wanted or len(self.given) < KEEP_MOST):
                self.given[ticket] = fds, time.monotonic()
                threading.Timer(KEEP_FOR, self._expire, [ticket]).start() if ticket not in self.wanted else None
                self.changed.notify_all()
                return
            if kind in (ACK, REFUSE) and ticket in self.answers:
                self.answers[ticket] = kind, payload.decode(errors="replace")
                self.changed.notify_all()
        close_all(fds)
        if kind == GIVE:
            send(self.sock, REFUSE, ticket, payload=b"too many descriptors wait to be asked for")

    def _expire(self, ticket):
        with self.changed:
            fds, _ = self.given.pop(ticket, ((), 0))
        close_all(fds)
        if fds:
            self.refuse(ticket, "no call has asked for the descriptors")

    def end(self):
        """Close the channel: another has taken its place."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end is gone already

    def take(self, ticket, count, timeout):
        """Return the descriptors under ticket, owned by the caller, who must ack or refuse. It blocks for timeout seconds at most."""
        with self.changed:
            self.wanted.add(ticket)
            self.changed.wait_for(lambda: ticket in self.given or self.ended.is_set(), timeout)
            self.wanted.discard(ticket)
            fds, _ = self.given.pop(ticket, (None, 0))
        if fds is None:
            raise TimeoutError("the descriptors did not come")
        if len(fds) != count:
            close_all(fds)
            self.refuse(ticket, f"{len(fds)} descriptors came, want {count}")
            raise ValueError(f"{len(fds)} descriptors came, want {count}")
        return fds

    def ack(self, ticket):
        send(self.sock, ACK, ticket)

    def refuse(self, ticket, why):
        try:
            send(self.sock, REFUSE, ticket, payload=why.encode())
        except Ended:
            pass

    def park(self, name, fds=()):
        """Have muxd hold copies of fds under name, in place of what is there; without fds, let go of that. It blocks until they are safe."""
        ticket = secrets.token_bytes(16)
        with self.changed:
            self.answers[ticket] = None
        try:
            send(self.sock, PARK, ticket, fds, name.encode())
            with self.changed:
                self.changed.wait_for(lambda: self.answers[ticket] or self.ended.is_set())
                answer = self.answers[ticket]
        finally:
            with self.changed:
                del self.answers[ticket]
        if answer is None:
            raise Ended("the fd channel ended before the answer")
        if answer[0] == REFUSE:
            raise Ended(f"park {name}: {answer[1]}")


def accept(listener):
    """Wait for a later muxd, and return the channel that it has opened. The listener is on the descriptor that muxd gave."""
    while True:
        sock, _ = listener.accept()
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            if uid not in (0, os.getuid()):
                raise Ended(f"user {uid} may not connect")
            sock.settimeout(HELLO_WITHIN)
            kind, ticket, _, fds = receive(sock)
            close_all(fds)
            if kind != HELLO:
                raise Ended("no hello")
            sock.settimeout(None)
            return sock, ticket
        except Ended:
            sock.close()
