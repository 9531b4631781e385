"""Lists the tools through one face of MCP, calls each, and looks at what it did through another.

usage: tour.py stdio|http
"""

import json
import os
import subprocess
import sys

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
                if tool == "execute_e2b_process":
                    unknown["command"] = "true"
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
        await wrong_calls(face, tools)
        ended = await ask("terminate_e2b_sandbox", sandbox_id=sandbox)
        assert ended["status"] == "terminated"
        again = await nats.ask("status", sandbox_id=sandbox)
        assert again.ok and again["status"] == "stopped" and again["ended"]["reason"] == "terminated"
        assert ask.called == set(TOOLS), set(TOOLS) - ask.called


run(main)
