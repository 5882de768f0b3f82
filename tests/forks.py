"""A Python that has imported torch and the like already: it forks a process for each script that needs them.

That takes moments, where importing torch and transformers takes seconds. As under Python itself a script has
its own arguments, variables, folder, input and outputs, signals reach it, and its exit code comes back. Three
things differ: variables that Python and its libraries read when they begin, such as PYTHONHASHSEED or
OMP_NUM_THREADS, come too late; MODULES are imported already; and their memory counts as every script's. On
other systems than Linux the command is Python itself.

The forkserver of `multiprocessing` keeps imports too, but it starts a process only for the Python that owns
it, which hands over a pickled function. Jupyter and `subprocess` start a command instead, and give it a
folder, variables, arguments, their own input and outputs, and signals: all of this would have to be carried
over by hand there too, with private names of the standard library on top.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What scripts import first. No module that is run as a program is here, and none that starts threads.
MODULES = (
    "torch",
    "transformers.models.llama.modeling_llama",
    "comp_lib.pruning.comp",
    "comp_lib.checkpoints.from_disk.from_disk",
    "comp_lib.cli.app",
    "comp_lib.evaluation.by_kind",
    "comp_lib.evaluation.generation",
    "comp_lib.checkpoints.save",
    "comp_lib.checkpoints.export",
    "course.dense_stream",
    "pandas",
    "ipykernel.kernelapp",
    "nbformat",
)

SERVER = """
import gc, importlib, json, os, runpy, select, signal, socket, sys, tempfile
address, *names = sys.argv[1:]
sys.modules["rfc3987_syntax"] = None  # jsonschema does without, and nbformat is there in moments
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # the module belongs to an extra that is not installed
door = socket.socket(socket.AF_UNIX)
door.bind(address)
door.listen()
gc.freeze()  # memory that no garbage collection walks is never copied
print("open", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for scripts
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True:
    if 0 in select.select([door, 0], [], [])[0]:
        os._exit(0)  # the process that started this server has ended
    caller, _ = door.accept()
    if os.fork() == 0:
        break
    caller.close()
# from here on: a process for one script
door.close()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
request, streams, *_ = socket.recv_fds(caller, 1 << 16, 3)  # streams: the caller's descriptors 0, 1 and 2
while not request.endswith(b"\\n"):
    request += caller.recv(1 << 16) or os._exit(0)
arguments, variables, folder = json.loads(request)
ended, alive = os.pipe()  # `ended` can be read when the script, which keeps `alive`, is no more
child = os.fork()
if child:  # this process waits for the script, and passes signals on to it
    for descriptor in (alive, *streams):
        os.close(descriptor)
    while ended not in select.select([caller, ended], [], [])[0]:
        number = caller.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        caller.sendall(f"{code}\\n".encode())
    finally:
        os._exit(0)
caller.close()
os.close(ended)
for number, stream in enumerate(streams):
    os.dup2(stream, number)
    os.close(stream)
sys.stdin = open(0, closefd=False)
sys.stdout = open(1, "w", closefd=False)
sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.clear()
os.environ.update(variables)
os.chdir(folder)
tempfile.tempdir = None  # to be found anew from the variables
folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
sys.path[1:1] = [folder for folder in folders if folder and folder not in sys.path]
sys.argv = [arguments[0], *arguments[2:]]


def run(kind, code):
    import atexit, os, signal, sys, threading

    try:
        if kind == "-c":
            exec(compile(code, "<string>", "exec"), globals())
        else:
            runpy.run_module(code, run_name="__main__", alter_sys=True)
        result = 0
    except SystemExit as end:
        result = end.code or 0
        if not isinstance(result, int):
            print(result, file=sys.stderr)
            result = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        result = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if result < 0:
        signal.signal(-result, signal.SIG_DFL)
        os.kill(os.getpid(), -result)
    os._exit(result & 255)  # the ordinary end of a Python with so many imports takes seconds


run(*arguments[:2])
"""

CALLER = """
import json, os, signal, socket, sys
caller = socket.socket(socket.AF_UNIX)
caller.connect(sys.argv[1])
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: caller.send(bytes([number])))
request = json.dumps([sys.argv[2:], dict(os.environ), os.getcwd()]).encode() + b"\\n"
sent = socket.send_fds(caller, [request], [0, 1, 2])
caller.sendall(request[sent:])
code = int(caller.makefile().readline() or 70)
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextmanager
def python() -> Iterator[list[str]]:
    """What a command begins with instead of `python`; `-c` and a script, or `-m` and a module, follow."""
    if sys.platform != "linux":
        yield [sys.executable]
        return
    with tempfile.TemporaryDirectory() as folder:
        door = str(Path(folder) / "door")
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-c", SERVER, door, *MODULES]
        with subprocess.Popen(command, **pipes, env=environment) as server:
            assert server.stdout.readline() == b"open\n"
            yield [sys.executable, "-S", "-c", CALLER, door]
