// Selective scan on LANES channels at a time. Included once per instruction set, inside a namespace of its own.
//
// A job is one item and one or more blocks of channels of a group: lanes are channels, and B and C of a position are
// scalars for all of them. Groups narrower than half a block share one: lanes are then channels of several items and
// groups, and B and C are vectors. The state on entry of every chunk is kept, and the backward pass recomputes the
// others. Inside a chunk a few states at a time go through all positions, in registers.

// decay a and input weight w of a step: a = exp(dt A), w = dt (Euler) or (a - 1) / A (zero-order hold)
template <bool zoh>
static INLINE vf decay(vf d, vf rate, vf inverse, vf* w) {
  vf q, scale = exp2_parts(d * rate, &q);
  *w = zoh ? (scale * q + (scale - 1.f)) * inverse : d;
  return scale * q + scale;
}

// K states through a chunk: y += C h; with `decays` the states after every step, decays and input weights are kept
template <bool zoh, int K, bool keep, class M>
static INLINE void walk(int64_t steps, const vf* d, const vf* u, vf* y, const vf* rate, const vf* inverse, vf* state,
                        const M* B, int64_t B_step, const M* C, int64_t C_step, vf* decays, vf* weights) {
  vf h[K], w;
  for (int k = 0; k < K; ++k) h[k] = state[k];
  for (int64_t t = 0; t < steps; ++t) {
    vf dt = d[t], x = zoh ? u[t] : dt * u[t], sum = keep ? dt : y[t];
    for (int k = 0; k < K; ++k) {
      vf a = decay<zoh>(dt, rate[k], inverse[k], &w);
      h[k] = a * h[k] + (zoh ? w * x : x) * B[t * B_step + k];
      if (keep) {
        decays[t * K + k] = a;
        state[(t + 1) * K + k] = h[k];
        if (zoh) weights[t * K + k] = w;
      } else {
        sum += h[k] * C[t * C_step + k];
      }
    }
    if (!keep) y[t] = sum;
  }
  if (!keep)
    for (int k = 0; k < K; ++k) state[k] = h[k];
}

// where the adjoint pass over a chunk adds to
struct Sums {
  vf *du, *through_rate, *through_input, *dB, *dC, *dA;
};

// K adjoints back through a chunk, with l_t = dy_t C_t + a_{t+1} l_{t+1} the gradient to the state after step t
template <bool zoh, int K, class M>
static INLINE void walk_back(int64_t steps, int64_t N, const vf* d, const vf* u, const vf* dy, const vf* rate,
                             const vf* inverse, vf* adjoint, const M* B, int64_t B_step, const M* C, int64_t C_step,
                             const vf* states, const vf* decays, const vf* weights, const Sums& to) {
  vf carry[K], dA[K];
  for (int k = 0; k < K; ++k) carry[k] = adjoint[k], dA[k] = to.dA[k];
  for (int64_t t = steps - 1; t >= 0; --t) {
    vf dt = d[t], ut = u[t], g = dy[t], x = dt * ut, du = to.du[t], through_rate = to.through_rate[t];
    vf through_input = zoh ? to.through_input[t] : x;
    for (int k = 0; k < K; ++k) {
      vf a = decays[t * K + k], l = carry[k] + g * C[t * C_step + k], la = l * a, q = la * states[t * K + k];
      to.dC[t * N + k] += g * states[(t + 1) * K + k];
      through_rate += q * rate[k];
      if (zoh) {
        vf w = weights[t * K + k], lB = l * B[t * B_step + k], lBu = lB * ut, z = dt * rate[k] * 0.69314718f;
        to.dB[t * N + k] += l * w * ut;
        du += lB * w;
        through_input += lBu * a;
        // (dt a - w) / A is dw/dA; near zero that difference cancels, and its series is taken
        vf series = 0.5f + z * (0.33333333f + z * (0.125f + z * (0.033333333f + z * 0.0069444444f)));
        vf slope = z > -0.1f ? dt * dt * series : (dt * a - w) * inverse[k];
        dA[k] += q * dt + lBu * slope;
      } else {
        to.dB[t * N + k] += l * x;
        du += l * B[t * B_step + k];
        dA[k] += q * dt;
      }
      carry[k] = la;
    }
    to.du[t] = du;
    to.through_rate[t] = through_rate;
    if (zoh) to.through_input[t] = through_input;
  }
  for (int k = 0; k < K; ++k) adjoint[k] = carry[k], to.dA[k] = dA[k];
}

// what a thread keeps from one job to the next while the channels in its lanes stay the same: short items are many
struct Held {
  vf *rates, *inverses, *dA, *dskip;
  int64_t channel, count, blocks;
};

static void let_go(const Scan& s, const Lanes* lanes, const Held& held, float* dA, float* dskip) {
  for (int64_t k = 0; k < held.blocks; ++k)
    for (int lane = 0; lane < lanes[k].count; ++lane) {
      int64_t channel = lanes[k].channel[lane];
      for (int64_t n = 0; n < s.N; ++n) dA[channel * s.N + n] += held.dA[k * s.N + n][lane];
      dskip[channel] += held.dskip[k][lane];
    }
}

static void hold(const Scan& s, const Lanes* lanes, int64_t blocks, Held* held) {
  for (int64_t k = 0; k < blocks; ++k) pack_rates(s, lanes[k], held->rates + k * s.N, held->inverses + k * s.N);
  memset(held->dA, 0, blocks * s.N * sizeof(vf));
  memset(held->dskip, 0, blocks * sizeof(vf));
  held->channel = lanes[0].channel[0], held->count = lanes[0].count, held->blocks = blocks;
}

// vectors that a job on `blocks` blocks needs, beside what is held
static int64_t forward_scratch(const Scan& s, int64_t blocks) { return s.N * blocks + 4 * s.chunk + 2 * s.chunk * s.N; }

static int64_t backward_scratch(const Scan& s, int64_t blocks) {
  return s.N * (blocks + 1) + 8 * s.chunk + 4 * s.chunk * s.N + (3 * s.chunk + 1) * STATES;
}

// skip and gate
static void finish(const Scan& s, const Lanes& lanes, const vf* u, vf* y, vf* z, int64_t i, int64_t steps) {
  if (s.skip) {
    vf skip = each(s.skip, lanes);
    for (int64_t t = 0; t < steps; ++t) y[t] += skip * u[t];
  }
  if (!s.z.at) return;
  if (s.inner) put(s.inner, s, y, lanes, i, steps);
  fetch(z, s, s.z, lanes, i, steps);
  for (int64_t t = 0; t < steps; ++t) y[t] *= silu(z[t]);
}

// from the gradient to the gated y to the one before the gate
static void before_gate(const Scan& s, const Lanes& lanes, vf* dy, vf* z, vf* inner, int64_t i, int64_t steps) {
  if (!s.z.at) return;
  View kept = {s.inner, s.L * s.D, s.D, 0};
  fetch(z, s, s.z, lanes, i, steps);
  fetch(inner, s, kept, lanes, i, steps);
  for (int64_t t = 0; t < steps; ++t) {
    vf slope = sigmoid(z[t]), gate = z[t] * slope;
    inner[t] *= dy[t] * (slope + gate * (1.f - slope));
    dy[t] *= gate;
  }
  put(s.dz, s, inner, lanes, i, steps);
}

// `blocks` blocks of lanes of one item and group, or one block of gathered lanes: chunk by chunk, and blocks inside, so
// that memory is read row by row
template <bool zoh, class M>
static void forward(const Scan& s, const Lanes* all, int64_t blocks, const Held& held, vf* scratch) {
  int64_t N = s.N, T = s.chunk, B_step, C_step;
  vf *states = scratch, *d = states + blocks * N, *u = d + T, *y = u + T, *z = y + T, *maps = z + T;
  for (int64_t k = 0; k < blocks; ++k) load_state(states + k * N, s, s.h, all[k]);
  // lanes without a channel are never written to
  if (all[blocks - 1].count < LANES) memset(d, 0, 2 * T * sizeof(vf));
  for (int64_t i = 0; i < all[0].length; i += T) {
    int64_t steps = all[0].length - i < T ? all[0].length - i : T;
    const M *B = map((M*)0, maps, s, s.B, all[0], i, steps, &B_step);
    const M *C = map((M*)0, maps + T * N, s, s.C, all[0], i, steps, &C_step);
    for (int64_t k = 0; k < blocks; ++k) {
      const vf *rate = held.rates + k * N, *inverse = held.inverses + k * N;
      vf* h = states + k * N;
      store_marks(s, h, all[k], i / T);
      fetch_steps(d, s, all[k], i, steps);
      fetch(u, s, s.u, all[k], i, steps);
      memset(y, 0, steps * sizeof(vf));
      int64_t n = 0;
      for (; n + STATES <= N; n += STATES)
        walk<zoh, STATES, false>(steps, d, u, y, rate + n, inverse + n, h + n, B + n, B_step, C + n, C_step, 0, 0);
      for (; n < N; ++n)
        walk<zoh, 1, false>(steps, d, u, y, rate + n, inverse + n, h + n, B + n, B_step, C + n, C_step, 0, 0);
      finish(s, all[k], u, y, z, i, steps);
      put(s.y, s, y, all[k], i, steps);
    }
  }
  if (s.last)
    for (int64_t k = 0; k < blocks; ++k) store_state(s.last, s, states + k * N, all[k]);
}

// recompute K states of a chunk and go back through it
template <bool zoh, int K, class M>
static INLINE void recompute_and_back(const Scan& s, int64_t n, int64_t steps, const vf* d, const vf* u, const vf* dy,
                                      const vf* rate, const vf* inverse, const vf* entering, vf* adjoint, const M* B,
                                      int64_t B_step, const M* C, int64_t C_step, vf* kept, Sums to) {
  vf *states = kept, *decays = states + (s.chunk + 1) * K, *weights = decays + s.chunk * K;
  for (int k = 0; k < K; ++k) states[k] = entering[n + k];
  walk<zoh, K, true>(steps, d, u, (vf*)0, rate + n, inverse + n, states, B + n, B_step, C + n, C_step, decays, weights);
  to.dB += n, to.dC += n, to.dA += n;
  walk_back<zoh, K>(steps, s.N, d, u, dy, rate + n, inverse + n, adjoint + n, B + n, B_step, C + n, C_step, states,
                    decays, weights, to);
}

// gradients of `blocks` blocks of lanes of one item and group, or of one block of gathered lanes: chunks from the last
// to the first, blocks inside, so that dB and dC are summed over channels in lanes and reduced once per chunk
template <bool zoh, class M>
static void backward(const Scan& s, const Cut& cut, const Lanes* all, int64_t blocks, int64_t part, const Held& held,
                     vf* scratch) {
  int64_t N = s.N, T = s.chunk, B_step, C_step, tokens = s.bounds ? s.L : s.items * s.L;
  vf *adjoints = scratch, *entering = adjoints + blocks * N, *d = entering + N, *u = d + T, *dy = u + T, *z = dy + T;
  vf *inner = z + T, *du = inner + T, *through_rate = du + T, *through_input = through_rate + T;
  vf *dB = through_input + T, *dC = dB + T * N;
  vf *maps = dC + T * N, *kept = maps + 2 * T * N;
  for (int64_t k = 0; k < blocks; ++k) load_state(adjoints + k * N, s, s.dlast, all[k]);
  // lanes without a channel are never written to
  if (all[blocks - 1].count < LANES) memset(d, 0, 5 * T * sizeof(vf));
  for (int64_t chunk = (all[0].length + T - 1) / T - 1; chunk >= 0; --chunk) {
    int64_t i = chunk * T, steps = all[0].length - i < T ? all[0].length - i : T;
    memset(dB, 0, steps * N * sizeof(vf));
    memset(dC, 0, steps * N * sizeof(vf));
    const M *B = map((M*)0, maps, s, s.B, all[0], i, steps, &B_step);
    const M *C = map((M*)0, maps + T * N, s, s.C, all[0], i, steps, &C_step);
    for (int64_t k = 0; k < blocks; ++k) {
      const vf *rate = held.rates + k * N, *inverse = held.inverses + k * N;
      vf* adjoint = adjoints + k * N;
      load_marks(s, entering, all[k], chunk);
      fetch_steps(d, s, all[k], i, steps);
      fetch(u, s, s.u, all[k], i, steps);
      fetch(dy, s, s.dy, all[k], i, steps);
      before_gate(s, all[k], dy, z, inner, i, steps);
      for (vf* sums : {du, through_rate, through_input}) memset(sums, 0, steps * sizeof(vf));
      Sums to = {du, through_rate, through_input, dB, dC, held.dA + k * N};
      int64_t n = 0;
      for (; n + STATES <= N; n += STATES)
        recompute_and_back<zoh, STATES>(s, n, steps, d, u, dy, rate, inverse, entering, adjoint, B, B_step, C, C_step,
                                        kept, to);
      for (; n < N; ++n)
        recompute_and_back<zoh, 1>(s, n, steps, d, u, dy, rate, inverse, entering, adjoint, B, B_step, C, C_step, kept,
                                   to);
      vf skip = s.skip ? each(s.skip, all[k]) : (vf){}, dskip = held.dskip[k];
      for (int64_t t = 0; t < steps; ++t) {
        through_rate[t] = 0.69314718f * through_rate[t] + (zoh ? through_input[t] : u[t] * du[t]);
        du[t] = (zoh ? du[t] : du[t] * d[t]) + skip * dy[t];
        dskip += u[t] * dy[t];
        if (s.bias) through_rate[t] *= softplus_slope(d[t]);
      }
      held.dskip[k] = dskip;
      put(s.du, s, du, all[k], i, steps);
      put(s.ddt, s, through_rate, all[k], i, steps);
    }
    put_map(s.dB + part * tokens * s.G * N, s, dB, all[0], cut.P, i, steps);
    put_map(s.dC + part * tokens * s.G * N, s, dC, all[0], cut.P, i, steps);
  }
  if (s.dh)
    for (int64_t k = 0; k < blocks; ++k) store_state(s.dh, s, adjoints + k * N, all[k]);
}

template <bool zoh, class M>
static void either(const Scan& s, const Cut& cut, const Lanes* lanes, int64_t part, const Held& held, vf* scratch) {
  if (s.back) backward<zoh, M>(s, cut, lanes, held.blocks, part, held, scratch);
  else forward<zoh, M>(s, lanes, held.blocks, held, scratch);
}

// jobs `from` to `to`, one after another
template <bool zoh>
static void run_jobs(const Scan& s, const Cut& cut, int64_t from, int64_t to, int64_t most, Lanes* lanes, vf* scratch,
                     float* dA, float* dskip) {
  Held held = {scratch, scratch + most * s.N, scratch + 2 * most * s.N, scratch + 3 * most * s.N, -1, 0, 0};
  scratch += (3 * s.N + 1) * most;
  for (int64_t job = from; job < to; ++job) {
    int64_t part = cut.pairs ? 0 : job % s.parts, pair = job / s.parts, block = cut.per_group * part / s.parts;
    int64_t blocks = cut.pairs ? 1 : cut.per_group * (part + 1) / s.parts - block;
    Lanes first = cut.pairs ? cut.gathered(s, job) : cut.together(s, pair / s.G, pair % s.G, block);
    bool held_already = first.channel[0] == held.channel && first.count == held.count;
    if (!held_already) let_go(s, lanes, held, dA, dskip);
    lanes[0] = first;
    for (int64_t k = 1; k < blocks; ++k) lanes[k] = cut.together(s, pair / s.G, pair % s.G, block + k);
    if (!held_already) hold(s, lanes, blocks, &held);
    if (cut.pairs) either<zoh, vf>(s, cut, lanes, 0, held, scratch);
    else either<zoh, float>(s, cut, lanes, part, held, scratch);
  }
  let_go(s, lanes, held, dA, dskip);
}

// returns 0, or 1 when there is no memory
template <bool zoh>
static int run_scan(const Scan& s, int threads) {
  const Cut cut(s);
  bool back = s.back;
  int64_t pairs = s.items * s.G, most = cut.pairs ? 1 : (cut.per_group + s.parts - 1) / s.parts;
  int64_t jobs = cut.pairs ? (pairs + cut.pairs - 1) / cut.pairs : pairs * s.parts;
  if (threads > jobs) threads = jobs > 0 ? (int)jobs : 1;
  int64_t size = (3 * s.N + 1) * most + (back ? backward_scratch(s, most) : forward_scratch(s, most));
  int64_t results = s.D * (s.N + 1);
  vf* scratch = vectors(threads * size);
  Lanes* lanes = (Lanes*)malloc(threads * most * sizeof(Lanes));
  // dA and dskip of each thread
  float* sums = (float*)calloc(threads * results + 1, sizeof(float));
  bool enough = scratch && lanes && sums;
  if (enough) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int thread = 0; thread < threads; ++thread) {
      float* own = sums + thread * results;
      run_jobs<zoh>(s, cut, jobs * thread / threads, jobs * (thread + 1) / threads, most, lanes + thread * most,
                    scratch + thread * size, own, own + s.D * s.N);
    }
    if (back)
      for (int64_t i = 0; i < results; ++i) {
        float sum = 0;
        for (int thread = 0; thread < threads; ++thread) sum += sums[thread * results + i];
        if (i < s.D * s.N) s.dA[i] = sum;
        else if (s.dskip) s.dskip[i - s.D * s.N] = sum;
      }
  }
  free(scratch);
  free(lanes);
  free(sums);
  return !enough;
}
