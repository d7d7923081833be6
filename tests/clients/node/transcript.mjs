// Transcript of a drive: every call of a client and what came of it, to be the same at kvcd and at redis-server.
// Clients are loaded from the node_modules of the current directory, where they are installed once.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const DEADLINE_MS = 20_000;
const LINE_LIMIT = 1500;
export const port = Number(process.argv.at(-1));
const folder = `${process.cwd()}/`;

export function load(name) {
  const version = JSON.parse(readFileSync(`${folder}node_modules/${name}/package.json`, 'utf8')).version;
  return { library: createRequire(folder)(name), version };
}

function plain(value) {
  if (Buffer.isBuffer(value)) return `<${value.toString('latin1')}>`;
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  if (value instanceof Map) return [...value].map((pair) => pair.map(plain));
  if (value instanceof Set) return [...value].map(plain).sort();
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value);
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)]));
  }
  return value === undefined ? '<undefined>' : value;
}

function written(value) {
  const text = JSON.stringify(plain(value));
  if (text.length <= LINE_LIMIT) return text;
  return `${text.slice(0, 200)} ... ${text.length} characters, ${createHash('sha256').update(text).digest('hex').slice(0, 16)}`;
}

const lines = [];
const failures = [];
let title = '';

export function note(label, value) {
  lines.push(`${title} ${label} -> ${written(value)}`.replaceAll(`:${port}`, ':PORT'));
}

// Wait for the call's result, write it down, and return it.
export async function ask(label, promise) {
  const result = await within(label, promise);
  note(label, result);
  return result;
}

// The same for an error, which must come.
export async function refused(label, promise) {
  let result;
  try {
    result = await within(label, promise);
  } catch (error) {
    note(label, error.message);
    return;
  }
  throw new Error(`${label} gave ${written(result)}, wanted an error`);
}

// Fail when a promise does not settle in time.
export function within(label, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${label}: nothing in ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Wait for an event and return its arguments. (once() of node:events would fail at the first error that is only told.)
export function event(emitter, name) {
  return within(`event ${name}`, new Promise((done) => emitter.once(name, (...words) => done(words))));
}

// Ask until the answer is true; each look is a round trip.
export async function eventually(label, look) {
  const ends = Date.now() + DEADLINE_MS;
  while (!(await look())) {
    if (Date.now() > ends) throw new Error(`${label}: not so in ${DEADLINE_MS} ms`);
  }
}

// Collects what comes, and lets the drive wait until enough has come.
export class Collected {
  constructor() {
    this.items = [];
    this.waiting = [];
  }

  add(...item) {
    this.items.push(item);
    this.waiting = this.waiting.filter(([count, done]) => this.items.length < count || done(this.items));
  }

  atLeast(count) {
    if (this.items.length >= count) return this.items;
    return within(`${count} of what is collected`, new Promise((done) => this.waiting.push([count, done])));
  }
}

export async function run(parts, makeDrive, version) {
  for (const [name, part] of Object.entries(parts)) {
    title = name;
    let drive;
    try {
      drive = await makeDrive();
      await within(name, part(drive));
    } catch (error) {
      failures.push(`${name}\n${error.stack}`);
    } finally {
      await drive?.close();
    }
  }
  process.stdout.write(`${JSON.stringify({ version, lines, failures })}\n`, () => process.exit(0));
}
