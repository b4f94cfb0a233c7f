// Starts the built server on ports that the system chooses, for the tests of one file. It ends with them, whatever becomes of them.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setTimeout as delay } from 'node:timers/promises';

const output = project => fileURLToPath(new URL(`../../${project}/bin/Release/net10.0/`, import.meta.url));

/** The command that starts a built program, e.g. 'server', with these arguments. */
export function command(project, args) {
  const name = `Native.${project[0].toUpperCase()}${project.slice(1)}`;
  const program = `${output(project)}${name}${process.platform === 'win32' ? '.exe' : ''}`;
  const library = `${output(project)}${name}.dll`;
  if (!existsSync(library)) throw new Error(`${library} is not there; build it first: dotnet build -c Release`);
  return existsSync(program) ? [program, args] : ['dotnet', [library, ...args]];
}

/** This process's environment without settings of the server's. */
export const environment = () => Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('NATIVE_')));

/** A server that takes milliseconds for each token. */
export const slow = { NATIVE_CPU_VARIANT: 'Scalar' };

/** Longest a file's tests may take. A server that hangs must fail them, not hold them. */
const patience = 600_000;

const running = new Set();
const killAll = () => { for (const process of running) process.kill('SIGKILL'); };
process.on('exit', killAll);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));
setTimeout(() => {
  console.error(`the tests have not ended after ${patience / 1000} s`);
  process.exit(1);
}, patience).unref();

export class Server {
  #child;
  #stdout = '';
  #stderr = '';

  /** Starts one with these options and waits until it is ready. */
  static async start(...options) {
    return Server.startWith({}, ...options);
  }

  /** The same with variables of its environment, e.g. slow: the demo model otherwise says a thousand tokens before anybody has looked. */
  static async startWith(variables, ...options) {
    const server = new Server(options, variables);
    await server.#ready();
    return server;
  }

  constructor(options, variables = {}) {
    this.#child = spawn(...command('server', ['--port', '0', '--grpc-port', '0', ...options]), { env: { ...environment(), ...variables } });
    running.add(this.#child);
    this.#child.stdout.setEncoding('utf8').on('data', text => { this.#stdout += text; });
    this.#child.stderr.setEncoding('utf8').on('data', text => { this.#stderr += text; });
    /** How it ended: { code, signal }. */
    this.ended = new Promise((resolve, reject) => {
      this.#child.on('error', reject);
      this.#child.on('close', (code, signal) => {
        running.delete(this.#child);
        resolve({ code, signal });
      });
    });
    this.ended.catch(() => {});
  }

  /** What it wrote to its log. */
  get log() { return this.#stderr; }

  async #ready() {
    const ended = this.ended.then(({ code, signal }) => { throw new Error(`the server ended (${code ?? signal}) before it was ready:\n${this.#stdout}${this.#stderr}`); });
    ended.catch(() => {});
    await Promise.race([ended, until('the server is ready', async () => {
      /** E.g. http://127.0.0.1:40001. */
      this.http = /^HTTP +(\S+)/m.exec(this.#stdout)?.[1];
      /** E.g. 127.0.0.1:40002. */
      this.grpc = /^gRPC +(\S+)/m.exec(this.#stdout)?.[1];
      return this.http && this.grpc && (await fetch(`${this.http}/readyz`)).ok;
    })]);
  }

  signal(name) { this.#child.kill(name); }

  /** What the system calls its process. */
  get id() { return this.#child.pid; }

  /** Ends it as an operator does. Throws where it did not end well, or had something to complain about before. */
  async stop() {
    const { exitCode, signalCode } = this.#child;
    if (exitCode !== null || signalCode !== null) throw new Error(`the server had ended by itself (${exitCode ?? signalCode}):\n${this.#stderr}`);
    const log = this.#stderr;
    this.signal('SIGTERM');
    const end = await Promise.race([this.ended, delay(30_000, null, { ref: false })]);
    if (end === null) this.signal('SIGKILL');
    if (end?.code !== 0) throw new Error(`the server ended with ${end ? end.code ?? end.signal : 'SIGKILL after 30 s'}, not 0:\n${this.#stderr}`);
    if (log !== '') throw new Error(`the server complained:\n${log}`);
  }

  /** POSTs a text as JSON, as it is. */
  post(path, body, headers = {}, options = {}) {
    return fetch(this.http + path, { method: 'POST', body, headers: { 'Content-Type': 'application/json', ...headers }, ...options });
  }

  async metricsText() { return (await fetch(`${this.http}/metrics`)).text(); }

  /** All samples of /metrics by series, e.g. 'native_kv_blocks{state="free"}'. */
  async metrics() {
    const samples = new Map();
    for (const line of (await this.metricsText()).split('\n')) {
      if (line === '' || line.startsWith('#')) continue;
      const space = line.lastIndexOf(' ');
      samples.set(line.slice(0, space), Number(line.slice(space + 1)));
    }
    return samples;
  }

  /** Waits until nothing runs or waits, and every KV block is free. */
  async settled() {
    let seen;
    await until(() => `every block comes back: ${JSON.stringify(seen)}`, async () => {
      const metrics = await this.metrics();
      seen = Object.fromEntries(['native_requests_running', 'native_requests_waiting', 'native_kv_blocks{state="used"}'].map(name => [name, metrics.get(name)]));
      return Object.values(seen).every(value => value === 0);
    });
  }
}

/** Waits for a condition; an Error that says what did not come about after half a minute. */
export async function until(what, condition) {
  const end = Date.now() + 30_000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`in vain: ${typeof what === 'function' ? what() : what}`);
    await delay(20);
  }
}
