// Drive Kue on Redis: node kue.js fill|drain STORE JOBS; see contest.py
const kue = require('kue');

const CONCURRENCY = 20;
const IN_FLIGHT = 50;
const DATA = {
  title: 'welcome email for user 1',
  to: 'user1@example.com',
  template: 'welcome',
};

const [task, store, number] = process.argv.slice(2);
const JOBS = +number;
const queue = kue.createQueue({ redis: store, disableSearch: true });

function end(began) {
  console.log(JSON.stringify({ seconds: Number(process.hrtime.bigint() - began) / 1e9 }));
  process.exit(0);
}

function create() {
  return new Promise((resolve, reject) => {
    queue.create('email', DATA).save((error) => (error ? reject(error) : resolve()));
  });
}

async function fill() {
  const began = process.hrtime.bigint();
  for (let n = 0; n < JOBS; n += IN_FLIGHT) {
    await Promise.all(Array.from({ length: Math.min(IN_FLIGHT, JOBS - n) }, create));
  }
  end(began);
}

function drain() {
  let called = 0;
  let began;

  function look() {
    queue.completeCount((error, count) => {
      if (error) throw error;
      if (called !== JOBS) throw new Error(`expected ${JOBS} handlers called, found ${called}`);
      if (count === JOBS) end(began);
      setTimeout(look, 5);
    });
  }

  queue.process('email', CONCURRENCY, (job, done) => {
    called += 1;
    if (called === 1) began = process.hrtime.bigint();
    done();
    if (called === JOBS) look();
  });
}

({ fill, drain })[task]();
