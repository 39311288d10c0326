// What this tab, and perhaps this browser, remembers; where a browser keeps nothing, this page alone does.

const memory = new Map();

export function kept(area, name) {
  try {
    return window[area].getItem(name);
  } catch {
    return memory.get(area + name) ?? null;
  }
}

export function keep(area, name, value) {
  try {
    value === null ? window[area].removeItem(name) : window[area].setItem(name, value);
  } catch {
    value === null ? memory.delete(area + name) : memory.set(area + name, value);
  }
}
