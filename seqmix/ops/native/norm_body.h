// Root mean square norm of rows of W numbers, alone or with a gate SiLU(z) after or before it. Included once per
// instruction set.

enum Gate { ALONE, AFTER, BEFORE };

static INLINE float total(vf x) {
  float sum = 0;
  for (int i = 0; i < LANES; ++i) sum += x[i];
  return sum;
}

// the arrays of one row; `kept` has room for three
struct Row {
  const float *x, *z, *g, *weight;
  float *y, *dx, *dz, *dweight, *kept;
};

template <Gate gate>
static void norm_row(int64_t W, double eps, const Row& r) {
  vf squares = {};
  for (int64_t j = 0; j < W; j += LANES) {
    vf v = load(r.x + j, W - j);
    if (gate == BEFORE) v *= silu(load(r.z + j, W - j));
    *(vf*)(r.kept + j) = v;
    squares += v * v;
  }
  float scale = 1. / sqrt(total(squares) / W + eps);
  for (int64_t j = 0; j < W; j += LANES) {
    vf y = *(vf*)(r.kept + j) * scale * load(r.weight + j, W - j);
    store(r.y + j, gate == AFTER ? y * silu(load(r.z + j, W - j)) : y, W - j);
  }
}

// with v what is normed, n = v scale the result, and p the gradient to n: dv = scale (p - n mean(p n))
template <Gate gate>
static void norm_row_back(int64_t W, double eps, const Row& r) {
  float *values = r.kept, *upper = values + W + LANES, *sigmoids = upper + W + LANES;
  vf squares = {}, dot = {};
  for (int64_t j = 0; j < W; j += LANES) {
    vf v = load(r.x + j, W - j), p = load(r.g + j, W - j) * load(r.weight + j, W - j);
    if (gate != ALONE) {
      vf z = load(r.z + j, W - j), s = sigmoid(z);
      *(vf*)(sigmoids + j) = s;
      (gate == BEFORE ? v : p) *= z * s;
    }
    *(vf*)(values + j) = v;
    *(vf*)(upper + j) = p;
    squares += v * v;
    dot += p * v;
  }
  double square = 1. / (total(squares) / W + eps);
  float scale = sqrt(square), mean = total(dot) * square / W;
  for (int64_t j = 0; j < W; j += LANES) {
    int64_t count = W - j;
    vf v = *(vf*)(values + j), n = v * scale, dv = scale * (*(vf*)(upper + j) - v * mean), g = load(r.g + j, count);
    if (gate != ALONE) {
      vf z = load(r.z + j, count), s = *(vf*)(sigmoids + j), slope = s + z * s * (1.f - s);
      if (gate == BEFORE) {
        store(r.dz + j, dv * load(r.x + j, count) * slope, count);
        dv *= z * s;
      } else {
        store(r.dz + j, g * load(r.weight + j, count) * n * slope, count);
        g *= z * s;
      }
    }
    store(r.dx + j, dv, count);
    store(r.dweight + j, load(r.dweight + j, count) + g * n, count);
  }
}

template <Gate gate>
static void norm_rows(const Norm& c, int64_t from, int64_t to, float* kept, float* dweight) {
  for (int64_t job = from; job < to; ++job) {
    int64_t group = job % c.G * c.W, token = job / c.G, b = token / c.L, t = token % c.L, at = job * c.W;
    auto row = [&](const View& x) { return x.at ? (const float*)x.at + b * x.row + t * x.step + group : 0; };
    Row r = {row(c.x), row(c.z), row(c.g), c.weight + group, c.y + at, c.dx + at, c.dz + at, dweight + group, kept};
    c.back ? norm_row_back<gate>(c.W, c.eps, r) : norm_row<gate>(c.W, c.eps, r);
  }
}

// the norm, or its gradients; returns 0, or 1 when there is no memory
static int run_norm(const Norm& c, int threads) {
  int64_t jobs = c.Bt * c.L * c.G, size = c.G * c.W, each = 3 * (c.W + LANES) + size;
  if (threads > jobs) threads = jobs > 0 ? (int)jobs : 1;
  float* scratch = (float*)vectors((threads * each + LANES - 1) / LANES);
  if (!scratch) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int thread = 0; thread < threads; ++thread) {
    float *kept = scratch + thread * each, *dweight = kept + each - size;
    int64_t from = jobs * thread / threads, to = jobs * (thread + 1) / threads;
    memset(dweight, 0, size * sizeof(float));
    if (!c.z.at) norm_rows<ALONE>(c, from, to, kept, dweight);
    else if (c.gate_first) norm_rows<BEFORE>(c, from, to, kept, dweight);
    else norm_rows<AFTER>(c, from, to, kept, dweight);
  }
  if (c.back)
    for (int64_t i = 0; i < size; ++i) {
      c.dweight[i] = 0;
      for (int thread = 0; thread < threads; ++thread) c.dweight[i] += scratch[(thread + 1) * each - size + i];
    }
  free(scratch);
  return 0;
}
