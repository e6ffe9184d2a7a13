// Kue as its manual starts it, on two ports: node kue.js REDIS_PORT HTTP_PORT [search]
const kue = require('kue');

kue.createQueue({
  redis: { port: +process.argv[2], host: '127.0.0.1' },
  disableSearch: process.argv[4] !== 'search',
});
kue.app.listen(+process.argv[3], '127.0.0.1');
