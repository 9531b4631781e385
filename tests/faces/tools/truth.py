"""What the older tool set answered whatever was asked, and what has to be answered here: one row
each, through one face.

usage: truth.py nats|stdio|http
"""

import asyncio
import sys

from faces import FACES, refused, run

NEVER = "i00000000000000000000000042"
# Sandboxes asked for by so many callers at once.
AT_ONCE = 8
THOUSAND = 1_000


async def a_thousand_creates_give_a_thousand_ids(face):
    ids, waiting = [], iter(range(THOUSAND))

    async def caller():
        for number in waiting:
            while True:
                created = await face.ask("create_e2b_sandbox", name=f"many-{number}")
                if created.ok:
                    break
                assert created["kind"] in ("busy", "quota_exceeded"), created.body
                await asyncio.sleep(0.02)
            ids.append(created["sandbox_id"])
            ended = await face.ask("terminate_e2b_sandbox", sandbox_id=created["sandbox_id"])
            assert ended.ok, ended.body

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    assert len(set(ids)) == THOUSAND


async def what_create_is_asked_for_is_done_and_said(face):
    created = await face.ask(
        "create_e2b_sandbox", name="sized", template="base", memory_mb=256, cpu_count=2, timeout=120
    )
    assert created.ok, created.body
    assert created["resources"] == {"memory_mb": 256, "cpu_count": 2}
    assert created["template"] == "base" and set(created["limits_enforced"]) == {"memory", "cpu", "pids", "disk"}
    sandbox = created["sandbox_id"]
    ran = await face.ask("execute_e2b_process", sandbox_id=sandbox, code="len(bytearray(400 << 20))")
    assert not ran.ok or ran["oom_killed"] or ran["exit_code"] != 0, "256 MiB hold 400"
    await face.ask("terminate_e2b_sandbox", sandbox_id=sandbox)
    refused(await face.ask("create_e2b_sandbox", name="x", memory_mb=64), "invalid_argument", "memory_mb")
    refused(await face.ask("create_e2b_sandbox", name="x", template="none"), "not_found")


async def executing_says_what_ran(face):
    refused(await face.ask("execute_e2b_process", sandbox_id=NEVER, command="false"), "not_found")
    created = await face.ask("create_e2b_sandbox", name="runs")
    sandbox = created["sandbox_id"]
    ran = await face.ask("execute_e2b_process", sandbox_id=sandbox, command="false")
    assert ran.ok and ran["exit_code"] == 1, ran.body
    ran = await face.ask("execute_e2b_process", sandbox_id=sandbox, command='python3 -c "print(1)"')
    assert (ran["exit_code"], ran["stdout"]) == (0, "1\n"), ran.body
    assert ran["process_id"] and ran["execution_time"] > 0
    ran = await face.ask(
        "execute_e2b_process", sandbox_id=sandbox, command="python3", args=["-c", "print(2)"],
        capture_output=False,
    )
    assert (ran["exit_code"], ran["stdout"], ran["stderr"]) == (0, "", ""), ran.body
    await face.ask("terminate_e2b_sandbox", sandbox_id=sandbox)


async def listing_shows_what_exists(face):
    mine = [(await face.ask("create_e2b_sandbox", name=f"shown-{n}"))["sandbox_id"] for n in range(3)]
    listed = await face.ask("list_e2b_sandboxes", status_filter="running", name_prefix="shown-")
    assert listed["total_count"] == 3
    assert sorted(one["sandbox_id"] for one in listed["sandboxes"]) == sorted(mine)
    for sandbox in mine:
        await face.ask("terminate_e2b_sandbox", sandbox_id=sandbox)
    listed = await face.ask("list_e2b_sandboxes", status_filter="running", name_prefix="shown-")
    assert listed["total_count"] == 0 and listed["sandboxes"] == []


async def an_unknown_sandbox_has_no_status(face):
    refused(await face.ask("get_e2b_sandbox_status", sandbox_id=NEVER), "not_found")


async def an_unknown_sandbox_is_not_terminated(face):
    refused(await face.ask("terminate_e2b_sandbox", sandbox_id=NEVER), "not_found")


async def main():
    async with FACES[sys.argv[1]]() as face:
        rows = [row for name, row in globals().items() if asyncio.iscoroutinefunction(row) and name != "main"]
        for row in rows:
            await row(face)
            print(f"{face.name}: {row.__name__.replace('_', ' ')}")


run(main)
