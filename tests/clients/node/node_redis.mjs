// Drives node-redis at a server: `node node_redis.mjs NAME PROTOCOL PORT`, NAME being the generation's in package.json.

import { ask, Collected, event, eventually, load, note, port, refused, run } from './transcript.mjs';

const [name, protocol] = process.argv.slice(2);
const { library, version } = load(name);
const RESP = Number(protocol);
const VALUE = Buffer.alloc(300_000, 'all bytes \x00\xff\r\n', 'latin1');
const AT_ONCE = 200;

async function connect(options = {}) {
  const client = library.createClient({ RESP, socket: { port, host: '127.0.0.1', reconnectStrategy: () => 1 }, ...options });
  client.on('error', () => {}); // what matters comes through the promises
  return client.connect();
}

async function makeDrive() {
  const clients = [];
  const drive = {
    async another(options) {
      clients.push(await connect(options));
      return clients.at(-1);
    },
    async close() {
      for (const client of clients) if (client.isOpen) client.destroy();
    },
  };
  drive.client = await drive.another();
  await drive.client.flushAll();
  return drive;
}

async function strings({ client }) {
  await ask('SET EX NX', client.set('k', 'v', { expiration: { type: 'EX', value: 100 }, condition: 'NX' }));
  await ask('SET NX', client.set('k', 'w', { condition: 'NX' }));
  await ask('SET KEEPTTL GET', client.set('k', 'w', { expiration: 'KEEPTTL', GET: true }));
  await ask('TTL', client.ttl('k'));
  const bytes = client.withTypeMapping({ [library.RESP_TYPES.BLOB_STRING]: Buffer });
  await ask('SET bytes', client.set('b', VALUE));
  await ask('GET bytes', bytes.get('b'));
  await ask('GET none', client.get('none'));
  await ask('GETEX', client.getEx('k', { type: 'PXAT', value: 4_000_000_000_123 }));
  await ask('PEXPIRETIME', client.pExpireTime('k'));
  await ask('GETDEL', client.getDel('k'));
  await ask('MSET', client.mSet({ a: '1', c: 'text' }));
  await ask('MSETNX', client.mSetNX({ a: '1', d: 'text' }));
  await ask('MGET', client.mGet(['a', 'none', 'c']));
  await ask('INCRBY', client.incrBy('a', 5));
  await ask('INCRBYFLOAT', client.incrByFloat('a', 0.5));
  await ask('LCS', client.lcs('a', 'c'));
  await ask('LCS IDX', client.lcsIdxWithMatchLen('a', 'c'));
  await ask('SETBIT', client.setBit('bits', 100, 1));
  await ask('BITCOUNT', client.bitCount('bits', { start: 0, end: -1, mode: 'BIT' }));
  await ask('BITOP', client.bitOp('NOT', 'result', 'bits'));
  await ask('BITFIELD', client.bitField('field', [{ operation: 'SET', encoding: 'u8', offset: '#1', value: 250 }]));
  await refused('INCR of a text', client.incr('c'));
  await refused('unknown', client.sendCommand(['NONSENSE', 'a', 'b']));
  await refused('too few', client.sendCommand(['GET']));
}

async function keyspace({ client }) {
  await client.mSet(Object.fromEntries(Array.from({ length: AT_ONCE }, (_, number) => [`key:${number}`, String(number)])));
  await ask('EXPIRE NX', client.expire('key:1', 100, 'NX'));
  await ask('PEXPIREAT GT', client.pExpireAt('key:1', 4_000_000_000_123, 'GT'));
  await ask('EXPIRETIME', client.expireTime('key:1'));
  await ask('PERSIST', client.persist('key:1'));
  await ask('EXISTS', client.exists(['key:1', 'none']));
  await ask('RENAME', client.rename('key:1', 'renamed'));
  await refused('RENAME none', client.rename('none', 'renamed'));
  await ask('COPY', client.copy('renamed', 'copied', { DB: 3, REPLACE: true }));
  await ask('MOVE', client.move('renamed', 4));
  await ask('UNLINK', client.unlink(['key:2', 'none']));
  await ask('TYPE', client.type('key:3'));
  await ask('OBJECT', client.objectEncoding('key:3'));
  const bytes = client.withTypeMapping({ [library.RESP_TYPES.BLOB_STRING]: Buffer });
  const dumped = await ask('DUMP', bytes.dump('key:3'));
  await ask('RESTORE', client.restore('restored', 0, dumped));
  await refused('RESTORE again', client.restore('restored', 0, dumped));
  await refused('SORT', client.sort('key:3'));
  const found = new Set();
  for await (const keys of client.scanIterator({ MATCH: 'key:*', COUNT: 7 })) [keys].flat().forEach((key) => found.add(key));
  note('scanIterator', found);
  await ask('KEYS', client.keys('key:19?').then((keys) => keys.sort()));
  await ask('DBSIZE', client.dbSize());
}

async function pipelines({ client, another }) {
  await ask('at once', Promise.all(Array.from({ length: AT_ONCE }, (_, number) => client.incr(`n${number % 7}`))));
  await ask('multi', client.multi().set('s', '1').incr('s').get('s').exec());
  await ask('pipeline', client.multi().set('s', '1').incr('s').get('s').execAsPipeline());
  await refused('multi with an error', client.multi().set('s', 'x').incr('s').exec());
  await refused('multi spoiled', client.multi().set('s', '1').addCommand(['NONSENSE']).exec());
  const other = await another();
  await other.watch('s');
  await client.set('s', 'changed');
  await refused('watched', other.multi().set('s', 'lost').exec());
  await other.watch('s');
  await ask('not changed', other.multi().set('s', 'kept').exec());
  const pool = library.createClientPool({ RESP, socket: { port, host: '127.0.0.1' } }, { minimum: 1, maximum: 5 });
  pool.on('error', () => {});
  await pool.connect();
  await ask('pool', Promise.all(Array.from({ length: 50 }, () => pool.incr('pooled'))).then((counts) => counts.sort((a, b) => a - b)));
  pool.destroy();
}

async function channels({ client, another }) {
  const subscriber = await another();
  const received = new Collected();
  const listen = (kind) => (message, channel) => received.add(kind, channel, message);
  await subscriber.subscribe('news', listen('exact'));
  await subscriber.pSubscribe('n*', listen('pattern'));
  await subscriber.sSubscribe('shard', listen('shard'));
  await subscriber.subscribe('bytes', listen('bytes'), true);
  await ask('PUBLISH', client.publish('news', 'text'));
  await ask('PUBLISH bytes', client.publish('bytes', VALUE));
  await ask('SPUBLISH', client.sPublish('shard', 'text'));
  await ask('PUBSUB NUMSUB', client.pubSubNumSub(['news', 'none']));
  await ask('PUBSUB CHANNELS', client.pubSubChannels().then((names) => names.sort()));
  note('received', await received.atLeast(4));
  await ask('PING', subscriber.ping());
  // By name: without one node-redis 5 waits for ever, at redis-server too.
  await subscriber.unsubscribe('news');
  await subscriber.unsubscribe('bytes');
  await subscriber.pUnsubscribe('n*');
  await subscriber.sUnsubscribe('shard');
  await ask('commands again', subscriber.set('k', 'v'));
}

async function events({ client, another }) {
  await client.configSet('notify-keyspace-events', 'KEA');
  const subscriber = await another();
  const seen = new Collected();
  await subscriber.pSubscribe('__key*__:*', (message, channel) => seen.add(channel, message));
  await client.set('seen', '1', { expiration: { type: 'EX', value: 100 } });
  await client.del('seen');
  note('events', await seen.atLeast(6));
  await client.configSet('notify-keyspace-events', '');
}

async function connections({ client, another }) {
  const other = await another({ database: 2, name: 'one' });
  await ask('CLIENT GETNAME', other.clientGetName());
  const number = await other.clientId();
  const heard = new Collected();
  await other.subscribe('kept', (message) => heard.add(message));
  const ready = event(other, 'ready');
  await ask('CLIENT KILL', client.clientKill({ filter: 'ID', id: number }));
  await ready; // it connects again by itself, and subscribes again
  await eventually('subscribed again', async () => Number((await client.pubSubNumSub(['kept'])).kept) === 1);
  await client.publish('kept', 'after the fall');
  note('heard', await heard.atLeast(1));
  const monitor = await another();
  const lines = new Collected();
  await monitor.monitor((line) => lines.add(line.replace(/^.*?\] /, '')));
  await client.set('watched', 'by everyone');
  note('MONITOR', (await lines.atLeast(1))[0]);
  await client.aclSetUser('reader', ['on', '>secret', '+@read', '+client', '+hello', '~r:*']);
  const reader = await another({ username: 'reader', password: 'secret' });
  await ask('read', reader.get('r:1'));
  await refused('write', reader.set('r:1', 'v'));
  await ask('ACL DELUSER', client.aclDelUser('reader'));
  await ask('CLIENT INFO', client.clientInfo().then((fields) => [fields.db, fields.user]));
  await ask('CLIENT TRACKINGINFO', client.clientTrackingInfo());
}

async function caching({ client, another }) {
  if (RESP !== 3) return;
  const cache = new library.BasicClientSideCache({ ttl: 0, maxEntries: 100, evictPolicy: 'LRU' });
  const cached = await another({ clientSideCache: cache });
  await client.set('cached', 'one');
  await ask('read', cached.get('cached'));
  await ask('read again', cached.get('cached'));
  note('hits', cache.stats().hitCount);
  const invalidated = new Promise((done) => cache.once('invalidate', done));
  await client.set('cached', 'two');
  note('invalidated', await invalidated);
  await ask('read anew', cached.get('cached'));
}

async function service({ client }) {
  await ask('PING', client.ping());
  await ask('ECHO', client.echo('some words'));
  await ask('CONFIG GET', client.configGet('maxclients'));
  await refused('CONFIG SET', client.configSet('no-such-directive', '1'));
  await ask('INFO', client.info().then((text) => ['redis_version:', 'role:master', 'loading:0'].map((part) => text.includes(part))));
  await ask('COMMAND INFO', client.commandInfo(['get', 'set']));
  await ask('COMMAND GETKEYS', client.commandGetKeys(['MSET', 'a', '1', 'b', '2']));
  await ask('COMMAND GETKEYSANDFLAGS', client.commandGetKeysAndFlags(['MSET', 'a', '1', 'b', '2']));
  await ask('ROLE', client.role());
  await ask('ACL LIST', client.aclList());
  await ask('ACL WHOAMI', client.aclWhoAmI());
  await ask('ACL GETUSER', client.aclGetUser('default'));
  await ask('MEMORY USAGE', client.memoryUsage('none'));
  await ask('LATENCY', client.latencyLatest());
  await ask('WAIT', client.wait(0, 10));
  await ask('SWAPDB', client.swapDb(0, 1));
  await client.close();
}

await run({ strings, keyspace, pipelines, channels, events, connections, caching, service }, makeDrive, version);
