// Regular time: dates in cells, the step between them, and the stamps after the last. Stamps are milliseconds or counts.
import { quoted, refuse } from "./messages.js";

const DAY = 86_400_000;
const UNITS = [["D", DAY], ["h", DAY / 24], ["min", 60_000], ["s", 1000]];
const DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
// default lookback in steps up to this many milliseconds long
const LOOKBACKS = [[DAY / 24 - 1, 96], [DAY - 1, 336], [7 * DAY - 1, 28], [27 * DAY, 52], [31 * DAY, 24], [Infinity, 16]];
const ISO = /^(\d{4})-?(\d{2})(?:-?(\d{2}))?(?:[T ](\d{2}):?(\d{2})(?::?(\d{2})(?:\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$/;
const YEAR_FIRST = /^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ](\d{2}):(\d{2})(?::(\d{2}))?)?$/;
const YEAR_LAST = /^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})(?:[T ](\d{2}):(\d{2})(?::(\d{2}))?)?$/;

// stamps of a column, whether they are dates, whether days come first in them, their time zone; null if it holds none
export function readTimes({ name, cells }) {
  if (cells.every((cell) => /^[+-]?\d{1,15}$/.test(cell))) {
    const dates = [/^(19|20)\d{6}$/, /^(19|20)\d{4}$/].some((form) => cells.every((cell) => form.test(cell)));
    const stamps = dates ? all(cells, (cell) => date(ISO.exec(cell))) : null;
    return stamps ? { stamps, dated: true } : sinceEpoch(cells.map(Number));
  }
  const turned = (cell, dayFirst) => {
    const m = YEAR_LAST.exec(cell);
    return m && date([0, m[3], ...(dayFirst ? [m[2], m[1]] : [m[1], m[2]]), ...m.slice(4)]);
  };
  const forms = [
    all(cells, (cell) => date(ISO.exec(cell) ?? YEAR_FIRST.exec(cell))),
    all(cells, (cell) => turned(cell, true)),
    // a day follows the month only between slashes and dashes
    cells.some((cell) => cell.includes(".")) ? null : all(cells, (cell) => turned(cell, false)),
  ];
  const read = forms.filter(Boolean);
  const regular = read.filter((stamps) => evenly(stamps));
  const found = regular.length ? regular : read;
  if (found.length > 1 && found[0].some((stamp, i) => stamp !== found[1][i])) {
    const sign = cells[0].includes("/") ? "/" : "-";
    const [d, m] = [`%d${sign}%m${sign}%Y`, `%m${sign}%d${sign}%Y`];
    refuse("two_dates", { column: quoted(name), cell: quoted(cells.at(-1)), forms: `'${d}' or '${m}'` });
  }
  if (!found.length) return null;
  const zones = cells.map((cell) => ISO.exec(cell)?.[7] ?? "");
  // where the clock is changed a column has two of them
  const mixed = new Set(zones).size > 1 && !zones.includes("");
  const stamps = mixed ? found[0].map((stamp, i) => stamp - offset(zones[i])) : found[0];
  return { stamps, dated: true, dayFirst: found[0] === forms[1], zone: mixed ? "UTC" : zones[0] };
}

// integers as dates where they are seconds or milliseconds since 1970, of the years from 2000 to 2099
function sinceEpoch(counts) {
  const unit = [1, 1000].find((each) => counts.every((n) => n >= 946_684_800 * each && n <= 4_102_444_799 * each));
  return { stamps: unit ? counts.map((n) => (n * 1000) / unit) : counts, dated: Boolean(unit) };
}

// the step of sorted stamps without repetitions: pieces vote, so that gaps do not matter; null for fewer than two stamps
export function inferClock(stamps, dated) {
  if (stamps.length < 2) return null;
  const apart = stamps.slice(1).map((stamp, i) => stamp - stamps[i]);
  if (!dated) return counted(commonest(apart));
  const votes = [];
  for (let k = 0; k < stamps.length - 2 && k < 8 * 24; k += 24) votes.push(ruled(stamps.slice(k, k + 24)));
  const found = votes.filter(Boolean);
  if (!found.length) {
    const clock = spaced(commonest(apart), stamps[0]);
    const days = clock.span / DAY;
    return Number.isInteger(days) ? { ...clock, label: `${days > 1 ? days : ""}D` } : clock;
  }
  const label = mode(found.map((clock) => clock.label));
  return found.find((clock) => clock.label === label);
}

// the clock of stamps without gaps, or null
function ruled(stamps) {
  if (stamps.length < 3) return null;
  const apart = stamps.slice(1).map((stamp, i) => stamp - stamps[i]);
  const days = stamps.map((stamp) => new Date(stamp));
  const midnight = stamps.every((stamp) => stamp % DAY === 0);
  const ends = stamps.every((stamp) => new Date(stamp + DAY).getUTCDate() === 1);
  if (midnight && (ends || days.every((day) => day.getUTCDate() === 1))) {
    const months = days.slice(1).map((day, i) => monthOf(day) - monthOf(days[i]));
    if (months.every((each) => each === months[0])) return monthly(months[0], ends, days[0].getUTCMonth());
  }
  if (apart.every((each) => each === apart[0])) return spaced(apart[0], stamps[0]);
  const weekdays = business();
  const steps = stamps.slice(1).map((stamp, i) => weekdays.between(stamps[i], stamp));
  return midnight && steps.every((each) => each === 1) ? weekdays : null;
}

// the clock of an alias of pandas
export function clockOf(freq, stamps) {
  const month = new Date(stamps[0]).getUTCMonth();
  const months = { M: 1, Q: 3, Y: 12 }[freq[0]];
  if (freq === "B") return business();
  if (months) return monthly(months, freq[1] === "E", month);
  if (freq === "W") return spaced(7 * DAY, stamps[0]);
  const [, many, unit] = /^(\d*)(\w+)$/.exec(freq);
  return spaced(Number(many || 1) * UNITS.find(([name]) => name === unit)[1], stamps[0]);
}

// a stamp in a message or a table: the date alone where that is all there is
export function shown(stamp, dated) {
  return dated ? new Date(stamp).toISOString().slice(0, 19).replace("T", " ").replace(/( 00:00)?:00$/, "") : `${stamp}`;
}

// a span of time in words
export function duration(span) {
  for (const [name, unit] of [["day", DAY], ["hour", DAY / 24], ["min", 60_000], ["s", 1000]]) {
    if (span < unit) continue;
    const count = Math.round((span / unit) * 100) / 100;
    return `${count} ${name}${count !== 1 && /day|hour/.test(name) ? "s" : ""}`;
  }
  return `${span / 1000} s`;
}

// label, season, lookback, typical span; steps from one stamp to another, NaN off the grid; the stamp k steps after one
function counted(step) {
  const between = (a, b) => whole((b - a) / step);
  return { label: step, dated: false, season: 1, cycle: 16, span: step, between, after: (a, k) => a + k * step };
}

function spaced(step, first) {
  const [name, unit] = UNITS.find(([, each]) => step % each === 0) ?? ["ms", 1];
  const many = step / unit;
  const weeks = name === "D" && many % 7 === 0;
  const label = weeks ? `W-${DAYS[new Date(first).getUTCDay()]}` : name;
  const count = weeks ? many / 7 : many;
  return {
    label: `${count > 1 ? count : ""}${label}`,
    dated: true,
    season: seasonOf(step),
    cycle: LOOKBACKS.find(([span]) => step <= span)[1],
    span: step,
    between: (a, b) => whole((b - a) / step),
    after: (a, k) => a + k * step,
  };
}

function monthly(n, ends, month) {
  // quarters and years are named by their last month, or the first one of the year
  const year = n % 12 === 0;
  const quarter = !year && n % 3 === 0;
  const anchor = MONTHS[year ? month : 9 + (month % 3)];
  const many = year ? n / 12 : quarter ? n / 3 : n;
  const name = `${year ? "Y" : quarter ? "Q" : "M"}${ends ? "E" : "S"}${year || quarter ? `-${anchor}` : ""}`;
  const index = (stamp) => {
    const day = new Date(stamp);
    const on = stamp % DAY === 0 && (ends ? new Date(stamp + DAY) : day).getUTCDate() === 1;
    return on ? monthOf(day) : NaN;
  };
  const at = (i) => Date.UTC(Math.floor(i / 12), (i % 12) + (ends ? 1 : 0), ends ? 0 : 1);
  return {
    label: `${many > 1 ? many : ""}${name}`,
    dated: true,
    season: 12 % n ? 1 : 12 / n,
    cycle: n === 1 ? 24 : 16,
    span: n === 1 ? 31 * DAY : Math.round((n * 365.25) / 12) * DAY,
    between: (a, b) => whole((index(b) - index(a)) / n),
    after: (a, k) => at(index(a) + k * n),
  };
}

function business() {
  const index = (stamp) => {
    const day = stamp / DAY + 3;
    const weekday = ((day % 7) + 7) % 7;
    return Number.isInteger(day) && weekday < 5 ? Math.floor(day / 7) * 5 + weekday : NaN;
  };
  const at = (i) => (Math.floor(i / 5) * 7 + (((i % 5) + 5) % 5) - 3) * DAY;
  const between = (a, b) => whole(index(b) - index(a));
  return { label: "B", dated: true, season: 5, cycle: 20, span: DAY, between, after: (a, k) => at(index(a) + k) };
}

function seasonOf(step) {
  const month = (365.25 / 12) * DAY;
  const months = Math.round(step / month);
  const divided = (season, many) => (season % many ? 1 : season / many);
  if (months && step % (7 * DAY) && Math.abs(step - months * month) < 3 * DAY) return divided(12, months);
  const units = [[7 * DAY, 52], [DAY, 7], [60_000, 1440], [1000, 3600]];
  const found = units.find(([unit]) => step % unit === 0);
  return found ? divided(found[1], step / found[0]) : 1;
}

function date(match) {
  if (!match) return NaN;
  const [, y, m, d = 1, h = 0, min = 0, s = 0] = match;
  const stamp = Date.UTC(y, m - 1, d, h, min, s);
  return new Date(stamp).getUTCMonth() === m - 1 ? stamp : NaN;
}

function offset(zone) {
  const [, sign, hours, minutes] = /^(?:Z|([+-])(\d{2}):?(\d{2}))$/.exec(zone);
  return sign ? Number(`${sign}1`) * (Number(hours) * 60 + Number(minutes)) * 60_000 : 0;
}

function all(cells, read) {
  const found = cells.map(read);
  return found.every((stamp) => Number.isFinite(stamp) && stamp !== null) ? found : null;
}

function evenly(stamps) {
  const sorted = [...new Set(stamps)].sort((a, b) => a - b);
  return sorted.length > 12 && ruled(sorted) !== null;
}

// the smallest of the values that come most often
function commonest(values) {
  return mode([...values].sort((a, b) => a - b));
}

// the first of the values that come most often
function mode(values) {
  const times = new Map();
  for (const value of values) times.set(value, (times.get(value) ?? 0) + 1);
  return [...times].reduce((a, b) => (b[1] > a[1] ? b : a))[0];
}

function monthOf(day) {
  return day.getUTCFullYear() * 12 + day.getUTCMonth();
}

function whole(steps) {
  return Number.isInteger(steps) ? steps : NaN;
}
