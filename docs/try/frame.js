// From a table to series on a regular time axis: which column is what, and what is wrong with the rows.
import { clockOf, duration, inferClock, readTimes, shown } from "./clock.js";
import { listed, quoted, refuse } from "./messages.js";
import { decimalSign, firstWrong, numbers } from "./table.js";

const IDS = ["unique_id", "id", "item_id", "series", "series_id"];
const TIMES = ["ds", "date", "datetime", "timestamp", "time", "month", "week", "quarter", "year", "day", "step", "t"];
const TARGETS = ["y", "target", "value", "sales"];

// series {id, stamps, values} with NaN where a value is missing, their clock, and the names of the columns
export function readFrame(table, { freq, fillGaps }) {
  const roles = findRoles(table);
  const { stamps, dated } = roles.times;
  const rows = new Map();
  roles.series.forEach(({ id, values, at }) => {
    if (!rows.has(id)) rows.set(id, []);
    for (const i of at ?? stamps.keys()) rows.get(id).push([stamps[i], values[i]]);
  });
  const series = [...rows].map(([id, pairs]) => ({ id, pairs: pairs.sort((a, b) => a[0] - b[0]) }));
  const longest = series.reduce((a, b) => (b.pairs.length > a.pairs.length ? b : a));
  const unique = [...new Set(longest.pairs.map(([stamp]) => stamp))];
  const clock = freq && dated ? clockOf(freq, unique) : inferClock(unique, dated);
  if (!clock) refuse("no_freq", { column: quoted(roles.timeCol) });
  checkDuplicates(series, roles, clock);
  const steps = series.map(({ pairs }) => pairs.slice(1).map(([stamp], i) => clock.between(pairs[i][0], stamp)));
  checkSteps(series, steps, clock, fillGaps);
  return {
    ...roles,
    clock,
    series: series.map(({ id, pairs }, s) => ({ id, ...regular(pairs, steps[s], clock) })),
  };
}

function findRoles(table) {
  const { columns, sep } = table;
  const decimal = decimalSign(table);
  const names = listed(columns.map(({ name }) => name));
  const kinds = new Map();
  const times = new Map();
  for (const column of columns) {
    const code = column.cells.some((cell) => /^0\d+$/.test(cell));
    if (!code && numbers(column, sep, decimal)) kinds.set(column, "number");
    else {
      const found = readTimes(column);
      if (found) times.set(column, found);
      kinds.set(column, found?.dated ? "time" : "text");
    }
  }
  const of = (kind) => columns.filter((column) => kinds.get(column) === kind);
  const time = pick(TIMES, of("time")) ?? pick(TIMES, columns) ?? of("time")[0];
  if (!time) refuse("no_time", { columns: names });
  const read = times.get(time) ?? readTimes(time);
  if (!read) {
    const cell = time.cells.find((text) => !readTimes({ name: time.name, cells: [text] }));
    refuse("no_date", { column: quoted(time.name), cell: quoted(cell ?? time.cells[0]) });
  }
  const free = columns.filter((column) => column !== time && !TARGETS.includes(column.name.toLowerCase()));
  const id = pick(IDS, free) ?? textId(free, kinds, read.stamps);
  const numeric = of("number").filter((column) => column !== time && column !== id);
  let target = pick(TARGETS, numeric) ?? (numeric.length === 1 ? numeric[0] : null);
  if (!target && (id || !numeric.length)) {
    target = pick(TARGETS, columns.filter((column) => column !== time && column !== id));
    if (!target) refuse("no_target", { columns: names });
  }
  const valuesOf = (column) => {
    const found = numbers(column, sep, decimal);
    if (found) return found;
    const wrong = firstWrong(column, sep, decimal);
    const slots = { column: quoted(column.name), cell: quoted(wrong) };
    return refuse(wrong ? "no_number" : "no_numbers", slots);
  };
  const found = { times: read, timeCol: time.name, idCol: id?.name ?? "unique_id", targetCol: target?.name ?? "y" };
  if (!target) return { ...found, series: numeric.map((c) => ({ id: c.name, values: valuesOf(c) })), alone: false };
  const values = valuesOf(target);
  if (!id) return { ...found, series: [{ id: target.name, values }], alone: true };
  const absent = id.cells.filter((cell) => !cell).length;
  if (absent) refuse(absent > 1 ? "no_ids" : "no_id", { column: quoted(id.name), count: absent });
  const each = new Map();
  id.cells.forEach((cell, i) => each.set(cell, [...(each.get(cell) ?? []), i]));
  return { ...found, series: [...each].map(([cell, at]) => ({ id: cell, values, at })), alone: false };
}

// a column of text that tells series apart, where times come again
function textId(free, kinds, stamps) {
  const texts = free.filter((column) => kinds.get(column) === "text");
  if (new Set(stamps).size < stamps.length) return texts[0];
  return texts.find((column) => new Set(column.cells).size === 1);
}

function checkDuplicates(series, { alone, idCol, timeCol }, { dated }) {
  let [count, first] = [0, ""];
  for (const { id, pairs } of series) {
    for (let i = 1; i < pairs.length; i++) {
      if (pairs[i][0] !== pairs[i - 1][0]) continue;
      first ||= alone ? shown(pairs[i][0], dated) : `id ${quoted(id)} at ${shown(pairs[i][0], dated)}`;
      count += 1;
    }
  }
  const slots = { count, s: count > 1 ? "s" : "", first, id: quoted(idCol), time: quoted(timeCol) };
  if (count) refuse(alone ? "repeated" : "repeated_ids", slots);
}

function checkSteps(series, steps, clock, fillGaps) {
  const freq = clock.dated ? quoted(clock.label) : clock.label;
  const apart = series.flatMap(({ pairs }) => pairs.slice(1).map(([stamp], i) => stamp - pairs[i][0]));
  const typical = apart.length ? median(apart) : clock.span;
  const off = steps.flat().filter(Number.isNaN).length;
  if (off || (typical > 1.5 * clock.span && !fillGaps)) {
    const ratio = typical / clock.span;
    if (ratio <= 0.67 || ratio >= 1.5) {
      const slots = { freq: clock.label, found: clock.dated ? duration(typical) : typical };
      refuse(!clock.dated || ratio > 1 ? "other_step" : "finer_step", slots);
    }
    const s = steps.findIndex((each) => each.some(Number.isNaN));
    const at = shown(series[s].pairs[steps[s].findIndex(Number.isNaN) + 1][0], clock.dated);
    refuse("off_grid", { count: off, freq, first: `id ${quoted(series[s].id)} at ${at}` });
  }
  const broken = series.filter((_, s) => steps[s].some((count) => count > 1));
  if (!broken.length || fillGaps) return;
  const mine = steps[series.indexOf(broken[0])];
  const at = mine.findIndex((count) => count > 1);
  const begin = broken[0].pairs[at][0];
  const [from, to] = [1, mine[at] - 1].map((k) => shown(clock.after(begin, k), clock.dated));
  const count = mine.reduce((sum, each) => sum + each - 1, 0);
  const first = count > mine[at] - 1 ? "first " : "";
  refuse(broken.length > 1 ? "gaps_of_several" : "gaps", {
    broken: broken.length,
    total: series.length,
    freq,
    id: quoted(broken[0].id),
    count,
    span: `${first}${from === to ? from : `${from}..${to}`}`,
  });
}

// rows with those that were left out, as missing values
function regular(pairs, steps, clock) {
  const [stamps, values] = [[pairs[0][0]], [pairs[0][1]]];
  steps.forEach((count, i) => {
    for (let k = 1; k < count; k++) {
      stamps.push(clock.after(pairs[i][0], k));
      values.push(NaN);
    }
    stamps.push(pairs[i + 1][0]);
    values.push(pairs[i + 1][1]);
  });
  return { stamps, values };
}

function pick(names, columns) {
  return names.map((name) => columns.find((column) => column.name.toLowerCase() === name)).find(Boolean);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return Number.isInteger(middle) ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[Math.floor(middle)];
}
