// The knock page. The key is kept in this tab, and in this browser only when asked; it goes to the names in `settings`
// and nowhere else, which the page's Content-Security-Policy holds it to.

import {words} from "./words.js";

const MOST_SHOWN = 200; // grants that are listed at once; a search finds the others
const PATIENCE = 15000; // milliseconds for one answer

const settings = JSON.parse(document.querySelector("meta[name=knocker]").content);
const at = (id) => document.getElementById(id);
const language = (navigator.languages ?? []).map((name) => name.slice(0, 2).toLowerCase()).find((name) => name in words) ?? "en";

function word(name, ...values) {
  return words[language][name].replace(/\{(\d)\}/g, (_, place) => values[place]);
}

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text, bad = false) {
  at("said").textContent = text;
  at("said").classList.toggle("bad", bad);
}

// What this tab, and perhaps this browser, remembers.

const store = {
  key: () => sessionStorage.getItem("key") ?? localStorage.getItem("key") ?? "",
  isRemembered: () => localStorage.getItem("key") !== null,
  keep(key, remember) {
    sessionStorage.setItem("key", key);
    if (remember) localStorage.setItem("key", key);
    else localStorage.removeItem("key");
  },
  forget() {
    sessionStorage.clear();
    localStorage.clear();
  },
  opened: () => JSON.parse(sessionStorage.getItem("opened") ?? "[]").filter(({until}) => until > Date.now()),
  keepOpened: (entries) => sessionStorage.setItem("opened", JSON.stringify(entries)),
};

// Asking the gates.

class Refused extends Error {
  constructor(text, wait = 0) {
    super(text);
    this.wait = wait;
  }
}

function reason(status, error, wait) {
  if (status === 401) return word("badKey");
  if (status === 403) return word("mayNot");
  if (status === 429) return word("wait", wait);
  if (status === 400 && /^Could not|^Forwarded/.test(error)) return word("noClient");
  if (status === 400 && /too broad/.test(error)) return word("tooBroad");
  if (status === 400 && /^Invalid IP/.test(error)) return word("badAddress");
  if (status === 503) return word(/full/.test(error) ? "full" : "notStored");
  return word("strange", status);
}

async function ask(origin, path, method, body) {
  let answer, found;
  const headers = {"X-Api-Key": store.key()};
  if (body) headers["Content-Type"] = "application/json";
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const options = {method, headers, signal, credentials: "omit", cache: "no-store", redirect: "error"};
    answer = await fetch(origin + path, body ? {...options, body: JSON.stringify(body)} : options);
    found = answer.status === 204 ? {} : await answer.json();
  } catch (error) {
    if (answer) throw new Refused(word("strange", answer.status)); // it is no Knocker's
    throw new Refused(/[^\x20-\x7e]/.test(headers["X-Api-Key"]) ? word("badKeyText") : word("away"));
  }
  if (answer.ok) return found;
  const wait = Number(answer.headers.get("Retry-After")) || 60;
  throw new Refused(reason(answer.status, found.error ?? "", wait), answer.status === 429 ? wait : 0);
}

// This page's own origin, and those that see the other address family; these answer the page at its own address alone.
const also = !settings.origin || settings.origin === location.origin ? settings.also : [];
const gates = [location.origin, ...also.filter((origin) => origin !== location.origin)];

function everywhere(method) {
  return Promise.allSettled(gates.map((origin) => ask(origin, "/knock", method)));
}

// Knocking, and what is open.

let entries = store.opened();
let ticking = 0;

async function knock() {
  if (at("knock").disabled) return;
  busy(true);
  say(word("knocking"));
  const results = await everywhere("POST");
  busy(false);
  const opened = new Map();
  for (const {value} of results) {
    if (value) {
      const seconds = value.expires_in_seconds;
      opened.set(value.whitelisted_entry, {entry: value.whitelisted_entry, seconds, until: Date.now() + 1000 * seconds});
    }
  }
  const failed = results.map(({reason}, place) => [reason, new URL(gates[place]).host]).filter(([refused]) => refused);
  if (opened.size === 0) {
    refuse(failed[0][0]);
    return;
  }
  entries = [...opened.values()];
  store.keepOpened(entries);
  say(failed.map(([, host]) => word("notThere", host)).join(" "));
  show();
  await offerWayBack();
  at("open-title").focus();
  await list();
}

function refuse(refused) {
  say(refused.message, true);
  if (refused.wait) {
    busy(true);
    setTimeout(() => {
      busy(false);
      say(word("waited"));
    }, 1000 * refused.wait);
  }
}

async function close() {
  busy(true);
  const results = await everywhere("DELETE");
  busy(false);
  const kept = results.find(({reason}) => reason)?.reason;
  if (kept && results.every(({reason}) => reason)) {
    refuse(kept);
    return;
  }
  entries = [];
  store.keepOpened(entries);
  show();
  say(word("closed"));
  at("knock").focus();
  await list();
}

function forget() {
  store.forget();
  entries = [];
  at("key").value = "";
  at("remember").checked = false;
  at("grants").hidden = true;
  show();
  say(word("forgotten"));
}

function busy(is) {
  for (const id of ["knock", "renew", "close"]) at(id).disabled = is;
}

function show() {
  const isOpen = entries.length > 0;
  at("door").hidden = isOpen;
  at("open").hidden = !isOpen;
  at("forget").hidden = !store.key();
  at("entries").replaceChildren(...entries.map(shown));
  clearInterval(ticking);
  if (isOpen) {
    tick();
    ticking = setInterval(tick, 1000);
  }
}

function shown({entry, seconds, until}) {
  const bar = make("progress", {max: seconds, ariaLabel: `${word("bar")}: ${entry}`});
  const left = make("span", {role: "timer", className: "left"});
  const time = make("p", {className: "time small"}, left, make("span", {textContent: word("until", clock(until))}));
  return make("li", {}, make("span", {className: "entry", textContent: entry}), time, bar);
}

function tick() {
  const now = Date.now();
  const live = entries.filter(({until}) => until > now);
  if (live.length < entries.length) {
    entries = live;
    store.keepOpened(entries);
    show();
    if (!live.length) say(word("over"));
    return;
  }
  entries.forEach(({until}, place) => {
    const item = at("entries").children[place];
    const left = Math.ceil((until - now) / 1000);
    item.querySelector("progress").value = left;
    item.querySelector(".left").textContent = word("left", duration(left));
  });
}

function duration(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const [days, hours] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24];
  const minutes = Math.floor(seconds / 60) % 60;
  const clock = hours || days ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
  return days ? `${word("days", days)} ${clock}` : clock;
}

function clock(milliseconds) {
  const far = milliseconds - Date.now() > 20 * 3600 * 1000;
  const style = far ? {dateStyle: "medium", timeStyle: "short"} : {timeStyle: "short"};
  return new Intl.DateTimeFormat(navigator.language, style).format(milliseconds);
}

// The way back to the page that was refused: offered, never taken, and only to https and to names that the admin chose.

async function offerWayBack() {
  const [, text] = /^#back=(.+)$/.exec(location.hash) ?? [];
  let way;
  try {
    way = new URL(decodeURIComponent(text ?? ""));
  } catch {
    return;
  }
  if (way.protocol !== "https:" || way.username || way.password || !(await isChosen(way.hostname))) return;
  const link = at("back");
  link.href = way.href;
  link.textContent = word("back", way.host);
  link.hidden = false;
}

async function isChosen(host) {
  if (!crypto.subtle) return false;
  const labels = host.split(".");
  const patterns = [host, ...labels.map((_, place) => `*.${labels.slice(place + 1).join(".")}`).slice(0, -1)];
  const marks = await Promise.all(patterns.map(mark));
  return marks.some((found) => settings.return_to.includes(found));
}

async function mark(pattern) {
  // The admin's names are told as digests, so that a stranger who opens the page does not read them.
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`knocker return_to ${pattern}`));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The list of grants: the own ones, and with an admin's key everybody's.

let grants = [];

async function list() {
  let found;
  try {
    found = await ask("", "/grants", "GET");
  } catch (refused) {
    at("grants").hidden = true;
    return;
  }
  const got = Date.now();
  grants = found.grants.map((grant) => ({...grant, until: got + 1000 * grant.expires_in_seconds}));
  at("grants").hidden = false;
  at("other").hidden = !found.admin;
  for (const part of [at("search"), document.querySelector("label[for=search]")]) part.hidden = !found.admin;
  showGrants();
}

function showGrants() {
  const wanted = at("search").value.trim().toLowerCase();
  const all = grants.filter((grant) => described(grant).toLowerCase().includes(wanted));
  const counted = at("search").hidden ? "" : word("counted", Math.min(all.length, MOST_SHOWN), grants.length);
  at("counted").textContent = all.length ? counted : word("none");
  at("list").replaceChildren(...all.slice(0, MOST_SHOWN).map(shownGrant));
}

function described({entry, key, via, hosts}) {
  return [entry, key ?? "", via, ...(hosts ?? [word("every")])].join(" · ");
}

function shownGrant(grant) {
  const {id, entry, key, via, hosts, until} = grant;
  const about = [key, via, hosts ? hosts.join(", ") : word("every"), word("until", clock(until))].filter(Boolean);
  const button = make("button", {type: "button", textContent: word("revoke"), ariaLabel: word("revokeOf", entry)});
  button.addEventListener("click", () => revoke(id, entry, button));
  const text = make("div", {}, make("span", {className: "entry", textContent: entry}));
  text.append(make("p", {className: "small", textContent: about.join(" · ")}));
  return make("li", {className: "grant"}, text, button);
}

async function revoke(id, entry, button) {
  button.disabled = true;
  try {
    await ask("", `/grants/${id}`, "DELETE");
    say(word("revoked", entry));
  } catch (refused) {
    refuse(refused);
  }
  if (entries.some((own) => own.entry === entry)) {
    entries = entries.filter((own) => own.entry !== entry);
    store.keepOpened(entries);
    show();
  }
  await list();
}

async function openOther() {
  try {
    const body = {ip_address: at("address").value.trim(), ttl: 60 * Number(at("minutes").value)};
    const {whitelisted_entry} = await ask("", "/knock", "POST", body);
    at("address").value = "";
    say(word("opened", whitelisted_entry));
  } catch (refused) {
    refuse(refused);
  }
  await list();
}

// What is pressed.

function on(id, event, act) {
  at(id).addEventListener(event, (happened) => {
    happened.preventDefault();
    act();
  });
}

on("door", "submit", () => {
  store.keep(at("key").value.trim(), at("remember").checked);
  knock();
});
on("renew", "click", knock);
on("close", "click", close);
on("forget", "click", forget);
on("other", "submit", openOther);
at("search").addEventListener("input", showGrants);

document.documentElement.lang = language;
document.title = word("title");
for (const part of document.querySelectorAll("[data-text]")) part.textContent = word(part.dataset.text);
at("open-title").tabIndex = -1;
at("key").value = store.key();
at("remember").checked = store.isRemembered();
show();
if (location.hash === "#knock" && store.key()) knock();
else if (store.key()) {
  if (entries.length) offerWayBack();
  list();
}
