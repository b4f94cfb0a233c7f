// gRPC's own client against native.v1, health and reflection.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import grpc from '@grpc/grpc-js';
import { ask, collect, connect, field, fromDescriptors, load, status } from './grpc-client.js';
import { Server, slow, until } from './server.js';

const clients = [];
let server, slowServer, inference, slowInference, health;

const open = (Service, of = server) => {
  const client = connect(Service, of.grpc);
  clients.push(client);
  return client;
};

before(async () => {
  [server, slowServer] = await Promise.all([Server.start(), Server.startWith(slow)]);
  const { Inference } = load('native.v1.proto').native.v1;
  inference = open(Inference);
  slowInference = open(Inference, slowServer);
  health = open(load('health.proto').grpc.health.v1.Health);
});
after(() => {
  for (const client of clients) client.close();
  return Promise.all([server?.stop(), slowServer?.stop()]);
});

const generate = request => inference.Generate({ text: 'Once upon a time', ...request, sampling: { temperature: 0, max_tokens: 8, ...request.sampling } });
/** A stream of the slow server, that is not over before somebody has looked. */
const endless = (request = {}, options = {}) => slowInference.Generate({ text: 'Once upon a time', ...request, sampling: { temperature: 0, max_tokens: 900, ignore_eos: true } }, options);
const refused = (promise, code, message) => assert.rejects(promise, error => {
  assert.equal(status[error.code], status[code], error.details);
  assert.match(error.details, message);
  return true;
});

describe('Generate', () => {
  test('tells the prompt, every token, the end and how it went', async () => {
    const events = await collect(generate({ request_id: 'story-1' }));
    assert.deepEqual(events.map(one => one.event), ['prompt', ...Array(8).fill('token'), 'finished', 'summary']);
    assert.equal(events[0].prompt.request_id, 'story-1');
    assert.equal(events[0].prompt.model, 'demo');
    const { finished } = events.at(-2);
    assert.equal(finished.reason, 'FINISH_REASON_LENGTH');
    assert.equal(finished.completion_tokens, 8);
    const { usage, timings } = events.at(-1).summary;
    assert.deepEqual(usage, { prompt_tokens: events[0].prompt.token_ids.length, completion_tokens: 8 });
    for (const time of ['prefill_seconds', 'decode_seconds', 'time_to_first_token_seconds']) assert.ok(timings[time] > 0 && timings[time] < 30, time);
    assert.ok(timings.time_to_first_token_seconds >= timings.prefill_seconds);
  });

  test('continues ids as it does their text', async () => {
    const text = await collect(generate({}));
    const ids = await collect(generate({ text: undefined, token_ids: { ids: text[0].prompt.token_ids } }));
    assert.deepEqual(ids.map(one => one.token), text.map(one => one.token));
  });

  test('tells log-probabilities of prompt and output', async () => {
    const events = await collect(generate({ sampling: { logprobs: 3, prompt_logprobs: 2 } }));
    const { token_ids: ids, logprobs } = events[0].prompt;
    assert.deepEqual(logprobs.map(token => token.id), ids);
    assert.equal(logprobs[0].logprob, undefined);
    assert.ok(logprobs.slice(1).every(token => token.logprob <= 0 && token.alternatives.length === 2));
    for (const { token } of events.filter(one => one.token)) {
      assert.equal(token.alternatives.length, 3);
      assert.deepEqual([token.alternatives[0].id, token.alternatives[0].logprob], [token.id, token.logprob]);
      assert.equal(token.alternatives[0].bytes.toString(), token.text);
    }
  });

  test('has n continuations of the same seed as always', async () => {
    const sampled = { sampling: { temperature: 1, n: 3, seed: 7, max_tokens: 20 } };
    const textsOf = events => [0, 1, 2].map(i => events.filter(one => one.index === i && one.token).map(one => one.token.text).join(''));
    const [once, again] = await Promise.all([collect(generate(sampled)), collect(generate(sampled))]);
    assert.deepEqual(textsOf(once), textsOf(again));
    assert.ok(new Set(textsOf(once)).size > 1);
    assert.equal(once.at(-1).summary.usage.completion_tokens, once.filter(one => one.token).length);
  });

  test('ends before a stop text and says which', async () => {
    const whole = (await collect(generate({ sampling: { max_tokens: 60 } }))).map(one => one.token?.text ?? '').join('');
    const stop = whole.slice(20, 26);
    const events = await collect(generate({ sampling: { max_tokens: 60, stop: ['never said', stop] } }));
    assert.equal(events.map(one => (one.token?.text ?? '') + (one.finished?.text ?? '')).join(''), whole.slice(0, whole.indexOf(stop)));
    const { finished } = events.find(one => one.finished);
    assert.deepEqual([finished.reason, finished.matched_stop], ['FINISH_REASON_STOP', stop]);
  });

  test('takes a call that sets nothing but its prompt', async () => {
    const events = await collect(inference.Generate({ text: 'The end.' }));
    assert.ok(events.some(one => one.finished));
  });
});

test('Chat answers like a prompt that its template renders', async () => {
  const request = { messages: [{ role: 'user', content: 'Hello!' }], sampling: { temperature: 0 } };
  const events = await collect(inference.Chat(request));
  assert.equal(events.find(one => one.finished).finished.reason, 'FINISH_REASON_STOP');
  const rendered = await collect(inference.Generate({ token_ids: { ids: events[0].prompt.token_ids }, sampling: { temperature: 0 } }));
  assert.deepEqual(rendered.map(one => one.token), events.map(one => one.token));
});

test('a deadline ends a stream with DEADLINE_EXCEEDED and frees its blocks', async () => {
  const call = endless({}, { deadline: Date.now() + 150 });
  let tokens = 0;
  call.on('data', message => { if (message.token) tokens++; });
  const error = await new Promise(resolve => call.on('error', resolve));
  assert.equal(error.code, status.DEADLINE_EXCEEDED);
  assert.ok(tokens < 900);
  await slowServer.settled();
});

test('a cancelled stream frees its blocks', async () => {
  const call = endless();
  const error = await new Promise(resolve => {
    call.on('error', resolve);
    call.once('data', () => call.cancel());
  });
  assert.equal(error.code, status.CANCELLED);
  await slowServer.settled();
  await until('it is counted', async () => (await slowServer.metrics()).get('native_requests_total{outcome="cancelled"}') >= 1);
});

test('a request id is in use once', async () => {
  const again = () => collect(slowInference.Generate({ text: 'Once', request_id: 'same', sampling: { max_tokens: 8 } }));
  const first = endless({ request_id: 'same' });
  first.on('error', () => {});
  await new Promise(resolve => first.once('data', resolve));
  await refused(again(), status.ALREADY_EXISTS, /same/);
  first.cancel();
  await slowServer.settled();
  await again();
});

describe('the small calls', () => {
  test('Tokenize and Detokenize are inverse', async () => {
    const text = 'Once upon a time, a naïve 🐈 slept.\n';
    const { ids, pieces } = await ask(inference, 'Tokenize', { text, add_special: false });
    assert.equal(Buffer.concat(pieces).toString(), text);
    assert.equal((await ask(inference, 'Detokenize', { ids })).text, text);
    await refused(ask(inference, 'Detokenize', { ids: [99999] }), status.INVALID_ARGUMENT, /99999/);
  });

  test('ListModels and GetServerInfo tell what runs', async () => {
    const { models } = await ask(inference, 'ListModels');
    assert.deepEqual(models.map(one => [one.id, one.architecture, one.max_model_len, one.has_chat_template]), [['demo', 'llama', 1024, true]]);
    const info = await ask(inference, 'GetServerInfo');
    assert.equal(info.state, 'ready');
    assert.equal(info.kv_blocks_free, info.kv_blocks_total);
    assert.ok(info.weight_bytes > 1e6 && info.uptime_seconds > 0);
    assert.deepEqual(info.models, models);
  });

  test('an unknown method is UNIMPLEMENTED, by name', async () => {
    const raw = new grpc.Client(server.grpc, grpc.credentials.createInsecure());
    clients.push(raw);
    const call = path => new Promise((resolve, reject) => raw.makeUnaryRequest(path, bytes => bytes, bytes => bytes, Buffer.alloc(0), (error, answer) => (error ? reject(error) : resolve(answer))));
    await refused(call('/native.v1.Inference/Nothing'), status.UNIMPLEMENTED, /Nothing/);
    await refused(call('/no.such.Service/Call'), status.UNIMPLEMENTED, /no\.such\.Service/);
  });
});

describe('health', () => {
  test('Check, List and Watch say SERVING', async () => {
    for (const service of ['', 'native.v1.Inference']) assert.equal((await ask(health, 'Check', { service })).status, 'SERVING');
    assert.deepEqual(Object.keys((await ask(health, 'List')).statuses).sort(), ['', 'native.v1.Inference']);
    const watch = health.Watch({ service: '' });
    watch.on('error', () => {});
    assert.equal((await new Promise(resolve => watch.once('data', resolve))).status, 'SERVING');
    watch.cancel();
  });

  test('an unknown service is NOT_FOUND for Check, and SERVICE_UNKNOWN in a Watch that stays open', async () => {
    await refused(ask(health, 'Check', { service: 'nobody' }), status.NOT_FOUND, /nobody/);
    const watch = health.Watch({ service: 'nobody' });
    let ended = false;
    watch.on('error', () => { ended = true; }).on('end', () => { ended = true; });
    assert.equal((await new Promise(resolve => watch.once('data', resolve))).status, 'SERVICE_UNKNOWN');
    await new Promise(resolve => setTimeout(resolve, 300));
    assert.equal(ended, false);
    watch.cancel();
  });
});

describe('reflection', () => {
  // Just enough of the protocol to ask for the rest of it: list_services = 7 and file_containing_symbol = 4 go in,
  // serialized files (file_descriptor_response = 4 { file_descriptor_proto = 1 }) come out.
  const askFor = (version, request) => new Promise((resolve, reject) => {
    const raw = new grpc.Client(server.grpc, grpc.credentials.createInsecure());
    clients.push(raw);
    const call = raw.makeBidiStreamRequest(`/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`, bytes => bytes, bytes => bytes);
    call.on('data', resolve).on('error', reject);
    call.write(request);
    call.end();
  });
  const fields = function* (bytes) {
    for (let at = 0; at < bytes.length;) {
      const varint = () => { let value = 0; for (let shift = 0; ; shift += 7) { const byte = bytes[at++]; value += (byte & 127) * 2 ** shift; if (byte < 128) return value; } };
      const tag = varint();
      if ((tag & 7) === 0) { varint(); continue; }
      assert.equal(tag & 7, 2, 'a length-delimited field');
      const length = varint();
      yield [tag >> 3, bytes.subarray(at, at += length)];
    }
  };
  const filesOf = answer => [...fields(answer)].filter(([number]) => number === 4).flatMap(([, response]) => [...fields(response)].map(([, file]) => file));

  for (const version of ['v1', 'v1alpha']) {
    test(`${version} describes itself, lists the services, and yields all that a call needs`, async () => {
      const { grpc: { reflection } } = fromDescriptors(filesOf(await askFor(version, field(4, Buffer.from(`grpc.reflection.${version}.ServerReflection`)))));
      const client = open(reflection[version].ServerReflection);
      const call = client.ServerReflectionInfo();
      const next = request => new Promise((resolve, reject) => {
        call.once('data', resolve).once('error', reject);
        call.write(request);
      });

      const { list_services_response: { service: services } } = await next({ list_services: '' });
      const names = services.map(service => service.name);
      for (const name of ['native.v1.Inference', 'grpc.health.v1.Health']) assert.ok(names.includes(name), `${name} in ${names}`);

      const { file_descriptor_response: { file_descriptor_proto: files } } = await next({ file_containing_symbol: 'native.v1.Inference' });
      const { error_response: error } = await next({ file_containing_symbol: 'no.such.Symbol' });
      assert.equal(error.error_code, status.NOT_FOUND);
      call.end();

      const reflected = open(fromDescriptors(files).native.v1.Inference);
      const events = await collect(reflected.Generate({ text: 'Once', sampling: { max_tokens: 3, temperature: 0 } }));
      assert.equal(events.at(-1).summary.usage.completion_tokens, 3);
    });
  }
});

describe('bad input', () => {
  const bad = (request, message, code = status.INVALID_ARGUMENT) => refused(collect(generate(request)), code, message);

  test('is told by name', async () => {
    await bad({ text: undefined }, /text or token_ids/);
    await bad({ text: undefined, token_ids: { ids: [] } }, /empty/);
    await bad({ text: undefined, token_ids: { ids: [-1] } }, /token -1/);
    await bad({ text: undefined, token_ids: { ids: [1536] } }, /0 to 1535/);
    await bad({ text: 'word '.repeat(4000) }, /1024/);
    await bad({ model: 'another' }, /another.*demo/, status.NOT_FOUND);
    await bad({ request_id: 'with space' }, /request id/);
    for (const [sampling, message] of [
      [{ temperature: -1 }, /temperature is -1/], [{ temperature: NaN }, /temperature is NaN/], [{ temperature: Infinity }, /temperature is Infinity/],
      [{ top_p: 0 }, /top_p is 0/], [{ top_p: 1.5 }, /top_p is 1.5/], [{ min_p: -1 }, /min_p/], [{ top_k: -5 }, /top_k is -5/],
      [{ n: 0 }, /n is 0/], [{ n: 4294967295 }, /n is/], [{ logprobs: 21 }, /logprobs is 21/], [{ prompt_logprobs: 21 }, /prompt_logprobs is 21/],
      [{ repetition_penalty: 0 }, /repetition_penalty/], [{ presence_penalty: 3 }, /presence_penalty/], [{ min_tokens: 9 }, /min_tokens is 9, above max_tokens/],
      [{ stop: ['x'.repeat(1025)] }, /1025/], [{ stop: Array(65).fill('x') }, /65 texts/],
      [{ stop_token_ids: [-1] }, /stop_token_ids has -1/], [{ logit_bias: { 5: 101 } }, /logit_bias of token 5/], [{ logit_bias: { '-1': 1 } }, /token -1/],
    ]) await bad({ sampling }, message);
  });

  test('of chats is told by name', async () => {
    const chat = request => collect(inference.Chat({ messages: [{ role: 'user', content: 'Hi' }], ...request }));
    await refused(chat({ messages: [] }), status.INVALID_ARGUMENT, /messages/);
    await refused(chat({ template_arguments_json: '{' }), status.INVALID_ARGUMENT, /template_arguments_json/);
    await refused(chat({ template_arguments_json: '[]' }), status.INVALID_ARGUMENT, /object/);
    await refused(chat({ tools_json: '[7]' }), status.INVALID_ARGUMENT, /tools/);
  });

  test('that is no message is INVALID_ARGUMENT, and one too large RESOURCE_EXHAUSTED', async () => {
    const raw = new grpc.Client(server.grpc, grpc.credentials.createInsecure(), { 'grpc.max_send_message_length': -1 });
    clients.push(raw);
    const send = bytes => collect(raw.makeServerStreamRequest('/native.v1.Inference/Generate', value => value, value => value, bytes));
    await refused(send(Buffer.from([0xff, 0xff, 0xff])), status.INVALID_ARGUMENT, /protobuf/);
    await refused(send(field(3, Buffer.from([0xff, 0xfe]))), status.INVALID_ARGUMENT, /UTF-8/);
    await refused(send(field(3, Buffer.alloc(17 << 20, 'a'))), status.RESOURCE_EXHAUSTED, /exceeds/);
    await refused(send(field(1, Buffer.alloc(1 << 20, 'm'))), status.NOT_FOUND, /not served/);
  });

  test('disturbs no stream beside it', async () => {
    const ids = async () => (await collect(generate({ sampling: { max_tokens: 900, ignore_eos: true } }))).map(one => one.token?.id);
    const alone = await ids();
    let over = false;
    const beside = (async () => { while (!over) assert.deepEqual(await ids(), alone); })(); // one stream after the other, until all mistakes are made
    for (let i = 0; i < 50; i++) await bad({ sampling: { top_p: 0 } }, /top_p/);
    over = true;
    await beside;
  });
});

test('64 streams, a third of which leave at random, give every block back', async () => {
  const alone = (await collect(generate({ sampling: { max_tokens: 100, ignore_eos: true } }))).flatMap(one => one.token?.id ?? []);
  await Promise.all(Array.from({ length: 64 }, async (_, i) => {
    const call = generate({ sampling: { max_tokens: 100, ignore_eos: true } });
    const leaveAt = i % 3 === 0 ? Math.floor(Math.random() * 100) : Infinity;
    const ids = [];
    try {
      for await (const message of call) {
        if (message.token && ids.push(message.token.id) > leaveAt) call.cancel();
      }
      assert.deepEqual(ids, alone);
    } catch (error) {
      assert.ok(leaveAt !== Infinity && error.code === status.CANCELLED, error);
    }
  }));
  await server.settled();
});
