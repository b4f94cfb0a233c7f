// Two hundred streams at once for a minute, half of them OpenAI's and half gRPC's.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import OpenAI from 'openai';
import { collect, connect, load } from './grpc-client.js';
import { Server, until } from './server.js';

const streams = 200;
const time = 60_000;

// Each is asked again and again: greedy and drawn, to the end the model finds and past it.
const requests = Array.from({ length: 40 }, (_, i) => ({
  prompt: ['Once upon a time', 'The little dog', 'Tom and Anna went', 'In the garden there was', 'One day'][i % 5] + (i < 20 ? '' : ', far away,'),
  tokens: 20 + 37 * i % 130,
  temperature: i % 3 === 0 ? 0 : 0.9,
  seed: i,
  ignoreEos: i % 2 === 0,
}));

let server, openai, inference;

before(async () => {
  server = await Server.start('--max-num-seqs', '256');
  openai = new OpenAI({ baseURL: `${server.http}/v1`, apiKey: 'none', maxRetries: 0, timeout: 120_000 });
  inference = connect(load('native.v1.proto').native.v1.Inference, server.grpc);
});
after(() => server?.stop());

async function byOpenAi({ prompt, tokens, temperature, seed, ignoreEos }) {
  const chunks = await openai.completions.create({ model: 'demo', prompt, max_tokens: tokens, temperature, seed, ignore_eos: ignoreEos, stream: true, stream_options: { include_usage: true }, return_token_ids: true });
  const answer = { text: '', tokens: 0 };
  for await (const { choices: [choice], usage } of chunks) {
    answer.text += choice?.text ?? '';
    answer.tokens += choice?.token_ids.length ?? 0;
    answer.end = choice?.finish_reason ?? answer.end;
    answer.counted = usage?.completion_tokens;
  }
  return answer;
}

async function byGrpc({ prompt, tokens, temperature, seed, ignoreEos }) {
  const messages = await collect(inference.Generate({ text: prompt, sampling: { max_tokens: tokens, temperature, seed, ignore_eos: ignoreEos } }));
  const answer = { text: '', tokens: 0 };
  for (const { token, finished, summary } of messages) {
    answer.text += (token ?? finished)?.text ?? '';
    answer.tokens += token ? 1 : 0;
    answer.end = finished ? finished.reason.replace('FINISH_REASON_', '').toLowerCase() : answer.end;
    answer.counted = summary?.usage.completion_tokens;
  }
  return answer;
}

test('200 streams at once for a minute each say what they say alone, and leave nothing behind', { timeout: 400_000 }, async () => {
  const alone = [];
  for (const request of requests) {
    alone.push(await byGrpc(request));
    assert.deepEqual(await byOpenAi(request), alone.at(-1)); // also opens a connection of each kind before they are counted
  }
  assert.ok(alone.every(answer => answer.tokens > 0 && answer.counted === answer.tokens && answer.end));
  assert.ok(new Set(alone.map(answer => answer.text)).size > requests.length / 2);
  await server.settled();
  const before = await server.metrics();

  const end = Date.now() + time;
  const wrong = [];
  let open = 0, done = 0, next = 0, peak = 0;
  const stream = async i => {
    while (Date.now() < end) {
      const number = next++ % requests.length;
      open++;
      try {
        assert.deepEqual(await (i % 2 === 0 ? byOpenAi : byGrpc)(requests[number]), alone[number]);
        done++;
      } catch (error) {
        wrong.push(`request ${number} by ${i % 2 === 0 ? 'OpenAI' : 'gRPC'}: ${error.message}`);
        await delay(100); // a server that is gone is asked no faster for it
      }
      open--;
    }
  };
  const watch = async () => {
    while (open > 0) {
      const metrics = await server.metrics();
      peak = Math.max(peak, metrics.get('native_requests_running') + metrics.get('native_requests_waiting'));
      await delay(500);
    }
  };
  const all = Array.from({ length: streams }, (_, i) => stream(i));
  assert.equal(open, streams);
  await Promise.all([...all, watch()]);

  assert.deepEqual(wrong.slice(0, 5), [], `${wrong.length} of ${wrong.length + done} went wrong`);
  assert.ok(done >= streams, `${done} streams`);
  assert.ok(peak > streams * 0.8, `the server saw ${peak} at once`);
  await server.settled();
  const metrics = await server.metrics();
  assert.equal(metrics.get('native_requests_total{outcome="error"}'), 0);
  assert.equal(metrics.get('native_failed_steps_total'), 0);

  inference.close();
  let seen;
  await until(() => `handles and threads come back: ${JSON.stringify(seen)}`, async () => {
    const now = await server.metrics();
    seen = Object.fromEntries(['process_open_fds', 'process_threads'].map(name => [name, [before.get(name), now.get(name)]]));
    return Object.values(seen).every(([then, now]) => now <= then + 8); // a few of the pool's threads stay for some time
  });
  console.log(`${done} streams, at most ${peak} at once; handles ${seen.process_open_fds.join(' to ')}, threads ${seen.process_threads.join(' to ')}`);
});
