// What goes wrong around the process: files, disks, ports, memory, signals, and ten thousand who say nothing. The table is in server/README.md.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { setTimeout as delay } from 'node:timers/promises';
import OpenAI from 'openai';
import { collect, connect, load, status } from './grpc-client.js';
import { Server, command, environment, slow, until } from './server.js';

const Inference = load('native.v1.proto').native.v1.Inference;
const demo = fileURLToPath(new URL('../../server/models/demo.gguf', import.meta.url));
const linux = process.platform === 'linux' ? false : 'needs Linux';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'native-failures-'));
after(() => fs.rmSync(folder, { recursive: true }));

/** Runs a program to its end, which must come. */
function run(project, args, { env = {}, stdio = 'pipe', timeout = 60_000 } = {}) {
  const { status: code, signal, stdout, stderr } = spawnSync(...command(project, args), { env: { ...environment(), ...env }, stdio, timeout, killSignal: 'SIGKILL', encoding: 'utf8' });
  assert.equal(signal, null, `${project} ${args.join(' ')} was ended by ${signal}: ${stderr}`);
  return { code, stdout, stderr };
}

/** A greedy answer of 40 tokens; two of these are equal or something is wrong. */
async function answer(server) {
  const response = await server.post('/v1/completions', JSON.stringify({ prompt: 'Once upon a time', max_tokens: 40, temperature: 0, ignore_eos: true }));
  const { choices, usage } = await response.json();
  assert.equal(usage.completion_tokens, 40);
  return choices[0].text;
}

/** A port that nobody listens on at the moment. */
const freePort = () => new Promise(resolve => {
  const listener = net.createServer().listen(0, '127.0.0.1', () => {
    const { port } = listener.address();
    listener.close(() => resolve(port));
  });
});

describe('the model file', () => {
  for (const [what, change] of Object.entries({
    'overwritten in place': file => {
      const handle = fs.openSync(file, 'r+');
      fs.writeSync(handle, Buffer.alloc(fs.statSync(file).size, 0xa5));
      fs.closeSync(handle);
    },
    'shortened to nothing': file => fs.truncateSync(file, 0),
    'replaced by another of its name': file => {
      fs.writeFileSync(`${file}.new`, 'no model');
      fs.renameSync(`${file}.new`, file);
    },
    deleted: file => fs.unlinkSync(file),
  })) {
    test(`${what} under a running server changes no answer`, async () => {
      const file = path.join(folder, `${what}.gguf`);
      fs.copyFileSync(demo, file);
      const server = await Server.start('--model', file);
      try {
        const before = await answer(server);
        change(file);
        assert.equal(await answer(server), before);
        assert.equal((await fetch(`${server.http}/readyz`)).status, 200);
        await server.settled();
        await server.stop();
      } finally {
        server.signal('SIGKILL');
      }
    });
  }
});

describe('a full disk', { skip: linux }, () => {
  test('under the server\'s output and log costs the log and nothing else', async () => {
    const port = await freePort();
    const full = fs.openSync('/dev/full', 'w');
    const child = spawn(...command('server', ['--port', port, '--grpc-port', '0', '--log-level', 'debug'].map(String)), { env: environment(), stdio: ['ignore', full, full] });
    fs.closeSync(full);
    const ended = new Promise(resolve => child.on('close', (code, signal) => resolve({ code, signal })));
    try {
      const http = `http://127.0.0.1:${port}`;
      await until('it is ready', () => fetch(`${http}/readyz`).then(response => response.ok, () => false));
      for (let i = 0; i < 20; i++) {
        const response = await fetch(`${http}/v1/completions`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"prompt":"Once","max_tokens":3}' });
        assert.equal((await response.json()).usage.completion_tokens, 3);
      }
      child.kill('SIGTERM');
      assert.deepEqual(await ended, { code: 0, signal: null });
    } finally {
      child.kill('SIGKILL');
    }
  });

  test('or a pipe that nobody reads behind the log holds up no request', async () => {
    const port = await freePort();
    const child = spawn(...command('server', ['--port', port, '--grpc-port', '0', '--log-level', 'debug'].map(String)), { env: environment(), stdio: ['ignore', 'ignore', 'pipe'] });
    const ended = new Promise(resolve => child.on('exit', (code, signal) => resolve({ code, signal })));
    try {
      const http = `http://127.0.0.1:${port}`;
      await until('it is ready', () => fetch(`${http}/readyz`).then(response => response.ok, () => false));
      child.stderr.pause();
      // A pipe takes 64 KiB and the logger keeps 2500 lines: this is more than both.
      for (let i = 0; i < 5000; i += 50) await Promise.all(Array.from({ length: 50 }, async () => (await fetch(`${http}/healthz`)).text()));
      assert.equal((await fetch(`${http}/readyz`)).status, 200);
      child.stderr.resume();
      child.kill('SIGTERM');
      assert.deepEqual(await ended, { code: 0, signal: null });
    } finally {
      child.kill('SIGKILL');
    }
  });

  const mount = path.join(folder, 'small');
  const mounted = process.platform === 'linux' && (fs.mkdirSync(mount), spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', mount]).status === 0);
  after(() => mounted && spawnSync('umount', [mount]));
  for (const [tool, args] of [['quantize', out => [demo, out, '--type', 'Q8_0']], ['synth', out => ['--shape', '135m', '--type', 'Q4_0', '-o', out]]]) {
    test(`under ${tool}'s file is told in a line that names it, and leaves nothing behind`, { skip: mounted ? false : 'mounting a small file system is not allowed' }, () => {
      const out = path.join(mount, 'm.gguf');
      const { code, stderr } = run('tools', [tool, ...args(out)]);
      assert.equal(code, 1);
      assert.match(stderr, /^native: .*No space left on device.*\n$/);
      assert.ok(stderr.includes(out), stderr);
      assert.deepEqual(fs.readdirSync(mount), []);
    });

    test(`or a limit on file sizes under ${tool} likewise`, () => {
      const place = fs.mkdtempSync(path.join(folder, 'limited-'));
      const out = path.join(place, 'm.gguf');
      const [program, all] = command('tools', [tool, ...args(out)]);
      // The signal is ignored by the shell, and so by whom it becomes; and the runtime's own code must not be in a file that the limit counts.
      const limited = 'trap "" XFSZ; ulimit -f 1000; exec "$0" "$@"';
      const { status: code, signal, stderr } = spawnSync('sh', ['-c', limited, program, ...all], { env: { ...environment(), DOTNET_EnableWriteXorExecute: '0' }, encoding: 'utf8', timeout: 60_000 });
      assert.deepEqual([code, signal], [1, null], stderr);
      assert.match(stderr, /^native: [^\n]*\n$/);
      assert.ok(stderr.includes(out), stderr);
      assert.deepEqual(fs.readdirSync(place), []);
    });
  }

  test('under a tool\'s results is told in a line, with exit code 1', () => {
    const full = fs.openSync('/dev/full', 'w');
    const { code, stderr } = run('tools', ['tokenize', '--model', demo, '--prompt', 'Once upon a time'], { stdio: ['ignore', full, 'pipe'] });
    fs.closeSync(full);
    assert.equal(code, 1);
    assert.match(stderr, /^native: .*No space left on device.*\n$/);
  });
});

describe('a port in use', () => {
  for (const option of ['--port', '--grpc-port']) {
    test(`for ${option} ends the start at once, in a line with address and options, before the model is looked at`, async () => {
      const holder = net.createServer();
      const port = await new Promise(resolve => holder.listen(0, '127.0.0.1', () => resolve(holder.address().port)));
      try {
        const { code, stdout, stderr } = run('server', ['--port', '0', '--grpc-port', '0', '--model', '/no/such/model.gguf'].map((value, i, all) => (all[i - 1] === option ? `${port}` : value)));
        assert.deepEqual([code, stdout], [1, '']);
        assert.match(stderr, new RegExp(`^native: [^\\n]*127\\.0\\.0\\.1:${port}: address already in use[^\\n]*--port and --grpc-port[^\\n]*\\n$`));
      } finally {
        holder.close();
      }
    });
  }

  test('and an address that is not this machine\'s likewise', () => {
    const { code, stdout, stderr } = run('server', ['--port', '0', '--grpc-port', '0', '--host', '192.0.2.1']); // for documentation alone, RFC 5737
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(stderr, /^native: [^\n]*192\.0\.2\.1[^\n]*--host[^\n]*\n$/);
  });
});

describe('a KV cache that memory has no room for', () => {
  const line = /^native: a KV cache of (\d+) MiB was asked for, but only (\d+) MiB of memory are free beside \d+ MiB of weights \(--kv-cache-memory[^\n]*\n$/;

  test('ends the start with both numbers', () => {
    const { code, stderr } = run('server', ['--port', '0', '--grpc-port', '0', '--kv-cache-memory', '60T']);
    assert.equal(code, 1);
    assert.equal(line.exec(stderr)?.[1], `${60 * 1024 * 1024}`, stderr);
    assert.ok(Number(line.exec(stderr)[2]) < os.totalmem() / 1024 / 1024, stderr);
  });

  test('is held against the limit of a container, not the machine\'s memory', () => {
    // The runtime reads this in place of the control group's limit.
    const { code, stderr } = run('server', ['--port', '0', '--grpc-port', '0', '--kv-cache-memory', '512M'], { env: { DOTNET_GCHeapHardLimit: '0x14000000' } });
    assert.equal(code, 1);
    assert.equal(line.exec(stderr)?.[1], '512', stderr);
    assert.ok(Number(line.exec(stderr)[2]) < 320, stderr);
  });

  test('or that holds no block of it, is told with what a block takes', () => {
    const { code, stderr } = run('server', ['--port', '0', '--grpc-port', '0', '--kv-cache-memory', '1K']);
    assert.equal(code, 1);
    assert.match(stderr, /^native: a KV cache of 1024 bytes holds no block: one of 16 tokens takes \d+ [^\n]*\n$/);
  });
});

describe('a second signal', () => {
  for (const [signal, code] of [['SIGTERM', 143], ['SIGINT', 130]]) {
    test(`${signal} cuts off what the first let run: streams end with an error, the process with ${code}`, async () => {
      const server = await Server.startWith(slow, '--shutdown-timeout', '120');
      const inference = connect(Inference, server.grpc);
      try {
        const client = new OpenAI({ baseURL: `${server.http}/v1`, apiKey: 'none', maxRetries: 0, timeout: 60_000 });
        const streams = await Promise.all(Array.from({ length: 3 }, () => client.completions.create({ model: 'demo', prompt: 'Once', n: 4, max_tokens: 1000, ignore_eos: true, stream: true })));
        const ends = streams.map(stream => collect(stream).then(() => 'whole', error => error.code));
        const call = inference.Generate({ text: 'Once', sampling: { n: 4, max_tokens: 1000, ignore_eos: true } });
        const cut = collect(call).then(() => 'whole', error => error.code);
        server.signal('SIGTERM');
        server.signal('SIGTERM'); // sent to a process and to its group, one signal comes twice
        await until('it drains', () => server.log.includes('draining'));
        await delay(700);
        assert.equal((await fetch(`${server.http}/healthz`)).status, 200); // the twin did not count
        server.signal(signal);
        assert.deepEqual(new Set(await Promise.all(ends)), new Set(['draining']));
        assert.equal(await cut, status.UNAVAILABLE);
        assert.deepEqual(await server.ended, { code, signal: null });
        assert.match(server.log, /^native: draining, [^\n]*\nnative: requests were cut off by a second signal\n$/);
      } finally {
        inference.close();
        server.signal('SIGKILL');
      }
    });
  }
});

describe('ten thousand connections that say nothing', () => {
  const count = 10_000;
  const files = process.platform === 'linux' ? Number(/^Max open files +\d+ +(\d+)/m.exec(fs.readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? Infinity) : 0;
  const skip = files >= count + 500 ? false : `needs ${count + 500} open files, ${files} are allowed`;

  test('leave the server answering as before, and cost it tens of kilobytes each', { skip }, async () => {
    const server = await Server.start();
    const sockets = [];
    try {
      const before = await answer(server);
      const [http, grpc] = [server.http.slice('http://'.length), server.grpc].map(address => ({ port: Number(address.split(':')[1]), host: address.split(':')[0] }));
      for (let i = 0; i < count; i += 500) {
        await Promise.all(Array.from({ length: 500 }, (_, j) => new Promise((resolve, reject) => {
          sockets.push(net.connect(j % 2 === 0 ? http : grpc, resolve).on('error', reject));
        })));
      }
      await until('the server has accepted them', () => fs.readdirSync(`/proc/${server.id}/fd`).length > count);
      assert.equal(await answer(server), before);
      const kilobytes = Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${server.id}/status`, 'utf8'))[1]);
      assert.ok(kilobytes < 1_500_000, `${kilobytes} kB`);
      const inference = connect(Inference, server.grpc);
      assert.equal((await collect(inference.Generate({ text: 'Once', sampling: { max_tokens: 5, ignore_eos: true } }))).at(-1).summary.usage.completion_tokens, 5);
      inference.close();
      for (const socket of sockets) socket.destroy();
      await until('they are forgotten', () => fs.readdirSync(`/proc/${server.id}/fd`).length < 1000);
      assert.equal(await answer(server), before);
      await server.settled();
      await server.stop();
    } finally {
      for (const socket of sockets) socket.destroy();
      server.signal('SIGKILL');
    }
  });

  test('are closed as they come where the process may not open so many files, and those that came before are served', { skip: linux }, async () => {
    const port = await freePort();
    const [program, args] = command('server', ['--port', `${port}`, '--grpc-port', '0', '--log-level', 'error']);
    const child = spawn('sh', ['-c', 'ulimit -n 320; exec "$0" "$@"', program, ...args], { env: environment(), stdio: 'ignore' }); // leaves room for 64
    const http = `http://127.0.0.1:${port}`;
    const sockets = [];
    try {
      await until('it is ready', () => fetch(`${http}/readyz`).then(response => response.ok, () => false));
      let closed = 0;
      for (let i = 0; i < 200; i++) sockets.push(net.connect(port, '127.0.0.1').on('error', () => {}).on('close', () => { closed++; }));
      await until('what is too much is closed', () => closed > 100);
      assert.equal((await fetch(`${http}/readyz`)).status, 200); // on the connection that fetch keeps
      for (const socket of sockets) socket.destroy();
      await until('it serves others again', () => new Promise(resolve => net.connect(port, '127.0.0.1').on('error', () => resolve(false)).on('close', () => resolve(false))
        .on('data', () => resolve(true)).end('GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')));
    } finally {
      for (const socket of sockets) socket.destroy();
      child.kill('SIGKILL');
    }
  });
});
