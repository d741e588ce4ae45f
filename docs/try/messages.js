// Messages in the words of the Forecaster: templates that Python wrote at build, with {names} to fill in.

export class Refused extends Error {}

let templates = {};

export function learn(found) {
  templates = found;
}

export function refuse(key, slots = {}) {
  throw new Refused(templates[key].replace(/\{(\w+)\}/g, (_, name) => slots[name]));
}

// text as Python shows it
export function quoted(text) {
  return text.includes("'") && !text.includes('"') ? `"${text}"` : `'${text.replaceAll("'", "\\'")}'`;
}

export function listed(names) {
  return `[${names.map(quoted).join(", ")}]`;
}
