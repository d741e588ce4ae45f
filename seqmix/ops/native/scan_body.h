// Selective scan on LANES channels at a time. Included once per instruction set, inside a namespace of its own.
//
// A job is one batch item and one or more blocks of channels of a group; lanes are channels, so B and C of a position are
// broadcast scalars. The state of every `chunk`-th position is kept; the backward pass recomputes the others.

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4)));

static inline vf load(const float* p, int64_t count) {
  vf x = {};
  if (count >= LANES) memcpy(&x, p, sizeof x);
  else memcpy(&x, p, count * sizeof(float));
  return x;
}

static inline void store(float* p, vf x, int64_t count) {
  if (count >= LANES) memcpy(p, &x, sizeof x);
  else memcpy(p, &x, count * sizeof(float));
}

static inline float lane_sum(vf x) {
  float sum = 0;
  for (int i = 0; i < LANES; ++i) sum += x[i];
  return sum;
}

// 2^x as 2^k (1 + q) with k the nearest integer, relative error 2e-7; q alone gives 2^x - 1 without cancellation
static inline vf exp2_parts(vf x, vf* q) {
  const float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits
  x = x < -126.f ? (vf){} - 126.f : x;
  x = x > 127.f ? (vf){} + 127.f : x;
  vf t = x + magic;
  vf g = x - (t - magic);
  vf p = 1.3333558e-3f + g * 1.5403530e-4f;
  p = 9.6181291e-3f + g * p;
  p = 5.5504109e-2f + g * p;
  p = 2.4022651e-1f + g * p;
  p = 6.9314718e-1f + g * p;
  *q = g * p;
  vi bits;
  memcpy(&bits, &t, sizeof bits);
  bits = (bits + 127) << 23;
  vf scale;
  memcpy(&scale, &bits, sizeof scale);
  return scale;
}

// decay a and input weight w of a step: a = exp(dt A), w = dt (Euler) or (a - 1) / A (zero-order hold)
template <bool zoh>
static inline vf decay(vf d, vf rate, vf inverse, vf* w) {
  vf q, scale = exp2_parts(d * rate, &q);
  *w = zoh ? (scale * q + (scale - 1.f)) * inverse : d;
  return scale * q + scale;
}

// rates (blocks, N, LANES) in units of log2(e), and their inverses in plain units; unused lanes are zero
static void pack_rates(const Scan& s, vf* rate, vf* inverse) {
  int64_t P = s.D / s.G, per_group = (P + LANES - 1) / LANES;
  for (int64_t block = 0; block < s.G * per_group; ++block)
    for (int64_t n = 0; n < s.N; ++n) {
      vf r = {}, v = {};
      for (int64_t i = 0, p = block % per_group * LANES; i < LANES && p < P; ++i, ++p) {
        float a = s.A[(block / per_group * P + p) * s.N + n];
        r[i] = a * 1.44269504f;
        v[i] = 1.f / a;
      }
      rate[block * s.N + n] = r;
      inverse[block * s.N + n] = v;
    }
}

static inline void load_state(vf* h, const float* from, int64_t N, int64_t count) {
  for (int64_t n = 0; n < N; ++n) {
    h[n] = (vf){};
    if (from)
      for (int64_t i = 0; i < count && i < LANES; ++i) h[n][i] = from[i * N + n];
  }
}

static inline void store_state(float* to, const vf* h, int64_t N, int64_t count) {
  for (int64_t i = 0; i < count && i < LANES; ++i)
    for (int64_t n = 0; n < N; ++n) to[i * N + n] = h[n][i];
}

template <bool zoh>
static void forward(const Scan& s, const vf* rates, const vf* inverses, int64_t job, vf* h) {
  int64_t P = s.D / s.G, per_group = (P + LANES - 1) / LANES, blocks = s.G * per_group;
  int64_t b = job / blocks, block = job % blocks, g = block / per_group;
  int64_t first = block % per_group * LANES, count = P - first, channel = g * P + first;
  const vf *rate = rates + block * s.N, *inverse = inverses + block * s.N;
  load_state(h, s.h ? s.h + (b * s.D + channel) * s.N : 0, s.N, count);
  for (int64_t i = 0; i < s.L; ++i) {
    if (i % s.chunk == 0) memcpy((vf*)s.marks + ((i / s.chunk * s.Bt + b) * blocks + block) * s.N, h, s.N * sizeof(vf));
    int64_t t = s.reverse ? s.L - 1 - i : i, at = (b * s.L + t) * s.D + channel;
    const float *B = s.B + ((b * s.L + t) * s.G + g) * s.N, *C = s.C + ((b * s.L + t) * s.G + g) * s.N;
    vf d = load(s.dt + at, count), u = load(s.u + at, count), y = {}, w;
    for (int64_t n = 0; n < s.N; ++n) {
      vf a = decay<zoh>(d, rate[n], inverse[n], &w);
      vf x = a * h[n] + w * u * B[n];
      h[n] = x;
      y += x * C[n];
    }
    store(s.y + at, y, count);
  }
  if (s.last) store_state(s.last + (b * s.D + channel) * s.N, h, s.N, count);
}

// gradients of one batch item, group and part of its blocks: chunks from the last to the first, blocks inside, so that
// dB and dC are summed over channels in lanes and reduced once per chunk
template <bool zoh>
static void backward(const Scan& s, const vf* rates, const vf* inverses, int64_t job, vf* scratch, vf* dA) {
  int64_t P = s.D / s.G, per_group = (P + LANES - 1) / LANES, N = s.N, T = s.chunk;
  int64_t part = job % s.parts, g = job / s.parts % s.G, b = job / s.parts / s.G;
  int64_t from = per_group * part / s.parts, to = per_group * (part + 1) / s.parts;
  vf *states = scratch, *decays = states + (T + 1) * N, *dB = decays + T * N, *dC = dB + T * N, *adjoints = dC + T * N;
  for (int64_t k = from; k < to; ++k)
    load_state(adjoints + k * N, s.dlast ? s.dlast + (b * s.D + g * P + k * LANES) * N : 0, N, P - k * LANES);
  for (int64_t chunk = (s.L + T - 1) / T - 1; chunk >= 0; --chunk) {
    int64_t steps = s.L - chunk * T < T ? s.L - chunk * T : T;
    memset(dB, 0, 2 * T * N * sizeof(vf));
    for (int64_t k = from; k < to; ++k) {
      int64_t block = g * per_group + k, count = P - k * LANES, channel = g * P + k * LANES;
      const vf *rate = rates + block * N, *inverse = inverses + block * N;
      vf *adjoint = adjoints + k * N, *dA_block = dA + block * N;
      memcpy(states, (vf*)s.marks + ((chunk * s.Bt + b) * s.G * per_group + block) * N, N * sizeof(vf));
      for (int64_t i = 0; i < steps; ++i) {
        int64_t t = s.reverse ? s.L - 1 - chunk * T - i : chunk * T + i, at = (b * s.L + t) * s.D + channel;
        const float* B = s.B + ((b * s.L + t) * s.G + g) * N;
        vf d = load(s.dt + at, count), u = load(s.u + at, count), w;
        for (int64_t n = 0; n < N; ++n) {
          vf a = decay<zoh>(d, rate[n], inverse[n], &w);
          decays[i * N + n] = a;
          states[(i + 1) * N + n] = a * states[i * N + n] + w * u * B[n];
        }
      }
      for (int64_t i = steps - 1; i >= 0; --i) {
        int64_t t = s.reverse ? s.L - 1 - chunk * T - i : chunk * T + i, at = (b * s.L + t) * s.D + channel;
        const float *B = s.B + ((b * s.L + t) * s.G + g) * N, *C = s.C + ((b * s.L + t) * s.G + g) * N;
        vf d = load(s.dt + at, count), u = load(s.u + at, count), dy = load(s.dy + at, count);
        vf du = {}, ddt = {}, through_rate = {}, du_scaled = d * u;
        for (int64_t n = 0; n < N; ++n) {
          vf a = decays[i * N + n], before = states[i * N + n], l = adjoint[n] + dy * C[n], la = l * a, q = la * before;
          dC[i * N + n] += dy * states[(i + 1) * N + n];
          through_rate += q * rate[n];
          if (zoh) {
            vf w = (a - 1.f) * inverse[n], lB = l * B[n];
            // near zero the difference above cancels: the series dt (1 + x / 2) with x = dt A is exact there
            vf x = d * rate[n] * 0.69314718f;
            w = x > -1e-3f ? d * (1.f + 0.5f * x) : w;
            dB[i * N + n] += l * w * u;
            du += lB * w;
            ddt += lB * u * a;
            vf slope = x > -1e-2f ? d * d * (0.5f + x * 0.33333333f) : (d * a - w) * inverse[n];
            dA_block[n] += q * d + lB * u * slope;
          } else {
            dB[i * N + n] += l * du_scaled;
            du += l * B[n];
            dA_block[n] += q * d;
          }
          adjoint[n] = la;
        }
        store(s.du + at, zoh ? du : d * du, count);
        store(s.ddt + at, 0.69314718f * through_rate + (zoh ? ddt : u * du), count);
      }
    }
    for (int64_t i = 0; i < steps; ++i) {
      int64_t t = s.reverse ? s.L - 1 - chunk * T - i : chunk * T + i;
      int64_t at = (((part * s.Bt + b) * s.L + t) * s.G + g) * N;
      for (int64_t n = 0; n < N; ++n) {
        s.dB[at + n] = lane_sum(dB[i * N + n]);
        s.dC[at + n] = lane_sum(dC[i * N + n]);
      }
    }
  }
  if (s.dh)
    for (int64_t k = from; k < to; ++k)
      store_state(s.dh + (b * s.D + g * P + k * LANES) * N, adjoints + k * N, N, P - k * LANES);
}

static vf* vectors(int64_t count) { return (vf*)aligned_alloc(64, (count * sizeof(vf) + 63) / 64 * 64); }

// returns 0, or 1 when there is no memory
template <bool zoh>
static int run(const Scan& s, int threads) {
  int64_t P = s.D / s.G, per_group = (P + LANES - 1) / LANES, blocks = s.G * per_group, T = s.chunk;
  bool back = s.dy != 0;
  int64_t jobs = back ? s.Bt * s.G * s.parts : s.Bt * blocks;
  int64_t each = back ? ((4 * T + 1) + per_group + blocks) * s.N : s.N;
  if (threads > jobs) threads = jobs > 0 ? (int)jobs : 1;
  vf *rates = vectors(2 * blocks * s.N), *inverses = rates + blocks * s.N, *scratch = vectors(threads * each);
  if (!rates || !scratch) {
    free(rates);
    free(scratch);
    return 1;
  }
  pack_rates(s, rates, inverses);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int thread = 0; thread < threads; ++thread) {
    vf* own = scratch + thread * each;
    if (back) memset(own + each - blocks * s.N, 0, blocks * s.N * sizeof(vf));
    for (int64_t job = jobs * thread / threads; job < jobs * (thread + 1) / threads; ++job) {
      if (back) backward<zoh>(s, rates, inverses, job, own, own + each - blocks * s.N);
      else forward<zoh>(s, rates, inverses, job, own);
    }
  }
  if (back)
    for (int64_t block = 0; block < blocks; ++block) {
      for (int thread = 1; thread < threads; ++thread)
        for (int64_t n = 0; n < s.N; ++n)
          scratch[each - blocks * s.N + block * s.N + n] += scratch[(thread + 1) * each - blocks * s.N + block * s.N + n];
      int64_t first = block % per_group * LANES;
      store_state(s.dA + (block / per_group * P + first) * s.N, scratch + each - (blocks - block) * s.N, s.N, P - first);
    }
  free(rates);
  free(scratch);
  return 0;
}
