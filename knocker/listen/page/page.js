// The knock page. The key is kept in this tab, and in this browser only when asked; it goes to the names in `settings`
// and nowhere else, which the page's Content-Security-Policy holds it to.

import {Refused, ask} from "./asking.js";
import {offerWayBack} from "./back.js";
import {keep, kept} from "./memory.js";
import {language, word} from "./words.js";

const MOST_SHOWN = 200; // grants that are listed at once; a search finds the others
const STRAGGLERS = 2500; // milliseconds that others have once one gate has opened

const settings = JSON.parse(document.querySelector("meta[name=knocker]").content);
const at = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function say(text, bad = false) {
  at("said").textContent = text;
  at("said").classList.toggle("bad", bad);
}

function keptEntries() {
  try {
    return JSON.parse(kept("sessionStorage", "opened") ?? "[]").filter(({entry, until}) => entry && until > Date.now());
  } catch {
    return [];
  }
}

const isRemembered = () => kept("localStorage", "key") !== null;
let key = kept("sessionStorage", "key") ?? kept("localStorage", "key") ?? "";
let entries = keptEntries(); // what is open for this device: {entry, seconds, until}
let grants = []; // what the gate lists
let isAdmin = false;
let life = 0; // each key that is forgotten ends one; what was asked before then is not shown

// This page's own origin, and those that see the other address family; these answer the page at its own address alone.
const also = !settings.origin || settings.origin === location.origin ? settings.also : [];
const gates = [location.origin, ...also.filter((origin) => origin !== location.origin)];

// Knocking, and what is open.

let ticking = 0;
let isBusy = false;
let blockedUntil = 0;

async function knock(secret, remember) {
  if (isBusy || blockedUntil > Date.now()) return;
  const mine = life;
  busy(true);
  say(word("knocking"));
  const failed = [];
  const knocks = gates.map(async (origin) => {
    try {
      const found = await ask(secret, origin, "/knock", "POST");
      if (typeof found.whitelisted_entry !== "string" || !(found.expires_in_seconds > 0)) throw new Refused(word("strange", 200));
      if (mine === life) {
        keepKey(secret, remember);
        merge(found.whitelisted_entry, found.expires_in_seconds);
      }
      return true;
    } catch (refused) {
      failed.push([refused, new URL(origin).host]);
      return false;
    }
  });
  const opened = new Promise((done) => knocks.forEach((one) => one.then((isOpen) => isOpen && done())));
  const patience = opened.then(() => new Promise((done) => setTimeout(done, STRAGGLERS)));
  await Promise.race([Promise.all(knocks), patience]);
  busy(false);
  if (mine !== life) return;
  if (failed.length === gates.length) {
    refuse(failed[0][0]);
    return;
  }
  say(failed.map(([, host]) => word("notThere", host)).join(" "));
  await offerWayBack(settings.return_to, at("back"));
  at("open-title").focus();
  await list();
}

function keepKey(secret, remember) {
  key = secret;
  keep("sessionStorage", "key", key);
  keep("localStorage", "key", remember ? key : null);
}

function merge(entry, seconds) {
  entries = [...entries.filter((one) => one.entry !== entry), {entry, seconds, until: Date.now() + 1000 * seconds}];
  entries.sort((one, other) => one.entry.includes(":") - other.entry.includes(":")); // IPv4 first, whoever answers first
  keepEntries();
}

function keepEntries() {
  keep("sessionStorage", "opened", JSON.stringify(entries));
  show();
}

function refuse(refused) {
  say(refused.message, true);
  if (!refused.wait) return;
  blockedUntil = Date.now() + 1000 * refused.wait;
  busy(false);
  setTimeout(() => {
    busy(isBusy);
    if (at("said").textContent === refused.message) say(word("waited"));
  }, 1000 * refused.wait + 50);
}

async function close() {
  if (isBusy) return;
  busy(true);
  const mine = life;
  const results = await Promise.allSettled(gates.map((origin) => ask(key, origin, "/knock", "DELETE")));
  const refused = results.map(({reason}) => reason).filter(Boolean);
  // What was opened from another address, or where a name gave no answer, is closed by its id.
  if (await list()) {
    for (const {id} of own()) {
      try {
        await ask(key, "", `/grants/${id}`, "DELETE");
      } catch (error) {
        refused.push(error);
      }
    }
    await list();
  }
  busy(false);
  if (mine !== life) return;
  const notStored = refused.find(({isClosed}) => isClosed);
  if (notStored) {
    entries = [];
    keepEntries();
  }
  if (entries.length) refuse(refused[0] ?? new Refused(word("away")));
  else say(notStored ? notStored.message : word("closed"), Boolean(notStored));
  (entries.length ? at("close") : at("knock")).focus();
}

function own() {
  return grants.filter(({isOwn, entry}) => isOwn && entries.some((one) => one.entry === entry));
}

function forget() {
  const wasOpen = entries.length > 0;
  for (const area of ["sessionStorage", "localStorage"]) for (const name of ["key", "opened"]) keep(area, name, null);
  forgotten();
  say(word(wasOpen ? "forgottenOpen" : "forgotten"));
  at("key").focus();
}

function forgotten() {
  life += 1;
  [key, entries, grants, isAdmin] = ["", [], [], false];
  at("key").value = "";
  at("remember").checked = false;
  at("search").value = "";
  at("list").replaceChildren();
  at("grants").hidden = true;
  busy(false);
  show();
}

function busy(is) {
  isBusy = is;
  // Not `disabled`, which would take the focus from who presses with a keyboard.
  for (const id of ["knock", "renew", "close"]) at(id).setAttribute("aria-disabled", is || (id !== "close" && blockedUntil > Date.now()));
}

function show() {
  const isOpen = entries.length > 0;
  const hadFocus = at("open").contains(document.activeElement);
  at("door").hidden = isOpen;
  at("open").hidden = !isOpen;
  at("forget").hidden = !key;
  at("entries").replaceChildren(...entries.map(shown));
  clearInterval(ticking);
  if (isOpen) {
    tick();
    ticking = setInterval(tick, 1000);
  } else if (hadFocus) {
    at("knock").focus();
  }
}

function shown({entry, seconds, until}) {
  const bar = make("progress", {max: seconds, "aria-label": `${word("bar")}: ${entry}`});
  const left = make("span", {role: "timer", class: "left"});
  const time = make("p", {class: "time small"}, left, make("span", {}, word("until", clock(until))));
  return make("li", {}, make("span", {class: "entry"}, entry), time, bar);
}

function tick() {
  const now = Date.now();
  const live = entries.filter(({until}) => until > now);
  if (live.length < entries.length) {
    entries = live;
    keepEntries();
    showGrants();
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
  const time = hours || days ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
  return days ? `${word("days", days)} ${time}` : time;
}

function clock(milliseconds) {
  const far = milliseconds - Date.now() > 20 * 3600 * 1000;
  const style = far ? {dateStyle: "medium", timeStyle: "short"} : {timeStyle: "short"};
  return new Intl.DateTimeFormat(navigator.language, style).format(milliseconds);
}

// The list of grants: the own ones, and with an admin's key everybody's. It is also the last word on what is open.

async function list() {
  const mine = life;
  let found;
  try {
    found = await ask(key, "", "/grants", "GET");
  } catch (refused) {
    if (mine === life && refused.status === 401) at("grants").hidden = true;
    if (mine === life && refused.wait) refuse(refused);
    return false;
  }
  if (mine !== life) return false;
  const got = Date.now();
  isAdmin = found.admin;
  grants = found.grants.map((grant) => ({...grant, isOwn: grant.key === found.key, until: got + 1000 * grant.expires_in_seconds}));
  at("grants").hidden = false;
  at("other").hidden = !isAdmin;
  for (const part of [at("search"), document.querySelector("label[for=search]")]) part.hidden = !isAdmin;
  agree();
  return true;
}

function agree() {
  const listed = new Map(grants.filter(({isOwn}) => isOwn).map(({entry, until}) => [entry, until]));
  entries = entries.filter(({entry}) => listed.has(entry)).map((one) => ({...one, until: listed.get(one.entry)}));
  keepEntries();
  showGrants();
}

function showGrants() {
  grants = grants.filter(({until}) => until > Date.now());
  const wanted = at("search").value.trim().toLowerCase();
  const all = grants.filter((grant) => described(grant).toLowerCase().includes(wanted));
  const counted = isAdmin ? word("counted", Math.min(all.length, MOST_SHOWN), grants.length) : "";
  at("counted").textContent = all.length ? counted : word("none");
  const focused = document.activeElement?.dataset.grant;
  at("list").replaceChildren(...all.slice(0, MOST_SHOWN).map(shownGrant));
  if (focused) at("list").querySelector(`[data-grant="${CSS.escape(focused)}"]`)?.focus();
}

function described({entry, key, via, hosts}) {
  return [entry, key ?? "", via, ...(hosts ?? [word("every")])].join(" · ");
}

function shownGrant(grant) {
  const {id, entry, key, via, hosts, until} = grant;
  const about = [key, via, hosts ? hosts.join(", ") : word("every"), word("until", clock(until))].filter(Boolean);
  const button = make("button", {type: "button", "data-grant": id, "aria-label": word("revokeOf", entry)}, word("revoke"));
  button.addEventListener("click", () => revoke(grant));
  const text = make("div", {}, make("span", {class: "entry"}, entry), make("p", {class: "small"}, about.join(" · ")));
  return make("li", {class: "grant"}, text, button);
}

async function revoke({id, entry}) {
  const mine = life;
  try {
    await ask(key, "", `/grants/${id}`, "DELETE");
  } catch (refused) {
    if (mine === life) refuse(refused);
    if (!refused.isClosed && refused.status !== 404) return;
  }
  if (mine !== life) return;
  grants = grants.filter((grant) => grant.id !== id);
  agree();
  if (!at("said").classList.contains("bad")) say(word("revoked", entry));
  at("grants-title").focus();
}

async function openOther() {
  const mine = life;
  try {
    const body = {ip_address: at("address").value.trim(), ttl: 60 * Number(at("minutes").value)};
    const {whitelisted_entry: entry} = await ask(key, "", "/knock", "POST", body);
    if (mine !== life) return;
    at("address").value = "";
    say(word("opened", entry));
    await list();
  } catch (refused) {
    if (mine === life) refuse(refused);
  }
}

// What is pressed.

function on(id, event, act) {
  at(id).addEventListener(event, (happened) => {
    happened.preventDefault();
    act();
  });
}

on("door", "submit", () => knock(at("key").value.trim(), at("remember").checked));
on("renew", "click", () => knock(key, isRemembered()));
on("close", "click", close);
on("forget", "click", forget);
on("other", "submit", () => {
  say("");
  openOther();
});
at("search").addEventListener("input", showGrants);
addEventListener("storage", ({key: name, oldValue, newValue}) => {
  // Another tab was told to forget it.
  if ((name === "key" && oldValue === key && newValue === null) || (name === null && key)) forget();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && key && !isBusy) list();
});

document.documentElement.lang = language;
document.title = word("title");
for (const part of document.querySelectorAll("[data-text]")) part.textContent = word(part.dataset.text);
for (const id of ["open-title", "grants-title"]) at(id).tabIndex = -1;

const knocksAtOnce = location.hash === "#knock" && isRemembered() && settings.may_knock;
history.replaceState(null, "", location.pathname); // what was refused is nobody's history, and a reload knocks at no door

at("key").value = key;
at("remember").checked = isRemembered();
show();
if (!isSecureContext) say(word("insecure"), true);
if (knocksAtOnce) knock(key, true);
else if (key) {
  if (entries.length) offerWayBack(settings.return_to, at("back"));
  list();
}
