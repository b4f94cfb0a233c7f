// llama.cpp and Native on the same files, side by side: a real model, and what convert, quantize and synth write.
// Runs where the npm package node-llama-cpp and the models are: npm install --no-save --omit=optional --ignore-scripts node-llama-cpp @node-llama-cpp/linux-x64
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const tools = fileURLToPath(new URL('../../tools/bin/Release/net10.0/Native.Tools.dll', import.meta.url));
const data = process.env.NATIVE_DATA;
const llamaCpp = await import('node-llama-cpp').catch(() => null);
const skip = llamaCpp === null ? 'node-llama-cpp is not installed' : data ? false : 'NATIVE_DATA is not set';

const smol = `${data}/models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf`;
const architectures = `${data}/models/architectures`;
const texts = [
  'Once upon a time, in a far-away land, there lived 3 bears & 1234 bees.', "It's theirs; I'll DON'T  three   spaces\n\n\tand a tab\r\n",
  'Größe, naïve café — “quotes” …', 'Привет, мир! 你好，世界！ こんにちは 안녕하세요 🙂👍🏽', 'def f(x):\n    return x**2  # comment\n\n\nprint(f(0x1F))', ' ',
];

let llama, folder;

before(async () => {
  if (skip) return;
  folder = await mkdtemp(join(tmpdir(), 'native-llama-cpp-'));
  llama = await llamaCpp.getLlama({ gpu: false, build: 'never', logLevel: llamaCpp.LlamaLogLevel.error });
});

after(async () => {
  await llama?.dispose();
  if (folder) await rm(folder, { recursive: true });
});

/** Runs one of Native's tools. */
async function native(...command) {
  const { stdout } = await promisify(execFile)('dotnet', [tools, ...command], { maxBuffer: 1 << 28 });
  return stdout;
}

/** Opens a file in llama.cpp for the use. */
async function inLlamaCpp(path, use) {
  const model = await llama.loadModel({ modelPath: path });
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

/** llama.cpp's natural log-probabilities of each id after those before it, and the best next one at each place. */
async function score(model, ids) {
  const context = await model.createContext({ contextSize: Math.max(512, ids.length + 1), sequences: 1, threads: 2, flashAttention: false });
  try {
    const outputs = await context.getSequence().controlledEvaluate(ids.map(id => [id, { generateNext: { probabilities: true } }]));
    const next = outputs.map(output => output.next.probabilities);
    return { logprobs: ids.slice(1).map((id, i) => Math.log(next[i].get(id))), best: next.map(probabilities => probabilities.keys().next().value), last: next.at(-1) };
  } finally {
    await context.dispose();
  }
}

/** Compares both engines on a file, and returns the mean and the largest distance of log-probabilities. */
async function compare(path, ids, ...options) {
  const ours = JSON.parse(await native('logits', '--model', path, '--ids', ids.join(','), '--json', '--kv-cache-dtype', 'f32', ...options));
  const theirs = await inLlamaCpp(path, model => score(model, ids));
  assert.equal(ours.logprob_of_next.length, theirs.logprobs.length);
  const apart = ours.logprob_of_next.map((logprob, i) => Math.abs(logprob - theirs.logprobs[i]));
  // The best next token is the same, unless two are as good as each other.
  const [first, second] = ours.last_top;
  if (first[1] - second[1] > 0.1) assert.equal(first[0], theirs.best.at(-1));
  return { mean: apart.reduce((sum, x) => sum + x, 0) / apart.length, worst: Math.max(...apart) };
}

/** The longest prompt of a model's golden runs. */
async function goldenIds(family) {
  const { runs } = JSON.parse(await readFile(`${architectures}/${family}/golden.json`, 'utf8'));
  return runs.map(run => run.prompt_ids).reduce((longest, ids) => (ids.length > longest.length ? ids : longest));
}

async function sameIds(path) {
  await inLlamaCpp(path, async model => {
    for (const text of texts) {
      const theirs = [...model.tokenize(text, false)];
      const ours = JSON.parse(await native('tokenize', '--model', path, '--prompt', text, '--json', '--plain')).ids;
      assert.deepEqual(ours, theirs, JSON.stringify(text));
    }
  });
}

describe('beside llama.cpp', { skip, concurrency: false }, () => {
  test('a real model has the same ids and nearly the same log-probabilities', async t => {
    await sameIds(smol);
    const { runs } = JSON.parse(await readFile(smol.replace(/[^/]+$/, 'golden.json'), 'utf8'));
    for (const run of runs.slice(0, 2)) {
      const { mean, worst } = await compare(smol, [...run.prompt_ids, ...run.output_ids].slice(0, 200));
      t.diagnostic(`mean distance of log-probabilities ${mean.toFixed(4)}, worst ${worst.toFixed(4)}`);
      // Both quantize activations, each in its own way: neither is nearer to the other than to the float32 reference.
      assert.ok(mean < 0.1 && worst < 0.6, `mean ${mean}, worst ${worst}`);
    }
  });

  // In BF16, which four of the folders have, llama.cpp rounds activations too.
  const families = [['llama3-rope', 'auto'], ['mistral', 'auto'], ['qwen3', 'auto'], ['gemma3', 'auto'],
    ...['llama-linear', 'qwen2', 'gemma2', 'phi3'].flatMap(family => [[family, 'F32'], [family, 'auto']])];
  for (const [family, type] of families) {
    test(`${family} runs there as convert --type ${type} wrote it`, async t => {
      const path = join(folder, `${family}.gguf`);
      await native('convert', `${architectures}/${family}/hf`, path, '--type', type, '--force');
      if (type === 'auto') await sameIds(path);
      // llama.cpp does not know mistral's window of 48 tokens.
      const ids = (await goldenIds(family)).slice(0, family === 'mistral' ? 48 : undefined);
      const { worst } = await compare(path, ids, '--max-model-len', '512');
      t.diagnostic(`worst distance of log-probabilities ${worst.toFixed(5)}`);
      // Its KV cache is F16; its GELU, gemma's, is a table in 16 bits.
      assert.ok(worst < (type === 'auto' && families.some(([name, other]) => name === family && other === 'F32') ? 0.1 : 0.02), `worst ${worst}`);
    });
  }

  // The fewer bits the weights have, the more the two ways to quantize activations part.
  for (const [type, bound] of [['Q8_0', 0.1], ['Q4_0', 0.2], ['Q4_K_M', 0.15], ['Q5_K_M', 0.15], ['Q3_K_M', 0.15], ['Q2_K', 0.3]]) {
    test(`a real model runs there as quantize wrote it in ${type}`, async t => {
      const path = join(folder, 'quantized.gguf');
      await native('quantize', smol, path, '--type', type, '--force');
      const { runs } = JSON.parse(await readFile(smol.replace(/[^/]+$/, 'golden.json'), 'utf8'));
      const { mean } = await compare(path, [...runs[0].prompt_ids, ...runs[0].output_ids].slice(0, 100));
      t.diagnostic(`mean distance of log-probabilities ${mean.toFixed(4)}`);
      assert.ok(mean < bound, `mean ${mean}`);
    });
  }

  for (const shape of ['135m', 'gemma3-270m']) {
    test(`${shape} runs there as synth wrote it`, async t => {
      const path = join(folder, 'synth.gguf');
      await native('synth', '--shape', shape, '--type', 'Q8_0', '-o', path, '--force');
      const { mean, worst } = await compare(path, Array.from({ length: 48 }, (_, i) => 256 + i * 37), '--max-model-len', '512');
      t.diagnostic(`mean distance of log-probabilities ${mean.toFixed(4)}, worst ${worst.toFixed(4)}`);
      assert.ok(mean < 0.1, `mean ${mean}`);
    });
  }
});
