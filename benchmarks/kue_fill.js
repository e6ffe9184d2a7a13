// Store jobs, every second one complete: node kue_fill.js REDIS_PORT NUMBER [search]
// To be searched, the one in the middle has words that no other has.
const kue = require('kue');

const NUMBER = +process.argv[3];
const queue = kue.createQueue({
  redis: { port: +process.argv[2], host: '127.0.0.1' },
  disableSearch: process.argv[4] !== 'search',
});
const RARE = process.argv[4] === 'search' ? Math.floor(NUMBER / 2) : 0;

function create(n) {
  const data = {
    title: n === RARE ? `welcome email for visible pelican ${n}` : `welcome email for user ${n}`,
    to: `user${n}@example.com`,
    template: 'welcome',
  };
  return new Promise((resolve, reject) => {
    const job = queue.create('email', data).save((error) => (error ? reject(error) : resolve(job)));
  });
}

function complete(job) {
  return new Promise((resolve, reject) => {
    job.state('complete', (error) => (error ? reject(error) : resolve()));
  });
}

async function main() {
  for (let n = 1; n <= NUMBER; n += 50) {
    const numbers = Array.from({ length: Math.min(50, NUMBER - n + 1) }, (_, i) => n + i);
    const jobs = await Promise.all(numbers.map(create));
    await Promise.all(jobs.filter((job) => job.id % 2).map(complete));
  }
  // What indexes answers to nobody.
  setTimeout(() => process.exit(0), RARE ? 3000 : 0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
