// The way back to the page that was refused: offered, never taken, and only to https and to names that the admin chose.

import {word} from "./words.js";

const back = asked();

function asked() {
  try {
    const [, text] = /^#back=(.+)$/.exec(location.hash) ?? [];
    return text ? new URL(decodeURIComponent(text)) : null;
  } catch {
    return null; // no address
  }
}

// `marks`: how the page is told the names. `link` shows the way, if there is one.
export async function offerWayBack(marks, link) {
  if (!back || back.protocol !== "https:" || back.username || back.password || !(await isChosen(back.hostname, marks))) return;
  link.href = back.href;
  link.textContent = word("back", back.host);
  link.hidden = false;
}

async function isChosen(host, marks) {
  if (!crypto.subtle) return false;
  const labels = host.split(".");
  const patterns = [host, ...labels.map((_, place) => `*.${labels.slice(place + 1).join(".")}`).slice(0, -1)];
  const found = await Promise.all(patterns.map(mark));
  return found.some((one) => marks.includes(one));
}

async function mark(pattern) {
  // The admin's names are told as digests, so that they do not stand here for everybody to read.
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`knocker return_to ${pattern}`));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
