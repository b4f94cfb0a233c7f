// /metrics, by the tools and dashboards that read it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { Server } from './server.js';

const hasPromtool = spawnSync('promtool', ['--version']).error === undefined;

// What vLLM's own dashboard asks for, with {model_name="..."}.
const histograms = ['e2e_request_latency_seconds', 'time_to_first_token_seconds', 'inter_token_latency_seconds'];
const dashboard = [
  ...histograms.flatMap(name => [`${name}_bucket`, `${name}_sum`, `${name}_count`]),
  'num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc', 'prompt_tokens_total', 'generation_tokens_total', 'request_success_total',
  'request_prompt_tokens_bucket', 'request_generation_tokens_bucket',
  'request_queue_time_seconds_sum', 'request_prefill_time_seconds_sum', 'request_decode_time_seconds_sum', 'request_max_num_generation_tokens_sum',
];

let server;

before(async () => { server = await Server.start('--metrics-compat', 'vllm', '--served-model-name', 'little/demo'); });
after(() => server?.stop());

const complete = async () => {
  const response = await server.post('/v1/completions', JSON.stringify({ prompt: 'Once upon a time', max_tokens: 10, ignore_eos: true }));
  assert.equal(response.status, 200);
  await response.json();
};

for (const asked of [false, true]) {
  test(`vLLM's dashboard finds every series and label ${asked ? 'after a request' : 'at the first scrape'}`, async () => {
    if (asked) await complete();
    const series = [...(await server.metrics()).keys()];
    for (const name of dashboard) {
      const found = series.filter(one => one.startsWith(`vllm:${name}{`));
      assert.ok(found.length > 0, `vllm:${name} is missing`);
      assert.ok(found.every(one => one.includes('model_name="little/demo"') && one.includes('engine="0"')), found[0]);
    }
    for (const reason of ['stop', 'length', 'abort']) assert.ok(series.some(one => one.startsWith('vllm:request_success_total{') && one.includes(`finished_reason="${reason}"`)));
  });
}

test('counts agree with what was asked', async () => {
  const before = await server.metrics();
  for (let i = 0; i < 3; i++) await complete();
  await server.settled();
  const now = await server.metrics();
  const grown = name => now.get(name) - before.get(name);
  assert.equal(grown('native_generation_tokens_total'), 30);
  assert.equal(grown('native_requests_total{outcome="length"}'), 3);
  assert.equal(grown('vllm:generation_tokens_total{model_name="little/demo",engine="0"}'), 30);
  assert.equal(grown('vllm:e2e_request_latency_seconds_count{model_name="little/demo",engine="0"}'), 3);
});

test('promtool has nothing to say, but that vLLM names its series as it does', { skip: hasPromtool ? false : 'promtool is not installed' }, async () => {
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: await server.metricsText(), encoding: 'utf8' });
  assert.equal(status, 3, stdout + stderr); // it could read all of it, and does not like some names
  assert.deepEqual(stderr.split('\n').filter(line => line !== '' && !line.startsWith('vllm:')), []);
});
