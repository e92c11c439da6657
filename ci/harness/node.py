"""A server as a child process: started, watched through /proc, stopped or killed. Owns the child; never any other process."""

import os
import select
import signal
import subprocess
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Node:
    """`command` prints one line `ready HOST:PORT` on standard output when it serves."""

    def __init__(self, command, log_path):
        self.command = command
        self.log_path = log_path
        self.child = None
        self.address = None

    def start(self, patience=60.0):
        """Starts it and waits until it is ready. AssertionError with the end of its log where it is not."""
        assert self.child is None, "one child at a time"
        log = open(self.log_path, "ab")
        self.child = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        log.close()
        line = self._line(patience)
        words = line.split()
        if len(words) != 2 or words[0] != "ready":
            self.kill()
            raise AssertionError(f"{self.command} said {line!r} in place of ready\n{self.log_end()}")
        host, _, port = words[1].rpartition(":")
        self.address = (host, int(port))
        return self

    def _line(self, patience):
        """The first line of standard output."""
        data, deadline = b"", time.monotonic() + patience
        descriptor = self.child.stdout.fileno()
        while b"\n" not in data and time.monotonic() < deadline:
            readable, _, _ = select.select([descriptor], [], [], 0.2)
            if readable:
                part = os.read(descriptor, 4096)
                if not part:
                    break
                data += part
        return data.decode(errors="replace").split("\n")[0]

    @property
    def endpoint(self):
        return f"{self.address[0]}:{self.address[1]}"

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def kill(self):
        """kill -9: no chance to say goodbye."""
        return self._end(signal.SIGKILL)

    def stop(self, patience=60.0):
        """SIGTERM; the exit code, which is 0 after a clean drain."""
        return self._end(signal.SIGTERM, patience)

    def _end(self, number, patience=60.0):
        child, self.child = self.child, None
        if child is None:
            return None
        if child.poll() is None:
            child.send_signal(number)
        try:
            return child.wait(patience)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdout.close()

    def resident_bytes(self):
        """Memory that is in use now."""
        with open(f"/proc/{self.child.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES

    def cpu_ticks(self):
        """User and system time so far, in ticks of 1 / TICKS_PER_SECOND s."""
        with open(f"/proc/{self.child.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def descriptor_count(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def log_end(self, lines=30):
        try:
            with open(self.log_path, errors="replace", encoding="utf-8") as log:
                return "".join(log.readlines()[-lines:])
        except FileNotFoundError:
            return ""
