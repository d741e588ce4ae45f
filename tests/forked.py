"""Commands in forks of a process that has imported seqmix, each with a fault: the server of ``test_faults.py``.

A request is a line of JSON, so is the answer. What touches the file system below the folder of a command is counted by
an audit hook: opening for writing, making, renaming, linking and removing. The fault strikes at one of these calls.
"""

import errno
import json
import os
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

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
    # a folder that is there already is not made
    return path if path.is_relative_to(folder) and not (event == "os.mkdir" and path.exists()) else None


def _inject(fault, at, folder):
    """Strike at call number ``at``, counted over all processes of the command in ``calls``."""
    seen = []

    def hook(event, args):
        path = _struck(event, args, folder)
        if path is None or seen is None:
            return
        seen.append(f"{event} {path.name}")
        if len(seen) != at:
            return
        if fault == "torn" and event == "open" and not path.exists():
            # what a crash in the middle of writing leaves
            os.write(os.open(os.devnull, os.O_WRONLY), b"")
            Path(f"{folder}.torn").write_bytes(b"PK\3\4 half a file")
            os.replace(f"{folder}.torn", path)
        if fault in ("kill", "torn"):
            os.kill(0, signal.SIGKILL)
        elif fault == "term":
            signal.raise_signal(signal.SIGTERM)
        else:
            raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)), str(path))

    sys.addaudithook(hook)
    return seen


def _child(request, out):
    os.setsid()
    folder = Path(request["folder"])
    os.chdir(folder)
    for target, name in ((out / "out", 1), (out / "err", 2)):
        os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT), name)
    if limit := request.get("limit"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = 1
    seen = _inject(request.get("fault"), request.get("at"), folder)
    try:
        module, _, name = request["call"].partition(":")
        code = getattr(import_module(module), name)(*request["args"])
    except SystemExit as e:
        code = e.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        calls = list(seen)
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
            os.killpg(pid, signal.SIGKILL if request["fault"] == "kill" else signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        calls = out / "calls"
        return {
            "code": os.waitstatus_to_exitcode(status),
            "calls": json.loads(calls.read_text()) if calls.exists() else [],
            "out": (out / "out").read_text(),
            "err": (out / "err").read_text(),
            "seconds": time.monotonic() - began,
        }


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)
