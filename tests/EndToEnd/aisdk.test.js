// The AI SDK's client for servers that are compatible with OpenAI's API.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, jsonSchema, Output, streamText, tool } from 'ai';
import { Server, slow, until } from './server.js';

let server, slowServer, provider, chat, completion;

before(async () => {
  [server, slowServer] = await Promise.all([Server.start(), Server.startWith(slow)]);
  provider = createOpenAICompatible({ name: 'native', baseURL: `${server.http}/v1`, includeUsage: true });
  chat = provider.chatModel('demo');
  completion = provider.completionModel('demo');
});
after(() => Promise.all([server?.stop(), slowServer?.stop()]));

const asked = more => ({ model: chat, prompt: 'Tell me a story.', maxOutputTokens: 24, temperature: 0, maxRetries: 0, ...more });

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

describe('generateText', () => {
  for (const kind of ['chat', 'completion']) {
    test(`has text, an end and usage, of a ${kind}`, async () => {
      const model = kind === 'chat' ? chat : completion;
      const { text, finishReason, usage, response, warnings } = await generateText(asked({ model }));
      assert.ok(text.length > 24);
      assert.equal(finishReason, 'length');
      assert.equal(usage.outputTokens, 24);
      assert.ok(usage.inputTokens > 3);
      assert.equal(usage.totalTokens, usage.inputTokens + 24);
      assert.equal(response.modelId, 'demo');
      assert.ok(Math.abs(response.timestamp - Date.now()) < 60_000);
      assert.deepEqual(warnings ?? [], []);
    });
  }

  test('ends by itself with "stop", and before a stop text', async () => {
    assert.equal((await generateText(asked({ prompt: 'Hello!', maxOutputTokens: 200 }))).finishReason, 'stop');
    const whole = (await generateText(asked({ maxOutputTokens: 60 }))).text;
    const stop = whole.slice(25, 31);
    const { text, finishReason } = await generateText(asked({ maxOutputTokens: 60, stopSequences: [stop] }));
    assert.deepEqual([text, finishReason], [whole.slice(0, whole.indexOf(stop)), 'stop']);
  });

  test('knows conversations, and a system message', async () => {
    const { text } = await generateText(asked({ prompt: undefined, system: 'Be kind.', messages: [{ role: 'user', content: 'Hello' }, { role: 'assistant', content: 'Hi.' }, { role: 'user', content: [{ type: 'text', text: 'Tell me a story.' }] }] }));
    assert.ok(text.length > 0);
  });

  test('says the same with the same seed', async () => {
    const say = async seed => (await generateText(asked({ temperature: 1, seed }))).text;
    const [one, again, other] = await Promise.all([say(7), say(7), say(8)]);
    assert.equal(again, one);
    assert.notEqual(other, one);
  });
});

describe('streamText', () => {
  for (const kind of ['chat', 'completion']) {
    test(`streams what generateText has, of a ${kind}`, async () => {
      const model = kind === 'chat' ? chat : completion;
      const result = streamText(asked({ model }));
      const pieces = await collect(result.textStream);
      const whole = await generateText(asked({ model }));
      assert.ok(pieces.length > 10, 'token by token');
      assert.equal(pieces.join(''), whole.text);
      assert.equal(await result.finishReason, 'length');
      assert.deepEqual([(await result.usage).inputTokens, (await result.usage).outputTokens], [whole.usage.inputTokens, 24]);
    });
  }

  test('has every part in its order', async () => {
    const types = (await collect(streamText(asked()).fullStream)).map(part => part.type);
    assert.deepEqual([...new Set(types)], ['start', 'start-step', 'text-start', 'text-delta', 'text-end', 'finish-step', 'finish']);
  });

  test('that is aborted frees its place', async () => {
    const model = createOpenAICompatible({ name: 'native', baseURL: `${slowServer.http}/v1`, includeUsage: true }).chatModel('demo'); // whose answer is not over before somebody has looked
    const abort = new AbortController();
    const result = streamText({ ...asked({ model, maxOutputTokens: 900, abortSignal: abort.signal }), providerOptions: { native: { ignore_eos: true } } });
    let pieces = 0;
    for await (const part of result.fullStream) {
      if (part.type === 'text-delta' && ++pieces === 3) abort.abort();
    }
    assert.ok(pieces < 900);
    await until('the abort is counted', async () => (await slowServer.metrics()).get('native_requests_total{outcome="cancelled"}') >= 1);
    await slowServer.settled();
  });

  test('streams side by side, each its own text', async () => {
    const prompts = Array.from({ length: 16 }, (_, i) => `Tell me a story about ${i % 4} dogs.`);
    const texts = await Promise.all(prompts.map(async prompt => (await collect(streamText(asked({ prompt })).textStream)).join('')));
    for (let i = 4; i < prompts.length; i++) assert.equal(texts[i], texts[i % 4]);
  });
});

describe('what the server does not have', () => {
  const refused = (promise, status, message) => assert.rejects(promise, error => {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, status);
    assert.match(error.message, message);
    assert.equal(error.isRetryable, status >= 500 || status === 429);
    return true;
  });
  const weather = tool({ description: 'Weather of a town', inputSchema: jsonSchema({ type: 'object', properties: { town: { type: 'string' } }, required: ['town'] }), execute: async () => 'fine' });

  test('structured output is refused by name', async () => {
    const schema = jsonSchema({ type: 'object', properties: { town: { type: 'string' } }, required: ['town'] });
    await refused(generateText(asked({ output: Output.object({ schema }) })), 501, /response_format/);
  });

  test('tools are told to the model, whose answer is text; that they must be called is refused', async () => {
    const { text, toolCalls } = await generateText(asked({ tools: { weather } }));
    assert.deepEqual(toolCalls, []);
    assert.ok(text.length > 0);
    await refused(generateText(asked({ tools: { weather }, toolChoice: 'required' })), 501, /tool_choice/);
  });

  test('embeddings have no address', async () => {
    const { embed } = await import('ai');
    await refused(embed({ model: provider.textEmbeddingModel('demo'), value: 'Hello', maxRetries: 0 }), 404, /\/v1\/embeddings/);
  });

  test('another model is not found, a bad parameter and a prompt too long are told', async () => {
    await refused(generateText(asked({ model: provider.chatModel('another') })), 404, /'another' is not served/);
    await refused(generateText(asked({ temperature: -1 })), 400, /temperature/);
    await refused(generateText(asked({ prompt: 'Once upon a time. '.repeat(2000) })), 400, /1024/);
  });

  test('a stream that is refused says so in its parts', async () => {
    const parts = await collect(streamText(asked({ temperature: -1, onError: () => {} })).fullStream);
    const [{ error }] = parts.filter(part => part.type === 'error');
    assert.equal(error.statusCode, 400);
  });
});
