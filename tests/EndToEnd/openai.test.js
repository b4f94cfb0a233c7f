// OpenAI's own client against /v1.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import OpenAI from 'openai';
import { Server, slow, until } from './server.js';

const story = [{ role: 'user', content: 'Tell me a story.' }];
const tooLong = 'Once upon a time. '.repeat(2000);

let server, client, model;

before(async () => {
  server = await Server.start('--served-model-name', 'little/demo');
  client = new OpenAI({ baseURL: `${server.http}/v1`, apiKey: 'none', maxRetries: 0, timeout: 60_000 });
  model = (await client.models.list()).data[0].id;
});
after(() => server?.stop());

const chat = (more, options) => client.chat.completions.create({ model, messages: story, max_completion_tokens: 8, temperature: 0, ...more }, options);
const complete = (more, options) => client.completions.create({ model, prompt: 'Once upon a time', max_tokens: 8, temperature: 0, ...more }, options);

async function collect(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks, index = 0) => chunks.flatMap(chunk => chunk.choices).filter(choice => choice.index === index)
  .map(choice => choice.delta?.content ?? choice.text ?? '').join('');

describe('models', () => {
  test('are listed', async () => {
    const { data, object } = await client.models.list();
    assert.equal(object, 'list');
    assert.deepEqual(data.map(one => [one.id, one.object]), [['little/demo', 'model']]);
  });

  test('are told one by one, also under a name with a slash', async () => {
    assert.equal((await client.models.retrieve(model)).id, 'little/demo');
    assert.ok((await client.models.retrieve(model)).created > 0);
  });

  test('that are not there are not found', async () => {
    await assert.rejects(client.models.retrieve('another'), error => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found');
  });
});

describe('chat completions', () => {
  test('answer', async () => {
    const answer = await chat();
    assert.match(answer.id, /^chatcmpl-/);
    assert.equal(answer.object, 'chat.completion');
    assert.equal(answer.model, model);
    assert.ok(Math.abs(answer.created - Date.now() / 1000) < 60);
    assert.equal(answer.choices.length, 1);
    const [choice] = answer.choices;
    assert.equal(choice.message.role, 'assistant');
    assert.ok(choice.message.content.length > 8);
    assert.equal(choice.finish_reason, 'length');
    assert.equal(choice.logprobs, null);
    assert.equal(answer.usage.completion_tokens, 8);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 8);
    assert.equal(answer.usage.prompt_tokens_details.cached_tokens, 0);
  });

  test('stream what they would answer in one piece', async () => {
    const chunks = await collect(chat({ stream: true, max_completion_tokens: 40 }));
    assert.equal(textOf(chunks), (await chat({ max_completion_tokens: 40 })).choices[0].message.content);
    assert.deepEqual(chunks[0].choices[0].delta, { role: 'assistant', content: '' });
    assert.ok(chunks.every(chunk => chunk.object === 'chat.completion.chunk' && chunk.id === chunks[0].id && chunk.choices.length === 1 && !('usage' in chunk)));
    assert.deepEqual(chunks.at(-1).choices[0].delta, {});
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
    assert.ok(chunks.slice(0, -1).every(chunk => chunk.choices[0].finish_reason === null));
    assert.ok(chunks.length > 20, 'token by token');
  });

  test('tell usage last, and null before, when asked', async () => {
    const chunks = await collect(chat({ stream: true, stream_options: { include_usage: true } }));
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.completion_tokens, 8);
    assert.ok(chunks.slice(0, -1).every(chunk => chunk.usage === null && chunk.choices.length === 1));
    assert.deepEqual(chunks.at(-1).usage, (await chat()).usage);
  });

  test('have n choices, that differ, streamed or not', async () => {
    const answer = await chat({ n: 4, temperature: 1, seed: 1, max_completion_tokens: 20 });
    assert.deepEqual(answer.choices.map(choice => choice.index), [0, 1, 2, 3]);
    assert.ok(new Set(answer.choices.map(choice => choice.message.content)).size > 1);
    const chunks = await collect(chat({ n: 4, temperature: 1, seed: 1, max_completion_tokens: 20, stream: true }));
    for (const choice of answer.choices) {
      assert.equal(textOf(chunks, choice.index), choice.message.content);
      const own = chunks.flatMap(chunk => chunk.choices).filter(one => one.index === choice.index);
      assert.equal(own[0].delta.role, 'assistant');
      assert.deepEqual(own.filter(one => one.finish_reason !== null).map(one => one.finish_reason), [choice.finish_reason]);
    }
  });

  test('end before a stop text', async () => {
    const whole = (await chat({ max_completion_tokens: 60 })).choices[0].message.content;
    const stop = whole.slice(25, 31); // across tokens
    for (const stops of [stop, ['never said', stop]]) {
      const { choices: [choice] } = await chat({ max_completion_tokens: 60, stop: stops });
      assert.equal(choice.message.content, whole.slice(0, whole.indexOf(stop)));
      assert.equal(choice.finish_reason, 'stop');
      const chunks = await collect(chat({ max_completion_tokens: 60, stop: stops, stream: true }));
      assert.equal(textOf(chunks), choice.message.content);
    }
  });

  test('end by themselves with "stop"', async () => {
    const { choices: [choice] } = await chat({ messages: [{ role: 'user', content: 'Hello!' }], max_completion_tokens: undefined });
    assert.equal(choice.finish_reason, 'stop');
  });

  test('tell log-probabilities, streamed or not', async () => {
    const { choices: [{ message, logprobs }] } = await chat({ logprobs: true, top_logprobs: 3 });
    assert.equal(logprobs.content.length, 8);
    assert.equal(logprobs.content.map(token => token.token).join(''), message.content);
    assert.equal(Buffer.from(logprobs.content.flatMap(token => token.bytes)).toString(), message.content);
    for (const token of logprobs.content) {
      assert.equal(token.top_logprobs.length, 3);
      assert.deepEqual([token.token, token.logprob], [token.top_logprobs[0].token, token.top_logprobs[0].logprob]); // greedy takes the best
      const best = token.top_logprobs.map(one => one.logprob);
      assert.deepEqual(best, best.toSorted((a, b) => b - a));
      assert.ok(best.every(logprob => logprob <= 0 && logprob >= -9999));
    }
    const chunks = await collect(chat({ logprobs: true, top_logprobs: 3, stream: true }));
    assert.deepEqual(chunks.flatMap(chunk => chunk.choices[0].logprobs?.content ?? []), logprobs.content);
    assert.deepEqual((await chat({ logprobs: true })).choices[0].logprobs.content.map(token => token.top_logprobs), Array(8).fill([]));
  });

  test('say the same with the same seed, alone and beside others', async () => {
    const ask = seed => chat({ temperature: 1, seed, max_completion_tokens: 30 }).then(answer => answer.choices[0].message.content);
    const alone = await ask(42);
    const beside = await Promise.all(Array.from({ length: 12 }, (_, i) => ask(i % 3 === 0 ? 42 : i)));
    for (let i = 0; i < 12; i += 3) assert.equal(beside[i], alone);
    assert.ok(new Set(beside).size > 3);
  });

  test('take max_tokens by its old name, too', async () => {
    const answer = await chat({ max_completion_tokens: undefined, max_tokens: 3 });
    assert.equal(answer.usage.completion_tokens, 3);
  });

  test('keep away from what logit_bias forbids', async () => {
    const { choices: [plain] } = await chat({ max_completion_tokens: 1, return_token_ids: true });
    const { choices: [biased] } = await chat({ max_completion_tokens: 1, return_token_ids: true, logit_bias: { [plain.token_ids[0]]: -100 } });
    assert.notDeepEqual(biased.token_ids, plain.token_ids);
    const { choices: [forced] } = await chat({ max_completion_tokens: 3, return_token_ids: true, logit_bias: { [plain.token_ids[0]]: 100 } });
    assert.deepEqual(forced.token_ids, Array(3).fill(plain.token_ids[0]));
  });

  test('work with the stream helper', async () => {
    const runner = client.chat.completions.stream({ model, messages: story, max_completion_tokens: 30, temperature: 0, stream_options: { include_usage: true } });
    let pieces = '';
    runner.on('content', delta => { pieces += delta; });
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].message.content, pieces);
    assert.equal(final.choices[0].message.content, (await chat({ max_completion_tokens: 30 })).choices[0].message.content);
    assert.equal(final.usage.completion_tokens, 30);
  });

  test('take every role, parts of text, null content of an assistant, and fields that change nothing', async () => {
    const messages = [
      { role: 'developer', content: 'Be brief.' },
      { role: 'system', content: [{ type: 'text', text: 'Be kind.' }] },
      { role: 'user', name: 'ann', content: [{ type: 'text', text: 'Hello' }, { type: 'text', text: ' you' }] },
      { role: 'assistant', content: null, tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'f', arguments: '{}' } }] },
      { role: 'tool', tool_call_id: 'call_1', content: '42' },
      { role: 'user', content: 'And now?' },
    ];
    const answer = await chat({ messages, user: 'ann', metadata: { a: 'b' }, store: false, parallel_tool_calls: true, service_tier: 'auto', response_format: { type: 'text' },
      tools: [{ type: 'function', function: { name: 'f', parameters: { type: 'object', properties: {} } } }], tool_choice: 'auto' });
    assert.equal(answer.choices[0].message.role, 'assistant');
  });

  test('tell the service tier used', async () => {
    assert.equal((await chat({ service_tier: 'flex' })).service_tier, 'flex');
    assert.equal((await chat({ service_tier: 'scale' })).service_tier, 'default');
    const chunks = await collect(chat({ service_tier: 'priority', stream: true }));
    assert.ok(chunks.length > 1 && chunks.every(chunk => chunk.service_tier === 'priority'));
    await assert.rejects(chat({ service_tier: 'turbo' }), { status: 400, param: 'service_tier' });
  });

  test('take null for every field that may be left out', async () => {
    const nothing = Object.fromEntries(['audio', 'frequency_penalty', 'function_call', 'functions', 'logit_bias', 'logprobs', 'max_tokens', 'metadata', 'modalities', 'n',
      'parallel_tool_calls', 'prediction', 'presence_penalty', 'reasoning_effort', 'response_format', 'seed', 'service_tier', 'stop', 'store', 'stream', 'stream_options',
      'tool_choice', 'tools', 'top_logprobs', 'top_p', 'user'].map(name => [name, null]));
    assert.deepEqual((await chat(nothing)).choices, (await chat()).choices);
  });
});

describe('completions', () => {
  test('continue a text', async () => {
    const answer = await complete();
    assert.match(answer.id, /^cmpl-/);
    assert.equal(answer.object, 'text_completion');
    assert.ok(answer.choices[0].text.startsWith(','));
    assert.equal(answer.choices[0].finish_reason, 'length');
    const chunks = await collect(complete({ stream: true, stream_options: { include_usage: true } }));
    assert.equal(textOf(chunks), answer.choices[0].text);
    // The prompt is computed by then, but for its last token.
    const found = { cached_tokens: answer.usage.prompt_tokens - 1 };
    assert.deepEqual(chunks.at(-1).usage, { ...answer.usage, prompt_tokens_details: found });
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-2).choices[0].finish_reason, 'length');
  });

  test('take texts, ids, and lists of either', async () => {
    const { choices: [first] } = await complete({ return_token_ids: true });
    const ids = first.prompt_token_ids;
    const { choices: [other] } = await complete({ prompt: 'The little dog', return_token_ids: true });
    assert.deepEqual((await complete({ prompt: ['Once upon a time', 'The little dog'] })).choices.map(choice => choice.text), [first.text, other.text]);
    assert.equal((await complete({ prompt: ids })).choices[0].text, first.text);
    const lists = await complete({ prompt: [ids, other.prompt_token_ids], n: 2 });
    assert.deepEqual(lists.choices.map(choice => choice.text), [first.text, first.text, other.text, other.text]);
    assert.equal(lists.usage.prompt_tokens, ids.length + other.prompt_token_ids.length);
    assert.equal(lists.usage.completion_tokens, 32);
  });

  test('score a prompt without generating', async () => {
    const answer = await complete({ echo: true, logprobs: 2, max_tokens: 0 });
    const [{ text, logprobs, finish_reason: reason }] = answer.choices;
    assert.equal(text, 'Once upon a time');
    assert.equal(reason, 'length');
    assert.equal(answer.usage.completion_tokens, 0);
    const visible = logprobs.tokens.map((token, i) => text.startsWith(token, logprobs.text_offset[i]));
    assert.ok(visible.slice(1).every(Boolean), 'offsets point at the tokens');
    assert.equal(logprobs.token_logprobs[0], null);
    assert.equal(logprobs.top_logprobs[0], null);
    assert.ok(logprobs.token_logprobs.slice(1).every(logprob => logprob <= 0 && logprob >= -9999));
    logprobs.tokens.slice(1).forEach((token, i) => assert.equal(logprobs.top_logprobs[i + 1][token], logprobs.token_logprobs[i + 1]));
    const { tokens, token_logprobs: values, top_logprobs: best, text_offset: offsets } = logprobs;
    assert.ok([values, best, offsets].every(list => list.length === tokens.length));
  });

  test('echo the prompt before what follows, with the scores of both', async () => {
    const { choices: [scored] } = await complete({ echo: true, logprobs: 0, max_tokens: 0 });
    const { choices: [plain] } = await complete({ logprobs: 0 });
    const { choices: [both] } = await complete({ echo: true, logprobs: 0 });
    assert.equal(both.text, scored.text + plain.text);
    assert.deepEqual(both.logprobs.token_logprobs, [...scored.logprobs.token_logprobs, ...plain.logprobs.token_logprobs]);
    const chunks = await collect(complete({ echo: true, logprobs: 0, stream: true }));
    assert.equal(textOf(chunks), both.text);
    assert.deepEqual(chunks.flatMap(chunk => chunk.choices[0].logprobs.token_logprobs), both.logprobs.token_logprobs);
    assert.deepEqual(chunks.flatMap(chunk => chunk.choices[0].logprobs.text_offset), both.logprobs.text_offset);
  });
});

describe('mistakes', () => {
  const bad = (promise, param, status = 400) => assert.rejects(promise, error => {
    assert.ok(error instanceof OpenAI.APIError, String(error));
    assert.equal(error.status, status, error.message);
    assert.equal(error.param, param, error.message);
    if (status === 400) assert.ok(error instanceof OpenAI.BadRequestError && error.type === 'invalid_request_error');
    return true;
  });

  test('name an unknown model', () =>
    assert.rejects(chat({ model: 'another' }), error => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found' && error.param === 'model'));

  test('are not what other servers take for nothing: an empty stop text, -1 for no limit or no seed', async () => {
    const plain = await complete({ max_tokens: 4, temperature: 0 });
    const same = await complete({ max_tokens: 4, temperature: 0, stop: [''], seed: -1 });
    assert.equal(same.choices[0].text, plain.choices[0].text);
    const unlimited = await complete({ max_tokens: -1, stop: ['.'], temperature: 0 });
    assert.ok(unlimited.usage.completion_tokens > 0);
  });

  test('name the parameter in its own spelling', async () => {
    await bad(chat({ temperature: -1 }), 'temperature');
    await bad(chat({ temperature: 'hot' }), 'temperature');
    await bad(chat({ top_p: 0 }), 'top_p');
    await bad(chat({ n: 0 }), 'n');
    await bad(chat({ n: 1000 }), 'n');
    await bad(chat({ logprobs: true, top_logprobs: 21 }), 'top_logprobs');
    await bad(chat({ top_logprobs: 2 }), 'top_logprobs');
    await bad(chat({ logprobs: 1 }), 'logprobs');
    await bad(complete({ logprobs: true }), 'logprobs');
    await bad(complete({ logprobs: 21 }), 'logprobs');
    await bad(chat({ max_completion_tokens: 0 }), 'max_completion_tokens');
    await bad(chat({ max_completion_tokens: undefined, max_tokens: 0 }), 'max_tokens');
    await bad(complete({ max_tokens: -2 }), 'max_tokens');
    await bad(chat({ stop: 'x'.repeat(5000) }), 'stop');
    await bad(chat({ stop: Array(100).fill('x') }), 'stop');
    await bad(chat({ stream_options: { include_usage: true } }), 'stream_options');
    await bad(chat({ logit_bias: { 99999: 1 } }), 'logit_bias');
    await bad(chat({ messages: [] }), 'messages');
    await bad(chat({ messages: [{ role: 'user', content: 7 }] }), 'messages[0].content');
  });

  test('say what is not supported', async () => {
    await bad(complete({ suffix: 'the end' }), 'suffix', 501);
    await bad(chat({ response_format: { type: 'json_object' } }), 'response_format', 501);
    await bad(chat({ tools: [{ type: 'function', function: { name: 'f' } }], tool_choice: 'required' }), 'tool_choice', 501);
    await bad(chat({ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:,' } }] }] }), 'messages[0].content', 501);
  });

  test('tell how long a prompt was and may be', async () => {
    for (const ask of [() => complete({ prompt: tooLong }), () => chat({ messages: [{ role: 'user', content: tooLong }] }), () => complete({ prompt: Array(5000).fill(5) })])
      await assert.rejects(ask, error => error instanceof OpenAI.BadRequestError && error.code === 'context_length_exceeded' && /1024/.test(error.message));
  });

  test('of the body are told', async () => {
    for (const [body, headers, status, code] of [
      ['{"model":', {}, 400, 'invalid_json'],
      ['', {}, 400, 'invalid_json'],
      ['[]', {}, 400, 'invalid_type'],
      [Buffer.from([0x22, 0xff, 0x22]), {}, 400, 'invalid_utf8'],
      ['{"prompt":"\\ud800"}', {}, 400, 'invalid_utf8'],
      [`{"prompt":${'['.repeat(100_000)}`, {}, 400, 'invalid_json'],
      ['prompt=hello', { 'Content-Type': 'application/x-www-form-urlencoded' }, 415, 'unsupported_media_type'],
      ['{}', { 'Content-Encoding': 'gzip' }, 415, 'unsupported_encoding'],
      ['{}', { 'x-request-id': 'a b' }, 400, null],
    ]) {
      const response = await server.post('/v1/completions', body, headers);
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code], [status, code], error.message);
    }
  });

  test('of the address are told', async () => {
    assert.equal((await fetch(`${server.http}/v1/nothing`)).status, 404);
    const wrong = await fetch(`${server.http}/v1/chat/completions`);
    assert.equal(wrong.status, 405);
    assert.equal(wrong.headers.get('allow'), 'POST');
    assert.equal((await wrong.json()).error.code, 'method_not_allowed');
  });
});

describe('readers that leave', () => {
  // A server whose answers are not over before somebody has looked.
  let slowServer, slowClient;
  before(async () => {
    slowServer = await Server.startWith(slow);
    slowClient = new OpenAI({ baseURL: `${slowServer.http}/v1`, apiKey: 'none', maxRetries: 0, timeout: 60_000 });
  });
  after(() => slowServer?.stop());
  const long = { model: 'demo', temperature: 0, ignore_eos: true };

  test('free their place at once', async () => {
    const abort = new AbortController();
    const stream = await slowClient.chat.completions.create({ ...long, messages: story, stream: true, max_completion_tokens: 900 }, { signal: abort.signal });
    let seen = 0;
    for await (const _ of stream) {
      if (++seen < 3) continue;
      assert.ok((await slowServer.metrics()).get('native_requests_running') >= 1);
      abort.abort();
    }
    await slowServer.settled();
    await until('the abort is counted', async () => (await slowServer.metrics()).get('native_requests_total{outcome="cancelled"}') >= 1);
  });

  test('of an answer in one piece free it, too', async () => {
    const abort = new AbortController();
    const asked = slowClient.completions.create({ ...long, prompt: 'Once upon a time', max_tokens: 900 }, { signal: abort.signal });
    asked.catch(() => {});
    await until('it runs', async () => (await slowServer.metrics()).get('native_requests_running') >= 1);
    abort.abort();
    await assert.rejects(asked, OpenAI.APIUserAbortError);
    await slowServer.settled();
  });

  test('do not disturb 64 streams, a third of which leave at random', async () => {
    const alone = await collect(complete({ max_tokens: 120, stream: true, ignore_eos: true }));
    const outcomes = await Promise.all(Array.from({ length: 64 }, async (_, i) => {
      const abort = new AbortController();
      const leaveAt = i % 3 === 0 ? Math.floor(Math.random() * 110) : Infinity;
      const stream = await complete({ max_tokens: 120, stream: true, ignore_eos: true }, { signal: abort.signal });
      const chunks = [];
      for await (const chunk of stream) {
        chunks.push(chunk);
        if (chunks.length > leaveAt) abort.abort();
      }
      if (leaveAt === Infinity) assert.equal(textOf(chunks), textOf(alone));
      return leaveAt === Infinity ? 'whole' : 'left';
    }));
    assert.equal(outcomes.filter(outcome => outcome === 'whole').length, 42);
    await server.settled();
  });
});
