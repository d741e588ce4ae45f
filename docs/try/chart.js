// History, forecast and interval as one SVG picture, drawn in the colors of the page; without rows the history alone.

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [720, 320, 56, 28, 12];
// steps of history beside those of the forecast
const SHARE = 5;

export function draw(svg, { values, stamps, show }, ahead, rows, level) {
  const first = Math.max(0, values.length - Math.max(SHARE * ahead.length, 60));
  const recent = values.slice(first);
  const total = recent.length + rows.length;
  const seen = recent.filter((value) => !Number.isNaN(value)).concat(rows.flat());
  const ticks = round(Math.min(...seen), Math.max(...seen));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const x = (i) => LEFT + (i / Math.max(total - 1, 1)) * (WIDTH - LEFT - 8);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low || 1)) * (HEIGHT - BOTTOM - TOP);
  const at = (value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`;
  const end = recent.length;
  const band = [...rows.map(([, lo], i) => at(lo, end + i)), ...rows.map(([, , hi], i) => at(hi, end + i)).reverse()];
  const points = recent.map((value, i) => [value, i]).filter(([value]) => !Number.isNaN(value));
  const joined = [points.at(-1), ...rows.map(([point], i) => [point, end + i])].filter(Boolean);
  const label = (i) => show(i < end ? stamps[first + i] : ahead[i - end]);
  const marks = [[0, "start"], [Math.floor((total - 1) / 2), "middle"], [total - 1, "end"]];
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.innerHTML =
    ticks.map((tick) => `<path class="grid" d="M${LEFT} ${y(tick)}H${WIDTH - 8}"/>`).join("") +
    ticks.map((tick) => `<text x="${LEFT - 6}" y="${y(tick) + 4}" text-anchor="end">${compact(tick)}</text>`).join("") +
    marks.map(([i, side]) => `<text x="${x(i)}" y="${HEIGHT - 8}" text-anchor="${side}">${label(i)}</text>`).join("") +
    `<polygon class="band" points="${band.join(" ")}"/>` +
    path("history", points, at) +
    path("forecast", joined, at);
  const past = `${points.length} values of history up to ${show(stamps.at(-1))}`;
  if (!rows.length) return svg.setAttribute("aria-label", past);
  const [least, most] = [Math.min, Math.max].map((of) => compact(of(...rows.map(([point]) => point))));
  const future = `a forecast of ${rows.length} steps between ${least} and ${most}, with ${level} % intervals`;
  svg.setAttribute("aria-label", `${past}, then ${future}; the table below has the numbers`);
}

export function compact(value) {
  const notation = Math.abs(value) >= 1e5 ? "compact" : "standard";
  return value.toLocaleString("en-US", { maximumSignificantDigits: 4, notation });
}

function path(name, points, at) {
  const line = points.map(([value, i]) => at(value, i)).join(" ");
  // a line of one point is its round end
  return `<polyline class="${name}" points="${points.length === 1 ? `${line} ${line}` : line}"/>`;
}

// four to seven round numbers that hold all values
function round(low, high) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = power * [1, 2, 5, 10].find((each) => span / (power * each) <= 6);
  const begin = Math.floor(low / step) * step;
  const found = [begin];
  while (found.at(-1) < high && found.length < 12) found.push(begin + step * found.length);
  return found.length > 1 ? found : [begin, begin + step];
}
