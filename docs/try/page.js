// The page: reads the form, forecasts, shows picture, numbers, the same in Python, or what is wrong.
import { compact, draw } from "./chart.js";
import { shown } from "./clock.js";
import { readFrame } from "./frame.js";
import { Refused, learn, refuse } from "./messages.js";
import { ridge } from "./ridge.js";
import { readTable } from "./table.js";

const $ = (id) => document.getElementById(`try-${id}`);
const form = $("form");
// a fit to more would hold up the page
const MOST_ROWS = 10_000;
let facts;
let file = "pasted.csv";
let run = 0;
let csv = "";

async function start() {
  facts = await (await fetch(new URL("./facts.json", import.meta.url))).json();
  learn(facts.messages);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target === $("example")) example();
    else if (event.target === $("file")) open(event.target.files[0]);
    else if (event.target !== $("data")) forecast();
  });
  $("data").addEventListener("input", later(() => {
    $("example").value = "";
    return pasted("pasted.csv");
  }));
  $("data").addEventListener("dragover", (event) => event.preventDefault());
  $("data").addEventListener("drop", (event) => {
    event.preventDefault();
    const [dropped] = event.dataTransfer.files;
    if (dropped) open(dropped);
  });
  $("download").addEventListener("click", download);
  await example();
}

async function example() {
  const name = $("example").value;
  if (!name) return;
  $("data").value = await (await fetch(new URL(`./${name}`, import.meta.url))).text();
  $("horizon").value = form.querySelector(`option[value="${name}"]`).dataset.horizon;
  $("freq").value = "";
  $("gaps").checked = false;
  await pasted(name);
}

async function open(given) {
  if (!given) return;
  $("example").value = "";
  $("data").value = await given.text();
  await pasted(given.name);
}

async function pasted(name) {
  file = name;
  $("series").replaceChildren();
  await forecast();
}

async function forecast() {
  const mine = ++run;
  const began = performance.now();
  say("Forecasting …");
  try {
    const horizon = Number($("horizon").value);
    if (!Number.isInteger(horizon) || horizon < 1) refuse("horizon", { horizon });
    const most = facts.horizon;
    if (horizon > most) throw new Refused(`this page forecasts ${most} steps at most, got ${horizon}`);
    const table = readTable($("data").value, `'${file}'`);
    const frame = readFrame(table, { freq: $("freq").value, fillGaps: $("gaps").checked });
    const series = chosen(frame.series);
    const n = series.values.length;
    if ($("model").value === "Ridge" && n > MOST_ROWS) {
      throw new Refused(`Ridge takes ${MOST_ROWS} rows at most in this page, got ${n}; use ZeroShot, or the code in Python`);
    }
    const level = Number($("level").value);
    const how = [series, frame.clock, horizon, level];
    const model = $("model").value;
    draw($("chart"), { ...series, show: (stamp) => shown(stamp, frame.clock.dated) }, [], [], level);
    // the history is seen before the model has loaded
    await new Promise((resolve) => setTimeout(resolve));
    const rows = model === "Ridge" ? ridge(...how) : await (await import("./zeroshot.js")).zeroShot(...how, facts);
    if (mine !== run) return;
    const ahead = rows.map((_, h) => frame.clock.after(series.stamps.at(-1), h + 1));
    show(frame, series, ahead, rows, { model, level, horizon, table });
    const count = series.values.filter((value) => !Number.isNaN(value)).length;
    const seconds = ((performance.now() - began) / 1000).toFixed(2);
    const { label, season } = frame.clock;
    const zone = frame.times.zone ? `, time zone ${frame.times.zone}` : "";
    say(`${model}: ${count} values of ${series.id}, step ${label}${zone}, season ${season}; ${seconds} s.`);
  } catch (error) {
    if (mine !== run) return;
    if (!(error instanceof Refused)) console.warn(error);
    say(error instanceof Refused ? error.message : `this browser could not run the model (${error.message})`, true);
  }
}

// the series that is asked for, the first of a new table
function chosen(series) {
  const select = $("series");
  if (select.length !== series.length) select.replaceChildren(...series.map(({ id }) => new Option(id, id)));
  $("series-row").hidden = series.length < 2;
  return series.find(({ id }) => id === select.value) ?? series[0];
}

function show(frame, series, ahead, rows, { model, level, horizon, table }) {
  const { dated, label } = frame.clock;
  const name = (stamp) => shown(stamp, dated);
  draw($("chart"), { ...series, show: name }, ahead, rows, level);
  const header = [frame.timeCol, model, `${model}-lo-${level}`, `${model}-hi-${level}`];
  const cells = rows.map((row, h) => [name(ahead[h]), ...row]);
  csv = [header, ...cells].map((line) => line.map(field).join(",")).join("\n") + "\n";
  fill($("table"), header, cells);
  $("download").disabled = false;
  const gaps = $("gaps").checked ? ", fill_gaps=True" : "";
  const freq = $("freq").value ? `, freq="${label}"` : "";
  const own = model === "Ridge" ? `, model_kwargs={"weights": "shared"}` : "";
  const names = { id_col: frame.alone ? "" : frame.idCol, time_col: frame.timeCol, target_col: frame.targetCol };
  const columns = Object.entries(names).map(([option, column]) => (column ? `, ${option}="${column}"` : ""));
  const call = `df${columns.join("")}`;
  const sep = { ";": ', sep=";"', "\t": ', sep="\\t"', "|": ', sep="|"' }[table.sep] ?? "";
  const values = table.columns.filter(({ name }) => name !== frame.timeCol).flatMap(({ cells }) => cells);
  const decimal = values.some((cell) => /^-?\d*,(\d{1,2}|\d{4,})$/.test(cell)) ? ', decimal=","' : "";
  const time = `df["${frame.timeCol}"]`;
  $("code").textContent = [
    `df = pd.read_csv("${file}"${sep}${decimal})`,
    ...(frame.times.zone === "UTC" ? [`${time} = pd.to_datetime(${time}, utc=True)`] : []),
    ...(frame.times.dayFirst ? [`${time} = pd.to_datetime(${time}, dayfirst=True)`] : []),
    `forecaster = Forecaster("${model}", horizon=${horizon}, levels=[${level}]${freq}${gaps}${own})`,
    model === "Ridge" ? `forecaster.fit(${call}).predict()` : `forecaster.predict(${call})`,
  ].join("\n");
}

function fill(table, header, rows) {
  const row = (tag, cells) => {
    const found = document.createElement("tr");
    cells.forEach((cell) => {
      const each = document.createElement(tag);
      each.textContent = typeof cell === "number" ? compact(cell) : cell;
      found.append(each);
    });
    return found;
  };
  table.tHead.replaceChildren(row("th", header));
  table.tBodies[0].replaceChildren(...rows.map((cells) => row("td", cells)));
}

function say(text, wrong = false) {
  $("message").textContent = text;
  $("message").classList.toggle("wrong", wrong);
  if (!wrong) return;
  $("chart").replaceChildren();
  $("chart").setAttribute("aria-label", "no forecast");
  fill($("table"), [], []);
  $("code").textContent = "";
  $("download").disabled = true;
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
  link.download = "forecast.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function field(cell) {
  return /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

function later(call) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, 300);
  };
}

start();
