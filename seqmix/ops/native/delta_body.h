// Gated delta rule in chunks (Yang et al., 2024, arXiv:2406.06484). Included once per instruction set, after ssd_body.h.
//
// A job is one sequence and one head. With D_ij the decay from position j to position i of a chunk, A = <e_i, D_ij w_j>
// below the diagonal and M = <q_i, D_ij w_j> on and below it, S the state on entry, row the decay since, and rest that to
// the end,
//   U = (I + A)^-1 (V - (row * E) S),   y = (row * Q) S + M U,   S' = total S + (rest * W)^T U.
// Decays are products of those of single steps: nothing overflows, and a decay of exactly 0 is like any other. Matrices
// lie row by row, filled up to whole vectors; a T at the end of a name says transposed.

// matrices of a job
struct DeltaRoom {
  // positions in rows: keys, keys times a decay (erase negative), decays of channels
  float *q, *e, *w, *qr, *er, *wr, *decay, *row, *rest, *dq, *de, *dw, *P;
  // values, what is written, and their gradients
  float *U, *dy, *Z, *UT;
  float *wT, *PT, *A, *M, *L, *dA, *dM, *S, *ST, *G, *GT, *total, *sums, *below;

  // lay out from `p` on, return the end
  float* lay(const Delta& s, float* p) {
    int64_t Q = up(s.chunk), K = up(s.K), V = up(s.V);
    auto take = [&](float*& matrix, int64_t size) { matrix = p, p += size; };
    for (float** m : {&q, &e, &w, &qr, &er, &wr, &decay, &row, &rest, &dq, &de, &dw, &P}) take(*m, Q * K);
    for (float** m : {&U, &dy, &Z}) take(*m, Q * V);
    take(UT, s.V * Q);
    for (float** m : {&wT, &PT}) take(*m, s.K * Q);
    for (float** m : {&A, &M, &L, &dA, &dM}) take(*m, Q * Q);
    for (float** m : {&S, &G}) take(*m, s.K * V);
    for (float** m : {&ST, &GT}) take(*m, s.V * K);
    for (float** m : {&total, &sums}) take(*m, K);
    take(below, Q);
    return p;
  }
};

struct DeltaJob {
  const Delta& s;
  DeltaRoom m;
  // widths of matrices, in whole vectors
  int64_t Q, K, V;
  // row of the batch, sequence there, head, first token, length
  int64_t row, sequence, head, begin, length;
  // the chunk: first position, how many
  int64_t from, q;

  DeltaJob(const Delta& s, int64_t job, float* scratch) : s(s), Q(up(s.chunk)), K(up(s.K)), V(up(s.V)) {
    m.lay(s, scratch);
    head = job % s.H, sequence = job / s.H % s.sequences, row = job / s.H / s.sequences;
    begin = s.bounds[sequence], length = s.bounds[sequence + 1] - begin;
  }

  // the head in a view or result (rows, L, H, width) at the first position of the chunk
  const float* reads(const View& x, int64_t width) const {
    return (const float*)x.at + row * x.row + (begin + from) * x.step + head * width;
  }
  int64_t place(int64_t width) const { return ((row * s.L + begin + from) * s.H + head) * width; }
  // states of the caller are (rows, sequences, H, K, V)
  int64_t outer() const { return ((row * s.sequences + sequence) * s.H + head) * s.K * s.V; }
  float* mark() const {
    // chunks do not cross bounds
    int64_t most = s.sequences > 1 ? s.L / s.chunk + s.sequences : (s.L + s.chunk - 1) / s.chunk;
    int64_t chunk = row * most + begin / s.chunk + sequence + from / s.chunk;
    return s.marks + (chunk * s.H + head) * s.K * s.V;
  }

  // keys and values of the chunk, its decays, A and M
  void open(bool back) {
    pack(m.q, reads(s.q, s.K), s.q.step, q, s.K, 0);
    pack(m.w, reads(s.w, s.K), s.w.step, q, s.K, 0);
    if (s.erases) pack(m.e, reads(s.e, s.K), s.e.step, q, s.K, 0);
    pack(m.U, reads(s.v, s.V), s.v.step, q, s.V, 0);
    transpose(m.wT, Q, m.w, K, q, s.K);
    open_decays();
    s.channels == 1 ? pairs_of_heads(back) : pairs_of_channels();
  }

  // decays of each channel: of a step, since entry, to the end, and of the chunk; keys times them
  void open_decays() {
    const float* decay = reads(s.decay, s.channels);
    if (s.channels == 1) {
      for (int64_t i = 0; i < q; ++i)
        for (int64_t d = 0; d < K; d += LANES) at(m.decay + i * K + d) = (vf){} + decay[i * s.decay.step];
    } else pack(m.decay, decay, s.decay.step, q, s.K, 0);
    for (int64_t d = 0; d < K; d += LANES) {
      vf since = (vf){} + 1.f, rest = since;
      for (int64_t at_ = d; at_ < q * K; at_ += K) {
        since *= at(m.decay + at_);
        at(m.row + at_) = since;
        at(m.qr + at_) = at(m.q + at_) * since;
        if (s.erases) at(m.er + at_) = at(m.e + at_) * -since;
      }
      at(m.total + d) = since;
      for (int64_t at_ = (q - 1) * K + d; at_ >= 0; at_ -= K) {
        at(m.rest + at_) = rest;
        at(m.wr + at_) = at(m.w + at_) * rest;
        rest *= at(m.decay + at_);
      }
    }
  }

  // with one decay for all channels: products of keys, times the decays of pairs
  void pairs_of_heads(bool back) {
    products(m.M, m.q, m.wT);
    if (s.erases) products(m.A, m.e, m.wT);
    // a one between zeros
    float unit[2 * LANES] = {};
    unit[LANES] = 1;
    // the row of L
    float* now = m.below;
    memset(now, 0, Q * sizeof(float));
    for (int64_t i = 0; i < q; ++i) {
      // tiles read whole vectors, and up to five rows below
      int64_t last = i / LANES * LANES, edge = up(i + 6) < Q ? up(i + 6) : Q;
      for (int64_t j = 0; j < edge; j += LANES) {
        vf before = at(now + j) * m.decay[i * K], after = before;
        if (j == last) after += at(unit + LANES - i % LANES);
        at(now + j) = after;
        int64_t to = i * Q + j;
        // what lies ahead of a position does not reach it, be it infinite
        at(m.M + to) = after == 0.f ? (vf){} : after * at(m.M + to);
        if (s.erases) at(m.A + to) = before == 0.f ? (vf){} : before * at(m.A + to);
        if (back) at(m.L + to) = after;
      }
    }
  }

  // rows of keys times transposed keys, on and below the diagonal
  void products(float* to, const float* keys, const float* keysT) {
    tiles(q, up(q), [&](auto t, int64_t i, int64_t j, int64_t next) {
      if (j >= next) return;
      t.add(s.K, keys + i * K, K, 1, keysT + j, Q);
      t.each([&](int r, int c, vf x) { at(to + (i + r) * Q + j + c) = x; });
    });
  }

  // with a decay for each channel: writes decay from row to row
  void pairs_of_channels() {
    memcpy(m.PT, m.wT, s.K * Q * sizeof(float));
    float lanes[LANES];
    for (int k = 0; k < LANES; ++k) lanes[k] = (float)k;
    for (int64_t i = 0; i < q; ++i) {
      int64_t edge = up(i + 6) < Q ? up(i + 6) : Q;
      const float *decay = m.decay + i * K, *read = m.q + i * K, *erase = (s.erases ? m.e : m.q) + i * K;
      for (int64_t j = 0; j < edge; j += LANES) {
        vf reads = {}, erases = {};
        float* P = m.PT + j;
        if (j <= i) {
          // zero before the position, where writes decay
          vf ahead = at(lanes) < (float)(i - j) ? (vf){} : (vf){} + 1.f, behind = 1.f - ahead;
          for (int64_t d = 0; d < s.K; ++d, P += Q) {
            vf p = at(P) * (ahead + behind * decay[d]);
            at(P) = p;
            reads += read[d] * p, erases += erase[d] * p;
          }
          reads = at(lanes) > (float)(i - j) ? (vf){} : reads;
          erases = behind == 0.f ? (vf){} : erases;
        }
        at(m.M + i * Q + j) = reads;
        at(m.A + i * Q + j) = erases;
      }
    }
  }

  // U, in place of the values
  void write(const float* S) {
    if (!s.erases) return;
    tiles(q, V, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.add(s.K, m.er + i * K, K, 1, S + j, V);
      t.each([&](int r, int c, vf x) { at(m.U + (i + r) * V + j + c) += x; });
    });
    for (int64_t j = 0; j < V; j += LANES)
      for (int64_t i = 0; i < q; i += 4) {
        int64_t end = i + 4 < q ? i + 4 : q;
        for (int64_t r = i; r < end; ++r) substitute(m.U + j, r, m.A + r * Q, 1, i, 0);
        for (int64_t r = i + 1; r < end; ++r)
          for (int64_t k = i; k < r; ++k) at(m.U + r * V + j) -= m.A[r * Q + k] * at(m.U + k * V + j);
      }
  }

  // row r minus the rows from `first` on, times their coefficients
  INLINE void substitute(float* x, int64_t r, const float* coefficients, int64_t along, int64_t rows, int64_t first) {
    vf sum[4] = {};
    const float* rest = x + first * V;
    int64_t k = 0;
    for (; k + 4 <= rows; k += 4)
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) sum[u] += coefficients[(k + u) * along] * at(rest + (k + u) * V);
    for (; k < rows; ++k) sum[0] += coefficients[k * along] * at(rest + k * V);
    at(x + r * V) -= (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }

  void forward(float* S) {
    if (s.marks) unpack(mark(), s.V, S, s.K, s.V);
    open(false);
    write(S);
    float* y = s.y + place(s.V);
    int64_t step = s.H * s.V;
    tiles(q, V, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.add(s.K, m.qr + i * K, K, 1, S + j, V);
      t.add_lower(i, m.M + i * Q, Q, m.U + j, V);
      t.each([&](int r, int c, vf x) { store(y + (i + r) * step + j + c, x, s.V - j - c); });
    });
    tiles(s.K, V, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.each([&](int r, int c, vf& x) { x = m.total[i + r] * at(S + (i + r) * V + j + c); });
      t.add(q, m.wr + i, 1, K, m.U + j, V);
      t.each([&](int r, int c, vf x) { at(S + (i + r) * V + j + c) = x; });
    });
  }

  void backward(float* G) {
    pack(m.S, mark(), s.V, s.K, s.V, 0);
    open(true);
    write(m.S);
    pack(m.dy, reads(s.dy, s.V), s.dy.step, q, s.V, 0);
    transpose(m.ST, K, m.S, V, s.K, s.V);
    transpose(m.GT, K, G, V, s.K, s.V);
    transpose(m.UT, Q, m.U, V, q, s.V);
    solve_back(G);
    unpack(s.dv + place(s.V), s.H * s.V, m.Z, q, s.V);
    // gradients to keys times their decays, and to pairs
    border(m.dq, m.dy, m.ST);
    border(m.dw, m.U, m.GT);
    pairs(m.dM, m.dy, 1);
    if (s.erases) border(m.de, m.Z, m.ST), pairs(m.dA, m.Z, -1);
    for (int64_t k = 0; k < s.K; ++k) {
      vf sum = {};
      for (int64_t j = 0; j < V; j += LANES) sum += at(m.S + k * V + j) * at(G + k * V + j);
      m.sums[k] = m.total[k] * total_of(sum);
    }
    tiles(s.K, V, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.each([&](int r, int c, vf& x) { x = m.total[i + r] * at(G + (i + r) * V + j + c); });
      t.add(q, m.qr + i, 1, K, m.dy + j, V);
      if (s.erases) t.add(q, m.er + i, 1, K, m.Z + j, V);
      t.each([&](int r, int c, vf x) { at(G + (i + r) * V + j + c) = x; });
    });
    // what decays are differentiated by in the products with states goes to P, then the gradients to the keys
    close_borders();
    s.channels == 1 ? close_pairs_of_heads() : close_pairs_of_channels();
    unpack(s.dq + place(s.K), s.H * s.K, m.dq, q, s.K);
    unpack(s.dw + place(s.K), s.H * s.K, m.dw, q, s.K);
    if (s.erases) unpack(s.de + place(s.K), s.H * s.K, m.de, q, s.K);
    if (s.channels > 1) unpack(s.ddecay + place(s.K), s.H * s.K, m.P, q, s.K);
  }

  // Z = (I + A)^-T (M^T dy + (rest * W) G)
  void solve_back(const float* G) {
    tiles(q, V, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.add(s.K, m.wr + i * K, K, 1, G + j, V);
      t.add(q - i, m.M + i * Q + i, 1, Q, m.dy + i * V + j, V);
      t.each([&](int r, int c, vf x) { at(m.Z + (i + r) * V + j + c) = x; });
    });
    if (!s.erases) return;
    for (int64_t j = 0; j < V; j += LANES)
      for (int64_t end = q; end > 0; end -= 4) {
        int64_t i = end > 4 ? end - 4 : 0;
        for (int64_t r = i; r < end; ++r) substitute(m.Z + j, r, m.A + end * Q + r, Q, q - end, end);
        for (int64_t r = end - 2; r >= i; --r)
          for (int64_t k = r + 1; k < end; ++k) at(m.Z + r * V + j) -= m.A[k * Q + r] * at(m.Z + k * V + j);
      }
  }

  // (q, V) times (V, K)
  void border(float* to, const float* values, const float* stateT) {
    tiles(q, K, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.add(s.V, values + i * V, V, 1, stateT + j, K);
      t.each([&](int r, int c, vf x) { at(to + (i + r) * K + j + c) = x; });
    });
  }

  // products of values with U on and below the diagonal
  void pairs(float* to, const float* values, float sign) {
    tiles(q, up(q), [&](auto t, int64_t i, int64_t j, int64_t next) {
      if (j >= next) return;
      t.add(s.V, values + i * V, V, 1, m.UT + j, Q);
      t.each([&](int r, int c, vf x) { at(to + (i + r) * Q + j + c) = sign * x; });
    });
  }

  void close_borders() {
    for (int64_t d = 0; d < K; d += LANES) {
      vf sum = at(m.sums + d);
      // a decay is on the way of the state and of earlier writers, and before later readers
      for (int64_t at_ = d; at_ < q * K; at_ += K) {
        at(m.P + at_) = sum;
        sum += at(m.wr + at_) * at(m.dw + at_);
        at(m.dw + at_) *= at(m.rest + at_);
      }
      vf later = {};
      for (int64_t at_ = (q - 1) * K + d; at_ >= 0; at_ -= K) {
        later += at(m.qr + at_) * at(m.dq + at_);
        at(m.dq + at_) *= at(m.row + at_);
        if (s.erases) {
          later += at(m.er + at_) * at(m.de + at_);
          at(m.de + at_) *= -at(m.row + at_);
        }
        at(m.P + at_) += later;
      }
    }
  }

  void close_pairs_of_heads() {
    float* ddecay = s.ddecay + place(1);
    float* below = m.below;
    memset(below, 0, Q * sizeof(float));
    for (int64_t i = q - 1; i >= 0; --i) {
      vf sum = {};
      for (int64_t d = 0; d < K; d += LANES) sum += at(m.P + i * K + d);
      float pairs = 0;
      // tiles read whole vectors, and up to five rows below
      int64_t edge = up(i + 6) < Q ? up(i + 6) : Q;
      for (int64_t j = up(i + 1); j < edge; j += LANES) at(m.dM + i * Q + j) = at(m.dA + i * Q + j) = (vf){};
      for (int64_t j = 0; j <= i; j += LANES) {
        int64_t to = i * Q + j;
        vf now = at(below + j) + at(m.dM + to) * at(m.M + to);
        if (s.erases) now += at(m.dA + to) * at(m.A + to);
        at(below + j) = now;
        if (j + LANES <= i) sum += now;
        else
          for (int64_t k = j; k < i; ++k) pairs += now[k - j];
        vf L = at(m.L + to);
        at(m.dM + to) = L == 0.f ? (vf){} : L * at(m.dM + to);
        if (!s.erases) continue;
        at(m.dA + to) = L == 0.f ? (vf){} : L * at(m.dA + to);
        if (j + LANES > i) m.dA[i * Q + i] = 0;
      }
      ddecay[i * s.H] = pairs + total_of(sum);
    }
    tiles(q, K, [&](auto t, int64_t i, int64_t j, int64_t next) {
      t.each([&](int r, int c, vf& x) { x = at(m.dq + (i + r) * K + j + c); });
      t.add(next, m.dM + i * Q, Q, 1, m.w + j, K);
      t.each([&](int r, int c, vf x) { at(m.dq + (i + r) * K + j + c) = x; });
    });
    if (s.erases)
      tiles(q, K, [&](auto t, int64_t i, int64_t j, int64_t next) {
        t.each([&](int r, int c, vf& x) { x = at(m.de + (i + r) * K + j + c); });
        t.add(next, m.dA + i * Q, Q, 1, m.w + j, K);
        t.each([&](int r, int c, vf x) { at(m.de + (i + r) * K + j + c) = x; });
      });
    tiles(q, K, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.each([&](int r, int c, vf& x) { x = at(m.dw + (i + r) * K + j + c); });
      t.add(q - i, m.dM + i * Q + i, 1, Q, m.q + i * K + j, K);
      if (s.erases) t.add(q - i, m.dA + i * Q + i, 1, Q, m.e + i * K + j, K);
      t.each([&](int r, int c, vf x) { at(m.dw + (i + r) * K + j + c) = x; });
    });
  }

  // for each writer, forward along its readers with what is left of the write, and back with what they add up to
  void close_pairs_of_channels() {
    // its place was that of the products of the forward pass
    float* left = m.PT;
    for (int64_t d = 0; d < K; d += LANES)
      for (int64_t j = 0; j < q; ++j) {
        vf p = at(m.w + j * K + d);
        at(m.dq + j * K + d) += m.dM[j * Q + j] * p;
        for (int64_t i = j + 1; i < q; ++i) {
          int64_t to = i * K + d;
          p *= at(m.decay + to);
          at(left + i * LANES) = p;
          at(m.dq + to) += m.dM[i * Q + j] * p;
          if (s.erases) at(m.de + to) += m.dA[i * Q + j] * p;
        }
        vf sum = {};
        for (int64_t i = q - 1; i > j; --i) {
          int64_t to = i * K + d;
          sum += m.dM[i * Q + j] * at(m.q + to);
          if (s.erases) sum += m.dA[i * Q + j] * at(m.e + to);
          at(m.P + to) += sum * at(left + i * LANES);
          sum *= at(m.decay + to);
        }
        at(m.dw + j * K + d) += sum + m.dM[j * Q + j] * at(m.q + j * K + d);
      }
  }

  void run() {
    float* S = s.back ? m.G : m.S;
    int64_t chunks = (length + s.chunk - 1) / s.chunk;
    pack(S, (s.back ? s.dlast : s.S) + outer(), s.V, s.K, s.V, 0);
    for (int64_t i = 0; i < chunks; ++i) {
      from = (s.back ? chunks - 1 - i : i) * s.chunk;
      q = length - from < s.chunk ? length - from : s.chunk;
      s.back ? backward(S) : forward(S);
    }
    unpack((s.back ? s.dS : s.last) + outer(), s.V, S, s.K, s.V);
  }
};

// returns 0, or 1 when there is no memory
static int run_delta(const Delta& s, int threads) {
  int64_t jobs = s.rows * s.sequences * s.H;
  if (threads > jobs) threads = jobs > 0 ? (int)jobs : 1;
  // in whole lines of the cache
  int64_t each = (DeltaRoom().lay(s, (float*)0) - (float*)0 + 15) / 16 * 16;
  float* scratch = (float*)aligned_alloc(64, threads * each * sizeof(float));
  if (!scratch) return 1;
  memset(scratch, 0, threads * each * sizeof(float));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int thread = 0; thread < threads; ++thread) {
#if defined(__x86_64__)
    // what decays ends as denormal numbers, which are slow and nothing beside anything
    unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | 0x8040);
#endif
    for (int64_t job = jobs * thread / threads; job < jobs * (thread + 1) / threads; ++job)
      DeltaJob(s, job, scratch + thread * each).run();
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(mode);
#endif
  }
  free(scratch);
  return 0;
}
