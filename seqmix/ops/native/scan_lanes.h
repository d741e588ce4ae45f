// Selective scan: which channels lie in the lanes of a vector, and how they are read and written. Included once per
// instruction set.

// what a block of lanes works on
struct Lanes {
  // all lanes in one item and group, side by side
  bool together;
  int64_t count, length;
  int64_t item[LANES], group[LANES], channel[LANES];
};

// row of the first position of an item, and its index there
static INLINE int64_t row(const Scan& s, int64_t item) { return s.bounds ? 0 : item; }
static INLINE int64_t first(const Scan& s, int64_t item) { return s.bounds ? s.bounds[item] : 0; }
static INLINE int64_t length(const Scan& s, int64_t item) {
  return s.bounds ? s.bounds[item + 1] - s.bounds[item] : s.L;
}

// index of the position that the scan reaches as its i-th
static INLINE int64_t position(const Scan& s, int64_t item, int64_t i) {
  return first(s, item) + (s.reverse ? length(s, item) - 1 - i : i);
}

static INLINE int64_t offset(const Scan& s, const View& x, int64_t item, int64_t i) {
  return row(s, item) * x.row + position(s, item, i) * x.step;
}

// results are contiguous
static INLINE int64_t token(const Scan& s, int64_t item, int64_t i) { return row(s, item) * s.L + position(s, item, i); }

// where the states on entry of a chunk are: (chunks, N, D)
static INLINE float* marks(const Scan& s, int64_t item, int64_t chunk) {
  int64_t before = s.bounds ? s.bounds[item] / s.chunk + item : item * ((s.L + s.chunk - 1) / s.chunk);
  return s.marks + (before + chunk) * s.N * s.D;
}

// `steps` positions of x from the i-th on, channels in lanes
template <class T>
static INLINE void fetch_as(vf* to, const Scan& s, const View& x, const Lanes& lanes, int64_t i, int64_t steps) {
  int64_t step = s.reverse ? -x.step : x.step;
  if (lanes.together) {
    const T* from = (const T*)x.at + offset(s, x, lanes.item[0], i) + lanes.channel[0];
    for (int64_t t = 0; t < steps; ++t) {
      // the next chunk reads the row `steps` further on, too far apart for the processor to foresee
      __builtin_prefetch(from + (t + steps) * step);
      to[t] = load(from + t * step, lanes.count);
    }
    return;
  }
  for (int lane = 0; lane < lanes.count; ++lane) {
    const T* from = (const T*)x.at + offset(s, x, lanes.item[lane], i) + lanes.channel[lane];
    for (int64_t t = 0; t < steps; ++t) ((float*)(to + t))[lane] = widen(from[t * step]);
  }
}

static void fetch(vf* to, const Scan& s, const View& x, const Lanes& lanes, int64_t i, int64_t steps) {
  x.half ? fetch_as<uint16_t>(to, s, x, lanes, i, steps) : fetch_as<float>(to, s, x, lanes, i, steps);
}

// a number of each channel
static INLINE vf each(const float* from, const Lanes& lanes) {
  if (lanes.together) return load(from + lanes.channel[0], lanes.count);
  vf x = {};
  for (int lane = 0; lane < lanes.count; ++lane) x[lane] = from[lanes.channel[lane]];
  return x;
}

// step sizes of the same
static void fetch_steps(vf* to, const Scan& s, const Lanes& lanes, int64_t i, int64_t steps) {
  fetch(to, s, s.dt, lanes, i, steps);
  if (!s.bias) return;
  vf bias = each(s.bias, lanes);
  for (int64_t t = 0; t < steps; ++t) to[t] = softplus(to[t] + bias);
}

// the inverse of fetch, into a contiguous result (rows, L, D)
static void put(float* to, const Scan& s, const vf* x, const Lanes& lanes, int64_t i, int64_t steps) {
  int64_t step = s.reverse ? -s.D : s.D;
  if (lanes.together) {
    to += token(s, lanes.item[0], i) * s.D + lanes.channel[0];
    for (int64_t t = 0; t < steps; ++t) store(to + t * step, x[t], lanes.count);
    return;
  }
  for (int lane = 0; lane < lanes.count; ++lane) {
    float* at = to + token(s, lanes.item[lane], i) * s.D + lanes.channel[lane];
    for (int64_t t = 0; t < steps; ++t) at[t * step] = ((const float*)(x + t))[lane];
  }
}

// B or C of a chunk. Lanes that share it read float32 where it lies; bfloat16 is widened into scratch first
template <class T>
static const float* shared_map(float* scratch, const Scan& s, const View& x, const Lanes& lanes, int64_t i,
                               int64_t steps, int64_t* step) {
  const T* from = (const T*)x.at + offset(s, x, lanes.item[0], i) + lanes.group[0] * s.N;
  *step = s.reverse ? -x.step : x.step;
  if (sizeof(T) == sizeof(float)) return (const float*)from;
  for (int64_t t = 0; t < steps; ++t)
    for (int64_t n = 0; n < s.N; ++n) scratch[t * s.N + n] = widen(from[t * *step + n]);
  *step = s.N;
  return scratch;
}

static const float* map(float*, vf* scratch, const Scan& s, const View& x, const Lanes& lanes, int64_t i, int64_t steps,
                        int64_t* step) {
  return x.half ? shared_map<uint16_t>((float*)scratch, s, x, lanes, i, steps, step)
                : shared_map<float>((float*)scratch, s, x, lanes, i, steps, step);
}

template <class T>
static void vector_map(vf* scratch, const Scan& s, const View& x, const Lanes& lanes, int64_t i, int64_t steps) {
  int64_t step = s.reverse ? -x.step : x.step;
  const T* from[LANES];
  for (int lane = 0; lane < LANES; ++lane) {
    // lanes without a channel read what the first one does; their inputs u are zero and their results dropped
    int own = lane < lanes.count ? lane : 0;
    from[lane] = (const T*)x.at + offset(s, x, lanes.item[own], i) + lanes.group[own] * s.N;
  }
  for (int64_t t = 0; t < steps; ++t)
    for (int64_t n = 0; n < s.N; ++n)
      for (int lane = 0; lane < LANES; ++lane) ((float*)(scratch + t * s.N + n))[lane] = widen(from[lane][t * step + n]);
}

static const vf* map(vf*, vf* scratch, const Scan& s, const View& x, const Lanes& lanes, int64_t i, int64_t steps,
                     int64_t* step) {
  x.half ? vector_map<uint16_t>(scratch, s, x, lanes, i, steps) : vector_map<float>(scratch, s, x, lanes, i, steps);
  *step = s.N;
  return scratch;
}

// rates in units of log2(e), and their inverses in plain units; unused lanes have -1
static void pack_rates(const Scan& s, const Lanes& lanes, vf* rate, vf* inverse) {
  for (int64_t n = 0; n < s.N; ++n) {
    vf r = (vf){} - 1.f;
    for (int i = 0; i < lanes.count; ++i) ((float*)&r)[i] = s.A[lanes.channel[i] * s.N + n];
    rate[n] = r * 1.44269504f;
    inverse[n] = 1.f / r;
  }
}

// states (items, D, N); null is zero
static void load_state(vf* h, const Scan& s, const float* from, const Lanes& lanes) {
  memset(h, 0, s.N * sizeof(vf));
  if (!from) return;
  for (int i = 0; i < lanes.count; ++i)
    for (int64_t n = 0; n < s.N; ++n) h[n][i] = from[(lanes.item[i] * s.D + lanes.channel[i]) * s.N + n];
}

static void store_state(float* to, const Scan& s, const vf* h, const Lanes& lanes) {
  for (int i = 0; i < lanes.count; ++i)
    for (int64_t n = 0; n < s.N; ++n) to[(lanes.item[i] * s.D + lanes.channel[i]) * s.N + n] = h[n][i];
}

static void store_marks(const Scan& s, const vf* h, const Lanes& lanes, int64_t chunk) {
  if (!s.marks) return;
  if (lanes.together) {
    float* to = marks(s, lanes.item[0], chunk) + lanes.channel[0];
    for (int64_t n = 0; n < s.N; ++n) store(to + n * s.D, h[n], lanes.count);
    return;
  }
  for (int i = 0; i < lanes.count; ++i) {
    float* to = marks(s, lanes.item[i], chunk) + lanes.channel[i];
    for (int64_t n = 0; n < s.N; ++n) to[n * s.D] = h[n][i];
  }
}

static void load_marks(const Scan& s, vf* h, const Lanes& lanes, int64_t chunk) {
  memset(h, 0, s.N * sizeof(vf));
  if (!s.marks) return;
  if (lanes.together) {
    const float* from = marks(s, lanes.item[0], chunk) + lanes.channel[0];
    for (int64_t n = 0; n < s.N; ++n) h[n] = load(from + n * s.D, lanes.count);
    return;
  }
  for (int i = 0; i < lanes.count; ++i) {
    const float* from = marks(s, lanes.item[i], chunk) + lanes.channel[i];
    for (int64_t n = 0; n < s.N; ++n) h[n][i] = from[n * s.D];
  }
}

// how the work is cut into blocks of lanes
struct Cut {
  // channels and blocks per group; pairs of item and group in a block, 0 if groups are wide enough for their own
  int64_t P, per_group, pairs;

  explicit Cut(const Scan& s) : P(s.D / s.G), per_group((P + LANES - 1) / LANES), pairs(0) {
    // packed items differ in length, and lanes go in step
    if (!s.bounds && 2 * P <= LANES) pairs = LANES / P;
  }

  Lanes together(const Scan& s, int64_t item, int64_t group, int64_t block) const {
    Lanes lanes;
    lanes.together = true;
    lanes.count = P - block * LANES < LANES ? P - block * LANES : LANES;
    lanes.length = length(s, item);
    for (int i = 0; i < LANES; ++i) {
      lanes.item[i] = item;
      lanes.group[i] = group;
      lanes.channel[i] = group * P + block * LANES + i;
    }
    return lanes;
  }

  Lanes gathered(const Scan& s, int64_t block) const {
    Lanes lanes;
    int64_t from = block * pairs, left = s.items * s.G - from;
    lanes.together = false;
    lanes.count = (left < pairs ? left : pairs) * P;
    lanes.length = s.L;
    for (int64_t i = 0; i < lanes.count; ++i) {
      int64_t pair = from + i / P;
      lanes.item[i] = pair / s.G;
      lanes.group[i] = pair % s.G;
      lanes.channel[i] = pair % s.G * P + i % P;
    }
    return lanes;
  }
};

// x (steps, N) summed over each run of P lanes, into rows `step` apart
template <int P>
static void add_lanes(float* const* at, int64_t step, const vf* x, int64_t N, int64_t steps) {
  for (int64_t t = 0; t < steps; ++t, x += N)
    for (int64_t n = 0; n < N; ++n)
#pragma GCC unroll 16
      for (int pair = 0; pair < LANES / P; ++pair) {
        float sum = 0;
        for (int k = 0; k < P; ++k) sum += ((const float*)(x + n))[pair * P + k];
        at[pair][t * step + n] = sum;
      }
}

// sums over the lanes of each item and group, into (rows, L, G, N)
static void put_map(float* to, const Scan& s, const vf* x, const Lanes& lanes, int64_t P, int64_t i, int64_t steps) {
  int64_t width = lanes.together ? LANES : P, pairs = lanes.together ? 1 : lanes.count / P;
  int64_t step = s.reverse ? -s.G * s.N : s.G * s.N;
  float* at[LANES];
  for (int64_t pair = 0; pair < pairs; ++pair)
    at[pair] = to + (token(s, lanes.item[pair * width], i) * s.G + lanes.group[pair * width]) * s.N;
  // full blocks of the usual widths apart, as the compiler transposes them
  if (width == 1 && pairs == LANES) return add_lanes<1>(at, step, x, s.N, steps);
  if (width == 2 && pairs == LANES / 2) return add_lanes<2>(at, step, x, s.N, steps);
  if (width == 4 && pairs == LANES / 4) return add_lanes<4>(at, step, x, s.N, steps);
#if defined(__x86_64__) && LANES == 8
  if (width == LANES && s.N % LANES == 0) {
    for (int64_t t = 0; t < steps; ++t)
      for (int64_t n = 0; n < s.N; n += LANES) *(vf*)(at[0] + t * step + n) = sums(x + t * s.N + n);
    return;
  }
#endif
  if (width == LANES) return add_lanes<LANES>(at, step, x, s.N, steps);
  for (int64_t pair = 0; pair < pairs; ++pair)
    for (int64_t t = 0; t < steps; ++t)
      for (int64_t n = 0; n < s.N; ++n) {
        float sum = 0;
        for (int64_t k = 0; k < width; ++k) sum += ((const float*)(x + t * s.N + n))[pair * width + k];
        at[pair][t * step + n] = sum;
      }
}
