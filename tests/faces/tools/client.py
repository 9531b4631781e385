"""The Python client, in both of its forms, against a node."""

import asyncio

import sandpit


async def waiting():
    async with sandpit.connect() as node:
        async with node.sandbox("base", name="client", timeout=600) as box:
            assert (await box.run("x = 41")).exit_code == 0
            assert (await box.run("x + 1")).result == "42"
            raised = await box.run("1 / 0")
            assert raised.exit_code == 1 and raised.error["name"] == "ZeroDivisionError"
            assert (await box.shell("echo $WHO", env_vars={"WHO": "you"})).stdout == "you\n"

            cell = box.stream("import sys\nfor n in range(3): print(n)\nprint('e', file=sys.stderr)\n'end'")
            pieces = [(piece.stream, piece.text) async for piece in cell]
            assert "".join(text for name, text in pieces if name == "stdout") == "0\n1\n2\n"
            assert "".join(text for name, text in pieces if name == "stderr") == "e\n"
            assert cell.ran.result == "'end'"

            # Giving the iteration up ends the run.
            async for piece in box.stream("import time\nwhile True:\n    print('x', flush=True)\n    time.sleep(0.01)"):
                break
            assert (await box.run("6 * 7", timeout=5)).result == "42"

            await box.write("deep/er/a.bin", bytes(range(256)))
            assert await box.read("deep/er/a.bin") == bytes(range(256))
            assert await box.files("deep") == ["er"]
            try:
                await box.read("nothing")
            except OSError as error:
                assert "nothing" in str(error)
            else:
                raise AssertionError("a file that is not there was read")

            assert [one["name"] for one in await node.sandboxes(name_prefix="client")] == ["client"]
            assert (await box.status())["status"] == "running"
        ended = await node.ask("status", sandbox_id=box.id)
        assert ended["status"] == "stopped"
        try:
            await node.ask("status", sandbox_id="never-was")
        except sandpit.Refused as refused:
            assert (refused.kind, refused.code, refused.ran) == ("not_found", 404, "no")
        else:
            raise AssertionError("a sandbox that never was has a status")


def plain():
    with sandpit.sync.connect() as node, node.sandbox() as box:
        assert box.run("1 + 1").result == "2"
        assert box.shell("exit 4").exit_code == 4
        assert [piece.text for piece in box.stream("print('a')")] == ["a\n"]
        box.write("a.txt", "text")
        assert box.read("a.txt") == b"text" and box.files() == ["a.txt"]
        box.terminate()
        try:
            box.run("1")
        except sandpit.Refused as refused:
            assert refused.kind == "gone"
        else:
            raise AssertionError("it ran in a sandbox that ended")


asyncio.run(waiting())
plain()
print("the client did what it says")
