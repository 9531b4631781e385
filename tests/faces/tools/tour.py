"""Lists the tools through one face of MCP, calls each, and looks at what it did through another.

usage: tour.py stdio|http
"""

import asyncio
import json
import os
import subprocess
import sys
import time

from faces import FACES, MCPError, refused, run
from jsonschema import Draft202012Validator

TOOLS = [
    "create_e2b_sandbox", "execute_e2b_process", "list_e2b_sandboxes", "get_e2b_sandbox_status",
    "terminate_e2b_sandbox", "run_e2b_agent", "deploy_e2b_template", "scale_e2b_deployment",
    "monitor_e2b_health", "export_e2b_template", "init_e2b_swarm", "deploy_trading_agent",
    "get_swarm_status", "scale_swarm", "execute_swarm_strategy", "monitor_swarm_health",
    "get_swarm_metrics", "shutdown_swarm",
]


def cli(*words):
    command = json.loads(os.environ["FACE_CLI"])
    done = subprocess.run([*command, "--json", *words], capture_output=True, check=True)
    return json.loads(done.stdout)


# What a call has to say beside what is required for its handle to be looked at.
MEANT = {
    "execute_e2b_process": {"command": "true"},
    "run_e2b_agent": {"agent_type": "trend"},
    "deploy_trading_agent": {"agent_type": "trend"},
    "execute_swarm_strategy": {"strategy": "trend"},
}


class Tour:
    """Calls through MCP, and tells what was asked and answered."""

    def __init__(self, face, tools):
        self.face, self.tools, self.called = face, tools, set()

    async def __call__(self, tool, **arguments):
        answer = await self.face.ask(tool, **arguments)
        assert answer.ok, f"{tool}({arguments}): {answer.body}"
        Draft202012Validator(self.tools[tool].output_schema).validate(answer.body)
        Draft202012Validator(self.tools[tool].input_schema).validate(arguments)
        self.called.add(tool)
        shown = json.dumps(answer.body)
        print(f"> {tool} {json.dumps(arguments)}\n  {shown[:600]}")
        return answer


def plain(schema, tool):
    """No references, no formats of one language, nothing that refuses what it does not know."""
    text = json.dumps(schema)
    for word in ('"$ref"', '"format"', '"additionalProperties": false'):
        assert word not in text, f"{tool}: {word}"
    assert schema["type"] == "object"
    Draft202012Validator.check_schema(schema)


async def sandboxes(ask, nats):
    name = f"tour-{ask.face.name.split()[1].lower()}"
    created = await ask("create_e2b_sandbox", name=name, template="base", timeout=600)
    sandbox = created["sandbox_id"]
    assert created["resources"] == {"memory_mb": 512, "cpu_count": 1}

    listed = cli("sandbox", "list")["sandboxes"]
    assert [one["name"] for one in listed if one["sandbox_id"] == sandbox] == [name]
    seen = await nats.ask("status", sandbox_id=sandbox)
    assert seen.ok and seen["status"] == "running" and seen["name"] == name

    ran = await ask("execute_e2b_process", sandbox_id=sandbox, code="kept = 41\nprint('out')\nkept + 1")
    assert (ran["exit_code"], ran["stdout"], ran["result"]) == (0, "out\n", "42")
    over_nats = await nats.ask("exec", sandbox_id=sandbox, code="kept + 2")
    assert over_nats["result"] == "43", "a variable set over MCP is there over NATS"
    failed = await ask("execute_e2b_process", sandbox_id=name, command="echo err >&2; exit 3")
    assert (failed["exit_code"], failed["stderr"]) == (3, "err\n")

    found = await ask("list_e2b_sandboxes", status_filter="running", name_prefix=name)
    assert found["total_count"] == 1 and found["sandboxes"][0]["sandbox_id"] == sandbox
    status = await ask("get_e2b_sandbox_status", sandbox_id=sandbox)
    assert status["execution_count"] == 3 and status["uptime"] > 0
    return sandbox


async def agents(ask, nats):
    symbols = os.environ["FACE_SYMBOLS"].split(",")[:3]
    # Its programs compute with numpy.
    created = await patiently(ask, "create_e2b_sandbox", name="trader", template="trading")
    sandbox = created["sandbox_id"]
    ran = await ask(
        "run_e2b_agent", sandbox_id=sandbox, agent_type="momentum_trader", symbols=symbols, wait=120
    )
    assert ran["status"] == "completed", ran.body
    assert ran["results"]["data"]["rows"] > 100, "it saw real bars"
    seen = await nats.ask("status", execution_id=ran["execution_id"])
    assert seen.ok and seen["sandbox_id"] == sandbox
    fills = await nats.ask("fills", agent_id=ran["agent_id"])
    assert fills.ok, fills.body
    await nats.ask("terminate", sandbox_id=sandbox)


async def patiently(ask, tool, **arguments):
    """The first sandbox of a template waits until it is built; its refusal says when to ask again."""
    until = time.monotonic() + 300
    while True:
        answer = await ask.face.ask(tool, **arguments)
        if answer.ok or time.monotonic() > until or answer["kind"] not in ("busy", "timeout"):
            assert answer.ok, answer.body
            ask.called.add(tool)
            return answer
        await asyncio.sleep((answer.get("retry_after_ms") or 500) / 1000)


async def deployments(ask, nats):
    name = f"tour-{ask.face.name.split()[1].lower()}"
    deployed = await ask(
        "deploy_e2b_template", template_name=name, category="custom",
        configuration={
            "template": "base", "instances": 2, "files": {"told.txt": "hello"},
            "setup": ["grep hello told.txt"],
        },
    )
    deployment = deployed["deployment_id"]
    assert len(deployed["sandboxes"]) == 2, deployed.body
    first = deployed["sandbox_id"]
    read = await nats.ask("exec", sandbox_id=first, command="cat told.txt")
    assert read["stdout"] == "hello", "what was deployed over MCP is there over NATS"
    scaled = await ask("scale_e2b_deployment", deployment_id=deployment, instance_count=3)
    assert scaled["total_instances"] == 3 and len(scaled["instances"]) == 3
    known = await nats.ask("deployments", deployment_id=deployment)
    assert known["deployments"][0]["desired"] == 3, known.body
    gone = await nats.ask("undeploy", deployment_id=deployment)
    assert gone.ok, gone.body


async def templates(ask, nats, sandbox):
    name = f"kept-{ask.face.name.split()[1].lower()}"
    await nats.ask("exec", sandbox_id=sandbox, command="echo kept > /home/user/kept.txt")
    exported = await ask(
        "export_e2b_template", sandbox_id=sandbox, template_name=name, include_data=True
    )
    assert exported["template_name"] == name and exported["size_mb"] > 0 and exported["sha256"]
    again = await nats.ask("create", template=name)
    assert again.ok, again.body
    read = await nats.ask("exec", sandbox_id=again["sandbox_id"], command="cat /home/user/kept.txt")
    assert read["stdout"] == "kept\n", read.body
    await nats.ask("terminate", sandbox_id=again["sandbox_id"])


async def health(ask, nats):
    health = await ask("monitor_e2b_health", include_all_sandboxes=True)
    listed = await nats.ask("list", status_filter="running")
    assert health["total_sandboxes"] >= listed["total_count"] >= 1
    assert health["overall_health"] in ("healthy", "degraded", "unhealthy")


async def swarms(ask, nats):
    symbols = os.environ["FACE_SYMBOLS"].split(",")[:2]
    swarm = (await ask("init_e2b_swarm", topology="mesh", maxAgents=4, strategy="balanced"))["swarm_id"]
    added = await ask("deploy_trading_agent", swarm_id=swarm, agent_type="analyzer", symbols=symbols)
    assert added["sandbox_id"] and added["agent_id"]
    seen = await nats.ask("status", sandbox_id=added["sandbox_id"])
    assert seen.ok and seen["status"] == "running", "an agent of a swarm has a sandbox"
    status = await ask("get_swarm_status", swarm_id=swarm)
    assert status["agent_count"] == 1, status.body
    scaled = await ask("scale_swarm", swarm_id=swarm, target_agents=2, scale_mode="immediate")
    assert scaled["target_agents"] == 2
    ran = await ask("execute_swarm_strategy", swarm_id=swarm, strategy="analyzer", timeout=120)
    assert ran["execution_id"] and ran["status"] in ("completed", "executing"), ran.body
    watched = await ask("monitor_swarm_health", swarm_id=swarm)
    assert watched["health_status"] in ("healthy", "degraded", "critical")
    await ask("get_swarm_metrics", swarm_id=swarm, time_range="1h")
    stopped = await ask("shutdown_swarm", swarm_id=swarm, grace_period=10)
    assert stopped["agents_stopped"] >= 1, stopped.body
    after = await nats.ask("status", sandbox_id=added["sandbox_id"])
    assert not after.ok or after["status"] == "stopped", after.body


async def resources(face, sandbox):
    client = face.client
    uris = [str(one.uri) for one in (await client.list_resources()).resources]
    for uri in uris:
        read = await client.read_resource(uri)
        assert read.contents[0].text or uri.endswith("/stdout"), uri
    assert {f"sandpit://{name}" for name in ("sandboxes", "executions", "templates", "pool")} <= set(uris)
    logs = (await client.read_resource(f"sandpit://sandbox/{sandbox}/logs")).contents[0].text
    assert "out | out" in logs and "err | err" in logs, logs
    for missing in (f"sandpit://sandbox/{sandbox[:-1]}_", "sandpit://nothing", "file:///etc/passwd"):
        try:
            await client.read_resource(missing)
        except MCPError:
            continue
        raise AssertionError(f"{missing} was read")
    prompts = (await client.list_prompts()).prompts
    assert len(prompts) >= 2
    for prompt in prompts:
        needed = {one.name: "x" for one in prompt.arguments or [] if one.required}
        got = await client.get_prompt(prompt.name, needed)
        assert got.messages[0].content.text
    print(f"read {len(uris)} resources and {len(prompts)} prompts")


async def wrong_calls(face, tools):
    """Every tool refuses what it does not take, by its name, and has done nothing."""
    for tool, listed in tools.items():
        schema = listed.input_schema
        required = {name: sample(schema["properties"][name]) for name in schema.get("required", [])}
        answer = refused(
            await face.ask(tool, **required, nonsense=1), "invalid_argument", "nonsense"
        )
        assert all(name in answer["detail"]["expected"] for name in schema["properties"] if name != "idempotency_key")
        for name in schema.get("required", []):
            rest = {other: value for other, value in required.items() if other != name}
            refused(await face.ask(tool, **rest), "invalid_argument", name)
        for name, part in schema["properties"].items():
            kinds = part.get("type")
            if kinds in ("integer", ["integer", "null"], "boolean", ["boolean", "null"]):
                wrong = {**required, name: ["not", "this"]}
                refused(await face.ask(tool, **wrong), "invalid_argument", name)
    for tool in tools:
        taken = tools[tool].input_schema["properties"]
        for handle in ("sandbox_id", "deployment_id", "swarm_id"):
            if handle in tools[tool].input_schema.get("required", []):
                required = {name: sample(taken[name]) for name in tools[tool].input_schema["required"]}
                unknown = {**required, handle: "never-was"}
                unknown.update(MEANT.get(tool, {}))
                answer = await face.ask(tool, **unknown)
                refused(answer, "not_found")
    try:
        await face.client.call_tool("no_such_tool", {})
    except MCPError as error:
        assert error.error.code == -32602, error
    else:
        raise AssertionError("an unknown tool answered")
    print(f"wrong calls of {len(tools)} tools are errors")


def sample(schema):
    """Some value that the schema takes."""
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return sample(schema[several][0])
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kinds = schema.get("type", "string")
    kind = kinds if isinstance(kinds, str) else kinds[0]
    whole = schema.get("minimum", 1)
    return {
        "string": "x", "integer": whole, "number": whole, "boolean": True, "array": ["SPY"], "object": {},
    }[kind]


async def main():
    async with FACES[sys.argv[1]]() as face, FACES["nats"]() as nats:
        tools = {tool.name: tool for tool in (await face.client.list_tools()).tools}
        print(f"{face.name}: revision {face.client.protocol_version}, {len(tools)} tools")
        assert list(tools) == TOOLS, list(tools)
        for name, tool in tools.items():
            plain(tool.input_schema, name)
            plain(tool.output_schema, name)
            assert tool.description and tool.annotations.title
            assert tool.meta.keys() >= {"cost", "latency", "gpu_capable"}, tool.meta
        ask = Tour(face, tools)
        sandbox = await sandboxes(ask, nats)
        await resources(face, sandbox)
        await agents(ask, nats)
        await templates(ask, nats, sandbox)
        await health(ask, nats)
        await deployments(ask, nats)
        await swarms(ask, nats)
        await wrong_calls(face, tools)
        ended = await ask("terminate_e2b_sandbox", sandbox_id=sandbox)
        assert ended["status"] == "terminated"
        again = await nats.ask("status", sandbox_id=sandbox)
        assert again.ok and again["status"] == "stopped" and again["ended"]["reason"] == "terminated"
        assert ask.called == set(TOOLS), set(TOOLS) - ask.called


run(main)
