// Ridge in closed form, as `seqmix.models.Ridge` with one matrix: fit, generalized cross-validation, calibrated intervals.
import { refuse } from "./messages.js";

const RIDGES = [1e-3, 1e-2, 1e-1, 1, 10, 100, 1e3, 1e4, 1e5];
const EPS = 2 ** -52;
const MOST_WINDOWS = 2048;
const WINDOWS_OF_A_STEP = 4;
// fewer training windows count less in cross-validation, and fewer errors than this calibrate no intervals
const [FEW, FEWEST] = [10, 4];
// steps whose rows are alike, and the lookback from which on they share the search over the penalty
const [ALIKE, LARGE] = [0.8, 128];
const ANGLES = 20000;
// what takes the place of a unit of zero, small enough to change nothing else
const TINY = 1e-290;

// rows [point, lo, hi] of the horizon in the units of the data; the plan is that of the Forecaster
export function ridge({ values }, clock, horizon, level) {
  const n = values.length;
  const context = lookback(n, clock, horizon);
  const season = clock.season <= context ? clock.season : 1;
  if (n <= horizon) refuse("too_short", { rows: n, horizon, need: horizon + 1 });
  const held = n >= context + 4 * horizon ? 0 : heldOut(n, context, horizon, season, level);
  const { loc, scale } = scaling(values.slice(0, n - held), season);
  // missing rows before a series that is shorter than a window
  const before = Array(Math.max(0, context + horizon - n)).fill(NaN);
  const scaled = [...before, ...values].map((value) => Math.fround((value - loc) / scale));
  const windows = [];
  for (let at = 0; at + context + horizon <= scaled.length; at++) windows.push(window(scaled, at, context, horizon));
  const train = windows.slice(0, scaled.length - held - context - horizon + 1);
  const val = held ? windows.slice(train.length + horizon - 1) : [];
  const map = fit(train, val, context, horizon);
  const errors = [];
  const all = Array.from({ length: horizon }, (_, h) => h);
  const tested = (rows, rest) =>
    rows.forEach((row) => {
      const unit = localScale(scaled, row.at, context, season);
      const found = forecast(row, rest);
      errors.push(found.map((value, h) => (Math.abs(row.y[h] - value) * row.scale) / unit));
    });
  if (held) tested(val, map);
  else for (const { inside, rest } of blocks(train, horizon)) tested(inside, fit(rest, [], context, horizon));
  const start = scaled.length - context;
  const last = window(scaled, start, context, 0);
  const flat = last.scale * Math.max(...last.d.map((d, j) => Math.abs(d + last.last))) <= 1e-6 * (1 + Math.abs(last.level));
  const unit = localScale(scaled, start, context, season);
  const positive = values.every((value) => !(value < 0));
  const known = all.map((h) => errors.map((each) => each[h]).filter((error) => !Number.isNaN(error)));
  const few = known.some((each) => each.length < FEWEST);
  const margins = few ? naive(scaled, level, horizon).map((x) => x / unit) : known.map((each) => quantile(each, level));
  return forecast(last, map).map((value, h) => {
    const point = ((flat ? 0 : value * last.scale) + last.level) * scale + loc;
    const margin = margins[h] * unit * scale;
    return [point, point - margin, point + margin].map((y) => (positive ? Math.max(y, 0) : y));
  });
}

// the default of the Forecaster: with its horizon at most half of the series, unless horizon or season need more
function lookback(n, { season, cycle }, horizon) {
  const room = Math.max(n - 2 * horizon, horizon);
  // a season longer than the usual lookback counts if it is seen twice, or in many windows
  const known = season <= cycle || 2 * season <= n || n - season - horizon + 1 >= WINDOWS_OF_A_STEP * season;
  const least = known && season <= room ? season : 1;
  const most = Math.max(Math.floor(n / 2) - horizon, Math.min(3 * horizon, room), least);
  return Math.min(Math.max(3 * horizon, cycle, least), most, room);
}

// validation rows where there are too few for windows that do not overlap
function heldOut(n, context, horizon, season, level) {
  const spare = n - context - 2 * horizon + 1;
  const origins = Math.max(10, season === 24 ? 6 * season + 1 : 0, Math.ceil(level / (100 - level)));
  const want = Math.max(Math.floor(n / 10), horizon - 1 + origins);
  if (n >= want + context + horizon) return want;
  const few = spare >= 1 ? Math.min(Math.max(Math.floor(spare / 2), 1), origins) : 0;
  return few ? horizon - 1 + few : 0;
}

// the score of rank ceil((n + 1) level / 100) of n, or by Student's t where n is too small for it
function quantile(scores, level) {
  const n = scores.length;
  const rising = scores.sort((a, b) => a - b);
  const rank = Math.ceil(((n + 1) * level) / 100 - 1e-9);
  return rank <= n ? rising[rank - 1] : Math.max(rising[n - 1], Math.sqrt(mean(rising.map((x) => x * x))) * student(n, level));
}

// half widths of the naive forecast: those of a random walk with noise, by Student's t, to half a percent of the level
function naive(scaled, level, horizon) {
  const apart = scaled.slice(1).map((value, i) => value - scaled[i]);
  const known = apart.filter((value) => !Number.isNaN(value));
  const n = known.length;
  if (!n) refuse("few_windows", {});
  const variance = mean(known.map((value) => value * value));
  const both = apart.slice(1).map((value, i) => value * apart[i]).filter((value) => !Number.isNaN(value));
  const own = both.reduce((sum, value) => sum + value, 0) / n / (variance || 1);
  const share = Math.min(0.5, Math.max(-0.5, (own * (n - 1)) / (n + 3)));
  const wide = Math.sqrt(variance) * student(n, Math.min(99.5, Math.ceil(2 * level - 1e-9) / 2));
  return Array.from({ length: horizon }, (_, h) => wide * Math.sqrt(h + 1 + 2 * h * share));
}

// half width of Student's t with n degrees of freedom: sqrt(n) tan(a), where the angle a has the density cos(a)^(n - 1)
function student(n, level) {
  const step = Math.PI / 2 / ANGLES;
  const mass = new Float64Array(ANGLES + 1);
  for (let k = 0; k < ANGLES; k++) mass[k + 1] = mass[k] + Math.cos((k + 0.5) * step) ** (n - 1);
  const wanted = (mass[ANGLES] * level) / 100;
  const k = mass.findIndex((value) => value > wanted) - 1;
  return Math.sqrt(n) * Math.tan((k + (wanted - mass[k]) / (mass[k + 1] - mass[k])) * step);
}

// mean, and the error of the seasonal naive forecast that the series is divided by
function scaling(values, season) {
  const seen = values.filter((value) => !Number.isNaN(value));
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  const span = high - low > EPS * Math.max(Math.abs(low), Math.abs(high)) ? high - low : 0;
  const part = seen.map((value) => (span ? (value - low) / span : 0));
  const middle = mean(part);
  const loc = low + span * middle;
  if (!span) return { loc, scale: loc === 0 ? 1 : Math.abs(loc) };
  const deviation = span * Math.sqrt(mean(part.map((value) => (value - middle) ** 2)));
  const apart = values.map((value, i) => Math.abs(value - values[i - season]) / span).filter((value) => !Number.isNaN(value));
  const error = apart.length ? mean(apart) : 0;
  const least = Math.max(1e-9, (EPS * Math.max(Math.abs(low), Math.abs(high))) / span);
  return { loc, scale: error > least ? Math.max(span * error, 0.01 * deviation) : deviation };
}

// a window normalized by its own mean and deviation, as differences to its last value; NaN targets are missing
function window(scaled, at, context, horizon) {
  const x = scaled.slice(at, at + context);
  const seen = x.filter((value) => !Number.isNaN(value));
  const level = seen.length ? mean(seen) : 0;
  const scale = Math.sqrt((seen.length ? mean(seen.map((value) => (value - level) ** 2)) : 0) + 1e-5);
  const z = filled(x.map((value) => (value - level) / scale));
  const last = z[context - 1];
  const d = z.map((value) => value - last);
  const y = scaled.slice(at + context, at + context + horizon).map((value) => (value - level) / scale);
  return { at, level, scale, last, d, y };
}

// each missing value is the one before it, or the first after it at the start
function filled(z) {
  let before = z.find((value) => !Number.isNaN(value)) ?? 0;
  return z.map((value) => (before = Number.isNaN(value) ? before : value));
}

function forecast({ d, last }, map) {
  return map.map((weight) => last + dot(weight, d));
}

// weights of the differences for each step, with the penalty that has the least error over all steps
function fit(train, val, context, horizon) {
  const complete = train.every((row) => row.y.every((value) => !Number.isNaN(value)));
  const all = Array.from({ length: horizon }, (_, h) => h);
  const parts = complete ? [all] : all.map((h) => [h]);
  const counts = all.map((h) => train.filter((row) => !Number.isNaN(row.y[h])).length);
  const most = Math.max(1, ...counts);
  if (!complete && horizon > 1 && context >= LARGE && Math.min(...counts) > Math.max(ALIKE * most, 2 * context)) {
    const chosen = search(train, val, context, counts);
    return all.flatMap((h) => path(train, [], context, [h], 1)[chosen].map());
  }
  const found = parts.map((steps) => path(train, val, context, steps, Math.max(1, FEW / most)));
  const total = RIDGES.map((_, r) => found.reduce((sum, part) => sum + part[r].squared, 0));
  const least = Math.min(...total);
  const best = least < Infinity ? total.indexOf(least) : total.length - 1;
  return found.flatMap((part) => part[best].map());
}

// the best penalty where steps lack few targets, by the mean of their products
function search(train, val, D, counts) {
  const seen = (row, h) => !Number.isNaN(row.y[h]);
  const totals = counts.map((_, h) => train.reduce((sum, row) => sum + (seen(row, h) ? row.scale ** 2 : 0), 0) || TINY);
  const shares = train.map((row) => Math.sqrt(mean(totals.map((total, h) => (seen(row, h) ? row.scale ** 2 / total : 0)))));
  const X = train.map((row, i) => Float64Array.from(row.d, (value) => shares[i] * value));
  const { diagonal, beside, turn, back } = tridiagonal(gram(X, D));
  const unit = Math.max(X.reduce((sum, x) => sum + dot(x, x), 0) / D, TINY);
  const turned = totals.map((total, h) => {
    const rows = train.filter((row) => seen(row, h));
    return turn(sumOf(rows.map((row) => row.d), rows.map((row) => (row.scale ** 2 * (row.y[h] - row.last)) / total), D));
  });
  const errors = RIDGES.map((ridge) => {
    const solved = shifted(diagonal, beside, ridge * unit);
    const map = turned.map((c) => back(solved.solve(c)));
    if (val.length) return errorOf(val, map, map.map((_, h) => h));
    const left = counts.map((count) => Math.max(1 - (D - ridge * unit * solved.trace) / count, 1e-3));
    return map.reduce((sum, w, h) => sum + errorOf(train, [w], [h]) / left[h] ** 2, 0);
  });
  return errors.indexOf(Math.min(...errors));
}

// the maps of all penalties for steps that the same rows count at, and their errors; with fewer rows than weights in the
// dual form, where the weights are sums over rows
function path(train, val, D, steps, overlap) {
  const rows = train.filter((row) => !Number.isNaN(row.y[steps[0]]));
  const total = rows.reduce((sum, row) => sum + row.scale ** 2, 0) || TINY;
  const shares = rows.map((row) => row.scale / Math.sqrt(total));
  const X = rows.map((row, i) => Float64Array.from(row.d, (value) => shares[i] * value));
  const Y = steps.map((h) => Float64Array.from(rows, (row, i) => shares[i] * (row.y[h] - row.last)));
  const dual = rows.length < D;
  const products = dual ? X.map((x, i) => X.slice(0, i + 1).map((z) => dot(x, z))) : gram(X, D);
  const { diagonal, beside, turn, back } = tridiagonal(products);
  const unit = Math.max(X.reduce((sum, x) => sum + dot(x, x), 0) / D, TINY);
  const turned = (dual ? Y : Y.map((y) => sumOf(X, y, D))).map(turn);
  return RIDGES.map((ridge) => {
    const penalty = ridge * unit;
    const solved = shifted(diagonal, beside, penalty);
    const weights = turned.map(solved.solve);
    const map = () => weights.map(back).map((w) => (dual ? sumOf(X, w, D) : w));
    if (val.length) return { map, squared: errorOf(val, map(), steps) };
    // errors are the penalty times the dual weights, and w'Aw is w'c less the penalty
    const squared = weights.map((w, k) =>
      dual ? penalty ** 2 * dot(w, w) : Math.max(0, dot(Y[k], Y[k]) - dot(w, turned[k]) - penalty * dot(w, w)),
    );
    const freedom = diagonal.length - penalty * solved.trace;
    const share = freedom / Math.max(rows.length, 1);
    const [alone, left] = [1 - share, 1 - share * overlap];
    const error = (squared.reduce((a, b) => a + b, 0) * total) / Math.max(alone, 1e-3) ** 2;
    return { map, squared: overlap > 1 ? (left > 0 ? error * (alone / left) ** 2 : Infinity) : error };
  });
}

// the lower triangle of X'X
function gram(X, D) {
  const A = Array.from({ length: D }, (_, i) => new Float64Array(i + 1));
  for (const x of X) {
    for (let i = 0; i < D; i++) {
      const [row, value] = [A[i], x[i]];
      for (let j = 0; j <= i; j++) row[j] += value * x[j];
    }
  }
  return A;
}

// X'w
function sumOf(X, w, D) {
  const found = new Float64Array(D);
  X.forEach((x, i) => {
    for (let j = 0; j < D; j++) found[j] += w[i] * x[j];
  });
  return found;
}

function errorOf(rows, map, steps) {
  let squared = 0;
  for (const row of rows) {
    map.forEach((weight, k) => {
      const error = row.y[steps[k]] - row.last - dot(weight, row.d);
      if (!Number.isNaN(error)) squared += (row.scale * error) ** 2;
    });
  }
  return squared;
}

// the lower triangle of a symmetric matrix as Q T Q' with T tridiagonal, by reflections; `turn` is Q', `back` is Q
function tridiagonal(A) {
  const D = A.length;
  const beside = new Float64Array(D);
  const mirrors = [];
  for (let k = 0; k < D - 2; k++) {
    const v = new Float64Array(D);
    let size = 0;
    for (let i = k + 1; i < D; i++) size += (v[i] = A[i][k]) ** 2;
    const norm = Math.sqrt(size);
    beside[k] = v[k + 1] > 0 ? -norm : norm;
    v[k + 1] -= beside[k];
    const length = dot(v, v);
    if (!(length > 0)) continue;
    mirrors.push([k + 1, v, 2 / length]);
    const p = new Float64Array(D);
    for (let i = k + 1; i < D; i++) {
      const row = A[i];
      let sum = row[i] * v[i];
      for (let j = k + 1; j < i; j++) {
        sum += row[j] * v[j];
        p[j] += row[j] * v[i];
      }
      p[i] += sum;
    }
    const factor = 2 / length;
    const half = (factor * factor * dot(p, v)) / 2;
    for (let i = k + 1; i < D; i++) p[i] = factor * p[i] - half * v[i];
    for (let i = k + 1; i < D; i++) {
      const row = A[i];
      for (let j = k + 1; j <= i; j++) row[j] -= v[i] * p[j] + p[i] * v[j];
    }
  }
  if (D > 1) beside[D - 2] = A[D - 1][D - 2];
  const reflect = (x, order) => {
    const found = Float64Array.from(x);
    for (const [begin, v, factor] of order) {
      let sum = 0;
      for (let i = begin; i < D; i++) sum += v[i] * found[i];
      for (let i = begin; i < D; i++) found[i] -= factor * sum * v[i];
    }
    return found;
  };
  const reversed = [...mirrors].reverse();
  return {
    diagonal: A.map((row, i) => row[i]),
    beside,
    turn: (x) => reflect(x, mirrors),
    back: (x) => reflect(x, reversed),
  };
}

// T + shift of a tridiagonal T: the trace of its inverse, and what solves it
function shifted(diagonal, beside, shift) {
  const D = diagonal.length;
  const down = new Float64Array(D);
  const up = new Float64Array(D);
  const at = (i) => diagonal[i] + shift;
  for (let i = 0; i < D; i++) down[i] = at(i) - (i ? beside[i - 1] ** 2 / down[i - 1] : 0);
  for (let i = D - 1; i >= 0; i--) up[i] = at(i) - (i < D - 1 ? beside[i] ** 2 / up[i + 1] : 0);
  let trace = 0;
  for (let i = 0; i < D; i++) trace += 1 / (down[i] + up[i] - at(i));
  const solve = (x) => {
    const found = Float64Array.from(x);
    for (let i = 1; i < D; i++) found[i] -= (beside[i - 1] / down[i - 1]) * found[i - 1];
    for (let i = D - 1; i >= 0; i--) found[i] = (found[i] - (i < D - 1 ? beside[i] * found[i + 1] : 0)) / down[i];
    return found;
  };
  return { trace, solve };
}

// ten blocks of windows, and for each the windows whose horizons do not overlap with theirs
function blocks(train, horizon) {
  const stride = Math.max(1, Math.floor(train.length / MOST_WINDOWS));
  const found = [];
  for (let k = 0; k < 10; k++) {
    const [low, high] = [k, k + 1].map((edge) => Math.floor((edge * train.length) / 10));
    const inside = train.slice(low, high).filter((_, i) => i % stride === 0);
    const rest = train.filter((_, i) => i < low - horizon + 1 || i >= high + horizon - 1);
    if (inside.length && rest.length) found.push({ inside, rest });
  }
  return found;
}

// mean absolute seasonal difference of a window, at least a fifth of the unit of the series, larger if it is of few values
function localScale(scaled, at, context, season) {
  const apart = [];
  for (let i = at + season; i < at + context; i++) {
    const difference = Math.abs(scaled[i] - scaled[i - season]);
    if (!Number.isNaN(difference)) apart.push(difference);
  }
  const seen = scaled.slice(at, at + context).filter((value) => !Number.isNaN(value)).length;
  const freedom = Math.max(apart.length || seen - 1, 1);
  const whole = context > season ? context - season : Math.max(context - 1, 1);
  return (apart.length ? Math.max(mean(apart), 0.2) : 1) * (smallSample(freedom) / smallSample(whole));
}

// the 90 % quantile of Student's t over that of the normal distribution, within 3 percent
function smallSample(freedom) {
  return 1 + 0.66 / freedom + 0.74 / freedom ** 2;
}

function mean(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
