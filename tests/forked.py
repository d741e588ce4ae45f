"""Commands in forks of a process that has imported seqmix, each with a fault: the server of ``test_faults.py``.

A request is a line of JSON, so is the answer. What touches the file system below the folder of a command is counted by
an audit hook: opening for writing, making, renaming, linking and removing. The fault strikes just before one of these
calls, or a signal comes after some time, or the system limits the size of files.
"""

import errno
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = ("os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove")


def _struck(event, args, folder):
    """Path that an audited call changes, if it is below ``folder``."""
    if event == "open":
        path, _, flags = args
        if not flags & _WRITES or isinstance(path, int):
            return None
    elif event in _EVENTS:
        path = args[1] if event in ("os.rename", "os.link") else args[0]
    else:
        return None
    path = Path(os.path.abspath(os.fsdecode(path)))
    if not path.is_relative_to(folder):
        return None
    # nothing happens to a folder that is there already, nor to a file that is not
    idle = path.exists() if event == "os.mkdir" else not path.exists() if event == "os.remove" else False
    return None if idle else path


def _inject(fault, at, folder):
    """Strike at the call number ``at``; the calls so far."""
    seen = []

    def hook(event, args):
        path = _struck(event, args, folder)
        if path is None:
            return
        seen.append(f"{event} {path.name}")
        if len(seen) != at:
            return
        if fault == "kill":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)), str(path))

    sys.addaudithook(hook)
    return seen


def _child(request, out):
    os.setsid()
    folder = Path(request["folder"])
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(out / name, os.O_WRONLY | os.O_CREAT), number)
    if limit := request.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    code = 1
    seen = _inject(request.get("fault"), request.get("at"), folder)
    try:
        module, _, name = request["call"].partition(":")
        code = getattr(import_module(module), name)(*request["args"])
    except SystemExit as e:
        code = e.code
    except BaseException:
        # a traceback may be longer than files could be until now
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        traceback.print_exc()
    finally:
        calls = list(seen)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.stdout.flush()
        sys.stderr.flush()
        (out / "calls").write_text(json.dumps(calls))
        os._exit(code or 0)


def _answer(request):
    with tempfile.TemporaryDirectory() as place:
        out, began = Path(place), time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(request, out)
        if after := request.get("after"):
            time.sleep(after)
            os.killpg(pid, getattr(signal, request["signal"]))
        _, status, used = os.wait4(pid, 0)
        calls = out / "calls"
        return {
            "code": os.waitstatus_to_exitcode(status),
            "calls": json.loads(calls.read_text()) if calls.exists() else [],
            "out": (out / "out").read_text(),
            "err": (out / "err").read_text(),
            "seconds": time.monotonic() - began,
            "cpu": used.ru_utime + used.ru_stime,
        }


def generate(name):
    """Make the file of a data set."""
    from seqmix import data

    getattr(data, name)(n_train=1100, n_val=4, n_test=4, root="made", workers=2, **_SMALL[name]).setup()


def download(size):
    """Fetch a file from a server of this process."""
    from hashlib import sha256

    from seqmix.data.files import Source, read_published

    content = bytes(size)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            """Keep quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/zeros.bin"
    read_published(Source(("sub/zeros.bin",), address, size, sha256(content).hexdigest()), "made")


_SMALL = {"ListOps": {"max_depth": 3, "min_length": 4, "max_length": 40}, "Pathfinder": {}}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)
