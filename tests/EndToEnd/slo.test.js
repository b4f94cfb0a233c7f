// Error budgets: kept through SIGKILL by a real server, and rules that promtool takes and that fire when the engine would.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Server, command, environment, until } from './server.js';

const noPromtool = spawnSync('promtool', ['--version']).error !== undefined ? 'promtool is not installed' : false;
const spec = `
slos:
  - {name: first-token, sli: ttft, threshold: 500ms, objective: 99}
  - {name: answered, sli: availability, objective: 99.9, role: watch}
`;

let folder;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'native-slo-'));
  writeFileSync(join(folder, 'slo.yml'), spec);
});
after(() => rmSync(folder, { recursive: true, force: true }));

const complete = async server => {
  const response = await server.post('/v1/completions', JSON.stringify({ prompt: 'Once upon a time', max_tokens: 4, ignore_eos: true }));
  assert.equal(response.status, 200);
  await response.json();
};

test('budgets outlive a server that is killed, but for the last seconds', async () => {
  const state = join(folder, 'slo.state');
  const options = ['--slo', join(folder, 'slo.yml'), '--slo-state', state];
  const killed = await Server.start(...options);
  for (let i = 0; i < 9; i++) await complete(killed);
  // What is refused as wrong is neither good nor bad.
  assert.equal((await killed.post('/v1/completions', '{"prompt":"x","temperature":-1}')).status, 400);
  await killed.settled();
  await until('nine requests are counted', async () => (await killed.metrics()).get('native_slo_good_total{slo="answered"}') === 9);
  await delay(2000); // what server/Slo/README.md promises
  killed.signal('SIGKILL');
  await killed.ended;
  const kept = readFileSync(state);
  assert.match(kept.toString('latin1'), /^native slo state 1\n/);

  const again = await Server.start(...options);
  try {
    let metrics = await again.metrics();
    assert.equal(metrics.get('native_slo_good_total{slo="answered"}'), 0); // a counter begins with its process
    assert.equal(metrics.get('native_slo_objective_ratio{slo="answered"}'), 0.999);
    assert.equal(metrics.get('native_slo_burn_rate{slo="answered",window="3d"}'), 0);
    await complete(again);
    await again.settled();
  } finally {
    await again.stop();
  }
  // Ten in the file: the nine of the killed server and the one after. Each saved pair is 16 bytes: objective, number, good, bad.
  const counts = new Map();
  const bytes = readFileSync(state);
  for (let at = bytes.indexOf('\n') + 1; at < bytes.length; at += 8 + bytes.readUInt32LE(at)) {
    if (bytes[at + 8] !== 2) continue;
    for (let pair = at + 9; pair < at + 8 + bytes.readUInt32LE(at); pair += 16) counts.set(`${bytes.readUInt32LE(pair)} ${bytes.readUInt32LE(pair + 4)}`, bytes.readUInt32LE(pair + 8) + bytes.readUInt32LE(pair + 12));
  }
  for (const objective of ['0', '1']) {
    const sum = [...counts].filter(([key]) => key.startsWith(`${objective} `)).reduce((total, [, count]) => total + count, 0);
    assert.equal(sum, 10);
  }
});

test('a state that is somebody else\'s file is left alone, and the server says so', () => {
  const foreign = join(folder, 'foreign');
  writeFileSync(foreign, 'precious');
  const [program, args] = command('server', ['--port', '0', '--grpc-port', '0', '--slo', join(folder, 'slo.yml'), '--slo-state', foreign]);
  const { status, stderr } = spawnSync(program, args, { env: environment(), encoding: 'utf8' });
  assert.equal(status, 1);
  assert.match(stderr, /foreign is there and is no SLO state/);
  assert.equal(readFileSync(foreign, 'utf8'), 'precious');
});

describe('tools slo compile', { skip: noPromtool }, () => {
  before(() => {
    const [program, args] = command('tools', ['slo', 'compile', join(folder, 'slo.yml'), '--out', join(folder, 'rules')]);
    const { status, stdout, stderr } = spawnSync(program, args, { env: environment(), encoding: 'utf8' });
    assert.equal(status, 0, stdout + stderr);
  });

  const promtool = (...args) => {
    const { status, stdout, stderr } = spawnSync('promtool', args, { cwd: join(folder, 'rules'), encoding: 'utf8' });
    assert.equal(status, 0, stdout + stderr);
    return stdout + stderr;
  };

  test('writes rules that promtool takes', () => assert.match(promtool('check', 'rules', 'native-slo-rules.yml'), /SUCCESS: 34 rules found/));
  for (const severity of ['page', 'ticket'])
    test(`has ${severity}s fire in the minute in which the engine's ledger would`, () => promtool('test', 'rules', `native-slo-${severity}-tests.yml`));
  test('writes tests that can fail', () => {
    const tests = readFileSync(join(folder, 'rules', 'native-slo-page-tests.yml'), 'utf8');
    const rules = readFileSync(join(folder, 'rules', 'native-slo-rules.yml'), 'utf8');
    writeFileSync(join(folder, 'rules', 'wrong-rules.yml'), rules.replaceAll('(14.4 *', '(20 *'));
    writeFileSync(join(folder, 'rules', 'wrong-tests.yml'), tests.replace('native-slo-rules.yml', 'wrong-rules.yml'));
    assert.notEqual(spawnSync('promtool', ['test', 'rules', 'wrong-tests.yml'], { cwd: join(folder, 'rules') }).status, 0);
  });
});
