// Diagonal linear recurrence: every channel of every row by itself. Included once per instruction set.

// channels that one thread walks together: as many vectors as there are registers to spare
enum { RECURRENCE_VECTORS = 4 };

// a stretch of channels of one row
struct Walk {
  const float *x, *a, *g;
  int64_t x_step, a_step, g_step, at, count;
};

static void walk(const Recurrence& r, const Walk& w) {
  vf state[RECURRENCE_VECTORS];
  int64_t vectors = (w.count + LANES - 1) / LANES;
  const float* h = r.h + w.at % (r.L * r.D) + w.at / (r.L * r.D) * r.D;
  for (int64_t j = 0; j < vectors; ++j) state[j] = load(h + j * LANES, w.count - j * LANES);
  for (int64_t i = 0; i < r.L; ++i) {
    int64_t t = r.reverse ? r.L - 1 - i : i;
    for (int64_t j = 0; j < vectors; ++j) {
      int64_t from = j * LANES, left = w.count - from;
      state[j] = load(w.a + t * w.a_step + from, left) * state[j] + load(w.x + t * w.x_step + from, left);
      store(r.y + w.at + t * r.D + from, state[j], left);
    }
  }
}

// lam[t] = g[t] + a[t + 1] lam[t + 1] is the gradient to x[t], lam[t] times the state before t that to a[t]
static void walk_back(const Recurrence& r, const Walk& w) {
  vf carry[RECURRENCE_VECTORS] = {};
  int64_t vectors = (w.count + LANES - 1) / LANES, first = w.at % (r.L * r.D) + w.at / (r.L * r.D) * r.D;
  for (int64_t i = r.L - 1; i >= 0; --i) {
    int64_t t = r.reverse ? r.L - 1 - i : i, before = r.reverse ? t + 1 : t - 1;
    const float* state = i ? r.y + w.at + before * r.D : r.h + first;
    for (int64_t j = 0; j < vectors; ++j) {
      int64_t from = j * LANES, left = w.count - from;
      vf lam = load(w.g + t * w.g_step + from, left) + carry[j];
      store(r.dx + w.at + t * r.D + from, lam, left);
      store(r.da + w.at + t * r.D + from, lam * load(state + from, left), left);
      carry[j] = load(w.a + t * w.a_step + from, left) * lam;
    }
  }
  for (int64_t j = 0; j < vectors; ++j) store(r.dh + first + j * LANES, carry[j], w.count - j * LANES);
}

// the recurrence, or its gradients; needs no memory
static int run_recurrence(const Recurrence& r, int threads) {
  int64_t width = RECURRENCE_VECTORS * LANES, parts = (r.D + width - 1) / width;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t job = 0; job < r.Bt * parts; ++job) {
    int64_t b = job / parts, d = job % parts * width;
    auto row = [&](const View& v) { return v.at ? (const float*)v.at + b * v.row + d : 0; };
    Walk w = {row(r.x), row(r.a), row(r.g), r.x.step, r.a.step, r.g.step, b * r.L * r.D + d,
              r.D - d < width ? r.D - d : width};
    r.back ? walk_back(r, w) : walk(r, w);
  }
  return 0;
}
