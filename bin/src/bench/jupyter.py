"""Times Jupyter kernels for `sandpit bench`. One command a line; the answer is a JSON list of
milliseconds.

start    a kernel starts, answers, and has pandas imported; then it is shut down
run N    `1+1` N times in one kernel that is kept, each until it is idle again
"""

import json
import sys
import time

from jupyter_client.manager import start_new_kernel


def execute(client, code):
    """Runs code and waits until the kernel is idle again."""
    asked = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "error":
            raise RuntimeError(message["content"]["evalue"])
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return


def timed(work, *arguments):
    """Milliseconds that it took."""
    begun = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - begun) * 1000


def main():
    kept = None
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "start":
            begun = time.perf_counter()
            manager, client = start_new_kernel(kernel_name="python3")
            execute(client, "import pandas")
            times = [(time.perf_counter() - begun) * 1000]
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        else:
            if kept is None:
                kept = start_new_kernel(kernel_name="python3")
                execute(kept[1], "1+1")
            times = [timed(execute, kept[1], "1+1") for _ in range(int(arguments[0]))]
        print(json.dumps(times), flush=True)
    if kept is not None:
        kept[1].stop_channels()
        kept[0].shutdown_kernel(now=True)


main()
