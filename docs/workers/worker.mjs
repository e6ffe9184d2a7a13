#!/usr/bin/env node
// A worker for Ledger in plain JavaScript: Node 18 or newer, no packages.
//
//     SERVER=http://localhost:3000 node worker.mjs
//
// Add your functions to `handlers`; the rest of the file can stay as it is.  docs/workers.md
// describes the protocol.

import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

const SERVER = process.env.SERVER ?? "http://localhost:3000";
const WORKER = process.env.WORKER ?? `${hostname()}:${process.pid}`;
const CONCURRENCY = Number(process.env.CONCURRENCY ?? 4);
const GRACE_S = Number(process.env.GRACE_S ?? 10);
const WAIT_S = 20;
const RETRY_MS = 1000;
const LONGEST_ERROR = 65536;

// One function per type.  It receives the job and returns the result; an error that it throws
// fails the attempt.  `job.signal` is aborted when the attempt is over, for example because the
// job was removed.
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

// --- requests

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The body is JSON text.
async function request(method, path, body, signal) {
  const answer = await fetch(SERVER + path, {
    method,
    headers: { "Content-Type": "application/json" },
    body,
    signal,
  });
  const json = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, json.error);
  return json;
}

// Report on an attempt; repeat the request until the server answers.  If the answer to the first
// request was lost, the second is refused with 409, which is harmless.
async function report(job, action, fields) {
  // Not in the loop: a result that JSON cannot represent would be retried for ever.
  const body = JSON.stringify({ attempt: job.attempt, worker: WORKER, ...fields });
  for (;;) {
    try {
      return await request("POST", `/job/${job.id}/${action}`, body);
    } catch (error) {
      if (error instanceof Refused && error.status < 500 && error.status !== 429) throw error;
      warn(error);
      await sleep(RETRY_MS);
    }
  }
}

function warn(error) {
  print(`${error.message}${error.cause ? `: ${error.cause.message}` : ""}`);
}

// Messages of the worker itself go to standard error.
function print(line) {
  console.error(`${WORKER}: ${line}`);
}

// --- running jobs

const running = new Map(); // "id/attempt" -> { job, abort, done }
const key = ({ id, attempt }) => `${id}/${attempt}`;

function start(job) {
  print(`job ${job.id} (${job.type}): attempt ${job.attempt} begins`);
  const controller = new AbortController();
  job.signal = controller.signal;
  job.log = (line) => report(job, "log", { line });
  job.progress = (done, total, data) => report(job, "progress", { done, total, data });
  const done = run(job).finally(() => running.delete(key(job)));
  running.set(key(job), { done, abort: () => controller.abort() });
}

async function run(job) {
  try {
    const result = await handlers[job.type](job);
    await report(job, "complete", { result });
    print(`job ${job.id}: complete`);
  } catch (error) {
    if (job.signal.aborted || (error instanceof Refused && [404, 409].includes(error.status))) {
      print(`job ${job.id}: attempt ${job.attempt} is over; its reports are no longer accepted`);
      return;
    }
    const text = textOf(error);
    print(`job ${job.id}: failed: ${text.split("\n", 1)[0]}`);
    await report(job, "fail", { error: text }).catch(warn);
  }
}

// Anything can be thrown, even a value that cannot be converted to a string.
function textOf(error) {
  try {
    // A database can store neither U+0000, which is written as an escape, nor half a surrogate
    // pair, which Buffer replaces.
    const text = String(error?.stack ?? error).replaceAll("\0", "\\0");
    return Buffer.from(text.slice(0, LONGEST_ERROR)).toString();
  } catch {
    return "an error that cannot be described";
  }
}

// --- heartbeats

let unknown = new Set();

async function heartbeat() {
  const { lease_ms, jobs } = await request("POST", `/workers/${encodeURIComponent(WORKER)}/heartbeat`);
  const assigned = new Set(jobs.map(key));
  for (const [which, { abort }] of running) if (!assigned.has(which)) abort();
  // The answer to a claim may still be on its way.  A job that is unknown at two heartbeats in a
  // row was in an answer that was lost, and is returned.
  const unexpected = jobs.filter((job) => !running.has(key(job)));
  for (const job of unexpected.filter((job) => unknown.has(key(job)))) {
    await report(job, "return", { reason: "the answer to its claim was lost" }).catch(warn);
  }
  unknown = new Set(unexpected.map(key));
  return lease_ms;
}

async function keepAlive() {
  let lease_ms = 3000;
  for (;;) {
    try {
      lease_ms = await heartbeat();
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
  const started_ms = Date.now();
  const body = JSON.stringify({ types, worker: WORKER, limit, wait: WAIT_S });
  const jobs = await request("POST", "/jobs/claim", body, stopping.signal);
  // A server limits how many claims wait, and answers the others at once.
  if (!jobs.length && Date.now() - started_ms < RETRY_MS) await sleep(RETRY_MS);
  return jobs;
}

const types = Object.keys(handlers);
print(`claims ${types.join(", ")} from ${SERVER}, up to ${CONCURRENCY} at once; press Ctrl-C to stop`);
keepAlive();
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

print(`stopping; ${running.size} running jobs have ${GRACE_S} s to end, then they are returned`);
const ended = Promise.allSettled([...running.values()].map(({ done }) => done));
await Promise.race([ended, sleep(GRACE_S * 1000)]);
// This returns jobs that are still running, and jobs of a claim whose answer was not received.
await request("DELETE", `/workers/${encodeURIComponent(WORKER)}`).then(() => print("stopped; it holds no jobs"), warn);
process.exit();
