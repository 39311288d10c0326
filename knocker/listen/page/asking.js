// Asking a gate, and what its refusals mean.

import {word} from "./words.js";

const PATIENCE = 15000; // milliseconds for one answer

export class Refused extends Error {
  constructor(text, {status = 0, wait = 0, isClosed = false} = {}) {
    super(text);
    Object.assign(this, {status, wait, isClosed});
  }
}

function refusal(status, error, wait) {
  const told = {
    401: "badKey", 403: "mayNot", 429: "wait",
    503: /full/.test(error) ? "full" : /^Closed/.test(error) ? "closedNotStored" : "notStored",
    400: [[/^Could not|^Forwarded/, "noClient"], [/too broad/, "tooBroad"], [/^Invalid IP/, "badAddress"]].find(([text]) => text.test(error))?.[1],
  }[status];
  return new Refused(told ? word(told, wait) : word("strange", status), {
    status, wait: status === 429 ? wait : 0, isClosed: told === "closedNotStored",
  });
}

export async function ask(secret, origin, path, method, body) {
  if (/[^\x21-\x7e]/.test(secret)) throw new Refused(word("badKeyText"));
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), PATIENCE);
  const headers = {"X-Api-Key": secret, ...(body && {"Content-Type": "application/json"})};
  const options = {method, headers, signal: limit.signal, credentials: "omit", cache: "no-store", redirect: "error"};
  let answer, found;
  try {
    answer = await fetch(origin + path, body ? {...options, body: JSON.stringify(body)} : options);
    found = answer.status === 204 ? {} : await answer.json();
  } catch {
    throw new Refused(answer ? word("strange", answer.status) : word("away")); // an answer that is no Knocker's
  } finally {
    clearTimeout(timer);
  }
  if (!answer.ok) throw refusal(answer.status, String(found?.error ?? ""), Number(answer.headers.get("Retry-After")) || 60);
  return found;
}
