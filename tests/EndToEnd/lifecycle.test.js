// Servers that are full, end, or are asked by strangers, over the wire.
import assert from 'node:assert/strict';
import net from 'node:net';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import { ask, collect, connect, load, status } from './grpc-client.js';
import { Server, slow, until } from './server.js';

const Inference = load('native.v1.proto').native.v1.Inference;
const Health = load('health.proto').grpc.health.v1.Health;

/** Runs a test with a server of its own, that must end well. */
const withServer = (options, body, variables = {}) => async () => {
  const server = await Server.startWith(variables, ...options);
  const client = new OpenAI({ baseURL: `${server.http}/v1`, apiKey: 'none', maxRetries: 0, timeout: 60_000 });
  const inference = connect(Inference, server.grpc);
  try {
    await body({ server, client, inference });
    if (!server.asked) await server.stop();
  } finally {
    inference.close();
    server.signal('SIGKILL');
  }
};

const long = { prompt: 'Once upon a time', max_tokens: 900, temperature: 0, ignore_eos: true, stream: true, stream_options: { include_usage: true }, model: 'demo' };

/** Fails unless a stream went on to its last token and its end. */
function assertWhole(chunks, tokens) {
  assert.equal(chunks.at(-1).usage.completion_tokens, tokens);
  assert.equal(chunks.at(-2).choices[0].finish_reason, 'length');
}

describe('a full queue', () => {
  test('refuses with RESOURCE_EXHAUSTED and 429, says when to come again, and gives each its turn', withServer(['--max-num-seqs', '1', '--max-num-queued-reqs', '1'], async ({ server, client, inference }) => {
    const leave = new AbortController();
    await client.completions.create(long, { signal: leave.signal });
    await until('the first runs', async () => (await server.metrics()).get('native_requests_running') === 1);
    const second = client.completions.create({ ...long, max_tokens: 3 });
    await until('the second waits', async () => (await server.metrics()).get('native_requests_waiting') === 1);

    await assert.rejects(collect(inference.Generate({ text: 'Once' })), error => {
      assert.equal(error.code, status.RESOURCE_EXHAUSTED);
      const [pushback] = error.metadata.get('grpc-retry-pushback-ms');
      assert.match(pushback, /^[1-9][0-9]*$/);
      assert.match(error.details, /full/);
      return true;
    });
    await assert.rejects(client.completions.create({ ...long, stream: false, stream_options: undefined }), error => {
      assert.ok(error instanceof OpenAI.RateLimitError);
      assert.deepEqual([error.code, error.type], ['queue_full', 'rate_limit_error']);
      assert.match(error.headers.get('retry-after'), /^[1-9][0-9]*$/);
      return true;
    });

    leave.abort();
    assertWhole(await collect(await second), 3);
    const metrics = await server.metrics();
    assert.equal(metrics.get('native_requests_total{outcome="queue_full"}'), 2);
    await server.settled();
  }, slow));

  test('forgets who leaves it', withServer(['--max-num-seqs', '1', '--max-num-queued-reqs', '2'], async ({ server, client, inference }) => {
    const leave = new AbortController();
    await client.completions.create(long, { signal: leave.signal });
    const abort = new AbortController();
    const waiting = client.completions.create(long, { signal: abort.signal });
    const call = inference.Generate({ text: 'Once' });
    waiting.catch(() => {});
    call.on('error', () => {});
    await until('both wait', async () => (await server.metrics()).get('native_requests_waiting') === 2);
    abort.abort();
    call.cancel();
    await until('nobody waits', async () => (await server.metrics()).get('native_requests_waiting') === 0);
    leave.abort();
    await server.settled();
  }, slow));
});

test('SIGTERM lets running streams end whole, refuses what is new, and ends with 0', withServer(['--shutdown-timeout', '120'], async ({ server, client, inference }) => {
  const health = connect(Health, server.grpc);
  const watch = health.Watch({ service: '' });
  const statuses = [];
  watch.on('data', message => statuses.push(message.status)).on('error', () => {});
  await until('it serves', () => statuses.length === 1);

  const streams = await Promise.all(Array.from({ length: 4 }, () => client.completions.create({ ...long, max_tokens: 100 })));
  const call = inference.Generate({ text: 'Once upon a time', sampling: { temperature: 0, max_tokens: 100, ignore_eos: true } });
  await new Promise(resolve => call.once('data', resolve));
  const whole = Promise.all(streams.map(collect));
  const messages = collect(call);

  server.signal('SIGTERM');
  await until('it is not ready', async () => (await fetch(`${server.http}/readyz`)).status === 503);
  assert.equal((await fetch(`${server.http}/healthz`)).status, 200);
  await assert.rejects(client.completions.create(long), error => error.status === 503 && error.code === 'draining' && error.headers.get('retry-after') === '1');
  await assert.rejects(collect(inference.Generate({ text: 'Once' })), error => error.code === status.UNAVAILABLE && /shutting down/.test(error.details));
  await assert.rejects(ask(inference, 'ListModels'), error => error.code === status.UNAVAILABLE);
  await until('the watch says so', () => statuses.at(-1) === 'NOT_SERVING');

  for (const chunks of await whole) assertWhole(chunks, 100);
  assert.equal((await messages).at(-1).summary.usage.completion_tokens, 100);
  assert.deepEqual(await server.ended, { code: 0, signal: null });
  assert.match(server.log, /^native: draining, at most 120 s; a second signal cuts requests off\n$/);
  await assert.rejects(fetch(`${server.http}/readyz`));
  health.close();
  server.asked = true;
}, slow));

test('the end of --shutdown-timeout cuts streams off with an error, and still ends with 0', withServer(['--shutdown-timeout', '0.1', '--max-num-seqs', '64'], async ({ server, client, inference }) => {
  const streams = await Promise.all(Array.from({ length: 8 }, () => client.completions.create({ ...long, n: 4 })));
  const call = inference.Generate({ text: 'Once', sampling: { n: 8, ignore_eos: true } });
  const cut = collect(call);
  cut.catch(() => {});
  const ends = streams.map(stream => collect(stream).then(() => 'whole', error => error.code));
  server.signal('SIGTERM');
  assert.deepEqual(new Set(await Promise.all(ends)), new Set(['draining']));
  await assert.rejects(cut, error => error.code === status.UNAVAILABLE);
  assert.deepEqual(await server.ended, { code: 0, signal: null });
  server.asked = true;
}, slow));

test('an API key is asked of /v1, of gRPC and of reflection, not of probes', withServer(['--api-key', 'sesame'], async ({ server, client, inference }) => {
  await assert.rejects(client.models.list(), error => error instanceof OpenAI.AuthenticationError && error.code === 'invalid_api_key');
  const known = new OpenAI({ baseURL: `${server.http}/v1`, apiKey: 'sesame', maxRetries: 0 });
  assert.equal((await known.models.list()).data.length, 1);
  await assert.rejects(ask(inference, 'ListModels'), error => error.code === status.UNAUTHENTICATED);
  const raw = inference.makeBidiStreamRequest('/grpc.reflection.v1.ServerReflection/ServerReflectionInfo', bytes => bytes, bytes => bytes);
  raw.end(Buffer.from([0x3a, 0]));
  await assert.rejects(collect(raw), error => error.code === status.UNAUTHENTICATED);
  const health = connect(Health, server.grpc);
  assert.equal((await ask(health, 'Check', { service: '' })).status, 'SERVING');
  health.close();
  for (const path of ['/healthz', '/readyz', '/metrics']) assert.equal((await fetch(server.http + path)).status, 200);
}));

describe('strangers', () => {
  /** Sends bytes and returns all that comes until the server, or after a while this side, hangs up. */
  const raw = (server, text, { hangUpAfter = 20_000 } = {}) => new Promise((resolve, reject) => {
    const { hostname, port } = new URL(server.http);
    const socket = net.connect(Number(port), hostname, () => socket.write(text));
    let answer = '';
    socket.setEncoding('utf8').on('data', data => { answer += data; }).on('close', () => resolve(answer)).on('error', reject);
    setTimeout(() => socket.destroy(), hangUpAfter).unref();
  });
  const body = JSON.stringify({ prompt: 'Once', max_tokens: 3 });
  const head = (version, ...headers) => `POST /v1/completions HTTP/${version}\r\nHost: x\r\nContent-Type: application/json\r\n${headers.map(header => `${header}\r\n`).join('')}\r\n`;

  test('with HTTP/1.0, chunked bodies, trailing slashes and HEAD are served', withServer([], async ({ server }) => {
    const old = await raw(server, head('1.0', `Content-Length: ${body.length}`) + body);
    assert.match(old, /^HTTP\/1\.1 200 OK/);
    assert.equal(JSON.parse(old.split('\r\n\r\n')[1]).usage.completion_tokens, 3);
    const streamed = JSON.stringify({ prompt: 'Once', max_tokens: 3, stream: true });
    assert.ok((await raw(server, head('1.0', `Content-Length: ${streamed.length}`) + streamed)).endsWith('data: [DONE]\n\n'));
    const chunked = [...body].map(character => `1\r\n${character}\r\n`).join('') + '0\r\n\r\n';
    assert.match(await raw(server, head('1.1', 'Transfer-Encoding: chunked', 'Connection: close') + chunked), /"completion_tokens":3/);
    assert.equal((await server.post('/v1/completions/', body)).status, 200);
    assert.equal((await (await fetch(`${server.http}/v1/models/`)).json()).object, 'list');
    for (const path of ['/v1/models', '/v1/models/demo', '/healthz', '/readyz', '/metrics']) {
      const response = await fetch(server.http + path, { method: 'HEAD' });
      assert.deepEqual([response.status, await response.text()], [200, ''], path);
    }
  }));

  test('that stop in the middle of a request hold nobody up', withServer([], async ({ server }) => {
    const halves = ['POST /v1/comp', head('1.1', 'Content-Length: 1000').slice(0, -2), head('1.1', 'Content-Length: 1000') + '{"prompt":', head('1.1', 'Transfer-Encoding: chunked') + '5\r\n{"pr']
      .map(half => raw(server, half, { hangUpAfter: 3000 }));
    for (let i = 0; i < 20; i++) assert.equal((await server.post('/v1/completions', body)).status, 200);
    await Promise.all(halves);
    assert.equal((await server.post('/v1/completions', body)).status, 200);
  }));

  test('with megabytes in every field are told so in a few words, while a stream goes on', withServer([], async ({ server, client }) => {
    const choices = async () => (await collect(await client.completions.create(long))).map(chunk => chunk.choices);
    const alone = await choices();
    let over = false;
    const beside = (async () => { while (!over) assert.deepEqual(await choices(), alone); })(); // one stream after the other, until all is asked
    const big = 'x'.repeat(4 << 20);
    const bodies = [
      { prompt: big }, { prompt: Array(1 << 20).fill(1) }, { prompt: Array(1 << 18).fill('a') }, { prompt: 'a', model: big }, { prompt: 'a', stop: big }, { prompt: 'a', stop: Array(1 << 19).fill('b') },
      { prompt: 'a', suffix: big }, { prompt: 'a', response_format: { type: big } }, { prompt: 'a', logit_bias: { [big]: 1 } },
      { prompt: 'a', logit_bias: Object.fromEntries(Array.from({ length: 300_000 }, (_, i) => [i, 0])) }, { prompt: 'a', stop_token_ids: Array(1 << 20).fill(1) },
    ];
    const chats = [
      [{ role: big, content: 'a' }], [{ role: 'user', content: big }], [{ role: 'user', content: [{ type: big }] }], Array(100_000).fill({ role: 'user', content: 'a' }),
      [{ role: 'user', content: Array(100_000).fill({ type: 'text', text: 'a' }) }],
    ];
    for (const [path, request] of [...bodies.map(one => ['/v1/completions', one]), ...chats.map(messages => ['/v1/chat/completions', { messages }])]) {
      const start = Date.now();
      const response = await server.post(path, JSON.stringify(request));
      const text = await response.text();
      assert.ok(response.status >= 400 && response.status < 502 && response.status !== 500, `${response.status} ${text.slice(0, 300)}`);
      assert.ok(text.length < 1000, text.slice(0, 1000));
      assert.ok(Date.now() - start < 15_000, `${Date.now() - start} ms for ${Object.keys(request)}`);
    }
    const digits = await server.post('/v1/completions', `{"prompt":"a","n":1${'0'.repeat(1 << 20)}}`);
    assert.equal(digits.status, 400);
    assert.ok((await digits.text()).length < 1000);
    assert.equal((await server.post('/v1/completions', `{"prompt":"${'x'.repeat(17 << 20)}"}`).catch(() => ({ status: 413 }))).status, 413); // or hung up on, while it sends
    over = true;
    await beside;
  }));
});
