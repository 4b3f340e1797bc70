// A visitors' book in Node.js: `visits.js PORT FILE LINES`. It must not need anything beside Node.
//
// /each   writes LINES lines and syncs each one, as if the disk were as fast as memory; the loop waits meanwhile
// /once   writes LINES lines and leaves the rest to the kernel
'use strict';
const fs = require('fs');
const http = require('http');

const [port, file, lines] = [Number(process.argv[2]), process.argv[3], Number(process.argv[4])];
const book = fs.openSync(file, 'a');

function signEach() {
  for (let line = 0; line < lines; line++) {
    fs.writeSync(book, `visitor ${line}\n`);
    fs.fsyncSync(book);
  }
}

function signOnce() {
  for (let line = 0; line < lines; line++) {
    fs.writeSync(book, `visitor ${line}\n`);
  }
}

const ways = { '/each': signEach, '/once': signOnce };

http.createServer((question, answer) => {
  const way = ways[question.url];
  if (way) way();
  answer.statusCode = way || question.url === '/' ? 200 : 404;
  answer.end(way ? `${lines} visitors\n` : 'up\n');
}).listen(port, '127.0.0.1');
