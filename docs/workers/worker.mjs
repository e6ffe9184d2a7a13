#!/usr/bin/env node
// A worker for Ledger in plain JavaScript: Node 18 or newer, no packages.
//
//     SERVER=http://localhost:3000 node worker.mjs
//
// Put your own functions into `handlers`; the rest need not change.  docs/workers.md
// explains the protocol.

import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

const SERVER = process.env.SERVER ?? "http://localhost:3000";
const WORKER = process.env.WORKER ?? `${hostname()}:${process.pid}`;
const CONCURRENCY = Number(process.env.CONCURRENCY ?? 4);
const GRACE_S = Number(process.env.GRACE_S ?? 10);
const WAIT_S = 20;
const RETRY_MS = 1000;

// By type.  A handler gets the job; what it returns is the result, what it throws is a
// failed attempt.  `job.signal` is aborted when the attempt is over without it.
const handlers = {
  async count(job) {
    const lines = job.data.text.split("\n");
    let words = 0;
    for (const [index, line] of lines.entries()) {
      words += line.split(/\s+/).filter(Boolean).length;
      await job.progress(index + 1, lines.length, { words });
    }
    await job.log(`${words} words in ${lines.length} lines`);
    return { words };
  },

  async wait(job) {
    await sleep(job.data.seconds * 1000, undefined, { signal: job.signal });
  },
};

// --- asking

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(method, path, body, signal) {
  const answer = await fetch(SERVER + path, {
    method,
    headers: { "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
    signal,
  });
  const json = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, json.error);
  return json;
}

// Say a word about an attempt, until the server has heard it.  If the answer to the first
// try was lost, the second is refused with 409: then all is well, too.
async function say(job, word, fields) {
  for (;;) {
    try {
      const body = { attempt: job.attempt, worker: WORKER, ...fields };
      return await ask("POST", `/job/${job.id}/${word}`, body);
    } catch (error) {
      if (error instanceof Refused && error.status < 500 && error.status !== 429) throw error;
      warn(error);
      await sleep(RETRY_MS);
    }
  }
}

function warn(error) {
  tell(`${error.message}${error.cause ? `: ${error.cause.message}` : ""}`);
}

// Standard error, as all that is no job's business.
function tell(line) {
  console.error(`${WORKER}: ${line}`);
}

// --- working

const running = new Map(); // "id/attempt" -> { job, abort, done }
const key = ({ id, attempt }) => `${id}/${attempt}`;

function start(job) {
  tell(`job ${job.id} (${job.type}): attempt ${job.attempt} begins`);
  const controller = new AbortController();
  job.signal = controller.signal;
  job.log = (line) => say(job, "log", { line });
  job.progress = (done, total, data) => say(job, "progress", { done, total, data });
  const done = run(job).finally(() => running.delete(key(job)));
  running.set(key(job), { done, abort: () => controller.abort() });
}

async function run(job) {
  try {
    const result = await handlers[job.type](job);
    await say(job, "complete", { result });
    tell(`job ${job.id}: complete`);
  } catch (error) {
    if (job.signal.aborted || error.status === 409 || error.status === 404) {
      tell(`job ${job.id}: attempt ${job.attempt} is over, its word does not count`);
      return;
    }
    tell(`job ${job.id}: failed: ${String(error?.message ?? error)}`);
    // What no database can hold is written as an escape.
    const text = String(error?.stack ?? error).replaceAll("\0", "\\0");
    await say(job, "fail", { error: text }).catch(warn);
  }
}

// --- signs of life

let unknown = new Set();

async function beat() {
  const { lease_ms, jobs } = await ask("POST", `/workers/${encodeURIComponent(WORKER)}/heartbeat`);
  const held = new Set(jobs.map(key));
  for (const [which, { abort }] of running) if (!held.has(which)) abort();
  // The answer to a claim may still be on its way to us.  What we do not know at two
  // beats in a row was in an answer that got lost.
  const strange = jobs.filter((job) => !running.has(key(job)));
  for (const job of strange.filter((job) => unknown.has(key(job)))) {
    await say(job, "return", { reason: "the answer to its claim was lost" }).catch(warn);
  }
  unknown = new Set(strange.map(key));
  return lease_ms;
}

async function beatOnAndOn() {
  let lease_ms = 3000;
  for (;;) {
    try {
      lease_ms = await beat();
    } catch (error) {
      warn(error);
    }
    await sleep(lease_ms / 3, undefined, { ref: false });
  }
}

// --- the loop

const stopping = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stopping.abort());

async function claim(limit) {
  const asked = Date.now();
  const body = { types, worker: WORKER, limit, wait: WAIT_S };
  const jobs = await ask("POST", "/jobs/claim", body, stopping.signal);
  // A server lets only so many wait, and answers the others at once.
  if (!jobs.length && Date.now() - asked < RETRY_MS) await sleep(RETRY_MS);
  return jobs;
}

const types = Object.keys(handlers);
tell(`asks ${SERVER} for ${types.join(", ")}, does ${CONCURRENCY} at once; Ctrl-C stops it`);
beatOnAndOn();
while (!stopping.signal.aborted) {
  try {
    const free = CONCURRENCY - running.size;
    if (free) (await claim(free)).forEach(start);
    else await Promise.race([...running.values()].map(({ done }) => done));
  } catch (error) {
    if (stopping.signal.aborted) break;
    warn(error);
    await sleep(RETRY_MS);
  }
}

tell(`stops; what runs, ${running.size} of them, has ${GRACE_S} s to end or is given back`);
const ended = Promise.allSettled([...running.values()].map(({ done }) => done));
await Promise.race([ended, sleep(GRACE_S * 1000)]);
// Gives back what still runs, and what we were given in this very moment.
await ask("DELETE", `/workers/${encodeURIComponent(WORKER)}`).then(() => tell("ended, and holds nothing"), warn);
process.exit();
