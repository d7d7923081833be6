// Drives ioredis at a server: `node ioredis.mjs NAME PROTOCOL PORT`, NAME being the generation's in package.json.

import { ask, Collected, event, eventually, load, note, port, refused, run } from './transcript.mjs';

const [name, protocol] = process.argv.slice(2);
const { library, version } = load(name);
const Redis = library.Redis ?? library.default ?? library;
const VALUE = Buffer.alloc(300_000, 'all bytes \x00\xff\r\n', 'latin1');
const AT_ONCE = 200;

function connect(options = {}) {
  const client = new Redis({ port, host: '127.0.0.1', protocol: Number(protocol), retryStrategy: () => 1, ...options });
  client.on('error', () => {}); // what matters comes through the promises
  return client;
}

async function makeDrive() {
  const clients = [];
  const drive = {
    another(options) {
      clients.push(connect(options));
      return clients.at(-1);
    },
    async close() {
      for (const client of clients) client.disconnect();
    },
  };
  drive.client = drive.another();
  await drive.client.flushall();
  return drive;
}

async function strings({ client }) {
  await ask('SET EX NX', client.set('k', 'v', 'EX', 100, 'NX'));
  await ask('SET NX', client.set('k', 'w', 'NX'));
  await ask('SET KEEPTTL GET', client.set('k', 'w', 'KEEPTTL', 'GET'));
  await ask('TTL', client.ttl('k'));
  await ask('SET bytes', client.set('b', VALUE));
  await ask('GET bytes', client.getBuffer('b'));
  await ask('GET none', client.get('none'));
  await ask('GETEX', client.getex('k', 'PXAT', 4_000_000_000_123));
  await ask('PEXPIRETIME', client.pexpiretime('k'));
  await ask('GETDEL', client.getdel('k'));
  await ask('MSET object', client.mset({ a: 1, c: 'text' }));
  await ask('MSET map', client.mset(new Map([['d', 2], ['e', 3]])));
  await ask('MGET', client.mget('a', 'none', ['c', 'd']));
  await ask('MGET bytes', client.mgetBuffer('a', 'none'));
  await ask('INCRBY', client.incrby('a', 5));
  await ask('INCRBYFLOAT', client.incrbyfloat('a', 0.5));
  await ask('LCS', client.lcs('a', 'c', 'IDX'));
  await ask('SETBIT', client.setbit('bits', 100, 1));
  await ask('BITCOUNT', client.bitcount('bits', 0, -1, 'BIT'));
  await ask('BITOP', client.bitop('NOT', 'result', 'bits'));
  await ask('BITFIELD', client.bitfield('field', 'SET', 'u8', '#1', 250, 'OVERFLOW', 'FAIL', 'INCRBY', 'u8', '#1', 10));
  await refused('INCR of a text', client.incr('c'));
  await refused('unknown', client.call('NONSENSE', 'a', 'b'));
  await refused('too few', client.call('GET'));
}

async function keyspace({ client }) {
  await client.mset(Object.fromEntries(Array.from({ length: AT_ONCE }, (_, number) => [`key:${number}`, number])));
  await ask('EXPIRE NX', client.expire('key:1', 100, 'NX'));
  await ask('PEXPIREAT GT', client.pexpireat('key:1', 4_000_000_000_123, 'GT'));
  await ask('EXPIRETIME', client.expiretime('key:1'));
  await ask('PERSIST', client.persist('key:1'));
  await ask('EXISTS', client.exists('key:1', 'none'));
  await ask('RENAME', client.rename('key:1', 'renamed'));
  await refused('RENAME none', client.rename('none', 'renamed'));
  await ask('COPY', client.copy('renamed', 'copied', 'DB', 3));
  await ask('MOVE', client.move('renamed', 4));
  await ask('UNLINK', client.unlink('key:2', 'none'));
  await ask('TYPE', client.type('key:3'));
  await ask('OBJECT', client.object('ENCODING', 'key:3'));
  const dumped = await ask('DUMP', client.dumpBuffer('key:3'));
  await ask('RESTORE', client.restore('restored', 0, dumped));
  await refused('RESTORE again', client.restore('restored', 0, dumped));
  await refused('SORT', client.sort('key:3'));
  const found = new Set();
  for await (const keys of client.scanStream({ match: 'key:*', count: 7 })) keys.forEach((key) => found.add(key));
  note('scanStream', found);
  await ask('KEYS', client.keys('key:19?').then((keys) => keys.sort()));
  await ask('DBSIZE', client.dbsize());
}

async function pipelines({ client, another }) {
  const pipeline = client.pipeline();
  for (let number = 0; number < AT_ONCE; number += 1) pipeline.set(`p${number}`, number).get(`p${number}`);
  await ask('pipeline', pipeline.exec());
  await ask('pipeline with an error', client.pipeline().set('s', 'x').incr('s').get('s').exec());
  await ask('pipeline from arrays', client.pipeline([['set', 'f', 'b'], ['get', 'f']]).exec());
  await ask('multi', client.multi().set('s', 1).incr('s').get('s').exec());
  await ask('multi with an error', client.multi().set('s', 'x').incr('s').exec());
  await refused('multi spoiled', client.multi().set('s', 1).call('NONSENSE').exec());
  await ask('multi without a pipeline', client.multi({ pipeline: false }));
  await ask('queued', client.set('s', 'queued'));
  await ask('exec', client.exec());
  const other = another();
  await client.watch('s');
  await other.set('s', 'changed');
  await ask('watched', client.multi().set('s', 'lost').exec());
  const automatic = another({ enableAutoPipelining: true });
  await ask('automatic', Promise.all(Array.from({ length: AT_ONCE }, (_, number) => automatic.incr(`n${number % 7}`))));
  const prefixed = another({ keyPrefix: 'pre:' });
  await ask('prefixed', prefixed.set('k', 'v').then(() => client.get('pre:k')));
}

async function channels({ client, another }) {
  const subscriber = another();
  const received = new Collected();
  subscriber.on('message', (...words) => received.add('message', ...words));
  subscriber.on('pmessage', (...words) => received.add('pmessage', ...words));
  subscriber.on('smessage', (...words) => received.add('smessage', ...words));
  await ask('SUBSCRIBE', subscriber.subscribe('news', 'other'));
  await ask('PSUBSCRIBE', subscriber.psubscribe('n*'));
  await ask('SSUBSCRIBE', subscriber.ssubscribe('shard'));
  await ask('PUBLISH', client.publish('news', 'text'));
  await ask('SPUBLISH', client.spublish('shard', 'text'));
  await ask('PUBSUB NUMSUB', client.pubsub('NUMSUB', 'news', 'none'));
  note('received', await received.atLeast(3));
  const bytes = new Collected();
  subscriber.on('messageBuffer', (...words) => bytes.add(...words));
  await client.publish('other', VALUE);
  note('bytes', await bytes.atLeast(1));
  await ask('PING', subscriber.ping());
  await ask('UNSUBSCRIBE', subscriber.unsubscribe('news', 'other'));
  await ask('PUNSUBSCRIBE', subscriber.punsubscribe('n*'));
  await ask('SUNSUBSCRIBE', subscriber.sunsubscribe('shard'));
  await ask('commands again', subscriber.set('k', 'v'));
}

async function events({ client, another }) {
  await client.config('SET', 'notify-keyspace-events', 'KEA');
  const subscriber = another();
  const seen = new Collected();
  subscriber.on('pmessage', (pattern, channel, message) => seen.add(channel, message));
  await subscriber.psubscribe('__key*__:*');
  await client.set('seen', 1, 'EX', 100);
  await client.del('seen');
  note('events', await seen.atLeast(6));
  await client.config('SET', 'notify-keyspace-events', '');
}

async function connections({ client, another }) {
  const other = another({ db: 2, connectionName: 'one' });
  await ask('CLIENT GETNAME', other.client('GETNAME'));
  const number = await other.client('ID');
  await other.subscribe('kept');
  const closed = event(other, 'close');
  await ask('CLIENT KILL', client.client('KILL', 'ID', number));
  await closed;
  // It connects again by itself, and subscribes again.
  await eventually('subscribed again', async () => (await client.pubsub('NUMSUB', 'kept'))[1] === 1);
  const heard = event(other, 'message');
  await client.publish('kept', 'after the fall');
  note('heard', await heard);
  const monitor = await client.duplicate().monitor();
  const line = event(monitor, 'monitor');
  await client.set('watched', 'by everyone');
  note('MONITOR', (await line)[1]);
  monitor.disconnect();
  await client.acl('SETUSER', 'reader', 'on', '>secret', '+@read', '+info', '+select', '~r:*');
  const reader = another({ username: 'reader', password: 'secret' });
  await ask('read', reader.get('r:1'));
  await refused('write', reader.set('r:1', 'v'));
  await ask('ACL DELUSER', client.acl('DELUSER', 'reader'));
}

async function service({ client }) {
  await ask('PING', client.ping());
  await ask('ECHO', client.echo('some words'));
  await ask('CONFIG GET', client.config('GET', 'maxclients'));
  await refused('CONFIG SET', client.config('SET', 'no-such-directive', 1));
  await ask('INFO', client.info().then((text) => ['redis_version:', 'role:master', 'loading:0'].map((part) => text.includes(part))));
  await ask('COMMAND INFO', client.command('INFO', 'get', 'set'));
  await ask('COMMAND GETKEYS', client.command('GETKEYS', 'MSET', 'a', 1, 'b', 2));
  await ask('ROLE', client.role());
  await ask('SLOWLOG', client.slowlog('RESET'));
  await ask('MEMORY USAGE', client.memory('USAGE', 'none'));
  await ask('LATENCY', client.latency('LATEST'));
  await ask('WAIT', client.wait(0, 10));
  await ask('SWAPDB', client.swapdb(0, 1));
  await ask('QUIT', client.quit());
}

await run({ strings, keyspace, pipelines, channels, events, connections, service }, makeDrive, version);
