import os
import signal
import time


def decode(name):
    """Does to its process what broken files do to those of their decoders."""
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(600)
    if name == "disk full":
        raise OSError(28, "No space left on device")
    return "is broken" if name == "broken" else None


def process_of(path):
    path.write_text(str(os.getpid()))


class DiesWhenRead:
    """Brings down the processes that read it from the pool, so many in all."""

    def __init__(self, path, times):
        self.path, self.times = path, times

    def __reduce__(self):
        return _read, (self.path, self.times)


def _read(path, times):
    with path.open("a+") as file:
        file.seek(0)
        if len(file.read()) < times:
            file.write(".")
            file.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
    return "read"
