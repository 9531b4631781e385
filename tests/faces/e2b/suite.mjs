// Calls of E2B's own JavaScript SDK against a node, one row after the other.
//
// usage: suite.mjs [old]        Where the node is says the environment (`sandpit env`); the SDK is
// found from the folder it is run in. Each row is a promise, and prints one line of JSON. Rows marked
// `o` run with the older SDK, too.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const need = createRequire(join(process.cwd(), 'x.cjs'))
const ci = need('@e2b/code-interpreter')
const e2b = need('e2b')
const { Sandbox } = ci
const OLD = process.argv.includes('old')
const ROWS = []
const row = (name, work) => OLD || ROWS.push([name, work])
const o = (name, work) => ROWS.push([name, work])

const equal = assert.deepEqual
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
const create = (options = {}) => Sandbox.create({ timeoutMs: 120_000, ...options })

async function lent(work, options = {}) {
  const s = await create(options)
  try {
    return await work(s)
  } finally {
    await s.kill().catch(() => {})
  }
}

async function fails(work, ...words) {
  let got
  try {
    got = await work()
  } catch (error) {
    for (const word of words) assert.ok(String(error.message).includes(word), `${word}: ${error}`)
    return error
  }
  assert.fail(`it did not fail: ${JSON.stringify(got)}`)
}

async function until(check, ms = 10_000) {
  for (const end = Date.now() + ms; Date.now() < end; await sleep(50)) {
    const found = await check()
    if (found) return found
  }
  assert.fail(`not within ${ms} ms`)
}

async function pages(options) {
  const found = []
  const pager = Sandbox.list(options)
  while (pager.hasNext) found.push((await pager.nextItems()).map((one) => one.sandboxId))
  return found
}

// ---- lifecycle ------------------------------------------------------------------------------------

o('lifecycle: create, info, kill twice', async () => {
  const s = await Sandbox.create('python', { timeoutMs: 60_000, metadata: { a: 'b' }, envs: { FOO: 'bar' } })
  const info = await s.getInfo()
  equal([info.templateId, info.metadata.a, info.state], ['python', 'b', 'running'])
  equal(await s.isRunning(), true)
  equal([await s.kill(), await s.kill()], [true, false])
  equal(await s.isRunning(), false)
})

o('lifecycle: a call after kill says that it does not run', async () => {
  const s = await create()
  await s.kill()
  await fails(() => s.commands.run('true'))
  await fails(() => s.runCode('1'))
})

o('lifecycle: unknown template', () => fails(() => Sandbox.create('nope'), 'not found'))

o('lifecycle: connect from another client', () => lent(async (s) => {
  await s.runCode('x = 41')
  const other = await Sandbox.connect(s.sandboxId, { timeoutMs: 120_000 })
  equal((await other.runCode('x + 1')).text, '42')
}))

o('lifecycle: setTimeout longer and shorter; connect only extends', () => lent(async (s) => {
  const first = (await s.getInfo()).endAt
  await s.setTimeout(600_000)
  assert.ok((await s.getInfo()).endAt - first > 400_000)
  await s.setTimeout(30_000)
  const shorter = (await s.getInfo()).endAt
  assert.ok(shorter < first)
  await Sandbox.connect(s.sandboxId, { timeoutMs: 10_000 })
  equal((await s.getInfo()).endAt, shorter)
}))

row('lifecycle: lifecycle, network deny-all', () => lent(async (s) => {
  const info = await s.getInfo()
  equal([info.lifecycle.onTimeout, info.lifecycle.autoResume], ['pause', true])
}, { lifecycle: { onTimeout: 'pause', autoResume: true }, network: { denyOut: ['0.0.0.0/0'] } }))

// ---- list -----------------------------------------------------------------------------------------

o('list: pages, filters and order', async () => {
  const metadata = { team: `al pha é ${process.hrtime.bigint()}` }
  const made = []
  try {
    for (let n = 0; n < 3; n += 1) made.push(await create({ metadata }))
    const ids = made.map((s) => s.sandboxId)
    equal(await pages({ query: { metadata }, limit: 1 }), [...ids].reverse().map((id) => [id]))
    equal((await pages({ query: { metadata, state: ['running'] } })).flat().length, 3)
    equal((await pages({ query: { metadata, state: ['paused'] } })).flat().length, 0)
    if (!OLD) equal((await pages({ query: { metadata }, order: 'asc' })).flat(), ids)
  } finally {
    for (const s of made) await s.kill()
  }
})

// ---- commands -------------------------------------------------------------------------------------

o('commands: output, exit code, cwd, envs', () => lent(async (s) => {
  const ran = await s.commands.run('echo hi $FOO; echo err >&2')
  equal([ran.stdout, ran.stderr, ran.exitCode], ['hi bar\n', 'err\n', 0])
  const error = await fails(() => s.commands.run('echo no >&2; exit 3'))
  equal([error.exitCode, error.stderr], [3, 'no\n'])
  equal((await s.commands.run('pwd', { cwd: '/tmp' })).stdout, '/tmp\n')
  equal((await s.commands.run('echo $A', { envs: { A: '1' } })).stdout, '1\n')
}, { envs: { FOO: 'bar' } }))

o('commands: bad cwd, user root', () => lent(async (s) => {
  await fails(() => s.commands.run('ls', { cwd: '/nope' }), '/nope')
  const error = await fails(() => s.commands.run('ls', { user: 'root' }))
  assert.ok(error instanceof e2b.AuthenticationError, String(error))
}))

o('commands: callbacks come before the end; 10 MiB; split UTF-8 (e2b_trap_27)', () => lent(async (s) => {
  let first = 0
  await s.commands.run('echo one; sleep 3; echo two', { onStdout: () => { first ||= Date.now() } })
  assert.ok(Date.now() - first > 700, 'the first line waited for the end')
  const ran = await s.commands.run("head -c 10485760 /dev/zero | tr '\\0' x")
  equal(ran.stdout.length, 10_485_760)
  equal((await s.commands.run("printf '\\303'; sleep 0.3; printf '\\251'")).stdout, 'é')
}))

// ---- background -----------------------------------------------------------------------------------

o('background: list, stdin, connect, disconnect, kill', () => lent(async (s) => {
  const cat = await s.commands.run('cat', { background: true, stdin: true })
  assert.ok((await s.commands.list()).some((one) => one.pid === cat.pid))
  await s.commands.sendStdin(cat.pid, 'hello\n')
  if (!OLD) {
    await s.commands.closeStdin(cat.pid)
    equal((await cat.wait()).stdout, 'hello\n')
  }
  const one = await s.commands.run('sleep 1; exit 7', { background: true })
  await one.disconnect()
  equal((await fails(async () => (await s.commands.connect(one.pid)).wait())).exitCode, 7)
  equal((await fails(async () => (await s.commands.connect(one.pid)).wait())).exitCode, 7)
  const long = await s.commands.run('sleep 100', { background: true })
  equal([await s.commands.kill(long.pid), await s.commands.kill(999_999)], [true, false])
  await fails(() => long.wait())
}))

o('background: timeout ends it, and 0 never does (e2b_trap_05)', () => lent(async (s) => {
  const begun = Date.now()
  await fails(() => s.commands.run('sleep 4242', { timeoutMs: 1_000 }))
  assert.ok(Date.now() - begun < 20_000)
  const left = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 4242' || true"
  await until(async () => (await s.commands.run(left)).stdout === '0\n', 20_000)
  equal((await s.commands.run('sleep 2; echo done', { timeoutMs: 0 })).stdout, 'done\n')
}))

// ---- pty ------------------------------------------------------------------------------------------

row('pty: a terminal that hears, resizes, is found again and killed', () => lent(async (s) => {
  let seen = ''
  const onData = (bytes) => { seen += new TextDecoder().decode(bytes) }
  const one = await s.pty.create({ cols: 80, rows: 24, onData })
  await s.pty.resize(one.pid, { cols: 90, rows: 30 })
  await s.pty.sendInput(one.pid, new TextEncoder().encode('tty; stty size; exit\n'))
  await one.wait()
  assert.ok(seen.includes('/dev/pts/') && seen.includes('30 90'), seen)
  const two = await s.pty.create({ cols: 80, rows: 24, onData })
  equal((await s.pty.connect(two.pid, { onData })).pid, two.pid)
  equal([await s.pty.kill(two.pid), await s.pty.kill(999_999)], [true, false])
}))

// ---- files ----------------------------------------------------------------------------------------

o('files: write and read text, bytes, blobs, streams, and nothing (e2b_trap_16, 18)', () => lent(async (s) => {
  const written = await s.files.write('a/b.txt', 'hello')
  equal([written.path, written.name], ['/home/user/a/b.txt', 'b.txt'])
  equal(await s.files.read('a/b.txt'), 'hello')
  await s.files.write('b.bin', new Uint8Array([0, 1, 255]).buffer)
  equal([...await s.files.read('b.bin', { format: 'bytes' })], [0, 1, 255])
  await s.files.write('c.bin', new Blob(['x'.repeat(100_000)]))
  let length = 0
  for await (const piece of await s.files.read('c.bin', { format: 'stream' })) length += piece.length
  equal(length, 100_000)
  await s.files.write('empty', '')
  equal(await s.files.read('empty'), '')
  equal((await s.files.read('empty', { format: 'bytes' })).length, 0)
}))

row('files: gzip, octets, metadata', () => lent(async (s) => {
  await s.files.write('g', 'z'.repeat(5_000), { gzip: true })
  equal(await s.files.read('g'), 'z'.repeat(5_000))
  equal(await s.files.read('g', { gzip: true }), 'z'.repeat(5_000))
  await s.files.write('o', 'octets', { useOctetStream: true })
  equal(await s.files.read('o'), 'octets')
  equal((await s.files.write('m', '1', { metadata: { k: 'v' } })).metadata, { k: 'v' })
  equal((await s.files.getInfo('m')).metadata, { k: 'v' })
}))

o('files: several at once, with names as they are (e2b_trap_17)', () => lent(async (s) => {
  const names = ['m1.txt', 'deep/down/m2.bin', 'mit leer.txt', '100%.txt', 'é ü.txt']
  const written = await s.files.write(names.map((path) => ({ path, data: path })))
  equal(written.map((one) => one.path), names.map((path) => `/home/user/${path}`))
  for (const name of [...names, 'it\'s "quoted".txt']) {
    await s.files.write(name, name)
    equal(await s.files.read(name), name)
  }
}))

o('files: list, exists, info, makeDir, rename, remove, missing (e2b_trap_20)', () => lent(async (s) => {
  await s.files.write('d/e/g.txt', '1')
  await s.commands.run('ln -s nowhere dangling')
  equal((await s.files.list('d', { depth: 3 })).map((one) => one.path).sort(), ['/home/user/d/e', '/home/user/d/e/g.txt'])
  assert.ok((await s.files.list('.')).some((one) => one.name === 'dangling'))
  equal([await s.files.exists('d'), await s.files.exists('zz')], [true, false])
  const info = await s.files.getInfo('d/e/g.txt')
  equal([Number(info.size), info.type, info.permissions], [1, 'file', '-rw-r--r--'])
  equal([await s.files.makeDir('d1'), await s.files.makeDir('d1')], [true, false])
  equal((await s.files.rename('d/e/g.txt', 'd1/y.txt')).path, '/home/user/d1/y.txt')
  await s.files.remove('d1')
  equal(await s.files.exists('d1'), false)
  for (const call of ['read', 'list', 'getInfo']) {
    assert.ok(await fails(() => s.files[call]('zz')) instanceof e2b.NotFoundError, call)
  }
}))

row('signed URLs: read, write, expired, tampered (e2b_trap_22)', () => lent(async (s) => {
  await s.files.write('a/b.txt', 'hello')
  const get = async (url) => [(await fetch(url)).status, await (await fetch(url)).text()]
  for (const options of [{}, { useSignatureExpiration: 100 }, { user: 'user' }]) {
    equal(await get(await s.downloadUrl('a/b.txt', options)), [200, 'hello'])
    const form = new FormData()
    form.append('file', new Blob(['up']), 'up.txt')
    equal((await fetch(await s.uploadUrl('up.txt', options), { method: 'POST', body: form })).status, 200)
  }
  equal(await s.files.read('up.txt'), 'up')
  equal((await fetch((await s.downloadUrl('a/b.txt')).replace('b.txt', 'c.txt'))).status, 401)
  equal((await fetch(await s.downloadUrl('a/b.txt', { useSignatureExpiration: -10 }))).status, 401)
}))

row('watch: events, recursive, with entries, and stop', () => lent(async (s) => {
  await s.files.makeDir('w/sub')
  const seen = []
  const watching = await s.files.watchDir('w', (event) => { seen.push(event) }, { recursive: true, includeEntry: true })
  await s.files.write('w/x.txt', '1')
  await s.files.write('w/sub/y.txt', '1')
  await s.files.remove('w/x.txt')
  const has = (name, type) => seen.some((one) => one.name === name && one.type === type)
  await until(() => has('x.txt', 'create') && has('sub/y.txt', 'create') && has('x.txt', 'remove'))
  assert.ok(seen.some((one) => one.entry), JSON.stringify(seen))
  await watching.stop()
  await fails(() => s.files.watchDir('zz', () => {}))
}))

// ---- runCode --------------------------------------------------------------------------------------

o('runCode: text, state, output, errors', () => lent(async (s) => {
  const ran = await s.runCode("import sys\nx = 41\nprint('out')\nprint('e', file=sys.stderr)\nx + 1")
  equal([ran.text, ran.logs.stdout.join(''), ran.logs.stderr.join('')], ['42', 'out\n', 'e\n'])
  equal((await s.runCode("'abc'")).text, 'abc')
  const { error } = await s.runCode('1/0')
  equal([error.name, error.value], ['ZeroDivisionError', 'division by zero'])
}))

o('runCode: every representation, several results', () => lent(async (s) => {
  const ran = await s.runCode(`
class Shown:
    def __init__(self, kind, text): self.kind, self.text = kind, text
    def _repr_mimebundle_(self, **_): return {self.kind: self.text, "text/plain": "shown"}
display(Shown("text/markdown", "# hi"))
display(Shown("text/latex", "$x$"))
Shown("image/svg+xml", "<svg/>")
`)
  equal(ran.error, undefined)
  equal([ran.results[0].markdown, ran.results[1].latex, ran.results[2].svg], ['# hi', '$x$', '<svg/>'])
  equal(ran.results.map((one) => one.isMainResult), [false, false, true])
  equal((await s.runCode("{'a': 1}")).results[0].json, { a: 1 })
  const figure = await s.runCode('import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.show()')
  equal(figure.error, undefined)
  assert.ok(figure.results.some((one) => one.png && Buffer.from(one.png, 'base64').subarray(1, 4).toString() === 'PNG'))
  const table = await s.runCode("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
  assert.ok(table.results[0].html.includes('<table'))
}))

o('runCode: callbacks stream; ASCII on the wire (e2b_trap_14); envs', () => lent(async (s) => {
  let first = 0
  const results = []
  const errors = []
  const options = { onStdout: () => { first ||= Date.now() }, onResult: (one) => { results.push(one.text) }, onError: (one) => { errors.push(one.name) } }
  await s.runCode("import time\nprint('a', flush=True)\ntime.sleep(3)\n7", options)
  assert.ok(Date.now() - first > 700, 'the first line waited for the end')
  await s.runCode('1/0', options)
  equal([results, errors], [['7'], ['ZeroDivisionError']])
  equal((await s.runCode("print('a\\u2028b\\x85c\\U0001f4c8')")).logs.stdout.join(''), 'a\u2028b\x85c\u{1f4c8}\n')
  equal((await s.runCode("import os; os.environ['K']", { envs: { K: 'V' } })).text, 'V')
}))

o('runCode: contexts, restart, remove', () => lent(async (s) => {
  const context = await s.createCodeContext({ cwd: '/tmp' })
  equal([context.language, context.cwd], ['python', '/tmp'])
  await s.runCode('x = 1', { context })
  equal((await s.runCode('x', { context })).text, '1')
  equal((await s.runCode('x')).error.name, 'NameError')
  assert.ok((await s.listCodeContexts()).some((one) => one.id === context.id))
  await s.restartCodeContext(context)
  equal((await s.runCode('x', { context })).error.name, 'NameError')
  await s.removeCodeContext(context)
  await fails(() => s.runCode('1', { context }))
}))

o('runCode: other languages, a timeout, a dead kernel', () => lent(async (s) => {
  // This SDK tells the status alone, not the sentence beside it.
  await fails(() => s.runCode('1', { language: 'javascript' }), '501')
  await fails(() => s.runCode('import time\ntime.sleep(60)', { timeoutMs: 1_000 }))
  await until(async () => (await s.runCode('1', { timeoutMs: 5_000 })).text === '1')
  equal((await s.runCode('import os\nos._exit(3)')).error.name, 'KernelDied')
  equal((await s.runCode('1+1')).text, '2')
}))

// ---- pause, metrics, ports ------------------------------------------------------------------------

o('pause: stands still, and everything is there after connect (e2b_trap_01, 04)', () => lent(async (s) => {
  await s.runCode('x = 41')
  await s.files.write('kept.txt', 'kept')
  const { pid } = await s.commands.run('while :; do sleep 0.2; done', { background: true })
  const pause = () => (s.pause ?? s.betaPause).call(s)
  equal([(await pause()) !== false, await pause()], [true, false])
  equal(await s.isRunning(), false)
  await fails(() => s.commands.run('true'))
  const again = await Sandbox.connect(s.sandboxId, { timeoutMs: 120_000 })
  equal((await again.runCode('x + 1')).text, '42')
  equal(await again.files.read('kept.txt'), 'kept')
  equal(await again.commands.kill(pid), true)
}))

row('pause: at its timeout, and resumed by a call', () => lent(async (s) => {
  await s.runCode('x = 1')
  await until(async () => (await s.getInfo()).state === 'paused')
  equal((await s.runCode('x')).text, '1')
}, { timeoutMs: 2_000, lifecycle: { onTimeout: 'pause', autoResume: true } }))

row('metrics: a growing series', () => lent(async (s) => {
  const first = (await s.getMetrics()).length
  await until(async () => (await s.getMetrics()).length >= first + 2, 15_000)
  assert.ok((await s.getMetrics())[0].memUsed > 0)
}))

row('ports: by header and by host, and a closed one', () => lent(async (s) => {
  await s.files.write('index.html', 'served')
  await s.commands.run('python3 -m http.server 8080', { background: true })
  const ask = async (port) => {
    const headers = { 'E2B-Sandbox-Id': s.sandboxId, 'E2B-Sandbox-Port': `${port}` }
    const answer = await fetch(`${process.env.E2B_SANDBOX_URL}/index.html`, { headers })
    return [answer.status, await answer.text()]
  }
  await until(async () => (await ask(8080))[1] === 'served')
  const [status, text] = await ask(8081)
  assert.ok(status === 502 && text.includes('port is not open'), text)
}))

row('honest no: what is not there is named', () => lent(async (s) => {
  await fails(() => s.fork(), '501', 'fork')
  await fails(() => s.createSnapshot(), '501', 'snapshots')
  await fails(() => s.listSnapshots().nextItems(), '501', 'snapshots')
  await fails(() => s.updateNetwork({ denyOut: ['0.0.0.0/0'] }), '501', 'network update')
  await fails(() => s.pause({ keepMemory: false }), '501', 'memory')
}))

for (const [name, work] of ROWS) {
  const begun = Date.now()
  let told = { row: name, ok: true }
  try {
    let alarm
    const late = new Promise((_, fail) => { alarm = setTimeout(() => fail(new Error('no end in 120 s')), 120_000) })
    await Promise.race([work(), late]).finally(() => clearTimeout(alarm))
  } catch (error) {
    told = { row: name, ok: false, why: `${error.name}: ${error.message}`.slice(0, 600), line: error.stack?.match(/suite\.mjs:\d+/)?.[0] }
  }
  console.log(JSON.stringify({ ...told, s: (Date.now() - begun) / 1000 }))
}
process.exit(0)
