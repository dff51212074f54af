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
