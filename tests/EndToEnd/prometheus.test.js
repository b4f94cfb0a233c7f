// A real Prometheus that scrapes a loaded server, and the questions that dashboards ask it.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Server, until } from './server.js';

const bench = fileURLToPath(new URL('../../bench/bin/Release/net10.0/Native.Bench.dll', import.meta.url));
const missing = spawnSync('prometheus', ['--version']).error !== undefined ? 'prometheus is not installed' : existsSync(bench) ? false : 'the bench is not built';

/** vLLM's buckets of the time to the first token, in seconds. */
const bounds = [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];
const bucketOf = seconds => bounds.findIndex(bound => seconds <= bound);

/** A port that is free now. */
async function freePort() {
  const listener = net.createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address();
  listener.close();
  await once(listener, 'close');
  return port;
}

describe('a Prometheus that scrapes every second', { skip: missing }, () => {
  let server, prometheus, url, folder, log = '';

  before(async () => {
    server = await Server.start('--metrics-compat', 'vllm');
    folder = mkdtempSync(join(tmpdir(), 'native-prometheus-'));
    writeFileSync(join(folder, 'prometheus.yml'), JSON.stringify({ // which is YAML, too
      global: { scrape_interval: '1s', scrape_timeout: '1s' },
      scrape_configs: [{ job_name: 'native', static_configs: [{ targets: [new URL(server.http).host] }] }],
    }));
    const address = `127.0.0.1:${await freePort()}`;
    url = `http://${address}`;
    prometheus = spawn('prometheus', [`--config.file=${join(folder, 'prometheus.yml')}`, `--storage.tsdb.path=${join(folder, 'data')}`, `--web.listen-address=${address}`], { stdio: ['ignore', 'ignore', 'pipe'] });
    process.on('exit', () => prometheus.kill('SIGKILL'));
    prometheus.stderr.setEncoding('utf8').on('data', text => { log += text; });
    await until(() => `the server is scraped: ${log}`, async () => (await query('up{job="native"}').catch(() => [])).some(({ value }) => value[1] === '1'));
  });
  after(async () => {
    if (prometheus?.exitCode === null) {
      prometheus.kill('SIGTERM');
      await Promise.race([once(prometheus, 'exit'), delay(10_000, null, { ref: false })]);
      prometheus.kill('SIGKILL');
    }
    if (folder) rmSync(folder, { recursive: true, force: true });
    await server?.stop();
  });

  /** The result of an instant query; throws where there is a warning. */
  async function query(expression) {
    const answer = await (await fetch(`${url}/api/v1/query?query=${encodeURIComponent(expression)}`)).json();
    assert.equal(answer.status, 'success', answer.error);
    assert.deepEqual(answer.warnings ?? [], []);
    return answer.data.result;
  }

  /** A query's one number. */
  async function number(expression) {
    const result = await query(expression);
    assert.equal(result.length, 1, `${expression} has ${result.length} results`);
    return Number(result[0].value[1]);
  }

  /** Puts load on the server for about as long, and returns what the clients measured. */
  async function load(seconds, rate) {
    const result = join(folder, 'bench.json');
    const child = spawn('dotnet', [bench, 'serve', '--url', server.http, '--request-rate', `${rate}`, '--num-prompts', `${seconds * rate}`, '--num-warmups', '0', '--max-duration', '120',
      '--random-input-len', '24', '--random-output-len', '24', '--ignore-eos', '--save-result', result], { stdio: ['ignore', 'ignore', 'inherit'] });
    process.on('exit', () => child.kill('SIGKILL'));
    const [code] = await once(child, 'exit');
    assert.equal(code, 0);
    return JSON.parse(readFileSync(result, 'utf8'));
  }

  test('has the quantile of the time to first token that clients measured, to a bucket', async t => {
    // One request first: what is made once is not the load's.
    assert.equal((await server.post('/v1/completions', JSON.stringify({ prompt: 'Once upon a time', max_tokens: 8 }))).status, 200);
    const metric = 'vllm:time_to_first_token_seconds';
    const seen = () => number(`sum(${metric}_count)`);
    await until('the first request is scraped', async () => await seen() === 1);
    let completed = 1, generated = 8, apart;
    // What else runs on this machine holds a client up more than the server: a load whose tail that made is put on again, twice at most.
    for (let attempt = 0; attempt < 3 && (attempt === 0 || apart.length > 0); attempt++) {
      const started = Date.now();
      const measured = await load(24, 8);
      assert.equal(measured.failed, 0);
      assert.equal(measured.completed, 24 * 8);
      completed += measured.completed;
      generated += measured.total_output_tokens;
      await until('the last request is scraped', async () => await seen() === completed);

      // Of the load alone, whose beginning and end lie inside of the window. rate() of counters that do not reset weighs all buckets alike.
      const window = `${Math.ceil((Date.now() - started) / 1000) + 2}s`;
      const sorted = measured.ttfts.toSorted((a, b) => a - b);
      apart = [];
      for (const quantile of [0.5, 0.99]) {
        const told = await number(`histogram_quantile(${quantile}, sum by (le) (rate(${metric}_bucket[${window}])))`);
        const client = sorted[Math.ceil(quantile * sorted.length) - 1];
        // The client's clock begins when the request was to be sent and ends when the first piece is read: connection, two ways through the
        // network and the client's own scheduling are in it. So it can't be below the server's, but for where in its bucket each lies.
        const said = `P${quantile * 100} is ${(told * 1000).toFixed(1)} ms by Prometheus, ${(client * 1000).toFixed(1)} ms by the clients`;
        t.diagnostic(said);
        if (Math.abs(bucketOf(client) - bucketOf(told)) > 1) apart.push(said);
      }
      if (apart.length > 0) await delay(3000); // the next window does not reach back into this load
    }
    assert.deepEqual(apart, []);

    // The same requests and tokens, counted on both sides.
    assert.equal(await number('sum(vllm:generation_tokens_total)'), generated);
    assert.equal(await number('sum(native_requests_total{outcome="length"})'), completed);
    assert.equal(await number('max_over_time(native_step_lock_contentions_total[5m])'), 0);
  });

  test('finds the target up, and nothing in its metrics to warn of', async () => {
    const { data } = await (await fetch(`${url}/api/v1/targets`)).json();
    assert.deepEqual(data.activeTargets.map(target => [target.health, target.lastError]), [['up', '']]);
    assert.deepEqual(data.droppedTargets, []);
    assert.ok(await number('avg_over_time(up{job="native"}[5m])') > 0.8); // on a busy machine a scrape may take longer than its second
    assert.ok(await number('scrape_samples_scraped{job="native"}') > 200);
    assert.deepEqual(log.split('\n').filter(line => /level=(warn|error)/.test(line)), []);
  });

  test('answers what dashboards ask', async () => {
    for (const expression of [
      'histogram_quantile(0.99, sum by (le) (rate(vllm:inter_token_latency_seconds_bucket[2m])))',
      'histogram_quantile(0.95, sum by (le) (rate(vllm:e2e_request_latency_seconds_bucket[2m])))',
      'sum(rate(vllm:generation_tokens_total[2m]))',
      'vllm:kv_cache_usage_perc',
      'sum(rate(native_step_seconds_sum[2m])) / sum(rate(native_step_seconds_count[2m]))',
    ]) assert.ok(await number(expression) >= 0, expression);
  });
});
