// Store jobs, every second one complete: node kue_fill.js REDIS_PORT NUMBER
const kue = require('kue');

const NUMBER = +process.argv[3];
const queue = kue.createQueue({
  redis: { port: +process.argv[2], host: '127.0.0.1' },
  disableSearch: true,
});

function create(n) {
  const data = {
    title: `welcome email for user ${n}`,
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
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
