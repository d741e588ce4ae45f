// ZeroShot: the graph that Python exported, run by onnxruntime-web in this page.
import * as ort from "./onnxruntime/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
let loading;

// rows [point, lo, hi] of the horizon in the units of the data
export async function zeroShot({ values }, clock, horizon, level, facts) {
  // the graph was simplified when it was exported
  const how = { graphOptimizationLevel: "disabled" };
  loading ??= ort.InferenceSession.create(new URL("./zeroshot.onnx", import.meta.url).href, how);
  const session = await loading;
  const x = new Float64Array(facts.context);
  const mask = new Uint8Array(facts.context);
  values.slice(-facts.context).forEach((value, i, { length }) => {
    const at = facts.context - length + i;
    if (Number.isNaN(value)) return;
    x[at] = value;
    mask[at] = 1;
  });
  const { known, widths } = facts.seasons[Math.min(clock.season, facts.context)] ?? facts.seasons.other;
  const season = Math.min(clock.season, facts.context);
  const { y } = await session.run({
    x: new ort.Tensor("float64", x, [1, facts.context]),
    mask: new ort.Tensor("bool", mask, [1, facts.context]),
    known: new ort.Tensor("int64", BigInt64Array.from(known ?? [season, 0], BigInt), [1, 2]),
    widths: new ort.Tensor("float32", Float32Array.from(widths), [widths.length]),
  });
  const K = facts.quantiles.length;
  const positive = values.every((value) => !(value < 0));
  const [mid, lo, hi] = [0.5, 0.5 - level / 200, 0.5 + level / 200].map((q) => nearest(facts.quantiles, q));
  return Array.from({ length: horizon }, (_, h) =>
    [mid, lo, hi].map((k) => (positive ? Math.max(y.data[h * K + k], 0) : y.data[h * K + k])),
  );
}

function nearest(quantiles, q) {
  return quantiles.reduce((best, each, k) => (Math.abs(each - q) < Math.abs(quantiles[best] - q) ? k : best), 0);
}
