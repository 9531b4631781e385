"""Long calls: they say how far they are, and being given up ends their work.

usage: long.py stdio|http
"""

import sys
import time

import anyio
from faces import FACES, run


async def progress(face, sandbox):
    told = []

    async def hear(done, total, message):
        told.append((time.monotonic(), done, message))

    begun = time.monotonic()
    lines = "import time\nfor n in range(40):\n    print(n, flush=True)\n    time.sleep(0.1)"
    ran = await face.client.call_tool(
        "execute_e2b_process", {"sandbox_id": sandbox, "code": lines}, progress_callback=hear
    )
    took = time.monotonic() - begun
    assert not ran.is_error and ran.structured_content["stdout"].endswith("39\n")
    numbers = [done for _, done, _ in told]
    assert numbers == sorted(set(numbers)), f"progress goes on: {numbers}"
    assert 4 <= len(told) <= 4 * took + 3, f"{len(told)} reports in {took:.1f} s"
    assert any("lines of output" in message for _, _, message in told), told
    print(f"{len(told)} reports in {took:.1f} s, the last: {told[-1][2]}")

    told.clear()
    await face.client.call_tool(
        "execute_e2b_process", {"sandbox_id": sandbox, "command": "sleep 5"}, progress_callback=hear
    )
    gaps = [later - earlier for (earlier, *_), (later, *_) in zip(told, told[1:])]
    # One comes every two seconds; 3.9 is less than one left out.
    assert max(gaps) < 3.9, f"silence of {max(gaps):.1f} s"


async def give_up(face, sandbox):
    """The mark grows every 50 ms as long as the work goes on."""
    work = "while true; do echo >> /home/user/mark; sleep 0.05; done"

    async def mark():
        code = "import os\nprint(os.path.getsize('/home/user/mark') if os.path.exists('/home/user/mark') else 0)"
        ran = await face.ask("execute_e2b_process", sandbox_id=sandbox, code=code)
        return int(ran["stdout"])

    async def until(what, holds):
        with anyio.move_on_after(10):
            while not await holds():
                pass
            return
        raise AssertionError(what)

    async def grows():
        first = await mark()
        await anyio.sleep(0.3)
        return first < await mark()

    async def stands():
        return not await grows()

    async with anyio.create_task_group() as group:
        arguments = {"sandbox_id": sandbox, "command": work, "timeout": 60}
        group.start_soon(face.client.call_tool, "execute_e2b_process", arguments)
        await until("the work never began", grows)
        group.cancel_scope.cancel()
    await until("the work goes on although nobody wants it", stands)
    print("giving a call up ended its work")


async def give_up_create(face):
    """A sandbox made for a caller that left is ended. The template is one of which none is ready, so
    that there is time to leave; an answer that was sent by then is the caller's, and is tried again."""
    for _ in range(10):
        before = await face.ask("list_e2b_sandboxes", status_filter="running")
        with anyio.move_on_after(0.001):
            await face.client.call_tool("create_e2b_sandbox", {"name": "given-up", "template": "python"})
        until = time.monotonic() + 3
        while time.monotonic() < until:
            await anyio.sleep(0.5)
            now = await face.ask("list_e2b_sandboxes", status_filter="running")
            if now["total_count"] == before["total_count"]:
                print("of a create that was given up nothing is left")
                return
        await face.ask("terminate_e2b_sandbox", sandbox_id="given-up")
    raise AssertionError("every create that was given up went on")


async def main():
    async with FACES[sys.argv[1]]() as face:
        created = await face.ask("create_e2b_sandbox", name="long")
        await progress(face, created["sandbox_id"])
        await give_up(face, created["sandbox_id"])
        await give_up_create(face)
        await face.ask("terminate_e2b_sandbox", sandbox_id=created["sandbox_id"])


run(main)
