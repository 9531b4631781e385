"""What the older tool set answered whatever was asked, and what has to be answered here: one row
each, through one face.

usage: truth.py nats|stdio|http
"""

import asyncio
import os
import sys
import time

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


async def an_agent_runs_and_tells_on_what_data(face):
    symbols = os.environ["FACE_SYMBOLS"].split(",")[:2]
    # The first sandbox of a template waits until it is built.
    until = time.monotonic() + 300
    while True:
        created = await face.ask("create_e2b_sandbox", name="agent", template="trading")
        if created.ok or created["kind"] not in ("busy", "timeout") or time.monotonic() > until:
            break
        await asyncio.sleep(0.5)
    sandbox = created["sandbox_id"]
    ran = await face.ask(
        "run_e2b_agent", sandbox_id=sandbox, agent_type="analyzer", symbols=symbols, wait=120
    )
    assert ran.ok and ran["status"] == "completed", ran.body
    assert ran["results"]["data"]["rows"] > 0 and ran["results"]["metrics"], ran.body
    assert ran["execution_time"].endswith("s") and ran["execution_time_ms"] > 0
    prophet = await face.ask(
        "run_e2b_agent", sandbox_id=sandbox, agent_type="prophet", symbols=symbols
    )
    refused(prophet, "invalid_argument", "agent_type")
    gpu = await face.ask(
        "run_e2b_agent", sandbox_id=sandbox, agent_type="trader", symbols=symbols, use_gpu=True
    )
    refused(gpu, "unsupported")
    none = await face.ask(
        "run_e2b_agent", sandbox_id=sandbox, agent_type="trader", symbols=["NOSUCH"], wait=60
    )
    assert none["status"] == "failed", "bars of an unknown symbol are not invented"
    await face.ask("terminate_e2b_sandbox", sandbox_id=sandbox)


async def a_deployment_has_sandboxes_and_is_scaled_to_sandboxes(face):
    deployed = await face.ask(
        "deploy_e2b_template", template_name="truth", category="custom",
        configuration={"template": "base", "instances": 2},
    )
    assert deployed.ok, deployed.body
    deployment = deployed["deployment_id"]
    running = await face.ask("get_e2b_sandbox_status", sandbox_id=deployed["sandbox_id"])
    assert running["status"] == "running", running.body
    scaled = await face.ask("scale_e2b_deployment", deployment_id=deployment, instance_count=-5)
    refused(scaled, "invalid_argument", "instance_count")
    scaled = await face.ask("scale_e2b_deployment", deployment_id=deployment, instance_count=3)
    assert isinstance(scaled["instances"], list) and len(scaled["instances"]) == 3, scaled.body
    listed = await face.ask("list_e2b_sandboxes", status_filter="running", limit=1000)
    here = {one["sandbox_id"] for one in listed["sandboxes"]}
    assert {one["sandbox_id"] for one in scaled["instances"]} <= here
    scaled = await face.ask("scale_e2b_deployment", deployment_id=deployment, instance_count=1)
    assert scaled["total_instances"] == 1, scaled.body
    unknown = await face.ask("scale_e2b_deployment", deployment_id="dep_1", instance_count=2)
    refused(unknown, "not_found")


async def health_is_counted(face):
    before = await face.ask("monitor_e2b_health")
    assert before.ok and isinstance(before["total_sandboxes"], int), before.body
    created = await face.ask("create_e2b_sandbox", name="counted")
    after = await face.ask("monitor_e2b_health")
    assert after["total_sandboxes"] > before["total_sandboxes"], (before.body, after.body)
    await face.ask("terminate_e2b_sandbox", sandbox_id=created["sandbox_id"])


async def an_export_can_be_created_from(face):
    created = await face.ask("create_e2b_sandbox", name="source")
    sandbox = created["sandbox_id"]
    await face.ask("execute_e2b_process", sandbox_id=sandbox, command="echo here > /home/user/mark")
    exported = await face.ask(
        "export_e2b_template", sandbox_id=sandbox, template_name="truth-kept", include_data=True
    )
    assert exported.ok and exported["template_name"] == "truth-kept", exported.body
    again = await face.ask("create_e2b_sandbox", name="again", template="truth-kept")
    assert again.ok, again.body
    ran = await face.ask("execute_e2b_process", sandbox_id=again["sandbox_id"], command="cat /home/user/mark")
    assert ran["stdout"] == "here\n", ran.body
    for one in (sandbox, again["sandbox_id"]):
        await face.ask("terminate_e2b_sandbox", sandbox_id=one)
    refused(await face.ask("export_e2b_template", sandbox_id=NEVER, template_name="x"), "not_found")


async def an_unknown_swarm_is_not_found(face):
    for swarm in ("swarm_123", NEVER.replace("i", "s", 1)):
        for tool, more in (
            ("get_swarm_status", {}), ("get_swarm_metrics", {}), ("monitor_swarm_health", {}),
            ("scale_swarm", {"target_agents": 3}), ("shutdown_swarm", {}),
            ("deploy_trading_agent", {"agent_type": "trend_follower", "symbols": ["SPY"]}),
            ("execute_swarm_strategy", {"strategy": "trend"}),
        ):
            refused(await face.ask(tool, swarm_id=swarm, **more), "not_found")


async def a_swarm_has_agents_that_exist_and_measures_or_nothing(face):
    symbols = os.environ["FACE_SYMBOLS"].split(",")[:2]
    made = await face.ask("init_e2b_swarm", topology="star", maxAgents=3, name="truth")
    assert made.ok and made["max_agents"] == 3, made.body
    assert any("Byzantine" in note or "tolerate" in note for note in made["notes"]), made.body
    swarm = made["swarm_id"]
    status = await face.ask("get_swarm_status", swarm_id=swarm)
    assert status["agent_count"] == 0 and not status.get("total_trades"), status.body
    metrics = await face.ask("get_swarm_metrics", swarm_id=swarm)
    for invented in ("latency_ms", "win_rate", "total_pnl"):
        assert invented not in metrics["metrics"], f"{invented} was not measured: {metrics.body}"
    for number in range(2):
        added = await face.ask(
            "deploy_trading_agent", swarm_id=swarm, agent_type="analyzer", symbols=symbols
        )
        assert added.ok, added.body
        seen = await face.ask("get_e2b_sandbox_status", sandbox_id=added["sandbox_id"])
        assert seen["status"] == "running", seen.body
    scaled = await face.ask("scale_swarm", swarm_id=swarm, target_agents=3, scale_mode="immediate")
    assert scaled.ok and scaled["previous_agents"] == 2, scaled.body
    status = await face.ask("get_swarm_status", swarm_id=swarm)
    assert status["agent_count"] == 3 and len({one["agent_id"] for one in status["agents"]}) == 3
    over = await face.ask("scale_swarm", swarm_id=swarm, target_agents=99)
    refused(over, "invalid_argument", "target_agents")
    stopped = await face.ask("shutdown_swarm", swarm_id=swarm, grace_period=5)
    assert stopped.ok and stopped["agents_stopped"] == 3, stopped.body
    again = await face.ask("shutdown_swarm", swarm_id=swarm, grace_period=5)
    assert again.ok, again.body


async def main():
    async with FACES[sys.argv[1]]() as face:
        rows = [row for name, row in globals().items() if asyncio.iscoroutinefunction(row) and name != "main"]
        for row in rows:
            await row(face)
            print(f"{face.name}: {row.__name__.replace('_', ' ')}")


run(main)
