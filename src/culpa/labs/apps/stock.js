// A stock list kept in Redis, in Node.js: `stock.js PORT REDIS-PORT WHOLE PART`, two Redis commands as JSON lists of
// words. It speaks the server's protocol by itself (RESP2).
//
// /whole   how many entries the first of them gives
// /part    how many the second one gives
'use strict';
const http = require('http');
const net = require('net');

const [port, redisPort] = [Number(process.argv[2]), Number(process.argv[3])];
const ways = { '/whole': JSON.parse(process.argv[4]), '/part': JSON.parse(process.argv[5]) };
const redis = net.connect(redisPort, '127.0.0.1').setNoDelay(true);
const waiting = [];
let [line, body, missing, entries] = ['', 0, 1, 0]; // of the answer that comes in: what is not whole yet

function ask(words, done) {
  waiting.push(done);
  redis.write(`*${words.length}\r\n` + words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join(''));
}

function took() {
  missing -= 1;
  if (missing > 0) return;
  waiting.shift()(entries);
  [missing, entries] = [1, 0];
}

redis.on('data', (chunk) => {
  let at = 0;
  while (at < chunk.length) {
    if (body > 0) {
      const bytes = Math.min(body, chunk.length - at);
      at += bytes;
      body -= bytes;
      if (body === 0) took();
      continue;
    }
    const end = chunk.indexOf('\n', at);
    line += chunk.latin1Slice(at, end < 0 ? chunk.length : end + 1);
    at = end < 0 ? chunk.length : end + 1;
    if (end < 0) continue;
    const [kind, size] = [line[0], Number(line.slice(1))];
    line = '';
    if (kind === '*') {
      missing += size;
      took();
    } else {
      entries += 1;
      if (kind === '$' && size >= 0) body = size + 2;
      else took();
    }
  }
});

http.createServer((question, answer) => {
  const words = ways[question.url];
  if (!words) {
    answer.statusCode = question.url === '/' ? 200 : 404;
    answer.end('up\n');
    return;
  }
  ask(words, (count) => answer.end(`${count} entries\n`));
}).listen(port, '127.0.0.1');
