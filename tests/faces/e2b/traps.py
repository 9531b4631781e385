"""What SDKs trip over, asked on the wire: one row per trap of the design, as `suite.py` prints them.

Traps that only an SDK can show are rows of the suites, named there.
"""

import base64
import json
import os
import socket
import sys
import time
import traceback
from datetime import datetime
from urllib.parse import quote, urlencode, urlsplit

import httpx

URL, KEY = os.environ["E2B_API_URL"], os.environ["E2B_API_KEY"]
ADDRESS = (urlsplit(URL).hostname, urlsplit(URL).port)
API = httpx.Client(base_url=URL, headers={"X-API-KEY": KEY}, timeout=60)


def equal(got, expected):
    assert got == expected, f"{got!r} is not {expected!r}"


def create(route="/v2/sandboxes", **body):
    answer = API.post(route, json={"templateID": "python", "timeout": 120, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


def way(made, port=49983):
    token = {"X-Access-Token": made["envdAccessToken"]}
    return {"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": str(port), **token}


def rpc(made, method, body, **headers):
    return httpx.post(f"{URL}/{method}", json=body, headers={**way(made), **headers})


def sealed(message):
    text = json.dumps(message).encode()
    return b"\0" + len(text).to_bytes(4, "big") + text


def opened(body):
    found = []
    while body:
        size = int.from_bytes(body[1:5], "big")
        found.append((body[0], json.loads(body[5:5 + size])))
        body = body[5 + size:]
    return found


def stream(made, method, message, **headers):
    headers = {**way(made), "Content-Type": "application/connect+json", **headers}
    answer = httpx.post(f"{URL}/{method}", content=sealed(message), headers=headers, timeout=30)
    equal(answer.status_code, 200)
    return opened(answer.content)


def shell(line, **more):
    return {"process": {"cmd": "/bin/bash", "args": ["-l", "-c", line]}, **more}


def raw(request, enough):
    """Sends bytes, and reads until `enough` of them came."""
    with socket.create_connection(ADDRESS, 10) as connection:
        connection.settimeout(10)
        connection.sendall(request)
        got = b""
        while not enough(got):
            piece = connection.recv(65536)
            if not piece:
                break
            got += piece
        return got


def head(method, path, headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: sandpit", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def execute(made, code):
    answer = httpx.post(f"{URL}/execute", json={"code": code}, headers=way(made, 49999), timeout=30)
    return answer.content


def e2b_trap_01(made):
    """`code` is a number on the control plane and on /files, a word on calls."""
    equal(API.get("/sandboxes/isb0").json()["code"], 404)
    equal(httpx.get(f"{URL}/files?path=zz", headers=way(made)).json()["code"], 404)
    equal(rpc(made, "filesystem.Filesystem/Stat", {"path": "zz"}).json()["code"], "not_found")


def e2b_trap_02(made):
    """`start` is the first envelope, and comes before any output."""
    body = sealed(shell("sleep 20; echo late", stdin=False))
    headers = {**way(made), "Content-Type": "application/connect+json", "Content-Length": len(body)}
    begun = time.monotonic()
    got = raw(head("POST", "/process.Process/Start", headers) + body, lambda got: b'"start"' in got)
    assert time.monotonic() - begun < 15, "it waited for the output"
    assert b'{"event":{"start":{"pid":' in got and b"stdout" not in got, got


def e2b_trap_03(made):
    """Failures of streams come inside an answer of 200."""
    found = stream(made, "process.Process/Connect", {"process": {"pid": 999999}})
    equal([flag for flag, _ in found], [2])
    equal(found[0][1]["error"]["code"], "not_found")


def e2b_trap_06(made):
    """Bodies in chunks, on the control plane, too."""
    body = b'{"timeout":200}'
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    headers = {"X-API-KEY": KEY, "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    path = f"/sandboxes/{made['sandboxID']}/timeout"
    assert raw(head("POST", path, headers) + chunked, bool).startswith(b"HTTP/1.1 204"), path


def e2b_trap_07(made):
    """`content-encoding: identity` on requests."""
    headers = {"Content-Encoding": "identity"}
    equal(rpc(made, "process.Process/List", {}, **headers).status_code, 200)
    answer = httpx.post(f"{URL}/files?path=i", content=b"1", headers={**way(made), **headers})
    equal(answer.status_code, 200)


def e2b_trap_08(_):
    """The metadata filter is decoded three times."""
    value = f"al pha&=é {time.time_ns()}"
    one = create(metadata={"te am": value})
    inner = urlencode({quote("te am"): quote(value)})
    found = API.get("/v2/sandboxes", params={"metadata": inner}).json()
    equal([each["sandboxID"] for each in found], [one["sandboxID"]])
    API.delete(f"/sandboxes/{one['sandboxID']}")


def e2b_trap_09(_):
    """204 has neither body nor Content-Length."""
    one = create()
    request = head("DELETE", f"/sandboxes/{one['sandboxID']}", {"X-API-KEY": KEY})
    got = raw(request, lambda got: b"\r\n\r\n" in got).lower()
    assert got.startswith(b"http/1.1 204") and b"content-length" not in got, got
    assert got.endswith(b"\r\n\r\n"), got


def e2b_trap_10(made):
    """Contexts come without a token; cells need it."""
    headers = way(made, 49999)
    del headers["X-Access-Token"]
    equal(httpx.get(f"{URL}/contexts", headers=headers).status_code, 200)
    equal(httpx.post(f"{URL}/execute", json={"code": "1"}, headers=headers).status_code, 401)


def e2b_trap_11(_):
    """`allow_internet_access` is the one key in snake case, and never an error."""
    one = create(allow_internet_access=True)
    detail = API.get(f"/sandboxes/{one['sandboxID']}").json()
    equal(detail["allowInternetAccess"], False)
    API.delete(f"/sandboxes/{one['sandboxID']}")


def e2b_trap_12(_):
    """15 seconds on the older route, 300 on the newer one; connect only extends."""
    for route, expected in (("/sandboxes", 15), ("/v2/sandboxes", 300)):
        one = API.post(route, json={"templateID": "python"}).json()
        path = f"/sandboxes/{one['sandboxID']}"

        def end():
            detail = API.get(path).json()
            return [datetime.fromisoformat(detail[at].rstrip("Z")) for at in ("startedAt", "endAt")]

        started, ends = end()
        equal(round((ends - started).total_seconds()), expected)
        equal(API.post(f"/v2{path}/connect", json={"timeout": 5}).status_code, 200)
        equal(end()[1], ends)
        API.delete(path)


def e2b_trap_13(made):
    """`domain` is always there."""
    assert made["domain"], made
    assert API.get(f"/sandboxes/{made['sandboxID']}").json()["domain"]


def e2b_trap_14(made):
    """Lines of the interpreter are pure ASCII."""
    got = execute(made, "print('\\u2028\\x85é\\U0001f4c8')\n'é'")
    assert got.isascii() and b"\\ud83d\\udcc8" in got, got


def e2b_trap_15(made):
    """No empty line among them, the number of executions first, the end last."""
    lines = execute(made, "print(1)\nprint(2)\n3").decode().split("\n")
    equal(lines.pop(), "")
    assert all(lines), lines
    kinds = [json.loads(line)["type"] for line in lines]
    equal((kinds[0], kinds[-1]), ("number_of_executions", "end_of_execution"))


def e2b_trap_16(made):
    """`Content-Length: 0` on an empty file."""
    httpx.post(f"{URL}/files?path=empty", content=b"", headers={**way(made), "Content-Type": "application/octet-stream"})
    got = raw(head("GET", "/files?path=empty", way(made)), lambda got: b"\r\n\r\n" in got).lower()
    assert b"content-length: 0\r\n" in got, got


def e2b_trap_17(made):
    """The name of an uploaded file is a path."""
    answer = httpx.post(f"{URL}/files", files={"file": ("a/b c/d.txt", b"1")}, headers=way(made))
    equal(answer.json()[0]["path"], "/home/user/a/b c/d.txt")


def e2b_trap_18(made):
    """The answer to one upload is an array, too."""
    answer = httpx.post(f"{URL}/files?path=one", files={"file": ("x", b"1")}, headers=way(made))
    equal(answer.json(), [{"path": "/home/user/one", "name": "one", "type": "file"}])


def e2b_trap_19(_):
    """`X-Next-Token` is absent at the end."""
    mark = {"mark": str(time.time_ns())}
    made = [create(metadata=mark) for _ in range(2)]
    params = {"metadata": urlencode(mark), "limit": 1}
    first = API.get("/v2/sandboxes", params=params)
    second = API.get("/v2/sandboxes", params={**params, "nextToken": first.headers["X-Next-Token"]})
    assert "X-Next-Token" not in second.headers
    equal(first.headers["X-Total-Running"], "2")
    for one in made:
        API.delete(f"/sandboxes/{one['sandboxID']}")


def e2b_trap_20(made):
    """`size` is a text."""
    httpx.post(f"{URL}/files?path=sized", files={"file": ("x", b"123")}, headers=way(made))
    entry = rpc(made, "filesystem.Filesystem/Stat", {"path": "sized"}).json()["entry"]
    equal(entry["size"], "3")


def e2b_trap_21(made):
    """An exit code that is absent means 0."""
    found = stream(made, "process.Process/Start", shell("exit 0", stdin=False))
    end = found[-2][1]["event"]["end"]
    equal((end.get("exitCode", 0), end["exited"], end["status"]), (0, True, "exit status 0"))
    end = stream(made, "process.Process/Start", shell("exit 3", stdin=False))[-2][1]["event"]["end"]
    equal((end["exitCode"], end["error"]), (3, "exit status 3"))


def e2b_trap_23(_):
    """Keys have the shape that older SDKs want to see; another key is refused."""
    assert KEY.startswith("e2b_") and len(KEY) == 44 and not KEY[4:].strip("0123456789abcdef"), KEY
    wrong = "e2b_" + "0" * 40
    equal(httpx.get(f"{URL}/v2/sandboxes", headers={"X-API-KEY": wrong}).status_code, 401)
    equal(httpx.get(f"{URL}/v2/sandboxes").status_code, 200)
    for relayed in ({"Host": "rebound.example"}, {"X-Forwarded-For": "203.0.113.7"}):
        equal(httpx.get(f"{URL}/v2/sandboxes", headers=relayed).status_code, 401)


def e2b_trap_24(made):
    """The version is three numbers and nothing else."""
    assert [part.isdigit() for part in made["envdVersion"].split(".")] == [True] * 3, made


def e2b_trap_26(made):
    """A standard input that is not mentioned is there; false is the null device."""
    found = stream(made, "process.Process/Start", shell("cat; echo read", stdin=False))
    written = b"".join(base64.b64decode(one["event"]["data"]["stdout"]) for _, one in found
                       if "data" in one.get("event", {}))
    equal(written, b"read\n")
    body = sealed(shell("cat; sleep 30"))
    headers = {**way(made), "Content-Type": "application/connect+json", "Content-Length": len(body)}
    got = raw(head("POST", "/process.Process/Start", headers) + body, lambda got: b'"start"' in got)
    pid = int(got.split(b'"pid":')[1].split(b"}")[0])
    process = {"process": {"pid": pid}}
    data = {**process, "input": {"stdin": base64.b64encode(b"x").decode()}}
    equal(rpc(made, "process.Process/SendInput", data).status_code, 200)
    equal(rpc(made, "process.Process/CloseStdin", process).json(), {})
    equal(rpc(made, "process.Process/CloseStdin", process).json(), {})


def e2b_trap_refused_midway(made):
    """A refusal waits for a body that is on its way: what sends it hears why, and goes on."""
    body = sealed(shell("true"))
    root = "Basic " + base64.b64encode(b"root:").decode()
    headers = {**way(made), "Content-Type": "application/connect+json", "Content-Length": len(body)}
    with socket.create_connection(ADDRESS, 10) as connection:
        connection.settimeout(10)
        for _ in range(3):
            connection.sendall(head("POST", "/process.Process/Start", {**headers, "Authorization": root}))
            time.sleep(0.1)
            connection.sendall(body)
            got = b""
            while b"root" not in got:
                piece = connection.recv(65536)
                assert piece, f"closed after {got!r}"
                got += piece
            assert got.startswith(b"HTTP/1.1 401 "), got


def main():
    made = create()
    failed = False
    rows = [work for name, work in globals().items() if name.startswith("e2b_trap_")]
    for work in rows:
        begun = time.monotonic()
        told = {"row": f"{work.__name__}: {work.__doc__}", "ok": True}
        try:
            work(made)
        except Exception as error:
            where = [one.lineno for one in traceback.extract_tb(error.__traceback__)]
            told.update(ok=False, why=f"{type(error).__name__}: {error}"[:600], line=str(where))
        told["s"] = round(time.monotonic() - begun, 2)
        print(json.dumps(told), flush=True)
    API.delete(f"/sandboxes/{made['sandboxID']}")


main()
