// llama.cpp beside Native: one process that has the model loaded and answers one measurement for each line of standard input.
// Its only argument is JSON: {modules, model, threads, vocabulary, contexts: [{sequences, length}]}. Lines in: {tokens, batch, depth, decodes}.
// Lines out: {ready: {release, system}} once, then {seconds} or {error} for each.
//
// What is timed is AddonContext.decodeBatch alone: llama_decode and llama_synchronize on libuv's thread, and the hop there and back
// (0.04 ms, 0.5 % of a step of 6 ms). Batches are filled outside of it and no token is taken out of the logits: llama-bench does the
// same. The environment must say UV_THREADPOOL_SIZE=1: where steps wander over several threads of libuv the same build is slower by up to 3.5 times.
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const chunk = 512; // llama-bench's -ub: tokens of a prompt that are computed at once
const runUp = 2;
const { modules, model: modelPath, threads, vocabulary, contexts } = JSON.parse(process.argv[2]);
const say = message => process.stdout.write(`${JSON.stringify(message)}\n`);
const none = new Uint32Array(0);
const first = Uint32Array.of(0);

let state = 42;
function randomId() { // ids need not be good randomness, only cheap
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state % vocabulary;
}

/** A context with the tokens that each of its sequences has in the cache. */
async function open(model, { sequences, length }) {
  // flashAttention is auto in llama-bench; on a CPU that is on, and faster.
  const context = await model.createContext({ contextSize: length, sequences, batchSize: Math.max(chunk, sequences), threads, flashAttention: 'auto' });
  return { addon: context._ctx, sequences, length, cached: new Array(sequences).fill(0) };
}

/** Computes a step and returns its milliseconds. */
async function step(addon) {
  const began = performance.now();
  await addon.decodeBatch();
  return performance.now() - began;
}

/** Leaves a sequence with its first tokens, at most count of them. */
function cut(context, sequence, count) {
  if (context.cached[sequence] <= count) return;
  // A cache of a sliding window can't be cut in the middle: it begins again.
  if (count > 0 && context.addon.removeTokenCellsFromSequence(sequence, count, -1)) {
    context.cached[sequence] = count;
    return;
  }
  context.addon.disposeSequence(sequence);
  context.cached[sequence] = 0;
}

/** Computes a sequence up to count tokens and returns the milliseconds; the last token's logits are computed too. */
async function prefill(context, sequence, count) {
  let milliseconds = 0;
  while (context.cached[sequence] < count) {
    const at = context.cached[sequence], tokens = Math.min(chunk, count - at);
    context.addon.initBatch(tokens);
    context.addon.addToBatch(sequence, at, Uint32Array.from({ length: tokens }, randomId), at + tokens === count ? Uint32Array.of(tokens - 1) : none);
    milliseconds += await step(context.addon);
    context.cached[sequence] += tokens;
  }
  return milliseconds;
}

/** So many steps of one token of each sequence of a batch, behind so many tokens. */
async function decode(context, batch, depth, count) {
  for (let sequence = 0; sequence < batch; sequence++) {
    cut(context, sequence, depth);
    await prefill(context, sequence, depth);
  }
  let milliseconds = 0;
  for (let i = 0; i < count; i++) {
    context.addon.initBatch(batch);
    for (let sequence = 0; sequence < batch; sequence++) {
      context.addon.addToBatch(sequence, depth + i, Uint32Array.of(randomId()), first);
      context.cached[sequence]++;
    }
    milliseconds += await step(context.addon);
  }
  return milliseconds;
}

async function measure(opened, { tokens, batch, depth, decodes }) {
  const context = opened.find(candidate => candidate.sequences === batch && candidate.length >= depth + tokens);
  if (!context) throw new Error(`no context of ${batch} sequences of ${depth + tokens} tokens was asked for`);
  // A processor that waited for the other engines takes up to 0.15 s more for its next step: as for Native, two steps that are not counted come first.
  await decode(context, batch, depth, Math.min(runUp, tokens));
  if (decodes) return await decode(context, batch, depth, tokens);
  cut(context, 0, depth);
  await prefill(context, 0, depth);
  return await prefill(context, 0, depth + tokens);
}

try {
  const { getLlama, LlamaLogLevel } = await import(pathToFileURL(join(modules, 'node-llama-cpp', 'dist', 'index.js')));
  const llama = await getLlama({ gpu: false, build: 'never', progressLogs: false, logLevel: LlamaLogLevel.error, logger: (_, message) => process.stderr.write(`${message}\n`) });
  const model = await llama.loadModel({ modelPath });
  const opened = [];
  for (const wanted of contexts) opened.push(await open(model, wanted));
  say({ ready: { release: llama.llamaCppRelease?.release ?? '', system: llama.systemInfo.trim() } });
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      say({ seconds: await measure(opened, JSON.parse(line)) / 1000 });
    } catch (error) {
      say({ error: String(error?.message ?? error) });
    }
  }
  process.exit(0);
} catch (error) {
  say({ error: String(error?.message ?? error) });
  process.exit(1);
}
