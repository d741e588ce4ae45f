// Depthwise convolution of sequences (B, L, D), channels in lanes. Included once per instruction set.
//
// Four positions at a time, so that a tap is loaded once for four products. Rows beyond the ends are a row of zeros.
// Few channels do not fill a vector: then positions are lanes as well, and the kernels repeat themselves along them.

static const int64_t ROWS = 4, TILE = 64;

// rows[r] is position t + r of item b
template <class T>
static INLINE void point(const T** rows, int64_t count, const Conv& c, const View& x, int64_t b, int64_t t,
                         const T* zeros) {
  for (int64_t r = 0; r < count; ++r, ++t)
    rows[r] = t >= 0 && t < c.L ? (const T*)x.at + b * x.row + t * x.step : zeros;
}

// what is made of a sum: `dy` is null, or the gradient to the result
template <class T>
static INLINE vf activate(const Conv& c, vf sum, const T* dy, int64_t count) {
  if (!c.silu) return sum;
  return dy ? load(dy, count) * silu_slope(sum) : silu(sum);
}

template <class T>
static INLINE void convolve_lanes(const Conv& c, const T* const* rows, const float* taps, const T* dy, T* y,
                                  int64_t valid, int64_t channel, int64_t count) {
  vf sum[ROWS];
#pragma GCC unroll 4
  for (int i = 0; i < ROWS; ++i) sum[i] = c.bias ? load(c.bias + channel, count) : (vf){};
  for (int64_t k = 0; k < c.K; ++k) {
    vf w = load(taps + k * c.D + channel, count);
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) sum[i] += w * load(rows[i + k] + channel, count);
  }
#pragma GCC unroll 4
  for (int i = 0; i < ROWS; ++i)
    if (i < valid)
      store(y + i * c.D + channel, activate(c, sum[i], dy ? dy + i * c.dy.step + channel : 0, count), count);
}

// one tile of time of one item
template <class T>
static void convolve(const Conv& c, int64_t b, int64_t from, int64_t to, const T** rows, const T* zeros,
                     const float* taps) {
  for (int64_t t = from; t < to; t += ROWS) {
    int64_t valid = to - t < ROWS ? to - t : ROWS, channel = 0;
    point(rows, c.K + ROWS - 1, c, c.x, b, t - c.left, zeros);
    T* y = (T*)c.y + (b * c.L + t) * c.D;
    const T* dy = c.dy.at ? (const T*)c.dy.at + b * c.dy.row + t * c.dy.step : 0;
    for (; channel + LANES <= c.D; channel += LANES) convolve_lanes(c, rows, taps, dy, y, valid, channel, LANES);
    if (channel < c.D) convolve_lanes(c, rows, taps, dy, y, valid, channel, c.D - channel);
  }
}

// sums[k] += sum_t g[t] x[t - left + k], sums[K] += sum_t g[t], over four positions
template <class T>
static INLINE void correlate_lanes(const Conv& c, const T* const* rows, const T* const* g_rows, float* sums,
                                   int64_t channel, int64_t count) {
  vf g[ROWS], bias = load(sums + c.K * c.D + channel, count);
#pragma GCC unroll 4
  for (int i = 0; i < ROWS; ++i) {
    g[i] = load(g_rows[i] + channel, count);
    bias += g[i];
  }
  store(sums + c.K * c.D + channel, bias, count);
  for (int64_t k = 0; k < c.K; ++k) {
    vf sum = load(sums + k * c.D + channel, count);
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) sum += g[i] * load(rows[i + k] + channel, count);
    store(sums + k * c.D + channel, sum, count);
  }
}

template <class T>
static void correlate(const Conv& c, int64_t b, int64_t from, int64_t to, const T** rows, const T* zeros, float* sums) {
  const T* g_rows[ROWS];
  for (int64_t t = from; t < to; t += ROWS) {
    point(rows, c.K + ROWS - 1, c, c.x, b, t - c.left, zeros);
    point(g_rows, ROWS, c, c.g, b, t, zeros);
    int64_t channel = 0;
    for (; channel + LANES <= c.D; channel += LANES) correlate_lanes(c, rows, g_rows, sums, channel, LANES);
    if (channel < c.D) correlate_lanes(c, rows, g_rows, sums, channel, c.D - channel);
  }
}

// `rows` positions from t on, one after another in float32, zeros beyond the ends and in the vector that follows
template <class T>
static INLINE void copy(float* to, const Conv& c, const View& x, int64_t b, int64_t t, int64_t rows) {
  for (int64_t end = t + rows; t < end; ++t, to += c.D) {
    const T* from = (const T*)x.at + b * x.row + t * x.step;
    bool inside = t >= 0 && t < c.L;
    for (int64_t d = 0; d < c.D; ++d) to[d] = inside ? widen(from[d]) : 0.f;
  }
  memset(to, 0, LANES * sizeof(float));
}

// kernels and bias (K + 1, D vectors): lane i of vector v is channel (v LANES + i) % D
static void repeat(vf* to, const Conv& c) {
  for (int64_t k = 0; k <= c.K; ++k)
    for (int64_t i = 0; i < c.D * LANES; ++i)
      ((float*)(to + k * c.D))[i] = k < c.K ? c.weight[i % c.D * c.K + k] : c.bias ? c.bias[i % c.D] : 0.f;
}

template <class T>
static void convolve_narrow(const Conv& c, int64_t b, int64_t from, int64_t to, float* x, const vf* taps) {
  int64_t count = (to - from) * c.D, v = 0;
  T* y = (T*)c.y + (b * c.L + from) * c.D;
  float* dy = c.dy.at ? x + (TILE + c.K - 1) * c.D + LANES : 0;
  copy<T>(x, c, c.x, b, from - c.left, to - from + c.K - 1);
  if (dy) copy<T>(dy, c, c.dy, b, from, to - from);
  for (int64_t j = 0; j < count; j += LANES, v = v + 1 < c.D ? v + 1 : 0) {
    vf sum = taps[c.K * c.D + v];
    for (int64_t k = 0; k < c.K; ++k) sum += taps[k * c.D + v] * load(x + j + k * c.D, LANES);
    store(y + j, activate(c, sum, dy ? dy + j : dy, LANES), count - j);
  }
}

template <class T>
static void correlate_narrow(const Conv& c, int64_t b, int64_t from, int64_t to, float* x, vf* sums) {
  int64_t count = (to - from) * c.D, v = 0;
  float* g = x + (TILE + c.K - 1) * c.D + LANES;
  copy<T>(x, c, c.x, b, from - c.left, to - from + c.K - 1);
  copy<T>(g, c, c.g, b, from, to - from);
  for (int64_t j = 0; j < count; j += LANES, v = v + 1 < c.D ? v + 1 : 0) {
    vf gj = load(g + j, LANES);
    for (int64_t k = 0; k < c.K; ++k) sums[k * c.D + v] += gj * load(x + j + k * c.D, LANES);
    sums[c.K * c.D + v] += gj;
  }
}

// what a thread works with
template <class T>
struct Desk {
  const T **rows, *zeros;
  // sums (K + 1, D), and for few channels those before the sum over lanes and copies of a tile
  float *sums, *copies;
  vf* narrow_sums;
};

template <class T>
static void run_tile(const Conv& c, bool narrow, int64_t b, int64_t from, int64_t to, const Desk<T>& desk,
                     const float* taps, const vf* narrow_taps) {
  if (c.back) {
    if (narrow) correlate_narrow<T>(c, b, from, to, desk.copies, desk.narrow_sums);
    else correlate<T>(c, b, from, to, desk.rows, desk.zeros, desk.sums);
  } else {
    if (narrow) convolve_narrow<T>(c, b, from, to, desk.copies, narrow_taps);
    else convolve<T>(c, b, from, to, desk.rows, desk.zeros, taps);
  }
}

// convolution, or its gradients to weight and bias; returns 0, or 1 when there is no memory
template <class T>
static int run_conv(const Conv& c, int threads) {
  bool back = c.back, narrow = c.D < 2 * LANES;
  int64_t tiles = (c.L + TILE - 1) / TILE, jobs = c.Bt * tiles, size = (c.K + 1) * c.D;
  int64_t copies = (2 * TILE + c.K) * c.D + 2 * LANES, vectors_each = narrow ? size + (copies + LANES - 1) / LANES : 0;
  if (threads > jobs) threads = jobs > 0 ? (int)jobs : 1;
  float *taps = (float*)malloc((size + 1) * sizeof(float)), *sums = (float*)calloc(threads * size + 1, sizeof(float));
  vf *scratch = vectors(threads * vectors_each + 1), *narrow_taps = vectors(narrow ? size : 1);
  T* zeros = (T*)calloc(c.D + 1, sizeof(T));
  const T** rows = (const T**)malloc(threads * (c.K + ROWS) * sizeof(T*));
  bool enough = taps && sums && scratch && narrow_taps && zeros && rows;
  if (enough) {
    if (!back && narrow) repeat(narrow_taps, c);
    if (!back && !narrow)
      for (int64_t k = 0; k < c.K; ++k)
        for (int64_t d = 0; d < c.D; ++d) taps[k * c.D + d] = c.weight[d * c.K + k];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int thread = 0; thread < threads; ++thread) {
      vf* own = scratch + thread * vectors_each;
      Desk<T> desk = {rows + thread * (c.K + ROWS), zeros, sums + thread * size, (float*)(own + size), own};
      if (narrow) memset(own, 0, size * sizeof(vf));
      for (int64_t job = jobs * thread / threads; job < jobs * (thread + 1) / threads; ++job) {
        int64_t from = job % tiles * TILE, to = from + TILE < c.L ? from + TILE : c.L;
        run_tile(c, narrow, job / tiles, from, to, desk, taps, narrow_taps);
      }
      if (narrow && back)
        for (int64_t k = 0; k <= c.K; ++k)
          for (int64_t i = 0; i < c.D * LANES; ++i) desk.sums[k * c.D + i % c.D] += ((float*)(own + k * c.D))[i];
    }
    if (back)
      for (int64_t d = 0; d < c.D; ++d)
        for (int64_t k = 0; k <= c.K; ++k) {
          float sum = 0;
          for (int thread = 0; thread < threads; ++thread) sum += sums[thread * size + k * c.D + d];
          (k < c.K ? c.dweight + d * c.K + k : c.dbias + d)[0] = sum;
        }
  }
  free(taps);
  free(sums);
  free(scratch);
  free(narrow_taps);
  free(zeros);
  free(rows);
  return !enough;
}
