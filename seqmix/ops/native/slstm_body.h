// Recurrence of sLSTM (Beck et al., 2024, arXiv:2405.04517): heads and rows by themselves. Included once per instruction set.

// rows that go through the sequence together, so that a weight is read once for all of them
enum { SLSTM_ROWS = 4 };

// tanh without cancellation near zero: e^-2|x| - 1 over e^-2|x| + 1
static INLINE vf tanh_of(vf x) {
  vf q, scale = exp2_parts((x < 0.f ? x : -x) * 2.88539008f, &q), below = scale * q + (scale - 1.f);
  vf y = below / (below + 2.f);
  return x < 0.f ? y : -y;
}

// the four gates of one vector of channels, from what their logits are
struct Gates {
  vf log_i, log_f, i, f, z, o, m;
};

static INLINE Gates gates_of(vf log_i, vf f, vf z, vf o, vf m_before) {
  Gates x;
  x.log_i = log_i;
  x.log_f = m_before - softplus(-f);
  x.m = log_i > x.log_f ? log_i : x.log_f;
  x.i = exp_below(log_i - x.m);
  x.f = exp_below(x.log_f - x.m);
  x.z = tanh_of(z);
  x.o = sigmoid(o);
  return x;
}

// offsets of the vector of gate k at channel j of head h
struct Place {
  int64_t width, head, vectors, P;
  int64_t at(int64_t k, int64_t j) const { return k * width + head + j * LANES; }
  int64_t left(int64_t j) const { return P - j * LANES; }
};

// weights (P, 4, vectors) from `recurrent` (4 P, P), zeros behind P
template <int ROWS>
static void slstm_forward(const Slstm& s, const Place& p, int64_t b, const vf* weights, vf* room) {
  int64_t step = 4 * p.width, all = 4 * p.vectors;
  const float* before[ROWS];
  for (int r = 0; r < ROWS; ++r) before[r] = s.state + (b + r) * step;
  for (int64_t t = 0; t < s.L; ++t) {
    for (int64_t v = 0; v < all; ++v) {
      int64_t k = v / p.vectors, j = v % p.vectors;
      vf logit[ROWS];
      for (int r = 0; r < ROWS; ++r) logit[r] = load(s.gates + ((b + r) * s.L + t) * step + p.at(k, j), p.left(j));
      for (int64_t i = 0; i < s.P; ++i)
        for (int r = 0; r < ROWS; ++r) logit[r] += before[r][p.head + i] * weights[i * all + v];
      for (int r = 0; r < ROWS; ++r) room[r * all + v] = logit[r];
    }
    for (int r = 0; r < ROWS; ++r) {
      float* after = s.states + ((b + r) * s.L + t) * step;
      for (int64_t j = 0; j < p.vectors; ++j) {
        auto was = [&](int64_t k) { return load(before[r] + p.at(k, j), p.left(j)); };
        const vf* logit = room + r * all + j;
        Gates x = gates_of(logit[0], logit[p.vectors], logit[2 * p.vectors], logit[3 * p.vectors], was(3));
        vf c = x.f * was(1) + x.i * x.z, n = x.f * was(2) + x.i;
        store(after + p.at(0, j), x.o * c / n, p.left(j));
        store(after + p.at(1, j), c, p.left(j));
        store(after + p.at(2, j), n, p.left(j));
        store(after + p.at(3, j), x.m, p.left(j));
      }
      before[r] = after;
    }
  }
}

// `gates` are whole logits here, with what was heard; weights (4 P, vectors), zeros behind P
template <int ROWS>
static void slstm_backward(const Slstm& s, const Place& p, int64_t b, const vf* weights, vf* room) {
  int64_t step = 4 * p.width, all = 4 * p.vectors;
  // gradients to the state before, and to the logits, of each row
  vf *carry = room, *given = room + ROWS * all;
  for (int64_t v = 0; v < ROWS * all; ++v) carry[v] = (vf){};
  for (int64_t t = s.L - 1; t >= 0; --t) {
    for (int r = 0; r < ROWS; ++r) {
      int64_t from = ((b + r) * s.L + t) * step;
      const float *after = s.states + from, *before = t ? after - step : s.state + (b + r) * step;
      for (int64_t j = 0; j < p.vectors; ++j) {
        auto of = [&](const float* x, int64_t k) { return load(x + p.at(k, j), p.left(j)); };
        const float* logits = s.gates + from;
        vf f_logit = of(logits, 1);
        Gates x = gates_of(of(logits, 0), f_logit, of(logits, 2), of(logits, 3), of(before, 3));
        vf *own = carry + r * all + j, *d = given + r * all + j, share = 1.f / of(after, 2), h = of(after, 0);
        vf dh = own[0] + of(s.g + from, 0), dc = own[p.vectors] + of(s.g + from, 1) + dh * x.o * share;
        vf dn = own[2 * p.vectors] + of(s.g + from, 2) - dh * h * share, dm = own[3 * p.vectors] + of(s.g + from, 3);
        vf di = (dc * x.z + dn) * x.i, df = (dc * of(before, 1) + dn * of(before, 2)) * x.f;
        dm -= di + df;
        // the exponent is the larger of two, half of each where they are equal
        vf one = (vf){} + 1.f, part = x.log_i > x.log_f ? one : x.log_i == x.log_f ? 0.5f * one : (vf){};
        di += part * dm;
        df += (1.f - part) * dm;
        d[0] = di;
        d[p.vectors] = df * sigmoid(-f_logit);
        d[2 * p.vectors] = dc * x.i * (1.f - x.z * x.z);
        d[3 * p.vectors] = dh * of(after, 1) * share * x.o * (1.f - x.o);
        for (int64_t k = 0; k < 4; ++k) store(s.dgates + from + p.at(k, j), d[k * p.vectors], p.left(j));
        own[p.vectors] = dc * x.f;
        own[2 * p.vectors] = dn * x.f;
        own[3 * p.vectors] = df;
      }
    }
    for (int64_t j = 0; j < p.vectors; ++j) {
      vf dh[ROWS] = {};
      for (int64_t k = 0; k < 4; ++k)
        for (int64_t i = 0; i < s.P; ++i)
          for (int r = 0; r < ROWS; ++r)
            dh[r] += ((const float*)(given + r * all + k * p.vectors))[i] * weights[(k * s.P + i) * p.vectors + j];
      for (int r = 0; r < ROWS; ++r) carry[r * all + j] = dh[r];
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int64_t v = 0; v < all; ++v)
      store(s.dstate + (b + r) * step + p.at(v / p.vectors, v % p.vectors), carry[r * all + v], p.left(v % p.vectors));
}

// rows from b on, as many as there are up to SLSTM_ROWS, of one head
static void slstm_job(const Slstm& s, int64_t b, int64_t head, vf* scratch) {
  Place p = {s.H * s.P, head * s.P, (s.P + LANES - 1) / LANES, s.P};
  const float* maps = s.recurrent + head * 4 * s.P * s.P;
  vf* room = scratch + 4 * p.vectors * s.P;
  float* weights = (float*)scratch;
  memset(weights, 0, 4 * p.vectors * s.P * sizeof(vf));
  for (int64_t out = 0; out < 4 * s.P; ++out)
    for (int64_t in = 0; in < s.P; ++in) {
      int64_t k = out / s.P, j = out % s.P;
      weights[s.back ? out * p.vectors * LANES + in : (in * 4 + k) * p.vectors * LANES + j] = maps[out * s.P + in];
    }
  if (s.Bt - b >= SLSTM_ROWS) {
    s.back ? slstm_backward<SLSTM_ROWS>(s, p, b, scratch, room) : slstm_forward<SLSTM_ROWS>(s, p, b, scratch, room);
    return;
  }
  for (; b < s.Bt; ++b) s.back ? slstm_backward<1>(s, p, b, scratch, room) : slstm_forward<1>(s, p, b, scratch, room);
}

// the states, or the gradients
static int run_slstm(const Slstm& s, int threads) {
  int64_t jobs = (s.Bt + SLSTM_ROWS - 1) / SLSTM_ROWS * s.H;
  if (threads > jobs) threads = (int)jobs;
  int64_t each = 4 * ((s.P + LANES - 1) / LANES) * (s.P + 2 * SLSTM_ROWS);
  vf* scratch = vectors(threads * each);
  if (!scratch) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int thread = 0; thread < threads; ++thread)
    for (int64_t job = jobs * thread / threads; job < jobs * (thread + 1) / threads; ++job)
      slstm_job(s, job / s.H * SLSTM_ROWS, job % s.H, scratch + thread * each);
  free(scratch);
  return 0;
}
