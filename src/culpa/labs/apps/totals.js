// Totals in Node.js: `totals.js PORT BELOW HELPERS`. It must not need anything beside Node.
//
// /total   how many primes there are below BELOW; HELPERS threads of its own count on for themselves meanwhile
'use strict';
const http = require('http');
const { Worker, isMainThread } = require('worker_threads');

function isPrime(number) {
  for (let divisor = 2; divisor * divisor <= number; divisor++) {
    if (number % divisor === 0) return false;
  }
  return number > 1;
}

function primes(below) {
  let found = 0;
  for (let number = 0; number < below; number++) {
    if (isPrime(number)) found++;
  }
  return found;
}

function serve(port, below, helpers) {
  for (let helper = 0; helper < helpers; helper++) new Worker(__filename);
  http.createServer((question, answer) => {
    const known = question.url === '/total';
    answer.statusCode = known || question.url === '/' ? 200 : 404;
    answer.end(known ? `${primes(below)} primes below ${below}\n` : 'up\n');
  }).listen(port, '127.0.0.1');
}

if (isMainThread) {
  serve(Number(process.argv[2]), Number(process.argv[3]), Number(process.argv[4]));
} else {
  for (;;) primes(10000);
}
