// Delimited text as columns of cells, read as `seqmix forecast --data FILE` reads a file.
import { quoted, refuse } from "./messages.js";

const SEPARATORS = [",", ";", "\t", "|"];
const SAMPLE = 200;
const MISSING = new Set(["", "na", "n/a", "#n/a", "nan", "null", "none", "-", "--", "–", "—", "?", ".", "#value!", "#div/0!"]);
const NUMBER = /^[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?$/i;
const DATE = /^(\d{4}[-/]\d{1,2}([-/]\d{1,2})?([T ].*)?|\d{4}\.\d{1,2}\.\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})( .*)?)$/;

export function readTable(content, file) {
  let lines = content.replace(/^\ufeff/, "").split(/\r\n|\r|\n/);
  let sep = /^sep=/i.test(lines[0]) ? lines.shift()[4] : null;
  lines = lines.filter((line) => line.trim());
  if (!lines.length) refuse("empty", { file });
  sep ??= separator(lines.slice(0, SAMPLE), file);
  lines = lines.slice(firstLine(lines.slice(0, SAMPLE), sep));
  const header = fields(lines[0], sep).map((name) => name.trim());
  const twice = header.find((name, i) => name && header.indexOf(name) !== i);
  if (twice) refuse("twice", { file, column: quoted(twice) });
  const rows = lines.slice(1).map((line) => fields(line, sep));
  const long = rows.find((row) => row.length > header.length);
  if (long) {
    const row = quoted(long.join(sep).slice(0, 60));
    refuse("no_table", { file, row, found: long.length, want: header.length, sep: quoted(sep) });
  }
  if (!rows.length) refuse("no_rows", { file });
  const columns = header.map((name, i) => ({ name, cells: rows.map((row) => (row[i] ?? "").trim()) }));
  checkHeader(columns, lines[0], file);
  // pandas and Excel write the numbers of the rows in a column without a name
  return { columns: columns.filter((column) => column.name), sep };
}

// numbers of a column, NaN where missing; null if a cell is neither. `decimal` is the sign that the table shows
export function numbers(column, sep, decimal) {
  const { values, wrong } = parsed(column, sep, decimal);
  return wrong >= 0 || values.every(Number.isNaN) ? null : values;
}

export function firstWrong(column, sep, decimal) {
  const { wrong } = parsed(column, sep, decimal);
  return wrong < 0 ? "" : column.cells[wrong];
}

// the sign before decimals that the columns agree on
export function decimalSign({ columns, sep }) {
  const read = columns.filter((c) => sep !== "," || c.cells.some((cell) => cell.includes(",")));
  const signs = new Set(read.map((c) => evidence(c.cells.map(bare))).filter((sign) => sign.length === 1));
  return signs.size === 1 ? [...signs][0] : null;
}

function parsed(column, sep, decimal) {
  const cells = column.cells.map(bare);
  const sign = evidence(cells);
  const unclear = sep === ";" ? ["?,", "?."] : sep === "," ? [] : ["?,"];
  if (!decimal && (unclear.includes(sign) || (sign === "?." && isGrouped(cells)))) {
    const cell = quoted(cells.find((text) => text.includes(sign[1])));
    refuse("two_ways", { column: quoted(column.name), cell, sign: sign[1] });
  }
  const mark = decimal ?? (sign.length === 1 ? sign : ".");
  const [m, g] = mark === "." ? ["\\.", ","] : [",", "\\."];
  const right = new RegExp(`^[+-]?(\\d{1,3}(${g}\\d{3})+|\\d*)(${m}\\d*)?(e[+-]?\\d+)?$`, "i");
  const values = cells.map((text) => {
    if (!text || !right.test(text)) return NaN;
    return Number.parseFloat(text.replaceAll(mark === "." ? "," : ".", "").replace(mark, "."));
  });
  return { values, wrong: values.findIndex((value, i) => Number.isNaN(value) && cells[i] !== "") };
}

// a cell without units, with signs between groups of digits left out; empty where missing
function bare(cell) {
  if (MISSING.has(cell.toLowerCase())) return "";
  return cell
    .replace(/[$€£¥%]|USD|EUR|GBP|CHF/g, "")
    .replace("\u2212", "-")
    .trim()
    .replace(/^\((.*)\)$/, "-$1")
    .replace(/(?<=\d)[ \u00a0\u202f'\u2019](?=\d{3})/g, "");
}

function evidence(cells) {
  // the points of 31.12.2024 are no signs of numbers
  const found = cells.filter((text) => /^[+-]?[\d.,]+(e[+-]?\d+)?$/i.test(text) && !DATE.test(text));
  for (const [sign, h, t] of [[",", ",", "\\."], [".", "\\.", ","]]) {
    const decimal = new RegExp(`${h}\\d{0,2}(e|$)|${h}\\d{4,}|${t}\\d{3}${h}|${t}\\d{3}${t}|^[+-]?0?${h}\\d`, "i");
    if (found.some((text) => decimal.test(text))) return sign;
  }
  return [",", "."].map((s) => (found.some((text) => text.includes(s)) ? `?${s}` : "")).find(Boolean) ?? "";
}

// whether numbers without a point are all below 1000, beside 1.234: the point may be between thousands
function isGrouped(cells) {
  const without = cells.filter((text) => text && !text.includes("."));
  return without.length > 0 && without.every((text) => /^[+-]?\d{1,3}$/.test(text));
}

function fields(line, sep) {
  const found = [];
  const pattern = new RegExp(`\\s*"((?:[^"]|"")*)"[^${escaped(sep)}]*|([^${escaped(sep)}]*)`, "y");
  for (let at = 0; ; at = pattern.lastIndex + 1) {
    pattern.lastIndex = at;
    const [, inside, plain] = pattern.exec(line);
    found.push(inside === undefined ? plain.trimStart() : inside.replaceAll('""', '"'));
    if (pattern.lastIndex >= line.length) return found;
  }
}

function escaped(sep) {
  return sep === "\t" ? "\\t" : `\\${sep}`;
}

function commonest(counts) {
  const times = new Map();
  for (const count of counts) times.set(count, (times.get(count) ?? 0) + 1);
  return [...times].reduce((best, each) => (each[1] > best[1] ? each : best));
}

// the separator that cuts most lines into the same number of fields, the header line included
function separator(lines, file) {
  let [best, score] = ["", 0];
  for (const sep of SEPARATORS) {
    const counts = lines.map((line) => fields(line, sep).length);
    const [width, times] = commonest(counts);
    const share = times / counts.length;
    const fits = counts[firstLine(lines, sep)] === width;
    if (width > 1 && share > 0.5 && fits && share + width / 1000 > score) [best, score] = [sep, share + width / 1000];
  }
  if (!best && SEPARATORS.some((sep) => lines[0].includes(sep))) refuse("fields", { file });
  return best || ",";
}

function firstLine(lines, sep) {
  const counts = lines.map((line) => fields(line, sep).length);
  const [width] = commonest(counts);
  return counts.findIndex((count) => count >= width);
}

function checkHeader(columns, line, file) {
  const named = columns.filter((column) => column.name);
  const isNumber = ({ name }) => NUMBER.test(name);
  const again = named.some((c) => !isNumber(c) && c.cells.includes(c.name));
  const broken = named.some((c) => isNumber(c) && /[.,]/.test(c.name));
  if (named.some(({ name }) => DATE.test(name)) || named.every(isNumber) || broken || again) {
    refuse("no_header", { file, line: quoted(line.trim().slice(0, 60)) });
  }
}
