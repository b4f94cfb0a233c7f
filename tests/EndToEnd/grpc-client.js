// What gRPC's own client needs beside the .proto files: promises, and messages as plain objects.
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { fileURLToPath } from 'node:url';

export const { status } = grpc;

/** int64 as numbers, enums by name, oneofs by the field that is set, and unset messages absent. */
const reading = { keepCase: true, longs: Number, enums: String, oneofs: true, arrays: true };

const protos = fileURLToPath(new URL('../../server/Protos/', import.meta.url));

/** The services of one of the server's .proto files, by package. */
export const load = file => grpc.loadPackageDefinition(loader.loadSync(protos + file, reading));

/** The services of serialized FileDescriptorProtos. */
export function fromDescriptors(files) {
  const set = Buffer.concat(files.map(file => Buffer.concat([Buffer.from([0x0a, ...varint(file.length)]), file]))); // FileDescriptorSet { repeated file = 1 }
  return grpc.loadPackageDefinition(loader.loadFileDescriptorSetFromBuffer(set, reading));
}

export function connect(Service, address, options = {}) {
  return new Service(address, grpc.credentials.createInsecure(), { 'grpc.enable_retries': 0, ...options });
}

/** A unary call's answer. */
export const ask = (client, method, request = {}, options = {}) => new Promise((resolve, reject) =>
  client[method](request, new grpc.Metadata(), options, (error, answer) => (error ? reject(error) : resolve(answer))));

/** All messages of a stream. */
export async function collect(call) {
  const messages = [];
  for await (const message of call) messages.push(message);
  return messages;
}

/** The serialized field of a message, for messages that no client would write. */
export const field = (number, bytes) => Buffer.concat([Buffer.from([...varint((number << 3) | 2), ...varint(bytes.length)]), Buffer.from(bytes)]);

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value & 127) | 128);
  return [...bytes, value];
}
